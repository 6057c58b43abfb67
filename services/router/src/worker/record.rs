//! The registry record of a session, as edges and the shadow keep it, and what edges are told of
//! XEP-0198.

use sestina_api::key::{EffectKey, EffectKind, join, split};
use sestina_proto as proto;
use sestina_proto::to_edge::Body;
use sestina_xmpp::jid::Jid;

use super::core::Core;
use super::session::{Attachment, Available, Joined, Session, StreamManagement};

fn alone_key((origin, n): &(u128, u64)) -> proto::Key {
    EffectKey::new(*origin, *n, EffectKind::Route).into()
}

impl Session {
    /// Tells the edge where counting began, and under which name the session is resumed.
    pub(crate) fn sm_enabled(
        &self,
        handle: u64,
        slot: u16,
        secret: &[u8],
    ) -> Option<proto::SmEnabled> {
        let sm = self.sm?;
        let name = sestina_xmpp::ext::sm::SmId {
            slot,
            nonce: self.id,
            bare: self.jid.bare_str().to_owned(),
        };
        Some(proto::SmEnabled {
            handle,
            generation: self.generation,
            id: if sm.resume {
                name.encode(secret)
            } else {
                String::new()
            },
            max_s: sm.max_s,
            out_base: sm.out_base,
        })
    }

    /// Gives its edge the record, if that has changed.
    pub(crate) fn tell_record(&mut self, core: &mut Core, slot: u16, epoch: u64) {
        let Some((lane, handle)) = self.edge() else {
            return;
        };
        if !std::mem::take(&mut self.state_dirty) {
            return;
        }
        let keep = proto::KeepState {
            handle,
            generation: self.generation,
            state: prost::Message::encode_to_vec(&self.record()).into(),
        };
        core.send_edge(lane, slot, epoch, Body::KeepState(keep));
    }

    /// The registry record: what another owner needs beside what the edge itself counts.
    pub(crate) fn record(&self) -> proto::SessionState {
        let (session_hi, session_lo) = split(self.id);
        proto::SessionState {
            session_hi,
            session_lo,
            jid: self.jid.as_str().to_owned(),
            generation: self.generation,
            accepted: self.accepted,
            next: self.next,
            acked: self.acked,
            sm: self.sm.is_some(),
            sm_resume: self.sm.is_some_and(|s| s.resume),
            sm_max_s: self.sm.map_or(0, |s| s.max_s),
            in_base: self.sm.map_or(0, |s| s.in_base),
            out_base: self.sm.map_or(0, |s| s.out_base),
            presence: self.available.as_ref().map(|a| a.stanza.clone()),
            carbons: self.carbons,
            joined: self
                .joined
                .iter()
                .map(|(room, joined)| proto::JoinedRoom {
                    room: room.as_str().to_owned(),
                    nick: joined.nick.clone(),
                    member: joined.member.as_deref().cloned(),
                })
                .collect(),
            directed: self
                .directed
                .iter()
                .map(|j| j.as_str().to_owned())
                .collect(),
            anonymous: self.anonymous,
            query: self.query.clone(),
            transport: self.transport.clone(),
            remote: self.remote.clone(),
            ending: self.is_ending(),
            offline_pending: self.offline_pending,
            reads_stored: self.stored.as_ref().is_some_and(|cursor| cursor.is_open()),
            alone: self.alone.iter().map(alone_key).collect(),
            resumable_until_ms: match self.attachment {
                Attachment::Detached { until_ms, .. } => until_ms,
                Attachment::Edge { .. } | Attachment::Ending => 0,
            },
        }
    }

    /// Makes a session from its record; queue and counters come from the edge or the shadow.
    pub(crate) fn from_record(state: proto::SessionState, attachment: Attachment) -> Session {
        let id = join(state.session_hi, state.session_lo);
        let mut session = Session::new(id, Jid::from_wire(&state.jid), attachment);
        session.generation = state.generation;
        session.accepted = state.accepted;
        session.settled = state.accepted;
        session.mark = 0;
        session.next = state.next;
        session.acked = state.acked;
        session.held = state.acked;
        session.sent = state.acked;
        session.written = state.acked;
        session.sm = state.sm.then_some(StreamManagement {
            resume: state.sm_resume,
            max_s: state.sm_max_s,
            in_base: state.in_base,
            out_base: state.out_base,
        });
        session.available = state.presence.map(|stanza| {
            Box::new(Available {
                priority: super::presence::priority_of(&stanza),
                stanza,
            })
        });
        session.carbons = state.carbons;
        session.offline_pending = state.offline_pending;
        if state.reads_stored {
            session.stored.get_or_insert_default().open = true;
        }
        let alone = state.alone.iter().map(EffectKey::from);
        session.alone = alone.map(|key| (key.origin, key.n)).collect();
        session.was_before = true;
        session.joined = state
            .joined
            .into_iter()
            .map(|j| {
                let joined = Joined {
                    nick: j.nick,
                    member: j.member.map(Box::new),
                };
                (Jid::from_wire(&j.room), joined)
            })
            .collect();
        session.directed = state.directed.iter().map(|j| Jid::from_wire(j)).collect();
        session.anonymous = state.anonymous;
        session.query = state.query;
        session.transport = state.transport;
        session.remote = state.remote;
        session
    }
}
