//! The registry record of a session: edges and the state store keep it, so that the next owner can restore the session.
//! Also the answers to an edge about stream management (XEP-0198).

use prost::Message as _;
use sestina_api::key::{IdempotencyKey, Purpose, join, split};
use sestina_proto as proto;
use sestina_proto::to_edge::Body;
use sestina_xmpp::jid::Jid;

use super::channel::{Attachment, Channel, StreamManagement};
use super::client::{Available, Joined};
use super::core::Core;
use super::replica::Waiting;
use super::residents::Residents;
use super::session::Session;
use super::slot::Slot;
use crate::hooks::Pipelines;

fn alone_key((origin, n): &(u128, u64)) -> proto::Key {
    IdempotencyKey::new(*origin, *n, Purpose::Route).into()
}

impl Channel {
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
}

impl Session {
    /// Gives its edge the record, if that has changed.
    pub(crate) fn tell_record(&mut self, core: &mut Core, slot: u16, epoch: u64) {
        let Some((lane, handle)) = self.channel.edge() else {
            return;
        };
        if !std::mem::take(&mut self.channel.state_dirty) {
            return;
        }
        self.channel.outgoing.rows_told = self.channel.keeps_rows();
        let keep = proto::KeepState {
            handle,
            generation: self.channel.generation,
            state: prost::Message::encode_to_vec(&self.record()).into(),
        };
        core.send_edge(lane, slot, epoch, Body::KeepState(keep));
    }

    /// The registry record: what another owner needs beside what the edge itself counts.
    pub(crate) fn record(&self) -> proto::SessionState {
        let (session_hi, session_lo) = split(self.channel.id);
        let (residents_known, residents) = self.client.residents.record();
        let client = &self.client;
        let (available, rooms, directed) = match &client.farewell {
            Some(farewell) => (&farewell.available, &farewell.joined, &farewell.directed),
            None => (&client.available, &client.joined, &client.directed),
        };
        proto::SessionState {
            residents_known,
            residents,
            session_hi,
            session_lo,
            jid: self.channel.jid.as_str().to_owned(),
            generation: self.channel.generation,
            accepted: match self.channel.attachment {
                // What an owner before may have accepted is still to come again: a new owner waits for it, too.
                Attachment::Detached { .. } | Attachment::Ending => self
                    .channel
                    .incoming
                    .accepted
                    .max(self.channel.incoming.predecessor_accepted),
                Attachment::Edge { .. } => self.channel.incoming.accepted,
            },
            settled: Some(self.channel.incoming.settled),
            next: self.channel.outgoing.next,
            acked: self.channel.outgoing.acked,
            sm: self.channel.sm.is_some(),
            sm_resume: self.channel.sm.is_some_and(|s| s.resume),
            sm_max_s: self.channel.sm.map_or(0, |s| s.max_s),
            in_base: self.channel.sm.map_or(0, |s| s.in_base),
            out_base: self.channel.sm.map_or(0, |s| s.out_base),
            presence: available.as_ref().map(|a| a.stanza.clone()),
            carbons: self.client.carbons,
            joined: rooms
                .iter()
                .map(|(room, joined)| proto::JoinedRoom {
                    room: room.as_str().to_owned(),
                    nick: joined.nick.clone(),
                    member: joined.member.as_deref().cloned(),
                })
                .collect(),
            directed: directed.iter().map(|j| j.as_str().to_owned()).collect(),
            anonymous: self.client.anonymous,
            query: self.client.query.clone(),
            transport: self.channel.transport.clone(),
            remote: self.channel.remote.clone(),
            ending: self.channel.is_ending(),
            offline_pending: self.client.offline_pending || self.channel.keeps_rows(),
            reads_stored: self
                .client
                .stored
                .as_ref()
                .is_some_and(|cursor| cursor.is_open()),
            alone: self.channel.outgoing.alone.iter().map(alone_key).collect(),
            resumable_until_ms: match self.channel.attachment {
                Attachment::Detached { until_ms, .. } => until_ms,
                Attachment::Edge { .. } | Attachment::Ending => 0,
            },
            bound_epoch: self.channel.bound.0,
            bound_counter: self.channel.bound.1,
            interests: self.client.interests.iter().cloned().collect(),
        }
    }

    /// Makes a session from its record; queue and counters come from the edge or the state store.
    pub(crate) fn from_record(
        state: proto::SessionState,
        attachment: Attachment,
        pipelines: &Pipelines,
    ) -> Session {
        let id = join(state.session_hi, state.session_lo);
        let mut session = Session::new(id, Jid::from_wire(&state.jid), attachment);
        session.channel.generation = state.generation;
        session.channel.bound = (state.bound_epoch, state.bound_counter);
        session.channel.incoming.accepted = state.accepted;
        session.channel.incoming.settled = state.accepted;
        session.channel.incoming.watermark = 0;
        session.channel.outgoing.next = state.next;
        session.channel.outgoing.acked = state.acked;
        session.channel.outgoing.held = state.acked;
        session.channel.outgoing.sent = state.acked;
        session.channel.outgoing.written = state.acked;
        session.channel.sm = state.sm.then_some(StreamManagement {
            resume: state.sm_resume,
            max_s: state.sm_max_s,
            in_base: state.in_base,
            out_base: state.out_base,
        });
        session.client.available = state.presence.map(|stanza| {
            Box::new(Available {
                priority: super::presence::priority_of(&stanza),
                stanza,
            })
        });
        session.client.carbons = state.carbons;
        let user = session.channel.jid.bare();
        let (known, items) = (state.residents_known, state.residents);
        let pipeline = pipelines.of(user.domain());
        session.client.residents = Residents::of_record(pipeline, &user, known, items);
        session.client.interests = state.interests.into_iter().collect();
        session.client.offline_pending = state.offline_pending;
        if state.reads_stored {
            session.client.stored.get_or_insert_default().open = true;
        }
        let alone = state.alone.iter().map(IdempotencyKey::from);
        session.channel.outgoing.alone = alone.map(|key| (key.origin, key.n)).collect();
        session.channel.copies.was_before = true;
        session.client.joined = state
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
        session.client.directed = state.directed.iter().map(|j| Jid::from_wire(j)).collect();
        session.client.anonymous = state.anonymous;
        session.client.query = state.query;
        session.channel.transport = state.transport;
        session.channel.remote = state.remote;
        session
    }
}

impl Slot {
    /// The record of a session without a socket has changed.
    pub(crate) fn replica_session_changed(&mut self, core: &mut Core, id: u128) {
        self.write_record(core, id);
    }

    /// Writes the record of a detached session to the state store. Returns what waits for the write; none if the session
    /// has an edge, or if there is no state store.
    pub(super) fn write_record(&mut self, core: &mut Core, id: u128) -> Option<&mut Waiting> {
        let session = self.sessions.get(&id)?;
        let detached = matches!(session.channel.attachment, Attachment::Detached { .. });
        if !core.config.state_store || !detached {
            return None;
        }
        self.put_record(core, id)
    }

    /// Puts the record of a session among the changes that go to the state store. Returns what waits for the write.
    pub(super) fn put_record(&mut self, core: &mut Core, id: u128) -> Option<&mut Waiting> {
        let session = self.sessions.get(&id)?;
        let fields = vec![("meta".to_owned(), session.record().encode_to_vec().into())];
        self.replica_list(core);
        let object = Channel::replica_name(id);
        Some(self.replica.update(object, fields, Vec::new()))
    }
}
