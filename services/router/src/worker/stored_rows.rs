//! Which stored messages a session is given: those that no other session of its user has, or is about
//! to be given.

use std::collections::BTreeSet;
use std::sync::Arc;

use sestina_api::key::{EffectKey, EffectKind};
use sestina_proto as proto;
use sestina_runtime::guard;
use sestina_xmpp::ext::delay::{Delay, is_delay_by};
use sestina_xmpp::jid::Jid;
use sestina_xmpp::stanza::Stanza;

use super::core::Core;
use super::session::{Session, Source, is_stored};
use super::slot::Slot;
use super::stored::Place;
use crate::chance::{HashMap, HashSet};

/// Names a message by its origin's number.
type Message = (u128, u64);

/// Which sessions of a user have a message already.
#[derive(Debug, Default)]
struct Had {
    /// As a row of the store.
    rows: HashSet<Message>,
    /// As it came, or a copy of it: session, and number if its client has not taken it.
    live: HashMap<Message, Vec<(u128, Option<u64>)>>,
}

impl Had {
    /// For a session that reads. Copies that others have of a message do not stand for the message.
    fn of<'a>(reader: u128, sessions: impl Iterator<Item = &'a Session>) -> Had {
        let mut had = Had::default();
        for session in sessions {
            let counts =
                |key: &EffectKey| session.id == reader || key.kind == EffectKind::Route as u32;
            let untaken = (session.acked + 1..).zip(session.queue.iter().map(|item| &item.key));
            // What an ended session has not taken went back to the store.
            let known = session.unreleased.rows();
            let known = known.filter(|(number, _)| session.is_live() || *number <= session.acked);
            for (number, key) in untaken.chain(known.map(|(number, key)| (*number, key))) {
                let message = (key.origin, key.n);
                if is_stored(*key) {
                    had.rows.insert(message);
                } else if counts(key) {
                    let untaken = (number > session.acked).then_some(number);
                    let holders = had.live.entry(message).or_default();
                    holders.push((session.id, untaken));
                }
            }
        }
        had
    }
}

/// What came while another session of the user was being given what is stored: it stands behind
/// the cursor of that one.
#[derive(Debug)]
struct Claim {
    jid: Jid,
    since: Place,
    /// It gets what was sent to the bare JID, too: it waits for longer than the session that reads.
    all: bool,
}

impl Claim {
    fn covers(&self, place: Place, to: &str) -> bool {
        place > self.since && (self.all || to == self.jid.as_str())
    }
}

impl Session {
    /// What another session, which reads since `reader`, leaves to this one.
    fn claim(&self, reader: (Place, u128)) -> Option<Claim> {
        let cursor = self.stored.as_ref().filter(|cursor| cursor.open)?;
        let reachable = self.priority().is_some_and(|p| p >= 0);
        Some(Claim {
            jid: self.jid.clone(),
            since: cursor.since,
            all: reachable && (cursor.since, self.id) < reader,
        })
    }

    /// The row of a message that the session has is in the store as well: it is marked when the
    /// client has taken the message.
    fn has_row(&mut self, number: Option<u64>, key: EffectKey) {
        let place = number.and_then(|number| number.checked_sub(self.acked + 1));
        let item = place
            .and_then(|place| usize::try_from(place).ok())
            .and_then(|place| self.queue.get_mut(place));
        match item {
            Some(item) => item.row = true,
            None => self.stored.get_or_insert_default().took(key),
        }
    }
}

impl Slot {
    /// Queues rows that no session of the user has. A session that is not reachable any more gets
    /// what came for its full JID while that stood behind the cursor, and leaves the others (RFC
    /// 6121 §8.5.2.1.1, §8.5.3.1).
    pub(super) fn queue_rows(&mut self, core: &mut Core, id: u128, rows: Vec<proto::OfflineRow>) {
        let Some(session) = self.sessions.get(&id) else {
            return;
        };
        let jid = session.jid.clone();
        let reachable = session.priority().is_some_and(|p| p >= 0);
        let since = session
            .stored
            .as_ref()
            .map_or(Place::default(), |c| c.since);
        let others = self.sessions_of(&jid.bare()).filter(|s| s.id != id);
        let claims: Vec<Claim> = others.filter_map(|s| s.claim((since, id))).collect();
        let user = self.users.get(&jid.bare()).into_iter().flatten();
        let had = Had::of(
            id,
            user.filter_map(|id| self.sessions.get(id).map(Box::as_ref)),
        );
        let mut holders = BTreeSet::new();
        for row in rows {
            let place = (row.epoch, row.counter);
            let Some(cursor) = self.sessions.get_mut(&id).and_then(|s| s.stored.as_mut()) else {
                break;
            };
            cursor.after = place;
            let (Some(key), Some(stanza)) = (row.key.as_ref().map(EffectKey::from), row.stanza)
            else {
                continue;
            };
            let message = (key.origin, key.n);
            if cursor.marked.contains(&key) || had.rows.contains(&message) {
                continue;
            }
            // A dead owner may have stored what its successor delivered.
            if let Some(live) = had.live.get(&message) {
                for (holder, number) in live {
                    if let Some(session) = self.sessions.get_mut(holder) {
                        session.has_row(*number, key);
                        holders.insert(*holder);
                    }
                }
                continue;
            }
            let mut stanza = Stanza::from(stanza);
            let own = place > since && stanza.to == jid.as_str();
            let claimed = claims.iter().any(|claim| claim.covers(place, &stanza.to));
            if !own && (!reachable || claimed) {
                continue;
            }
            if !guard!("stored") {
                cursor.took(key);
            }
            let domain = jid.domain();
            let delay = Delay {
                from: Some(domain.to_owned()),
                stamp_ms: row.at_ms,
                reason: Some("Offline storage".to_owned()),
            };
            // What was given back by a session may have its time already.
            stanza.retain_children(|c| !is_delay_by(c, domain));
            stanza.push_element(&delay.to_element());
            let stanza = Arc::new(stanza.into());
            self.deliver_as(core, id, key, stanza, None, Source::Stored);
        }
        for holder in holders {
            self.mark_stored(core, holder);
        }
    }
}
