//! For tests: a router that takes the slot of a room, and what edges, another router and the state store tell
//! it of that room.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use prost::Message as _;
use sestina_api::state_store::{Loaded, ReplicaObject, Stamp};
use sestina_proto as proto;
use sestina_proto::peer_frame::Body as PeerBody;
use sestina_proto::to_edge::Body as EdgeBody;
use sestina_proto::to_router::Body as RouterBody;
use sestina_xmpp::jid::Jid;
use sestina_xmpp::stanza::{Kind, Stanza};

use super::core::PeerRef;
use super::input::{Input, JobDone};
use super::testing::{LANE, Router, node};

pub(crate) const GARDEN: &str = "garden@muc.c.example";
pub(crate) const EPOCH: u64 = 2;
pub(crate) const OWNER: u32 = 4 << 8 | 3;
pub(crate) const NONE: u32 = 2;

pub(crate) fn presence(says: &str) -> proto::Stanza {
    let mut stanza = Stanza::new(Kind::Presence);
    let status = format!("<status>{says}</status>");
    stanza.push_raw(status.as_bytes(), "status", sestina_xmpp::ns::CLIENT);
    stanza.into()
}

/// What a session says of itself, without its presence.
pub(crate) fn told(
    nick: &str,
    session: u64,
    affiliation_and_role: u32,
    seq: u64,
    says: &str,
) -> proto::RoomMembership {
    proto::RoomMembership {
        room: GARDEN.to_owned(),
        member: Some(proto::RoomMember {
            nick: nick.to_owned(),
            affiliation_and_role,
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

pub(crate) fn with_presence(
    mut membership: proto::RoomMembership,
    says: &str,
) -> proto::RoomMembership {
    membership.member.as_mut().unwrap().presence = Some(presence(says));
    membership
}

/// An occupant as the state store has it.
pub(crate) fn stored(nick: &str, session: u64, seq: u64, says: &str) -> (String, bytes::Bytes) {
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
pub(crate) struct Garden {
    pub(crate) router: Router,
    pub(crate) slot: u16,
}

impl Garden {
    pub(crate) fn new(fields: Vec<(String, bytes::Bytes)>) -> Garden {
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
            objects.push(ReplicaObject {
                object: crate::worker::replica::room_object(&garden),
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
            Input::Done(JobDone::ReplicaLoaded {
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

    pub(crate) fn edge(&mut self, body: RouterBody) -> Vec<EdgeBody> {
        let frame = proto::ToRouter {
            slot: self.slot.into(),
            epoch: EPOCH,
            body: Some(body),
        };
        self.router.turn(vec![Input::Edge { lane: LANE, frame }]);
        std::mem::take(&mut *self.router.edge.0.lock())
    }

    pub(crate) fn peer(&mut self, body: PeerBody) {
        let frame = proto::PeerFrame {
            slot: self.slot.into(),
            epoch: EPOCH,
            body: Some(body),
        };
        let from = PeerRef(2);
        self.router.turn(vec![Input::Peer { from, frame }]);
    }

    /// The edge tells these, and has told all; those whose presences are asked for then.
    pub(crate) fn edge_tells(&mut self, members: Vec<proto::RoomMembership>) -> Vec<u64> {
        self.edge(part(members, true));
        let asked = self.edge(RouterBody::EpochReport(proto::EpochReport::default()));
        let asked = asked.into_iter().filter_map(|body| match body {
            EdgeBody::AskMembers(ask) => Some(ask.members),
            _ => None,
        });
        asked.flatten().map(|member| member.session_lo).collect()
    }

    /// The other router has the epoch, and tells these sessions without an edge.
    pub(crate) fn router_tells(&mut self, members: Vec<proto::RoomMembership>) {
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

    pub(crate) fn is_active(&mut self) -> bool {
        let slot = self.router.worker.slots.get_mut(self.slot);
        slot.unwrap().is_active()
    }

    /// Nick, role and session of all who are in, and what their presences say.
    pub(crate) fn inside(&mut self) -> Vec<(String, &'static str, u128, String)> {
        let slot = self.router.worker.slots.get_mut(self.slot).unwrap();
        let room = slot.rooms.get(&Jid::from_wire(GARDEN));
        let members = room.into_iter().flat_map(|room| room.room().members());
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
    pub(crate) fn does_not_know(&mut self, nick: &str, session: u64) {
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
    pub(crate) fn own_of(&mut self, session: u64) -> Vec<(String, String)> {
        self.told_to(session, |target| target.affiliation_and_role != 0)
    }

    /// Types and senders of what the room tells a session of other occupants.
    pub(crate) fn told_of_others(&mut self, session: u64) -> Vec<(String, String)> {
        self.told_to(session, |target| target.affiliation_and_role == 0)
    }

    pub(crate) fn told_to(
        &mut self,
        session: u64,
        is: impl Fn(&proto::RoomLoggedTarget) -> bool,
    ) -> Vec<(String, String)> {
        let slot = self.router.worker.slots.get_mut(self.slot).unwrap();
        let room = slot.rooms.get(&Jid::from_wire(GARDEN)).unwrap();
        let mut told = Vec::new();
        for event in events(room) {
            let to = |t: &&proto::RoomLoggedTarget| t.session_lo == session && is(t);
            told.extend(event.targets.iter().filter(to).map(|target| {
                let said = &event.variants[target.variant as usize];
                (said.r#type.clone(), said.from.clone())
            }));
        }
        told
    }

    /// What went to the other router since it was asked last.
    pub(crate) fn sent(&mut self) -> Vec<PeerBody> {
        let frames = std::mem::take(&mut *self.router.peer.0.lock());
        frames.into_iter().filter_map(|frame| frame.body).collect()
    }
}

pub(crate) fn events(room: &crate::room::OwnedRoom) -> Vec<proto::RoomLoggedEvent> {
    let fields = room.replica_fields().into_iter();
    let events = fields.filter(|(field, _)| field.starts_with("e:"));
    events
        .filter_map(|(_, value)| proto::RoomLoggedEvent::decode(value).ok())
        .collect()
}

pub(crate) fn part(members: Vec<proto::RoomMembership>, more: bool) -> RouterBody {
    RouterBody::RoomMembers(proto::RoomMembers { members, more })
}

pub(crate) fn is(
    nick: &str,
    role: &'static str,
    session: u128,
    says: &str,
) -> (String, &'static str, u128, String) {
    (nick.to_owned(), role, session, says.to_owned())
}
