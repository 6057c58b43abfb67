//! Attacks on every method and every frame: with the certificate of another role, under another name,
//! and as another process's incarnation. What there is to attack is read from the contracts, so a new
//! method or frame without its row fails here.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use prost::Message;
use prost_types::{DescriptorProto, FileDescriptorSet};
use sestina_api::admin::{AdminError, AdminHandler};
use sestina_certs::Role;
use sestina_proto as proto;
use tokio::sync::watch;
use tonic::client::Grpc;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;

use super::storage::{Replica, stores_of};
use super::support::*;
use crate::access::METHODS;
use crate::channel::Peer;
use crate::{RpcServer, RunningServer};

#[derive(Default)]
struct Commands(AtomicUsize);

#[async_trait]
impl AdminHandler for Commands {
    async fn call(&self, _: &str, _: &str) -> Result<String, AdminError> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Ok(String::new())
    }
}

/// A process that serves everything at once, and what of it was reached.
struct Target {
    cluster: Cluster,
    router: Arc<Router>,
    storage: Arc<Replica>,
    commands: Arc<Commands>,
    server: RunningServer,
}

impl Target {
    async fn start() -> Target {
        // A test below switches a guard off.
        sestina_runtime::faults_from_env().unwrap();
        let cluster = Cluster::new();
        let (router, storage) = (Router::new(), Arc::<Replica>::default());
        let commands = Arc::<Commands>::default();
        // One certificate of each of the roles that are dialled.
        let server = RpcServer::new(cluster.security("target", Role::Router))
            .router(Shared::acceptor(&router))
            .storage(stores_of(&storage))
            .admin(commands.clone())
            .health(watch::channel(true).1)
            .listen(localhost())
            .await
            .unwrap();
        Target {
            cluster,
            router,
            storage,
            commands,
            server,
        }
    }

    fn address(&self) -> SocketAddr {
        self.server.address().unwrap()
    }

    /// A connection with a certificate of that name and role.
    fn channel(&self, name: &str, role: Role) -> Channel {
        let peer = Peer::node(&node("target", self.address()), Role::Router);
        self.cluster.dialer(name, role).lazy(&peer).unwrap()
    }

    fn reached(&self) -> usize {
        self.router.reached.load(Ordering::SeqCst)
            + self.storage.calls()
            + self.commands.0.load(Ordering::SeqCst)
    }
}

fn descriptors() -> FileDescriptorSet {
    FileDescriptorSet::decode(proto::DESCRIPTORS).unwrap()
}

/// All methods of our contracts with the name of what they are sent.
fn methods() -> BTreeMap<String, String> {
    let files = descriptors().file;
    let services = files.iter().flat_map(|file| {
        let package = file.package().to_owned();
        file.service
            .iter()
            .map(move |service| (package.clone(), service))
    });
    services
        .flat_map(|(package, service)| {
            service.method.iter().map(move |method| {
                let name = format!("{package}.{}/{}", service.name(), method.name());
                (name, method.input_type().to_owned())
            })
        })
        .collect()
}

/// None for an enumeration, and for a map's entry, which is a message inside of one and holds text.
fn message(name: &str) -> Option<DescriptorProto> {
    let name = name.rsplit('.').next().unwrap();
    let files = descriptors().file;
    let mut all = files.into_iter().flat_map(|file| file.message_type);
    all.find(|message| message.name() == name)
}

/// Whether a message holds a `Node`, by whatever way.
fn holds_node(name: &str, seen: &mut BTreeSet<String>) -> bool {
    if name == ".sestina.v1.Node" {
        return true;
    }
    if !seen.insert(name.to_owned()) || !name.starts_with(".sestina.v1.") {
        return false;
    }
    let fields = message(name).map(|message| message.field);
    fields
        .iter()
        .flatten()
        .any(|field| holds_node(field.type_name(), seen))
}

/// Sends one message (empty: every message may be) and returns how the call ended.
async fn call<M: Message + Default + 'static>(
    channel: Channel,
    method: &str,
    message: M,
) -> Result<(), Status> {
    let mut grpc = Grpc::new(channel);
    grpc.ready().await.unwrap();
    let path = format!("/{method}").parse().unwrap();
    let codec = ProstCodec::<M, ()>::default();
    let called = grpc.unary(Request::new(message), path, codec);
    soon("an answer", called).await.map(drop)
}

#[test]
fn every_method_has_its_row() {
    let ours: BTreeSet<String> = methods().into_keys().collect();
    let rows: BTreeSet<String> = METHODS
        .iter()
        .map(|method| method.name.to_owned())
        .filter(|name| name.starts_with("sestina."))
        .collect();
    assert_eq!(rows, ours, "access::METHODS and the contracts differ");
}

#[tokio::test]
async fn every_method_refuses_every_role_but_those_of_its_row() {
    let target = Target::start().await;
    for method in METHODS {
        for role in Role::ALL {
            if method.callers.contains(&role) {
                continue;
            }
            let channel = target.channel(&format!("{role}-0"), role);
            let refused = call(channel, method.name, ()).await.unwrap_err();
            assert_eq!(
                refused.code(),
                Code::PermissionDenied,
                "{role} called {}: {refused}",
                method.name
            );
        }
    }
    let channel = target.channel("router-0", Role::Router);
    let unknown = call(channel, "sestina.v1.Storage/Dance", ())
        .await
        .unwrap_err();
    assert_eq!(unknown.code(), Code::Unimplemented);
    assert_eq!(target.reached(), 0, "a refused call reached its service");
}

/// What a thief sends to each method that takes a process's word on what it is.
fn claims(node: proto::Node, secret: &'static [u8]) -> BTreeMap<&'static str, Word> {
    let (edge, router) = (proto::NodeRole::Edge, proto::NodeRole::Router);
    let of = |role: proto::NodeRole| proto::Node {
        role: role.into(),
        ..node.clone()
    };
    let hello = proto::Hello {
        edge: Some(of(edge)),
        secret: secret.into(),
        ..Default::default()
    };
    let peer = proto::PeerHello {
        router: Some(of(router)),
        secret: secret.into(),
        ..Default::default()
    };
    BTreeMap::from([
        ("sestina.v1.EdgeLink/Lane", Word::Edge(hello)),
        (
            "sestina.v1.EdgeLink/RenewLease",
            Word::Renew(proto::RenewLeaseRequest {
                node: Some(of(edge)),
                secret: secret.into(),
                ..Default::default()
            }),
        ),
        ("sestina.v1.PeerLink/Lane", Word::Router(peer)),
        (
            "sestina.v1.Storage/LeaseRenew",
            Word::LeaseRenew(proto::LeaseRenewRequest {
                node: Some(of(router)),
                secret: secret.into(),
                ..Default::default()
            }),
        ),
        (
            "sestina.v1.Storage/LeaseEnd",
            Word::LeaseEnd(proto::LeaseEndRequest {
                node: Some(of(router)),
                secret: secret.into(),
            }),
        ),
        (
            "sestina.v1.Storage/SlotClaim",
            Word::SlotClaim(proto::SlotClaimRequest {
                planner: Some(of(router)),
                secret: secret.into(),
                ..Default::default()
            }),
        ),
        (
            "sestina.v1.Storage/SlotAssert",
            Word::SlotAssert(proto::SlotAssertRequest {
                holder: Some(of(router)),
                secret: secret.into(),
                ..Default::default()
            }),
        ),
    ])
}

#[derive(Clone)]
enum Word {
    Edge(proto::Hello),
    Router(proto::PeerHello),
    Renew(proto::RenewLeaseRequest),
    LeaseRenew(proto::LeaseRenewRequest),
    LeaseEnd(proto::LeaseEndRequest),
    SlotClaim(proto::SlotClaimRequest),
    SlotAssert(proto::SlotAssertRequest),
}

impl Word {
    async fn send(self, channel: Channel, method: &str) -> Result<(), Status> {
        match self {
            Word::Edge(hello) => {
                let body = Some(proto::to_router::Body::Hello(hello));
                let frames = vec![proto::ToRouter {
                    body,
                    ..Default::default()
                }];
                call(channel, method, proto::ToRouterBatch { frames }).await
            }
            Word::Router(hello) => {
                let body = Some(proto::peer_frame::Body::Hello(hello));
                let frames = vec![proto::PeerFrame {
                    body,
                    ..Default::default()
                }];
                call(channel, method, proto::PeerBatch { frames }).await
            }
            Word::Renew(request) => call(channel, method, request).await,
            Word::LeaseRenew(request) => call(channel, method, request).await,
            Word::LeaseEnd(request) => call(channel, method, request).await,
            Word::SlotClaim(request) => call(channel, method, request).await,
            Word::SlotAssert(request) => call(channel, method, request).await,
        }
    }
}

/// Methods that name a process without speaking for it.
const ASKS_ONLY: &[&str] = &["sestina.v1.Storage/LeaseProve"];

#[tokio::test]
async fn no_process_speaks_under_a_name_that_its_certificate_lacks() {
    let victim = process("victim", proto::NodeRole::Unspecified);
    let claims = claims(victim, SECRET);
    let speaking: BTreeSet<String> = methods()
        .into_iter()
        .filter(|(_, sent)| holds_node(sent, &mut BTreeSet::new()))
        .map(|(name, _)| name)
        .filter(|name| !ASKS_ONLY.contains(&name.as_str()))
        .collect();
    let attacked: BTreeSet<String> = claims.keys().map(|name| (*name).to_owned()).collect();
    assert_eq!(
        attacked, speaking,
        "a method that names processes is not attacked"
    );
    let target = Target::start().await;
    for (method, claim) in claims {
        let row = METHODS.iter().find(|row| row.name == method).unwrap();
        let channel = target.channel("thief", row.callers[0]);
        let refused = claim.send(channel, method).await.unwrap_err();
        assert_eq!(
            refused.code(),
            Code::PermissionDenied,
            "{method}: {refused}"
        );
        assert!(refused.message().contains("victim"), "{method}: {refused}");
    }
    assert_eq!(target.reached(), 0, "a refused call reached its service");
}

#[tokio::test]
async fn no_router_speaks_for_another_by_what_it_moves_or_passes_on() {
    let target = Target::start().await;
    let released = proto::SlotMove {
        released: true,
        from_name: "victim".to_owned(),
        ..Default::default()
    };
    let claim = proto::SlotClaimRequest {
        moves: vec![released],
        ..Default::default()
    };
    let channel = || target.channel("thief", Role::Router);
    let refused = call(channel(), "sestina.v1.Storage/SlotClaim", claim).await;
    assert_eq!(refused.unwrap_err().code(), Code::PermissionDenied);
    // Of a storage, which holds no lease; of an edge it may, having checked it.
    let lease = |role: proto::NodeRole| proto::LeaseEndRequest {
        node: Some(process("victim", role)),
        ..Default::default()
    };
    let method = "sestina.v1.Storage/LeaseEnd";
    let refused = call(channel(), method, lease(proto::NodeRole::Storage)).await;
    assert_eq!(refused.unwrap_err().code(), Code::PermissionDenied);
    assert_eq!(target.reached(), 0);
    call(channel(), method, lease(proto::NodeRole::Edge))
        .await
        .unwrap();
    // An edge says that it is a router.
    let mut renewal = renewal("thief", 0);
    renewal.node = Some(process("thief", proto::NodeRole::Router));
    let channel = target.channel("thief", Role::Edge);
    let refused = call(channel, "sestina.v1.EdgeLink/RenewLease", renewal).await;
    assert_eq!(refused.unwrap_err().code(), Code::PermissionDenied);
    assert_eq!(target.reached(), 1);
}

#[tokio::test]
async fn no_lane_opens_for_an_incarnation_without_its_secret() {
    let target = Target::start().await;
    // A certificate that a whole tier shares.
    let name = "victim";
    for method in ["sestina.v1.EdgeLink/Lane", "sestina.v1.PeerLink/Lane"] {
        for secret in [&b""[..], b"a guess of the right length"] {
            let claim = claims(process(name, proto::NodeRole::Unspecified), secret)[method].clone();
            let row = METHODS.iter().find(|row| row.name == method).unwrap();
            let channel = target.channel(name, row.callers[0]);
            let refused = claim.send(channel, method).await.unwrap_err();
            assert!(refused.message().contains("secret"), "{method}: {refused}");
        }
    }
    assert_eq!(target.reached(), 0, "a lane was opened");
}

/// Each kind of frame, empty, by the name of its field.
fn frames<M: Message + Default>(of: &str) -> Vec<(String, M)> {
    let fields = message(of).unwrap().field;
    let bodies = fields
        .into_iter()
        .filter(|field| field.oneof_index.is_some());
    bodies
        .map(|field| {
            // A field of wire type 2 (length-delimited) and length 0.
            let mut bytes = Vec::new();
            prost::encoding::encode_varint(u64::from(field.number() as u32) << 3 | 2, &mut bytes);
            bytes.push(0);
            (
                field.name().to_owned(),
                M::decode(bytes.as_slice()).unwrap(),
            )
        })
        .collect()
}

#[test]
fn on_an_open_lane_each_side_sends_its_own_frames_and_keeps_its_identity() {
    let edges = frames::<proto::ToRouter>("ToRouter");
    assert!(edges.len() > 10, "{edges:?}");
    for (name, frame) in edges {
        assert_eq!(crate::access::edge_sends(&frame), name != "hello", "{name}");
    }
    let me = process("router-0", proto::NodeRole::Router);
    let routers = frames::<proto::PeerFrame>("PeerFrame");
    assert!(routers.len() > 10, "{routers:?}");
    for (name, frame) in routers {
        // The empty one names another process.
        assert_eq!(
            crate::access::router_sends(&me, &frame),
            name != "hello",
            "{name}"
        );
    }
    let body = Some(proto::peer_frame::Body::Hello(peer_hello("router-0")));
    let own = proto::PeerFrame {
        body,
        ..Default::default()
    };
    assert!(crate::access::router_sends(&me, &own));
}

/// Whatever frame comes on a lane of another tier: the lane is refused before it is read.
#[tokio::test]
async fn no_frame_is_taken_from_another_tier() {
    let target = Target::start().await;
    for (name, frame) in frames::<proto::ToRouter>("ToRouter") {
        let first = proto::ToRouter {
            body: Some(proto::to_router::Body::Hello(hello("router-0"))),
            ..Default::default()
        };
        let batch = proto::ToRouterBatch {
            frames: vec![first, frame],
        };
        let channel = target.channel("router-0", Role::Router);
        let refused = call(channel, "sestina.v1.EdgeLink/Lane", batch).await;
        assert_eq!(
            refused.unwrap_err().code(),
            Code::PermissionDenied,
            "{name}"
        );
    }
    for (name, frame) in frames::<proto::PeerFrame>("PeerFrame") {
        let first = proto::PeerFrame {
            body: Some(proto::peer_frame::Body::Hello(peer_hello("edge-0"))),
            ..Default::default()
        };
        let batch = proto::PeerBatch {
            frames: vec![first, frame],
        };
        let channel = target.channel("edge-0", Role::Edge);
        let refused = call(channel, "sestina.v1.PeerLink/Lane", batch).await;
        assert_eq!(
            refused.unwrap_err().code(),
            Code::PermissionDenied,
            "{name}"
        );
    }
    assert_eq!(target.reached(), 0);
}

#[test]
fn the_guard_of_roles_is_missed() {
    for test in [
        "every_method_refuses_every_role_but_those_of_its_row",
        "no_process_speaks_under_a_name_that_its_certificate_lacks",
    ] {
        let name = format!("tests::access::{test}");
        let text = sestina_runtime::mutation::test_without("roles", &name).unwrap();
        assert!(text.contains("1 failed"), "{text}");
    }
}
