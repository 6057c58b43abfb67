//! Routers that do what a test says.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use sestina_api::link::{EdgeSink, LinkError, RouterConnector, RouterPort, RouterSink, Unsent};
use sestina_cluster::slots::SLOTS;
use sestina_proto as proto;
use sestina_proto::to_edge::Body as ToEdge;
use sestina_proto::to_router::Body;
use sestina_xmpp::sasl::Hash;
use sestina_xmpp::sasl::keys::{ScramKeys, fake_keys};
use tokio::sync::mpsc;

pub(super) const SM_KEY: &[u8] = b"the key of this cluster";
pub(super) const PASSWORD: &str = "r0m30myr0m30";

/// Matches the next frame of that kind; reports of acknowledgements may come in between.
macro_rules! next_frame {
    ($router:expr, $kind:ident) => {
        $router
            .expect(|body| match body {
                sestina_proto::to_router::Body::$kind(body) => Ok(body),
                other => Err(Box::new(other)),
            })
            .await
    };
}
pub(super) use next_frame;

/// All routers of a test.
pub(super) struct Cluster {
    routers: Mutex<Vec<Arc<Router>>>,
    map: Mutex<proto::SlotMap>,
    /// Renewals succeed.
    pub(super) leases: AtomicBool,
    /// Incarnations whose lease was ended.
    pub(super) ended: Mutex<Vec<u64>>,
}

impl Cluster {
    /// Routers a, b, ...; all slots belong to the first, with epoch 1.
    pub(super) fn new(count: usize) -> Arc<Cluster> {
        let cluster = Arc::new(Cluster {
            routers: Mutex::default(),
            map: Mutex::default(),
            leases: AtomicBool::new(true),
            ended: Mutex::default(),
        });
        let routers: Vec<_> = ["a", "b", "c"][..count]
            .iter()
            .map(|n| Router::new(n, &cluster))
            .collect();
        *cluster.map.lock() = proto::SlotMap {
            version: 1,
            routers: routers.iter().map(|r| r.node.clone()).collect(),
            owners: vec![1; SLOTS],
            epochs: vec![1; SLOTS],
            ..proto::SlotMap::default()
        };
        *cluster.routers.lock() = routers;
        cluster
    }

    pub(super) fn router(&self, index: usize) -> Arc<Router> {
        Arc::clone(&self.routers.lock()[index])
    }

    /// Changes the map; edges learn it with their next renewal.
    pub(super) fn move_slot(&self, slot: u16, owner: u32, epoch: u64) -> proto::SlotMap {
        let mut map = self.map.lock();
        map.version += 1;
        map.owners[usize::from(slot)] = owner;
        map.epochs[usize::from(slot)] = epoch;
        map.clone()
    }
}

/// How edges find them.
pub(super) struct Connector(pub(super) Arc<Cluster>);

#[async_trait]
impl RouterConnector for Connector {
    async fn seeds(&self) -> Vec<Arc<dyn RouterPort>> {
        vec![Arc::new(Port(self.0.router(0)))]
    }

    fn connect(&self, router: &proto::Node) -> Arc<dyn RouterPort> {
        let routers = self.0.routers.lock();
        Arc::new(Port(Arc::clone(
            routers.iter().find(|r| r.node.name == router.name).unwrap(),
        )))
    }
}

/// One router of the cluster.
pub(super) struct Router {
    pub(super) node: proto::Node,
    cluster: Weak<Cluster>,
    lanes: Mutex<HashMap<(String, u32), Arc<dyn EdgeSink>>>,
    frames: mpsc::UnboundedSender<proto::ToRouter>,
    received: tokio::sync::Mutex<mpsc::UnboundedReceiver<proto::ToRouter>>,
    seq: AtomicU64,
    /// The number of lanes that it will accept without sending Welcome.
    pub(super) mute: AtomicUsize,
    pub(super) lane_acked: AtomicU64,
    /// Slots named in acknowledgements.
    pub(super) refused: Mutex<Vec<(u32, u64)>>,
    /// Frames that its lanes take before they are full; none: all.
    pub(super) room: Mutex<Option<usize>>,
    /// Bytes that wait on its lanes.
    pub(super) waiting: AtomicUsize,
    /// How often lanes were opened; frames of an older opening are refused.
    openings: AtomicU64,
}

impl Router {
    fn new(name: &str, cluster: &Arc<Cluster>) -> Arc<Router> {
        let (frames, received) = mpsc::unbounded_channel();
        Arc::new(Router {
            node: proto::Node {
                name: name.to_owned(),
                incarnation: 7,
                role: proto::NodeRole::Router.into(),
                ..proto::Node::default()
            },
            cluster: Arc::downgrade(cluster),
            lanes: Mutex::default(),
            frames,
            received: tokio::sync::Mutex::new(received),
            seq: AtomicU64::new(0),
            mute: AtomicUsize::new(0),
            lane_acked: AtomicU64::new(0),
            refused: Mutex::default(),
            room: Mutex::default(),
            waiting: AtomicUsize::new(0),
            openings: AtomicU64::new(0),
        })
    }

    /// The next frame that is no LaneAck.
    pub(super) async fn next(&self) -> proto::ToRouter {
        let next = async { self.received.lock().await.recv().await.unwrap() };
        tokio::time::timeout(Duration::from_secs(10), next)
            .await
            .expect("a frame from the edge")
    }

    /// The next frame that is no Acked either, which must be of one kind: (slot, epoch, it).
    pub(super) async fn expect<T>(
        &self,
        kind: impl Fn(Body) -> Result<T, Box<Body>>,
    ) -> (u16, u64, T) {
        loop {
            let frame = self.next().await;
            match kind(frame.body.unwrap()) {
                Ok(body) => return (frame.slot as u16, frame.epoch, body),
                Err(other) if matches!(*other, Body::Acked(_)) => {}
                Err(other) => panic!("unexpected frame {other:?}"),
            }
        }
    }

    /// The next Acked.
    pub(super) async fn acked(&self) -> proto::Acked {
        next_frame!(self, Acked).2
    }

    /// Whether there is a frame (reports of acknowledgements left out).
    pub(super) fn is_quiet(&self) -> bool {
        let mut received = self.received.try_lock().unwrap();
        loop {
            match received.try_recv() {
                Ok(frame) if matches!(frame.body, Some(Body::Acked(_))) => {}
                Ok(frame) => panic!("unexpected frame {frame:?}"),
                Err(_) => return true,
            }
        }
    }

    /// Sends one frame.
    pub(super) fn send(&self, edge: &str, slot: u16, epoch: u64, body: ToEdge) {
        self.batch(edge, slot, epoch, vec![body]);
    }

    /// Sends frames in one batch.
    pub(super) fn batch(&self, edge: &str, slot: u16, epoch: u64, bodies: Vec<ToEdge>) {
        self.frames(edge, slot, epoch, bodies.into_iter().map(Some).collect());
    }

    /// Sends frames in one batch; none: of a kind that no version has.
    pub(super) fn frames(&self, edge: &str, slot: u16, epoch: u64, bodies: Vec<Option<ToEdge>>) {
        let lane = self.lanes.lock()[&(edge.to_owned(), u32::from(slot % 4))].clone();
        let frame = |body| proto::ToEdge {
            slot: slot.into(),
            epoch,
            body,
        };
        lane.deliver(proto::ToEdgeBatch {
            worker: 0,
            seq: self.seq.fetch_add(1, Ordering::Relaxed) + 1,
            frames: bodies.into_iter().map(frame).collect(),
        });
    }

    /// The last batch that was sent.
    pub(super) fn last_seq(&self) -> u64 {
        self.seq.load(Ordering::Relaxed)
    }

    /// Breaks all lanes; edges open new ones.
    pub(super) fn break_lanes(&self) {
        self.openings.fetch_add(1, Ordering::Relaxed);
        for (_, lane) in std::mem::take(&mut *self.lanes.lock()) {
            lane.closed();
        }
    }

    /// Sends it on every lane there is.
    pub(super) fn publish(&self, map: &proto::SlotMap) {
        for lane in self.lanes.lock().values() {
            let body = Some(ToEdge::SlotMap(map.clone()));
            lane.deliver(proto::ToEdgeBatch {
                worker: 0,
                seq: 0,
                frames: vec![proto::ToEdge {
                    slot: 0,
                    epoch: 0,
                    body,
                }],
            });
        }
    }

    /// Answers a Bind.
    pub(super) fn bound(&self, edge: &str, slot: u16, epoch: u64, bind: &proto::Bind) -> String {
        let resource = if bind.resource.is_empty() {
            "made"
        } else {
            &bind.resource
        };
        let jid = format!("{}/{resource}", bind.bare);
        let bound = proto::Bound {
            handle: bind.handle,
            generation: 1,
            jid: jid.clone(),
            session_hi: 1,
            session_lo: bind.handle,
        };
        self.send(edge, slot, epoch, ToEdge::Bound(bound));
        jid
    }
}

struct Port(Arc<Router>);

struct Sink {
    router: Arc<Router>,
    opening: u64,
}

#[async_trait]
impl RouterSink for Sink {
    fn send(&self, frame: proto::ToRouter) -> Result<(), Unsent<proto::ToRouter>> {
        if self.router.openings.load(Ordering::Relaxed) != self.opening {
            return Err(Unsent::Closed);
        }
        if let Some(Body::LaneAck(ack)) = &frame.body {
            self.router.lane_acked.fetch_max(ack.seq, Ordering::Relaxed);
            let refused = ack.refused_slots.iter().copied();
            let refused = refused.zip(ack.refused_epochs.iter().copied());
            self.router.refused.lock().extend(refused);
            return Ok(());
        }
        if frame.is_refusable()
            && let Some(room) = &mut *self.router.room.lock()
        {
            match room.checked_sub(1) {
                Some(left) => *room = left,
                None => return Err(Unsent::full(frame)),
            }
        }
        self.router.frames.send(frame).map_err(|_| Unsent::Closed)
    }

    fn waiting(&self) -> usize {
        self.router.waiting.load(Ordering::Relaxed)
    }

    fn close(&self) {}
}

#[async_trait]
impl RouterPort for Port {
    async fn open_lane(
        &self,
        hello: proto::Hello,
        edge: Arc<dyn EdgeSink>,
    ) -> Result<Arc<dyn RouterSink>, LinkError> {
        let router = &self.0;
        let name = hello.edge.unwrap().name;
        let opening = router.openings.load(Ordering::Relaxed);
        router
            .lanes
            .lock()
            .insert((name, hello.lane), Arc::clone(&edge));
        let welcome = proto::Welcome {
            router: Some(router.node.clone()),
            version: hello.newest,
            sm_key: SM_KEY.to_vec().into(),
            workers: 1,
        };
        let body = Some(ToEdge::Welcome(welcome));
        let frames = vec![proto::ToEdge {
            slot: 0,
            epoch: 0,
            body,
        }];
        let less = |mute: usize| mute.checked_sub(1);
        let mute = router
            .mute
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        if mute.is_err() {
            edge.deliver(proto::ToEdgeBatch {
                worker: 0,
                seq: 0,
                frames,
            });
        }
        Ok(Arc::new(Sink {
            router: Arc::clone(router),
            opening,
        }))
    }

    async fn credentials(
        &self,
        request: proto::CredentialsRequest,
    ) -> Result<proto::CredentialsReply, LinkError> {
        let known = request.bare.starts_with("juliet@");
        let disabled = request.bare.starts_with("tybalt@");
        let keys = [Hash::Sha1, Hash::Sha256]
            .into_iter()
            .map(|hash| {
                let keys = if known || disabled {
                    ScramKeys::derive(PASSWORD, hash, b"salt", 8).unwrap()
                } else {
                    fake_keys(b"secret", &request.bare, hash, 8)
                };
                proto::ScramKeys {
                    mechanism: hash.mechanism().name().to_owned(),
                    salt: keys.salt.into(),
                    iterations: keys.iterations,
                    stored_key: keys.stored_key.into(),
                    server_key: keys.server_key.into(),
                }
            })
            .collect();
        Ok(proto::CredentialsReply {
            owner: true,
            disabled,
            keys,
            exists: known || disabled,
        })
    }

    async fn renew_lease(
        &self,
        request: proto::RenewLeaseRequest,
    ) -> Result<proto::RenewLeaseReply, LinkError> {
        let cluster = self.0.cluster.upgrade().unwrap();
        let renewed = cluster.leases.load(Ordering::Relaxed);
        if renewed && request.ttl_ms == 0 {
            let node = request.node.unwrap_or_default();
            cluster.ended.lock().push(node.incarnation);
        }
        let map = cluster.map.lock();
        Ok(proto::RenewLeaseReply {
            redis: renewed,
            storage: false,
            slot_map: (map.version > request.known.unwrap_or_default().version)
                .then(|| map.clone()),
            speaks: 1,
        })
    }
}
