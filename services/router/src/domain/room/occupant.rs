//! The occupants of a room: an occupant has a nick, and under it one or several sessions of one
//! user.

use std::borrow::Cow;

use sestina_xmpp::jid::Jid;
use sestina_xmpp::precis::nickname_key;
use sestina_xmpp::stanza::Stanza;

/// XEP-0045 §5.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Affiliation {
    None = 0,
    Owner = 4,
}

impl Affiliation {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Affiliation::None => "none",
            Affiliation::Owner => "owner",
        }
    }

    pub(crate) fn from_number(number: u32) -> Affiliation {
        if number == Affiliation::Owner as u32 {
            Affiliation::Owner
        } else {
            Affiliation::None
        }
    }
}

/// XEP-0045 §5.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Participant = 2,
    Moderator = 3,
}

impl Role {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Role::Participant => "participant",
            Role::Moderator => "moderator",
        }
    }

    pub(crate) fn from_number(number: u32) -> Role {
        if number == Role::Moderator as u32 {
            Role::Moderator
        } else {
            Role::Participant
        }
    }
}

/// Where the owner of a session is found: the slot of the session. Rooms keep it for those that send their events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Home(pub(crate) u16);

/// A session that is in a room.
#[derive(Clone, Debug)]
pub(crate) struct RoomSession {
    pub(crate) jid: Jid,
    pub(crate) session: u128,
    pub(crate) home: Home,
    /// Latest presence, as the client sent it, without what the room adds.
    pub(crate) presence: Stanza,
    /// The event that carried this presence to the session.
    pub(crate) seq: u64,
}

/// An occupant of a room.
#[derive(Clone, Debug)]
pub(crate) struct Occupant {
    /// As it was chosen.
    pub(crate) nick: String,
    /// The form by which the nick is compared with others (RFC 8266 §2.4); none if it is the nick itself.
    key: Option<Box<str>>,
    pub(crate) affiliation: Affiliation,
    pub(crate) role: Role,
    /// The session whose presence others see, and that gets their IQ requests: the first that
    /// entered, as long as it is there.
    pub(crate) main: RoomSession,
    /// Further sessions of the same user under this nick (§7.2.8), in the order in which they came.
    pub(crate) others: Vec<RoomSession>,
}

/// What is left under a nick that a session has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rest {
    /// The nick is free now.
    Nobody,
    /// Another session is the main one now.
    Successor,
    /// Others see no change.
    Same,
}

/// Affiliation and role from `RoomTarget.affiliation_and_role`.
pub(crate) fn from_affiliation_and_role(affiliation_and_role: u32) -> (Affiliation, Role) {
    (
        Affiliation::from_number(affiliation_and_role >> 8),
        Role::from_number(affiliation_and_role & 0xff),
    )
}

impl Occupant {
    /// An occupant with its first session.
    pub(crate) fn new(
        nick: String,
        affiliation: Affiliation,
        role: Role,
        main: RoomSession,
    ) -> Occupant {
        let key = match nickname_key(&nick) {
            Some(Cow::Owned(key)) => Some(key.into_boxed_str()),
            Some(Cow::Borrowed(_)) | None => None,
        };
        Occupant {
            nick,
            key,
            affiliation,
            role,
            main,
            others: Vec::new(),
        }
    }

    /// The form by which nicks are compared: no other user's may be the same (RFC 8266 §2.4).
    pub(crate) fn key(&self) -> &str {
        self.key.as_deref().unwrap_or(&self.nick)
    }

    /// Affiliation and role as they are sent to its sessions beside their presence; never 0.
    pub(crate) fn affiliation_and_role(&self) -> u32 {
        (self.affiliation as u32) << 8 | self.role as u32
    }

    /// All its sessions, the main one first.
    pub(crate) fn sessions(&self) -> impl Iterator<Item = &RoomSession> {
        std::iter::once(&self.main).chain(&self.others)
    }

    /// The identities of all its sessions.
    #[cfg(feature = "simulation")]
    pub(crate) fn all(&self) -> impl Iterator<Item = u128> {
        self.sessions().map(|s| s.session)
    }

    pub(crate) fn session(&self, session: u128) -> Option<&RoomSession> {
        self.sessions().find(|s| s.session == session)
    }

    /// Whether a session of this user may share the nick.
    pub(crate) fn is_of(&self, jid: &Jid) -> bool {
        self.main.jid.bare() == jid.bare()
    }

    /// Adds a session, or takes its new presence. Returns an older session of the same full JID,
    /// which must be gone, because two sessions cannot have the same address.
    pub(crate) fn enter(&mut self, new: RoomSession) -> Option<u128> {
        let all = std::iter::once(&mut self.main).chain(&mut self.others);
        for known in all {
            if known.session == new.session || known.jid == new.jid {
                let old = std::mem::replace(known, new);
                return (old.session != known.session).then_some(old.session);
            }
        }
        self.others.push(new);
        None
    }

    /// Takes a session away. The last session of an occupant stays in it: the caller forgets the
    /// whole occupant.
    pub(crate) fn leave(&mut self, session: u128) -> Rest {
        if self.main.session != session {
            self.others.retain(|s| s.session != session);
            return Rest::Same;
        }
        if self.others.is_empty() {
            return Rest::Nobody;
        }
        self.main = self.others.remove(0);
        Rest::Successor
    }
}

/// For tests: a session of Romeo, whose presence has its resource as id.
#[cfg(test)]
pub(crate) fn session_named(resource: &str, session: u128) -> RoomSession {
    let mut presence = Stanza::new(sestina_xmpp::stanza::Kind::Presence);
    presence.id = resource.to_owned();
    RoomSession {
        jid: Jid::from_wire(&format!("romeo@example.org/{resource}")),
        session,
        home: Home(7),
        presence,
        seq: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::session_named as session;
    use super::*;

    fn names(occupant: &Occupant) -> Vec<(u128, &str)> {
        occupant
            .sessions()
            .map(|s| (s.session, s.presence.id.as_str()))
            .collect()
    }

    #[test]
    fn sessions_come_and_go_and_the_first_is_seen() {
        let nick = "Romeo".to_owned();
        let phone = session("phone", 1);
        let mut romeo = Occupant::new(nick, Affiliation::Owner, Role::Moderator, phone);
        assert_eq!(romeo.key(), "romeo");
        assert_eq!(romeo.enter(session("laptop", 2)), None);
        assert_eq!(romeo.enter(session("tablet", 3)), None);
        assert_eq!(romeo.enter(session("laptop", 2)), None);
        // A full JID that is there again under another session.
        assert_eq!(romeo.enter(session("phone", 4)), Some(1));
        let three = [(4, "phone"), (2, "laptop"), (3, "tablet")];
        assert_eq!(names(&romeo), three);
        let affiliation_and_role = (romeo.affiliation, romeo.role);
        assert_eq!(
            from_affiliation_and_role(romeo.affiliation_and_role()),
            affiliation_and_role
        );

        assert_eq!(romeo.leave(2), Rest::Same);
        assert_eq!(romeo.leave(2), Rest::Same);
        assert_eq!(romeo.leave(4), Rest::Successor);
        assert_eq!(names(&romeo), [(3, "tablet")]);
        assert_eq!(romeo.leave(3), Rest::Nobody);
    }
}
