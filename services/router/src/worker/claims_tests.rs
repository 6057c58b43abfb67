#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use sestina_api::key::{EffectKey, EffectKind};
use sestina_api::shadow::{Loaded, ShadowObject, Stamp};
use sestina_proto::peer_frame::Body as PeerBody;
use sestina_proto::to_edge::Body as EdgeBody;
use sestina_proto::to_router::Body as RouterBody;
use sestina_xmpp::jid::Jid;

use super::*;
use crate::worker::input::{Input, JobDone};
use crate::worker::testing::{LANE, Router, node};

const GARDEN: &str = "garden@muc.c.example";
const EPOCH: u64 = 2;
const OWNER: u32 = 4 << 8 | 3;
const NONE: u32 = 2;

fn presence(says: &str) -> proto::Stanza {
    let mut stanza = Stanza::new(Kind::Presence);
    let status = format!("<status>{says}</status>");
    stanza.push_raw(status.as_bytes(), "status", sestina_xmpp::ns::CLIENT);
    stanza.into()
}

/// What a session says of itself, without its presence.
fn told(nick: &str, session: u64, standing: u32, seq: u64, says: &str) -> proto::RoomMembership {
    proto::RoomMembership {
        room: GARDEN.to_owned(),
        member: Some(proto::RoomMember {
            nick: nick.to_owned(),
            standing,
            presence: None,
            seq,
        }),
        jid: format!("user{session}@c.example/home"),
        session_lo: session,
        slot: 1,
        presence_hash: presence(says).hash(),
        ..proto::RoomMembership::default()
    }
}

fn with_presence(mut membership: proto::RoomMembership, says: &str) -> proto::RoomMembership {
    membership.member.as_mut().unwrap().presence = Some(presence(says));
    membership
}

/// An occupant as the shadow has it.
fn stored(nick: &str, session: u64, seq: u64, says: &str) -> (String, bytes::Bytes) {
    let occupant = proto::RoomOccupant {
        nick: nick.to_owned(),
        affiliation: 0,
        role: NONE,
        sessions: vec![proto::RoomSession {
            jid: format!("user{session}@c.example/home"),
            session_lo: session,
            slot: 1,
            presence: Some(presence(says)),
            seq,
            ..proto::RoomSession::default()
        }],
    };
    (format!("o:{nick}"), occupant.encode_to_vec().into())
}

/// A router that takes the garden's slot from another owner. An edge and another router live.
struct Garden {
    router: Router,
    slot: u16,
}

impl Garden {
    fn new(fields: Vec<(String, bytes::Bytes)>) -> Garden {
        let mut router = Router::new(1, &[1], || 0);
        let garden = Jid::from_wire(GARDEN);
        let slot = router.config.slot_of(&garden);
        let edge = proto::Node {
            incarnation: LANE.edge,
            role: proto::NodeRole::Edge.into(),
            ..proto::Node::default()
        };
        let mut objects = Vec::new();
        if !fields.is_empty() {
            let state = proto::RoomState {
                jid: GARDEN.to_owned(),
                identity_lo: 7,
                seq: 10,
                ..proto::RoomState::default()
            };
            let meta = ("meta".to_owned(), state.encode_to_vec().into());
            objects.push(ShadowObject {
                object: crate::worker::shadow::room_object(&garden),
                version: Stamp::new(1, 1),
                fields: fields.into_iter().chain([meta]).collect(),
            });
        }
        router.turn(vec![
            Input::Take {
                slot,
                epoch: EPOCH,
                live: Arc::from([edge, node(2)]),
            },
            Input::Done(JobDone::ShadowLoaded {
                slot,
                epoch: EPOCH,
                result: Ok(Loaded {
                    objects,
                    ..Loaded::default()
                }),
            }),
        ]);
        Garden { router, slot }
    }

    fn edge(&mut self, body: RouterBody) -> Vec<EdgeBody> {
        let frame = proto::ToRouter {
            slot: self.slot.into(),
            epoch: EPOCH,
            body: Some(body),
        };
        self.router.turn(vec![Input::Edge { lane: LANE, frame }]);
        std::mem::take(&mut *self.router.edge.0.lock())
    }

    fn peer(&mut self, body: PeerBody) {
        let frame = proto::PeerFrame {
            slot: self.slot.into(),
            epoch: EPOCH,
            body: Some(body),
        };
        let from = PeerRef(2);
        self.router.turn(vec![Input::Peer { from, frame }]);
    }

    /// The edge tells these, and has told all; those whose presences are asked for then.
    fn edge_tells(&mut self, members: Vec<proto::RoomMembership>) -> Vec<u64> {
        self.edge(part(members, true));
        let asked = self.edge(RouterBody::EpochReport(proto::EpochReport::default()));
        let asked = asked.into_iter().filter_map(|body| match body {
            EdgeBody::AskMembers(ask) => Some(ask.members),
            _ => None,
        });
        asked.flatten().map(|member| member.session_lo).collect()
    }

    /// The other router has the epoch, and tells these sessions without an edge.
    fn router_tells(&mut self, members: Vec<proto::RoomMembership>) {
        self.peer(PeerBody::EpochInstalled(
            proto::PeerEpochInstalled::default(),
        ));
        for (worker, members) in [(0, Vec::new()), (1, members)] {
            assert!(!self.is_active(), "worker {worker} has not told");
            self.peer(PeerBody::RoomTold(proto::RoomTold {
                asked_epoch: EPOCH,
                members,
                more: false,
                worker,
                workers: 2,
            }));
        }
    }

    fn is_active(&mut self) -> bool {
        let slot = self.router.worker.slots.get_mut(self.slot);
        slot.unwrap().is_active()
    }

    /// Nick, role and session of all who are in, and what their presences say.
    fn inside(&mut self) -> Vec<(String, &'static str, u128, String)> {
        let slot = self.router.worker.slots.get_mut(self.slot).unwrap();
        let room = slot.rooms.get(&Jid::from_wire(GARDEN));
        let members = room.into_iter().flat_map(crate::room::Room::members);
        let say = |payload: &[u8]| {
            let text = String::from_utf8_lossy(payload).into_owned();
            text.replace("<status>", "").replace("</status>", "")
        };
        members
            .map(|(occupant, session)| {
                let says = say(&session.presence.payload);
                let nick = occupant.nick.clone();
                (nick, occupant.role.name(), session.session, says)
            })
            .collect()
    }

    /// The owner of a session tells that this may be in, and hears that it was heard.
    fn does_not_know(&mut self, nick: &str, session: u64) {
        let mut unsure = told(nick, session, NONE, 0, "");
        unsure.member = None;
        nick.clone_into(&mut unsure.nick);
        self.peer(PeerBody::RoomTold(proto::RoomTold {
            members: vec![unsure],
            ..proto::RoomTold::default()
        }));
        let heard = |body: &PeerBody| matches!(body, PeerBody::RoomHeard(_));
        assert!(self.sent().iter().any(heard));
    }

    /// Types and senders of what the room tells a session of its own presence.
    fn own_of(&mut self, session: u64) -> Vec<(String, String)> {
        self.told_to(session, |target| target.standing != 0)
    }

    /// Types and senders of what the room tells a session of other occupants.
    fn told_of_others(&mut self, session: u64) -> Vec<(String, String)> {
        self.told_to(session, |target| target.standing == 0)
    }

    fn told_to(
        &mut self,
        session: u64,
        is: impl Fn(&proto::RoomTailTarget) -> bool,
    ) -> Vec<(String, String)> {
        let slot = self.router.worker.slots.get_mut(self.slot).unwrap();
        let room = slot.rooms.get(&Jid::from_wire(GARDEN)).unwrap();
        let mut told = Vec::new();
        for event in events(room) {
            let to = |t: &&proto::RoomTailTarget| t.session_lo == session && is(t);
            told.extend(event.targets.iter().filter(to).map(|target| {
                let said = &event.variants[target.variant as usize];
                (said.r#type.clone(), said.from.clone())
            }));
        }
        told
    }

    /// What went to the other router since it was asked last.
    fn sent(&mut self) -> Vec<PeerBody> {
        let frames = std::mem::take(&mut *self.router.peer.0.lock());
        frames.into_iter().filter_map(|frame| frame.body).collect()
    }
}

fn events(room: &crate::room::Room) -> Vec<proto::RoomTailEvent> {
    let fields = room.shadow_fields().into_iter();
    let events = fields.filter(|(field, _)| field.starts_with("e:"));
    events
        .filter_map(|(_, value)| proto::RoomTailEvent::decode(value).ok())
        .collect()
}

fn part(members: Vec<proto::RoomMembership>, more: bool) -> RouterBody {
    RouterBody::RoomMembers(proto::RoomMembers { members, more })
}

fn is(
    nick: &str,
    role: &'static str,
    session: u128,
    says: &str,
) -> (String, &'static str, u128, String) {
    (nick.to_owned(), role, session, says.to_owned())
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
    // The events that told the others may be lost.
    let told = |type_: &str, nick: &str| (type_.to_owned(), format!("{GARDEN}/{nick}"));
    assert_eq!(
        garden.told_of_others(1),
        [
            told("unavailable", "nurse"),
            told("", "angelica"),
            told("", "tybalt"),
            told("", "romeo"),
        ]
    );
    // So may what told the session itself.
    assert_eq!(garden.own_of(2), [told("", "angelica")]);
    assert_eq!(garden.told_of_others(2)[0], told("unavailable", "nurse"));
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
