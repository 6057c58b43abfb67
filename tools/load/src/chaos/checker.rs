//! Checks the notes of a run.

use std::collections::HashMap;

use serde::Serialize;

use super::history::{Archived, Conversation, Delivery, History, Kind, MessageId};

/// How many examples of each violation are listed.
const EXAMPLES: usize = 20;

/// The violations. The server promises that all counts of them are zero.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// Messages sent.
    pub sent: u64,
    /// Messages that the server acknowledged.
    pub acknowledged: u64,
    /// Messages that the server never acknowledged; it promises only that they come in order and at
    /// most once.
    pub unacknowledged: u64,
    /// Messages answered with an error.
    pub bounced: u64,
    /// Live deliveries.
    pub delivered: u64,
    /// Deliveries that are excused because the receiver's resumption was refused.
    pub excused: u64,
    /// Acknowledged messages that a receiver never got live.
    pub lost: u64,
    /// Deliveries of a message after the first.
    pub doubled: u64,
    /// Deliveries out of order.
    pub reordered: u64,
    /// Deliveries of messages that no session sent.
    pub invented: u64,
    /// Archives that were read.
    pub archives_read: u64,
    /// Archives that could not be read.
    pub archives_unread: u64,
    /// Acknowledged messages that an archive lacks.
    pub archive_missing: u64,
    /// Copies of a message in an archive after the first.
    pub archive_doubled: u64,
    /// Messages whose order in an archive is not that of their delivery.
    pub archive_reordered: u64,
    /// Messages whose id in the receiver's archive is not that of the live delivery.
    pub stanza_id_mismatch: u64,
    /// The first examples of each violation.
    pub examples: Vec<String>,
    #[serde(skip)]
    listed: HashMap<&'static str, usize>,
}

impl Verdict {
    /// Whether there is no violation.
    #[must_use]
    pub fn clean(&self) -> bool {
        [
            self.lost,
            self.doubled,
            self.reordered,
            self.invented,
            self.archives_unread,
            self.archive_missing,
            self.archive_doubled,
            self.archive_reordered,
            self.stanza_id_mismatch,
        ]
        .iter()
        .all(|count| *count == 0)
    }

    fn example(&mut self, fault: &'static str, id: MessageId, at: usize, more: &str) {
        let listed = self.listed.entry(fault).or_default();
        *listed += 1;
        if *listed <= EXAMPLES {
            let text = format!(
                "{fault}: message {} of session {} at session {at}{more}",
                id.n, id.sender
            );
            self.examples.push(text);
        }
    }
}

/// Checks a run. `archives`: whether the archives of pairs must have been read.
#[must_use]
pub fn check(history: &History, archives: bool) -> Verdict {
    let mut verdict = Verdict::default();
    for sent in history.sent.iter().flatten() {
        verdict.sent += 1;
        verdict.bounced += u64::from(sent.bounced);
        match sent.acked {
            Some(_) => verdict.acknowledged += 1,
            None => verdict.unacknowledged += 1,
        }
    }
    for conversation in &history.conversations {
        for &receiver in &conversation.members {
            live(history, conversation, receiver, &mut verdict);
        }
        match conversation.kind {
            Kind::Room => room_order(history, conversation, &mut verdict),
            Kind::Pair if archives => {
                for &owner in &conversation.members {
                    archive(history, conversation, owner, &mut verdict);
                }
            }
            Kind::Pair => {}
        }
    }
    verdict
}

/// The members whose messages a member must get.
fn senders(conversation: &Conversation, receiver: usize) -> impl Iterator<Item = usize> + '_ {
    let own = conversation.kind == Kind::Room;
    conversation
        .members
        .iter()
        .copied()
        .filter(move |member| own || *member != receiver)
}

/// Checks that each acknowledged message came once, and each sender's messages in the order of
/// sending.
fn live(history: &History, conversation: &Conversation, receiver: usize, verdict: &mut Verdict) {
    let mut counts: HashMap<MessageId, u32> = HashMap::new();
    let mut highest: HashMap<u32, u32> = HashMap::new();
    for delivery in &history.delivered[receiver] {
        let id = delivery.id;
        verdict.delivered += 1;
        let known = senders(conversation, receiver).any(|sender| sender == id.sender as usize);
        let Some(sent) = history.message(id).filter(|_| known) else {
            verdict.invented += 1;
            verdict.example("invented", id, receiver, "");
            continue;
        };
        let excused = history.excused(receiver, sent.at);
        let count = counts.entry(id).or_default();
        *count += 1;
        if *count > 1 {
            if !excused {
                verdict.doubled += 1;
                verdict.example("doubled", id, receiver, "");
            }
            continue;
        }
        if excused {
            continue;
        }
        match highest.get_mut(&id.sender) {
            Some(highest) if *highest > id.n => {
                verdict.reordered += 1;
                let more = format!(", after {highest}");
                verdict.example("reordered", id, receiver, &more);
            }
            Some(highest) => *highest = id.n,
            None => {
                highest.insert(id.sender, id.n);
            }
        }
    }
    for sender in senders(conversation, receiver) {
        for (n, sent) in history.sent[sender].iter().enumerate() {
            let id = MessageId {
                sender: sender as u32,
                n: n as u32,
            };
            if counts.contains_key(&id) || sent.acked.is_none() || sent.bounced {
                continue;
            }
            if history.excused(receiver, sent.at) {
                verdict.excused += 1;
            } else {
                verdict.lost += 1;
                verdict.example("lost", id, receiver, "");
            }
        }
    }
}

/// First deliveries of messages from which the receiver is not excused, in order.
fn sequence(history: &History, receiver: usize) -> Vec<MessageId> {
    let mut seen = std::collections::HashSet::new();
    history.delivered[receiver]
        .iter()
        .filter(|delivery| {
            history
                .message(delivery.id)
                .is_some_and(|sent| !history.excused(receiver, sent.at))
        })
        .map(|delivery| delivery.id)
        .filter(|id| seen.insert(*id))
        .collect()
}

/// Checks that all occupants got the same order. Violations of a sender's own order were counted
/// before.
fn room_order(history: &History, conversation: &Conversation, verdict: &mut Verdict) {
    let sequences: Vec<(usize, Vec<MessageId>)> = conversation
        .members
        .iter()
        .map(|&member| (member, sequence(history, member)))
        .collect();
    let Some((reference, order)) = sequences.iter().max_by_key(|(_, order)| order.len()) else {
        return;
    };
    let place: HashMap<MessageId, usize> = order
        .iter()
        .enumerate()
        .map(|(place, id)| (*id, place))
        .collect();
    for (member, order) in sequences.iter().filter(|(member, _)| member != reference) {
        let mut highest: Option<(usize, MessageId)> = None;
        let mut own: HashMap<u32, u32> = HashMap::new();
        for id in order {
            let in_own_order = own.get(&id.sender).is_none_or(|highest| *highest < id.n);
            if in_own_order {
                own.insert(id.sender, id.n);
            }
            let Some(place) = place.get(id).copied() else {
                continue;
            };
            match highest {
                Some((before, other)) if before > place => {
                    if in_own_order {
                        verdict.reordered += 1;
                        let more = format!(
                            ", after message {} of session {}, unlike session {reference}",
                            other.n, other.sender
                        );
                        verdict.example("reordered", *id, *member, &more);
                    }
                }
                _ => highest = Some((place, *id)),
            }
        }
    }
}

/// Checks that each acknowledged message of both directions is in the archive once, in the order of
/// the live deliveries, under the delivered id.
fn archive(history: &History, conversation: &Conversation, owner: usize, verdict: &mut Verdict) {
    let Some(items) = &history.archives[owner] else {
        verdict.archives_unread += 1;
        return;
    };
    verdict.archives_read += 1;
    let mut found: HashMap<MessageId, Vec<&Archived>> = HashMap::new();
    for item in items {
        found.entry(item.id).or_default().push(item);
    }
    for &sender in &conversation.members {
        let receiver = conversation
            .members
            .iter()
            .copied()
            .find(|member| *member != sender);
        let Some(receiver) = receiver else { continue };
        let mut live: HashMap<MessageId, (usize, &Delivery)> = HashMap::new();
        for (place, delivery) in history.delivered[receiver].iter().enumerate() {
            live.entry(delivery.id).or_insert((place, delivery));
        }
        for (n, sent) in history.sent[sender].iter().enumerate() {
            let id = MessageId {
                sender: sender as u32,
                n: n as u32,
            };
            let copies = found.get(&id).map_or(&[][..], Vec::as_slice);
            if copies.is_empty() && sent.acked.is_some() && !sent.bounced {
                verdict.archive_missing += 1;
                verdict.example("archive_missing", id, owner, "");
            }
            if copies.len() > 1 {
                verdict.archive_doubled += copies.len() as u64 - 1;
                verdict.example("archive_doubled", id, owner, "");
            }
            if owner == receiver
                && let [copy, ..] = copies
                && let Some((_, delivery)) = live.get(&id)
                && delivery.stanza_id.as_ref() != Some(&copy.archive_id)
                && !history.excused(receiver, sent.at)
            {
                verdict.stanza_id_mismatch += 1;
                let more = format!(
                    ", live {:?}, archive {:?}",
                    delivery.stanza_id, copy.archive_id
                );
                verdict.example("stanza_id_mismatch", id, owner, &more);
            }
        }
        let mut highest: Option<usize> = None;
        let mut seen = std::collections::HashSet::new();
        let direction = items
            .iter()
            .map(|item| item.id)
            .filter(|id| id.sender as usize == sender);
        for id in direction.filter(|id| seen.insert(*id)) {
            let excused = history
                .message(id)
                .is_none_or(|sent| history.excused(receiver, sent.at));
            let Some((place, _)) = live.get(&id).filter(|_| !excused) else {
                continue;
            };
            if highest.is_some_and(|highest| highest > *place) {
                verdict.archive_reordered += 1;
                verdict.example("archive_reordered", id, owner, "");
            } else {
                highest = Some(*place);
            }
        }
    }
}

#[cfg(test)]
#[path = "checker_tests.rs"]
mod tests;
