//! The counters and gauges of a process that the simulation reads.

use std::sync::Arc;

use sestina_telemetry::{self as telemetry, Lost, Queue, ResumeFailure};

/// The counters and gauges of one process. They can be read after its workers have been dropped.
pub struct Counters(pub(super) Arc<telemetry::Metrics>);

impl Counters {
    /// How many stanzas of clients were accepted and then lost.
    pub fn input_lost(&self) -> u64 {
        self.0.lost[Lost::Input].get()
    }

    /// How many rooms were rebuilt from what the sessions in them knew.
    pub fn rooms_rebuilt(&self) -> u64 {
        self.0.rebuilt_rooms.get()
    }

    /// How many sessions were ended because a queue was full: that of the session, its user or its slot.
    pub fn overflows(&self) -> u64 {
        let queues = [Queue::Session, Queue::User, Queue::Slot];
        queues
            .map(|queue| self.0.queue_full[queue].get())
            .iter()
            .sum()
    }

    /// How many events rooms have sent while the state store could not take them.
    pub fn uncommitted_events(&self) -> u64 {
        self.0.uncommitted_room_events.get()
    }

    /// How many resumptions failed because the session was not found.
    pub fn sessions_unknown(&self) -> u64 {
        self.0.resumption_failures[ResumeFailure::NotFound].get()
    }

    /// The gauges of sessions, rooms and occupants that this process owns.
    pub fn gauges(&self) -> (i64, i64, i64) {
        (
            self.0.owned_sessions.get(),
            self.0.rooms.get(),
            self.0.occupants.get(),
        )
    }
}
