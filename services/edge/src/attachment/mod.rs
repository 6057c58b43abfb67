//! The edge's end of a session, without I/O: what it numbers, holds, reports and sends again.
//!
//! Nothing here knows a clock, a task, a socket or a lane: it acts through [`hands`], which the
//! edge implements with real ones and the simulation (`tests/sim`) with its network. Both run this
//! code.
//!
//! - [`hands`]: what it acts through
//! - [`held`]: how much all sessions hold together, and what gives way
//! - [`state`]: a session and its counters
//! - [`inbound`]: stanzas of the client, numbered and held until settled
//! - [`outbound`]: deliveries, written and held until acknowledged
//! - [`management`]: XEP-0198 `<enable/>`, `<r/>` and `<a/>`, both ways
//! - [`link`]: which lane a session speaks on, and what is sent again on a new one
//! - [`report`]: what a new owner of a slot is told, in parts
//! - [`pending`]: binds and resumptions that wait for their owner
//! - [`rooms`]: which sessions are in which rooms, for a room that no other process knows any more
//! - [`end`]: the ways a session ends
//! - [`keepalive`]: clients whose connection died unnoticed
//! - [`timers`]: two shared queues instead of timers per session
//! - [`slots`]: for each slot its epoch, its owner, and the sessions that are held here
//! - [`turn`]: one batch of frames from a router
//! - [`takeover`]: epochs, redirections, and what is sent again

pub mod end;
pub mod hands;
pub mod held;
pub mod inbound;
pub mod keepalive;
pub mod link;
pub mod management;
pub mod outbound;
pub mod pending;
pub mod report;
pub mod rooms;
pub mod slots;
pub mod state;
pub mod takeover;
pub mod timers;
pub mod turn;

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use hands::{Hands, Limits, Lock as _};
use held::Held;
use report::Reports;
use rooms::Rooms;
use sestina_cluster::slots::SLOTS;
use slots::Slot;
use state::Session;
use timers::Timers;

/// The slot of a session's handle.
pub fn slot_of_handle(handle: u64) -> u16 {
    (handle % SLOTS as u64) as u16
}

/// What an edge holds of sessions.
pub struct Attachments<H: Hands> {
    /// By number.
    pub slots: Vec<H::Lock<Slot<H>>>,
    /// Which sessions are in which rooms.
    pub rooms: Rooms<H>,
    /// How much all sessions hold.
    pub held: Arc<Held>,
    /// Sessions that are looked at later.
    pub timers: Timers<H>,
    /// Slots with parts of reports to send.
    pub reports: Reports<H>,
    /// Sessions (slot and handle) that have more to send than their lane took.
    behind: H::Lock<VecDeque<(u16, u64)>>,
    /// Slots with something to send again.
    waiting: H::Lock<BTreeSet<u16>>,
    /// The slot that is swept next.
    sweep_at: H::Lock<usize>,
}

impl<H: Hands> Attachments<H> {
    /// This many slots without sessions.
    pub fn new(slots: usize, limits: &Limits) -> Attachments<H> {
        Attachments {
            slots: (0..slots).map(|_| H::Lock::new(Slot::default())).collect(),
            rooms: Rooms::default(),
            held: Arc::default(),
            timers: Timers::new(limits.ask_after),
            reports: Reports::default(),
            behind: H::Lock::new(VecDeque::new()),
            waiting: H::Lock::new(BTreeSet::new()),
            sweep_at: H::Lock::new(0),
        }
    }

    /// How many slots and sessions have something to send again, or more than their lane took.
    #[cfg(feature = "simulation")]
    pub fn waits(&self) -> usize {
        self.behind.lock().len() + self.waiting.lock().len() + self.reports.waits()
    }

    /// All sessions there are.
    pub fn all_sessions(&self) -> Vec<Arc<Session<H>>> {
        self.slots
            .iter()
            .flat_map(|s| s.lock().sessions.values().cloned().collect::<Vec<_>>())
            .collect()
    }
}
