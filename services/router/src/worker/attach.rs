//! Sessions come to an edge: bind, resume, and where stream management begins.

use sestina_api::key::{join, split};
use sestina_proto as proto;
use sestina_proto::to_edge::Body;
use sestina_runtime::{failpoint, guard};
use sestina_xmpp::jid::Jid;

use super::channel::{Attachment, PreviousAttachment, RedundantCopies, StreamManagement};
use super::core::{Core, LaneRef};
use super::session::Session;
use super::slot::{Slot, new_origin};

impl Slot {
    /// Opens a session (RFC 6120 §7). A taken resource ends the older session with `conflict`.
    pub(crate) fn bind(&mut self, core: &mut Core, lane: LaneRef, bind: proto::Bind) {
        let bare = Jid::from_wire(&bind.bare);
        if self.sessions_of(&bare).count() >= core.config.limits.max_sessions_per_user {
            return self.refuse(
                core,
                lane,
                bind.handle,
                "resource-constraint",
                "too many sessions",
            );
        }
        // A repeated Bind (the lane broke before its answer) finds its session.
        let again = self.sessions_of(&bare).find_map(|s| {
            (s.channel.edge() == Some((lane, bind.handle)))
                .then_some((s.channel.id, s.channel.generation))
        });
        if let Some((id, _)) = again {
            // Deliveries meanwhile came to the edge before the session was there.
            self.answer_bound(core, lane, bind.handle, id);
            if let Some(session) = self.sessions.get_mut(&id) {
                session.channel.tell_again();
                session.channel.pump(core, self.slot, self.epoch);
            }
            return self.touch(core, id);
        }
        let resource = if bind.resource.is_empty() {
            format!("{:016x}", crate::rng::bits() as u64)
        } else {
            bind.resource
        };
        let Ok(full) = bare.with_resource(&resource) else {
            return self.refuse(
                core,
                lane,
                bind.handle,
                "bad-request",
                "the resource is not valid",
            );
        };
        if let Some(old) = self.session_of(&full) {
            if self
                .sessions
                .get(&old)
                .is_some_and(|s| s.channel.is_replaying())
            {
                return self.ask_later(core, lane, bind.handle);
            }
            self.close_session(core, old, "conflict", "replaced by a new connection");
        }
        let id = new_origin(self.slot);
        let attachment = Attachment::Edge {
            lane,
            handle: bind.handle,
        };
        let mut session = Session::new(id, full, attachment);
        self.binds += 1;
        session.channel.bound = (self.epoch, self.binds);
        core.metrics.bound();
        session.channel.transport = bind.transport;
        session.channel.remote = bind.remote;
        session.client.anonymous = bind.anonymous;
        session.client.query = bind.query;
        session.channel.state_dirty = true;
        self.handles.insert((lane.edge, bind.handle), id);
        self.insert_session(session);
        self.answer_bound(core, lane, bind.handle, id);
        self.touch(core, id);
    }

    fn answer_bound(&mut self, core: &mut Core, lane: LaneRef, handle: u64, id: u128) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        session.channel.attaching();
        session.channel.outgoing.given = true;
        core.attached_told(lane, self.slot, session);
        let (session_hi, session_lo) = split(id);
        let bound = proto::Bound {
            handle,
            generation: session.channel.generation,
            jid: session.channel.jid.as_str().to_owned(),
            session_hi,
            session_lo,
        };
        core.send_edge(lane, self.slot, self.epoch, Body::Bound(bound));
    }

    /// A session is in the way whose edge is about to send again what the owner before may have
    /// accepted.
    fn ask_later(&self, core: &mut Core, lane: LaneRef, handle: u64) {
        let later = proto::Redirect {
            handle,
            generation: 0,
            n: 0,
        };
        core.send_edge(lane, self.slot, self.epoch, Body::Redirect(later));
    }

    fn refuse(&self, core: &mut Core, lane: LaneRef, handle: u64, condition: &str, text: &str) {
        let refused = proto::Refused {
            handle,
            condition: condition.to_owned(),
            text: text.to_owned(),
            h: None,
        };
        core.send_edge(lane, self.slot, self.epoch, Body::Refused(refused));
    }

    /// XEP-0198 §5: another socket takes the session over. The generation is raised first, so
    /// that nothing of the older socket counts any more, and then the counters are read.
    pub(crate) fn resume(&mut self, core: &mut Core, lane: LaneRef, resume: proto::Resume) {
        let id = join(resume.session_hi, resume.session_lo);
        failpoint!("router.resume_raised");
        let known = self.sessions.get_mut(&id).filter(|s| {
            let resumable =
                s.channel.is_live() && !s.channel.closing && s.channel.sm.is_some_and(|m| m.resume);
            resumable && s.channel.jid.bare_str() == resume.bare
        });
        let Some(session) = known else {
            core.metrics
                .resume_refused(sestina_telemetry::ResumeFailure::NotFound);
            return self.refuse(
                core,
                lane,
                resume.handle,
                "item-not-found",
                "no such session",
            );
        };
        if session.channel.is_replaying() {
            return self.ask_later(core, lane, resume.handle);
        }
        let sm = session.channel.sm.unwrap_or(StreamManagement {
            resume: true,
            max_s: 0,
            in_base: 0,
            out_base: 0,
        });
        // The client's h counts modulo 2^32 from out_base.
        let acked_h = (session.channel.outgoing.acked
            - sm.out_base.min(session.channel.outgoing.acked)) as u32;
        let ahead = u64::from(resume.h.wrapping_sub(acked_h));
        let acked = session.channel.outgoing.acked.max(sm.out_base) + ahead;
        if acked > session.channel.outgoing.next {
            core.metrics
                .resume_refused(sestina_telemetry::ResumeFailure::BadCount);
            let refused = proto::Refused {
                handle: resume.handle,
                condition: "unexpected-request".to_owned(),
                text: "h is higher than what was sent".to_owned(),
                h: Some((session.channel.incoming.accepted - sm.in_base) as u32),
            };
            core.send_edge(lane, self.slot, self.epoch, Body::Refused(refused));
            return;
        }
        if session.channel.edge().is_none() {
            core.metrics.reattached();
        }
        let repeated = session.channel.edge() == Some((lane, resume.handle));
        let old = session.channel.edge().filter(|_| !repeated);
        let holder = old.or(session.channel.copies.detached_from);
        let old_generation = session.channel.generation;
        let knew = session.channel.copies.edge_knows;
        if !repeated {
            session.channel.generation += 1;
        }
        if let Some((lane, handle)) = holder {
            session.channel.copies.previous.push(PreviousAttachment {
                lane,
                handle,
                generation: old_generation,
                until: session.channel.incoming.accepted,
                knew,
            });
        }
        session.channel.attachment = Attachment::Edge {
            lane,
            handle: resume.handle,
        };
        session.channel.transport = resume.transport;
        session.channel.remote = resume.remote;
        session.on_acked(core, acked);
        if !repeated && guard!("spare-copies") {
            session.channel.copies.redundant_copies = Some(RedundantCopies {
                out: session.channel.outgoing.next,
                keys: session.channel.outgoing.acked,
            });
        }
        session.channel.stamp_late();
        session.channel.tell_again();
        session.channel.copies.detached_from = None;
        self.handles.insert((lane.edge, resume.handle), id);
        if let Some((old_lane, old_handle)) = old {
            // The older socket is not known any more: whatever it still says is refused.
            if guard!("generation") {
                self.handles.remove(&(old_lane.edge, old_handle));
            }
            let close = super::detach::superseded(old_handle, old_generation);
            core.send_edge(old_lane, self.slot, self.epoch, close);
        }
        self.answer_resumed(core, lane, resume.handle, id);
        if let Some(session) = self.sessions.get_mut(&id) {
            session.channel.pump(core, self.slot, self.epoch);
        }
        core.metrics.resumed();
        self.tell_presence_again(core, id);
        self.read_on(core, id);
        self.touch(core, id);
    }

    fn answer_resumed(&mut self, core: &mut Core, lane: LaneRef, handle: u64, id: u128) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        session.channel.attaching();
        session.channel.sm_told = true;
        // The record leaves with the answer: a new owner takes from the edge what this session was.
        session.channel.state_dirty = false;
        session.channel.outgoing.rows_told = session.channel.keeps_rows();
        core.attached_told(lane, self.slot, session);
        let (in_base, out_base) = session
            .channel
            .sm
            .map_or((0, 0), |sm| (sm.in_base, sm.out_base));
        let (session_hi, session_lo) = split(id);
        let resumed = proto::Resumed {
            handle,
            generation: session.channel.generation,
            jid: session.channel.jid.as_str().to_owned(),
            session_hi,
            session_lo,
            accepted: core.config.reported(
                session.channel.incoming.accepted,
                session.channel.incoming.settled,
            ),
            settled: session.channel.incoming.settled,
            in_base,
            out_base,
            acked: session.channel.outgoing.acked,
            state: prost::Message::encode_to_vec(&session.record()).into(),
        };
        core.send_edge(lane, self.slot, self.epoch, Body::Resumed(resumed));
    }

    /// The lane opened again before the edge had taken the answer to a bind or a resumption: it may not
    /// know the session, and would drop what is delivered to it. One that does ignores the answer.
    pub(super) fn answer_again(&mut self, core: &mut Core, id: u128) {
        let Some(session) = self.sessions.get(&id) else {
            return;
        };
        let (Some((lane, handle)), first) =
            (session.channel.edge(), session.channel.generation == 1)
        else {
            return;
        };
        match first {
            true => self.answer_bound(core, lane, handle, id),
            false => self.answer_resumed(core, lane, handle, id),
        }
    }

    /// XEP-0198 §3: counting begins here, in both directions.
    pub(crate) fn enable_sm(&mut self, core: &mut Core, lane: LaneRef, enable: proto::EnableSm) {
        let max = core.config.sm_resume_max_s;
        let (slot, epoch) = (self.slot, self.epoch);
        let Some(session) = self.attached(lane, enable.handle, enable.generation) else {
            return;
        };
        session.channel.sm.get_or_insert_with(|| StreamManagement {
            resume: enable.resume && max > 0,
            max_s: if enable.max_s == 0 {
                max
            } else {
                enable.max_s.min(max)
            },
            in_base: enable.n,
            out_base: session.channel.outgoing.next,
        });
        session.channel.state_dirty = true;
        let id = session.channel.id;
        session.channel.sm_told = false;
        session.channel.pump(core, slot, epoch);
        self.touch(core, id);
    }
}
