//! Entering a room with more presences than are sent to a newcomer at once. The presences of the
//! occupants are sent in parts, each when the owner of the session has passed on the part before
//! it.
//!
//! The session is in after the last part. Until then it gets changes of the occupants, but no
//! messages.

use std::ops::Bound;

use sestina_xmpp::stanza::Stanza;

use super::broadcast::Broadcast;
use super::occupant::{Role, RoomSession};
use super::state::{Decision, Environment, Origin, Room};

/// Bytes of presences that are sent at once.
const PART_BYTES: usize = 256 << 10;

/// A session that is entering and is sent the occupants in parts.
#[derive(Debug)]
pub(crate) struct Entering {
    origin: Origin,
    nick: String,
    stanza: Stanza,
    /// As a receiver of events.
    me: RoomSession,
    /// Occupants up to this nick were sent.
    after: Option<String>,
}

impl Room {
    /// Whether the presences of the others are more than is sent at once.
    pub(crate) fn is_told_in_parts(&self, nick: &str) -> bool {
        let others = self.occupants.values().filter(|o| o.nick != nick);
        let bytes: usize = others.map(|o| o.main.presence.payload.len()).sum();
        bytes > PART_BYTES
    }

    /// Sessions that are not in, and hear what changes among the occupants.
    pub(crate) fn newcomers(&self) -> impl Iterator<Item = &RoomSession> {
        let all = self.entering.iter().map(|entering| &entering.me);
        all.filter(|me| !self.by_session.contains_key(&me.session))
    }

    /// Whether a session is being sent the occupants before it is in.
    pub(crate) fn is_entering(&self, session: u128) -> bool {
        self.entering.iter().any(|e| e.me.session == session)
    }

    /// Begins to send a session the occupants, before it is in itself.
    pub(crate) fn begins_to_enter(
        &mut self,
        origin: Origin,
        nick: String,
        stanza: Stanza,
    ) -> Decision {
        let (session, home) = (origin.session, origin.home);
        self.stops_entering(session);
        let me = RoomSession {
            jid: origin.jid.clone(),
            session,
            home,
            presence: Stanza::new(stanza.kind),
            seq: 0,
        };
        self.entering.push(Entering {
            origin,
            nick,
            stanza,
            me,
            after: None,
        });
        Decision::Enters((session, home), self.next_part(session).unwrap_or_default())
    }

    /// The next part of the occupants for a session; none if it was sent all.
    pub(crate) fn next_part(&mut self, session: u128) -> Option<Broadcast> {
        let at = self.entering.iter().position(|e| e.me.session == session)?;
        let entering = self.entering.get(at)?;
        let known = self.occupants.get(&entering.nick);
        let moderator = known.is_some_and(|o| o.role == Role::Moderator);
        let after = entering.after.as_deref();
        let after = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut broadcast = Broadcast::default();
        let (mut bytes, mut last) = (0, None);
        let rest = self.occupants.range::<str, _>((after, Bound::Unbounded));
        for (_, other) in rest.filter(|(nick, _)| **nick != entering.nick) {
            let presence = self.presence_of(other, &other.main, moderator, &[]);
            bytes += presence.payload.len();
            broadcast.add(presence, [&entering.me]);
            last = Some(other.nick.clone());
            if bytes >= PART_BYTES {
                break;
            }
        }
        self.entering.get_mut(at)?.after = Some(last?);
        Some(broadcast)
    }

    /// A session that was sent all occupants enters.
    pub(crate) fn enters_at_last(
        &mut self,
        environment: Environment<'_>,
        session: u128,
    ) -> Decision {
        let Some(at) = self.entering.iter().position(|e| e.me.session == session) else {
            return Decision::Ignored;
        };
        let Entering {
            origin,
            nick,
            stanza,
            ..
        } = self.entering.remove(at);
        self.enters(environment, origin, nick, stanza, true)
    }

    /// A session that was being sent the occupants does not enter any more, or is gone.
    pub(crate) fn stops_entering(&mut self, session: u128) {
        self.entering.retain(|e| e.me.session != session);
    }
}
