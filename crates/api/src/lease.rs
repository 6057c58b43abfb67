//! The two lease authorities (the state store and storage), behind one trait. A process lives
//! while one of them says that its lease is fresh.

use std::time::Duration;

use async_trait::async_trait;
use sestina_proto as proto;

use crate::identity::{Holder, Proved};

/// The result of a renewal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Renewal {
    /// Renewed for the whole term, counted from before the request.
    Renewed,
    /// Marked by a claimer, or held by another incarnation of the same name: never renewed again.
    Lost,
    /// That incarnation has left the hash of another secret; nothing was done.
    WrongSecret,
    /// The process has no version of the protocol between tiers in common with another live
    /// process; nothing was done. The text says why.
    Refused(String),
}

/// The authority is out of reach; what it would say is unknown.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("lease authority is unavailable: {0}")]
pub struct AuthorityUnavailable(pub String);

/// One authority on leases.
#[async_trait]
pub trait LeaseAuthority: Send + Sync + 'static {
    /// Renews (or takes) the lease of `holder`, whose first request leaves the hash of its secret.
    async fn renew(&self, holder: &Holder, ttl: Duration) -> Result<Renewal, AuthorityUnavailable>;

    /// Gives the lease of `holder` back. Nothing is done with a wrong secret.
    async fn release(&self, holder: &Holder) -> Result<(), AuthorityUnavailable>;

    /// Whether the secret is that of the incarnation.
    async fn prove(&self, holder: &Holder) -> Result<Proved, AuthorityUnavailable>;

    /// All leases that this authority still holds to be fresh.
    async fn fresh(&self) -> Result<Vec<(proto::Node, Duration)>, AuthorityUnavailable>;

    /// If that incarnation's lease has ended: marks it so that it is never renewed, and returns true.
    /// False if it is still fresh.
    async fn mark_ended(&self, node: &proto::Node) -> Result<bool, AuthorityUnavailable>;

    /// Takes the mark back (the other authority still holds the lease to be fresh).
    async fn unmark(&self, node: &proto::Node) -> Result<(), AuthorityUnavailable>;
}
