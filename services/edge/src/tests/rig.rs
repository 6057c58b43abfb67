//! An edge, a cluster of scripted routers, and a session.

use std::sync::Arc;
use std::time::Duration;

use sestina_cluster::slots::slot_of_bare;
use sestina_proto as proto;
use sestina_proto::to_edge::Body as ToEdge;
use sestina_xmpp::stanza::{Kind, Stanza};
use sestina_xmpp::xml::Element;

use super::client::{Client, SECURE, Way, connect};
use super::router::{Cluster, Connector, Router, next_frame};
use crate::metrics::Tally;
use crate::{Edge, EdgeConfig, HostConfig};

pub(super) struct Rig {
    pub(super) cluster: Arc<Cluster>,
    pub(super) edge: Edge,
    pub(super) name: String,
    pub(super) tally: Arc<Tally>,
}

/// Polls a condition that another task makes true.
pub(super) async fn until(what: &str, condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), wait)
        .await
        .unwrap_or_else(|_| panic!("never: {what}"));
}

pub(super) fn config(name: &str) -> EdgeConfig {
    let hosts = vec![
        HostConfig::new("c.example"),
        HostConfig::anonymous("meet.example", "conference.meet.example"),
    ];
    let mut config = EdgeConfig::new(name, hosts);
    config.plaintext_listeners = vec!["plain".to_owned()];
    config.login.delay = Duration::from_millis(1);
    config.drain.over = Duration::from_millis(10);
    config
}

impl Rig {
    pub(super) async fn new(routers: usize) -> Rig {
        Rig::with(Cluster::new(routers), config("edge1"), routers).await
    }

    pub(super) async fn with(cluster: Arc<Cluster>, config: EdgeConfig, routers: usize) -> Rig {
        let tally = Arc::new(Tally::default());
        let name = config.node.clone();
        let connector = Arc::new(Connector(Arc::clone(&cluster)));
        let edge = Edge::start_without_ports(config, connector, tally.clone()).unwrap();
        let rig = Rig {
            cluster,
            edge,
            name,
            tally,
        };
        rig.lanes_open(routers).await;
        rig
    }

    /// Waits until all lanes are open.
    pub(super) async fn lanes_open(&self, routers: usize) {
        until("all lanes open", || {
            self.tally.level_of(crate::metrics::Level::Lanes) == 4 * routers as i64
                && self.edge.status().ready()
        })
        .await;
    }

    pub(super) async fn client(&self, way: Way) -> Client {
        let (accepted, client) = connect(way).await;
        self.edge.accept(accepted);
        client
    }

    /// A bound session of juliet.
    pub(super) async fn session(&self) -> Bound {
        self.session_by(SECURE).await
    }

    pub(super) async fn session_by(&self, way: Way) -> Bound {
        let mut client = self.client(way).await;
        client.log_in().await;
        client.bind("balcony").await;
        let router = self.cluster.router(0);
        let (slot, epoch, bind) = next_frame!(router, Bind);
        assert_eq!(slot, slot_of_bare("juliet@c.example"));
        let jid = router.bound(&self.name, slot, epoch, &bind);
        let answer = client.until("</iq>").await;
        assert!(answer.contains(&format!("<jid>{jid}</jid>")), "{answer}");
        assert!(answer.contains("id='b1'"), "{answer}");
        Bound {
            client,
            router,
            edge: self.name.clone(),
            slot,
            epoch,
            handle: bind.handle,
            generation: 1,
        }
    }

    /// The same with XEP-0198.
    pub(super) async fn managed(&self, way: Way) -> Bound {
        let mut bound = self.session_by(way).await;
        bound.enable().await;
        bound
    }
}

/// A session, seen from both ends.
pub(super) struct Bound {
    pub(super) client: Client,
    pub(super) router: Arc<Router>,
    pub(super) edge: String,
    pub(super) slot: u16,
    pub(super) epoch: u64,
    pub(super) handle: u64,
    pub(super) generation: u32,
}

impl Bound {
    pub(super) async fn enable(&mut self) {
        self.client
            .send("<enable xmlns='urn:xmpp:sm:3' resume='true'/>")
            .await;
        let (_, _, enable) = next_frame!(self.router, EnableSm);
        assert_eq!((enable.handle, enable.resume), (self.handle, true));
        self.frame(ToEdge::SmEnabled(proto::SmEnabled {
            handle: self.handle,
            generation: self.generation,
            id: "the-id".to_owned(),
            max_s: 300,
            out_base: 0,
        }));
        let enabled = self.client.until("/>").await;
        assert!(
            enabled.contains("<enabled ") && enabled.contains("id='the-id'"),
            "{enabled}"
        );
        assert!(enabled.contains("resume='true'"), "{enabled}");
    }

    pub(super) fn frame(&self, body: ToEdge) {
        self.router.send(&self.edge, self.slot, self.epoch, body);
    }

    /// A delivery with that body text.
    pub(super) fn delivery(&self, number: u64, text: &str) -> ToEdge {
        let mut stanza = Stanza::new(Kind::Message);
        stanza.from = "romeo@c.example/orchard".to_owned();
        stanza.push_element(&Element::new("body", "jabber:client").with_text(text));
        let key = proto::Key {
            origin_hi: 9,
            origin_lo: 9,
            n: number,
            purpose: 1,
            ..proto::Key::default()
        };
        ToEdge::Deliver(proto::Deliver {
            variants: vec![proto::Variant {
                stanza: Some(stanza.into()),
                key: Some(key),
                ..proto::Variant::default()
            }],
            targets: vec![proto::Target {
                handle: self.handle,
                generation: self.generation,
                number,
                variant: 0,
                epoch: self.epoch,
            }],
        })
    }

    /// The owner lacks what the session sent from this number on.
    pub(super) fn redirect(&self, n: u64) -> ToEdge {
        ToEdge::Redirect(proto::Redirect {
            handle: self.handle,
            generation: self.generation,
            n,
        })
    }

    pub(super) fn deliver(&self, number: u64, text: &str) {
        self.frame(self.delivery(number, text));
    }

    pub(super) fn progress(&self, accepted: u64, settled: u64) {
        self.frame(ToEdge::Progress(proto::Progress {
            items: vec![self.item(accepted, settled, 0)],
        }));
    }

    pub(super) fn item(&self, accepted: u64, settled: u64, released: u64) -> proto::ProgressItem {
        proto::ProgressItem {
            handle: self.handle,
            generation: self.generation,
            accepted,
            settled,
            released,
        }
    }

    /// The client sends messages with these ids.
    pub(super) async fn say(&mut self, ids: &[&str]) {
        for id in ids {
            self.client
                .send(&format!("<message to='romeo@c.example' id='{id}'/>"))
                .await;
        }
    }

    /// The next stanza that reaches a router must be this.
    pub(super) async fn heard(&self, router: &Router, n: u64, id: &str) -> u64 {
        let (slot, epoch, inbound) = next_frame!(router, Inbound);
        assert_eq!(
            (slot, inbound.handle, inbound.n),
            (self.slot, self.handle, n)
        );
        assert_eq!(inbound.stanza.unwrap().id, id);
        epoch
    }
}
