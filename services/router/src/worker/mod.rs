//! Workers: each is the single owner of many slots, a state machine without I/O.
//!
//! Inputs come in batches; a turn works them all and then lets out what it collected: one batch
//! for each lane, the jobs for storage and the state store, and nothing before the state is consistent.
//!
//! - [`core`]: what slots share within a turn; [`operations`]: what is awaited before an answer
//! - [`slot`], [`session`] ([`channel`], [`client`]), [`record`]: the rows; [`share`]: what they may hold
//! - [`attach`], [`inbound`]: from edges; [`route`]: at the sender; [`receive`],
//!   [`replay`], [`to_user`]: at the addressee; [`outbox`]: on the way there; [`outgoing`]: to the client
//! - [`presence`], [`records`]: presence; archive, offline, carbons; [`execute`]: performs the actions of modules; [`data`]: the data of modules about users
//! - [`detach`], [`ending`], [`replica`], [`groups`], [`commit`], [`cut`], [`staging`], [`replica_check`]: ends of sockets and sessions; what survives this
//!   process
//! - [`takeover`], [`reports`], [`restore`], [`restore_replica`], [`held`], [`archive_again`]: slots come; [`releasing_slots`], [`handover`],
//!   [`handover_states`], [`unconfirmed_releases`]: they go
//! - [`turn`]: one turn; [`input`]: what can happen to a worker; [`commands`]: what it is asked; [`frames`], [`ends`]: frames and
//!   jobs that ended, each to its row; [`lanes`], [`peers`], [`batch`]: what leaves
//! - [`doubted`]: what storage refused, and epochs that are too low, after the database lost commits
//! - [`trace_context`]: time and trace of a stanza; [`gauges`]: how much waits

mod archive_again;
mod attach;
mod batch;
pub(crate) mod channel;
mod claims;
mod client;
mod commands;
mod commit;
pub(crate) mod core;
mod cut;
pub(crate) mod data;
mod detach;
mod doubted;
mod ending;
mod ends;
pub(crate) mod execute;
mod frames;
#[cfg(test)]
pub(crate) mod garden;
mod gauges;
mod groups;
mod handover;
mod handover_states;
mod held;
mod in_flight_keys;
mod inbound;
pub(crate) mod input;
mod lanes;
pub(crate) mod operations;
mod outbox;
mod outgoing;
pub(crate) mod pages;
mod peers;
pub(crate) mod places;
mod presence;
mod pushes;
pub(crate) mod receive;
mod record;
pub(crate) mod records;
mod releasing_slots;
mod replay;
pub(crate) mod replica;
mod replica_check;
mod reports;
mod residents;
mod restore;
mod restore_replica;
mod returned;
mod route;
pub(crate) mod session;
mod share;
pub(crate) mod slot;
mod sole;
mod staging;
mod stored;
mod stored_rows;
#[cfg(test)]
pub(crate) mod successor;
mod takeover;
#[cfg(test)]
mod testing;
mod to_user;
pub(crate) mod trace_context;
pub(crate) mod turn;
pub(crate) mod unconfirmed_releases;
#[cfg(test)]
pub(crate) mod verona;
mod watermarks;

use slot::Slot;

/// The slots of one worker: those with `slot % workers == worker`.
#[derive(Debug)]
pub(crate) struct Slots {
    worker: u16,
    workers: u16,
    rows: Vec<Option<Box<Slot>>>,
}

impl Slots {
    pub(crate) fn new(worker: u16, workers: u16) -> Slots {
        let count = sestina_cluster::slots::SLOTS.div_ceil(usize::from(workers));
        Slots {
            worker,
            workers,
            rows: std::iter::repeat_with(|| None).take(count).collect(),
        }
    }

    fn index(&self, slot: u16) -> Option<usize> {
        (slot % self.workers == self.worker).then_some(usize::from(slot / self.workers))
    }

    /// A slot that is here.
    pub(crate) fn get_mut(&mut self, slot: u16) -> Option<&mut Slot> {
        let index = self.index(slot)?;
        self.rows.get_mut(index)?.as_deref_mut()
    }

    pub(crate) fn insert(&mut self, slot: Slot) {
        if let Some(index) = self.index(slot.slot)
            && let Some(row) = self.rows.get_mut(index)
        {
            *row = Some(Box::new(slot));
        }
    }

    pub(crate) fn remove(&mut self, slot: u16) -> Option<Box<Slot>> {
        let index = self.index(slot)?;
        self.rows.get_mut(index)?.take()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Slot> {
        self.rows.iter().filter_map(|s| s.as_deref())
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Slot> {
        self.rows.iter_mut().filter_map(|s| s.as_deref_mut())
    }
}
