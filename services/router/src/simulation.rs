//! The door for the simulation (`tests/sim`): workers without a process around them, the inputs
//! they take and the jobs they ask for, and a look at what they hold.
//!
//! Only with the feature `simulation`, which the server is not built with.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use bytes::Bytes;
use sestina_cluster::slots::SLOTS;
use sestina_proto as proto;

pub use crate::admin::Counts;
pub use crate::chance::repeat;
pub use crate::worker::core::{Job, LaneRef, OfflineRead, PeerRef};
pub use crate::worker::input::{Command, Input, JobDone, Known};
pub use crate::worker::pages::ArchiveQuery;
pub use crate::worker::records::id_text;
pub use crate::worker::turn::split_event;
pub use crate::worker::work::WorkId;

use crate::config::RouterConfig;
use crate::hooks::Pipeline;
use crate::metrics::Metrics;
use crate::room::Room;
use crate::worker::core::Core;
use crate::worker::session::{Attachment, Session};
use crate::worker::slot::Slot;
use crate::worker::{shadow, turn};

mod counters;
mod held;
mod presence;

pub use counters::Counters;
pub use held::contains;
pub use presence::{Available, Seen};

/// A worker of a router.
pub struct Worker(turn::Worker);

/// An occupant's session: room, nick, role, session.
pub type Inside = (String, String, &'static str, u128);

/// What is known of a session in a room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its nick.
    pub nick: String,
    /// Its affiliation and role.
    pub standing: u32,
    /// What its presence says.
    pub presence: String,
    /// The event that told it so.
    pub seq: u64,
}

/// A room, and a session in it.
pub type At = (String, u128);

/// The workers of one router process, and what it counts.
pub fn workers(
    node: &proto::Node,
    config: &Arc<RouterConfig>,
    count: u32,
) -> (Vec<Worker>, Counters) {
    let epochs: Arc<[AtomicU64]> = (0..SLOTS).map(|_| AtomicU64::new(0)).collect();
    let pipeline = Arc::new(Pipeline::new(crate::modules::MODULES));
    let counters = Counters(sestina_telemetry::Metrics::new());
    let metrics = Arc::new(Metrics::new(counters.0.clone()));
    let worker = |index| {
        Worker(turn::Worker::new(Core::new(
            index,
            count,
            node.clone(),
            config.clone(),
            pipeline.clone(),
            metrics.clone(),
            epochs.clone(),
        )))
    };
    ((0..count).map(worker).collect(), counters)
}

impl Worker {
    /// One turn: works the inputs, sends what is to leave on its lanes, and hands out frames for
    /// other workers and jobs.
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

    /// How soon it looks again although nothing came.
    pub fn patience(&self) -> Option<u64> {
        self.0.patience()
    }

    /// When edges are to be told of progress, if there is any.
    pub fn progress_due(&self) -> Option<u64> {
        self.0.progress_due()
    }

    /// Whether a session waits for a resumption here.
    pub fn has_detached(&self) -> bool {
        let mut sessions = self.0.slots.iter().flat_map(|slot| slot.sessions.values());
        sessions.any(|s| s.is_live() && s.edge().is_none())
    }

    /// Whether a session is being given what is stored, or pages of its archive.
    pub fn reads_in_bulk(&self) -> bool {
        let mut sessions = self.0.slots.iter().flat_map(|slot| slot.sessions.values());
        sessions.any(|s| s.stored.is_some() || s.pages.is_some())
    }

    fn rooms(&self) -> impl Iterator<Item = &Room> {
        self.0.slots.iter().flat_map(|slot| slot.rooms.values())
    }

    /// How many rooms there are.
    pub fn room_count(&self) -> usize {
        self.rooms().count()
    }

    /// What the shadow has to have of its rooms: slot, name and fields of each object.
    pub fn rooms_stored(&self) -> Vec<(u16, String, BTreeMap<String, Bytes>)> {
        let slots = self.0.slots.iter();
        let rooms = slots.flat_map(|slot| slot.rooms.values().map(|room| (slot.slot, room)));
        let stored = rooms.map(|(slot, room)| {
            let fields = room.shadow_fields().into_iter().collect();
            (slot, shadow::room_object(room.jid()), fields)
        });
        stored.collect()
    }

    /// The slots that it holds, each with its epoch.
    pub fn held(&self) -> Vec<(u16, u64)> {
        let slots = self.0.slots.iter();
        slots.map(|slot| (slot.slot, slot.epoch)).collect()
    }

    /// Whether it serves a slot.
    pub fn serves(&self, slot: u16) -> bool {
        let mut slots = self.0.slots.iter();
        slots.any(|s| s.slot == slot && s.is_active())
    }

    /// Whether it serves a slot and says that nothing of it would be lost with this process.
    pub fn is_redundant(&self, slot: u16) -> bool {
        let doubts = self.0.core.checks.doubts;
        let mut slots = self.0.slots.iter().filter(|s| s.slot == slot);
        slots.any(|s| s.is_active() && s.shadow.is_idle() && s.shadow.in_doubt(doubts) == 0)
    }

    /// What status says of it.
    pub fn counts(&self) -> Counts {
        self.0.counts()
    }

    /// All sessions in all rooms.
    pub fn inside(&self) -> BTreeSet<Inside> {
        let mut all = BTreeSet::new();
        for room in self.rooms() {
            let name = room.jid().as_str();
            let inside = room.inside().into_iter();
            all.extend(inside.map(|(nick, role, session)| (name.to_owned(), nick, role, session)));
        }
        all
    }

    /// What its rooms know of the sessions in them.
    pub fn places(&self) -> Vec<(At, Place)> {
        let places = self.rooms().flat_map(|room| {
            room.members().map(|(occupant, session)| {
                let place = Place {
                    nick: occupant.nick.clone(),
                    standing: occupant.standing(),
                    presence: said(&session.presence.payload),
                    seq: session.seq,
                };
                ((room.jid().as_str().to_owned(), session.session), place)
            })
        });
        places.collect()
    }

    /// What its sessions know of the rooms that they are in.
    pub fn believed_places(&self) -> Vec<(At, Place)> {
        let sessions = self.0.slots.iter().flat_map(|slot| slot.sessions.values());
        let live = sessions.filter(|session| session.is_live());
        let places = live.flat_map(|session| {
            session.joined.iter().filter_map(|(room, joined)| {
                let member = joined.member.as_ref()?;
                let place = Place {
                    nick: member.nick.clone(),
                    standing: member.standing,
                    presence: said(&member.presence.as_ref()?.payload),
                    seq: member.seq,
                };
                Some(((room.as_str().to_owned(), session.id), place))
            })
        });
        places.collect()
    }

    /// What a worker must not hold when the cluster is whole and nothing is under way. `name` is
    /// that of its process, `owns` tells the slots that the table gives to it.
    pub fn unfinished(&self, name: &str, owns: impl Fn(u16) -> bool) -> Vec<String> {
        let mut wrong = Vec::new();
        let works = self.0.core.works.len();
        if works > 0 {
            wrong.push(format!("{name}: {works} works are open"));
        }
        for slot in self.0.slots.iter() {
            let at = format!("{name} slot {}@{}", slot.slot, slot.epoch);
            if !owns(slot.slot) {
                wrong.push(format!("{at}: not the owner any more"));
            }
            slot_unfinished(&self.0.core, slot, &at, &mut wrong);
            for session in slot.sessions.values() {
                let at = format!("{at} {} ({:04x})", session.jid, session.id & 0xffff);
                session_unfinished(session, &at, &mut wrong);
            }
        }
        wrong
    }
}

fn said(payload: &[u8]) -> String {
    String::from_utf8_lossy(payload).into_owned()
}

fn slot_unfinished(core: &Core, slot: &Slot, at: &str, wrong: &mut Vec<String>) {
    if !slot.is_active() {
        wrong.push(format!("{at}: {:?}", slot.phase));
    }
    if !slot.seen.is_empty() {
        let first: Vec<_> = slot.seen.iter().take(3).collect();
        wrong.push(format!(
            "{at}: remembers {} effects: {first:?}",
            slot.seen.len()
        ));
    }
    if !slot.outbound.is_empty() || !slot.parked.is_empty() {
        wrong.push(format!("{at}: effects wait: {:?}", slot.outbound));
    }
    let in_doubt = slot.shadow.in_doubt(core.checks.doubts);
    if in_doubt > 0 {
        wrong.push(format!("{at}: {in_doubt} objects may be missing"));
    }
    if slot.archive_open + slot.offline_open > 0 || !slot.shadow.is_idle() {
        wrong.push(format!("{at}: stores are not idle"));
    }
    if !slot.untold.is_empty() {
        wrong.push(format!("{at}: rooms are to be told: {:?}", slot.untold));
    }
    for room in slot.rooms.values().filter(|r| !r.is_checked()) {
        wrong.push(format!("{at}: room {} asks who is in", room.jid()));
    }
    for room in slot.rooms.values().filter(|r| !r.is_flushed()) {
        wrong.push(format!("{at}: room {} has a tail", room.jid()));
    }
}

fn session_unfinished(session: &Session, at: &str, wrong: &mut Vec<String>) {
    if !matches!(session.attachment, Attachment::Edge { .. }) {
        wrong.push(format!("{at}: {:?}", session.attachment));
    }
    if session.stored.is_some() || session.pages.is_some() {
        let (stored, pages) = (&session.stored, &session.pages);
        wrong.push(format!("{at}: {stored:?} {pages:?}"));
    }
    if session.settled != session.accepted {
        wrong.push(format!(
            "{at}: settled {} of {}",
            session.settled, session.accepted
        ));
    }
    if session.acked != session.next || !session.queue.is_empty() {
        wrong.push(format!(
            "{at}: acknowledged {} of {}",
            session.acked, session.next
        ));
    }
    if !session.unreleased.is_empty() || !session.restored.is_empty() {
        wrong.push(format!(
            "{at}: keeps keys {:?}, restored {:?}",
            session.unreleased, session.restored
        ));
    }
}
