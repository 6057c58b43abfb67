//! Giving a slot away: quiesce, let what was accepted settle, flush, release.
//!
//! The new owner takes it as it would take a dead owner's, from edges and the state store. Whatever fails
//! resumes the slot here.

use sestina_proto as proto;
use sestina_runtime::failpoint;
use sestina_telemetry::SlotStep;
use sestina_xmpp::jid::Jid;

use super::channel::Attachment;
use super::core::{Core, Job};
use super::session::Session;
use super::slot::{Phase, Slot};

impl Session {
    /// All that its client sent is settled, but for questions whose answers the client has no room
    /// for: its edge sends these again to the new owner.
    fn is_settled(&self) -> bool {
        let open = self
            .channel
            .incoming
            .unsettled
            .iter()
            .filter(|u| !u.done)
            .count();
        open == self
            .client
            .pages
            .as_ref()
            .map_or(0, |pages| pages.waiting())
    }
}

impl Slot {
    /// Takes no new input from now on.
    pub(crate) fn quiesce(&mut self, core: &mut Core, to: proto::Node) {
        if self.is_active() {
            failpoint!("router.quiesce");
            self.phase = Phase::Quiescing {
                to,
                spilled: false,
                releasing: false,
                asserted: false,
                since_ms: core.now_ms,
                step_ms: core.now_ms,
            };
            core.slots.quiescing.push(self.slot);
            self.rooms_refuse_joining(core);
        }
    }

    /// Serves again: the hand-over failed or took too long.
    pub(crate) fn resume_serving(&mut self, core: &mut Core) {
        self.phase = Phase::Active;
        core.metrics.handover_failed();
        self.retry_messages(core);
        // Edges wait for another owner: they ask again when the frame comes from this one.
        let sessions: Vec<u128> = self.sessions.keys().copied().collect();
        for id in sessions {
            self.replica_delete_spilled(core, id);
            if let Some(session) = self.sessions.get_mut(&id) {
                session.channel.incoming.accepted_reported = 0;
                let Some((lane, handle)) = session.channel.edge() else {
                    continue;
                };
                let again = proto::Redirect {
                    handle,
                    generation: session.channel.generation,
                    n: session.channel.incoming.accepted + 1,
                };
                core.send_edge(
                    lane,
                    self.slot,
                    self.epoch,
                    proto::to_edge::Body::Redirect(again),
                );
            }
            self.read_on(core, id);
            self.touch(core, id);
        }
    }

    /// Whether nothing of this slot lives in this process alone.
    fn is_flushed(&self) -> bool {
        let spilled = self.is_spilled();
        self.outbox.is_empty()
            && self.deferred.is_empty()
            && self.replica.is_idle()
            && self.offline_rows.open == 0
            && self.archive_rows.open == 0
            && self.data.is_idle()
            && self
                .rooms
                .values()
                .all(|room| room.is_flushed() && (room.is_cut() || !spilled))
            && self
                .inbox
                .dedup
                .values()
                .all(|s| matches!(s, super::slot::Handled::Done { .. }))
            && self.sessions.values().all(|s| {
                s.is_settled()
                    && s.channel.outgoing.held == s.channel.outgoing.next
                    && match s.channel.attachment {
                        // Its edge knows what is settled: with attachments before this one, and the
                        // state store, no other process may.
                        Attachment::Edge { .. } => {
                            !s.channel.state_dirty
                                && s.channel.incoming.watermark >= s.channel.incoming.settled
                        }
                        Attachment::Detached { committed, .. } => {
                            committed && !s.channel.is_replaying()
                        }
                        Attachment::Ending => false,
                    }
            })
    }

    /// Asks again what was refused because its owner was changing as well.
    pub(crate) fn handover_retry(&mut self, core: &mut Core) {
        self.retry_messages(core);
        self.rooms_tick(core);
    }

    /// Writes attached sessions to the state store as well: from the release until the new owner has
    /// asked all edges, an edge that dies would take the only copy with it. Rooms are cut, so that the
    /// state store has them as they are here.
    fn spill(&mut self, core: &mut Core) {
        let rooms: Vec<Jid> = self.rooms.keys().cloned().collect();
        for room in rooms {
            self.room_cut(core, &room);
        }
        let attached = self
            .sessions
            .values()
            .filter(|s| s.channel.edge().is_some() && s.channel.sm.is_some_and(|m| m.resume));
        let ids: Vec<u128> = attached.map(|s| s.channel.id).collect();
        for id in ids {
            self.replica_replace_session(core, id);
        }
    }

    /// Goes on with a hand-over; returns false when it resumed.
    pub(crate) fn handover_step(&mut self, core: &mut Core) -> bool {
        let flushed = self.is_flushed();
        let limit = core.config.times.handover_limit_ms;
        let Phase::Quiescing {
            spilled,
            releasing,
            since_ms,
            step_ms,
            ..
        } = &mut self.phase
        else {
            return false;
        };
        if *releasing {
            return true;
        }
        let since_ms = *since_ms;
        if flushed && !*spilled {
            *spilled = true;
            let began = std::mem::replace(step_ms, core.now_ms);
            core.metrics
                .slot_step(SlotStep::Settle, core.now_ms.saturating_sub(began));
            self.spill(core);
        }
        // Empty slots have nothing to spill: they are given away at once.
        if flushed && self.is_flushed() {
            let Phase::Quiescing {
                to,
                releasing,
                step_ms,
                ..
            } = &mut self.phase
            else {
                return false;
            };
            *releasing = true;
            let began = std::mem::replace(step_ms, core.now_ms);
            core.metrics
                .slot_step(SlotStep::Spill, core.now_ms.saturating_sub(began));
            failpoint!("router.flushed");
            let job = Job::Release {
                slot: self.slot,
                epoch: self.epoch,
                to: to.clone(),
            };
            core.jobs.push(job);
            return true;
        }
        // Nothing can be flushed then, and the slot should not wait for it.
        let away = self.replica.is_unavailable(core.now_ms);
        if away || core.now_ms.saturating_sub(since_ms) > limit {
            tracing::info!(
                slot = self.slot,
                away,
                "hand-over did not settle in time; serving on"
            );
            self.resume_serving(core);
            return false;
        }
        true
    }
}
