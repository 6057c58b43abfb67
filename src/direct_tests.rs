#![allow(clippy::unwrap_used)]

use std::sync::atomic::AtomicUsize;

use sestina_api::identity::Holder;

use super::*;

#[derive(Default)]
struct Edge {
    batches: AtomicUsize,
    closed: AtomicUsize,
}

impl EdgeSink for Edge {
    fn deliver(&self, _: proto::ToEdgeBatch) {
        self.batches.fetch_add(1, Ordering::SeqCst);
    }

    fn closed(&self) {
        self.closed.fetch_add(1, Ordering::SeqCst);
    }
}

#[derive(Default)]
struct Sink {
    frames: AtomicUsize,
    closed: AtomicUsize,
}

impl RouterSink for Sink {
    fn send(&self, _: proto::ToRouter) -> Result<(), Unsent<proto::ToRouter>> {
        self.frames.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    fn close(&self) {
        self.closed.fetch_add(1, Ordering::SeqCst);
    }
}

impl PeerSink for Sink {
    fn send(&self, _: proto::PeerFrame) -> Result<(), Unsent<proto::PeerFrame>> {
        self.frames.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    fn close(&self) {
        self.closed.fetch_add(1, Ordering::SeqCst);
    }
}

/// A router that records its input.
#[derive(Default)]
struct Acceptor {
    sink: Arc<Sink>,
    edges: Mutex<Vec<Arc<dyn EdgeLane>>>,
    peers: Mutex<Vec<Arc<dyn PeerSink>>>,
}

#[async_trait]
impl RouterAcceptor for Acceptor {
    async fn admit(&self, _: Holder) -> Result<(), LinkError> {
        Ok(())
    }

    fn accept_edge(
        &self,
        _: proto::Hello,
        lane: Arc<dyn EdgeLane>,
    ) -> Result<Arc<dyn RouterSink>, LinkError> {
        lane.send(proto::ToEdgeBatch::default()).unwrap();
        self.edges.lock().push(lane);
        Ok(self.sink.clone())
    }

    fn accept_peer(
        &self,
        _: proto::PeerHello,
        lane: Arc<dyn PeerSink>,
    ) -> Result<Arc<dyn PeerSink>, LinkError> {
        self.peers.lock().push(lane);
        Ok(self.sink.clone())
    }

    async fn credentials(
        &self,
        _: proto::CredentialsRequest,
    ) -> Result<proto::CredentialsReply, LinkError> {
        Ok(proto::CredentialsReply {
            owner: true,
            ..Default::default()
        })
    }

    async fn renew_lease(
        &self,
        _: proto::RenewLeaseRequest,
    ) -> Result<proto::RenewLeaseReply, LinkError> {
        Ok(proto::RenewLeaseReply::default())
    }
}

fn router(incarnation: u64) -> proto::Node {
    proto::Node {
        name: format!("r{incarnation}"),
        incarnation,
        ..Default::default()
    }
}

fn network() -> (DirectConnector, Arc<Acceptor>, Arc<dyn RouterPort>) {
    let (connector, acceptor) = (DirectConnector::new(), Arc::new(Acceptor::default()));
    connector.add(router(1), acceptor.clone());
    let port = RouterConnector::connect(&connector, &router(1));
    (connector, acceptor, port)
}

#[tokio::test]
async fn frames_pass_both_ways_until_either_side_closes() {
    let (_connector, acceptor, port) = network();
    let edge = Arc::new(Edge::default());
    let sink = port
        .open_lane(proto::Hello::default(), edge.clone())
        .await
        .unwrap();
    assert_eq!(edge.batches.load(Ordering::SeqCst), 1, "the welcome");
    sink.send(proto::ToRouter::default()).unwrap();
    assert_eq!(acceptor.sink.frames.load(Ordering::SeqCst), 1);

    let lane = acceptor.edges.lock()[0].clone();
    lane.close();
    lane.close();
    assert_eq!(edge.closed.load(Ordering::SeqCst), 1);
    assert_eq!(acceptor.sink.closed.load(Ordering::SeqCst), 1);
    assert_eq!(sink.send(proto::ToRouter::default()), Err(Unsent::Closed));
    assert_eq!(
        lane.send(proto::ToEdgeBatch::default()),
        Err(Unsent::Closed)
    );

    let sink = port
        .open_lane(proto::Hello::default(), edge.clone())
        .await
        .unwrap();
    sink.close();
    assert_eq!(acceptor.sink.closed.load(Ordering::SeqCst), 2);
    assert_eq!(
        edge.closed.load(Ordering::SeqCst),
        1,
        "the side that closes is not notified"
    );
    let lane = acceptor.edges.lock()[1].clone();
    assert_eq!(
        lane.send(proto::ToEdgeBatch::default()),
        Err(Unsent::Closed)
    );
}

#[tokio::test]
async fn lanes_end_with_their_router() {
    let (connector, acceptor, port) = network();
    let edge = Arc::new(Edge::default());
    let sink = port
        .open_lane(proto::Hello::default(), edge.clone())
        .await
        .unwrap();
    connector.remove(1);
    assert_eq!(edge.closed.load(Ordering::SeqCst), 1);
    assert_eq!(acceptor.sink.closed.load(Ordering::SeqCst), 1);
    assert_eq!(sink.send(proto::ToRouter::default()), Err(Unsent::Closed));
    let again = port.open_lane(proto::Hello::default(), edge).await;
    assert!(matches!(again, Err(LinkError::Unavailable { peer, .. }) if peer == "r1"));
    assert!(connector.seeds().await.is_empty());
    assert!(
        port.credentials(proto::CredentialsRequest::default())
            .await
            .is_err()
    );
}

#[tokio::test]
async fn lanes_between_routers_end_with_either() {
    for gone in [1, 2] {
        let (connector, acceptor, _) = network();
        connector.add(router(2), Arc::new(Acceptor::default()));
        let port = PeerConnector::connect(&connector, &router(1));
        let receive = Arc::new(Sink::default());
        let hello = proto::PeerHello {
            router: Some(router(2)),
            ..Default::default()
        };
        let sink = port.open_lane(hello, receive.clone()).await.unwrap();
        sink.send(proto::PeerFrame::default()).unwrap();
        let lane = acceptor.peers.lock()[0].clone();
        lane.send(proto::PeerFrame::default()).unwrap();
        assert_eq!(acceptor.sink.frames.load(Ordering::SeqCst), 1);
        assert_eq!(receive.frames.load(Ordering::SeqCst), 1);
        connector.remove(gone);
        assert_eq!(receive.closed.load(Ordering::SeqCst), 1);
        assert_eq!(sink.send(proto::PeerFrame::default()), Err(Unsent::Closed));
        assert_eq!(lane.send(proto::PeerFrame::default()), Err(Unsent::Closed));
    }
}
