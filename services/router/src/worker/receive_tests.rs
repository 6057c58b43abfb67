#![allow(clippy::unwrap_used)]

use sestina_proto::to_edge::Body as EdgeBody;
use sestina_proto::to_router::Body as RouterBody;
use sestina_xmpp::stanza::Kind;
use sestina_xmpp::xml::Element;

use super::*;
use crate::worker::core::Job;
use crate::worker::input::{Input, JobDone};
use crate::worker::testing::Router;

const ROMEO: &str = "romeo@c.example/orchard";
const BALCONY: &str = "juliet@c.example/balcony";

/// One edge, one router: clients with the handles 1, 2 and 3.
struct Verona {
    router: Router,
    sent: [u64; 4],
}

impl Verona {
    fn says(&mut self, handle: usize, stanza: Stanza) -> Vec<Job> {
        let jid = Jid::from_wire(if handle == 1 { ROMEO } else { BALCONY });
        let slot = self.router.config.slot_of(&jid);
        self.sent[handle] += 1;
        let inbound = proto::Inbound {
            handle: handle as u64,
            generation: 1,
            n: self.sent[handle],
            stanza: Some(stanza.into()),
            ..proto::Inbound::default()
        };
        let body = RouterBody::Inbound(inbound);
        self.router.edge_says(slot, body, 0)
    }

    /// Payloads delivered to a client since the last time.
    fn hears(&mut self, handle: u64) -> Vec<String> {
        let mut heard = Vec::new();
        for body in std::mem::take(&mut *self.router.edge.0.lock()) {
            let EdgeBody::Deliver(deliver) = body else {
                continue;
            };
            for target in deliver.targets.iter().filter(|t| t.handle == handle) {
                let variant = &deliver.variants[target.variant as usize];
                let stanza = variant.stanza.as_ref().unwrap();
                heard.push(String::from_utf8_lossy(&stanza.payload).into_owned());
            }
        }
        heard
    }
}

fn presence() -> Stanza {
    Stanza::new(Kind::Presence)
}

/// RFC 6120 §10.1 and XEP-0280 §6: the addressee gets the message behind what is stored, and the
/// user's other device its copy all the same.
#[test]
fn other_devices_hear_what_waits_behind_stored_messages() {
    let mut verona = Verona {
        router: Router::new(1, &[], || 0),
        sent: [0; 4],
    };
    verona.router.session(ROMEO, 1);
    let slot = verona.router.session(BALCONY, 2);
    let mut enable = Stanza::new(Kind::Iq);
    enable.type_ = "set".to_owned();
    enable.id = "c1".to_owned();
    enable.push_element(&Element::new("enable", sestina_xmpp::ns::CARBONS));
    verona.says(2, enable);
    let answered = |jobs: Vec<Job>| {
        let lists = jobs.into_iter().filter_map(|job| match job {
            Job::OfflineList(read) => Some(read),
            _ => None,
        });
        lists.collect::<Vec<_>>()
    };
    for read in answered(verona.says(2, presence())) {
        let page = Ok(proto::OfflineListReply::default());
        let done = JobDone::OfflineList { read, page };
        verona.router.turn(vec![Input::Done(done)]);
    }
    // The second device is still being given what is stored.
    let bind = proto::Bind {
        handle: 3,
        bare: "juliet@c.example".to_owned(),
        resource: "chamber".to_owned(),
        ..proto::Bind::default()
    };
    verona.router.edge_says(slot, RouterBody::Bind(bind), 0);
    assert_eq!(answered(verona.says(3, presence())).len(), 1);
    verona.hears(2);

    let mut stanza = Stanza::new(Kind::Message);
    stanza.type_ = "chat".to_owned();
    stanza.to = "juliet@c.example/chamber".to_owned();
    stanza.push_element(&Element::new("body", "jabber:client").with_text("good night"));
    let jobs = verona.says(1, stanza);
    assert!(jobs.iter().any(|job| matches!(job, Job::Offline { .. })));
    let heard = verona.hears(2);
    let [copy] = &heard[..] else {
        panic!("{heard:?}")
    };
    for part in [
        "<received",
        "urn:xmpp:carbons:2",
        "<stanza-id",
        "good night",
    ] {
        assert!(copy.contains(part), "{part} in {copy}");
    }
}
