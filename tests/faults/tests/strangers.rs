//! Callers that claim a wrong identity call running routers and storage processes: with a
//! certificate of another tier, of another process or of another authority, without the secret of
//! an incarnation, or from another cluster. Each call is refused with an error that gives the
//! reason, and the cluster does not change.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use prost::Message;
use sestina_api::store::Stores;
use sestina_certs::Role;
use sestina_faults::certificates::Certificates;
use sestina_faults::client::Client;
use sestina_faults::cluster::{At, Size};
use sestina_faults::crowd::run;
use sestina_faults::deeds::{self, Deed};
use sestina_faults::process::Tier;
use sestina_faults::wait::until;
use sestina_faults::world::{LIMIT, World};
use sestina_proto as proto;
use sestina_rpc::access::METHODS;
use sestina_rpc::{Cluster, Dialer, GrpcStores, MutualTls, Security, TlsFiles};
use tonic::client::Grpc;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;

const ROUTER: At = At::router(0);
const STORAGE: At = At::storage(0);

/// The name of the cluster in the configuration of its processes, and the header that carries it.
const CLUSTER: &str = "sestina";
const HEADER: &str = "sestina-cluster";

/// How long a process with a wrong certificate is watched after its refusal.
const WATCHED: Duration = Duration::from_secs(6);

fn size() -> Size {
    Size {
        edges: 2,
        routers: 2,
        storages: 1,
        tls: true,
        ..Size::default()
    }
}

/// The state that must not change: the holders of leases, and the owners and epochs of slots.
async fn everything(world: &World, stores: &GrpcStores) -> Result<String> {
    let slots = world.cluster.lock().await.slot_table().await?;
    let leases = stores.lease_list(proto::Empty {}).await?.leases;
    let mut holders: Vec<(String, u64)> = leases
        .into_iter()
        .filter_map(|lease| lease.node.filter(|_| lease.remaining_ms > 0))
        .map(|node| (node.name, node.incarnation))
        .collect();
    holders.sort();
    Ok(format!("{holders:?} {slots}"))
}

/// A cluster, and the addresses and certificates for a caller from outside.
struct Scene {
    world: World,
    certificates: Certificates,
    router: String,
    storage: String,
}

impl Scene {
    async fn start() -> Result<Scene> {
        let world = World::start(size()).await?;
        let cluster = world.cluster.lock().await;
        let certificates = cluster
            .certificates
            .clone()
            .context("it was asked for TLS")?;
        let (router, storage) = (cluster.address(ROUTER)?, cluster.address(STORAGE)?);
        drop(cluster);
        Ok(Scene {
            world,
            certificates,
            router,
            storage,
        })
    }

    /// The stores, with the certificate of the first router.
    fn stores(&self) -> Result<GrpcStores> {
        let tls = MutualTls::load(self.certificates.issue("router-1", Role::Router)?)?;
        let dialer = Dialer::in_cluster(Security::Mutual(tls), Cluster::new(CLUSTER));
        Ok(GrpcStores::new(dialer, vec![self.storage.parse()?]))
    }

    /// The address of the process that serves a method.
    fn server(&self, method: &str) -> &str {
        match method.starts_with("sestina.v1.Storage/") {
            true => &self.storage,
            false => &self.router,
        }
    }

    /// A caller of that name and role.
    fn caller(&self, name: &str, role: Role, method: &str) -> Result<Channel> {
        channel(self.certificates.issue(name, role)?, self.server(method))
    }

    /// Checks that the state is unchanged and the cluster works.
    async fn nothing_has_changed(&self, stores: &GrpcStores, before: &str) -> Result<()> {
        let after = everything(&self.world, stores).await?;
        ensure!(after == before, "before: {before}\nafter: {after}");
        self.world.cluster.lock().await.redundant(LIMIT).await?;
        let all = [Deed::Chat, Deed::RoomMessage, Deed::Join];
        deeds::go_on(&self.world, &all, "after").await?;
        self.world
            .clients()
            .try_for_each(Client::kept_its_connection)?;
        Ok(())
    }
}

fn channel(files: TlsFiles, address: &str) -> Result<Channel> {
    let dialer: Arc<Dialer> = Dialer::new(Security::Mutual(MutualTls::load(files)?));
    Ok(dialer.channel(&address.parse()?)?)
}

/// Sends one message and returns the answer. An empty message is valid for every kind.
async fn call<M, R>(
    channel: Channel,
    method: &str,
    message: M,
    cluster: Option<&str>,
) -> Result<R, Status>
where
    M: Message + Default + 'static,
    R: Message + Default + 'static,
{
    let mut grpc = Grpc::new(channel);
    let away = |error: tonic::transport::Error| Status::unavailable(format!("{error:?}"));
    grpc.ready().await.map_err(away)?;
    let path = format!("/{method}").parse().expect("a path");
    let mut request = Request::new(message);
    if let Some(cluster) = cluster {
        let name = cluster.parse().expect("a name");
        request.metadata_mut().insert(HEADER, name);
    }
    let called = grpc.unary(request, path, ProstCodec::<M, R>::default());
    match tokio::time::timeout(LIMIT, called).await {
        Ok(answer) => answer.map(tonic::Response::into_inner),
        Err(_) => Err(Status::deadline_exceeded("it does not answer")),
    }
}

/// Checks that a call was refused with that code, and that the error has these words.
fn refused<R>(answer: Result<R, Status>, what: &str, code: Code, words: &[&str]) -> Result<()> {
    let Err(status) = answer else {
        bail!("{what}: it was not refused");
    };
    let clear = words.iter().all(|words| status.message().contains(words));
    ensure!(status.code() == code && clear, "{what}: {status:?}");
    Ok(())
}

/// A process's statement about itself, in each call that carries one.
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
    /// All statements, for an edge and a router, on this timeline of the slot table.
    fn all(edge: &proto::Node, router: &proto::Node, timeline: u64) -> Vec<(&'static str, Word)> {
        let secret = || b"a guess of the right length".as_slice().into();
        let (of_edge, of_router) = (Some(edge.clone()), Some(router.clone()));
        let hello = proto::Hello {
            edge: of_edge.clone(),
            lanes: 1,
            secret: secret(),
            ..Default::default()
        };
        let peer = proto::PeerHello {
            router: of_router.clone(),
            lanes: 1,
            secret: secret(),
            ..Default::default()
        };
        let renew = proto::RenewLeaseRequest {
            node: of_edge,
            secret: secret(),
            ..Default::default()
        };
        let lease_renew = proto::LeaseRenewRequest {
            node: of_router.clone(),
            ttl_ms: 60_000,
            secret: secret(),
        };
        let lease_end = proto::LeaseEndRequest {
            node: of_router.clone(),
            secret: secret(),
        };
        let step = proto::SlotMove {
            released: true,
            from_name: router.name.clone(),
            from_incarnation: router.incarnation,
            ..Default::default()
        };
        let claim = proto::SlotClaimRequest {
            moves: vec![step],
            planner: of_router.clone(),
            planner_ttl_ms: 60_000,
            secret: secret(),
            ..Default::default()
        };
        let assert = proto::SlotAssertRequest {
            holder: of_router,
            secret: secret(),
            timeline,
            ..Default::default()
        };
        vec![
            ("sestina.v1.EdgeLink/Lane", Word::Edge(hello)),
            ("sestina.v1.PeerLink/Lane", Word::Router(peer)),
            ("sestina.v1.EdgeLink/RenewLease", Word::Renew(renew)),
            (
                "sestina.v1.Storage/LeaseRenew",
                Word::LeaseRenew(lease_renew),
            ),
            ("sestina.v1.Storage/LeaseEnd", Word::LeaseEnd(lease_end)),
            ("sestina.v1.Storage/SlotClaim", Word::SlotClaim(claim)),
            ("sestina.v1.Storage/SlotAssert", Word::SlotAssert(assert)),
        ]
    }

    /// The role that may make this statement.
    fn role(&self) -> Role {
        match self {
            Word::Edge(_) | Word::Renew(_) => Role::Edge,
            _ => Role::Router,
        }
    }

    async fn send(self, channel: Channel, method: &str) -> Result<(), Status> {
        let cluster = Some(CLUSTER);
        match self {
            Word::Edge(hello) => {
                let body = Some(proto::to_router::Body::Hello(hello));
                let frames = vec![proto::ToRouter {
                    body,
                    ..Default::default()
                }];
                call(channel, method, proto::ToRouterBatch { frames }, cluster).await
            }
            Word::Router(hello) => {
                let body = Some(proto::peer_frame::Body::Hello(hello));
                let frames = vec![proto::PeerFrame {
                    body,
                    ..Default::default()
                }];
                call(channel, method, proto::PeerBatch { frames }, cluster).await
            }
            Word::Renew(request) => call(channel, method, request, cluster).await,
            Word::LeaseRenew(request) => {
                // A wrong secret is a field of this answer, because a router must distinguish it
                // from an authority that is unavailable.
                let reply: proto::LeaseRenewReply = call(channel, method, request, cluster).await?;
                match reply.wrong_secret {
                    true => Err(Status::permission_denied("the secret is wrong")),
                    false => Ok(()),
                }
            }
            Word::LeaseEnd(request) => call(channel, method, request, cluster).await,
            Word::SlotClaim(request) => call(channel, method, request, cluster).await,
            Word::SlotAssert(request) => call(channel, method, request, cluster).await,
        }
    }
}

/// Every method of every tier refuses the certificates of all other roles.
async fn other_roles(scene: &Scene) -> Result<usize> {
    let mut calls = 0;
    for method in METHODS.iter().filter(|m| m.name.starts_with("sestina.")) {
        for role in Role::ALL {
            if method.callers.contains(&role) {
                continue;
            }
            let caller = scene.caller(&format!("{role}-1"), role, method.name)?;
            let answer = call::<(), ()>(caller, method.name, (), Some(CLUSTER)).await;
            let what = format!("{role} calls {}", method.name);
            let words: &[&str] = match method.callers {
                [] => &["is not offered"],
                _ => &["lacks the role", "urn:sestina:role:"],
            };
            refused(answer, &what, Code::PermissionDenied, words)?;
            calls += 1;
        }
    }
    Ok(calls)
}

/// Calls in the name of running processes: with the certificate of another process, and with the
/// certificate that the whole tier shares but without the incarnation's secret.
async fn other_names(
    scene: &Scene,
    edge: &proto::Node,
    router: &proto::Node,
    timeline: u64,
) -> Result<()> {
    for (method, word) in Word::all(edge, router, timeline) {
        let thief = scene.caller("thief", word.role(), method)?;
        let answer = word.send(thief, method).await;
        let words = ["is not a name of the caller's certificate"];
        refused(
            answer,
            &format!("a thief calls {method}"),
            Code::PermissionDenied,
            &words,
        )?;
    }
    for (method, word) in Word::all(edge, router, timeline) {
        let name = match word.role() {
            Role::Edge => &edge.name,
            _ => &router.name,
        };
        let shares = scene.caller(name, word.role(), method)?;
        let Err(status) = word.send(shares, method).await else {
            bail!("{method}: it was not refused without the secret");
        };
        ensure!(status.message().contains("secret"), "{method}: {status:?}");
    }
    Ok(())
}

/// Callers of another authority, and of another cluster.
async fn other_clusters(scene: &Scene) -> Result<()> {
    let other = Certificates::new(&scene.certificates.folder().join("other"))?;
    for (method, role) in [
        ("sestina.v1.EdgeLink/RenewLease", Role::Edge),
        ("sestina.v1.PeerLink/Lane", Role::Router),
        ("sestina.v1.Storage/LeaseList", Role::Router),
    ] {
        // The caller trusts the cluster, and the cluster does not trust the caller.
        let files = TlsFiles {
            ca: scene.certificates.authority(),
            ..other.issue("router-1", role)?
        };
        let channel = channel(files, scene.server(method))?;
        let answer = call::<(), ()>(channel, method, (), Some(CLUSTER)).await;
        // No answer came: the connection was closed at a point that varies.
        let Err(status) = answer else {
            bail!("{method}: a certificate of another authority was accepted");
        };
        let ended = [Code::Unavailable, Code::Unknown, Code::Cancelled];
        ensure!(ended.contains(&status.code()), "{method}: {status:?}");
        for (cluster, words) in [(Some("elsewhere"), "elsewhere"), (None, "names no cluster")] {
            let caller = scene.caller("router-1", role, method)?;
            let answer = call::<(), ()>(caller, method, (), cluster).await;
            refused(answer, method, Code::FailedPrecondition, &[words, CLUSTER])?;
        }
    }
    Ok(())
}

async fn calls_are_refused() -> Result<()> {
    let scene = Scene::start().await?;
    let stores = scene.stores()?;
    let before = everything(&scene.world, &stores).await?;
    let leases = stores.lease_list(proto::Empty {}).await?.leases;
    let node = |name: &str| {
        let mut nodes = leases.iter().filter_map(|lease| lease.node.clone());
        nodes
            .find(|node| node.name == name)
            .context("it has a lease")
    };
    let calls = other_roles(&scene).await?;
    println!("{calls} calls by other roles are refused");
    // The call goes to another router than the one in whose name it is made.
    let table = stores
        .slot_table(proto::SlotTableRequest::default())
        .await?
        .map;
    let timeline = table.context("there is a table")?.timeline;
    other_names(&scene, &node("edge-1")?, &node("router-2")?, timeline).await?;
    other_clusters(&scene).await?;
    scene.nothing_has_changed(&stores, &before).await
}

/// Processes with wrong certificates start beside the cluster: they log why they are refused, they
/// get nothing, and the cluster works.
async fn processes_are_not_let_in() -> Result<()> {
    let scene = Scene::start().await?;
    let stores = scene.stores()?;
    let before = everything(&scene.world, &stores).await?;
    let other = Certificates::new(&scene.certificates.folder().join("other"))?;
    let of_other = TlsFiles {
        ca: scene.certificates.authority(),
        ..other.issue("router-9", Role::Router)?
    };
    let wrong = [
        (
            "router-8",
            Tier::Router,
            scene.certificates.issue("router-8", Role::Edge)?,
            "lacks the role",
        ),
        (
            "router-9",
            Tier::Router,
            of_other,
            "does not accept the certificate of this process",
        ),
        (
            "edge-8",
            Tier::Edge,
            scene.certificates.issue("edge-8", Role::Storage)?,
            "lacks its role",
        ),
    ];
    let mut strangers = Vec::new();
    for (name, tier, files, words) in wrong {
        let process = scene
            .world
            .cluster
            .lock()
            .await
            .stranger(name, tier, &files)?;
        strangers.push((process, words));
    }
    for (process, words) in &strangers {
        until("it says why it is not let in", LIMIT, async || {
            let log = fs::read_to_string(process.log()).map_err(|error| error.to_string())?;
            let mut lines = log
                .lines()
                .filter(|line| line.contains("WARN") || line.contains("ERROR"));
            match lines.any(|line| line.contains(words)) {
                true => Ok(()),
                false => Err(format!("{}: {log}", process.name)),
            }
        })
        .await?;
    }
    // They try again meanwhile.
    tokio::time::sleep(WATCHED).await;
    scene.nothing_has_changed(&stores, &before).await
}

#[test]
fn every_call_of_a_stranger_is_refused_and_changes_nothing() {
    run(calls_are_refused()).unwrap();
}

#[test]
fn processes_with_wrong_certificates_are_not_let_in() {
    run(processes_are_not_let_in()).unwrap();
}
