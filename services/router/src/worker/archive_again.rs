//! After a takeover: what was delivered live comes into the archive before anything new, in the
//! order in which clients got it. Rows that are there already count as done.
//!
//! A message that a dead owner had not archived is not settled, so each edge that got it holds it still, and
//! the order at each edge is the order in which the dead owner would have archived it. Sessions of
//! one user may have got different parts: the archive's order must be that of each of them.

use std::collections::VecDeque;

use sestina_api::key::{IdempotencyKey, Purpose};
use sestina_proto as proto;
use sestina_xmpp::ext::delay::is_delay_by;
use sestina_xmpp::jid::Jid;
use sestina_xmpp::stanza::{Kind, Stanza};

use super::core::Core;
use super::operations::OnDone;
use super::slot::Slot;
use crate::rng::HashMap;

/// Deliveries of one session, in order.
pub(crate) type Held = VecDeque<(IdempotencyKey, proto::Stanza)>;

impl Slot {
    /// Archives what sessions hold: what their clients took (`taken`), and what is in their queues.
    pub(crate) fn archive_again(&mut self, core: &mut Core, mut taken: HashMap<u128, Held>) {
        let mut users: Vec<(Jid, Vec<Held>)> = Vec::new();
        for (user, ids) in &self.users {
            let mut sessions = Vec::with_capacity(ids.len());
            for session in ids.iter().filter_map(|id| self.sessions.get(id)) {
                let mut held = taken.remove(&session.channel.id).unwrap_or_default();
                let queue = session.channel.outgoing.queue.iter();
                held.extend(queue.map(|item| (item.key, (*item.stanza).clone())));
                held.retain(|(key, _)| is_from_others(*key));
                if !held.is_empty() {
                    sessions.push(held);
                }
            }
            if !sessions.is_empty() {
                users.push((user.clone(), sessions));
            }
        }
        for (user, sessions) in users {
            for (key, stanza) in merge(sessions) {
                self.archive_item(core, &user, key, stanza);
            }
        }
    }

    fn archive_item(
        &mut self,
        core: &mut Core,
        user: &Jid,
        key: IdempotencyKey,
        stanza: proto::Stanza,
    ) {
        let mut stanza = Stanza::from(stanza);
        let stamped = stanza
            .children()
            .any(|c| super::records::is_stanza_id_by(&c, user.as_str()));
        if stanza.kind != Kind::Message || !stamped {
            return;
        }
        // What the owner had added.
        stanza.retain_children(|c| {
            !super::records::is_stanza_id_by(c, user.as_str()) && !is_delay_by(c, user.domain())
        });
        let peer = Jid::from_wire(&stanza.from);
        let operation = core.operations.open(OnDone::Nothing);
        self.archive(core, user, &peer, key, &stanza, operation, false);
        core.part_done(operation);
    }
}

/// Whether a delivery came from another user or from a room, and not from storage or the server.
pub(super) fn is_from_others(key: IdempotencyKey) -> bool {
    key.is(Purpose::Route) || key.is(Purpose::RoomEvent)
}

/// One order of all that agrees with each of them.
fn merge(mut sessions: Vec<Held>) -> Held {
    if sessions.len() < 2 {
        return sessions.pop().unwrap_or_default();
    }
    let mut left: HashMap<IdempotencyKey, usize> = HashMap::default();
    for (key, _) in sessions.iter().flatten() {
        *left.entry(*key).or_default() += 1;
    }
    let mut merged = Held::new();
    loop {
        let firsts: Vec<IdempotencyKey> = sessions
            .iter()
            .filter_map(|s| s.front().map(|f| f.0))
            .collect();
        // One that is first wherever it is; if they do not agree, any.
        let alone = |key: &&IdempotencyKey| {
            let count = firsts.iter().filter(|first| first == key).count();
            left.get(*key) == Some(&count)
        };
        let Some(key) = firsts.iter().find(alone).or(firsts.first()).copied() else {
            return merged;
        };
        let mut stanza = None;
        for session in &mut sessions {
            if session.front().is_some_and(|first| first.0 == key) {
                stanza = session.pop_front();
                if let Some(count) = left.get_mut(&key) {
                    *count -= 1;
                }
            }
        }
        merged.extend(stanza);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(numbers: &[u64]) -> Held {
        let key = |n| IdempotencyKey::new(1, n, Purpose::Route);
        let item = |n: &u64| (key(*n), proto::Stanza::default());
        numbers.iter().map(item).collect()
    }

    fn merged(sessions: &[&[u64]]) -> Vec<u64> {
        let sessions = sessions.iter().map(|numbers| held(numbers)).collect();
        merge(sessions).iter().map(|(key, _)| key.n).collect()
    }

    #[test]
    fn the_order_is_that_of_each_session() {
        assert_eq!(merged(&[&[3, 1, 2]]), [3, 1, 2]);
        assert_eq!(merged(&[&[2, 4], &[1, 2]]), [1, 2, 4]);
        assert_eq!(merged(&[&[5, 1, 3], &[1, 2, 3], &[2, 9]]), [5, 1, 2, 3, 9]);
    }

    #[test]
    fn nothing_is_left_out_where_they_do_not_agree() {
        assert_eq!(merged(&[&[1, 2], &[2, 1]]), [1, 2, 1]);
        assert!(merged(&[&[], &[]]).is_empty());
    }
}
