//! A room learns from the owners of sessions which of these are in it.

use sestina_xmpp::ext::muc::status;
use sestina_xmpp::stanza::Stanza;

use super::announce::Left;
use super::broadcast::Broadcast;
use super::occupant::{RoomSession, from_affiliation_and_role};
use super::state::Room;

/// What became of a session that takes itself for an occupant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admitted {
    /// It is known.
    Known,
    /// It is in now, or it is there otherwise than before.
    Changed,
    /// Another occupant has its nick.
    Refused,
}

/// A session that takes itself for an occupant.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub(crate) nick: String,
    /// See `RoomTarget.affiliation_and_role`.
    pub(crate) affiliation_and_role: u32,
    pub(crate) me: RoomSession,
}

impl Room {
    /// Lets a session in that takes itself for an occupant, or corrects its presence. Sessions that leave their nicks
    /// for it are added to `left`. `has_left` says whether an event that not all sessions have got has taken the
    /// session out since, which had that address.
    pub(crate) fn admit(
        &mut self,
        member: &Member,
        has_left: impl FnOnce(&str) -> bool,
        left: &mut Vec<Left>,
    ) -> Admitted {
        let me = &member.me;
        if let Some((occupant, known)) = self.find(me.session) {
            let same = known.seq == me.seq && is_same(&known.presence, &me.presence);
            if known.seq > me.seq || same {
                return Admitted::Known;
            }
            if occupant.nick == member.nick {
                self.put(member);
                return Admitted::Changed;
            }
        } else if has_left(&self.address(&member.nick)) {
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

    /// It is not known of any session whether it is in.
    pub(crate) fn checks_all(&mut self) {
        self.to_check = self.by_session.keys().copied().collect();
    }

    /// Sends a session its own presence again; none if it is not in.
    pub(crate) fn tells_own(&mut self, session: u128, seq: u64) -> Option<Broadcast> {
        let nick = self.by_session.get(&session)?;
        let occupant = self.occupants.get_mut(nick)?;
        if let Some(known) = occupant.session(session) {
            let me = RoomSession {
                seq,
                ..known.clone()
            };
            occupant.enter(me);
        }
        let mut broadcast = Broadcast::default();
        let (occupant, me) = self.find(session)?;
        let own = self.presence_of(occupant, me, true, &[status::SELF]);
        broadcast.add_own(own, occupant, me);
        broadcast.changes(&occupant.nick);
        Some(broadcast)
    }

    fn put(&mut self, member: &Member) {
        let (affiliation, role) = from_affiliation_and_role(member.affiliation_and_role);
        self.enter(&member.nick, affiliation, role, member.me.clone());
        if let Some(occupant) = self.occupants.get_mut(&member.nick) {
            (occupant.affiliation, occupant.role) = (affiliation, role);
        }
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

/// Whether two presences are the same to the clients that get them.
fn is_same(one: &Stanza, other: &Stanza) -> bool {
    let hash = |stanza: &Stanza| sestina_proto::Stanza::from(stanza.clone()).hash();
    hash(one) == hash(other)
}
