#![allow(clippy::unwrap_used)]

use sestina_proto as proto;
use sestina_proto::peer_frame::Body as PeerBody;
use sestina_proto::to_edge::Body as EdgeBody;
use sestina_proto::to_router::Body as RouterBody;
use sestina_telemetry::Limit;
use sestina_xmpp::stanza::{Kind, Stanza};
use sestina_xmpp::xml::Element;

use crate::config::RouterConfig;
use crate::worker::core::PeerRef;
use crate::worker::input::Input;
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
            max_rooms_per_session: max,
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
            let Some(PeerBody::Effect(effect)) = frame.body else {
                continue;
            };
            let asked = effect.stanza.unwrap();
            let done = proto::EffectDone {
                key: effect.key,
                owner: true,
                reply: Some(proto::Stanza {
                    kind: proto::StanzaKind::Presence.into(),
                    r#type: "error".to_owned(),
                    from: asked.to,
                    ..proto::Stanza::default()
                }),
                target_slot: frame.slot,
                stream: effect.stream,
                target_epoch: 1,
            };
            let frame = proto::PeerFrame {
                slot: effect.origin_slot,
                epoch: 0,
                body: Some(PeerBody::EffectDone(done)),
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
