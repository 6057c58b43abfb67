//! A router that echoes, an edge that records, and a cluster's certificates.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use sestina_api::identity::Holder;
use sestina_api::link::{EdgeLane, EdgeSink, LinkError, RouterAcceptor, RouterSink, Unsent};
use sestina_api::peer::PeerSink;
use sestina_certs::{Role, TrialCa};
use sestina_proto as proto;
use tokio::sync::{Notify, mpsc, watch};

use crate::{Dialer, MutualTls, RpcServer, RunningServer, Security};

pub(super) const WAIT: Duration = Duration::from_secs(20);

pub(super) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(WAIT, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what} did not happen within {WAIT:?}"),
    }
}

/// One CA, and certificates of it.
pub(super) struct Cluster(TrialCa);

impl Cluster {
    pub(super) fn new() -> Cluster {
        Cluster(TrialCa::create("test").unwrap().0)
    }

    pub(super) fn tls(&self, name: &str, role: Role) -> Arc<MutualTls> {
        let pem = self.0.issue(name, role, &[]).unwrap();
        let identity = sestina_certs::parse_identity(
            "cert",
            pem.cert_pem.as_bytes(),
            "key",
            pem.key_pem.as_bytes(),
        );
        let roots = sestina_certs::parse_roots("ca", self.0.cert_pem().as_bytes()).unwrap();
        MutualTls::new(identity.unwrap(), roots).unwrap()
    }

    pub(super) fn security(&self, name: &str, role: Role) -> Security {
        Security::Mutual(self.tls(name, role))
    }

    pub(super) fn dialer(&self, name: &str, role: Role) -> Arc<Dialer> {
        Dialer::new(self.security(name, role))
    }
}

pub(super) fn localhost() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

pub(super) fn node(name: &str, address: SocketAddr) -> proto::Node {
    proto::Node {
        name: name.to_owned(),
        address: address.to_string(),
        ..Default::default()
    }
}

pub(super) fn hello(name: &str) -> proto::Hello {
    proto::Hello {
        edge: Some(process(name, proto::NodeRole::Edge)),
        lanes: 1,
        newest: 1,
        secret: SECRET.into(),
        ..Default::default()
    }
}

/// As [`hello`], of a router.
pub(super) fn peer_hello(name: &str) -> proto::PeerHello {
    proto::PeerHello {
        router: Some(process(name, proto::NodeRole::Router)),
        secret: SECRET.into(),
        ..Default::default()
    }
}

/// A process of that tier.
pub(super) fn process(name: &str, role: proto::NodeRole) -> proto::Node {
    proto::Node {
        name: name.to_owned(),
        incarnation: 1,
        role: role.into(),
        ..Default::default()
    }
}

/// The secret of all incarnations in these tests.
pub(super) const SECRET: &[u8] = b"only these tests know this";

pub(super) fn renewal(name: &str, known_version: u64) -> proto::RenewLeaseRequest {
    proto::RenewLeaseRequest {
        node: Some(process(name, proto::NodeRole::Edge)),
        known: Some(proto::Position {
            version: known_version,
            ..proto::Position::default()
        }),
        secret: SECRET.into(),
        ..Default::default()
    }
}

/// Answers the n-th stanza with "accepted n", and keeps the lanes for tests to use.
pub(super) struct Router {
    pub(super) lanes: Mutex<Vec<Arc<dyn EdgeLane>>>,
    pub(super) received: watch::Sender<u64>,
    pub(super) closed: watch::Sender<usize>,
    pub(super) refuse: Mutex<Option<LinkError>>,
    /// Calls and lanes that were let through.
    pub(super) reached: AtomicUsize,
    keep: bool,
    /// Takes the frames of edges, instead of what answers them.
    sink: Option<Arc<dyn RouterSink>>,
}

impl Router {
    pub(super) fn new() -> Arc<Router> {
        Router::keeping(false)
    }

    /// With `keep`, it holds on to its end of each lane.
    pub(super) fn keeping(keep: bool) -> Arc<Router> {
        Arc::new(Router::with(keep, None))
    }

    /// Whatever edges send goes to that sink.
    pub(super) fn sinking(sink: Arc<dyn RouterSink>) -> Arc<Router> {
        Arc::new(Router::with(true, Some(sink)))
    }

    fn with(keep: bool, sink: Option<Arc<dyn RouterSink>>) -> Router {
        Router {
            lanes: Mutex::default(),
            received: watch::Sender::new(0),
            closed: watch::Sender::new(0),
            refuse: Mutex::default(),
            reached: AtomicUsize::new(0),
            keep,
            sink,
        }
    }

    pub(super) async fn serve(self: &Arc<Self>, security: Security) -> RunningServer {
        RpcServer::new(security)
            .router(Shared::acceptor(self))
            .listen(localhost())
            .await
            .unwrap()
    }
}

pub(super) struct Shared(Arc<Router>);

impl Shared {
    pub(super) fn acceptor(router: &Arc<Router>) -> Arc<dyn RouterAcceptor> {
        Arc::new(Shared(Arc::clone(router)))
    }
}

struct Echo {
    router: Arc<Router>,
    lane: Arc<dyn EdgeLane>,
    seq: AtomicUsize,
}

impl RouterSink for Echo {
    fn send(&self, frame: proto::ToRouter) -> Result<(), Unsent<proto::ToRouter>> {
        let Some(proto::to_router::Body::Inbound(inbound)) = frame.body else {
            return Ok(());
        };
        self.router.received.send_modify(|n| *n += 1);
        let seq = self.seq.fetch_add(1, Ordering::Relaxed) as u64 + 1;
        let sent = self.lane.send(progress(seq, inbound.n));
        sent.map_err(|_| Unsent::Closed)
    }

    fn close(&self) {
        self.router.closed.send_modify(|n| *n += 1);
    }
}

#[async_trait]
impl RouterAcceptor for Shared {
    async fn admit(&self, holder: Holder) -> Result<(), LinkError> {
        match holder.secret.to_wire() == SECRET {
            true => Ok(()),
            false => Err(LinkError::Refused {
                peer: "router".to_owned(),
                reason: "the secret is not that of this incarnation".to_owned(),
            }),
        }
    }

    fn accept_edge(
        &self,
        hello: proto::Hello,
        lane: Arc<dyn EdgeLane>,
    ) -> Result<Arc<dyn RouterSink>, LinkError> {
        self.0.reached.fetch_add(1, Ordering::SeqCst);
        if let Some(error) = self.0.refuse.lock().clone() {
            return Err(error);
        }
        let welcome = proto::Welcome {
            version: hello.newest,
            ..Default::default()
        };
        let body = proto::to_edge::Body::Welcome(welcome);
        let frame = proto::ToEdge {
            body: Some(body),
            ..Default::default()
        };
        lane.send(proto::ToEdgeBatch {
            worker: 0,
            seq: 0,
            frames: vec![frame],
        })
        .unwrap();
        if self.0.keep {
            self.0.lanes.lock().push(Arc::clone(&lane));
        }
        if let Some(sink) = &self.0.sink {
            return Ok(Arc::clone(sink));
        }
        Ok(Arc::new(Echo {
            router: Arc::clone(&self.0),
            lane,
            seq: AtomicUsize::new(0),
        }))
    }

    fn accept_peer(
        &self,
        _hello: proto::PeerHello,
        lane: Arc<dyn PeerSink>,
    ) -> Result<Arc<dyn PeerSink>, LinkError> {
        self.0.reached.fetch_add(1, Ordering::SeqCst);
        Ok(Arc::new(PeerEcho {
            router: Arc::clone(&self.0),
            lane,
        }))
    }

    async fn credentials(
        &self,
        request: proto::CredentialsRequest,
    ) -> Result<proto::CredentialsReply, LinkError> {
        self.0.reached.fetch_add(1, Ordering::SeqCst);
        if let Some(error) = self.0.refuse.lock().clone() {
            return Err(error);
        }
        Ok(proto::CredentialsReply {
            owner: request.slot == 7,
            ..Default::default()
        })
    }

    async fn renew_lease(
        &self,
        request: proto::RenewLeaseRequest,
    ) -> Result<proto::RenewLeaseReply, LinkError> {
        self.0.reached.fetch_add(1, Ordering::SeqCst);
        let map = proto::SlotMap {
            version: request.known.unwrap_or_default().version + 1,
            ..Default::default()
        };
        Ok(proto::RenewLeaseReply {
            redis: true,
            storage: false,
            slot_map: Some(map),
            speaks: 1,
        })
    }
}

struct PeerEcho {
    router: Arc<Router>,
    lane: Arc<dyn PeerSink>,
}

impl PeerSink for PeerEcho {
    fn send(&self, frame: proto::PeerFrame) -> Result<(), Unsent<proto::PeerFrame>> {
        self.lane.send(frame)
    }

    fn close(&self) {
        self.router.closed.send_modify(|n| *n += 1);
    }
}

pub(super) fn progress(seq: u64, accepted: u64) -> proto::ToEdgeBatch {
    let items = vec![proto::ProgressItem {
        accepted,
        ..Default::default()
    }];
    let body = proto::to_edge::Body::Progress(proto::Progress { items });
    let frame = proto::ToEdge {
        slot: 3,
        epoch: 9,
        body: Some(body),
    };
    proto::ToEdgeBatch {
        worker: (accepted % 2) as u32,
        seq,
        frames: vec![frame],
    }
}

pub(super) fn inbound(n: u64, payload: usize) -> proto::ToRouter {
    let stanza = proto::Stanza {
        to: "room@conference.example.org".to_owned(),
        payload: vec![b'x'; payload].into(),
        ..Default::default()
    };
    let inbound = proto::Inbound {
        handle: 1,
        n,
        stanza: Some(stanza),
        ..Default::default()
    };
    let body = Some(proto::to_router::Body::Inbound(inbound));
    proto::ToRouter {
        slot: 3,
        epoch: 9,
        body,
    }
}

/// Records what a lane brings.
pub(super) struct Edge {
    batches: mpsc::UnboundedSender<proto::ToEdgeBatch>,
    pub(super) closed: watch::Sender<usize>,
    /// Notified when its lane has room again.
    pub(super) roomy: Notify,
}

impl Edge {
    pub(super) fn new() -> (Arc<Edge>, mpsc::UnboundedReceiver<proto::ToEdgeBatch>) {
        let (batches, receive) = mpsc::unbounded_channel();
        (
            Arc::new(Edge {
                batches,
                closed: watch::Sender::new(0),
                roomy: Notify::new(),
            }),
            receive,
        )
    }
}

impl EdgeSink for Edge {
    fn deliver(&self, batch: proto::ToEdgeBatch) {
        // Not every test looks.
        self.batches.send(batch).ok();
    }

    fn room(&self) {
        self.roomy.notify_one();
    }

    fn closed(&self) {
        self.closed.send_modify(|n| *n += 1);
    }
}

pub(super) async fn reaches<T: PartialOrd + Copy>(what: &str, value: &watch::Sender<T>, at: T) {
    let mut value = value.subscribe();
    soon(what, value.wait_for(|v| *v >= at)).await.unwrap();
}

/// The number accepted that a batch tells; `None` for the Welcome.
pub(super) fn accepted(batch: &proto::ToEdgeBatch) -> Option<u64> {
    match batch.frames.first()?.body.as_ref()? {
        proto::to_edge::Body::Progress(progress) => Some(progress.items[0].accepted),
        _ => None,
    }
}
