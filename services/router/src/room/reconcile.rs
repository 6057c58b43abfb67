//! A room's new owner learns from sessions which of them are in it.
//!
//! The state store's copy is old if it was unavailable before the former owner died; it may also have no copy
//! at all. Each session knows the last presence of itself that the room sent it, and the number of
//! that event. If its event is later than the one in the state store, the session is right; a session
//! that the state store does not know is in. Then the owners of all sessions are asked whether these
//! still exist, and sessions that do not exist leave. History, subject, and events that not all
//! sessions have are as in the state store.

use std::collections::{BTreeMap, BTreeSet};

use sestina_api::key::{join, split};
use sestina_proto as proto;
use sestina_proto::peer_frame::Body;
use sestina_runtime::guard;
use sestina_xmpp::ext::muc::status;
use sestina_xmpp::jid::Jid;
use sestina_xmpp::stanza::{Kind, Stanza};

use super::announce::Left;
use super::logged_event::LoggedEvent;
use super::occupant::{RoomSession, from_affiliation_and_role};
use super::state::{Broadcast, Room};
use crate::rng::HashSet;
use crate::worker::core::{Core, PeerRef};
use crate::worker::slot::Slot;

/// The owner of a session that has not answered is asked again after this long.
const AGAIN_MS: u64 = 500;

/// What became of a session that takes itself for an occupant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Admitted {
    /// It is known.
    Known,
    /// It is in now, or it is there otherwise than before.
    Changed,
    /// Another occupant has its nick.
    Refused,
}

/// A membership whose fields are all there.
struct Member {
    nick: String,
    affiliation_and_role: u32,
    me: RoomSession,
    /// The session has ended, and is about to leave.
    over: bool,
}

impl Member {
    fn of(membership: proto::RoomMembership) -> Option<(Jid, Member)> {
        let member = membership.member?;
        let me = RoomSession {
            jid: Jid::from_wire(&membership.jid),
            session: join(membership.session_hi, membership.session_lo),
            slot: u16::try_from(membership.slot).ok()?,
            presence: Stanza::from(member.presence?),
            seq: member.seq,
        };
        let room = Jid::from_wire(&membership.room);
        let (nick, affiliation_and_role) = (member.nick, member.affiliation_and_role);
        Some((
            room,
            Member {
                nick,
                affiliation_and_role,
                me,
                over: membership.over,
            },
        ))
    }

    /// A session that has asked to enter, and does not know what the room has answered.
    fn unsure(mut membership: proto::RoomMembership) -> Option<(Jid, Member)> {
        membership.member = Some(proto::RoomMember {
            nick: std::mem::take(&mut membership.nick),
            presence: Some(Stanza::new(Kind::Presence).into()),
            ..proto::RoomMember::default()
        });
        Member::of(membership)
    }
}

impl Slot {
    /// Corrects the rooms of this slot by what sessions report, and makes the rooms that only
    /// sessions know.
    pub(crate) fn rooms_reconcile(&mut self, core: &mut Core, told: Vec<proto::RoomMembership>) {
        let mut rooms: BTreeMap<Jid, Vec<Member>> = BTreeMap::new();
        if guard!("room-members") {
            for (room, member) in told.into_iter().filter_map(Member::of) {
                rooms.entry(room).or_default().push(member);
            }
        }
        for room in self.rooms.values_mut() {
            room.to_check = room.by_session.keys().copied().collect();
        }
        for (jid, members) in rooms {
            if core.config.slot_of(&jid) == self.slot {
                let known = self.rooms.contains_key(&jid);
                // All sessions of the room have ended. The owner before this one may have removed the room when the last
                // one left.
                if !known && members.iter().all(|member| member.over) {
                    continue;
                }
                self.room_reconciles(core, &jid, members);
                if !known {
                    core.metrics.room_rebuilt();
                    let occupants = self.rooms.get(&jid).map_or(0, Room::occupant_count);
                    tracing::warn!(
                        room = jid.as_str(),
                        occupants,
                        "only the sessions in it knew this room any more: it goes on without its history"
                    );
                }
            }
        }
    }

    /// The owners of sessions report, without being asked, that these are in rooms, or with which
    /// presence.
    pub(crate) fn members_told(
        &mut self,
        core: &mut Core,
        from: PeerRef,
        told: Vec<proto::RoomMembership>,
    ) {
        let mut heard: BTreeMap<u32, Vec<proto::AskedMember>> = BTreeMap::new();
        let mut rooms: BTreeMap<Jid, Vec<Member>> = BTreeMap::new();
        for membership in told {
            let asked = proto::AskedMember {
                room: membership.room.clone(),
                session_hi: membership.session_hi,
                session_lo: membership.session_lo,
            };
            heard.entry(membership.slot).or_default().push(asked);
            if membership.member.is_none() {
                self.room_tells_own(core, membership);
                continue;
            }
            let Some((jid, member)) = Member::of(membership) else {
                continue;
            };
            if core.config.slot_of(&jid) == self.slot && guard!("room-members") {
                rooms.entry(jid).or_default().push(member);
            }
        }
        for (jid, members) in rooms {
            let before = self.rooms.get(&jid).map_or(0, Room::occupant_count);
            if !self.rooms.contains_key(&jid) {
                core.metrics.rooms(1);
            }
            self.room_reconciles(core, &jid, members);
            let after = self.rooms.get(&jid).map_or(0, Room::occupant_count);
            let count = |occupants| i64::try_from(occupants).unwrap_or(i64::MAX);
            core.metrics.occupants(count(after) - count(before));
        }
        for (slot, members) in heard {
            let frame = proto::PeerFrame {
                slot,
                epoch: 0,
                body: Some(Body::RoomHeard(proto::RoomHeard { members })),
            };
            core.send_peer(from, frame);
        }
    }

    /// The record of a session does not say whether the session is in the room: the room sends it its
    /// own presence again, or that it is not in. The latter too, because its client may have received
    /// a presence from the room that the owner before did not put into the record.
    fn room_tells_own(&mut self, core: &mut Core, membership: proto::RoomMembership) {
        let Some((jid, member)) = Member::unsure(membership) else {
            return;
        };
        if core.config.slot_of(&jid) != self.slot {
            return;
        }
        let jid = &jid;
        let session = member.me.session;
        let (slot, epoch, after) = (self.slot, self.epoch, self.rooms_seq);
        let room = self.rooms.entry(jid.clone()).or_insert_with(|| {
            core.metrics.rooms(1);
            Room::new(jid.clone(), slot, after)
        });
        let seq = room.coming_seq(epoch);
        let nick = room.by_session.get(&session);
        let Some(occupant) = nick.and_then(|nick| room.occupants.get_mut(nick)) else {
            if !room.is_joining(session) && !room.tells_out(session) {
                self.room_puts_out(core, jid, &member);
            }
            return;
        };
        if let Some(known) = occupant.session(session) {
            let me = RoomSession {
                seq,
                ..known.clone()
            };
            occupant.enter(me);
        }
        let Some((occupant, me)) = room.find(session) else {
            return;
        };
        let mut broadcast = Broadcast::default();
        let own = room.presence_of(occupant, me, true, &[status::SELF]);
        broadcast.add_own(own, occupant, me);
        broadcast.write(core, occupant);
        self.room_emit(core, jid, broadcast, None, None);
    }

    fn room_reconciles(&mut self, core: &mut Core, jid: &Jid, mut members: Vec<Member>) {
        let (slot, epoch, after) = (self.slot, self.epoch, self.rooms_seq);
        let new = || Room::new(jid.clone(), slot, after);
        let room = self.rooms.entry(jid.clone()).or_insert_with(new);
        members.sort_by_key(|member| member.me.seq);
        // These sessions certainly exist: no other occupant can have their nicks.
        for member in &members {
            room.to_check.remove(&member.me.session);
        }
        let mut changed = Vec::new();
        let mut left = Vec::new();
        let mut refused = Vec::new();
        for member in &members {
            match room.admit(member, &mut left) {
                Admitted::Known => {}
                Admitted::Changed => {
                    changed.push(member.me.session);
                    room.seq = room.seq.max(member.me.seq);
                    // The session has entered the room again after an older leave. The state store has lost that the
                    // session received that leave.
                    for (_, event) in room.event_log.range_mut(..member.me.seq) {
                        event.forget_leaving(member.me.session);
                    }
                }
                Admitted::Refused => refused.push(member),
            }
        }
        let sessions = members.iter().map(|member| member.me.session);
        let inside = sessions.filter(|session| room.by_session.contains_key(session));
        let inside: BTreeSet<u128> = inside.collect();
        room.to_check.extend(inside);
        if !changed.is_empty() {
            let broadcast = room.announce_changed(epoch, &changed, &left);
            self.room_trim(core, jid);
            self.replica_rewrite_room(core, jid);
            if !broadcast.targets.is_empty() {
                self.room_emit(core, jid, broadcast, None, None);
            }
        }
        for member in refused {
            self.room_puts_out(core, jid, member);
        }
    }

    /// Tells a session that is not in that it has left, so that its client can enter again.
    fn room_puts_out(&mut self, core: &mut Core, jid: &Jid, member: &Member) {
        let mut out = super::presence::not_inside(&member.me.presence);
        out.id.clear();
        out.to.clear();
        out.from = format!("{jid}/{}", member.nick);
        let mut broadcast = Broadcast::default();
        broadcast.add_as(out, member.affiliation_and_role.max(1), &member.me);
        if let Some(room) = self.rooms.get_mut(jid) {
            room.any_left = true;
        }
        self.room_emit(core, jid, broadcast, None, None);
    }

    /// Asks the owners of sessions whether these are in a room, if that is not known.
    pub(super) fn room_check(&mut self, core: &mut Core, jid: &Jid) {
        let room_slot = self.slot;
        let Some(room) = self.rooms.get_mut(jid) else {
            return;
        };
        if room.to_check.is_empty() || core.now_ms < room.checked_ms + AGAIN_MS {
            return;
        }
        let inside = &room.by_session;
        room.to_check.retain(|session| inside.contains_key(session));
        room.checked_ms = core.now_ms;
        let untold: HashSet<u128> = room
            .event_log
            .values()
            .flat_map(LoggedEvent::owes_own)
            .collect();
        let mut asked: BTreeMap<u16, Vec<proto::CheckedSession>> = BTreeMap::new();
        for session in &room.to_check {
            let Some((_, known)) = room.find(*session) else {
                continue;
            };
            // The owner of the session does not know yet that the session is in, or in again. It is asked
            // when it has acknowledged the event that tells it so.
            if untold.contains(session) {
                continue;
            }
            let (session_hi, session_lo) = split(*session);
            let presence = proto::Stanza::from(known.presence.clone());
            asked
                .entry(known.slot)
                .or_default()
                .push(proto::CheckedSession {
                    session_hi,
                    session_lo,
                    seq: known.seq,
                    presence_hash: presence.hash(),
                });
        }
        let seq = room.seq;
        for (slot, sessions) in asked {
            let Some(owner) = core.owner_of(slot).filter(|o| core.peer_open(*o)) else {
                continue;
            };
            let check = proto::RoomCheck {
                room: jid.as_str().to_owned(),
                room_slot: room_slot.into(),
                seq,
                sessions,
            };
            let frame = proto::PeerFrame {
                slot: slot.into(),
                epoch: 0,
                body: Some(Body::RoomCheck(check)),
            };
            core.send_peer(owner, frame);
        }
    }

    /// The owner of sessions has said which are in a room.
    pub(crate) fn room_checked(&mut self, core: &mut Core, checked: &proto::RoomChecked) {
        let jid = Jid::from_wire(&checked.room);
        let Some(room) = self.rooms.get_mut(&jid) else {
            return;
        };
        for session in &checked.inside {
            let id = join(session.session_hi, session.session_lo);
            room.to_check.remove(&id);
        }
        for session in &checked.outside {
            let id = join(session.session_hi, session.session_lo);
            let room = self.rooms.get_mut(&jid);
            let asked = room.is_some_and(|room| {
                // It may have entered since it was asked about.
                let then = room.find(id).is_some_and(|(_, s)| s.seq <= checked.seq);
                room.to_check.remove(&id) && then
            });
            if asked {
                self.room_takes_out(core, &jid, id);
            }
        }
    }
}

impl Slot {
    /// Takes out a session that is not in the room, as its owner has said. If this owner of the room has sent it
    /// something, its client may hold itself for an occupant: then it gets its unavailable presence.
    fn room_takes_out(&mut self, core: &mut Core, jid: &Jid, session: u128) {
        let own: &[u16] = match self.rooms.get(jid) {
            Some(room) if room.has_for(session) => &[status::SELF, status::REMOVED_ERROR],
            _ => &[status::REMOVED_ERROR],
        };
        self.room_ghost(core, jid, session, own);
    }
}

impl Room {
    /// Whether this owner has sent a session an event, or is going to.
    fn has_for(&self, session: u128) -> bool {
        let mut targets = self.event_log.values().flat_map(|event| &event.targets);
        self.last_sent.contains_key(&session) || targets.any(|t| t.session == session)
    }

    /// Whether it waits for no answer about the sessions in it.
    #[cfg(feature = "simulation")]
    pub(crate) fn is_checked(&self) -> bool {
        self.to_check.is_empty()
    }

    /// Lets a session in that takes itself for an occupant, or corrects its presence. Sessions
    /// that leave their nicks for it are added to `left`.
    fn admit(&mut self, member: &Member, left: &mut Vec<Left>) -> Admitted {
        let me = &member.me;
        if let Some((occupant, known)) = self.find(me.session) {
            let presence = |stanza: &Stanza| proto::Stanza::from(stanza.clone()).hash();
            let same = known.seq == me.seq && presence(&known.presence) == presence(&me.presence);
            if known.seq > me.seq || same {
                return Admitted::Known;
            }
            if occupant.nick == member.nick {
                self.put(member);
                return Admitted::Changed;
            }
        } else if self.has_left(member) {
            return Admitted::Known;
        }
        let later = |s: &RoomSession| s.jid == me.jid && s.seq > me.seq;
        if self.sessions().any(later) {
            return Admitted::Known;
        }
        if !self.make_way(member, left) {
            return Admitted::Refused;
        }
        self.leaves_for(me.session, left);
        self.put(member);
        Admitted::Changed
    }

    fn put(&mut self, member: &Member) {
        let (affiliation, role) = from_affiliation_and_role(member.affiliation_and_role);
        self.enter(&member.nick, affiliation, role, member.me.clone());
        if let Some(occupant) = self.occupants.get_mut(&member.nick) {
            (occupant.affiliation, occupant.role) = (affiliation, role);
        }
    }

    /// Whether, by the events that not all sessions have got yet, the last one about this session
    /// itself says that it is out.
    fn tells_out(&self, session: u128) -> bool {
        let mut told = self.event_log.values().rev();
        let last = told.find_map(|event| event.own_of(session));
        last.is_some_and(|own| own.r#type == "unavailable")
    }

    /// Whether an event that not all have got has taken it out since.
    fn has_left(&self, member: &Member) -> bool {
        let address = self.address(&member.nick);
        let mut later = self.event_log.range(member.me.seq + 1..);
        later.any(|(_, event)| event.takes_out(member.me.session, &address))
    }

    /// Removes the sessions whose nick belongs to another occupant now; false if they certainly
    /// exist.
    fn make_way(&mut self, member: &Member, left: &mut Vec<Left>) -> bool {
        while self.is_taken(&member.nick, &member.me.jid) {
            let key = sestina_xmpp::precis::nickname_key(&member.nick);
            let is = |o: &&super::occupant::Occupant| {
                let same = key.as_ref().is_some_and(|key| o.key() == key);
                o.nick == member.nick || (same && !o.is_of(&member.me.jid))
            };
            let sessions: Vec<u128> = match self.occupants.values().find(is) {
                Some(occupant) => occupant.sessions().map(|s| s.session).collect(),
                None => return false,
            };
            if sessions.is_empty() || !sessions.iter().all(|s| self.to_check.contains(s)) {
                return false;
            }
            for session in sessions {
                self.leaves_for(session, left);
                self.last_sent.remove(&session);
            }
        }
        true
    }

    /// Takes a session out; it is added to those that have `left`.
    fn leaves_for(&mut self, session: u128, left: &mut Vec<Left>) {
        if let Some((before, me, rest)) = self.leave(session) {
            left.push(Left { before, me, rest });
        }
    }
}
