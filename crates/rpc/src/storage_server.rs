//! The stores as a gRPC service.

use std::sync::Arc;

use sestina_api::store::Stores;
use sestina_proto::storage_server::Storage;
use tonic::{Request, Response, Status};
use tracing::Instrument;

use crate::{access, status};

/// Implements the service `Storage` over any implementation of the stores.
pub struct StoresService {
    stores: Arc<dyn Stores>,
}

impl StoresService {
    /// A service over these stores.
    pub fn new(stores: Arc<dyn Stores>) -> StoresService {
        StoresService { stores }
    }
}

/// Hands the list of all methods of the stores to a macro: service, client and codec are made
/// from the one list. Each is followed by how the client treats it (`storage_client::Class`).
macro_rules! for_each_store {
    ($then:ident) => {
        $then! {
            account_get(AccountRef) -> AccountReply, Read;
            account_put(AccountPutRequest) -> Empty, Once;
            account_set_disabled(AccountDisable) -> Empty, Write;
            account_delete(AccountRef) -> Empty, Once;
            account_list(AccountListRequest) -> AccountListReply, Query;
            archive_append(ArchiveAppendRequest) -> FencedReply, Write;
            archive_query(ArchiveQueryRequest) -> ArchiveQueryReply, Query;
            offline_append(OfflineAppendRequest) -> FencedReply, Write;
            offline_list(OfflineListRequest) -> OfflineListReply, Query;
            offline_known(OfflineKnownRequest) -> OfflineKnownReply, Query;
            offline_remove(OfflineRemoveRequest) -> FencedReply, Write;
            entity_data_get(EntityDataGetRequest) -> EntityDataReply, Read;
            entity_data_put(EntityDataPutRequest) -> EntityDataPutReply, Write;
            lease_renew(LeaseRenewRequest) -> LeaseRenewReply, Lease;
            lease_end(LeaseEndRequest) -> Empty, Lease;
            lease_list(Empty) -> LeaseListReply, Control;
            lease_prove(LeaseProveRequest) -> LeaseProveReply, Lease;
            slot_table(SlotTableRequest) -> SlotTableReply, Read;
            slot_claim(SlotClaimRequest) -> SlotClaimReply, Once;
            slot_assert(SlotAssertRequest) -> SlotAssertReply, Once;
            cluster_secret(Empty) -> ClusterSecretReply, Write;
            replica_save(ReplicaSaveRequest) -> Empty, Once;
            replica_load(ReplicaLoadRequest) -> ReplicaLoadReply, Query;
            replica_clear(Empty) -> Empty, Once;
            ticket_keys(TicketKeysRequest) -> TicketKeysReply, Write;
            maintain(MaintainRequest) -> Empty, Maintain;
        }
    };
}
pub(crate) use for_each_store;

/// What a caller says of itself in a request is checked before the store sees it.
macro_rules! check_caller {
    (lease_renew, $request:expr) => {
        access::lease_of(
            $request.extensions().get(),
            $request.get_ref().node.as_ref(),
        )
    };
    (lease_end, $request:expr) => {
        access::lease_of(
            $request.extensions().get(),
            $request.get_ref().node.as_ref(),
        )
    };
    (slot_claim, $request:expr) => {
        access::claim_of($request.extensions().get(), $request.get_ref())
    };
    (slot_assert, $request:expr) => {
        access::speaks_as(
            $request.extensions().get(),
            $request.get_ref().holder.as_ref(),
            sestina_proto::NodeRole::Router,
        )
        .map(drop)
    };
    ($other:ident, $request:expr) => {
        Ok::<(), Status>(())
    };
}

macro_rules! service {
    ($($name:ident($request:ident) -> $reply:ident, $class:ident;)*) => {
        #[tonic::async_trait]
        impl Storage for StoresService {
            $(async fn $name(
                &self,
                request: Request<sestina_proto::$request>,
            ) -> Result<Response<sestina_proto::$reply>, Status> {
                check_caller!($name, request)?;
                let span = crate::trace::server_span(request.metadata(), stringify!($name));
                let call = self.stores.$name(request.into_inner()).instrument(span);
                call.await.map(Response::new).map_err(status::from_store)
            })*
        }
    };
}
for_each_store!(service);
