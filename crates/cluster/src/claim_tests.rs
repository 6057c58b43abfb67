#![allow(clippy::unwrap_used)]

use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use parking_lot::Mutex;
use sestina_api::lease::Renewal;
use sestina_api::shadow::{Shadow, ShadowError, ShadowObject, ShadowOp};
use sestina_api::store::{StoreError, Stores};
use sestina_runtime::clock::ManualClock;
use sestina_sessions::{MemoryLeases, MemoryShadow};

use super::*;
use crate::lease_storage::StorageLeases;
use crate::slot_map::SharedSlotTable;
use crate::slots::SLOTS;

const TTL: Duration = Duration::from_secs(4);

/// Storage's part in memory: leases, the planner's lease and the table, in one "transaction".
struct FakeStorage {
    leases: MemoryLeases,
    clock: Arc<ManualClock>,
    away: AtomicBool,
    /// Who renews just before the next claim's transaction.
    renews_first: Mutex<Option<proto::Node>>,
    state: Mutex<(Option<(proto::Node, BootInstant)>, proto::SlotMap)>,
}

impl FakeStorage {
    fn check(&self) -> Result<(), StoreError> {
        match self.away.load(Ordering::SeqCst) {
            true => Err(StoreError::Away("test".into())),
            false => Ok(()),
        }
    }

    fn take_planner_lease(&self, planner: &proto::Node, ttl_ms: u32) -> bool {
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
                let renewal = self.leases.renew(&request.node.unwrap(), ttl).await.unwrap();
                Ok(proto::LeaseRenewReply { lost: renewal == Renewal::Lost })
            }

            async fn lease_end(
                &self,
                request: proto::LeaseEndRequest,
            ) -> Result<proto::Empty, StoreError> {
                self.check()?;
                self.leases.release(&request.node.unwrap()).await.unwrap();
                Ok(proto::Empty {})
            }

            async fn lease_list(&self, _: proto::Empty) -> Result<proto::LeaseListReply, StoreError> {
                self.check()?;
                let leases = self.leases.fresh().await.unwrap().into_iter();
                let leases = leases.map(|(node, left)| proto::Lease {
                    node: Some(node),
                    remaining_ms: left.as_millis() as u32,
                });
                Ok(proto::LeaseListReply { leases: leases.collect() })
            }

            async fn slot_table(
                &self,
                request: proto::SlotTableRequest,
            ) -> Result<proto::SlotTableReply, StoreError> {
                self.check()?;
                let map = self.state.lock().1.clone();
                let map = (map.version > request.known_version).then_some(map);
                Ok(proto::SlotTableReply { map })
            }

            async fn slot_claim(
                &self,
                request: proto::SlotClaimRequest,
            ) -> Result<proto::SlotClaimReply, StoreError> {
                self.check()?;
                let renewing = self.renews_first.lock().take_if(|_| !request.moves.is_empty());
                if let Some(node) = renewing {
                    self.leases.renew(&node, TTL).await.unwrap();
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
    outcome_put(OutcomePutRequest) -> OutcomeReply;
    cluster_secret(Empty) -> ClusterSecretReply;
    maintain(MaintainRequest) -> Empty;
}

/// Redis' part: can be away.
struct FakeRedis {
    leases: MemoryLeases,
    shadow: MemoryShadow,
    away: AtomicBool,
}

impl FakeRedis {
    fn check(&self) -> Result<(), AuthorityAway> {
        match self.away.load(Ordering::SeqCst) {
            true => Err(AuthorityAway("test".into())),
            false => Ok(()),
        }
    }
}

#[async_trait]
impl LeaseAuthority for FakeRedis {
    async fn renew(&self, node: &proto::Node, ttl: Duration) -> Result<Renewal, AuthorityAway> {
        self.check()?;
        self.leases.renew(node, ttl).await
    }
    async fn release(&self, node: &proto::Node) -> Result<(), AuthorityAway> {
        self.check()?;
        self.leases.release(node).await
    }
    async fn fresh(&self) -> Result<Vec<(proto::Node, Duration)>, AuthorityAway> {
        self.check()?;
        self.leases.fresh().await
    }
    async fn mark_ended(&self, node: &proto::Node) -> Result<bool, AuthorityAway> {
        self.check()?;
        self.leases.mark_ended(node).await
    }
    async fn unmark(&self, node: &proto::Node) -> Result<(), AuthorityAway> {
        self.check()?;
        self.leases.unmark(node).await
    }
}

#[async_trait]
impl Shadow for FakeRedis {
    async fn apply(&self, slot: u16, epoch: u64, ops: Vec<ShadowOp>) -> Result<(), ShadowError> {
        self.shadow.apply(slot, epoch, ops).await
    }
    async fn load(&self, slot: u16, epoch: u64) -> Result<Vec<ShadowObject>, ShadowError> {
        self.shadow.load(slot, epoch).await
    }
    async fn epochs(&self, slots: &[u16]) -> Result<Vec<u64>, ShadowError> {
        self.check().map_err(|error| ShadowError::Away(error.0))?;
        self.shadow.epochs(slots).await
    }
}

struct World {
    clock: Arc<ManualClock>,
    storage: Arc<FakeStorage>,
    redis: Arc<FakeRedis>,
}

impl World {
    fn new() -> World {
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
            shadow: MemoryShadow::new(),
            away: AtomicBool::new(false),
        };
        World {
            clock,
            storage: Arc::new(storage),
            redis: Arc::new(redis),
        }
    }

    fn planner(&self, me: &proto::Node) -> Planner {
        let stores: Arc<dyn Stores> = self.storage.clone();
        let ports = ClaimPorts {
            storage_leases: Arc::new(StorageLeases::new(stores.clone())),
            stores,
            shadow_leases: self.redis.clone(),
            shadow: self.redis.clone(),
            table: SharedSlotTable::default(),
        };
        Planner::new(
            me.clone(),
            ports,
            PlannerSettings::default(),
            self.clock.clone(),
        )
    }

    async fn renew(&self, nodes: &[&proto::Node]) {
        for node in nodes {
            self.redis.leases.renew(node, TTL).await.unwrap();
            self.storage.leases.renew(node, TTL).await.unwrap();
        }
    }

    /// Lets time pass with only these renewing; the planner's lease runs out meanwhile too.
    async fn pass(&self, renewing: &[&proto::Node]) {
        for _ in 0..5 {
            self.clock.advance(Duration::from_secs(1));
            self.renew(renewing).await;
        }
    }
}

fn router(name: &str) -> proto::Node {
    let role = proto::NodeRole::Router.into();
    proto::Node {
        name: name.into(),
        incarnation: 1,
        role,
        ..Default::default()
    }
}

fn nothing(_: u16) -> u64 {
    0
}

/// Two routers, each with its share, the first one planning.
async fn two_routers() -> (World, Planner, proto::Node, proto::Node) {
    let world = World::new();
    let (a, b) = (router("a"), router("b"));
    world.renew(&[&a, &b]).await;
    let mut planner = world.planner(&a);
    let round = planner.run_planner_round(nothing).await.unwrap();
    assert!(round.planner);
    assert_eq!((round.claimed.len(), round.refused.len()), (SLOTS, 0));
    (world, planner, a, b)
}

fn share(planner: &Planner, node: &proto::Node) -> usize {
    planner.ports.table.load().slots_of(node).count()
}

#[tokio::test]
async fn only_one_router_plans() {
    let (world, mut planner, a, b) = two_routers().await;
    assert!(share(&planner, &a) > 1900 && share(&planner, &b) > 1900);
    let mut other = world.planner(&b);
    assert_eq!(
        other.run_planner_round(nothing).await.unwrap(),
        Round::default()
    );
    // The planner keeps its lease by its rounds, and loses it by having none.
    for _ in 0..8 {
        world.clock.advance(Duration::from_secs(1));
        world.renew(&[&a, &b]).await;
        assert!(planner.run_planner_round(nothing).await.unwrap().planner);
        assert!(!other.run_planner_round(nothing).await.unwrap().planner);
    }
    world.pass(&[&a, &b]).await;
    assert!(other.run_planner_round(nothing).await.unwrap().planner);
    assert!(!planner.run_planner_round(nothing).await.unwrap().planner);
    assert_eq!(share(&other, &b), share(&planner, &b));
}

#[tokio::test]
async fn a_dead_routers_slots_are_claimed_above_every_known_epoch() {
    let (world, mut planner, a, b) = two_routers().await;
    let of_b: Vec<u16> = planner.ports.table.load().slots_of(&b).collect();
    let (in_redis, at_an_edge) = (of_b[0], of_b[1]);
    world
        .redis
        .shadow
        .apply(in_redis, 70, vec![])
        .await
        .unwrap();
    world.pass(&[&a]).await;
    let known = |slot| if slot == at_an_edge { 80 } else { 0 };
    let round = planner.run_planner_round(known).await.unwrap();
    assert_eq!((round.claimed.len(), round.refused.len()), (of_b.len(), 0));
    let table = planner.ports.table.load();
    assert_eq!((share(&planner, &a), share(&planner, &b)), (SLOTS, 0));
    assert_eq!(table.epoch(in_redis), 71);
    assert_eq!(table.epoch(at_an_edge), 81);
    assert_eq!(table.epoch(of_b[2]), 2);
    // The dead one never renews again, with either.
    assert_eq!(
        world.redis.leases.renew(&b, TTL).await.unwrap(),
        Renewal::Lost
    );
    assert_eq!(
        world.storage.leases.renew(&b, TTL).await.unwrap(),
        Renewal::Lost
    );
    world.clock.advance(Duration::from_millis(250));
    let next = planner.run_planner_round(nothing).await.unwrap();
    assert_eq!(
        next,
        Round {
            planner: true,
            ..Round::default()
        }
    );
}

#[tokio::test]
async fn one_fresh_lease_is_enough_to_stay_owner() {
    for through_redis in [true, false] {
        let (world, mut planner, a, b) = two_routers().await;
        let before = share(&planner, &b);
        for _ in 0..6 {
            world.pass(&[&a]).await;
            match through_redis {
                true => world.redis.leases.renew(&b, TTL).await.unwrap(),
                false => world.storage.leases.renew(&b, TTL).await.unwrap(),
            };
            let round = planner.run_planner_round(nothing).await.unwrap();
            assert_eq!((round.claimed.len(), round.refused.len()), (0, 0));
        }
        assert_eq!(share(&planner, &b), before);
    }
}

#[tokio::test]
async fn nothing_fails_over_while_an_authority_is_away() {
    let (world, mut planner, a, b) = two_routers().await;
    let before = share(&planner, &b);
    world.pass(&[&a]).await;
    world.redis.away.store(true, Ordering::SeqCst);
    let error = planner.run_planner_round(nothing).await.unwrap_err();
    assert!(matches!(error, ClaimError::ShadowAway(_)), "{error}");
    world.redis.away.store(false, Ordering::SeqCst);
    world.storage.away.store(true, Ordering::SeqCst);
    let error = planner.run_planner_round(nothing).await.unwrap_err();
    assert!(matches!(error, ClaimError::StorageAway(_)), "{error}");
    assert_eq!(share(&planner, &b), before);
    assert_eq!(
        world.redis.leases.renew(&b, TTL).await.unwrap(),
        Renewal::Renewed,
        "marked"
    );
    world.storage.away.store(false, Ordering::SeqCst);
    world.pass(&[&a]).await;
    assert_eq!(
        planner
            .run_planner_round(nothing)
            .await
            .unwrap()
            .claimed
            .len(),
        before
    );
}

#[tokio::test]
async fn a_renewal_before_the_transaction_takes_the_mark_back() {
    let (world, mut planner, a, b) = two_routers().await;
    let before = share(&planner, &b);
    world.pass(&[&a]).await;
    *world.storage.renews_first.lock() = Some(b.clone());
    let round = planner.run_planner_round(nothing).await.unwrap();
    assert_eq!((round.claimed.len(), round.refused.len()), (0, before));
    assert_eq!(share(&planner, &b), before);
    assert_eq!(
        world.redis.leases.renew(&b, TTL).await.unwrap(),
        Renewal::Lost,
        "not marked"
    );
    let round = planner.run_planner_round(nothing).await.unwrap();
    assert_eq!((round.claimed.len(), round.refused.len()), (0, 0));
    assert_eq!(
        world.redis.leases.renew(&b, TTL).await.unwrap(),
        Renewal::Renewed
    );
}

#[tokio::test]
async fn a_draining_router_is_ordered_to_hand_over_and_does() {
    let (world, mut planner, a, b) = two_routers().await;
    let draining = proto::Node {
        draining: true,
        ..b.clone()
    };
    world.renew(&[&a, &draining]).await;
    let round = planner.run_planner_round(nothing).await.unwrap();
    let limit = PlannerSettings::default().limits.max_moves;
    assert_eq!(round.hand_overs.len(), 1);
    let HandOverOrder { owner, order } = &round.hand_overs[0];
    assert_eq!((&owner.name, order.slots.len()), (&b.name, limit));
    assert_eq!(order.to.as_ref().unwrap().name, "a");
    // Repeated until it is done.
    assert_eq!(planner.run_planner_round(nothing).await.unwrap(), round);

    let slots: Vec<u16> = order.slots.iter().map(|slot| *slot as u16).collect();
    let moves: Vec<_> = slots.iter().map(|slot| (*slot, a.clone())).collect();
    let mut at_b = world.planner(&b);
    at_b.run_planner_round(nothing).await.unwrap();
    let ports = at_b.ports.clone();
    let refused = ports
        .hand_over(&moves, |_| 41, Duration::from_secs(1))
        .await
        .unwrap();
    assert_eq!(refused, [0; 0]);
    let table = ports.table.load();
    assert!(
        slots
            .iter()
            .all(|slot| table.owned_by(*slot, &a) && table.epoch(*slot) == 42)
    );
    assert_eq!(
        world.storage.leases.renew(&draining, TTL).await.unwrap(),
        Renewal::Renewed
    );
    let next = planner.run_planner_round(nothing).await.unwrap();
    assert!(
        next.hand_overs[0]
            .order
            .slots
            .iter()
            .all(|slot| !order.slots.contains(slot))
    );

    // From a table that is behind, everything is refused.
    let behind = ClaimPorts {
        table: SharedSlotTable::default(),
        ..ports.clone()
    };
    let refused = behind
        .hand_over(&moves, nothing, Duration::from_secs(1))
        .await
        .unwrap();
    assert_eq!(refused, slots);
    assert_eq!(
        behind.table.load().version(),
        ports.table.load().version(),
        "told nothing new"
    );
}

#[tokio::test]
async fn edges_own_nothing() {
    let world = World::new();
    let (a, mut edge) = (router("a"), router("edge"));
    edge.role = proto::NodeRole::Edge.into();
    world.renew(&[&a, &edge]).await;
    let mut planner = world.planner(&a);
    planner.run_planner_round(nothing).await.unwrap();
    assert_eq!(share(&planner, &a), SLOTS);
}
