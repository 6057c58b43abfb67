//! The ends of sessions: sockets lost, timers run out, conflicts, queues that overflow.
//!
//! A session that can resume is detached: once its record and queue are in the state store, the edge
//! may drop what it holds. A session that ends stays as `Ending` until every room and contact
//! has got its unavailable presence, so that none keeps a ghost, whichever process dies meanwhile.

use sestina_proto as proto;
use sestina_proto::to_edge::Body;
use sestina_runtime::failpoint;
use sestina_xmpp::jid::Jid;

use super::channel::Attachment;
use super::core::{Core, LaneRef};
use super::slot::Slot;
use crate::config::KEYS_EVERY_MS;

/// Users that are asked for at one time.
const KEYS_AT_ONCE: usize = 256;

impl Slot {
    /// The socket is gone; the session waits for a resume.
    pub(crate) fn detach(&mut self, core: &mut Core, id: u128) {
        failpoint!("router.detached");
        let (slot, epoch) = (self.slot, self.epoch);
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        let Some((lane, handle)) = session.channel.edge() else {
            return;
        };
        // It belongs to what this turn has given to the edge, from which a new owner may take the session.
        session.tell_record(core, slot, epoch);
        let max_ms = u64::from(session.channel.sm.map_or(0, |s| s.max_s)) * 1000;
        session.channel.attachment = Attachment::Detached {
            deadline_ms: core.now_ms + max_ms,
            until_ms: core.wall_ms.saturating_add_unsigned(max_ms),
            committed: false,
        };
        session.channel.copies.detached_from = Some((lane, handle));
        self.handles.remove(&(lane.edge, handle));
        let (closing, close_asked) = (
            session.channel.closing,
            session.channel.close_asked.is_some(),
        );
        core.metrics.detached();
        if closing {
            return self.end_known(core, id);
        }
        if close_asked {
            return self.end_session(core, id);
        }
        self.replica_replace_session(core, id);
    }

    /// The state store holds the session up to that outbound number.
    pub(crate) fn detach_committed(&mut self, core: &mut Core, id: u128, number: u64) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        if let Attachment::Detached { committed, .. } = &mut session.channel.attachment {
            failpoint!("router.detached_stored");
            *committed = true;
            session.channel.on_held(core, number);
            for operation in session.channel.state_waits.drain(..) {
                core.part_done(operation);
            }
            self.maybe_detached(core, id);
        }
    }

    /// Writes the record of a detached session, of which all is settled that its client sent.
    fn store_settled(&mut self, core: &mut Core, id: u128) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        let settled = session.channel.incoming.settled;
        if session.channel.copies.settled_written >= settled {
            return;
        }
        session.channel.copies.settled_written = settled;
        if let Some(waiting) = self.write_record(core, id) {
            waiting.settled.push((id, settled));
        }
    }

    /// The state store knows that all stanzas of the client up to that number are settled.
    pub(super) fn settled_committed(&mut self, core: &mut Core, id: u128, settled: u64) {
        if let Some(session) = self.sessions.get_mut(&id) {
            let stored = &mut session.channel.copies.settled_stored;
            *stored = settled.max(*stored);
            self.maybe_detached(core, id);
        }
    }

    /// Tells the edge to drop its copies, once the state store has the session, all that the client
    /// sent is settled, and no key is needed of what it took. While an earlier attachment may have
    /// copies, the state store has to know as well that all is settled: a new owner that hears from the
    /// earlier attachment alone would else have it send again what is settled, and for which other
    /// processes have no keys any more.
    pub(crate) fn maybe_detached(&mut self, core: &mut Core, id: u128) {
        let (slot, epoch) = (self.slot, self.epoch);
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        let committed = matches!(
            session.channel.attachment,
            Attachment::Detached {
                committed: true,
                ..
            }
        );
        if !committed {
            return;
        }
        self.release_previous(core, id);
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        if session.channel.incoming.settled < session.channel.incoming.accepted
            || session.channel.released() < session.channel.outgoing.acked
        {
            return;
        }
        let (generation, settled) = (session.channel.generation, session.channel.incoming.settled);
        let copies = &mut session.channel.copies;
        let earlier = core.config.state_store && !copies.previous.is_empty();
        if earlier && copies.settled_stored < settled {
            return self.store_settled(core, id);
        }
        let Some((lane, handle)) = copies.detached_from.take() else {
            if earlier {
                // The session has no last edge to notify. The state store knows that all stanzas are settled, so the edges
                // of earlier attachments may drop their copies.
                self.watermark_reached(core, id, settled);
            }
            return;
        };
        core.send_edge(
            lane,
            slot,
            epoch,
            Body::Detached(proto::Detached { handle, generation }),
        );
        core.settled_reported(lane, slot, id, settled);
    }

    /// The edge knows what is settled and has dropped its copies: keys up to there can be forgotten
    /// wherever they are.
    pub(crate) fn watermark_reached(&mut self, core: &mut Core, id: u128, settled: u64) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        let unknown = session.channel.edge().is_some() && !session.channel.copies.edge_knows;
        if settled <= session.channel.incoming.watermark || unknown {
            return;
        }
        session.channel.incoming.watermark = settled;
        if !session.channel.incoming.watermark_targets.is_empty()
            && !session.channel.incoming.watermark_due
        {
            session.channel.incoming.watermark_due = true;
            core.watermarks.sessions.push((self.slot, id));
        }
        let user = session.channel.jid.bare();
        let has_older = !session.channel.copies.previous.is_empty();
        self.release_own(core, &user, id, settled);
        if has_older {
            self.release_previous(core, id);
        }
    }

    /// The deliveries that a session's stanzas caused for sessions of the same user (answers, copies, presence)
    /// never left the slot: released here.
    pub(super) fn release_own(
        &mut self,
        core: &mut Core,
        user: &Jid,
        origin: u128,
        watermark: u64,
    ) {
        let ids: Vec<u128> = self.users.get(user).cloned().unwrap_or_default();
        for id in ids {
            if self
                .sessions
                .get_mut(&id)
                .is_some_and(|s| s.channel.release_origin(origin, watermark))
            {
                self.touch(core, id);
            }
        }
    }

    /// Sends a session's watermark to the slots that may hold its keys.
    pub(crate) fn send_watermarks(&mut self, core: &mut Core, id: u128) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        session.channel.incoming.watermark_due = false;
        let watermark = session.channel.incoming.watermark;
        let mut targets = Vec::new();
        session
            .channel
            .incoming
            .watermark_targets
            .retain(|target, highest| {
                targets.push(*target);
                *highest > watermark
            });
        for target in targets {
            core.send_watermark(target, id, watermark);
        }
    }

    /// An edge process is gone for good: its sockets are lost.
    pub(crate) fn edge_gone(&mut self, core: &mut Core, edge: u64) {
        let lost: Vec<(u128, bool)> = self
            .sessions
            .values()
            .filter(|s| s.channel.edge().is_some_and(|(lane, _)| lane.edge == edge))
            .map(|s| (s.channel.id, s.channel.sm.is_some_and(|m| m.resume)))
            .collect();
        for (id, resumable) in lost {
            if let Some(session) = self.sessions.get_mut(&id) {
                session.channel.incoming.predecessor_accepted = 0;
            }
            if resumable {
                self.detach(core, id);
                self.tell_rooms(id);
            } else {
                self.end_known(core, id);
            }
        }
        let mut over = Vec::new();
        let mut lost_input = Vec::new();
        for session in self.sessions.values_mut() {
            let holders = session.channel.copies.holders.len();
            session
                .channel
                .copies
                .holders
                .retain(|(lane, _)| lane.edge != edge);
            if session.channel.copies.holders.is_empty() && holders > 0 {
                over.push(session.channel.id);
            }
            if session
                .channel
                .copies
                .ended_from
                .is_some_and(|(lane, _)| lane.edge == edge)
            {
                session.channel.copies.ended_from = None;
            }
            let settled = session.channel.incoming.settled;
            let lost = session
                .channel
                .copies
                .previous
                .extract_if(.., |o| o.lane.edge == edge);
            let lost = lost.map(|o| o.until).max();
            if let Some(until) = lost.filter(|until| *until > settled) {
                let channel = &mut session.channel;
                if channel.edge().is_none() && channel.is_replaying() {
                    lost_input.push((channel.id, channel.give_up_replay(until)));
                }
                let accepted = channel.incoming.accepted;
                let mut rest = channel.copies.previous.iter();
                if channel.edge().is_some() || !rest.any(|o| o.until > accepted) {
                    channel.incoming.predecessor_accepted = 0;
                }
            }
            if let Some(until) = lost {
                session.channel.lose_copies(until);
            }
            if session
                .channel
                .copies
                .detached_from
                .is_some_and(|(lane, _)| lane.edge == edge)
            {
                session.channel.copies.detached_from = None;
                session
                    .channel
                    .lose_copies(session.channel.incoming.accepted);
            }
        }
        // One with a socket that was to be closed behind a replay does not wait for it any longer.
        let closing = self.sessions.values().map(|session| &session.channel);
        let closing = closing.filter(|channel| {
            channel.close_asked.is_some() && !channel.is_replaying() && channel.edge().is_some()
        });
        lost_input.extend(closing.map(|channel| (channel.id, 0)));
        for id in over {
            self.forget_session(core, id);
        }
        for (id, lost) in lost_input {
            self.replay_given_up(core, id, lost);
        }
    }

    /// The edge has died that was to send stanzas of a session without a socket again: the session goes on without them.
    fn replay_given_up(&mut self, core: &mut Core, id: u128, lost: u64) {
        let Some(session) = self.sessions.get(&id) else {
            return;
        };
        let (jid, n) = (
            session.channel.jid.clone(),
            session.channel.incoming.accepted,
        );
        let close = session.channel.close_asked;
        if lost > 0 {
            self.count_lost(core, jid.as_str(), lost);
            self.stanza_settled(core, id, n);
        }
        if let Some((condition, text)) = close {
            self.close_session(core, id, condition, text);
        }
    }

    /// Has the keys of those ready who may come back.
    fn want_keys(&mut self, core: &mut Core) {
        let now = core.now_ms;
        for session in self.sessions.values_mut() {
            let old = session.client.keys_ms == 0 || session.client.keys_ms + KEYS_EVERY_MS <= now;
            if !old || session.client.anonymous || session.channel.is_ending() {
                continue;
            }
            if core.keys.wanted.len() >= KEYS_AT_ONCE {
                return;
            }
            session.client.keys_ms = now.max(1);
            core.keys
                .wanted
                .push(session.channel.jid.bare_str().to_owned());
        }
    }

    /// Detached sessions whose time is over, and whose keys are.
    pub(crate) fn expire(&mut self, core: &mut Core) {
        self.want_keys(core);
        let now = core.now_ms;
        let over: Vec<u128> = self
            .sessions
            .values()
            .filter(|s| matches!(s.channel.attachment, Attachment::Detached { deadline_ms, .. } if deadline_ms <= now))
            .map(|s| s.channel.id)
            .collect();
        for id in over {
            self.end_session(core, id);
        }
        let idle = core.now_ms.saturating_sub(core.config.times.stream_idle_ms);
        self.inbox.streams.retain(|_, (_, _, at)| *at > idle);
    }

    /// A lane to an edge opened: what that edge did not take on the one before goes again; it
    /// ignores what it has.
    pub(crate) fn lane_reopened(&mut self, core: &mut Core, lane: LaneRef) {
        let (slot, epoch) = (self.slot, self.epoch);
        let unanswered = self.sessions.values().filter(|session| {
            let here = session.channel.edge().is_some_and(|(l, _)| l == lane);
            here && !session.channel.copies.edge_knows
        });
        for id in unanswered
            .map(|session| session.channel.id)
            .collect::<Vec<u128>>()
        {
            self.answer_again(core, id);
        }
        let mut touched = Vec::new();
        for session in self.sessions.values_mut() {
            if session.channel.edge().is_some_and(|(l, _)| l == lane) {
                if session.channel.copies.edge_knows
                    && session.channel.copies.redundant_copies.is_some()
                {
                    core.attached_told(lane, slot, session);
                }
                session.channel.tell_again();
                session.channel.outgoing.lane_waits = false;
                session.channel.sm_told = false;
                session.channel.pump(core, slot, epoch);
                touched.push(session.channel.id);
            }
            for previous in session
                .channel
                .copies
                .previous
                .iter()
                .filter(|o| o.lane == lane)
            {
                let close = superseded(previous.handle, previous.generation);
                core.send_edge(lane, slot, epoch, close);
            }
        }
        let over: Vec<(u128, proto::Detached)> = self
            .sessions
            .values()
            .flat_map(|s| {
                s.channel
                    .copies
                    .holders
                    .iter()
                    .map(|holder| (s.channel.id, *holder))
            })
            .filter(|(_, (l, _))| *l == lane)
            .map(|(id, (_, gone))| (id, gone))
            .collect();
        for (id, gone) in over {
            self.tell_gone(core, id, lane, gone);
        }
        for id in touched {
            self.touch(core, id);
        }
    }
}

/// Tells an edge that another attachment has the session; what it holds of it stays for now.
pub(crate) fn superseded(handle: u64, generation: u32) -> Body {
    Body::Close(proto::CloseSession {
        handle,
        generation,
        condition: "conflict".to_owned(),
        text: "resumed by another connection".to_owned(),
        keep: true,
        ended: false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::core::Job;
    use crate::worker::input::{Input, JobDone};
    use crate::worker::testing::Router;

    fn wanted(jobs: Vec<Job>) -> Vec<String> {
        let users = jobs.into_iter().filter_map(|job| match job {
            Job::Keys { users } => Some(users),
            _ => None,
        });
        users.flatten().collect()
    }

    /// Users whose keys are asked for in the next second.
    fn second(router: &mut Router) -> Vec<String> {
        let mut users = Vec::new();
        for _ in 0..10 {
            router.now_ms += router.config.times.tick_ms;
            users.extend(wanted(router.turn(Vec::new())));
        }
        users
    }

    #[test]
    fn keys_of_those_who_may_come_back_are_had_ready_before_they_grow_old() {
        let mut router = Router::new(1, &[], || 0);
        router.session("romeo@c.example/orchard", 1);
        assert_eq!(second(&mut router), ["romeo@c.example"]);
        // One question at a time.
        router.session("juliet@c.example/balcony", 2);
        assert!(second(&mut router).is_empty());
        router.turn(vec![Input::Done(JobDone::Keys)]);
        assert_eq!(second(&mut router), ["juliet@c.example"]);
        router.turn(vec![Input::Done(JobDone::Keys)]);
        assert!(second(&mut router).is_empty());
        router.now_ms += KEYS_EVERY_MS;
        let mut again = second(&mut router);
        router.turn(vec![Input::Done(JobDone::Keys)]);
        again.extend(second(&mut router));
        again.sort();
        assert_eq!(again, ["juliet@c.example", "romeo@c.example"]);
    }
}
