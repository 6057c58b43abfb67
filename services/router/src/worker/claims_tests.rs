#![allow(clippy::unwrap_used)]

use sestina_api::key::{EffectKey, EffectKind};
use sestina_proto::peer_frame::Body as PeerBody;
use sestina_xmpp::jid::Jid;

use super::*;
use crate::worker::garden::*;

#[test]
fn a_room_that_the_store_lost_is_made_again_of_its_members() {
    let mut garden = Garden::new(Vec::new());
    garden.router_tells(Vec::new());
    let asked = garden.edge_tells(vec![
        told("juliet", 1, OWNER, 5, "here"),
        told("nurse", 2, NONE, 6, "sighing"),
    ]);
    assert_eq!(asked, [1, 2]);
    let juliet = with_presence(told("juliet", 1, OWNER, 5, "here"), "here");
    garden.edge(part(vec![juliet], true));
    assert!(!garden.is_active(), "there is more to come");
    let nurse = with_presence(told("nurse", 2, NONE, 6, "sighing"), "sighing");
    garden.edge(part(vec![nurse], false));
    assert!(garden.is_active());
    let juliet = is("juliet", "moderator", 1, "here");
    let nurse = is("nurse", "participant", 2, "sighing");
    assert_eq!(garden.inside(), [juliet, nurse]);
}

/// The store was away: what it has of the room is old.
#[test]
fn a_member_that_the_store_lacks_is_in_and_one_that_has_another_nick_has_it() {
    let fields = vec![
        stored("juliet", 1, 5, "here"),
        stored("nurse", 2, 6, "sighing"),
        stored("tybalt", 3, 7, "angry"),
    ];
    let mut garden = Garden::new(fields);
    garden.router_tells(Vec::new());
    let asked = garden.edge_tells(vec![
        // As it was; it says the same under another nick; another presence; it has entered since.
        told("juliet", 1, NONE, 5, "here"),
        told("angelica", 2, NONE, 12, "sighing"),
        told("tybalt", 3, NONE, 13, "calm"),
        told("romeo", 4, NONE, 14, "in love"),
    ]);
    assert_eq!(asked, [3, 4], "the others' presences are known");
    garden.edge(part(
        vec![
            with_presence(told("tybalt", 3, NONE, 13, "calm"), "calm"),
            with_presence(told("romeo", 4, NONE, 14, "in love"), "in love"),
        ],
        false,
    ));
    assert_eq!(
        garden.inside(),
        [
            is("angelica", "participant", 2, "sighing"),
            is("juliet", "participant", 1, "here"),
            is("romeo", "participant", 4, "in love"),
            is("tybalt", "participant", 3, "calm"),
        ]
    );
}

/// What the store has is newer: the event that tells it is sent again.
#[test]
fn an_older_word_of_an_edge_changes_nothing() {
    let mut garden = Garden::new(vec![stored("juliet", 1, 9, "here")]);
    garden.router_tells(Vec::new());
    let asked = garden.edge_tells(vec![told("jule", 1, OWNER, 8, "coming")]);
    assert_eq!(asked, [0; 0]);
    assert_eq!(garden.inside(), [is("juliet", "participant", 1, "here")]);
}

#[test]
fn a_member_without_an_edge_is_told_of_by_its_router() {
    let mut garden = Garden::new(vec![stored("juliet", 1, 5, "here")]);
    let romeo = with_presence(told("romeo", 4, NONE, 14, "away"), "away");
    garden.edge_tells(vec![told("juliet", 1, NONE, 5, "here")]);
    garden.router_tells(vec![romeo]);
    let juliet = is("juliet", "participant", 1, "here");
    let romeo = is("romeo", "participant", 4, "away");
    assert_eq!(garden.inside(), [juliet, romeo]);
}

/// The notice that somebody has left may have been lost with the owner before.
#[test]
fn a_member_whose_owner_says_that_it_is_not_there_leaves() {
    let fields = vec![
        stored("juliet", 1, 5, "here"),
        stored("nurse", 2, 6, "sighing"),
    ];
    let mut garden = Garden::new(fields);
    garden.router_tells(Vec::new());
    garden.edge_tells(vec![told("juliet", 1, NONE, 5, "here")]);
    let checks = garden.sent().into_iter().filter_map(|body| match body {
        PeerBody::RoomCheck(check) => Some(check),
        _ => None,
    });
    let [check] = &checks.collect::<Vec<_>>()[..] else {
        panic!("not asked once");
    };
    let sessions: Vec<u64> = check.sessions.iter().map(|s| s.session_lo).collect();
    assert_eq!(sessions, [1, 2]);
    let answer = |inside: &[u64], outside: &[u64], seq| {
        let named = |sessions: &[u64]| -> Vec<proto::CheckedSession> {
            let all = check.sessions.iter();
            let named = all.filter(|s| sessions.contains(&s.session_lo));
            named.copied().collect()
        };
        PeerBody::RoomChecked(proto::RoomChecked {
            room: GARDEN.to_owned(),
            seq,
            inside: named(inside),
            outside: named(outside),
        })
    };
    // Asked before the nurse was let in: it says nothing of that.
    garden.peer(answer(&[1], &[2], 5));
    assert_eq!(garden.inside().len(), 2);
    // Nobody asks any more about those of whom it is known.
    garden.peer(answer(&[], &[1], 10));
    assert_eq!(garden.inside().len(), 2);
    let mut garden = Garden::new(vec![
        stored("juliet", 1, 5, "here"),
        stored("nurse", 2, 6, "sighing"),
    ]);
    garden.router_tells(Vec::new());
    garden.edge_tells(Vec::new());
    garden.peer(answer(&[1], &[2], 10));
    assert_eq!(garden.inside(), [is("juliet", "participant", 1, "here")]);
}

/// Two sessions take the same nick for theirs: one of them is told that it is not in.
#[test]
fn a_session_whose_nick_is_taken_is_told_so() {
    let mut garden = Garden::new(vec![stored("juliet", 1, 5, "here")]);
    garden.router_tells(Vec::new());
    let asked = garden.edge_tells(vec![
        told("juliet", 1, NONE, 5, "here"),
        told("juliet", 2, NONE, 12, "too"),
    ]);
    assert_eq!(asked, [2]);
    let other = with_presence(told("juliet", 2, NONE, 12, "too"), "too");
    garden.edge(part(vec![other], false));
    assert_eq!(garden.inside(), [is("juliet", "participant", 1, "here")]);
    let slot = garden.router.worker.slots.get_mut(garden.slot).unwrap();
    let room = slot.rooms.get(&Jid::from_wire(GARDEN)).unwrap();
    let events = events(room);
    let event = events.first().expect("an event");
    let [target] = &event.targets[..] else {
        panic!("{:?}", event.targets);
    };
    assert_eq!((target.session_lo, target.standing), (2, NONE));
    let out = String::from_utf8_lossy(&event.variants[0].payload).into_owned();
    assert_eq!(event.variants[0].r#type, "unavailable");
    assert!(out.contains("110") && out.contains("333"), "{out}");
}

/// One that comes from the shadow, or has lost its edge, is told of by itself until it is heard.
#[test]
fn a_room_hears_of_a_member_late_and_says_so() {
    let mut garden = Garden::new(vec![stored("juliet", 1, 5, "here")]);
    garden.router_tells(Vec::new());
    garden.edge_tells(Vec::new());
    garden.sent();
    let romeo = with_presence(told("romeo", 4, NONE, 14, "away"), "away");
    garden.peer(PeerBody::RoomTold(proto::RoomTold {
        members: vec![romeo],
        ..proto::RoomTold::default()
    }));
    assert_eq!(garden.inside().len(), 2);
    let heard = garden.sent().into_iter().find_map(|body| match body {
        PeerBody::RoomHeard(heard) => Some(heard),
        _ => None,
    });
    let heard = heard.expect("an answer").members;
    assert_eq!((heard[0].room.as_str(), heard[0].session_lo), (GARDEN, 4));
}

/// The answer of the room may have gone to the owner of the session that is dead.
#[test]
fn a_session_that_does_not_know_whether_it_is_in_is_told_so() {
    let mut garden = Garden::new(vec![stored("juliet", 1, 5, "here")]);
    garden.router_tells(Vec::new());
    garden.edge_tells(Vec::new());
    // The second of them tells again, because it has not heard that it was heard.
    for (session, type_) in [(1, ""), (2, "unavailable"), (2, "unavailable")] {
        garden.does_not_know("juliet", session);
        let own: Vec<(String, String)> = garden.own_of(session);
        assert_eq!(own, [(type_.to_owned(), format!("{GARDEN}/juliet"))]);
    }
    assert_eq!(garden.inside(), [is("juliet", "participant", 1, "here")]);
}

/// Nobody is in a room, and one session does not know that it is not.
#[test]
fn a_session_that_does_not_know_whether_it_is_in_a_room_of_nobody_is_told_so() {
    let mut garden = Garden::new(Vec::new());
    garden.router_tells(Vec::new());
    garden.edge_tells(Vec::new());
    garden.does_not_know("juliet", 1);
    let own = ("unavailable".to_owned(), format!("{GARDEN}/juliet"));
    assert_eq!(garden.own_of(1), [own]);
    assert!(garden.inside().is_empty());
}

/// Its owner has last heard that the session has left: it would say so, and hear then that the session is
/// in again.
#[test]
fn nobody_is_asked_about_a_member_before_its_own_presence_is_taken() {
    let enters = proto::RoomTailEvent {
        seq: 6,
        variants: vec![proto::Stanza {
            from: format!("{GARDEN}/nurse"),
            ..presence("sighing")
        }],
        targets: vec![proto::RoomTailTarget {
            slot: 1,
            session_lo: 2,
            standing: NONE,
            ..proto::RoomTailTarget::default()
        }],
    };
    let mut garden = Garden::new(vec![
        stored("juliet", 1, 5, "here"),
        stored("nurse", 2, 6, "sighing"),
        ("e:6".to_owned(), enters.encode_to_vec().into()),
    ]);
    garden.router_tells(Vec::new());
    garden.edge_tells(Vec::new());
    let asked = |garden: &mut Garden| -> Vec<u64> {
        garden.router.now_ms += 1_000;
        garden.router.turn(Vec::new());
        let checks = garden.sent().into_iter().filter_map(|body| match body {
            PeerBody::RoomCheck(check) => Some(check.sessions),
            _ => None,
        });
        let sessions = checks.flatten().map(|session| session.session_lo);
        let sessions: std::collections::BTreeSet<u64> = sessions.collect();
        sessions.into_iter().collect()
    };
    assert_eq!(asked(&mut garden), [1]);
    let taken = EffectKey::new(7, 6, EffectKind::RoomEvent);
    garden.peer(PeerBody::RoomAck(proto::RoomAck {
        key: Some(taken.into()),
        done: vec![1],
        ..proto::RoomAck::default()
    }));
    assert_eq!(asked(&mut garden), [1, 2]);
}
