//! The owners of sessions tell the owners of rooms which sessions are in the rooms.
//!
//! A new owner of a room asks all workers for their sessions that no edge reports. A session that is loaded from the
//! state store later, or whose edge dies later, is in no such report: its owner sends a report of its own, again and
//! again until the room acknowledges it. The owner also asks the room where it does not know whether the session is
//! in. And a room's new owner asks of each occupant whether its session still exists: the notice that the session has
//! left may have been lost with the owner before.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message as _;
use sestina_api::key::{join, split};
use sestina_proto as proto;
use sestina_proto::peer_frame::Body;
use sestina_xmpp::jid::Jid;

use super::core::{Core, PeerRef};
use super::session::Session;
use super::slot::Slot;
use super::turn::Worker;

/// A frame with memberships is about as large at most.
const PART_BYTES: usize = 256 << 10;
/// A report that was not acknowledged is sent again after this long.
const AGAIN_MS: u64 = 500;

/// By the slot of rooms, the sessions without an edge that are in some: slot and id of each.
pub(super) type Places = BTreeMap<u16, BTreeSet<(u16, u128)>>;

/// See [`Slot::untold`].
#[derive(Debug, Default)]
pub(crate) struct Untold {
    rooms: BTreeMap<u128, BTreeSet<Jid>>,
    again_ms: u64,
}

impl Untold {
    /// Whether no room is left to be told of a session.
    #[cfg(feature = "simulation")]
    pub(crate) fn is_empty(&self) -> bool {
        self.rooms.is_empty()
    }
}

/// Whether a session is in a room, as its owner knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Inside,
    /// It is not there, or there is no such session.
    Outside,
    /// Something that it has sent may still change that.
    Unsure,
}

impl Worker {
    /// The owner of a slot of rooms asks for sessions without an edge.
    pub(super) fn room_ask(&mut self, from: PeerRef, ask: &proto::RoomAsk) {
        let room_slot = u16::try_from(ask.room_slot).unwrap_or(u16::MAX);
        if !self.core.admit_epoch(room_slot, ask.room_epoch) {
            return self.core.metrics.refused_epoch();
        }
        let slots = &self.slots;
        let core = &self.core;
        let places = self.places.get_or_insert_with(|| {
            let mut places = Places::new();
            for slot in slots.iter().filter(|slot| slot.is_serving()) {
                for session in slot.sessions.values().filter(|s| is_untold(s)) {
                    for room in session.client.joined.keys() {
                        let rooms = places.entry(core.config.slot_of(room)).or_default();
                        rooms.insert((slot.slot, session.channel.id));
                    }
                }
            }
            places
        });
        let mut parts = vec![Vec::new()];
        let mut bytes = 0;
        for (number, id) in places.get(&room_slot).into_iter().flatten() {
            let session = self.slots.get_mut(*number).and_then(|s| s.sessions.get(id));
            let session = session.filter(|session| is_untold(session));
            let rooms = session
                .iter()
                .flat_map(|session| session.client.joined.keys());
            for room in rooms.filter(|room| self.core.config.slot_of(room) == room_slot) {
                let membership = session.and_then(|s| s.membership(*number, room));
                let Some(membership) = membership.filter(|m| m.member.is_some()) else {
                    continue;
                };
                if bytes > PART_BYTES {
                    bytes = 0;
                    parts.push(Vec::new());
                }
                bytes += membership.encoded_len();
                if let Some(part) = parts.last_mut() {
                    part.push(membership);
                }
            }
        }
        let last = parts.len() - 1;
        for (part, members) in parts.into_iter().enumerate() {
            let told = proto::RoomTold {
                asked_epoch: ask.room_epoch,
                members,
                more: part < last,
                worker: self.core.me.worker,
                workers: self.core.me.workers,
            };
            let frame = proto::PeerFrame {
                slot: ask.room_slot,
                epoch: ask.room_epoch,
                body: Some(Body::RoomTold(told)),
            };
            self.core.send_peer(from, frame);
        }
    }
}

/// No edge tells of it: it has none, or that one does not know it yet.
fn is_untold(session: &Session) -> bool {
    session.channel.is_live()
        && (session.channel.edge().is_none() || !session.channel.copies.edge_knows)
}

impl Session {
    /// The session's own membership of a room. It names no member if the room has not confirmed that the session is in,
    /// or if this owner does not know the confirmation.
    fn membership(&self, slot: u16, room: &Jid) -> Option<proto::RoomMembership> {
        let (session_hi, session_lo) = split(self.channel.id);
        let joined = self.client.joined.get(room)?;
        Some(proto::RoomMembership {
            room: room.as_str().to_owned(),
            member: joined.member.as_deref().cloned(),
            jid: self.channel.jid.as_str().to_owned(),
            session_hi,
            session_lo,
            slot: slot.into(),
            presence_hash: 0,
            nick: joined.nick.clone(),
            over: !self.channel.is_live() || self.channel.closing,
        })
    }
}

impl Slot {
    /// The owners of its rooms are to be told of a session, by and by.
    pub(crate) fn tell_rooms(&mut self, id: u128) {
        if let Some(session) = self.sessions.get(&id)
            && !session.client.joined.is_empty()
        {
            let rooms = session.client.joined.keys().cloned();
            self.untold.rooms.entry(id).or_default().extend(rooms);
        }
    }

    /// Notes a stanza of a session to a room that the owner before this one may have sent, and whose answer it may have
    /// got. Once everything is replayed, the room is asked whether the session is in.
    pub(crate) fn ask_room(&mut self, id: u128, room: Jid) {
        self.untold.rooms.entry(id).or_default().insert(room);
    }

    /// The same for rooms of which a session that comes from an edge does not know.
    pub(crate) fn ask_rooms(&mut self, id: u128) {
        let Some(session) = self.sessions.get(&id) else {
            return;
        };
        let joined = session.client.joined.iter();
        let unknown = joined.filter(|(_, joined)| joined.member.is_none());
        let rooms: Vec<Jid> = unknown.map(|(room, _)| room.clone()).collect();
        for room in rooms {
            self.ask_room(id, room);
        }
    }

    /// Tells owners of rooms what they have not heard; run at each tick.
    pub(crate) fn places_tick(&mut self, core: &mut Core) {
        if self.untold.rooms.is_empty() || core.now_ms < self.untold.again_ms {
            return;
        }
        self.untold.again_ms = core.now_ms + AGAIN_MS;
        let mut told: BTreeMap<u16, Vec<proto::RoomMembership>> = BTreeMap::new();
        let mut untold = std::mem::take(&mut self.untold.rooms);
        untold.retain(|id, rooms| {
            rooms.retain(|room| match self.place_of(core, *id, room) {
                Place::Outside => false,
                Place::Unsure => true,
                Place::Inside => {
                    let session = self.sessions.get(id);
                    let membership = session.and_then(|s| s.membership(self.slot, room));
                    let told = told.entry(core.config.slot_of(room)).or_default();
                    told.extend(membership);
                    true
                }
            });
            !rooms.is_empty()
        });
        self.untold.rooms = untold;
        for (room_slot, members) in told {
            send_told(core, room_slot, members);
        }
    }

    /// The owner of rooms has heard of sessions.
    pub(crate) fn room_heard(&mut self, heard: &proto::RoomHeard) {
        for member in &heard.members {
            let id = join(member.session_hi, member.session_lo);
            if let Some(rooms) = self.untold.rooms.get_mut(&id) {
                rooms.remove(&Jid::from_wire(&member.room));
                if rooms.is_empty() {
                    self.untold.rooms.remove(&id);
                }
            }
        }
    }

    /// The owner of a room asks which of these sessions are in it.
    pub(crate) fn room_asks(&mut self, core: &mut Core, from: PeerRef, check: &proto::RoomCheck) {
        let room = Jid::from_wire(&check.room);
        let mut checked = proto::RoomChecked {
            room: check.room.clone(),
            seq: check.seq,
            ..proto::RoomChecked::default()
        };
        let mut others = Vec::new();
        for asked in &check.sessions {
            let id = join(asked.session_hi, asked.session_lo);
            match self.place_of(core, id, &room) {
                Place::Unsure => continue,
                Place::Outside => checked.outside.push(*asked),
                Place::Inside => checked.inside.push(*asked),
            }
            let session = self.sessions.get(&id).filter(|s| s.channel.is_live());
            if let Some(membership) = session.and_then(|s| s.membership(self.slot, &room)) {
                let differs = membership.member.as_ref().is_none_or(|member| {
                    let hash = member.presence.as_ref().map_or(0, proto::Stanza::hash);
                    let same = member.seq == asked.seq && hash == asked.presence_hash;
                    member.seq >= asked.seq && !same
                });
                if differs {
                    others.push(membership);
                }
            }
        }
        if !others.is_empty() {
            let room_slot = core.config.slot_of(&room);
            send_told(core, room_slot, others);
        }
        let frame = proto::PeerFrame {
            slot: check.room_slot,
            epoch: 0,
            body: Some(Body::RoomChecked(checked)),
        };
        core.send_peer(from, frame);
    }

    fn place_of(&self, core: &Core, id: u128, room: &Jid) -> Place {
        let Some(session) = self.sessions.get(&id) else {
            return Place::Outside;
        };
        let replayed = session.channel.edge().is_none()
            || session.channel.incoming.accepted >= session.channel.incoming.replay_until;
        let farewell = session.client.farewell.as_ref();
        let untold = farewell.is_some_and(|farewell| farewell.untold.is_some());
        if session.channel.is_replaying() || !replayed || untold || self.is_asking(core, id, room) {
            return Place::Unsure;
        }
        match session.client.joined.contains_key(room) {
            true => Place::Inside,
            false => Place::Outside,
        }
    }

    /// Whether a presence that a session sent to a room is on its way there.
    pub(crate) fn is_asking(&self, core: &Core, id: u128, room: &Jid) -> bool {
        self.outbox
            .has_presence_to(core.config.slot_of(room), id, room)
    }
}

fn send_told(core: &mut Core, room_slot: u16, members: Vec<proto::RoomMembership>) {
    let Some(owner) = core.owner_of(room_slot).filter(|o| core.peer_open(*o)) else {
        return;
    };
    let told = proto::RoomTold {
        members,
        ..proto::RoomTold::default()
    };
    let frame = proto::PeerFrame {
        slot: room_slot.into(),
        epoch: core.known_epoch(room_slot),
        body: Some(Body::RoomTold(told)),
    };
    core.send_peer(owner, frame);
}
