//! Changes of the slot table: requests and errors, and how an owner hands slots over.

use std::sync::Arc;
use std::time::Duration;

use sestina_api::identity::Holder;
use sestina_api::lease::LeaseAuthority;
use sestina_api::state_store::{StateStore, StateStoreError};
use sestina_api::store::{StoreError, Stores};
use sestina_proto as proto;
use tokio::time::timeout;

use crate::slot_map::{SharedSlotTable, SlotMapError, SlotTable};

/// Why slots did not move. The request may be repeated.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClaimError {
    /// Redis does not answer: there is no fail-over.
    #[error("no slot moves while the state store is unavailable: {0}")]
    StateStoreUnavailable(String),
    /// Storage does not answer: no slot moves.
    #[error("no slot moves while storage is unavailable: {0}")]
    StorageUnavailable(String),
    /// Storage answered with an invalid table.
    #[error("storage answered with a broken table: {0}")]
    Table(#[from] SlotMapError),
}

/// The authorities and stores that the claim procedure talks to.
#[derive(Clone)]
pub struct ClaimPorts {
    /// This process.
    pub me: Holder,
    /// Storage.
    pub stores: Arc<dyn Stores>,
    /// Storage as a lease authority.
    pub storage_leases: Arc<dyn LeaseAuthority>,
    /// The state store as a lease authority.
    pub state_store_leases: Arc<dyn LeaseAuthority>,
    /// The state store, for the epochs it knows.
    pub state_store: Arc<dyn StateStore>,
    /// This process's copy of the slot table; newer tables are put there.
    pub table: SharedSlotTable,
}

impl ClaimPorts {
    /// Hands slots of this process over to others after they were quiesced, settled and flushed.
    /// After an error, and for each refused slot in the result, the owner resumes the slot, unless
    /// the shared table names another owner.
    pub async fn hand_over(
        &self,
        moves: &[(u16, proto::Node)],
        known_epoch: impl Fn(u16) -> u64,
        limit: Duration,
    ) -> Result<Vec<u16>, ClaimError> {
        let table = self.table.load();
        let slots: Vec<u16> = moves.iter().map(|(slot, _)| *slot).collect();
        let epochs = self.state_store_epochs(&slots, limit).await?;
        let moves = moves
            .iter()
            .zip(epochs)
            .map(|((slot, to), state_store)| proto::SlotMove {
                released: true,
                from_name: self.me.node.name.clone(),
                from_incarnation: self.me.node.incarnation,
                ..slot_move(&table, *slot, to, state_store.max(known_epoch(*slot)))
            });
        let request = proto::SlotClaimRequest {
            moves: moves.collect(),
            planner: None,
            planner_ttl_ms: 0,
            secret: self.me.secret.to_wire(),
            known: Some(table.position()),
        };
        let reply = self.slot_claim(request, limit).await?;
        Ok(reply
            .refused_slots
            .into_iter()
            .filter_map(|slot| u16::try_from(slot).ok())
            .collect())
    }

    /// Reports to storage which slots this process owns, with their epochs, on a new timeline of
    /// the table. Returns the slots that others own; `None` if there is an even newer timeline.
    pub async fn assert(
        &self,
        timeline: u64,
        held: &[(u16, u64)],
        limit: Duration,
    ) -> Result<Option<Vec<u16>>, ClaimError> {
        let held = held.iter().map(|(slot, epoch)| proto::Fence {
            slot: u32::from(*slot),
            epoch: *epoch,
        });
        let request = proto::SlotAssertRequest {
            holder: Some(self.me.node.clone()),
            secret: self.me.secret.to_wire(),
            timeline,
            held: held.collect(),
        };
        let reply = within(limit, self.stores.slot_assert(request)).await?;
        if let Some(map) = reply.map {
            self.table.offer(map)?;
        }
        let refused = reply.refused_slots.into_iter();
        let refused = refused.filter_map(|slot| u16::try_from(slot).ok());
        Ok(reply.done.then(|| refused.collect()))
    }

    pub(crate) async fn slot_claim(
        &self,
        request: proto::SlotClaimRequest,
        limit: Duration,
    ) -> Result<proto::SlotClaimReply, ClaimError> {
        let mut reply = within(limit, self.stores.slot_claim(request)).await?;
        if let Some(map) = reply.map.take() {
            self.table.offer(map)?;
        }
        Ok(reply)
    }

    pub(crate) async fn state_store_epochs(
        &self,
        slots: &[u16],
        limit: Duration,
    ) -> Result<Vec<u64>, ClaimError> {
        let away = |error: StateStoreError| ClaimError::StateStoreUnavailable(error.to_string());
        let epochs = timeout(limit, self.state_store.epochs(slots))
            .await
            .map_err(|_| ClaimError::StateStoreUnavailable(format!("no answer within {limit:?}")))?
            .map_err(away)?;
        if epochs.len() != slots.len() {
            let text = format!("{} epochs for {} slots", epochs.len(), slots.len());
            return Err(ClaimError::StateStoreUnavailable(text));
        }
        Ok(epochs)
    }
}

/// A move based on the present table, to an epoch above the highest known one.
pub(crate) fn slot_move(
    table: &SlotTable,
    slot: u16,
    to: &proto::Node,
    highest: u64,
) -> proto::SlotMove {
    let from = table.owner(slot);
    let from_epoch = table.epoch(slot);
    proto::SlotMove {
        slot: u32::from(slot),
        from_name: from.map(|from| from.name.clone()).unwrap_or_default(),
        from_incarnation: from.map_or(0, |from| from.incarnation),
        from_epoch,
        to: Some(to.clone()),
        min_epoch: 1 + highest.max(from_epoch),
        released: false,
    }
}

pub(crate) async fn within<T>(
    limit: Duration,
    request: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, ClaimError> {
    timeout(limit, request)
        .await
        .map_err(|_| ClaimError::StorageUnavailable(format!("no answer within {limit:?}")))?
        .map_err(|error| ClaimError::StorageUnavailable(error.to_string()))
}
