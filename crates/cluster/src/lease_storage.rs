//! Storage as a lease authority.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use sestina_api::identity::{Holder, Proved};
use sestina_api::lease::{AuthorityUnavailable, LeaseAuthority, Renewal};
use sestina_api::store::{StoreError, Stores};
use sestina_proto as proto;

use crate::slot_map::same;

/// Leases in PostgreSQL or SQLite, through the storage tier.
pub struct StorageLeases {
    stores: Arc<dyn Stores>,
}

impl StorageLeases {
    /// Leases in these stores.
    pub fn new(stores: Arc<dyn Stores>) -> StorageLeases {
        StorageLeases { stores }
    }
}

fn away(error: StoreError) -> AuthorityUnavailable {
    AuthorityUnavailable(error.to_string())
}

#[async_trait]
impl LeaseAuthority for StorageLeases {
    async fn renew(&self, holder: &Holder, ttl: Duration) -> Result<Renewal, AuthorityUnavailable> {
        let ttl_ms = u32::try_from(ttl.as_millis()).unwrap_or(u32::MAX);
        let request = proto::LeaseRenewRequest {
            node: Some(holder.node.clone()),
            ttl_ms,
            secret: holder.secret.to_wire(),
        };
        let reply = self.stores.lease_renew(request).await.map_err(away)?;
        Ok(match reply {
            reply if reply.wrong_secret => Renewal::WrongSecret,
            reply if !reply.refused.is_empty() => Renewal::Refused(reply.refused),
            reply if reply.lost => Renewal::Lost,
            _ => Renewal::Renewed,
        })
    }

    async fn release(&self, holder: &Holder) -> Result<(), AuthorityUnavailable> {
        let request = proto::LeaseEndRequest {
            node: Some(holder.node.clone()),
            secret: holder.secret.to_wire(),
        };
        self.stores.lease_end(request).await.map(drop).map_err(away)
    }

    async fn prove(&self, holder: &Holder) -> Result<Proved, AuthorityUnavailable> {
        let request = proto::LeaseProveRequest {
            node: Some(holder.node.clone()),
            secret: holder.secret.to_wire(),
        };
        let reply = self.stores.lease_prove(request).await.map_err(away)?;
        Ok(match (reply.known, reply.proved) {
            (false, _) => Proved::Unknown,
            (true, proved) if proved => Proved::Yes,
            _ => Proved::No,
        })
    }

    async fn fresh(&self) -> Result<Vec<(proto::Node, Duration)>, AuthorityUnavailable> {
        let reply = self
            .stores
            .lease_list(proto::Empty {})
            .await
            .map_err(away)?;
        // Storage processes count too, for the version that the cluster speaks. No storage process
        // is listed in the role of another tier.
        let storages = reply.storages.into_iter();
        let fresh = reply
            .leases
            .into_iter()
            .chain(storages)
            .filter(|lease| lease.remaining_ms > 0);
        Ok(fresh
            .filter_map(|lease| {
                let remaining = Duration::from_millis(u64::from(lease.remaining_ms));
                Some((lease.node?, remaining))
            })
            .collect())
    }

    /// Only checks: the claim's own transaction refuses while the lease is fresh, and ends it.
    async fn mark_ended(&self, node: &proto::Node) -> Result<bool, AuthorityUnavailable> {
        Ok(!self
            .fresh()
            .await?
            .iter()
            .any(|(fresh, _)| same(fresh, node)))
    }

    async fn unmark(&self, _: &proto::Node) -> Result<(), AuthorityUnavailable> {
        Ok(())
    }
}
