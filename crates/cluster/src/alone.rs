//! The lease authority of a process that is the whole system. Its leases never end: no other
//! process can take over from it, so after any pause (a busy machine, a suspended one, a database
//! that does not answer) it goes on with the state that it has.

use std::collections::HashMap;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use sestina_api::identity::{Holder, Proved};
use sestina_api::lease::{AuthorityUnavailable, LeaseAuthority, Renewal};
use sestina_proto as proto;

use crate::lease::LeaseTerms;
use crate::slot_map::same;

/// Longer than any process runs.
pub const FOREVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// Leases of the tiers of one process, by name.
#[derive(Debug, Default)]
pub struct AloneLeases(Mutex<HashMap<String, proto::Node>>);

impl LeaseTerms {
    /// The terms for a process that is the whole system.
    pub fn alone() -> LeaseTerms {
        LeaseTerms {
            ttl: FOREVER,
            ..LeaseTerms::default()
        }
    }
}

#[async_trait]
impl LeaseAuthority for AloneLeases {
    async fn renew(&self, holder: &Holder, _: Duration) -> Result<Renewal, AuthorityUnavailable> {
        let node = holder.node.clone();
        self.0.lock().insert(node.name.clone(), node);
        Ok(Renewal::Renewed)
    }

    async fn release(&self, holder: &Holder) -> Result<(), AuthorityUnavailable> {
        self.0.lock().retain(|_, held| !same(held, &holder.node));
        Ok(())
    }

    async fn prove(&self, _: &Holder) -> Result<Proved, AuthorityUnavailable> {
        Ok(Proved::Yes)
    }

    async fn fresh(&self) -> Result<Vec<(proto::Node, Duration)>, AuthorityUnavailable> {
        let held = self.0.lock();
        Ok(held.values().map(|node| (node.clone(), FOREVER)).collect())
    }

    async fn mark_ended(&self, node: &proto::Node) -> Result<bool, AuthorityUnavailable> {
        Ok(!self.0.lock().values().any(|held| same(held, node)))
    }

    async fn unmark(&self, _: &proto::Node) -> Result<(), AuthorityUnavailable> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;

    use sestina_runtime::clock::{Clock, ManualClock};

    use super::*;
    use crate::lease::{Authority, LeaseDeadline};

    #[tokio::test]
    async fn a_lease_lasts_until_it_is_given_back() {
        let leases = AloneLeases::default();
        let me = Holder::new(proto::Node {
            name: "one".to_owned(),
            incarnation: 1,
            ..Default::default()
        });
        assert!(leases.mark_ended(&me.node).await.unwrap());
        leases.renew(&me, FOREVER).await.unwrap();
        assert!(!leases.mark_ended(&me.node).await.unwrap());
        assert_eq!(leases.fresh().await.unwrap().len(), 1);
        leases.release(&me).await.unwrap();
        assert_eq!(leases.fresh().await.unwrap(), []);
    }

    #[test]
    fn a_process_that_stood_still_for_years_serves_on() {
        let clock = Arc::new(ManualClock::default());
        clock.advance(Duration::from_secs(100));
        let deadline = LeaseDeadline::new(clock.clone(), LeaseTerms::alone());
        deadline.renewed(Authority::Storage, clock.now());
        clock.advance(FOREVER / 2);
        assert!(deadline.serving());
    }
}
