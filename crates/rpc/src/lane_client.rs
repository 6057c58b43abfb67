//! Lanes at the side that dials: from an edge to a router, or from a router to another one.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::{Stream, StreamExt};
use parking_lot::Mutex;
use prost::Message;
use sestina_api::link::{EdgeSink, LinkError, RouterConnector, RouterPort, RouterSink, Unsent};
use sestina_api::peer::{PeerConnector, PeerPort, PeerSink};
use sestina_certs::Role;
use sestina_proto as proto;
use sestina_proto::edge_link_client::EdgeLinkClient;
use sestina_proto::peer_link_client::PeerLinkClient;
use sestina_runtime::coalesce::CoalescingTimer;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use crate::channel::{Dialer, Peer};
use crate::lane::{self, BATCH, Once, farewell, next};
use crate::lane_server::{PeerLaneHandle, peer_batch};
use crate::queue::{ByteQueue, End, LANES, Outgoing, PEER_LANES};
use crate::target::Target;
use crate::{MAX_MESSAGE, status};

/// From the call to the other side's acceptance, the connection included.
const OPEN_TIMEOUT: Duration = Duration::from_secs(5);
/// The answer needs a question to storage.
const CREDENTIALS_TIMEOUT: Duration = Duration::from_secs(5);
/// A lease is renewed each second; a later answer is of no use.
const LEASE_TIMEOUT: Duration = Duration::from_millis(1500);
/// Ports kept for routers that may no longer be there.
const PORTS: usize = 256;

/// Finds routers by their configured and published addresses.
pub struct GrpcRouterConnector {
    dialer: Arc<Dialer>,
    seeds: Vec<Target>,
    ports: Mutex<HashMap<String, Arc<GrpcRouterPort>>>,
}

impl GrpcRouterConnector {
    /// `seeds` are the configured addresses of routers.
    pub fn new(dialer: Arc<Dialer>, seeds: Vec<Target>) -> GrpcRouterConnector {
        GrpcRouterConnector {
            dialer,
            seeds,
            ports: Mutex::new(HashMap::new()),
        }
    }

    /// The port kept for that process, so that its channel is made once.
    fn port(&self, peer: Peer) -> Arc<dyn RouterPort> {
        let mut ports = self.ports.lock();
        if ports.len() >= PORTS && !ports.contains_key(&peer.label) {
            ports.retain(|_, port| Arc::strong_count(port) > 1);
        }
        let port = ports.entry(peer.label.clone()).or_insert_with(|| {
            let dialer = Arc::clone(&self.dialer);
            Arc::new(GrpcRouterPort {
                dialer,
                peer,
                unary: OnceLock::new(),
                leases: OnceLock::new(),
            })
        });
        Arc::clone(port) as Arc<dyn RouterPort>
    }
}

#[async_trait]
impl RouterConnector for GrpcRouterConnector {
    async fn seeds(&self) -> Vec<Arc<dyn RouterPort>> {
        let mut found = Vec::new();
        for target in &self.seeds {
            match self.dialer.expand(target, Role::Router).await {
                Ok(peers) => found.extend(peers.into_iter().map(|peer| self.port(peer))),
                Err(reason) => tracing::warn!(%target, %reason, "no router behind this address"),
            }
        }
        found
    }

    fn connect(&self, router: &proto::Node) -> Arc<dyn RouterPort> {
        self.port(Peer::node(router, Role::Router))
    }
}

/// One router, over gRPC: a channel for questions, one for leases, and a connection of its own for each
/// lane, so that no lane waits for another.
struct GrpcRouterPort {
    dialer: Arc<Dialer>,
    peer: Peer,
    unary: OnceLock<Channel>,
    leases: OnceLock<Channel>,
}

impl GrpcRouterPort {
    fn client(&self, for_leases: bool) -> Result<EdgeLinkClient<Channel>, LinkError> {
        let kept = if for_leases {
            &self.leases
        } else {
            &self.unary
        };
        let channel = match (kept.get(), for_leases) {
            (Some(channel), _) => channel,
            (None, true) => {
                let channel = self.dialer.lazy_for_leases(&self.peer)?;
                kept.get_or_init(|| channel)
            }
            (None, false) => {
                let channel = self.dialer.lazy(&self.peer)?;
                kept.get_or_init(|| channel)
            }
        };
        Ok(EdgeLinkClient::new(channel.clone()).max_decoding_message_size(MAX_MESSAGE))
    }

    async fn ask<T>(
        &self,
        limit: Duration,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, LinkError> {
        // The library's own deadline does not cover the time that connecting takes.
        match tokio::time::timeout(limit, call).await {
            Ok(answer) => {
                let checked = self.dialer.checked(&self.peer, answer);
                checked
                    .map(Response::into_inner)
                    .map_err(|status| status::to_link(&self.peer.label, &status))
            }
            Err(_) => Err(LinkError::Unavailable {
                peer: self.peer.label.clone(),
                reason: format!("no answer within {limit:?}"),
            }),
        }
    }
}

/// A request with its deadline and the trace context.
pub(crate) fn request<T>(message: T, limit: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(limit);
    crate::trace::inject(request.metadata_mut());
    request
}

/// The queue as the request of the call. The other side learns from the end of the call how it
/// ended.
fn requests<T: Send + 'static, M: Send + 'static>(
    outgoing: Outgoing<T, M>,
) -> impl Stream<Item = M> + Send + 'static {
    outgoing.filter_map(|item| std::future::ready(item.ok()))
}

async fn within<T>(
    peer: &Peer,
    open: impl Future<Output = Result<T, LinkError>>,
) -> Result<T, LinkError> {
    tokio::time::timeout(OPEN_TIMEOUT, open)
        .await
        .unwrap_or_else(|_| {
            Err(LinkError::Unavailable {
                peer: peer.label.clone(),
                reason: format!("the lane was not accepted within {OPEN_TIMEOUT:?}"),
            })
        })
}

#[async_trait]
impl RouterPort for GrpcRouterPort {
    async fn open_lane(
        &self,
        hello: proto::Hello,
        edge: Arc<dyn EdgeSink>,
    ) -> Result<Arc<dyn RouterSink>, LinkError> {
        let queue = ByteQueue::new(
            self.dialer.limits().to_router,
            self.dialer.stop.child_token(),
            &LANES,
        );
        let sink = RouterLaneHandle(Arc::clone(&queue), self.dialer.coalesce.clone());
        let roomy = Arc::downgrade(&edge);
        queue.on_room(move || {
            if let Some(edge) = roomy.upgrade() {
                edge.room();
            }
        });
        let hello = proto::to_router::Body::Hello(hello);
        let first = proto::ToRouter {
            slot: 0,
            epoch: 0,
            body: Some(hello),
        };
        let closed = |_| self.closed_while_opening();
        sink.send(first).map_err(closed)?;
        let outgoing = requests(Outgoing::new(Arc::clone(&queue), BATCH, |frames| {
            proto::ToRouterBatch { frames }
        }));
        let mut inbound = within(&self.peer, async {
            let channel = self.dialer.connect(&self.peer).await?;
            let mut client = EdgeLinkClient::new(channel)
                .max_decoding_message_size(MAX_MESSAGE)
                .max_encoding_message_size(MAX_MESSAGE);
            let reply = client.lane(self.dialer.stream(outgoing)).await;
            let checked = self.dialer.checked(&self.peer, reply);
            checked.map_err(|status| status::to_link(&self.peer.label, &status))
        })
        .await?
        .into_inner();
        self.dialer.tasks.spawn(async move {
            {
                let ender = Arc::clone(&queue);
                let receiver = Arc::clone(&edge);
                let _once = Once::new(move || {
                    ender.end(End::Finished);
                    receiver.closed();
                });
                while let Some(batch) = next(&mut inbound, queue.token()).await {
                    edge.deliver(batch);
                }
            }
            drop(edge);
            if queue.ended() == Some(End::Finished) {
                farewell(&mut inbound).await;
            }
        });
        Ok(Arc::new(sink))
    }

    async fn credentials(
        &self,
        message: proto::CredentialsRequest,
    ) -> Result<proto::CredentialsReply, LinkError> {
        let mut client = self.client(false)?;
        let call = client.credentials(self.dialer.request(message, CREDENTIALS_TIMEOUT));
        self.ask(CREDENTIALS_TIMEOUT, call).await
    }

    async fn renew_lease(
        &self,
        message: proto::RenewLeaseRequest,
    ) -> Result<proto::RenewLeaseReply, LinkError> {
        let mut client = self.client(true)?;
        let call = client.renew_lease(self.dialer.request(message, LEASE_TIMEOUT));
        self.ask(LEASE_TIMEOUT, call).await
    }
}

impl GrpcRouterPort {
    fn closed_while_opening(&self) -> LinkError {
        LinkError::Unavailable {
            peer: self.peer.label.clone(),
            reason: "this process is stopping".to_owned(),
        }
    }
}

/// The edge's end of a lane.
struct RouterLaneHandle(Arc<ByteQueue<proto::ToRouter>>, Arc<CoalescingTimer>);

#[async_trait]
impl RouterSink for RouterLaneHandle {
    fn send(&self, frame: proto::ToRouter) -> Result<(), Unsent<proto::ToRouter>> {
        let bytes = frame.encoded_len();
        if frame.is_trailing() {
            self.0.push_trailing(bytes, frame, &self.1)
        } else if frame.is_refusable() {
            self.0.push(bytes, frame)
        } else {
            self.0.push_control(bytes, frame)
        }
    }

    fn waiting(&self) -> usize {
        self.0.bytes()
    }

    async fn room(&self) {
        self.0.room().await;
    }

    fn close(&self) {
        self.0.end(End::Finished);
    }
}

impl Drop for RouterLaneHandle {
    fn drop(&mut self) {
        self.close();
    }
}

/// Reaches other routers by their published addresses.
pub struct GrpcPeerConnector {
    dialer: Arc<Dialer>,
}

impl GrpcPeerConnector {
    /// Lanes are bounded as the dialler says.
    pub fn new(dialer: Arc<Dialer>) -> GrpcPeerConnector {
        GrpcPeerConnector { dialer }
    }
}

impl PeerConnector for GrpcPeerConnector {
    fn connect(&self, router: &proto::Node) -> Arc<dyn PeerPort> {
        let peer = Peer::node(router, Role::Router);
        Arc::new(GrpcPeerPort {
            dialer: Arc::clone(&self.dialer),
            peer,
        })
    }
}

struct GrpcPeerPort {
    dialer: Arc<Dialer>,
    peer: Peer,
}

#[async_trait]
impl PeerPort for GrpcPeerPort {
    async fn open_lane(
        &self,
        hello: proto::PeerHello,
        receive: Arc<dyn PeerSink>,
    ) -> Result<Arc<dyn PeerSink>, LinkError> {
        let queue = ByteQueue::new(
            self.dialer.limits().to_peer,
            self.dialer.stop.child_token(),
            &PEER_LANES,
        );
        let sink = PeerLaneHandle(Arc::clone(&queue), self.dialer.coalesce.clone());
        let hello = proto::peer_frame::Body::Hello(hello);
        let first = proto::PeerFrame {
            slot: 0,
            epoch: 0,
            body: Some(hello),
        };
        sink.send(first).map_err(|_| LinkError::Unavailable {
            peer: self.peer.label.clone(),
            reason: "this process is stopping".to_owned(),
        })?;
        let outgoing = requests(Outgoing::new(Arc::clone(&queue), BATCH, peer_batch));
        let mut inbound = within(&self.peer, async {
            let channel = self.dialer.connect(&self.peer).await?;
            let mut client = PeerLinkClient::new(channel)
                .max_decoding_message_size(MAX_MESSAGE)
                .max_encoding_message_size(MAX_MESSAGE);
            let reply = client.lane(self.dialer.stream(outgoing)).await;
            let checked = self.dialer.checked(&self.peer, reply);
            checked.map_err(|status| status::to_link(&self.peer.label, &status))
        })
        .await?
        .into_inner();
        self.dialer.tasks.spawn(async move {
            {
                let ender = Arc::clone(&queue);
                let receiver = Arc::clone(&receive);
                let _once = Once::new(move || {
                    ender.end(End::Finished);
                    receiver.close();
                });
                let (send, room) = (|frame| receive.send(frame), || receive.room());
                let hello = std::iter::empty();
                lane::receive(&mut inbound, queue.token(), hello, |b| b.frames, send, room).await;
            }
            drop(receive);
            if queue.ended() == Some(End::Finished) {
                farewell(&mut inbound).await;
            }
        });
        Ok(Arc::new(sink))
    }
}
