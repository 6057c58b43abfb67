#![allow(clippy::unwrap_used)]

use sestina_proto as proto;
use sestina_proto::peer_frame::Body as PeerBody;
use sestina_proto::to_edge::Body as EdgeBody;
use sestina_proto::to_router::Body as RouterBody;
use sestina_telemetry::Limit;
use sestina_xmpp::stanza::{Kind, Stanza};
use sestina_xmpp::xml::Element;

use crate::config::{RouterConfig, RouterLimits};
use crate::worker::core::PeerRef;
use crate::worker::input::Input;
use crate::worker::successor::{self, Successor};
use crate::worker::testing::Router;

const ROMEO: &str = "romeo@c.example/orchard";

/// Romeo, and rooms at the other router.
struct Rooms {
    router: Router,
    slot: u16,
    n: u64,
}

impl Rooms {
    fn new(max: usize) -> Rooms {
        let settings = RouterConfig {
            limits: RouterLimits {
                max_rooms_per_session: max,
                ..RouterLimits::default()
            },
            ..RouterConfig::default()
        };
        let all: Vec<u16> = (0..4096).collect();
        let mut router = Router::with(settings, 1, &all, || 0);
        let slot = router.session(ROMEO, 1);
        router.edge.0.lock().clear();
        Rooms { router, slot, n: 0 }
    }

    /// A presence to a room; returns the payload of an error that comes at once.
    fn presence(&mut self, room: &str, type_: &str) -> Option<String> {
        self.n += 1;
        let mut stanza = Stanza::new(Kind::Presence);
        stanza.to = format!("{room}@muc.c.example/romeo");
        stanza.type_ = type_.to_owned();
        if type_.is_empty() {
            stanza.push_element(&Element::new("x", sestina_xmpp::ns::MUC));
        }
        let inbound = proto::Inbound {
            handle: 1,
            generation: 1,
            n: self.n,
            stanza: Some(stanza.into()),
            ..proto::Inbound::default()
        };
        self.router
            .edge_says(self.slot, RouterBody::Inbound(inbound), 0);
        let bodies = std::mem::take(&mut *self.router.edge.0.lock());
        bodies.into_iter().find_map(|body| match body {
            EdgeBody::Deliver(deliver) => {
                let stanza = deliver.variants.into_iter().next()?.stanza?;
                assert_eq!(stanza.r#type, "error");
                assert_eq!(stanza.from, format!("{room}@muc.c.example/romeo"));
                Some(String::from_utf8(stanza.payload.to_vec()).unwrap())
            }
            _ => None,
        })
    }

    /// The owner of the room answers all that it was sent with an error.
    fn refuse(&mut self) {
        let frames = std::mem::take(&mut *self.router.peer.0.lock());
        for frame in frames {
            let Some(PeerBody::SlotMessage(message)) = frame.body else {
                continue;
            };
            let asked = message.stanza.unwrap();
            let done = proto::SlotMessageAck {
                key: message.key,
                owner: true,
                reply: Some(proto::Stanza {
                    kind: proto::StanzaKind::Presence.into(),
                    r#type: "error".to_owned(),
                    from: asked.to,
                    ..proto::Stanza::default()
                }),
                target_slot: frame.slot,
                stream: message.stream,
                target_epoch: 1,
            };
            let frame = proto::PeerFrame {
                slot: message.origin_slot,
                epoch: 0,
                body: Some(PeerBody::SlotMessageAck(done)),
            };
            let from = PeerRef(2);
            self.router.turn(vec![Input::Peer { from, frame }]);
        }
        self.router.edge.0.lock().clear();
    }
}

#[test]
fn one_room_too_many_is_refused_by_the_limit_and_others_go_on() {
    let mut rooms = Rooms::new(2);
    assert_eq!(rooms.presence("a", ""), None);
    assert_eq!(rooms.presence("b", ""), None);
    let error = rooms.presence("c", "").unwrap();
    assert!(error.contains("type='wait'"), "{error}");
    assert!(error.contains("<resource-constraint "), "{error}");
    assert!(error.contains("2 rooms"), "{error}");
    assert_eq!(rooms.router.metrics.limits[Limit::SessionRooms].get(), 1);
    // A change in a room that it is in, and another room after it left one.
    assert_eq!(rooms.presence("b", ""), None);
    assert_eq!(rooms.presence("a", "unavailable"), None);
    assert_eq!(rooms.presence("c", ""), None);
}

#[test]
fn a_room_that_does_not_let_a_session_in_does_not_count() {
    let mut rooms = Rooms::new(2);
    for room in ["a", "b", "c", "d"] {
        assert_eq!(rooms.presence(room, ""), None, "{room}");
        rooms.refuse();
    }
    assert_eq!(rooms.presence("e", ""), None);
    assert_eq!(rooms.presence("f", ""), None);
    assert!(rooms.presence("g", "").is_some());
}

/// What the balcony is sent of the orchard: the types of its presences.
fn of_the_orchard(successor: &mut Successor, balcony: u64) -> Vec<String> {
    let mut types = Vec::new();
    for body in successor.told() {
        let EdgeBody::Deliver(deliver) = body else {
            continue;
        };
        for target in deliver.targets.iter().filter(|t| t.handle == balcony) {
            let variant = &deliver.variants[usize::try_from(target.variant).unwrap()];
            let stanza = variant.stanza.as_ref().unwrap();
            if stanza.from == "romeo@c.example/orchard" {
                types.push(stanza.r#type.clone());
            }
        }
    }
    types
}

/// The previous owner of the slot ended the detached session `orchard`, sent its unavailable presence to
/// `balcony`, and died before the end was written. The client then resumes `orchard`: `balcony` gets its
/// presence again. When `orchard` ends later, `balcony` gets the unavailable presence, although the client
/// of `orchard` has sent no stanza in between.
#[test]
fn a_session_that_comes_back_under_a_new_owner_is_seen_by_its_users_others_until_it_ends() {
    let mut successor = Successor::new("romeo@c.example");
    let available = |full: &str| {
        let mut presence = Stanza::new(Kind::Presence);
        presence.from = full.to_owned();
        proto::SessionState {
            presence: Some(presence.into()),
            ..successor::record(successor.slot, full)
        }
    };
    let orchard = available("romeo@c.example/orchard");
    let balcony = available("romeo@c.example/balcony");
    let id = sestina_api::key::join(orchard.session_hi, orchard.session_lo);
    let mut over = Stanza::new(Kind::Presence);
    over.type_ = "unavailable".to_owned();
    over.from = "romeo@c.example/orchard".to_owned();
    let told = proto::Outbound {
        key: Some(crate::worker::ending::ended_key(id, 1, 1, 0).into()),
        ..successor::held(1, id, 1, &over)
    };
    successor.take(successor::edge(), vec![successor::stored(&orchard)]);
    successor.reported(vec![proto::SessionReport {
        received: 1,
        held: vec![told],
        ..successor::report(&balcony, 1)
    }]);
    successor.told();
    let resume = |successor: &mut Successor, handle: u64| {
        successor.edge_says(RouterBody::Resume(proto::Resume {
            handle,
            session_hi: orchard.session_hi,
            session_lo: orchard.session_lo,
            bare: "romeo@c.example".to_owned(),
            ..proto::Resume::default()
        }));
    };
    resume(&mut successor, 2);
    assert_eq!(of_the_orchard(&mut successor, 1), [""], "it is back");
    resume(&mut successor, 3);
    assert_eq!(
        of_the_orchard(&mut successor, 1),
        [""; 0],
        "its owner is the same"
    );
    successor.edge_says(RouterBody::Close(proto::Close {
        handle: 3,
        generation: 3,
        clean: true,
    }));
    assert_eq!(
        of_the_orchard(&mut successor, 1),
        ["unavailable"],
        "it ends"
    );
}
