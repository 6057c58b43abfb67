//! Changing the slot table: what it takes, and how an owner gives slots away.

use std::sync::Arc;
use std::time::Duration;

use sestina_api::identity::Holder;
use sestina_api::lease::LeaseAuthority;
use sestina_api::shadow::{Shadow, ShadowError};
use sestina_api::store::{StoreError, Stores};
use sestina_proto as proto;
use tokio::time::timeout;

use crate::slot_map::{SharedSlotTable, SlotMapError, SlotTable};

/// Why slots did not move. Trying again is safe.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClaimError {
    /// Redis cannot be asked: nothing fails over.
    #[error("no slot moves while the shadow store is away: {0}")]
    ShadowAway(String),
    /// Storage cannot be asked: no slot moves.
    #[error("no slot moves while storage is away: {0}")]
    StorageAway(String),
    /// Storage answered with a table that makes no sense.
    #[error("storage answered with a broken table: {0}")]
    Table(#[from] SlotMapError),
}

/// What the claim procedure talks to.
#[derive(Clone)]
pub struct ClaimPorts {
    /// This process.
    pub me: Holder,
    /// Storage.
    pub stores: Arc<dyn Stores>,
    /// Storage as a lease authority.
    pub storage_leases: Arc<dyn LeaseAuthority>,
    /// The shadow store as a lease authority.
    pub shadow_leases: Arc<dyn LeaseAuthority>,
    /// The shadow store, for the epochs it knows.
    pub shadow: Arc<dyn Shadow>,
    /// This process's copy of the slot table; newer ones are put there.
    pub table: SharedSlotTable,
}

impl ClaimPorts {
    /// Gives slots of this process to others after they were frozen, settled and flushed. Any
    /// error (and any slot in the result, which was refused) means: thaw and go on as owner, unless
    /// the shared table says otherwise.
    pub async fn hand_over(
        &self,
        moves: &[(u16, proto::Node)],
        known_epoch: impl Fn(u16) -> u64,
        limit: Duration,
    ) -> Result<Vec<u16>, ClaimError> {
        let table = self.table.load();
        let slots: Vec<u16> = moves.iter().map(|(slot, _)| *slot).collect();
        let epochs = self.shadow_epochs(&slots, limit).await?;
        let moves = moves
            .iter()
            .zip(epochs)
            .map(|((slot, to), shadow)| proto::SlotMove {
                released: true,
                from_name: self.me.node.name.clone(),
                from_incarnation: self.me.node.incarnation,
                ..slot_move(&table, *slot, to, shadow.max(known_epoch(*slot)))
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

    /// Tells storage what this process holds, each slot with its epoch, on a new timeline of the table.
    /// Returns the slots that others own; `None` if there is an even newer timeline.
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

    pub(crate) async fn shadow_epochs(
        &self,
        slots: &[u16],
        limit: Duration,
    ) -> Result<Vec<u64>, ClaimError> {
        let away = |error: ShadowError| ClaimError::ShadowAway(error.to_string());
        let epochs = timeout(limit, self.shadow.epochs(slots))
            .await
            .map_err(|_| ClaimError::ShadowAway(format!("no answer within {limit:?}")))?
            .map_err(away)?;
        if epochs.len() != slots.len() {
            let text = format!("{} epochs for {} slots", epochs.len(), slots.len());
            return Err(ClaimError::ShadowAway(text));
        }
        Ok(epochs)
    }
}

/// A move as the table has it now, to an epoch above the highest that is known.
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
        .map_err(|_| ClaimError::StorageAway(format!("no answer within {limit:?}")))?
        .map_err(|error| ClaimError::StorageAway(error.to_string()))
}
