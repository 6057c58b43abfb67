//! The part of this crate that the simulation of a cluster (`tests/sim`) uses: workers without a process around
//! them, the inputs that they take, the jobs that they ask for, and queries of what they hold.
//!
//! - [`presence`]: the occupants and sessions that other users see
//! - [`held`]: the memory that a worker holds, and its bounds
//! - [`counters`]: what a process counts
//!
//! Only with the feature `simulation`; the server is built without it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use bytes::Bytes;
use sestina_cluster::slots::SLOTS;
use sestina_proto as proto;

pub use crate::admin::Counts;
pub use crate::rng::repeat;
pub use crate::worker::core::{Job, LaneRef, OfflineRead, PeerRef};
pub use crate::worker::data::{DataReply, DataRequest};
pub use crate::worker::input::{Command, Input, JobDone, Known};
pub use crate::worker::operations::OperationId;
pub use crate::worker::pages::ArchiveQuery;
pub use crate::worker::records::id_text;
pub use crate::worker::turn::split_event;

use crate::config::RouterConfig;
use crate::hooks::Pipelines;
use crate::metrics::Metrics;
use crate::room::OwnedRoom;
use crate::worker::channel::Attachment;
use crate::worker::core::Core;
use crate::worker::session::Session;
use crate::worker::slot::Slot;
use crate::worker::{replica, turn};

mod counters;
mod held;
mod presence;

pub use counters::Counters;
pub use held::contains;
pub use presence::{Available, Seen};

/// A worker of a router.
pub struct Worker(turn::Worker);

/// A session in a room: the room's JID, the occupant's nick and role, and the identity of the session.
pub type Inside = (String, String, &'static str, u128);

/// The place of a session in a room, as the room or the session knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The nick of its occupant.
    pub nick: String,
    /// The affiliation and role of its occupant, as one number.
    pub affiliation_and_role: u32,
    /// The payload of its presence in the room.
    pub presence: String,
    /// The number of the room's event by which the session has learned this.
    pub seq: u64,
}

/// The JID of a room, and the identity of a session in it.
pub type At = (String, u128);

/// Makes the workers of one router process, `count` of them, and the counters that they share.
pub fn workers(
    node: &proto::Node,
    config: &Arc<RouterConfig>,
    count: u32,
) -> (Vec<Worker>, Counters) {
    let epochs: Arc<[AtomicU64]> = (0..SLOTS).map(|_| AtomicU64::new(0)).collect();
    let pipelines = Arc::new(Pipelines::new(crate::modules::MODULES, &config.modules));
    let counters = Counters(sestina_telemetry::Metrics::new());
    let metrics = Arc::new(Metrics::new(counters.0.clone()));
    let worker = |index| {
        Worker(turn::Worker::new(Core::new(
            index,
            count,
            node.clone(),
            config.clone(),
            pipelines.clone(),
            metrics.clone(),
            epochs.clone(),
        )))
    };
    ((0..count).map(worker).collect(), counters)
}

impl Worker {
    /// One turn: takes the inputs and sends frames on its lanes. Frames for workers of other slots are added
    /// to `others`, and requests to the stores to `jobs`. Both clocks are in milliseconds: `now_ms` never
    /// goes back, `wall_ms` is Unix time.
    pub fn turn(
        &mut self,
        inputs: impl IntoIterator<Item = Input>,
        now_ms: u64,
        wall_ms: i64,
        others: &mut Vec<proto::PeerFrame>,
        jobs: &mut Vec<Job>,
    ) {
        self.0.turn(inputs, now_ms, wall_ms, others, jobs);
    }

    /// After how many milliseconds it needs a turn although no input comes; `None`: it can wait for the next
    /// regular one.
    pub fn patience(&self) -> Option<u64> {
        self.0.patience()
    }

    /// When edges are to be told of progress, on the clock `now_ms`; `None`: there is none to tell.
    pub fn progress_due(&self) -> Option<u64> {
        self.0.progress_due()
    }

    /// Whether one of its sessions has no connection and waits for a resumption.
    pub fn has_detached(&self) -> bool {
        self.live_sessions().any(|s| s.channel.edge().is_none())
    }

    /// Whether one of its sessions is being sent offline messages or pages of its archive.
    pub fn reads_in_bulk(&self) -> bool {
        self.all_sessions()
            .any(|s| s.client.stored.is_some() || s.client.pages.is_some())
    }

    fn all_sessions(&self) -> impl Iterator<Item = &Session> {
        let slots = self.0.slots.iter();
        slots.flat_map(|slot| slot.sessions.values().map(Box::as_ref))
    }

    fn live_sessions(&self) -> impl Iterator<Item = &Session> {
        self.all_sessions()
            .filter(|session| session.channel.is_live())
    }

    /// Returns the sessions whose resident data this worker knows: full JID, bare JID and the data of each.
    pub fn residents(&self) -> Vec<(String, String, Vec<proto::EntityDataItem>)> {
        let sessions = self.live_sessions().filter_map(|session| {
            let jid = &session.channel.jid;
            let (known, items) = session.client.residents.record();
            known.then(|| (jid.to_string(), jid.bare_str().to_owned(), items))
        });
        sessions.collect()
    }

    fn rooms(&self) -> impl Iterator<Item = &OwnedRoom> {
        self.0.slots.iter().flat_map(|slot| slot.rooms.values())
    }

    /// How many rooms it owns.
    pub fn room_count(&self) -> usize {
        self.rooms().count()
    }

    /// What the state store has to hold of its rooms: the slot, name and fields of each object.
    pub fn rooms_stored(&self) -> Vec<(u16, String, BTreeMap<String, Bytes>)> {
        let slots = self.0.slots.iter();
        let rooms = slots.flat_map(|slot| slot.rooms.values().map(|room| (slot.slot, room)));
        let stored = rooms.map(|(slot, room)| {
            let fields = room.replica_fields().into_iter().collect();
            (slot, replica::room_object(room.jid()), fields)
        });
        stored.collect()
    }

    /// Returns the slots of this worker, each with its epoch, for storage when the slot table has a new timeline.
    pub fn assert_slots(&mut self) -> Vec<(u16, u64)> {
        self.0.assert_slots()
    }

    /// Whether this worker has a slot that it does not serve.
    pub fn holds_unserved(&self) -> bool {
        self.0.slots.iter().any(|slot| !slot.is_active())
    }

    /// Whether it serves a slot.
    pub fn serves(&self, slot: u16) -> bool {
        let mut slots = self.0.slots.iter();
        slots.any(|s| s.slot == slot && s.is_active())
    }

    /// Whether it serves a slot, and nothing of the slot would be lost if this process died now.
    pub fn is_redundant(&self, slot: u16) -> bool {
        let doubts = self.0.core.checks.doubts;
        let mut slots = self.0.slots.iter().filter(|s| s.slot == slot);
        slots.any(|s| s.is_active() && s.replica.is_idle() && s.replica.in_doubt(doubts) == 0)
    }

    /// Its counts, as the status page shows them.
    pub fn counts(&self) -> Counts {
        self.0.counts()
    }

    /// All sessions in all rooms.
    pub fn inside(&self) -> BTreeSet<Inside> {
        let mut all = BTreeSet::new();
        for room in self.rooms() {
            let name = room.jid().as_str();
            let inside = room.room().inside().into_iter();
            all.extend(inside.map(|(nick, role, session)| (name.to_owned(), nick, role, session)));
        }
        all
    }

    /// The places of sessions in its rooms, as the rooms know them.
    pub fn places(&self) -> Vec<(At, Place)> {
        let places = self.rooms().flat_map(|room| {
            room.room().members().map(|(occupant, session)| {
                let place = Place {
                    nick: occupant.nick.clone(),
                    affiliation_and_role: occupant.affiliation_and_role(),
                    presence: said(&session.presence.payload),
                    seq: session.seq,
                };
                ((room.jid().as_str().to_owned(), session.session), place)
            })
        });
        places.collect()
    }

    /// The places of its sessions in rooms, as the sessions know them.
    pub fn believed_places(&self) -> Vec<(At, Place)> {
        let places = self.live_sessions().flat_map(|session| {
            session.client.joined.iter().filter_map(|(room, joined)| {
                let member = joined.member.as_ref()?;
                let place = Place {
                    nick: member.nick.clone(),
                    affiliation_and_role: member.affiliation_and_role,
                    presence: said(&member.presence.as_ref()?.payload),
                    seq: member.seq,
                };
                Some(((room.as_str().to_owned(), session.channel.id), place))
            })
        });
        places.collect()
    }

    /// Describes what is unfinished: nothing may be when all faults are over and nothing is under way. `name`
    /// is the name of its process, and `owns` tells which slots the slot table gives to that.
    pub fn unfinished(&self, name: &str, owns: impl Fn(u16) -> bool) -> Vec<String> {
        let mut wrong = Vec::new();
        let operations = self.0.core.operations.len();
        if operations > 0 {
            let mut open = self.0.core.operations.open_ones();
            wrong.push(format!(
                "{name}: {operations} operations are open, such as {:?}",
                open.next()
            ));
        }
        for slot in self.0.slots.iter() {
            let at = format!("{name} slot {}@{}", slot.slot, slot.epoch);
            if !owns(slot.slot) {
                wrong.push(format!("{at}: not the owner any more"));
            }
            slot_unfinished(&self.0.core, slot, &at, &mut wrong);
            for session in slot.sessions.values() {
                let at = format!(
                    "{at} {} ({:04x})",
                    session.channel.jid,
                    session.channel.id & 0xffff
                );
                session_unfinished(session, &at, &mut wrong);
            }
        }
        wrong
    }
}

/// The payload of a presence as text.
fn said(payload: &[u8]) -> String {
    String::from_utf8_lossy(payload).into_owned()
}

fn slot_unfinished(core: &Core, slot: &Slot, at: &str, wrong: &mut Vec<String>) {
    if !slot.is_active() {
        wrong.push(format!("{at}: {:?}", slot.phase));
    }
    if !slot.inbox.dedup.is_empty() {
        let first: Vec<_> = slot.inbox.dedup.iter().take(3).collect();
        wrong.push(format!(
            "{at}: remembers {} slot messages: {first:?}",
            slot.inbox.dedup.len()
        ));
    }
    if !slot.outbox.is_empty() || !slot.deferred.is_empty() {
        wrong.push(format!("{at}: slot messages wait: {:?}", slot.outbox));
    }
    let in_doubt = slot.replica.in_doubt(core.checks.doubts);
    if in_doubt > 0 {
        wrong.push(format!("{at}: {in_doubt} objects may be missing"));
    }
    if slot.archive_rows.open + slot.offline_rows.open > 0 || !slot.replica.is_idle() {
        wrong.push(format!("{at}: stores are not idle"));
    }
    if !slot.untold.is_empty() {
        wrong.push(format!("{at}: rooms are to be told: {:?}", slot.untold));
    }
    for room in slot.rooms.values().filter(|r| !r.is_checked()) {
        wrong.push(format!("{at}: room {} asks who is in", room.jid()));
    }
    for room in slot.rooms.values().filter(|r| !r.is_flushed()) {
        wrong.push(format!("{at}: room {} has a event log", room.jid()));
    }
}

fn session_unfinished(session: &Session, at: &str, wrong: &mut Vec<String>) {
    if !matches!(session.channel.attachment, Attachment::Edge { .. }) {
        wrong.push(format!("{at}: {:?}", session.channel.attachment));
    }
    if session.client.stored.is_some() || session.client.pages.is_some() {
        let (stored, pages) = (&session.client.stored, &session.client.pages);
        wrong.push(format!("{at}: {stored:?} {pages:?}"));
    }
    if session.channel.incoming.settled != session.channel.incoming.accepted {
        wrong.push(format!(
            "{at}: settled {} of {}",
            session.channel.incoming.settled, session.channel.incoming.accepted
        ));
    }
    if session.channel.outgoing.acked != session.channel.outgoing.next
        || !session.channel.outgoing.queue.is_empty()
    {
        wrong.push(format!(
            "{at}: acknowledged {} of {}",
            session.channel.outgoing.acked, session.channel.outgoing.next
        ));
    }
    if !session.channel.outgoing.in_flight_keys.is_empty()
        || !session.channel.outgoing.restored.is_empty()
    {
        wrong.push(format!(
            "{at}: keeps keys {:?}, restored {:?}",
            session.channel.outgoing.in_flight_keys, session.channel.outgoing.restored
        ));
    }
}
