//! Workers: each is the single owner of many slots, a state machine without I/O.
//!
//! Inputs come in batches; a turn works them all and then lets out what it collected: one batch
//! for each lane, the jobs for storage and shadow, and nothing before the state is consistent.
//!
//! - [`core`]: what slots share within a turn; [`work`]: what is awaited before an answer
//! - [`slot`], [`session`], [`record`]: the rows; [`share`]: what they may hold
//! - [`attach`], [`inbound`]: from edges; [`route`]: at the sender; [`receive`],
//!   [`replay`], [`to_user`]: at the addressee; [`outgoing`]: to the client
//! - [`presence`], [`records`]: presence; archive, offline, carbons
//! - [`detach`], [`ending`], [`shadow`], [`commit`], [`staging`], [`shadow_check`]: ends of sockets and sessions; what survives this
//!   process
//! - [`takeover`], [`reports`], [`restore`], [`held`], [`archive_again`]: slots come; [`leaving`], [`handover`],
//!   [`parting`], [`given_away`]: they go
//! - [`turn`]: one turn; [`input`]: what can happen to a worker; [`commands`]: what it is asked; [`frames`], [`ends`]: frames and
//!   jobs that ended, each to its row; [`lanes`], [`peers`], [`batch`]: what leaves
//! - [`doubted`]: what storage refused, and epochs that are too low, after the database lost commits
//! - [`passage`]: time and trace of a stanza; [`levels`]: how much waits

mod archive_again;
mod attach;
mod batch;
mod claims;
mod commands;
mod commit;
pub(crate) mod core;
mod detach;
mod doubted;
mod ending;
mod ends;
mod frames;
#[cfg(test)]
pub(crate) mod garden;
pub(crate) mod given_away;
mod handover;
mod held;
mod inbound;
pub(crate) mod input;
mod lanes;
mod leaving;
mod levels;
mod marks;
mod outgoing;
pub(crate) mod pages;
mod parting;
pub(crate) mod passage;
mod peers;
pub(crate) mod places;
mod presence;
pub(crate) mod receive;
mod record;
pub(crate) mod records;
mod replay;
mod reports;
mod restore;
mod returned;
mod route;
pub(crate) mod session;
pub(crate) mod shadow;
mod shadow_check;
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
pub(crate) mod turn;
mod unreleased;
#[cfg(test)]
pub(crate) mod verona;
pub(crate) mod work;

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
