//! Storage and Redis that a test makes unavailable, and routers that plan over them.
#![allow(clippy::unwrap_used)]

use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use parking_lot::Mutex;
use sestina_api::identity::{Holder, Proved, Secret};
use sestina_api::lease::Renewal;
use sestina_api::state_store::{
    Found, Listing, LoadPart, ReplicaOp, Stamp, StateStore, StateStoreError,
};
use sestina_api::store::{StoreError, Stores};
use sestina_runtime::clock::ManualClock;
use sestina_state::{MemoryLeases, MemoryStateStore};

use super::super::*;
use crate::lease_storage::StorageLeases;
use crate::slot_map::SharedSlotTable;
use crate::slots::SLOTS;
pub(super) const TTL: Duration = Duration::from_secs(4);

/// Storage's part in memory: leases, the planner's lease and the table, in one "transaction".
pub(super) struct FakeStorage {
    pub(super) leases: MemoryLeases,
    pub(super) clock: Arc<ManualClock>,
    pub(super) away: AtomicBool,
    /// The process that renews its lease just before the transaction of the next claim.
    pub(super) renews_first: Mutex<Option<proto::Node>>,
    pub(super) state: Mutex<(Option<(proto::Node, BootInstant)>, proto::SlotMap)>,
}

impl FakeStorage {
    pub(super) fn check(&self) -> Result<(), StoreError> {
        match self.away.load(Ordering::SeqCst) {
            true => Err(StoreError::Unavailable("test".into())),
            false => Ok(()),
        }
    }

    pub(super) fn take_planner_lease(&self, planner: &proto::Node, ttl_ms: u32) -> bool {
        let now = self.clock.now();
        let mut state = self.state.lock();
        if state
            .0
            .as_ref()
            .is_some_and(|(held, until)| !same(held, planner) && now < *until)
        {
            return false;
        }
        let until = now
            .checked_add(Duration::from_millis(u64::from(ttl_ms)))
            .unwrap();
        state.0 = Some((planner.clone(), until));
        true
    }
}

macro_rules! not_used {
    ($($name:ident($request:ident) -> $reply:ident;)*) => {
        #[async_trait]
        impl Stores for FakeStorage {
            $(async fn $name(&self, _: proto::$request) -> Result<proto::$reply, StoreError> {
                Err(StoreError::Internal(concat!(stringify!($name), " is not used here").into()))
            })*

            async fn lease_renew(
                &self,
                request: proto::LeaseRenewRequest,
            ) -> Result<proto::LeaseRenewReply, StoreError> {
                self.check()?;
                let ttl = Duration::from_millis(u64::from(request.ttl_ms));
                let renewal = self.leases.renew(&holder(request.node, request.secret), ttl).await.unwrap();
                Ok(proto::LeaseRenewReply { lost: renewal == Renewal::Lost, wrong_secret: false, refused: String::new() })
            }

            async fn lease_end(
                &self,
                request: proto::LeaseEndRequest,
            ) -> Result<proto::Empty, StoreError> {
                self.check()?;
                self.leases.release(&holder(request.node, request.secret)).await.unwrap();
                Ok(proto::Empty {})
            }

            async fn lease_list(&self, _: proto::Empty) -> Result<proto::LeaseListReply, StoreError> {
                self.check()?;
                let leases = self.leases.fresh().await.unwrap().into_iter();
                let leases = leases.map(|(node, left)| proto::Lease {
                    node: Some(node),
                    remaining_ms: left.as_millis() as u32,
                });
                Ok(proto::LeaseListReply { leases: leases.collect(), storages: Vec::new() })
            }

            async fn slot_table(
                &self,
                request: proto::SlotTableRequest,
            ) -> Result<proto::SlotTableReply, StoreError> {
                self.check()?;
                let map = self.state.lock().1.clone();
                let map = (Some(map.position()) != request.known).then_some(map);
                Ok(proto::SlotTableReply { map })
            }

            async fn slot_claim(
                &self,
                request: proto::SlotClaimRequest,
            ) -> Result<proto::SlotClaimReply, StoreError> {
                self.check()?;
                let renewing = self.renews_first.lock().take_if(|_| !request.moves.is_empty());
                if let Some(node) = renewing {
                    self.leases.renew(&held(&node), TTL).await.unwrap();
                }
                let planner = request
                    .planner
                    .is_some_and(|planner| self.take_planner_lease(&planner, request.planner_ttl_ms));
                let fresh = self.leases.fresh().await.unwrap();
                let mut map = self.state.lock().1.clone();
                let mut refused_slots = Vec::new();
                let mut ended = Vec::new();
                for m in request.moves {
                    let table = SlotTable::new(map.clone()).unwrap();
                    let owner = table.owner(m.slot as u16).cloned().unwrap_or_default();
                    let as_believed = owner.name == m.from_name
                        && owner.incarnation == m.from_incarnation
                        && table.epoch(m.slot as u16) == m.from_epoch;
                    let alive = fresh.iter().any(|(node, _)| same(node, &owner));
                    if !as_believed || !(m.released || planner && !alive) {
                        refused_slots.push(m.slot);
                        continue;
                    }
                    if !m.released {
                        ended.push(owner);
                    }
                    let to = m.to.unwrap();
                    let known = map.routers.iter().position(|node| same(node, &to));
                    let at = known.unwrap_or_else(|| {
                        map.routers.push(to);
                        map.routers.len() - 1
                    });
                    map.owners[m.slot as usize] = at as u32 + 1;
                    map.epochs[m.slot as usize] = m.min_epoch.max(m.from_epoch + 1);
                    map.version += 1;
                }
                for node in ended {
                    self.leases.mark_ended(&node).await.unwrap();
                }
                self.state.lock().1 = map.clone();
                Ok(proto::SlotClaimReply { planner, refused_slots, map: Some(map) })
            }
        }
    };
}

not_used! {
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
    cluster_secret(Empty) -> ClusterSecretReply;
    replica_save(ReplicaSaveRequest) -> Empty;
    replica_load(ReplicaLoadRequest) -> ReplicaLoadReply;
    replica_clear(Empty) -> Empty;
    ticket_keys(TicketKeysRequest) -> TicketKeysReply;
    slot_assert(SlotAssertRequest) -> SlotAssertReply;
    lease_prove(LeaseProveRequest) -> LeaseProveReply;
    maintain(MaintainRequest) -> Empty;
}

/// The state store's part; a test can make it unavailable.
pub(super) struct FakeRedis {
    pub(super) leases: MemoryLeases,
    pub(super) state_store: MemoryStateStore,
    pub(super) away: AtomicBool,
}

impl FakeRedis {
    pub(super) fn check(&self) -> Result<(), AuthorityUnavailable> {
        match self.away.load(Ordering::SeqCst) {
            true => Err(AuthorityUnavailable("test".into())),
            false => Ok(()),
        }
    }
}

#[async_trait]
impl LeaseAuthority for FakeRedis {
    async fn renew(&self, holder: &Holder, ttl: Duration) -> Result<Renewal, AuthorityUnavailable> {
        self.check()?;
        self.leases.renew(holder, ttl).await
    }
    async fn release(&self, holder: &Holder) -> Result<(), AuthorityUnavailable> {
        self.check()?;
        self.leases.release(holder).await
    }
    async fn prove(&self, holder: &Holder) -> Result<Proved, AuthorityUnavailable> {
        self.check()?;
        self.leases.prove(holder).await
    }
    async fn fresh(&self) -> Result<Vec<(proto::Node, Duration)>, AuthorityUnavailable> {
        self.check()?;
        self.leases.fresh().await
    }
    async fn mark_ended(&self, node: &proto::Node) -> Result<bool, AuthorityUnavailable> {
        self.check()?;
        self.leases.mark_ended(node).await
    }
    async fn unmark(&self, node: &proto::Node) -> Result<(), AuthorityUnavailable> {
        self.check()?;
        self.leases.unmark(node).await
    }
}

#[async_trait]
impl StateStore for FakeRedis {
    async fn apply(
        &self,
        slot: u16,
        at: Stamp,
        ops: Vec<ReplicaOp>,
    ) -> Result<Found, StateStoreError> {
        self.state_store.apply(slot, at, ops).await
    }
    async fn list(&self, slot: u16, at: Stamp) -> Result<Listing, StateStoreError> {
        self.state_store.list(slot, at).await
    }
    async fn load_part(
        &self,
        slot: u16,
        names: &[String],
        after: Option<&str>,
    ) -> Result<LoadPart, StateStoreError> {
        self.state_store.load_part(slot, names, after).await
    }
    async fn epochs(&self, slots: &[u16]) -> Result<Vec<u64>, StateStoreError> {
        self.check()
            .map_err(|error| StateStoreError::Unavailable(error.0))?;
        self.state_store.epochs(slots).await
    }
}

pub(super) struct World {
    pub(super) clock: Arc<ManualClock>,
    pub(super) storage: Arc<FakeStorage>,
    pub(super) redis: Arc<FakeRedis>,
}

impl World {
    pub(super) fn new() -> World {
        let clock = Arc::new(ManualClock::default());
        clock.advance(Duration::from_secs(100));
        let storage = FakeStorage {
            leases: MemoryLeases::new(clock.clone()),
            clock: clock.clone(),
            away: AtomicBool::new(false),
            renews_first: Mutex::new(None),
            state: Mutex::new((None, SlotTable::empty().as_proto().clone())),
        };
        let redis = FakeRedis {
            leases: MemoryLeases::new(clock.clone()),
            state_store: MemoryStateStore::new(),
            away: AtomicBool::new(false),
        };
        World {
            clock,
            storage: Arc::new(storage),
            redis: Arc::new(redis),
        }
    }

    pub(super) fn planner(&self, me: &proto::Node) -> Planner {
        let stores: Arc<dyn Stores> = self.storage.clone();
        let ports = ClaimPorts {
            me: held(me),
            storage_leases: Arc::new(StorageLeases::new(stores.clone())),
            stores,
            state_store_leases: self.redis.clone(),
            state_store: self.redis.clone(),
            table: SharedSlotTable::default(),
        };
        Planner::new(
            me.clone(),
            ports,
            PlannerSettings::default(),
            self.clock.clone(),
        )
    }

    pub(super) async fn renew(&self, nodes: &[&proto::Node]) {
        // Every process reaches every other.
        let reaches: Vec<u64> = nodes.iter().map(|node| node.incarnation).collect();
        for node in nodes {
            let with = proto::Node {
                reaches: reaches.clone(),
                ..(*node).clone()
            };
            self.redis.leases.renew(&held(&with), TTL).await.unwrap();
            self.storage.leases.renew(&held(node), TTL).await.unwrap();
        }
    }

    /// Lets 5 s pass in which only these nodes renew their leases; the planner's lease ends
    /// meanwhile.
    pub(super) async fn pass(&self, renewing: &[&proto::Node]) {
        for _ in 0..5 {
            self.clock.advance(Duration::from_secs(1));
            self.renew(renewing).await;
        }
    }
}

pub(super) fn router(name: &str) -> proto::Node {
    let role = proto::NodeRole::Router.into();
    proto::Node {
        name: name.into(),
        incarnation: 1,
        role,
        ..Default::default()
    }
}

fn holder(node: Option<proto::Node>, secret: bytes::Bytes) -> Holder {
    Holder {
        node: node.unwrap(),
        secret: Secret::from_wire(secret),
    }
}

/// A process with its secret: the same one at each call for an incarnation.
pub(super) fn held(node: &proto::Node) -> Holder {
    let secret = format!("{} {} and no other", node.name, node.incarnation);
    holder(Some(node.clone()), secret.into())
}

pub(super) fn nothing(_: u16) -> u64 {
    0
}

/// Two routers, each with its share of the slots; the first is the planner.
pub(super) async fn two_routers() -> (World, Planner, proto::Node, proto::Node) {
    let world = World::new();
    let (a, b) = (router("a"), router("b"));
    world.renew(&[&a, &b]).await;
    let mut planner = world.planner(&a);
    let round = planner.run_planner_round(nothing).await.unwrap();
    assert!(round.planner);
    assert_eq!((round.claimed.len(), round.refused.len()), (SLOTS, 0));
    (world, planner, a, b)
}

pub(super) fn share(planner: &Planner, node: &proto::Node) -> usize {
    planner.ports.table.load().slots_of(node).count()
}
