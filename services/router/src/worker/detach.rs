//! The ends of sessions: sockets lost, timers run out, conflicts, queues that overflow.
//!
//! A session that can resume is detached: once its record and queue are in the shadow, the edge
//! may drop what it holds. A session that ends stays as `Ending` until every room and contact
//! was told, so that nobody keeps a ghost, whoever dies meanwhile.

use sestina_proto as proto;
use sestina_proto::to_edge::Body;
use sestina_runtime::failpoint;
use sestina_xmpp::jid::Jid;

use super::core::{Core, LaneRef};
use super::session::Attachment;
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
        let Some((lane, handle)) = session.edge() else {
            return;
        };
        // It belongs to what this turn has given to the edge, from which a new owner may take the session.
        session.tell_record(core, slot, epoch);
        let max_ms = u64::from(session.sm.map_or(0, |s| s.max_s)) * 1000;
        session.attachment = Attachment::Detached {
            deadline_ms: core.now_ms + max_ms,
            until_ms: core.wall_ms.saturating_add_unsigned(max_ms),
            committed: false,
        };
        session.detached_from = Some((lane, handle));
        self.handles.remove(&(lane.edge, handle));
        let over = session.close_asked.is_some();
        core.metrics.detached();
        if over {
            return self.end_session(core, id);
        }
        self.shadow_replace_session(core, id);
    }

    /// The shadow holds the session up to that outbound number.
    pub(crate) fn detach_committed(&mut self, core: &mut Core, id: u128, number: u64) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        if let Attachment::Detached { committed, .. } = &mut session.attachment {
            failpoint!("router.detached_stored");
            *committed = true;
            session.on_held(core, number);
            for work in session.state_waits.drain(..) {
                core.part_done(work);
            }
            self.maybe_detached(core, id);
        }
    }

    /// Tells the edge to drop its copies, once the shadow has the session, all that the client
    /// sent is settled, and no key is needed of what it took.
    pub(crate) fn maybe_detached(&mut self, core: &mut Core, id: u128) {
        let (slot, epoch) = (self.slot, self.epoch);
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        let committed = matches!(
            session.attachment,
            Attachment::Detached {
                committed: true,
                ..
            }
        );
        if !committed {
            return;
        }
        self.release_older(core, id);
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        if session.settled < session.accepted || session.released() < session.acked {
            return;
        }
        let Some((lane, handle)) = session.detached_from.take() else {
            return;
        };
        let (generation, settled) = (session.generation, session.settled);
        core.send_edge(
            lane,
            slot,
            epoch,
            Body::Detached(proto::Detached { handle, generation }),
        );
        core.settled_told(lane, slot, id, settled);
    }

    /// The edge knows what is settled and has dropped its copies: keys up to there can be forgotten
    /// wherever they are.
    pub(crate) fn mark_reached(&mut self, core: &mut Core, id: u128, settled: u64) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        let unknown = session.edge().is_some() && !session.edge_knows;
        if settled <= session.mark || unknown {
            return;
        }
        session.mark = settled;
        if !session.mark_targets.is_empty() && !session.mark_due {
            session.mark_due = true;
            core.marks_due.push((self.slot, id));
        }
        let user = session.jid.bare();
        let has_older = !session.older.is_empty();
        self.release_own(core, &user, id, settled);
        if has_older {
            self.release_older(core, id);
        }
    }

    /// What a session's stanzas caused for sessions of the same user (answers, copies, presence)
    /// never left the slot: released here.
    pub(super) fn release_own(&mut self, core: &mut Core, user: &Jid, origin: u128, mark: u64) {
        let ids: Vec<u128> = self.users.get(user).cloned().unwrap_or_default();
        for id in ids {
            if self
                .sessions
                .get_mut(&id)
                .is_some_and(|s| s.release_origin(origin, mark))
            {
                self.touch(core, id);
            }
        }
    }

    /// Sends a session's mark to the slots that may hold its keys.
    pub(crate) fn send_marks(&mut self, core: &mut Core, id: u128) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        session.mark_due = false;
        let mark = session.mark;
        let mut targets = Vec::new();
        session.mark_targets.retain(|target, highest| {
            targets.push(*target);
            *highest > mark
        });
        for target in targets {
            core.send_mark(target, id, mark);
        }
    }

    /// An edge process is gone for good: its sockets are lost.
    pub(crate) fn edge_gone(&mut self, core: &mut Core, edge: u64) {
        let lost: Vec<(u128, bool)> = self
            .sessions
            .values()
            .filter(|s| s.edge().is_some_and(|(lane, _)| lane.edge == edge))
            .map(|s| (s.id, s.sm.is_some_and(|m| m.resume)))
            .collect();
        for (id, resumable) in lost {
            if let Some(session) = self.sessions.get_mut(&id) {
                session.promised = 0;
            }
            if resumable {
                self.detach(core, id);
                self.tell_rooms(id);
            } else {
                self.end_session(core, id);
            }
        }
        let mut over = Vec::new();
        for session in self.sessions.values_mut() {
            let holders = session.holders.len();
            session.holders.retain(|(lane, _)| lane.edge != edge);
            if session.holders.is_empty() && holders > 0 {
                over.push(session.id);
            }
            if session
                .ended_from
                .is_some_and(|(lane, _)| lane.edge == edge)
            {
                session.ended_from = None;
            }
            let settled = session.settled;
            let lost = session.older.extract_if(.., |o| o.lane.edge == edge);
            let lost = lost.map(|o| o.until).max();
            if lost.is_some_and(|until| until > settled) {
                session.promised = 0;
            }
            if let Some(until) = lost {
                session.lose_copies(until);
            }
            if session
                .detached_from
                .is_some_and(|(lane, _)| lane.edge == edge)
            {
                session.detached_from = None;
                session.lose_copies(session.accepted);
            }
        }
        for id in over {
            self.forget_session(core, id);
        }
    }

    /// Has the keys of those ready who may come back.
    fn want_keys(&mut self, core: &mut Core) {
        let now = core.now_ms;
        for session in self.sessions.values_mut() {
            let old = session.keys_ms == 0 || session.keys_ms + KEYS_EVERY_MS <= now;
            if !old || session.anonymous || session.is_ending() {
                continue;
            }
            if core.keys_wanted.len() >= KEYS_AT_ONCE {
                return;
            }
            session.keys_ms = now.max(1);
            core.keys_wanted.push(session.jid.bare_str().to_owned());
        }
    }

    /// Detached sessions whose time is over, and whose keys are.
    pub(crate) fn expire(&mut self, core: &mut Core) {
        self.want_keys(core);
        let now = core.now_ms;
        let over: Vec<u128> = self
            .sessions
            .values()
            .filter(|s| matches!(s.attachment, Attachment::Detached { deadline_ms, .. } if deadline_ms <= now))
            .map(|s| s.id)
            .collect();
        for id in over {
            self.end_session(core, id);
        }
        let idle = core.now_ms.saturating_sub(core.config.stream_idle_ms);
        self.streams.retain(|_, (_, _, at)| *at > idle);
    }

    /// A lane to an edge opened: what that edge did not take on the one before goes again; it
    /// ignores what it has.
    pub(crate) fn lane_reopened(&mut self, core: &mut Core, lane: LaneRef) {
        let (slot, epoch) = (self.slot, self.epoch);
        let unanswered = self.sessions.values().filter(|session| {
            let here = session.edge().is_some_and(|(l, _)| l == lane);
            here && !session.edge_knows
        });
        for id in unanswered.map(|session| session.id).collect::<Vec<u128>>() {
            self.answer_again(core, id);
        }
        let mut touched = Vec::new();
        for session in self.sessions.values_mut() {
            if session.edge().is_some_and(|(l, _)| l == lane) {
                if session.edge_knows && session.spare.is_some() {
                    core.attached_told(lane, slot, session);
                }
                session.tell_again();
                session.lane_waits = false;
                session.sm_told = false;
                session.pump(core, slot, epoch);
                touched.push(session.id);
            }
            for older in session.older.iter().filter(|o| o.lane == lane) {
                let close = superseded(older.handle, older.generation);
                core.send_edge(lane, slot, epoch, close);
            }
        }
        let over: Vec<(u128, proto::Detached)> = self
            .sessions
            .values()
            .flat_map(|s| s.holders.iter().map(|holder| (s.id, *holder)))
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
            router.now_ms += router.config.tick_ms;
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
