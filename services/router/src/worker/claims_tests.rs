#![allow(clippy::unwrap_used)]

use sestina_api::key::{IdempotencyKey, Purpose};
use sestina_proto::peer_frame::Body as PeerBody;
use sestina_xmpp::jid::Jid;

use super::*;
use crate::worker::garden::*;

/// Event 6 of the room, as the state store has it: a session receives its own presence under that nick.
fn own_presence(nick: &str, session: u64, presence: proto::Stanza) -> (String, bytes::Bytes) {
    let event = proto::RoomLoggedEvent {
        seq: 6,
        variants: vec![proto::Stanza {
            from: format!("{GARDEN}/{nick}"),
            ..presence
        }],
        targets: vec![proto::RoomLoggedTarget {
            slot: 1,
            session_lo: session,
            affiliation_and_role: NONE,
            ..proto::RoomLoggedTarget::default()
        }],
    };
    ("e:6".to_owned(), event.encode_to_vec().into())
}

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

/// The store was unavailable: what it has of the room is old.
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

/// The owner before this one has removed the room, because its last session has left. The session's edge has not been told
/// yet that the session is over for good.
#[test]
fn a_room_that_only_ended_sessions_know_is_not_made_again() {
    let mut garden = Garden::new(Vec::new());
    garden.router_tells(Vec::new());
    let mut juliet = told("juliet", 1, OWNER, 5, "here");
    juliet.over = true;
    garden.edge_tells(vec![juliet]);
    garden.edge(part(
        vec![proto::RoomMembership {
            over: true,
            ..with_presence(told("juliet", 1, OWNER, 5, "here"), "here")
        }],
        false,
    ));
    assert!(garden.is_active());
    assert_eq!(garden.inside(), []);
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

/// The replica has a session in the room that has left since, on the nick of another session of its user. That one
/// leaves before the owner of the first has said that it is not there, so the room announces the first to itself.
#[test]
fn a_session_that_was_announced_although_it_had_left_is_told_that_it_is_not_in() {
    let occupant = proto::RoomOccupant {
        nick: "juliet".to_owned(),
        affiliation: 0,
        role: NONE,
        sessions: [(2, 6), (1, 5)].map(shared).to_vec(),
    };
    let field = ("o:juliet".to_owned(), occupant.encode_to_vec().into());
    let mut garden = Garden::new(vec![field, stored("nurse", 3, 7, "sighing")]);
    garden.router_tells(Vec::new());
    garden.edge_tells(Vec::new());
    let outside = |session| {
        PeerBody::RoomChecked(proto::RoomChecked {
            room: GARDEN.to_owned(),
            seq: 10,
            outside: vec![proto::CheckedSession {
                session_lo: session,
                ..proto::CheckedSession::default()
            }],
            ..proto::RoomChecked::default()
        })
    };
    let types = |told: Vec<(String, String)>| told.into_iter().map(|(type_, _)| type_).collect();
    garden.peer(outside(2));
    assert_eq!(garden.own_of(2), [], "it was sent nothing");
    let told: Vec<String> = types(garden.told_of_others(1));
    assert_eq!(told, [""], "its own presence, as the one that others see");
    garden.peer(outside(1));
    let own = ("unavailable".to_owned(), format!("{GARDEN}/juliet"));
    assert_eq!(garden.own_of(1), [own]);
    assert_eq!(garden.inside(), [is("nurse", "participant", 3, "sighing")]);
}

fn shared((session, seq): (u64, u64)) -> proto::RoomSession {
    proto::RoomSession {
        jid: "juliet@c.example/home".to_owned(),
        session_lo: session,
        slot: 1,
        presence: Some(presence("here")),
        seq,
        ..proto::RoomSession::default()
    }
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
    assert_eq!((target.session_lo, target.affiliation_and_role), (2, NONE));
    let out = String::from_utf8_lossy(&event.variants[0].payload).into_owned();
    assert_eq!(event.variants[0].r#type, "unavailable");
    assert!(out.contains("110") && out.contains("333"), "{out}");
}

/// A session that was loaded from the state store, or has lost its edge, is in no edge's list: its owner tells the
/// room that the session is a member, and repeats that until the room answers.
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
    let enters = own_presence("nurse", 2, presence("sighing"));
    let mut garden = Garden::new(vec![
        stored("juliet", 1, 5, "here"),
        stored("nurse", 2, 6, "sighing"),
        enters,
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
    let taken = IdempotencyKey::new(7, 6, Purpose::RoomEvent);
    garden.peer(PeerBody::RoomAck(proto::RoomAck {
        key: Some(taken.into()),
        done: vec![1],
        ..proto::RoomAck::default()
    }));
    assert_eq!(asked(&mut garden), [1, 2]);
}

/// The state store has lost its last writes. In its copy of the room, a session still has to receive that it has left,
/// although the session received that and has entered the room again since.
#[test]
fn a_session_that_has_entered_since_is_not_told_again_that_it_has_left() {
    let leave = proto::Stanza {
        r#type: "unavailable".to_owned(),
        ..presence("")
    };
    let field = own_presence("romeo", 4, leave);
    // The session knows event 9, which is later than the leave, or only event 5: then the room sends the leave.
    for (seq, left) in [(9, false), (5, true)] {
        let mut garden = Garden::new(vec![stored("juliet", 1, 5, "here"), field.clone()]);
        garden.router_tells(Vec::new());
        let romeo = told("romeo", 4, NONE, seq, "back");
        garden.edge_tells(vec![romeo.clone()]);
        garden.edge(part(vec![with_presence(romeo, "back")], false));
        let own = garden.own_of(4);
        let unavailable = own.iter().any(|(type_, _)| type_ == "unavailable");
        assert_eq!(unavailable, left, "{seq}: {own:?}");
    }
}
