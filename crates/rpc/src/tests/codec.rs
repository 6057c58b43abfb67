use std::sync::Arc;

use parking_lot::Mutex;
use sestina_api::link::{EdgeLane, RouterAcceptor, RouterConnector, Unsent};
use sestina_api::peer::{PeerConnector, PeerSink};
use sestina_proto as proto;

use super::support::*;
use crate::{
    CodecAcceptor, CodecPeerConnector, CodecRouterConnector, Dialer, GrpcPeerConnector,
    GrpcRouterConnector, Security,
};

#[derive(Default)]
struct Lane(Mutex<Vec<proto::ToEdgeBatch>>);

impl EdgeLane for Lane {
    fn send(&self, batch: proto::ToEdgeBatch) -> Result<(), Unsent<proto::ToEdgeBatch>> {
        self.0.lock().push(batch);
        Ok(())
    }

    fn close(&self) {}
}

#[tokio::test]
async fn frames_pass_the_codec_unchanged() {
    let router = Router::new();
    let coded = CodecAcceptor(Shared::acceptor(&router));
    let lane = Arc::new(Lane::default());
    let sink = coded.accept_edge(hello("edge-0"), lane.clone()).unwrap();
    sink.send(inbound(1, 100)).unwrap();
    sink.send(inbound(2, 100)).unwrap();
    let batches = std::mem::take(&mut *lane.0.lock());
    assert_eq!(batches.len(), 3);
    assert_eq!(batches[1..], [progress(1, 1), progress(2, 2)]);
    sink.close();
    assert_eq!(*router.closed.borrow(), 1);
    let ask = proto::CredentialsRequest {
        slot: 7,
        bare: "a@b".to_owned(),
    };
    assert!(coded.credentials(ask).await.unwrap().owner);
}

#[tokio::test]
async fn the_wrapped_connectors_carry_lanes_and_questions() {
    let router = Router::new();
    let server = router.serve(Security::Plaintext).await;
    let at = node("router-0", server.address().unwrap());
    let dialer = Dialer::new(Security::Plaintext);
    let seeds = vec![at.address.parse().unwrap()];
    let direct = Arc::new(GrpcRouterConnector::new(Arc::clone(&dialer), seeds));
    let coded = CodecRouterConnector(direct);
    assert_eq!(coded.seeds().await.len(), 1);
    let port = coded.connect(&at);
    let (edge, mut batches) = Edge::new();
    let sink = port.open_lane(hello("edge-0"), edge.clone()).await.unwrap();
    sink.send(inbound(1, 100)).unwrap();
    soon("the Welcome", batches.recv()).await.unwrap();
    assert_eq!(
        soon("the answer", batches.recv()).await,
        Some(progress(1, 1))
    );
    assert_eq!(
        port.renew_lease(renewal("edge-0", 1))
            .await
            .unwrap()
            .slot_map
            .unwrap()
            .version,
        2
    );
    sink.close();
    reaches("the edge's close", &edge.closed, 1).await;

    struct Receive(tokio::sync::mpsc::UnboundedSender<proto::PeerFrame>);
    impl PeerSink for Receive {
        fn send(&self, frame: proto::PeerFrame) -> Result<(), Unsent<proto::PeerFrame>> {
            self.0.send(frame).map_err(|_| Unsent::Closed)
        }
        fn close(&self) {}
    }
    let peers = CodecPeerConnector(Arc::new(GrpcPeerConnector::new(dialer)));
    let (send, mut frames) = tokio::sync::mpsc::unbounded_channel();
    let receive = Arc::new(Receive(send));
    let hello = peer_hello("router-1");
    let sink = peers.connect(&at).open_lane(hello, receive).await.unwrap();
    let watermarks = vec![proto::Watermark {
        origin_hi: 1,
        origin_lo: 2,
        watermark: 3,
    }];
    let body = proto::peer_frame::Body::Watermarks(proto::Watermarks { watermarks });
    let frame = proto::PeerFrame {
        slot: 4,
        epoch: 5,
        body: Some(body),
    };
    sink.send(frame.clone()).unwrap();
    assert_eq!(soon("the echo", frames.recv()).await, Some(frame));
}
