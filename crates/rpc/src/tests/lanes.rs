use std::sync::Arc;
use std::sync::mpsc as std_mpsc;

use parking_lot::Mutex;
use sestina_api::link::{EdgeSink, LinkError, RouterConnector, RouterSink, Unsent};
use sestina_certs::Role;
use sestina_proto as proto;

use super::support::*;
use crate::lane::LaneLimits;
use crate::{Dialer, GrpcRouterConnector, RpcServer, Security};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_frames_keep_their_order() {
    const FRAMES: u64 = 100_000;
    let cluster = Cluster::new();
    let router = Router::new();
    let server = router
        .serve(cluster.security("router-0", Role::Router))
        .await;
    let dialer = cluster.dialer("edge-0", Role::Edge);
    let routers = GrpcRouterConnector::new(Arc::clone(&dialer), Vec::new());
    let port = routers.connect(&node("router-0", server.address().unwrap()));
    let (edge, mut batches) = Edge::new();
    let sink = port.open_lane(hello("edge-0"), edge.clone()).await.unwrap();

    let welcome = soon("the Welcome", batches.recv()).await.unwrap();
    assert_eq!(accepted(&welcome), None);
    for n in 1..=FRAMES {
        sink.send(inbound(n, 10)).unwrap();
    }
    for n in 1..=FRAMES {
        let batch = soon("an answer", batches.recv()).await.unwrap();
        assert_eq!(
            (accepted(&batch), batch.seq, batch.worker),
            (Some(n), n, (n % 2) as u32)
        );
    }
    assert_eq!(*edge.closed.borrow(), 0);
    assert!(server.shutdown(WAIT).await);
    dialer.shutdown().await;
}

#[tokio::test]
async fn frames_queued_before_a_close_arrive_and_both_ends_see_the_close_once() {
    let router = Router::new();
    let server = router.serve(Security::Plaintext).await;
    let dialer = Dialer::new(Security::Plaintext);
    let routers = GrpcRouterConnector::new(Arc::clone(&dialer), Vec::new());
    let port = routers.connect(&node("router-0", server.address().unwrap()));
    let (edge, batches) = Edge::new();
    let sink = port.open_lane(hello("edge-0"), edge.clone()).await.unwrap();
    for n in 1..=1000 {
        sink.send(inbound(n, 1000)).unwrap();
    }
    sink.close();
    assert!(sink.send(inbound(1001, 1)).is_err());
    reaches("the router's close", &router.closed, 1).await;
    assert_eq!(*router.received.borrow(), 1000);
    drop((sink, batches));
    dialer.shutdown().await;
    assert!(server.shutdown(WAIT).await);
    assert_eq!((*edge.closed.borrow(), *router.closed.borrow()), (1, 1));
}

#[tokio::test]
async fn a_dropped_sink_ends_the_lane() {
    let router = Router::new();
    let server = router.serve(Security::Plaintext).await;
    let dialer = Dialer::new(Security::Plaintext);
    let routers = GrpcRouterConnector::new(Arc::clone(&dialer), Vec::new());
    let port = routers.connect(&node("router-0", server.address().unwrap()));
    let (edge, _batches) = Edge::new();
    drop(port.open_lane(hello("edge-0"), edge.clone()).await.unwrap());
    reaches("the router's close", &router.closed, 1).await;
    reaches("the edge's close", &edge.closed, 1).await;
}

#[tokio::test]
async fn a_full_queue_refuses_and_its_lane_goes_on() {
    let router = Router::new();
    let server = router.serve(Security::Plaintext).await;
    let limits = LaneLimits {
        to_router: 64 << 10,
        ..LaneLimits::default()
    };
    let dialer = Dialer::with_limits(Security::Plaintext, limits);
    let routers = GrpcRouterConnector::new(Arc::clone(&dialer), Vec::new());
    let port = routers.connect(&node("router-0", server.address().unwrap()));
    let (edge, mut batches) = Edge::new();
    let sink = port.open_lane(hello("edge-0"), edge.clone()).await.unwrap();
    // Nothing else runs on this thread meanwhile, so the writer cannot take any of it.
    let sent = (1..=200)
        .take_while(|n| sink.send(inbound(*n, 1000)).is_ok())
        .count();
    assert!(
        (60..70).contains(&sent),
        "{sent} frames of 1 KB fit into 64 KiB"
    );
    soon("the Welcome", batches.recv()).await.unwrap();
    soon("room", sink.room()).await;
    let next = sent as u64 + 1;
    sink.send(inbound(next, 1000)).unwrap();
    for n in 1..=next {
        let batch = soon("an answer", batches.recv()).await.unwrap();
        assert_eq!(accepted(&batch), Some(n));
    }
    assert_eq!((*edge.closed.borrow(), *router.closed.borrow()), (0, 0));
}

/// An edge that takes one batch and then stands still until released.
struct Stuck(
    Mutex<std_mpsc::Receiver<()>>,
    tokio::sync::watch::Sender<usize>,
    tokio::sync::watch::Sender<usize>,
);

impl EdgeSink for Stuck {
    fn deliver(&self, batch: proto::ToEdgeBatch) {
        // The point of this test: a reader that stands still, against the rule.
        #[allow(clippy::disallowed_methods)]
        tokio::task::block_in_place(|| self.0.lock().recv().ok());
        if accepted(&batch).is_some() {
            self.2.send_modify(|n| *n += 1);
        }
    }

    fn closed(&self) {
        self.1.send_modify(|n| *n += 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_lane_that_is_not_read_refuses_alone_and_goes_on_later() {
    let router = Router::keeping(true);
    let limits = LaneLimits {
        to_edge: 1 << 20,
        ..LaneLimits::default()
    };
    let server = RpcServer::new(Security::Plaintext)
        .lane_limits(limits)
        .router(Shared::acceptor(&router))
        .listen(localhost())
        .await
        .unwrap();
    let dialer = Dialer::new(Security::Plaintext);
    let routers = GrpcRouterConnector::new(Arc::clone(&dialer), Vec::new());
    let port = routers.connect(&node("router-0", server.address().unwrap()));
    let (release, gate) = std_mpsc::channel();
    let stuck = Arc::new(Stuck(
        Mutex::new(gate),
        tokio::sync::watch::Sender::new(0),
        tokio::sync::watch::Sender::new(0),
    ));
    let stuck_sink = port
        .open_lane(hello("edge-0"), stuck.clone())
        .await
        .unwrap();
    let (edge, mut batches) = Edge::new();
    let _sink = port.open_lane(hello("edge-0"), edge.clone()).await.unwrap();
    soon("the Welcome", batches.recv()).await.unwrap();

    let lanes = router.lanes.lock().clone();
    let big = |seq| {
        let mut batch = progress(seq, seq);
        let stanza = proto::Stanza {
            payload: vec![0; 64 << 10].into(),
            ..Default::default()
        };
        let variants = vec![proto::Variant {
            stanza: Some(stanza),
            ..Default::default()
        }];
        let deliver = proto::Deliver {
            variants,
            targets: Vec::new(),
        };
        let body = Some(proto::to_edge::Body::Deliver(deliver));
        batch.frames.push(proto::ToEdge {
            body,
            ..Default::default()
        });
        batch
    };
    // More than windows and socket buffers hold, at the pace of the lane that is read.
    let mut refused = 0;
    for seq in 1..=600 {
        match lanes[0].send(big(seq)) {
            Ok(()) => assert_eq!(refused, 0, "a full lane took batch {seq}"),
            Err(unsent) => {
                assert!(matches!(unsent, Unsent::Full(batch) if batch.seq == seq));
                refused += 1;
            }
        }
        lanes[1].send(big(seq)).unwrap();
        let batch = soon("a batch on the other lane", batches.recv())
            .await
            .unwrap();
        assert_eq!(accepted(&batch), Some(seq));
    }
    assert!(refused > 0);
    // It is read again, and what was refused is sent.
    drop(release);
    let taken = 600 - refused;
    reaches("what was taken", &stuck.2, taken).await;
    lanes[0].send(big(601)).unwrap();
    reaches("what was refused before", &stuck.2, taken + 1).await;
    assert_eq!((*edge.closed.borrow(), *stuck.1.borrow()), (0, 0));
    assert_eq!(*router.closed.borrow(), 0);
    assert!(stuck_sink.send(inbound(1, 1)).is_ok());
}

/// A sink that refuses until it is let go on.
struct Refusing {
    open: tokio::sync::watch::Sender<bool>,
    taken: tokio::sync::watch::Sender<usize>,
}

#[async_trait::async_trait]
impl RouterSink for Refusing {
    fn send(&self, frame: proto::ToRouter) -> Result<(), Unsent<proto::ToRouter>> {
        if !*self.open.borrow() {
            return Err(Unsent::full(frame));
        }
        self.taken.send_modify(|n| *n += 1);
        Ok(())
    }

    async fn room(&self) {
        self.open.subscribe().wait_for(|open| *open).await.unwrap();
    }

    fn close(&self) {}
}

#[tokio::test]
async fn a_reader_waits_for_a_full_sink_and_its_lane_refuses_meanwhile() {
    let sink = Arc::new(Refusing {
        open: tokio::sync::watch::Sender::new(false),
        taken: tokio::sync::watch::Sender::new(0),
    });
    let router = Router::sinking(sink.clone());
    let server = router.serve(Security::Plaintext).await;
    let dialer = Dialer::new(Security::Plaintext);
    let routers = GrpcRouterConnector::new(Arc::clone(&dialer), Vec::new());
    let port = routers.connect(&node("router-0", server.address().unwrap()));
    let (edge, mut batches) = Edge::new();
    let lane = port.open_lane(hello("edge-0"), edge.clone()).await.unwrap();
    soon("the Welcome", batches.recv()).await.unwrap();
    let mut sent = 0;
    // More than windows and socket buffers hold.
    let refused = loop {
        match lane.send(inbound(sent + 1, 64 << 10)) {
            Ok(()) => sent += 1,
            Err(unsent) => break unsent,
        }
        if sent % 16 == 0 {
            tokio::task::yield_now().await;
        }
    };
    assert!(matches!(refused, Unsent::Full(_)), "{refused}");
    assert!(lane.waiting() >= LaneLimits::default().to_router);
    // What must not be refused is not.
    let ack = proto::to_router::Body::LaneAck(proto::LaneAck::default());
    let ack = proto::ToRouter {
        body: Some(ack),
        ..Default::default()
    };
    lane.send(ack).unwrap();
    sink.open.send_replace(true);
    reaches("all that was taken", &sink.taken, sent as usize + 1).await;
    soon("room", lane.room()).await;
    soon("news of it", edge.roomy.notified()).await;
    lane.send(inbound(sent + 1, 64 << 10)).unwrap();
    reaches("what was refused", &sink.taken, sent as usize + 2).await;
    assert_eq!(*edge.closed.borrow(), 0);
}

#[tokio::test]
async fn a_frame_of_twenty_megabytes_passes() {
    let router = Router::new();
    let server = router.serve(Security::Plaintext).await;
    let dialer = Dialer::new(Security::Plaintext);
    let routers = GrpcRouterConnector::new(Arc::clone(&dialer), Vec::new());
    let port = routers.connect(&node("router-0", server.address().unwrap()));
    let (edge, mut batches) = Edge::new();
    let sink = port.open_lane(hello("edge-0"), edge).await.unwrap();
    sink.send(inbound(1, 20 << 20)).unwrap();
    soon("the Welcome", batches.recv()).await.unwrap();
    let batch = soon("the answer", batches.recv()).await.unwrap();
    assert_eq!(accepted(&batch), Some(1));
}

#[tokio::test]
async fn a_killed_router_closes_the_lane_once() {
    let cluster = Cluster::new();
    let router = Router::keeping(true);
    let server = router
        .serve(cluster.security("router-0", Role::Router))
        .await;
    let dialer = cluster.dialer("edge-0", Role::Edge);
    let routers = GrpcRouterConnector::new(Arc::clone(&dialer), Vec::new());
    let port = routers.connect(&node("router-0", server.address().unwrap()));
    let (edge, mut batches) = Edge::new();
    let sink = port.open_lane(hello("edge-0"), edge.clone()).await.unwrap();
    soon("the Welcome", batches.recv()).await.unwrap();
    drop(server);
    reaches("the edge's close", &edge.closed, 1).await;
    assert!(sink.send(inbound(1, 1)).is_err());
    assert!(port.open_lane(hello("edge-0"), edge.clone()).await.is_err());
    dialer.shutdown().await;
    reaches("the router's close", &router.closed, 1).await;
    assert_eq!((*edge.closed.borrow(), *router.closed.borrow()), (1, 1));
}

#[tokio::test]
async fn questions_are_answered_and_refusals_told() {
    let router = Router::new();
    let server = router.serve(Security::Plaintext).await;
    let dialer = Dialer::new(Security::Plaintext);
    let seeds = vec![server.address().unwrap().to_string().parse().unwrap()];
    let routers = GrpcRouterConnector::new(dialer, seeds);
    let seeds = routers.seeds().await;
    assert_eq!(seeds.len(), 1);
    let ask = |slot| proto::CredentialsRequest {
        slot,
        bare: "a@b".to_owned(),
    };
    assert!(seeds[0].credentials(ask(7)).await.unwrap().owner);
    assert!(!seeds[0].credentials(ask(8)).await.unwrap().owner);
    let reply = seeds[0].renew_lease(renewal("edge-0", 4)).await.unwrap();
    assert_eq!(
        (reply.redis, reply.storage, reply.slot_map.unwrap().version),
        (true, false, 5)
    );

    let refusal = |reason: &str| LinkError::Refused {
        peer: server.address().unwrap().to_string(),
        reason: reason.to_owned(),
    };
    *router.refuse.lock() = Some(refusal("protocol 9 is not spoken here"));
    let (edge, _batches) = Edge::new();
    let error = seeds[0]
        .open_lane(hello("edge-0"), edge.clone())
        .await
        .err();
    assert_eq!(error, Some(refusal("protocol 9 is not spoken here")));
    assert_eq!(seeds[0].credentials(ask(7)).await.err(), error);
    assert_eq!(*edge.closed.borrow(), 0);
}

#[tokio::test]
async fn shutdown_flushes_what_lanes_hold() {
    let router = Router::keeping(true);
    let server = router.serve(Security::Plaintext).await;
    let dialer = Dialer::new(Security::Plaintext);
    let routers = GrpcRouterConnector::new(dialer, Vec::new());
    let port = routers.connect(&node("router-0", server.address().unwrap()));
    let (edge, mut batches) = Edge::new();
    let _sink = port.open_lane(hello("edge-0"), edge.clone()).await.unwrap();
    let lane = router.lanes.lock()[0].clone();
    for seq in 1..=500 {
        lane.send(progress(seq, seq)).unwrap();
    }
    assert!(server.shutdown(WAIT).await);
    reaches("the edge's close", &edge.closed, 1).await;
    let mut last = None;
    while let Ok(batch) = batches.try_recv() {
        last = accepted(&batch);
    }
    assert_eq!(last, Some(500));
}

#[tokio::test]
async fn an_unpublished_address_is_refused_in_words() {
    let routers = GrpcRouterConnector::new(Dialer::new(Security::Plaintext), Vec::new());
    let bad = proto::Node {
        name: "router-9".to_owned(),
        address: "nowhere".to_owned(),
        ..Default::default()
    };
    let (edge, _batches) = Edge::new();
    let error = routers
        .connect(&bad)
        .open_lane(hello("edge-0"), edge)
        .await
        .err()
        .unwrap();
    let LinkError::Refused { peer, reason } = error else {
        panic!("{error}")
    };
    assert!(
        peer.contains("router-9") && reason.contains("port is missing"),
        "{peer}: {reason}"
    );
}
