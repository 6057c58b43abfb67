//! What a process counts, as far as the simulation asks for it.

use std::sync::Arc;

use sestina_telemetry::{self as telemetry, Lost, Queue, ResumeFailure};

/// The counters of one process. They outlive its workers.
pub struct Counters(pub(super) Arc<telemetry::Metrics>);

impl Counters {
    /// Stanzas that were accepted and that nobody has any more.
    pub fn input_lost(&self) -> u64 {
        self.0.lost[Lost::Input].get()
    }

    /// Rooms that only those in them still knew.
    pub fn rooms_rebuilt(&self) -> u64 {
        self.0.rebuilt_rooms.get()
    }

    /// Sessions that ended because too much waited for them.
    pub fn overflows(&self) -> u64 {
        let queues = [Queue::Session, Queue::User, Queue::Slot];
        queues
            .map(|queue| self.0.queue_full[queue].get())
            .iter()
            .sum()
    }

    /// Events of rooms that left while the state store was away.
    pub fn uncommitted_events(&self) -> u64 {
        self.0.uncommitted_room_events.get()
    }

    /// Sessions that could not be resumed because they are not known any more.
    pub fn sessions_unknown(&self) -> u64 {
        self.0.resumption_failures[ResumeFailure::NotFound].get()
    }

    /// Gauges: sessions, rooms, occupants.
    pub fn levels(&self) -> (i64, i64, i64) {
        (
            self.0.owned_sessions.get(),
            self.0.rooms.get(),
            self.0.occupants.get(),
        )
    }
}
