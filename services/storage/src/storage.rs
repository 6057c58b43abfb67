//! The stores, each operation on its database.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::try_join_all;
use parking_lot::Mutex;
use sestina_api::store::{StoreError, Stores};
use sestina_proto as proto;
use sestina_runtime::failpoint;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::batch::Batcher;
use crate::error::Fault;
use crate::health::health;
use crate::pool::{Pg, PoolClass};
use crate::stores::archive::{self, Fenced, Months, Rows};
use crate::stores::identity::{ClusterIdentity, NewName};
use crate::stores::versions::Member;
use crate::stores::{
    account, entity_data, identity, lease, lease_clock, maintain, offline, replica, secret, slots,
    ticket_keys, versions,
};
use crate::writer::Lite;

/// How often an append is repeated because partitions were missing.
const PARTITION_TRIES: usize = 3;

/// How often dropping a month is tried; each time waits briefly for the table.
const DROP_TRIES: usize = 10;

/// One of the two databases.
#[derive(Debug)]
pub(crate) enum Backend {
    Postgres(Pg),
    Sqlite(Lite),
}

/// What the operations need; shared with the batchers.
#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) backend: Backend,
    pub(crate) identity: ClusterIdentity,
    pub(crate) months: Arc<Months>,
}

impl Inner {
    pub(crate) fn new(backend: Backend, identity: ClusterIdentity) -> Inner {
        Inner {
            backend,
            identity,
            months: Arc::default(),
        }
    }

    /// Commits a batch of archive appends.
    pub(crate) async fn append(&self, batch: Vec<Arc<Rows>>) -> Result<Fenced, StoreError> {
        match &self.backend {
            Backend::Postgres(pg) => self.append_postgres(pg, batch).await,
            Backend::Sqlite(lite) => {
                let done = lite.write(move |conn| {
                    Box::pin(async move { archive::append_lite(conn, &batch).await })
                });
                Ok(done.await?)
            }
        }
    }

    async fn append_postgres(&self, pg: &Pg, batch: Vec<Arc<Rows>>) -> Result<Fenced, StoreError> {
        let batch = Arc::new(batch);
        for _ in 0..PARTITION_TRIES {
            let (batch, months) = (Arc::clone(&batch), Arc::clone(&self.months));
            let done = pg
                .write(PoolClass::Archive, move |conn| {
                    Box::pin(async move { archive::append_pg(conn, &batch, &months).await })
                })
                .await;
            match done {
                Err(Fault::Partitions(times)) => self.make_months(pg, times).await?,
                Err(Fault::Db(error)) if names_no_partition(&error) => self.months.forget(),
                done => return Ok(done?),
            }
        }
        Err(Fault::Partitions(Vec::new()).into())
    }

    /// Makes partitions in a transaction of its own, because another process that makes partitions
    /// may be waiting for locks that the append holds.
    async fn make_months(&self, pg: &Pg, times: Vec<i64>) -> Result<(), StoreError> {
        for at_ms in times {
            let month = pg
                .write(PoolClass::Archive, move |conn| {
                    Box::pin(async move { Ok(archive::make_month(conn, at_ms).await?) })
                })
                .await?;
            self.months.learn(month);
        }
        Ok(())
    }
}

/// The month that was known has been dropped by another replica (`check_violation`: no partition
/// found for the row).
fn names_no_partition(error: &sqlx::Error) -> bool {
    error
        .as_database_error()
        .and_then(|error| error.code())
        .is_some_and(|code| code == "23514")
}

/// All stores over one database. Made by [`Storage::open`].
#[derive(Debug)]
pub struct Storage {
    inner: Arc<Inner>,
    /// Appends to archives, by slot: those of one slot are committed in the order they came.
    appends: Vec<Batcher<Rows, BTreeSet<u32>>>,
    stop: watch::Sender<bool>,
    ahead: Mutex<Option<JoinHandle<()>>>,
}

impl Storage {
    pub(crate) fn new(
        inner: Arc<Inner>,
        appends: Vec<Batcher<Rows, BTreeSet<u32>>>,
        stop: watch::Sender<bool>,
        ahead: JoinHandle<()>,
    ) -> Storage {
        Storage {
            inner,
            appends,
            stop,
            ahead: Mutex::new(Some(ahead)),
        }
    }

    /// Whether the database can take what it is asked to store; if not, why and what to do. Asks the
    /// file system, not the database: cheap enough to be asked often.
    pub fn health(&self) -> Result<(), String> {
        match &self.inner.backend {
            Backend::Postgres(pg) => health(None, pg.writes()),
            Backend::Sqlite(lite) => health(lite.file(), lite.writes()),
        }
    }

    /// Commits what waits, then closes the database. Later operations answer "away".
    pub async fn close(&self) {
        self.stop.send_replace(true);
        let ahead = self.ahead.lock().take();
        if let Some(ahead) = ahead
            && let Err(error) = ahead.await
        {
            tracing::error!(%error, "the maker of archive partitions failed");
        }
        for appends in &self.appends {
            appends.close().await;
        }
        match &self.inner.backend {
            Backend::Postgres(pg) => pg.close().await,
            Backend::Sqlite(lite) => lite.close().await,
        }
    }

    /// Whole months go by dropping their partition; only then are their keys forgotten.
    async fn drop_months(&self, cutoff: i64) -> Result<Option<i64>, StoreError> {
        let Backend::Postgres(pg) = &self.inner.backend else {
            return Ok(Some(cutoff));
        };
        let mut dropped = None;
        let mut tries = 0;
        loop {
            let done = pg
                .write(PoolClass::Archive, move |conn| {
                    Box::pin(maintain::drop_month(conn, cutoff))
                })
                .await
                .map_err(StoreError::from);
            match done {
                Ok(Some(end)) => {
                    self.inner.months.forget();
                    dropped = Some(end);
                    tries = 0;
                }
                Ok(None) => return Ok(dropped),
                Err(StoreError::Unavailable(reason)) if tries < DROP_TRIES => {
                    tries += 1;
                    tracing::debug!(reason, "dropping an archive partition has to wait");
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// Runs a store's function in a transaction: `operate!(self, write PoolClass, store::function, request)`.
macro_rules! operate {
    ($self:ident, $kind:ident $lane:ident, $($store:ident)::+ => $function:ident, $request:expr) => {{
        let request = $request;
        let done = match &$self.inner.backend {
            Backend::Postgres(pg) => {
                pg.$kind(PoolClass::$lane, move |conn| {
                    Box::pin(async move { $($store)::+::pg::$function(conn, &request).await })
                })
                .await
            }
            Backend::Sqlite(lite) => {
                lite.$kind(move |conn| {
                    Box::pin(async move { $($store)::+::lite::$function(conn, &request).await })
                })
                .await
            }
        };
        done.map_err(StoreError::from)
    }};
}

impl Storage {
    /// Which cluster the database is of.
    pub fn identity(&self) -> &ClusterIdentity {
        &self.inner.identity
    }

    /// Makes the database that of another cluster: `name`, with a new id. Refused while processes
    /// of the cluster live.
    pub async fn rename_cluster(&self, name: &str) -> Result<ClusterIdentity, StoreError> {
        operate!(self, write Control, identity => rename, NewName(name.to_owned()))
    }

    /// Notes that this storage process lives, for `term` from now. It is refused if it has no
    /// version of the protocol between tiers in common with another live process; the error names
    /// that process.
    pub async fn register(&self, node: &proto::Node, term: Duration) -> Result<(), StoreError> {
        let node = node.clone();
        operate!(self, write Control, versions => register, Member { node, term })
    }

    /// This storage process ends.
    pub async fn leave(&self, node: &proto::Node) -> Result<(), StoreError> {
        operate!(self, write Control, versions => leave, node.clone())
    }

    /// Ends all leases: for a database with one user, whose earlier processes are all dead, so that
    /// nothing waits for the ends of their leases.
    pub async fn end_leases(&self) -> Result<(), StoreError> {
        operate!(self, write Control, lease => end_all, ())
    }
}

#[async_trait]
impl Stores for Storage {
    async fn account_get(
        &self,
        request: proto::AccountRef,
    ) -> Result<proto::AccountReply, StoreError> {
        operate!(self, read Main, account => get, request)
    }

    async fn account_put(
        &self,
        request: proto::AccountPutRequest,
    ) -> Result<proto::Empty, StoreError> {
        operate!(self, write Main, account => put, request)
    }

    async fn account_set_disabled(
        &self,
        request: proto::AccountDisable,
    ) -> Result<proto::Empty, StoreError> {
        operate!(self, write Main, account => set_disabled, request)
    }

    async fn account_delete(&self, request: proto::AccountRef) -> Result<proto::Empty, StoreError> {
        operate!(self, write Main, account => delete, request)
    }

    async fn account_list(
        &self,
        request: proto::AccountListRequest,
    ) -> Result<proto::AccountListReply, StoreError> {
        operate!(self, read Main, account => list, request)
    }

    async fn archive_append(
        &self,
        request: proto::ArchiveAppendRequest,
    ) -> Result<proto::FencedReply, StoreError> {
        archive::validate(&request.rows)?;
        let shards = self.appends.len() as u32;
        let mut parts: BTreeMap<u32, Rows> = BTreeMap::new();
        for row in request.rows {
            let slot = row.fence.as_ref().map_or(0, |fence| fence.slot);
            parts.entry(slot % shards).or_default().push(row);
        }
        let submit = parts.into_iter().map(|(shard, rows)| {
            let weight = archive::weight(&rows);
            self.appends[shard as usize].submit(rows, weight)
        });
        let fenced: BTreeSet<u32> = try_join_all(submit).await?.into_iter().flatten().collect();
        Ok(proto::FencedReply {
            fenced_slots: fenced.into_iter().collect(),
            full: Vec::new(),
        })
    }

    async fn archive_query(
        &self,
        request: proto::ArchiveQueryRequest,
    ) -> Result<proto::ArchiveQueryReply, StoreError> {
        operate!(self, read Query, archive => query, request)
    }

    async fn offline_append(
        &self,
        request: proto::OfflineAppendRequest,
    ) -> Result<proto::FencedReply, StoreError> {
        operate!(self, write Main, offline => append, request)
    }

    async fn offline_list(
        &self,
        request: proto::OfflineListRequest,
    ) -> Result<proto::OfflineListReply, StoreError> {
        operate!(self, read Main, offline => list, request)
    }

    async fn offline_known(
        &self,
        request: proto::OfflineKnownRequest,
    ) -> Result<proto::OfflineKnownReply, StoreError> {
        operate!(self, read Main, offline => known, request)
    }

    async fn offline_remove(
        &self,
        request: proto::OfflineRemoveRequest,
    ) -> Result<proto::FencedReply, StoreError> {
        operate!(self, write Main, offline => remove, request)
    }

    async fn entity_data_get(
        &self,
        request: proto::EntityDataGetRequest,
    ) -> Result<proto::EntityDataReply, StoreError> {
        operate!(self, read Main, entity_data => get, request)
    }

    async fn entity_data_put(
        &self,
        request: proto::EntityDataPutRequest,
    ) -> Result<proto::EntityDataPutReply, StoreError> {
        operate!(self, write Main, entity_data => put, request)
    }

    async fn lease_renew(
        &self,
        request: proto::LeaseRenewRequest,
    ) -> Result<proto::LeaseRenewReply, StoreError> {
        operate!(self, write Lease, lease => renew, request)
    }

    async fn lease_end(&self, request: proto::LeaseEndRequest) -> Result<proto::Empty, StoreError> {
        operate!(self, write Lease, lease => end, request)
    }

    async fn lease_list(&self, request: proto::Empty) -> Result<proto::LeaseListReply, StoreError> {
        for holder in operate!(self, read Control, lease_clock => ahead, ())? {
            operate!(self, write Control, lease_clock => clamp, holder)?;
        }
        operate!(self, read Control, lease => list, request)
    }

    async fn lease_prove(
        &self,
        request: proto::LeaseProveRequest,
    ) -> Result<proto::LeaseProveReply, StoreError> {
        operate!(self, read Lease, lease => prove, request)
    }

    async fn slot_table(
        &self,
        request: proto::SlotTableRequest,
    ) -> Result<proto::SlotTableReply, StoreError> {
        operate!(self, read Control, slots => table, request)
    }

    async fn slot_claim(
        &self,
        request: proto::SlotClaimRequest,
    ) -> Result<proto::SlotClaimReply, StoreError> {
        let asked = request.moves.len();
        let reply = operate!(self, write Control, slots => claim, request)?;
        if asked > reply.refused_slots.len() {
            failpoint::hit_async("storage.claimed").await;
        }
        Ok(reply)
    }

    async fn slot_assert(
        &self,
        request: proto::SlotAssertRequest,
    ) -> Result<proto::SlotAssertReply, StoreError> {
        operate!(self, write Control, slots => assert, request)
    }

    async fn cluster_secret(
        &self,
        request: proto::Empty,
    ) -> Result<proto::ClusterSecretReply, StoreError> {
        operate!(self, write Control, secret => get, request)
    }

    async fn replica_save(
        &self,
        request: proto::ReplicaSaveRequest,
    ) -> Result<proto::Empty, StoreError> {
        operate!(self, write Main, replica => save, request)
    }

    async fn replica_load(
        &self,
        request: proto::ReplicaLoadRequest,
    ) -> Result<proto::ReplicaLoadReply, StoreError> {
        operate!(self, read Main, replica => load, request)
    }

    async fn replica_clear(&self, request: proto::Empty) -> Result<proto::Empty, StoreError> {
        operate!(self, write Main, replica => clear, request)
    }

    async fn ticket_keys(
        &self,
        request: proto::TicketKeysRequest,
    ) -> Result<proto::TicketKeysReply, StoreError> {
        operate!(self, write Control, ticket_keys => get, request)
    }

    async fn maintain(&self, request: proto::MaintainRequest) -> Result<proto::Empty, StoreError> {
        let chores = operate!(self, read Archive, maintain => plan, request)?;
        for mut chore in chores {
            if let maintain::Chore::Archived(cutoff) = chore {
                let Some(dropped) = self.drop_months(cutoff).await? else {
                    continue;
                };
                chore = maintain::Chore::Archived(dropped);
            }
            while operate!(self, write Archive, maintain => piece, chore)? {}
        }
        Ok(proto::Empty {})
    }
}
