//! The metrics of a router, in the words of its code.

use std::sync::Arc;
use std::time::Duration;

use sestina_proto as proto;
use sestina_telemetry as telemetry;
use sestina_telemetry::{Fence, Keyed, Kind, Outcome, ResumeFailure, SlotEvent, SlotStep};

/// The process's metrics, as the router uses them.
#[derive(Debug)]
pub(crate) struct Metrics {
    all: Arc<telemetry::Metrics>,
}

impl Metrics {
    pub(crate) fn new(all: Arc<telemetry::Metrics>) -> Metrics {
        Metrics { all }
    }

    pub(crate) fn stanza_in(&self, kind: proto::StanzaKind) {
        self.stanza(kind, Outcome::Accepted);
    }

    fn stanza(&self, kind: proto::StanzaKind, outcome: Outcome) {
        let kind = match kind {
            proto::StanzaKind::Presence => Kind::Presence,
            proto::StanzaKind::Iq => Kind::Iq,
            proto::StanzaKind::Message | proto::StanzaKind::Unspecified => Kind::Message,
        };
        self.all.stanzas[(kind, outcome)].inc();
    }

    pub(crate) fn delivered(&self, kind: proto::StanzaKind) {
        self.stanza(kind, Outcome::Delivered);
    }

    pub(crate) fn bounced(&self, kind: proto::StanzaKind) {
        self.stanza(kind, Outcome::Bounced);
    }

    pub(crate) fn offline_stored(&self) {
        self.stanza(proto::StanzaKind::Message, Outcome::Stored);
    }

    /// A frame, or a stanza, of a kind that this program does not know.
    pub(crate) fn unknown_frame(&self, lane: telemetry::Lane) {
        self.all.unknown_frames[lane].inc();
    }

    pub(crate) fn bound(&self) {
        self.all.owned_sessions.inc();
    }

    /// Stanzas that are lost although clients were told that they are accepted.
    pub(crate) fn input_lost(&self, stanzas: u64) {
        self.all.lost[telemetry::Lost::Input].add(stanzas);
    }

    pub(crate) fn ended(&self) {
        self.all.owned_sessions.dec();
    }

    pub(crate) fn detached(&self) {
        self.all.detached_sessions.inc();
    }

    pub(crate) fn reattached(&self) {
        self.all.detached_sessions.dec();
    }

    pub(crate) fn resumed(&self) {
        self.all.resumptions.inc();
    }

    pub(crate) fn resume_refused(&self, reason: ResumeFailure) {
        self.all.resumption_failures[reason].inc();
    }

    pub(crate) fn refused_generation(&self) {
        self.all.fenced[Fence::Generation].inc();
    }

    pub(crate) fn refused_epoch(&self) {
        self.all.fenced[Fence::Epoch].inc();
    }

    pub(crate) fn dropped_by_key(&self, place: Keyed) {
        self.all.replay_drops[place].inc();
    }

    pub(crate) fn overflowed(&self, queue: telemetry::Queue) {
        self.all.queue_full[queue].inc();
    }

    pub(crate) fn state_store_unavailable(&self) {
        self.all.store_errors[telemetry::StoreOp::StateStoreApply].inc();
    }

    /// A commit of this many bytes leaves for the state store.
    pub(crate) fn replica_commit(&self, bytes: usize) {
        self.all.replica_commits.inc();
        self.all.replica_commit_bytes.add(bytes as u64);
    }

    /// The state store has refused writes that were not newer than its last one.
    pub(crate) fn refused_writes(&self, count: u64) {
        self.all.fenced[Fence::Write].add(count);
    }

    /// The number of slots that are being written anew changes by this much.
    pub(crate) fn rewriting(&self, change: i64) {
        self.all.rewriting_slots.add(change);
    }

    pub(crate) fn rooms(&self, change: i64) {
        self.all.rooms.add(change);
    }

    pub(crate) fn occupants(&self, change: i64) {
        self.all.occupants.add(change);
    }

    /// A room has so many occupants now, and had so many before.
    pub(crate) fn occupants_changed(&self, before: usize, after: usize) {
        if before != after {
            let count = |occupants| i64::try_from(occupants).unwrap_or(i64::MAX);
            self.occupants(count(after) - count(before));
        }
    }

    pub(crate) fn room_uncommitted(&self) {
        self.all.uncommitted_room_events.inc();
    }

    pub(crate) fn room_rebuilt(&self) {
        self.all.rebuilt_rooms.inc();
    }

    pub(crate) fn event_log_replayed(&self) {
        self.all.event_log_replays.inc();
    }

    pub(crate) fn slot_taken(&self, took_ms: u64) {
        self.all.slot_events[SlotEvent::TakenOver].inc();
        self.slot_step(SlotStep::TakeOver, took_ms);
    }

    pub(crate) fn slot_step(&self, step: SlotStep, took_ms: u64) {
        self.all.slot_seconds[step].observe(Duration::from_millis(took_ms));
    }

    pub(crate) fn slot_released(&self) {
        self.all.slot_events[SlotEvent::Released].inc();
    }

    pub(crate) fn slot_fenced(&self) {
        self.all.slot_events[SlotEvent::Fenced].inc();
    }

    /// More (or less) waits in a queue.
    pub(crate) fn waiting(&self, queue: telemetry::Queue, items: i64, bytes: i64) {
        self.all.queue_items[queue].add(items);
        self.all.queue_bytes[queue].add(bytes);
    }

    /// A client has met a limit.
    pub(crate) fn limited(&self, limit: telemetry::Limit) {
        self.all.limits[limit].inc();
    }

    /// Rows are refused because too many wait for storage.
    pub(crate) fn backlogged(&self) {
        self.all.queue_full[telemetry::Queue::Archive].inc();
    }

    pub(crate) fn settled(&self, kind: proto::StanzaKind) {
        self.stanza(kind, Outcome::Settled);
    }

    pub(crate) fn handover_failed(&self) {
        self.all.slot_events[SlotEvent::Thawed].inc();
    }

    pub(crate) fn redirected(&self) {
        self.all.slot_events[SlotEvent::Redirected].inc();
    }
}
