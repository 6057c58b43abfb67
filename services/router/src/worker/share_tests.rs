#![allow(clippy::unwrap_used)]

use sestina_proto as proto;
use sestina_proto::to_edge::Body as EdgeBody;
use sestina_proto::to_router::Body as RouterBody;
use sestina_xmpp::jid::Jid;
use sestina_xmpp::stanza::{Kind, Stanza};
use sestina_xmpp::xml::Element;

use super::*;
use crate::config::{RouterConfig, RouterLimits};
use crate::worker::testing::Router;

/// A session at an edge, which acknowledges nothing.
struct Client {
    slot: u16,
    handle: u64,
    asked: u64,
}

impl Client {
    fn new(router: &mut Router, full: &str, handle: u64) -> Client {
        Client {
            slot: router.session(full, handle),
            handle,
            asked: 0,
        }
    }

    /// Asks what is answered at once with a few hundred bytes; tells the sessions that were closed.
    fn ask(&mut self, router: &mut Router) -> Vec<(u64, String)> {
        self.asked += 1;
        let mut stanza = Stanza::new(Kind::Iq);
        stanza.id = format!("d{}", self.asked);
        stanza.to = "c.example".to_owned();
        stanza.type_ = "get".to_owned();
        let query = Element::new("query", "http://jabber.org/protocol/disco#info");
        stanza.push_element(&query);
        let inbound = proto::Inbound {
            handle: self.handle,
            generation: 1,
            n: self.asked,
            stanza: Some(stanza.into()),
            ..proto::Inbound::default()
        };
        router.edge_says(self.slot, RouterBody::Inbound(inbound), 0);
        let bodies = std::mem::take(&mut *router.edge.0.lock());
        let closed = bodies.into_iter().filter_map(|body| match body {
            EdgeBody::Close(close) => Some((close.handle, close.condition)),
            _ => None,
        });
        closed.collect()
    }

    /// Asks until somebody is closed.
    fn ask_on(&mut self, router: &mut Router) -> Vec<(u64, String)> {
        for _ in 0..1_000 {
            let closed = self.ask(router);
            if !closed.is_empty() {
                return closed;
            }
        }
        panic!("nothing bounds what is held");
    }
}

fn held(router: &mut Router, slot: u16) -> usize {
    let slot = router.worker.slots.get_mut(slot).unwrap();
    slot.held.load(Relaxed)
}

/// Another user of a slot.
fn neighbour(router: &Router, slot: u16, from: u32) -> String {
    let mut names = (from..).map(|n| format!("u{n}@c.example/x"));
    names
        .find(|name| router.config.slot_of(&Jid::from_wire(name)) == slot)
        .unwrap()
}

fn constraint(handle: u64) -> Vec<(u64, String)> {
    vec![(handle, "resource-constraint".to_owned())]
}

#[test]
fn a_user_that_holds_too_much_loses_the_session_with_most_and_others_none() {
    const LIMIT: usize = 12_000;
    let settings = RouterConfig {
        limits: RouterLimits {
            user_queue_bytes: LIMIT,
            ..RouterLimits::default()
        },
        ..RouterConfig::default()
    };
    let mut router = Router::with(settings, 1, &[], || 0);
    let mut orchard = Client::new(&mut router, "romeo@c.example/orchard", 1);
    let mut cell = Client::new(&mut router, "romeo@c.example/cell", 2);
    let other = neighbour(&router, orchard.slot, 0);
    let mut other = Client::new(&mut router, &other, 3);
    for _ in 0..6 {
        assert_eq!(other.ask(&mut router), []);
        assert_eq!(orchard.ask(&mut router), []);
    }
    let before = held(&mut router, orchard.slot);
    assert!(before < LIMIT, "{before} bytes are held");
    // What the cell holds counts for the user too; the orchard holds more.
    for _ in 0..4 {
        assert_eq!(cell.ask(&mut router), []);
    }
    assert_eq!(orchard.ask_on(&mut router), constraint(1));
    assert_eq!(router.metrics.queue_full[Queue::User].get(), 1);
    let after = held(&mut router, orchard.slot);
    assert!(
        after > 0 && after < before,
        "{after} of {before} bytes are held"
    );
    assert_eq!(cell.ask(&mut router), []);
    assert_eq!(other.ask(&mut router), []);
}

#[test]
fn a_slot_that_holds_too_much_ends_a_session_of_the_user_with_most() {
    const LIMIT: usize = 20_000;
    let settings = RouterConfig {
        limits: RouterLimits {
            slot_queue_bytes: LIMIT,
            ..RouterLimits::default()
        },
        ..RouterConfig::default()
    };
    let mut router = Router::with(settings, 1, &[], || 0);
    let mut romeo = Client::new(&mut router, "romeo@c.example/orchard", 1);
    let (slot, elsewhere) = (romeo.slot, "juliet@c.example/balcony");
    let mut juliet = Client::new(&mut router, elsewhere, 2);
    assert_ne!(juliet.slot, slot);
    let other = neighbour(&router, slot, 0);
    let mut other = Client::new(&mut router, &other, 3);
    while held(&mut router, slot) < LIMIT * 2 / 3 {
        assert_eq!(romeo.ask(&mut router), []);
        assert_eq!(juliet.ask(&mut router), []);
    }
    // It is not the one that holds most.
    assert_eq!(other.ask_on(&mut router), constraint(1));
    assert_eq!(router.metrics.queue_full[Queue::Slot].get(), 1);
    assert!(held(&mut router, slot) < LIMIT / 2);
    assert_eq!(other.ask(&mut router), []);
    assert_eq!(juliet.ask(&mut router), []);
}

#[test]
fn what_is_held_follows_its_session() {
    let (user, slot) = (Total::default(), Total::default());
    let mut one = Held::default();
    one.add(10);
    one.join(user.clone(), slot.clone());
    let mut two = Held::default();
    two.join(user.clone(), slot.clone());
    two.add(5);
    let totals = || (user.load(Relaxed), slot.load(Relaxed));
    assert_eq!(totals(), (15, 15));
    one.sub(4);
    one.sub(100);
    assert_eq!((one.get(), totals()), (0, (5, 5)));
    drop(two);
    assert_eq!(totals(), (0, 0));
}
