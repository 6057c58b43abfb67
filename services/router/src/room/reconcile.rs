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

use super::event_log::EventLog;
use super::logged_event::LoggedEvent;
use super::owned::OwnedRoom;
use crate::domain::room::{Admitted, Broadcast, Home, Left, Member, RoomSession, not_inside};
use crate::rng::HashSet;
use crate::worker::core::{Core, PeerRef};
use crate::worker::slot::Slot;

/// The owner of a session that has not answered is asked again after this long.
const AGAIN_MS: u64 = 500;

/// What the owner of a session says of its place in a room.
struct Told {
    member: Member,
    /// The session has ended, and is about to leave.
    over: bool,
}

impl Told {
    /// None if a field is missing.
    fn of(membership: proto::RoomMembership) -> Option<(Jid, Told)> {
        let member = membership.member?;
        let me = RoomSession {
            jid: Jid::from_wire(&membership.jid),
            session: join(membership.session_hi, membership.session_lo),
            home: Home(u16::try_from(membership.slot).ok()?),
            presence: Stanza::from(member.presence?),
            seq: member.seq,
        };
        let room = Jid::from_wire(&membership.room);
        let (nick, affiliation_and_role) = (member.nick, member.affiliation_and_role);
        let member = Member {
            nick,
            affiliation_and_role,
            me,
        };
        let over = membership.over;
        Some((room, Told { member, over }))
    }

    /// A session that has asked to enter, and does not know what the room has answered.
    fn unsure(mut membership: proto::RoomMembership) -> Option<(Jid, Told)> {
        membership.member = Some(proto::RoomMember {
            nick: std::mem::take(&mut membership.nick),
            presence: Some(Stanza::new(Kind::Presence).into()),
            ..proto::RoomMember::default()
        });
        Told::of(membership)
    }
}

impl Slot {
    /// Corrects the rooms of this slot by what sessions report, and makes the rooms that only
    /// sessions know.
    pub(crate) fn rooms_reconcile(&mut self, core: &mut Core, told: Vec<proto::RoomMembership>) {
        let mut rooms: BTreeMap<Jid, Vec<Told>> = BTreeMap::new();
        if guard!("room-members") {
            for (room, told) in told.into_iter().filter_map(Told::of) {
                rooms.entry(room).or_default().push(told);
            }
        }
        for this in self.rooms.values_mut() {
            this.room.checks_all();
        }
        for (jid, told) in rooms {
            if core.config.slot_of(&jid) == self.slot {
                let known = self.rooms.contains_key(&jid);
                // All sessions of the room have ended. The owner before this one may have removed the room when the last
                // one left.
                if !known && told.iter().all(|told| told.over) {
                    continue;
                }
                let members = told.into_iter().map(|told| told.member).collect();
                self.room_reconciles(core, &jid, members);
                if !known {
                    core.metrics.room_rebuilt();
                    let occupants = self.rooms.get(&jid).map_or(0, OwnedRoom::occupant_count);
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
            let Some((jid, told)) = Told::of(membership) else {
                continue;
            };
            if core.config.slot_of(&jid) == self.slot && guard!("room-members") {
                rooms.entry(jid).or_default().push(told.member);
            }
        }
        for (jid, members) in rooms {
            let before = self.rooms.get(&jid).map_or(0, OwnedRoom::occupant_count);
            if !self.rooms.contains_key(&jid) {
                core.metrics.rooms(1);
            }
            self.room_reconciles(core, &jid, members);
            let after = self.rooms.get(&jid).map_or(0, OwnedRoom::occupant_count);
            core.metrics.occupants_changed(before, after);
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
        let Some((jid, Told { member, .. })) = Told::unsure(membership) else {
            return;
        };
        if core.config.slot_of(&jid) != self.slot {
            return;
        }
        let jid = &jid;
        let session = member.me.session;
        let (slot, epoch, after) = (self.slot, self.epoch, self.rooms_seq);
        let this = self.rooms.entry(jid.clone()).or_insert_with(|| {
            core.metrics.rooms(1);
            OwnedRoom::new(jid.clone(), slot, after)
        });
        let seq = this.log.coming_seq(epoch);
        if let Some(broadcast) = this.room.tells_own(session, seq) {
            self.room_emit(core, jid, broadcast, None, None);
        } else if !this.room.is_entering(session) && !this.log.tells_out(session) {
            self.room_puts_out(core, jid, &member);
        }
    }

    fn room_reconciles(&mut self, core: &mut Core, jid: &Jid, mut members: Vec<Member>) {
        let (slot, epoch, after) = (self.slot, self.epoch, self.rooms_seq);
        let new = || OwnedRoom::new(jid.clone(), slot, after);
        let this = self.rooms.entry(jid.clone()).or_insert_with(new);
        members.sort_by_key(|member| member.me.seq);
        // These sessions certainly exist: no other occupant can have their nicks.
        for member in &members {
            this.room.to_check.remove(&member.me.session);
        }
        let mut changed = Vec::new();
        let mut left = Vec::new();
        let mut refused = Vec::new();
        for member in &members {
            match this.admits(member, &mut left) {
                Admitted::Known => {}
                Admitted::Changed => {
                    changed.push(member.me.session);
                    this.log.admitted(member.me.session, member.me.seq);
                }
                Admitted::Refused => refused.push(member),
            }
        }
        let sessions = members.iter().map(|member| member.me.session);
        let inside = sessions.filter(|session| this.room.is_inside(*session));
        let inside: BTreeSet<u128> = inside.collect();
        this.room.to_check.extend(inside);
        if !changed.is_empty() {
            let seq = this.log.coming_seq(epoch);
            let broadcast = this.room.announce_changed(seq, &changed, &left);
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
        let mut out = not_inside(&member.me.presence);
        out.id.clear();
        out.to.clear();
        out.from = format!("{jid}/{}", member.nick);
        let mut broadcast = Broadcast::default();
        broadcast.add_as(out, member.affiliation_and_role.max(1), &member.me);
        if let Some(this) = self.rooms.get_mut(jid) {
            this.room.any_left = true;
        }
        self.room_emit(core, jid, broadcast, None, None);
    }

    /// Asks the owners of sessions whether these are in a room, if that is not known.
    pub(super) fn room_check(&mut self, core: &mut Core, jid: &Jid) {
        let room_slot = self.slot;
        let Some(this) = self.rooms.get_mut(jid) else {
            return;
        };
        let (room, log) = (&mut this.room, &this.log);
        if room.to_check.is_empty() || core.now_ms < this.checked_ms + AGAIN_MS {
            return;
        }
        let inside = &room.by_session;
        room.to_check.retain(|session| inside.contains_key(session));
        this.checked_ms = core.now_ms;
        let events = log.events.values();
        let untold: HashSet<u128> = events.flat_map(LoggedEvent::owes_own).collect();
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
                .entry(known.home.0)
                .or_default()
                .push(proto::CheckedSession {
                    session_hi,
                    session_lo,
                    seq: known.seq,
                    presence_hash: presence.hash(),
                });
        }
        let seq = log.seq;
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
        let Some(this) = self.rooms.get_mut(&jid) else {
            return;
        };
        for session in &checked.inside {
            let id = join(session.session_hi, session.session_lo);
            this.room.to_check.remove(&id);
        }
        for session in &checked.outside {
            let id = join(session.session_hi, session.session_lo);
            let asked = self.rooms.get_mut(&jid).is_some_and(|this| {
                // It may have entered since it was asked about.
                let then = this.room.find(id);
                let then = then.is_some_and(|(_, s)| s.seq <= checked.seq);
                this.room.to_check.remove(&id) && then
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
            Some(this) if this.log.has_for(session) => &[status::SELF, status::REMOVED_ERROR],
            _ => &[status::REMOVED_ERROR],
        };
        self.room_ghost(core, jid, session, own);
    }
}

impl EventLog {
    /// Whether this owner has sent a session an event, or is going to.
    fn has_for(&self, session: u128) -> bool {
        let mut targets = self.events.values().flat_map(|event| &event.targets);
        self.last_sent.contains_key(&session) || targets.any(|t| t.session == session)
    }

    /// Whether, by the events that not all sessions have got yet, the last one about this session
    /// itself says that it is out.
    fn tells_out(&self, session: u128) -> bool {
        let mut told = self.events.values().rev();
        let last = told.find_map(|event| event.own_of(session));
        last.is_some_and(|own| own.r#type == "unavailable")
    }

    /// Whether an event after `seq`, that not all have got, has taken a session out that had this address.
    fn has_left(&self, session: u128, address: &str, seq: u64) -> bool {
        let mut later = self.events.range(seq + 1..);
        later.any(|(_, event)| event.takes_out(session, address))
    }

    /// A session knows an event of an owner before, with this number, and is in.
    fn admitted(&mut self, session: u128, seq: u64) {
        self.seq = self.seq.max(seq);
        // The session has entered the room again after an older leave. The state store has lost that the
        // session received that leave.
        for (_, event) in self.events.range_mut(..seq) {
            event.forget_leaving(session);
        }
    }
}

impl OwnedRoom {
    /// Has the room admit a session, with what the event log says of the session.
    fn admits(&mut self, member: &Member, left: &mut Vec<Left>) -> Admitted {
        let (me, log, before) = (&member.me, &mut self.log, left.len());
        let has_left = |address: &str| log.has_left(me.session, address, me.seq);
        let admitted = self.room.admit(member, has_left, left);
        for left in left.iter().skip(before) {
            if left.me.session != me.session {
                log.last_sent.remove(&left.me.session);
            }
        }
        admitted
    }
}
