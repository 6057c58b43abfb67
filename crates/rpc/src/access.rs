//! Which tier may call what: one table of all methods, one check in front of all services, and what a caller
//! may say of itself.
//!
//! The certificate of a caller tells its role (a URI name) and its name (a DNS name; a wildcard
//! counts). A method that is not in the table is refused, and so is a frame that its sender's tier
//! does not send.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::future::Either;
use sestina_certs::{CertInfo, Role};
use sestina_proto as proto;
use sestina_proto::peer_frame::Body as PeerBody;
use sestina_proto::to_router::Body as EdgeBody;
use sestina_runtime::guard;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::{Service, http};
use tonic::server::NamedService;

use crate::cluster::Cluster;
use crate::identity::{PeerInfo, Proof};
use crate::{lease_connection, versions};

/// A method, and the roles that may call it.
#[derive(Clone, Copy, Debug)]
pub struct Method {
    /// `package.Service/Method`.
    pub name: &'static str,
    /// One of them is needed.
    pub callers: &'static [Role],
}

const fn method(name: &'static str, callers: &'static [Role]) -> Method {
    Method { name, callers }
}

const EDGES: &[Role] = &[Role::Edge];
const ROUTERS: &[Role] = &[Role::Router];
/// Routers ask each other a few commands on an administrator's behalf: see `admin`.
const ADMINS: &[Role] = &[Role::Admin, Role::Router];
/// Only within one process.
const NONE: &[Role] = &[];
const ALL: &[Role] = &Role::ALL;

/// Every method of every service.
pub const METHODS: &[Method] = &[
    method("sestina.v1.EdgeLink/Lane", EDGES),
    method("sestina.v1.EdgeLink/Credentials", EDGES),
    method("sestina.v1.EdgeLink/RenewLease", EDGES),
    method("sestina.v1.PeerLink/Lane", ROUTERS),
    method("sestina.v1.Storage/AccountGet", ROUTERS),
    method("sestina.v1.Storage/AccountPut", ROUTERS),
    method("sestina.v1.Storage/AccountSetDisabled", ROUTERS),
    method("sestina.v1.Storage/AccountDelete", ROUTERS),
    method("sestina.v1.Storage/AccountList", ROUTERS),
    method("sestina.v1.Storage/ArchiveAppend", ROUTERS),
    method("sestina.v1.Storage/ArchiveQuery", ROUTERS),
    method("sestina.v1.Storage/OfflineAppend", ROUTERS),
    method("sestina.v1.Storage/OfflineList", ROUTERS),
    method("sestina.v1.Storage/OfflineKnown", ROUTERS),
    method("sestina.v1.Storage/OfflineRemove", ROUTERS),
    method("sestina.v1.Storage/EntityDataGet", ROUTERS),
    method("sestina.v1.Storage/EntityDataPut", ROUTERS),
    method("sestina.v1.Storage/LeaseRenew", ROUTERS),
    method("sestina.v1.Storage/LeaseEnd", ROUTERS),
    method("sestina.v1.Storage/LeaseList", ROUTERS),
    method("sestina.v1.Storage/LeaseProve", ROUTERS),
    method("sestina.v1.Storage/SlotTable", ROUTERS),
    method("sestina.v1.Storage/SlotClaim", ROUTERS),
    method("sestina.v1.Storage/SlotAssert", ROUTERS),
    method("sestina.v1.Storage/ClusterSecret", ROUTERS),
    method("sestina.v1.Storage/TicketKeys", ROUTERS),
    method("sestina.v1.Storage/ReplicaSave", NONE),
    method("sestina.v1.Storage/ReplicaLoad", NONE),
    method("sestina.v1.Storage/ReplicaClear", NONE),
    method("sestina.v1.Storage/Maintain", ROUTERS),
    method("sestina.v1.Admin/Call", ADMINS),
    method("grpc.health.v1.Health/Check", ALL),
    method("grpc.health.v1.Health/Watch", ALL),
];

/// The row of the method that a request's path names.
fn row(path: &str) -> Option<&'static Method> {
    let name = path.strip_prefix('/')?;
    METHODS.iter().find(|method| method.name == name)
}

/// Whether the caller may call what the path names.
fn check(path: &str, peer: Option<&PeerInfo>) -> Result<(), Status> {
    let Some(method) = row(path) else {
        return Err(Status::unimplemented(format!("there is no method {path}")));
    };
    let Some(peer) = peer else {
        return Err(Status::unauthenticated(
            "the connection does not say who calls",
        ));
    };
    if peer.for_leases && !lease_connection::may_call(method.name) {
        return Err(Status::permission_denied(format!(
            "{} is not offered on a connection for leases",
            method.name
        )));
    }
    match &peer.proof {
        Proof::Plaintext => Ok(()),
        Proof::Local if method.callers.contains(&Role::Admin) => Ok(()),
        Proof::Local => Err(Status::permission_denied("not offered on the unix socket")),
        Proof::Certificate(info) => {
            if method.callers.iter().any(|role| info.roles.contains(role)) || !guard!("roles") {
                return Ok(());
            }
            if method.callers.is_empty() {
                return Err(Status::permission_denied(format!(
                    "{} is not offered to other processes",
                    method.name
                )));
            }
            let wanted: Vec<String> = method.callers.iter().map(|role| role.uri()).collect();
            let wanted = wanted.join(" or ");
            tracing::warn!(peer = %peer.address, subject = %info.subject, method = method.name,
                %wanted, "refused a call: the certificate lacks the role");
            Err(Status::permission_denied(format!(
                "the certificate of {} lacks the role: its URI names must hold {wanted}",
                info.subject
            )))
        }
    }
}

/// Whether the certificate names that process: a DNS name covers its name, or the host of its address
/// whose first label is its name (so that `*.routers.example` covers each process of a tier).
pub(crate) fn names(info: &CertInfo, node: &proto::Node) -> bool {
    let host = node.address.rsplit_once(':').map_or("", |(host, _)| host);
    let same_host = host
        .split_once('.')
        .is_some_and(|(label, _)| label.eq_ignore_ascii_case(&node.name));
    info.covers(&node.name) || (same_host && info.covers(host))
}

/// Whether the caller may say that it is that process, of that tier.
pub(crate) fn speaks_as(
    peer: Option<&PeerInfo>,
    node: Option<&proto::Node>,
    role: proto::NodeRole,
) -> Result<proto::Node, Status> {
    let Some(node) = node.filter(|node| !node.name.is_empty()) else {
        return Err(Status::invalid_argument("the request names no process"));
    };
    let Some(peer) = peer else {
        return Err(Status::unauthenticated(
            "the connection does not say who calls",
        ));
    };
    if node.role() != role && guard!("roles") {
        return Err(refused(peer, node, "is of another tier"));
    }
    match &peer.proof {
        Proof::Certificate(info) if !names(info, node) && guard!("roles") => {
            let reason = "is not a name of the caller's certificate";
            Err(refused(peer, node, reason))
        }
        Proof::Local => Err(Status::permission_denied("not offered on the unix socket")),
        Proof::Certificate(_) | Proof::Plaintext => Ok(node.clone()),
    }
}

fn refused(peer: &PeerInfo, node: &proto::Node, reason: &str) -> Status {
    tracing::warn!(peer = %peer.address, name = node.name, reason,
        "refused a call: the caller is not the process that it claims to be");
    let text = format!("{} {reason}", node.name);
    match &peer.proof {
        Proof::Certificate(info) => Status::permission_denied(format!(
            "{text} (its DNS names are {})",
            info.dns_names.join(", ")
        )),
        _ => Status::permission_denied(text),
    }
}

/// Whether a router may say that of a lease: of its own, or of an edge's that it passes on, having
/// checked the edge.
pub(crate) fn lease_of(peer: Option<&PeerInfo>, node: Option<&proto::Node>) -> Result<(), Status> {
    if node.is_some_and(|node| node.role() == proto::NodeRole::Edge) {
        return Ok(());
    }
    speaks_as(peer, node, proto::NodeRole::Router).map(drop)
}

/// Whether a router may ask for these moves: as the planner, or as the holder that releases slots.
pub(crate) fn claim_of(
    peer: Option<&PeerInfo>,
    request: &proto::SlotClaimRequest,
) -> Result<(), Status> {
    if let Some(planner) = &request.planner {
        return speaks_as(peer, Some(planner), proto::NodeRole::Router).map(drop);
    }
    for step in request.moves.iter().filter(|step| step.released) {
        let holder = proto::Node {
            name: step.from_name.clone(),
            incarnation: step.from_incarnation,
            role: proto::NodeRole::Router.into(),
            ..proto::Node::default()
        };
        speaks_as(peer, Some(&holder), proto::NodeRole::Router)?;
    }
    Ok(())
}

/// Whether an edge may send such a frame on an open lane. It has named itself when it opened the
/// lane, so a second Hello is refused.
pub(crate) fn edge_sends(frame: &proto::ToRouter) -> bool {
    match &frame.body {
        Some(EdgeBody::Hello(_)) => !guard!("roles"),
        Some(
            EdgeBody::Bind(_)
            | EdgeBody::Resume(_)
            | EdgeBody::EnableSm(_)
            | EdgeBody::Inbound(_)
            | EdgeBody::Acked(_)
            | EdgeBody::Close(_)
            | EdgeBody::EpochReport(_)
            | EdgeBody::LaneAck(_)
            | EdgeBody::Asked(_)
            | EdgeBody::RoomMembers(_),
        )
        // A kind that a newer edge sends.
        | None => true,
    }
}

/// Whether the router `node` sends such frames on a lane that is open.
pub(crate) fn router_sends(node: &proto::Node, frame: &proto::PeerFrame) -> bool {
    match &frame.body {
        // A further Hello says that the router can answer again. It must name the same process as
        // the first.
        Some(PeerBody::Hello(hello)) => {
            let named = hello.router.as_ref();
            named.is_some_and(|named| {
                named.name == node.name && named.incarnation == node.incarnation
            }) || !guard!("roles")
        }
        Some(
            PeerBody::SlotMessage(_)
            | PeerBody::SlotMessageAck(_)
            | PeerBody::Watermarks(_)
            | PeerBody::RoomEvent(_)
            | PeerBody::RoomAck(_)
            | PeerBody::InstallEpoch(_)
            | PeerBody::EpochInstalled(_)
            | PeerBody::SlotMap(_)
            | PeerBody::HandOver(_)
            | PeerBody::UserChanged(_)
            | PeerBody::WatermarkQuery(_)
            | PeerBody::RoomAsk(_)
            | PeerBody::RoomTold(_)
            | PeerBody::RoomHeard(_)
            | PeerBody::RoomCheck(_)
            | PeerBody::RoomChecked(_),
        )
        | None => true,
    }
}

/// A service behind the checks.
#[derive(Clone, Debug)]
pub(crate) struct Checked<S> {
    pub(crate) service: S,
    /// Callers must be of this one; none: whatever they are of.
    pub(crate) cluster: Option<Cluster>,
}

impl<S> Checked<S> {
    fn check(&self, request: &http::Request<Body>) -> Result<(), Status> {
        check(request.uri().path(), request.extensions().get())?;
        let Some(cluster) = &self.cluster else {
            return Ok(());
        };
        let peer = || {
            let peer: Option<&PeerInfo> = request.extensions().get();
            peer.map_or("unknown", |peer| &peer.address)
        };
        cluster.check(request.headers()).map_err(|error| {
            cluster.warn(peer(), &error);
            Status::from(error)
        })?;
        versions::check(request.headers(), peer()).map_err(|error| {
            versions::warn(peer(), &error);
            versions::refusal(&error)
        })
    }
}

impl<S: NamedService> NamedService for Checked<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<http::Request<Body>> for Checked<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>,
{
    type Response = S::Response;
    type Error = Infallible;
    type Future = Either<Answer<S::Future>, Ready<Result<S::Response, Infallible>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.service.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        match self.check(&request) {
            Ok(()) => Either::Left(Answer {
                answer: Box::pin(self.service.call(request)),
                cluster: self.cluster.clone(),
            }),
            Err(status) => {
                let mut refusal = status.into_http();
                if let Some(cluster) = &self.cluster {
                    cluster.tell(refusal.headers_mut());
                }
                Either::Right(ready(Ok(refusal)))
            }
        }
    }
}

/// An answer, which says of which cluster it is.
pub(crate) struct Answer<F> {
    answer: Pin<Box<F>>,
    cluster: Option<Cluster>,
}

impl<F> Future for Answer<F>
where
    F: Future<Output = Result<http::Response<Body>, Infallible>>,
{
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = std::task::ready!(self.answer.as_mut().poll(cx));
        Poll::Ready(answer.map(|mut answer| {
            if let Some(cluster) = &self.cluster {
                cluster.tell(answer.headers_mut());
            }
            answer
        }))
    }
}
