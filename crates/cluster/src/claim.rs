//! The planner's round, and fail-over.
//!
//! Fail-over needs both authorities, in this order: both report that the owner's lease has ended;
//! the lease is marked in the state store, so that it cannot be renewed there any more; one storage
//! transaction changes the table, and refuses while storage's own lease is fresh (then the mark is
//! removed). So no renewal slips in between. If either authority is unavailable, there is no
//! fail-over.

use std::sync::Arc;
use std::time::Duration;

use sestina_api::lease::{AuthorityUnavailable, LeaseAuthority};
use sestina_proto as proto;
use sestina_runtime::clock::{BootInstant, Clock};
use sestina_runtime::{failpoint, guard};
use tokio::time::timeout;

pub use crate::hand_over::{ClaimError, ClaimPorts};
use crate::hand_over::{slot_move, within};
use crate::plan::{Claim, Move, PlanLimits, plan};
use crate::reach::Reach;
use crate::slot_map::{SlotTable, same};
use crate::timeline;

/// Settings of the planner.
#[derive(Clone, Copy, Debug)]
pub struct PlannerSettings {
    /// How many slots may move at once.
    pub limits: PlanLimits,
    /// How long the planner's own lease lasts.
    pub ttl: Duration,
    /// How long one request to an authority may take.
    pub timeout: Duration,
    /// How long one change of the table may take.
    pub claim_timeout: Duration,
}

impl Default for PlannerSettings {
    fn default() -> PlannerSettings {
        PlannerSettings {
            limits: PlanLimits::default(),
            ttl: Duration::from_secs(3),
            timeout: Duration::from_secs(1),
            claim_timeout: Duration::from_secs(3),
        }
    }
}

/// An order for a live owner, to be sent as [`proto::HandOver`].
#[derive(Clone, Debug, PartialEq)]
pub struct HandOverOrder {
    /// The owner to which the order is sent.
    pub owner: proto::Node,
    /// The order.
    pub order: proto::HandOver,
}

/// The result of a round.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Round {
    /// Whether this process is the planner.
    pub planner: bool,
    /// Slots that changed hands: their new owners find them in the shared table.
    pub claimed: Vec<Claim>,
    /// Slots whose claim was refused (the owner is alive after all, or the table had changed).
    pub refused: Vec<u16>,
    /// Orders to send to live owners. An order is repeated in each round until it is carried out.
    pub hand_overs: Vec<HandOverOrder>,
}

/// One router's part in planning. All routers run rounds; only the router with the planner's lease
/// plans.
pub struct Planner {
    me: proto::Node,
    ports: ClaimPorts,
    settings: PlannerSettings,
    clock: Arc<dyn Clock>,
    /// Whether storage's last answer said that this router is the planner.
    planning: bool,
    /// When to ask for (or renew) the planner's lease.
    ask_at: Option<BootInstant>,
    /// The routers among which the last balanced plan divided the slots. When the set changes,
    /// slots move until each is at its rendezvous owner, not only until the balance is within the
    /// hysteresis. Empty at first: an earlier planner may have left such moves unfinished.
    balanced_among: Vec<u64>,
    /// Leases marked in the state store whose claim has not been confirmed.
    marked: Vec<proto::Node>,
    /// How many processes have not taken part in the newest timeline of the table.
    awaited: usize,
}

impl Planner {
    /// A router's planner.
    pub fn new(
        me: proto::Node,
        ports: ClaimPorts,
        settings: PlannerSettings,
        clock: Arc<dyn Clock>,
    ) -> Planner {
        Planner {
            me,
            ports,
            settings,
            clock,
            planning: false,
            ask_at: None,
            balanced_among: Vec::new(),
            marked: Vec::new(),
            awaited: 0,
        }
    }

    /// Runs one round; to be called while this process serves, at least as often as the planner's
    /// lease must be renewed, and whenever a process comes or goes. `known_epoch` returns the
    /// highest epoch of a slot that any live edge or router reported.
    pub async fn run_planner_round(
        &mut self,
        known_epoch: impl Fn(u16) -> u64,
    ) -> Result<Round, ClaimError> {
        if !self.hold_planner_lease().await? {
            return Ok(Round::default());
        }
        let table = self.refresh_table().await?;
        let (state_store, storage) = tokio::join!(
            self.fresh(&*self.ports.state_store_leases),
            self.fresh(&*self.ports.storage_leases)
        );
        let storage = storage.map_err(|error| ClaimError::StorageUnavailable(error.0))?;
        let state_store =
            state_store.map_err(|error| ClaimError::StateStoreUnavailable(error.0))?;
        self.unmark_living(&storage).await?;
        let live = united(&state_store, &storage);
        if self.is_awaited(&table, &live) {
            return Ok(Round {
                planner: self.planning,
                ..Round::default()
            });
        }
        let mut limits = self.settings.limits;
        let routers = routers(&state_store, &storage);
        let reach = Reach::of(&live);
        let staying: Vec<&proto::Node> = routers.iter().filter(|node| !node.draining).collect();
        let open = reach.open(&table, &staying);
        let mut among: Vec<u64> = open.iter().map(|router| router.incarnation).collect();
        among.sort_unstable();
        if among != self.balanced_among {
            limits.hysteresis_percent = 0;
        }
        let plan = plan(&table, &routers, &reach, limits);
        if plan.moves.is_empty() && plan.claims.is_empty() {
            self.balanced_among = among;
        }
        let mut round = Round {
            planner: true,
            ..Round::default()
        };
        if !plan.claims.is_empty() {
            self.claim(&table, plan.claims, known_epoch, &mut round)
                .await?;
        }
        if self.planning {
            round.hand_overs = orders(plan.moves);
        }
        round.planner = self.planning;
        Ok(round)
    }

    /// Whether a live process has not taken part in the table's timeline yet. Its slots are not in
    /// the table, so nothing is planned until it has asserted them or its lease ends.
    fn is_awaited(&mut self, table: &SlotTable, live: &[proto::Node]) -> bool {
        let names: Vec<&str> = timeline::awaited(table, live)
            .map(|node| node.name.as_str())
            .collect();
        if names.len() != self.awaited && !names.is_empty() {
            let timeline = table.position().timeline;
            tracing::info!(
                ?names,
                timeline,
                "no slot moves before these processes have taken part"
            );
        }
        self.awaited = names.len();
        self.awaited > 0 && guard!("timeline")
    }

    /// Asks for the planner's lease or renews it, at most three times per term.
    async fn hold_planner_lease(&mut self) -> Result<bool, ClaimError> {
        let now = self.clock.now();
        if self.ask_at.is_none_or(|at| now >= at) {
            self.ask_at = now.checked_add(self.settings.ttl / 3);
            // This router is not the planner until storage confirms it again.
            let was = std::mem::take(&mut self.planning);
            self.slot_claim(Vec::new(), None).await?;
            if self.planning && !was {
                tracing::info!(name = self.me.name, "this router plans the slot table");
            }
        }
        Ok(self.planning)
    }

    async fn slot_claim(
        &mut self,
        moves: Vec<proto::SlotMove>,
        known: Option<proto::Position>,
    ) -> Result<Vec<u32>, ClaimError> {
        let planner_ttl_ms = u32::try_from(self.settings.ttl.as_millis()).unwrap_or(u32::MAX);
        let request = proto::SlotClaimRequest {
            moves,
            planner: Some(self.me.clone()),
            planner_ttl_ms,
            secret: self.ports.me.secret.to_wire(),
            known,
        };
        let reply = self
            .ports
            .slot_claim(request, self.settings.claim_timeout)
            .await?;
        self.planning = reply.planner;
        Ok(reply.refused_slots)
    }

    async fn refresh_table(&self) -> Result<Arc<SlotTable>, ClaimError> {
        let known = Some(self.ports.table.load().position());
        let request = proto::SlotTableRequest { known };
        let reply = within(self.settings.timeout, self.ports.stores.slot_table(request)).await?;
        if let Some(map) = reply.map {
            self.ports.table.offer(map)?;
        }
        Ok(self.ports.table.load())
    }

    async fn fresh(
        &self,
        authority: &dyn LeaseAuthority,
    ) -> Result<Vec<proto::Node>, AuthorityUnavailable> {
        let leases = timeout(self.settings.timeout, authority.fresh())
            .await
            .map_err(|_| {
                AuthorityUnavailable(format!("no answer within {:?}", self.settings.timeout))
            })??;
        Ok(leases.into_iter().map(|(node, _)| node).collect())
    }

    /// Removes the mark of each lease that is fresh in storage: no planner can have claimed from
    /// its holder, since the claim's transaction would have ended the lease there.
    async fn unmark_living(&mut self, storage_fresh: &[proto::Node]) -> Result<(), ClaimError> {
        for node in std::mem::take(&mut self.marked) {
            if !storage_fresh.iter().any(|fresh| same(fresh, &node)) {
                self.marked.push(node);
                continue;
            }
            let leases = self.ports.state_store_leases.clone();
            let unmarked = timeout(self.settings.timeout, leases.unmark(&node)).await;
            if !matches!(unmarked, Ok(Ok(()))) {
                self.marked.push(node);
                return Err(ClaimError::StateStoreUnavailable(
                    "a mark could not be taken back".into(),
                ));
            }
            tracing::info!(
                name = node.name,
                "the lease was renewed after all, mark taken back"
            );
        }
        Ok(())
    }

    async fn claim(
        &mut self,
        table: &SlotTable,
        claims: Vec<Claim>,
        known_epoch: impl Fn(u16) -> u64,
        round: &mut Round,
    ) -> Result<(), ClaimError> {
        let slots: Vec<u16> = claims.iter().map(|claim| claim.slot).collect();
        // Before any mark: if the store is unavailable, nothing may be left half done.
        let epochs = self
            .ports
            .state_store_epochs(&slots, self.settings.claim_timeout)
            .await?;
        let ended = self.mark_dead(&claims).await?;
        failpoint::hit_async("router.claim_marked").await;
        let chosen: Vec<(Claim, u64)> = claims
            .into_iter()
            .zip(epochs)
            .filter(|(claim, _)| {
                claim
                    .from
                    .as_ref()
                    .is_none_or(|from| contains(&ended, from))
            })
            .collect();
        if chosen.is_empty() {
            return Ok(());
        }
        let moves = chosen.iter().map(|(claim, state_store)| proto::SlotMove {
            released: false,
            ..slot_move(
                table,
                claim.slot,
                &claim.to,
                (*state_store).max(known_epoch(claim.slot)),
            )
        });
        let moves = moves.collect();
        let refused = self.slot_claim(moves, Some(table.position())).await?;
        for (claim, _) in chosen {
            if !self.planning || refused.contains(&u32::from(claim.slot)) {
                round.refused.push(claim.slot);
            } else {
                round.claimed.push(claim);
            }
        }
        // An owner whose slot was claimed is certainly dead, and its mark stays. The other marks
        // are checked again in the next round.
        let settled = |node: &proto::Node| {
            round
                .claimed
                .iter()
                .any(|claim| claim.from.as_ref().is_some_and(|from| same(from, node)))
        };
        self.marked.retain(|node| !settled(node));
        for node in &ended {
            if !settled(node) && !contains(&self.marked, node) {
                self.marked.push(node.clone());
            }
        }
        tracing::info!(
            claimed = round.claimed.len(),
            refused = round.refused.len(),
            "slots without a live owner were claimed"
        );
        Ok(())
    }

    /// Marks the dead owners in the state store; returns those whose lease has ended there.
    async fn mark_dead(&mut self, claims: &[Claim]) -> Result<Vec<proto::Node>, ClaimError> {
        let mut dead: Vec<proto::Node> = Vec::new();
        for from in claims.iter().filter_map(|claim| claim.from.as_ref()) {
            if !contains(&dead, from) {
                dead.push(from.clone());
            }
        }
        let mut ended = Vec::new();
        for node in dead {
            // Noted before the request: a mark may have been set although no answer came.
            if !contains(&self.marked, &node) {
                self.marked.push(node.clone());
            }
            let mark = self.ports.state_store_leases.mark_ended(&node);
            let marked = timeout(self.settings.timeout, mark)
                .await
                .map_err(|_| ClaimError::StateStoreUnavailable("no answer to a mark".into()))?
                .map_err(|error| ClaimError::StateStoreUnavailable(error.0))?;
            if marked || !guard!("two-authorities") {
                ended.push(node);
            } else {
                self.marked.retain(|other| !same(other, &node));
            }
        }
        Ok(ended)
    }
}

fn contains(nodes: &[proto::Node], node: &proto::Node) -> bool {
    nodes.iter().any(|other| same(other, node))
}

/// All processes whose lease is fresh with either authority. Only the state store has the reports
/// that a process sends with its lease.
pub fn united(state_store: &[proto::Node], storage: &[proto::Node]) -> Vec<proto::Node> {
    let mut all = state_store.to_vec();
    for node in storage {
        match all.iter_mut().find(|known| same(known, node)) {
            Some(known) => known.draining |= node.draining,
            None => all.push(node.clone()),
        }
    }
    all
}

/// The live routers: those whose lease is fresh with either authority. A router drains if either
/// authority has recorded that.
fn routers(state_store: &[proto::Node], storage: &[proto::Node]) -> Vec<proto::Node> {
    let mut live: Vec<proto::Node> = Vec::new();
    for node in state_store.iter().chain(storage) {
        if node.role() != proto::NodeRole::Router {
            continue;
        }
        let by_both = contains(state_store, node) && contains(storage, node);
        if !by_both && !guard!("two-authorities") {
            continue;
        }
        match live.iter_mut().find(|other| same(other, node)) {
            Some(known) => known.draining |= node.draining,
            // The node is written into orders and claims, which carry no reports.
            None => live.push(proto::Node {
                reaches: Vec::new(),
                installed: None,
                ..node.clone()
            }),
        }
    }
    live
}

/// Puts moves of the same pair of routers into one order.
fn orders(moves: Vec<Move>) -> Vec<HandOverOrder> {
    let mut orders: Vec<HandOverOrder> = Vec::new();
    for Move { slot, from, to } in moves {
        let fits = |known: &&mut HandOverOrder| {
            same(&known.owner, &from)
                && known
                    .order
                    .to
                    .as_ref()
                    .is_some_and(|other| same(other, &to))
        };
        match orders.iter_mut().find(fits) {
            Some(known) => known.order.slots.push(u32::from(slot)),
            None => orders.push(HandOverOrder {
                owner: from,
                order: proto::HandOver {
                    slots: vec![u32::from(slot)],
                    to: Some(to),
                },
            }),
        }
    }
    orders
}

#[cfg(test)]
#[path = "claim_tests.rs"]
mod tests;
