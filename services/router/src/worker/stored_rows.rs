//! Which stored messages a session is given: those that no other session of its user has, or is about
//! to be given.

use std::collections::BTreeSet;
use std::sync::Arc;

use sestina_api::key::{IdempotencyKey, Purpose};
use sestina_proto as proto;
use sestina_runtime::guard;
use sestina_xmpp::ext::delay::{Delay, is_delay_by};
use sestina_xmpp::jid::Jid;
use sestina_xmpp::stanza::Stanza;

use super::channel::{Source, is_stored};
use super::core::Core;
use super::session::Session;
use super::slot::Slot;
use super::stored::Place;
use crate::rng::{HashMap, HashSet};

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
                |key: &IdempotencyKey| session.channel.id == reader || key.is(Purpose::Route);
            let untaken = (session.channel.outgoing.acked + 1..)
                .zip(session.channel.outgoing.queue.iter().map(|item| &item.key));
            // Rows that an ended session has not taken went back to the store.
            let known = session.channel.outgoing.in_flight_keys.rows();
            let known = known.filter(|(number, _)| {
                session.channel.is_live() || *number <= session.channel.outgoing.acked
            });
            for (number, key) in untaken.chain(known.map(|(number, key)| (*number, key))) {
                let message = (key.origin, key.n);
                if is_stored(*key) {
                    had.rows.insert(message);
                } else if counts(key) {
                    let untaken = (number > session.channel.outgoing.acked).then_some(number);
                    let holders = had.live.entry(message).or_default();
                    holders.push((session.channel.id, untaken));
                }
            }
        }
        had
    }
}

/// Messages that came while another session of the user was being given stored ones: they stand behind
/// the cursor of that one.
#[derive(Debug)]
struct Claim {
    jid: Jid,
    since: Place,
    /// It gets what was sent to the bare JID, too: it waits for longer than the session that reads.
    all: bool,
}

impl Claim {
    /// A session gets what is stored for its own address in any case: it may have earlier messages of the same sender in
    /// its queue, which go back to the store if it ends.
    fn covers(&self, place: Place, to: &str) -> bool {
        to == self.jid.as_str() || (self.all && place > self.since)
    }
}

impl Session {
    /// The rows that this session gets from the store, and that another session, which reads it since `reader`, skips.
    fn claim(&self, reader: (Place, u128)) -> Option<Claim> {
        let cursor = self.client.stored.as_ref().filter(|cursor| cursor.open)?;
        let reachable = self.client.priority().is_some_and(|p| p >= 0);
        Some(Claim {
            jid: self.channel.jid.clone(),
            since: cursor.since,
            all: reachable && (cursor.since, self.channel.id) < reader,
        })
    }

    /// The row of a message that the session has is in the store as well: it is marked when the
    /// client has taken the message.
    fn has_row(&mut self, number: Option<u64>, key: IdempotencyKey) {
        let place = number.and_then(|number| number.checked_sub(self.channel.outgoing.acked + 1));
        let item = place
            .and_then(|place| usize::try_from(place).ok())
            .and_then(|place| self.channel.outgoing.queue.get_mut(place));
        match item {
            Some(item) => item.row = true,
            None => self.client.stored.get_or_insert_default().took(key),
        }
    }
}

impl Slot {
    /// Queues rows that no session of the user has. A session gets all that is stored for its full JID, also what
    /// came before it was bound: a later message of the same sender would else overtake an earlier one, which
    /// another session claims or which is left because the session is not reachable. A session that is not
    /// reachable any more leaves the other rows (RFC 6120 §10.1, RFC 6121 §8.5.2.1.1, §8.5.3.1).
    pub(super) fn queue_rows(&mut self, core: &mut Core, id: u128, rows: Vec<proto::OfflineRow>) {
        let Some(session) = self.sessions.get(&id) else {
            return;
        };
        let jid = session.channel.jid.clone();
        let reachable = session.client.priority().is_some_and(|p| p >= 0);
        let since = session
            .client
            .stored
            .as_ref()
            .map_or(Place::default(), |c| c.since);
        let others = self.sessions_of(&jid.bare()).filter(|s| s.channel.id != id);
        let claims: Vec<Claim> = others.filter_map(|s| s.claim((since, id))).collect();
        let user = self.users.get(&jid.bare()).into_iter().flatten();
        let had = Had::of(
            id,
            user.filter_map(|id| self.sessions.get(id).map(Box::as_ref)),
        );
        let mut holders = BTreeSet::new();
        for row in rows {
            let place = (row.epoch, row.counter);
            let Some(cursor) = self
                .sessions
                .get_mut(&id)
                .and_then(|s| s.client.stored.as_mut())
            else {
                break;
            };
            cursor.after = place;
            let (Some(key), Some(stanza)) =
                (row.key.as_ref().map(IdempotencyKey::from), row.stanza)
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
            let own = stanza.to == jid.as_str();
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
            // A message that a session gave back may have its time already.
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
