#![allow(clippy::unwrap_used)]
use proptest::prelude::*;

use super::*;
use crate::chaos::history::{Absence, Sent};
use crate::rng::Rng;

/// A run without violations: pairs and rooms, `count` messages of each session, interleaved at
/// random but with one order per conversation.
fn perfect(pairs: usize, rooms: usize, room_size: usize, count: u32, seed: u64) -> History {
    let mut conversations = Vec::new();
    let mut next = 0;
    for (kind, size, how_many) in [(Kind::Pair, 2, pairs), (Kind::Room, room_size, rooms)] {
        for _ in 0..how_many {
            conversations.push(Conversation {
                kind,
                members: (next..next + size).collect(),
            });
            next += size;
        }
    }
    let mut history = History::new(next, conversations.clone());
    let mut rng = Rng::new(seed, 0);
    for conversation in &conversations {
        let members = &conversation.members;
        if conversation.kind == Kind::Pair {
            members
                .iter()
                .for_each(|member| history.archives[*member] = Some(Vec::new()));
        }
        for step in 0..u64::from(count) * members.len() as u64 {
            let mut sender = members[rng.below(members.len() as u64) as usize];
            while history.sent[sender].len() as u32 >= count {
                sender = members
                    [(members.iter().position(|m| *m == sender).unwrap() + 1) % members.len()];
            }
            let at = step * 1000;
            let n = history.sent[sender].len() as u32;
            let id = MessageId {
                sender: sender as u32,
                n,
            };
            history.sent[sender].push(Sent {
                at,
                acked: Some(at + 1),
                bounced: false,
            });
            for receiver in senders_to(conversation, sender) {
                let stanza_id = Some(format!("id-{receiver}-{sender}-{n}").into());
                history.delivered[receiver].push(Delivery {
                    id,
                    at: at + 2,
                    stanza_id,
                });
            }
            if conversation.kind == Kind::Pair {
                for owner in members {
                    let archive_id = format!("id-{owner}-{sender}-{n}").into();
                    let archive = history.archives[*owner].as_mut().unwrap();
                    archive.push(Archived { id, archive_id });
                }
            }
        }
    }
    history
}

fn senders_to(conversation: &Conversation, sender: usize) -> Vec<usize> {
    let room = conversation.kind == Kind::Room;
    conversation
        .members
        .iter()
        .copied()
        .filter(|m| room || *m != sender)
        .collect()
}

/// Sessions 0 and 1 are a pair, 2, 3 and 4 a room.
fn small(seed: u64) -> History {
    perfect(1, 1, 3, 10, seed)
}

proptest! {
    #[test]
    fn a_perfect_run_is_clean(seed: u64, pairs in 0usize..4, rooms in 0usize..3, count in 0u32..20) {
        let verdict = check(&perfect(pairs, rooms, 4, count, seed), true);
        prop_assert!(verdict.clean(), "{verdict:?}");
        let room_sends = (rooms * 4) as u64 * u64::from(count);
        let pair_sends = (pairs * 2) as u64 * u64::from(count);
        prop_assert_eq!(verdict.delivered, pair_sends + 4 * room_sends);
    }

    #[test]
    fn each_lost_delivery_is_found(seed: u64, receiver in 0usize..5, place in 0usize..10) {
        let mut history = small(seed);
        history.delivered[receiver].remove(place);
        let verdict = check(&history, true);
        prop_assert_eq!(verdict.lost, 1);
        prop_assert_eq!((verdict.doubled, verdict.reordered), (0, 0));
    }

    #[test]
    fn a_message_never_acknowledged_may_be_lost_but_not_doubled(
        seed: u64, receiver in 0usize..5, place in 0usize..10
    ) {
        let mut history = small(seed);
        let delivery = history.delivered[receiver][place].clone();
        history.sent[delivery.id.sender as usize][delivery.id.n as usize].acked = None;
        let mut lost = history.clone();
        lost.delivered[receiver].remove(place);
        prop_assert_eq!(check(&lost, true).lost, 0);
        history.delivered[receiver].push(delivery);
        prop_assert_eq!(check(&history, true).doubled, 1);
    }

    #[test]
    fn each_doubled_delivery_is_found(
        seed: u64, receiver in 0usize..5, from in 0usize..10, later in 0usize..10
    ) {
        let mut history = small(seed);
        let copy = history.delivered[receiver][from].clone();
        history.delivered[receiver].insert(from + 1 + later.min(9 - from), copy);
        let verdict = check(&history, true);
        prop_assert_eq!((verdict.lost, verdict.doubled, verdict.reordered), (0, 1, 0));
    }

    #[test]
    fn a_pair_out_of_order_is_found(seed: u64, receiver in 0usize..2, place in 0usize..9) {
        let mut history = small(seed);
        history.delivered[receiver].swap(place, place + 1);
        let verdict = check(&history, true);
        prop_assert_eq!((verdict.lost, verdict.doubled, verdict.reordered), (0, 0, 1));
        prop_assert!(verdict.archive_reordered >= 1, "the archives keep the order of sending");
    }

    #[test]
    fn a_room_with_two_orders_is_found(seed: u64, receiver in 2usize..5, place in 0usize..29) {
        let mut history = small(seed);
        history.delivered[receiver].swap(place, place + 1);
        let verdict = check(&history, true);
        prop_assert_eq!((verdict.lost, verdict.doubled), (0, 0));
        prop_assert!(verdict.reordered >= 1);
    }

    #[test]
    fn archives_that_lack_double_swap_or_rename_are_found(
        seed: u64, owner in 0usize..2, place in 0usize..19
    ) {
        let history = small(seed);
        let mut missing = history.clone();
        missing.archives[owner].as_mut().unwrap().remove(place);
        let verdict = check(&missing, true);
        prop_assert_eq!((verdict.archive_missing, verdict.archive_doubled), (1, 0));

        let mut doubled = history.clone();
        let copy = history.archives[owner].as_ref().unwrap()[place].clone();
        doubled.archives[owner].as_mut().unwrap().push(copy);
        let verdict = check(&doubled, true);
        prop_assert_eq!((verdict.archive_doubled, verdict.archive_reordered), (1, 0));

        let mut swapped = history.clone();
        let archive = swapped.archives[owner].as_mut().unwrap();
        let sender = archive[place].id.sender;
        if let Some(other) = (place + 1..archive.len()).find(|i| archive[*i].id.sender == sender) {
            archive.swap(place, other);
            prop_assert_eq!(check(&swapped, true).archive_reordered, 1);
        }

        let mut renamed = history.clone();
        let item = &mut renamed.archives[owner].as_mut().unwrap()[place];
        item.archive_id = "other".into();
        let received = u64::from(item.id.sender as usize != owner);
        prop_assert_eq!(check(&renamed, true).stanza_id_mismatch, received);
    }

    #[test]
    fn one_who_was_away_is_excused_for_that_time_only(
        seed: u64, receiver in 0usize..5, place in 0usize..10
    ) {
        let mut history = small(seed);
        let delivery = history.delivered[receiver].remove(place);
        let at = history.message(delivery.id).unwrap().at;
        history.absences[receiver].push(Absence { from: at, to: at });
        let verdict = check(&history, true);
        prop_assert_eq!((verdict.lost, verdict.excused), (0, 1));
        history.absences[receiver] = vec![Absence { from: at + 1, to: u64::MAX }];
        prop_assert_eq!(check(&history, true).lost, 1);
    }
}

#[test]
fn an_invented_message_and_an_unread_archive_are_found() {
    let mut history = small(1);
    let id = MessageId { sender: 0, n: 99 };
    history.delivered[1].push(Delivery {
        id,
        at: 0,
        stanza_id: None,
    });
    // Session 2 is in the room: none of its messages may reach the pair.
    let id = MessageId { sender: 2, n: 0 };
    history.delivered[1].push(Delivery {
        id,
        at: 0,
        stanza_id: None,
    });
    history.archives[0] = None;
    let verdict = check(&history, true);
    assert_eq!((verdict.invented, verdict.archives_unread), (2, 1));
    assert!(!verdict.clean());
    assert_eq!(check(&history, false).archives_unread, 0);
}

#[test]
fn a_message_answered_with_an_error_is_not_lost() {
    let mut history = small(1);
    let delivery = history.delivered[1].remove(3);
    let sent = &mut history.sent[delivery.id.sender as usize][delivery.id.n as usize];
    sent.bounced = true;
    let verdict = check(&history, true);
    assert_eq!((verdict.lost, verdict.bounced), (0, 1));
}

#[test]
fn examples_are_bounded() {
    let mut history = perfect(1, 0, 0, 100, 5);
    history.delivered[0].clear();
    let verdict = check(&history, false);
    assert_eq!(verdict.lost, 100);
    assert_eq!(verdict.examples.len(), EXAMPLES);
}
