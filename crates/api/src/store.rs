//! Router and storage: the stores behind the only tier that speaks SQL.

use async_trait::async_trait;
use sestina_proto as proto;

/// Why a store did not do it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// Storage or its database cannot be reached or did not answer in time. Whether the write
    /// happened is unknown; writes are idempotent, so trying again is safe.
    #[error("storage is unavailable: {0}")]
    Unavailable(String),
    /// The entry is already there.
    #[error("already exists: {0}")]
    Exists(String),
    /// No such entry.
    #[error("not found: {0}")]
    NotFound(String),
    /// The request makes no sense; a defect of the caller.
    #[error("invalid request: {0}")]
    Invalid(String),
    /// The database refused for a reason that repeating will not cure.
    #[error("storage failed: {0}")]
    Internal(String),
}

/// Bytes of the name of an entity that has data. With the name of an item, it must fit into an entry
/// of an index of PostgreSQL, which is 2,704 bytes at most; a bare JID has up to 2,047 bytes.
pub const ENTITY_BYTES: usize = 2560;
/// Bytes of the name of an item of an entity's data.
pub const ENTITY_NAME_BYTES: usize = 64;
/// Bytes of the value of an item of an entity's data.
pub const ENTITY_VALUE_BYTES: usize = 1 << 20;
/// The most rows of an archive that storage returns at once.
pub const ARCHIVE_PAGE: u32 = 1000;
/// Items of an entity's data that one request may name.
pub const ENTITY_ITEMS: usize = 16;

macro_rules! store_api {
    ($($(#[$doc:meta])* $name:ident($request:ident) -> $reply:ident;)*) => {
        /// All stores. Implemented by the storage service (direct call) and by its gRPC client.
        #[async_trait]
        pub trait Stores: Send + Sync + 'static {
            $($(#[$doc])* async fn $name(&self, request: proto::$request) -> Result<proto::$reply, StoreError>;)*
        }
    };
}

store_api! {
    /// One account with its SCRAM keys; `NotFound` if there is none.
    account_get(AccountRef) -> AccountReply;
    /// Creates or replaces keys.
    account_put(AccountPutRequest) -> Empty;
    /// Disables or enables logging in.
    account_set_disabled(AccountDisable) -> Empty;
    /// Deletes the account and everything it owns.
    account_delete(AccountRef) -> Empty;
    /// A page of accounts in order of JID.
    account_list(AccountListRequest) -> AccountListReply;
    /// Appends archive rows, each fenced; rows already there count as done, or move if they say so.
    archive_append(ArchiveAppendRequest) -> FencedReply;
    /// A page of an archive (XEP-0313 §4, XEP-0059).
    archive_query(ArchiveQueryRequest) -> ArchiveQueryReply;
    /// Appends offline messages, each fenced; rows already there (or delivered) count as done.
    offline_append(OfflineAppendRequest) -> FencedReply;
    /// The undelivered offline messages of a user, in order.
    offline_list(OfflineListRequest) -> OfflineListReply;
    /// Which of these keys the offline messages of a user have, delivered ones included.
    offline_known(OfflineKnownRequest) -> OfflineKnownReply;
    /// Marks offline messages as delivered; their keys are kept until maintenance, so that a replay finds them.
    offline_remove(OfflineRemoveRequest) -> FencedReply;
    /// Data of modules about an entity, by name; a name that does not exist is left out.
    entity_data_get(EntityDataGetRequest) -> EntityDataReply;
    /// Writes data of an entity, with the key and the answer of the request that changes it; or
    /// returns the answer that is stored with this key.
    entity_data_put(EntityDataPutRequest) -> EntityDataPutReply;
    /// Renews a process lease.
    lease_renew(LeaseRenewRequest) -> LeaseRenewReply;
    /// Ends one's own lease (clean shutdown).
    lease_end(LeaseEndRequest) -> Empty;
    /// All leases with what remains of them.
    lease_list(Empty) -> LeaseListReply;
    /// Whether a secret is that of an incarnation.
    lease_prove(LeaseProveRequest) -> LeaseProveReply;
    /// The slot table, if newer than known.
    slot_table(SlotTableRequest) -> SlotTableReply;
    /// Moves slots in one transaction (DESIGN: claim).
    slot_claim(SlotClaimRequest) -> SlotClaimReply;
    /// What an owner holds, told on a new timeline of the table (DESIGN §3).
    slot_assert(SlotAssertRequest) -> SlotAssertReply;
    /// The secret of this cluster, made at first use.
    cluster_secret(Empty) -> ClusterSecretReply;
    /// Saves a part of the replicas that a stopping process leaves to its next start.
    replica_save(ReplicaSaveRequest) -> Empty;
    /// A part of the replicas that were saved; nothing if the last part of them is missing.
    replica_load(ReplicaLoadRequest) -> ReplicaLoadReply;
    /// Forgets the replicas: a second start must not go on with them.
    replica_clear(Empty) -> Empty;
    /// The keys of TLS tickets, renewed when it is time.
    ticket_keys(TicketKeysRequest) -> TicketKeysReply;
    /// Prunes what is no longer needed.
    maintain(MaintainRequest) -> Empty;
}
