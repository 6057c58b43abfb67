//! Stores that tell how long each operation took.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use sestina_api::store::{StoreError, Stores};
use sestina_proto as proto;

/// Wraps stores and reports each operation: its name, how long it took, and whether the store did
/// its work. An answer such as "not found" is work done; "away", "failed" and "invalid" are not.
pub struct Metered<F> {
    stores: Arc<dyn Stores>,
    record: F,
}

impl<F> Metered<F>
where
    F: Fn(&'static str, Duration, bool) + Send + Sync + 'static,
{
    /// Reports the operations of `stores` to `record`.
    pub fn new(stores: Arc<dyn Stores>, record: F) -> Metered<F> {
        Metered { stores, record }
    }

    fn note<T>(&self, operation: &'static str, start: Instant, result: &Result<T, StoreError>) {
        let ok = match result {
            Ok(_) | Err(StoreError::Exists(_) | StoreError::NotFound(_)) => true,
            Err(StoreError::Unavailable(_) | StoreError::Invalid(_) | StoreError::Internal(_)) => {
                false
            }
        };
        if let Err(error) = result
            && !ok
        {
            tracing::warn!(operation, %error, "a store operation failed");
        }
        (self.record)(operation, start.elapsed(), ok);
    }
}

impl<F> fmt::Debug for Metered<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metered").finish_non_exhaustive()
    }
}

macro_rules! metered {
    ($($name:ident($request:ident) -> $reply:ident;)*) => {
        #[async_trait]
        impl<F> Stores for Metered<F>
        where
            F: Fn(&'static str, Duration, bool) + Send + Sync + 'static,
        {
            $(
                async fn $name(
                    &self,
                    request: proto::$request,
                ) -> Result<proto::$reply, StoreError> {
                    let start = Instant::now();
                    let result = self.stores.$name(request).await;
                    self.note(stringify!($name), start, &result);
                    result
                }
            )*
        }
    };
}

metered! {
    account_get(AccountRef) -> AccountReply;
    account_put(AccountPutRequest) -> Empty;
    account_set_disabled(AccountDisable) -> Empty;
    account_delete(AccountRef) -> Empty;
    account_list(AccountListRequest) -> AccountListReply;
    archive_append(ArchiveAppendRequest) -> FencedReply;
    archive_query(ArchiveQueryRequest) -> ArchiveQueryReply;
    offline_append(OfflineAppendRequest) -> FencedReply;
    offline_list(OfflineListRequest) -> OfflineListReply;
    offline_known(OfflineKnownRequest) -> OfflineKnownReply;
    offline_remove(OfflineRemoveRequest) -> FencedReply;
    entity_data_get(EntityDataGetRequest) -> EntityDataReply;
    entity_data_put(EntityDataPutRequest) -> EntityDataPutReply;
    lease_renew(LeaseRenewRequest) -> LeaseRenewReply;
    lease_end(LeaseEndRequest) -> Empty;
    lease_list(Empty) -> LeaseListReply;
    lease_prove(LeaseProveRequest) -> LeaseProveReply;
    slot_assert(SlotAssertRequest) -> SlotAssertReply;
    slot_table(SlotTableRequest) -> SlotTableReply;
    slot_claim(SlotClaimRequest) -> SlotClaimReply;
    cluster_secret(Empty) -> ClusterSecretReply;
    replica_save(ReplicaSaveRequest) -> Empty;
    replica_load(ReplicaLoadRequest) -> ReplicaLoadReply;
    replica_clear(Empty) -> Empty;
    ticket_keys(TicketKeysRequest) -> TicketKeysReply;
    maintain(MaintainRequest) -> Empty;
}
