use std::sync::Arc;

use sestina_api::link::Unsent;
use sestina_api::peer::{PeerConnector, PeerSink};
use sestina_certs::Role;
use sestina_proto as proto;
use tokio::sync::{mpsc, watch};

use super::support::*;
use crate::GrpcPeerConnector;

struct Receive(
    mpsc::UnboundedSender<proto::PeerFrame>,
    watch::Sender<usize>,
);

impl PeerSink for Receive {
    fn send(&self, frame: proto::PeerFrame) -> Result<(), Unsent<proto::PeerFrame>> {
        self.0.send(frame).map_err(|_| Unsent::Closed)
    }

    fn close(&self) {
        self.1.send_modify(|n| *n += 1);
    }
}

fn slot_message(n: u64) -> proto::PeerFrame {
    let key = proto::Key {
        origin_hi: 1,
        origin_lo: 2,
        n,
        purpose: 1,
        ..proto::Key::default()
    };
    let message = proto::SlotMessage {
        key: Some(key),
        ..Default::default()
    };
    proto::PeerFrame {
        slot: 5,
        epoch: 6,
        body: Some(proto::peer_frame::Body::SlotMessage(message)),
    }
}

#[tokio::test]
async fn frames_between_routers_flow_both_ways_in_order() {
    let cluster = Cluster::new();
    let router = Router::new();
    let server = router
        .serve(cluster.security("router-1", Role::Router))
        .await;
    let dialer = cluster.dialer("router-0", Role::Router);
    let peers = GrpcPeerConnector::new(Arc::clone(&dialer));
    let port = peers.connect(&node("router-1", server.address().unwrap()));
    let (send, mut frames) = mpsc::unbounded_channel();
    let receive = Arc::new(Receive(send, watch::Sender::new(0)));
    let sink = port
        .open_lane(peer_hello("router-0"), receive.clone())
        .await
        .unwrap();
    for n in 1..=5000 {
        sink.send(slot_message(n)).unwrap();
    }
    for n in 1..=5000 {
        assert_eq!(soon("an echo", frames.recv()).await, Some(slot_message(n)));
    }
    drop(server);
    reaches("the caller's close", &receive.1, 1).await;
    reaches("the acceptor's close", &router.closed, 1).await;
    dialer.shutdown().await;
    assert_eq!((*receive.1.borrow(), *router.closed.borrow()), (1, 1));
    assert_eq!(sink.send(slot_message(1)), Err(Unsent::Closed));
}

#[tokio::test]
async fn an_edge_is_not_taken_for_a_router() {
    let cluster = Cluster::new();
    let router = Router::new();
    let server = router
        .serve(cluster.security("router-1", Role::Router))
        .await;
    let peers = GrpcPeerConnector::new(cluster.dialer("edge-0", Role::Edge));
    let port = peers.connect(&node("router-1", server.address().unwrap()));
    let receive = Arc::new(Receive(mpsc::unbounded_channel().0, watch::Sender::new(0)));
    let error = port
        .open_lane(peer_hello("edge-0"), receive)
        .await
        .err()
        .unwrap();
    assert!(error.to_string().contains("lacks the role"), "{error}");
}
