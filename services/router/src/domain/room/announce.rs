//! A room's new owner announces what only some sessions knew of the room.
//!
//! The owner before sends an event to all occupants, but it may die, and the state store may lose the
//! event, before all of them have received it. A new owner that learns of such a change from the session
//! that it is about announces the change again. An occupant that has received the event receives the same
//! presence twice.

use sestina_xmpp::ext::muc::status;

use super::broadcast::Broadcast;
use super::occupant::{Occupant, Rest, RoomSession};
use super::state::Room;
use crate::rng::HashSet;

/// How many presences a room sends for this at most, about, because a room of thousands of occupants would
/// send millions. The changes with the latest events are announced first: the older an event is, the
/// less likely is an occupant that has not received it.
const ANNOUNCED: usize = 20_000;

/// A session that is not under a nick any more, of which some occupants may not know.
pub(crate) struct Left {
    /// The occupant of that nick, as it was before the session left.
    pub(crate) before: Occupant,
    pub(crate) me: RoomSession,
    pub(crate) rest: Rest,
}

impl Room {
    /// Makes the event that announces these changes. `changed` are the sessions that were let in, or whose
    /// presence or nick was corrected; `left` are the sessions that are not under their nicks any more.
    /// Both are in the order of their events. `seq`: the number that the event will have.
    pub(crate) fn announce_changed(
        &mut self,
        seq: u64,
        changed: &[u128],
        left: &[Left],
    ) -> Broadcast {
        let mut broadcast = Broadcast::default();
        let limit = ANNOUNCED / self.by_session.len().max(1) + 1;
        let silent_left = left.len().saturating_sub(limit);
        let mut renamed = HashSet::default();
        for left in &left[silent_left..] {
            if self.announce_left(&mut broadcast, left, seq) {
                renamed.insert(left.me.session);
            }
        }
        let silent_changed = changed.len().saturating_sub(limit);
        let (early, latest) = changed.split_at(silent_changed);
        // The others were told that the session has a new nick: they are told who has that nick.
        let early = early.iter().filter(|session| renamed.contains(*session));
        let mut told = HashSet::default();
        for session in early.chain(latest) {
            if let Some((occupant, me)) = self.find(*session)
                && occupant.main.session == me.session
                && told.insert(*session)
            {
                self.announce(&mut broadcast, occupant, me.session);
            }
        }
        let silent = silent_left + silent_changed;
        if silent > 0 {
            tracing::warn!(
                room = self.jid.as_str(),
                silent,
                "too many occupants have changed to announce all of them again"
            );
        }
        broadcast
    }

    /// Announces that a session has left its nick, with the presences of a new nick (XEP-0045 §7.6) or of
    /// leaving (§7.14). True if the others are told that the session has a new nick.
    fn announce_left(&mut self, broadcast: &mut Broadcast, left: &Left, seq: u64) -> bool {
        let Left { before, me, rest } = left;
        let now = self.find(me.session);
        let now = now.map(|(occupant, now)| (occupant.nick.clone(), now.clone()));
        let nick = now.as_ref().map(|(nick, _)| nick.as_str());
        let gone = |show_jid, statuses: &[u16]| {
            self.unavailable_of(before, me, show_jid, None, nick, statuses)
        };
        let own = gone(true, &[status::NICK_CHANGED, status::SELF]);
        let mut others_know = false;
        match (rest, self.occupants.get(&before.nick)) {
            (Rest::Nobody, None) => {
                let statuses: &[u16] = if nick.is_some() {
                    &[status::NICK_CHANGED]
                } else {
                    &[]
                };
                self.tell_others(broadcast, me.session, |show_jid| gone(show_jid, statuses));
                others_know = nick.is_some();
            }
            (Rest::Successor, Some(other)) => self.announce(broadcast, other, me.session),
            // Another session has the nick now, and is announced, or it is the main session as before.
            _ => {}
        }
        let Some((nick, mut now)) = now else {
            return false;
        };
        broadcast.add(own, [&now]);
        now.seq = seq;
        if let Some(occupant) = self.occupants.get_mut(&nick) {
            occupant.enter(now.clone());
        }
        if let Some(occupant) = self.occupants.get(&nick) {
            let own = self.presence_of(occupant, &now, true, &[status::SELF]);
            broadcast.add_own(own, occupant, &now);
        }
        others_know
    }
}
