//! Slots come and go: what a new table means for this process, and the planner's rounds.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use sestina_cluster::claim::{Planner, PlannerSettings};
use sestina_cluster::slot_map::{newer, same};
use sestina_proto as proto;
use sestina_runtime::clock::BootClock;

use super::lanes::process_frame;
use super::{Shared, membership, timeline};
use crate::worker::input::Input;

/// How often it is looked whether there is something to plan.
const ROUND: Duration = Duration::from_millis(250);
/// How often a round goes to storage and Redis though nothing is known to have changed: a planner
/// may have died between a change of the table and telling it.
const IDLE: Duration = Duration::from_secs(1);
/// The shortest time between two rounds.
const BETWEEN: Duration = Duration::from_millis(20);

/// Runs the planner's rounds; they are idle unless this process is the planner.
pub(super) async fn plan(shared: Arc<Shared>, settings: PlannerSettings) {
    let token = shared.tasks.token();
    let mut planner = Planner::new(
        shared.node.clone(),
        shared.ports.clone(),
        settings,
        Arc::new(BootClock),
    );
    let mut last_error = String::new();
    let mut versions = shared.ports.table.subscribe();
    let mut members = shared.live.subscribe();
    let (mut planning, mut moving, mut came_or_went) = (false, false, true);
    let mut looked = Instant::now();
    loop {
        let news = came_or_went || versions.has_changed().unwrap_or(true);
        let due = moving || news || looked.elapsed() >= IDLE;
        moving = false;
        // Whether this process plans is asked as often as the planner's lease wants it.
        if shared.lease.serving() && (due || !planning) {
            versions.mark_unchanged();
            came_or_went = false;
            if due {
                looked = Instant::now();
            }
            let epochs = shared.epochs.clone();
            let known = move |slot: u16| {
                epochs
                    .get(usize::from(slot))
                    .map_or(0, |e| e.load(Ordering::Acquire))
            };
            tokio::select! {
                () = token.cancelled() => return,
                round = planner.run_planner_round(known) => match round {
                    Ok(round) => {
                        last_error.clear();
                        planning = round.planner;
                        shared.plans.store(planning, Ordering::Release);
                        if due || !planning {
                            let orders = round.hand_overs.iter().map(|o| o.order.slots.len());
                            shared.moving.store(orders.sum(), Ordering::Release);
                        }
                        moving = !round.hand_overs.is_empty() || !round.refused.is_empty();
                        for order in round.hand_overs {
                            shared.send_order(&order.owner, order.order);
                        }
                        if !round.planner && due {
                            read_table(&shared).await;
                        }
                    }
                    Err(error) => {
                        planning = false;
                        shared.moving.store(0, Ordering::Release);
                        // Said once for as long as it stays the same.
                        let text = error.to_string();
                        if text != last_error {
                            tracing::warn!(%error, "planning stopped");
                            last_error = text;
                        }
                    }
                }
            }
        }
        // A slot that was moved makes room for another.
        let pause = async {
            tokio::time::sleep(BETWEEN).await;
            if moving {
                versions.changed().await.ok();
            } else {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = token.cancelled() => return,
            () = pause => {}
            changed = members.changed() => {
                if changed.is_err() {
                    return;
                }
                came_or_went = true;
            }
            () = tokio::time::sleep(ROUND) => {}
        }
    }
}

async fn read_table(shared: &Shared) {
    let known = Some(shared.ports.table.load().position());
    let request = proto::SlotTableRequest { known };
    let asked = shared.ports.stores.slot_table(request);
    let Ok(Ok(reply)) = tokio::time::timeout(Duration::from_secs(1), asked).await else {
        return;
    };
    if let Some(map) = reply.map
        && let Err(error) = shared.ports.table.offer(map)
    {
        tracing::warn!(%error, "storage has a broken slot table");
    }
}

impl Shared {
    /// Another router sent this table, and sends it to all processes.
    pub(super) fn told(&self, position: proto::Position) {
        let mut told = self.told.lock();
        if newer(position, *told) {
            *told = position;
        }
    }

    fn was_told(&self, position: proto::Position) -> bool {
        !newer(position, *self.told.lock())
    }

    /// The routers that live, this one among them, without what they report.
    pub(super) fn routers(&self) -> Vec<proto::Node> {
        let mut routers = self.live.nodes();
        routers.retain(|node| node.role() == proto::NodeRole::Router);
        routers.sort_by_key(|node| node.incarnation);
        for router in &mut routers {
            router.reaches = Vec::new();
            router.installed = None;
        }
        routers
    }

    fn send_order(&self, owner: &proto::Node, order: proto::HandOver) {
        if owner.incarnation == self.node.incarnation {
            return self.order_hand_over(order);
        }
        let lane = self.peer_lanes.lock().get(&owner.incarnation).cloned();
        if let Some(lane) = lane {
            let body = Some(proto::peer_frame::Body::HandOver(order));
            // An order that is lost comes again with the next round.
            let frame = proto::PeerFrame {
                slot: 0,
                epoch: 0,
                body,
            };
            lane.send(frame).ok();
        }
    }
}

/// Acts on each new table: tells workers and routers; begins takeovers.
pub(super) async fn watch(shared: Arc<Shared>) {
    let token = shared.tasks.token();
    let mut versions = shared.ports.table.subscribe();
    // Slot -> epoch under which this process was told to take it.
    let mut mine: HashMap<u16, u64> = HashMap::new();
    // The newest timeline of the table of which this process knows what it owns; 0: none.
    let mut timeline = 0;
    loop {
        versions.mark_unchanged();
        let Some(table) = timeline::joined(&shared, &mut timeline, &token).await else {
            return;
        };
        shared
            .metrics
            .slot_table_version
            .set(i64::try_from(table.version()).unwrap_or(i64::MAX));
        shared.mailboxes.tell_all(|| Input::Table(table.clone()));
        shared.installed(&table);
        if !shared.was_told(table.position()) {
            tell_routers(&shared, table.as_proto());
        }
        let owned: HashMap<u16, u64> = table
            .slots_of(&shared.node)
            .map(|slot| (slot, table.epoch(slot)))
            .collect();
        shared
            .metrics
            .slots_owned
            .set(i64::try_from(owned.len()).unwrap_or(i64::MAX));
        let lost: Vec<u16> = mine
            .keys()
            .filter(|s| !owned.contains_key(s))
            .copied()
            .collect();
        for slot in lost {
            mine.remove(&slot);
            let input = Input::Lose {
                slot,
                epoch: table.epoch(slot),
            };
            shared
                .mailboxes
                .tell(shared.mailboxes.worker_of(slot), input);
        }
        let new: Vec<(u16, u64)> = owned
            .iter()
            .filter(|(slot, epoch)| mine.get(slot) != Some(epoch))
            .map(|(slot, epoch)| (*slot, *epoch))
            .collect();
        if !new.is_empty() && take(&shared, &new, &token).await {
            mine.extend(new);
        }
        tokio::select! {
            () = token.cancelled() => return,
            changed = versions.changed() => if changed.is_err() { return },
        }
    }
}

/// Tells edges of each new table, and of each router that comes.
pub(super) async fn announce(shared: Arc<Shared>) {
    let token = shared.tasks.token();
    let mut versions = shared.ports.table.subscribe();
    let mut members = shared.live.subscribe();
    let mut known = Vec::new();
    let mut last = proto::Position::default();
    loop {
        versions.mark_unchanged();
        members.mark_unchanged();
        let table = shared.ports.table.load();
        let routers = shared.routers();
        let newer = table.position() != last && !shared.was_told(table.position());
        if newer || routers != known {
            tell_edges(&shared, table.as_proto(), routers.clone());
        }
        (last, known) = (table.position(), routers);
        tokio::select! {
            () = token.cancelled() => return,
            changed = versions.changed() => if changed.is_err() { return },
            changed = members.changed() => if changed.is_err() { return },
        }
    }
}

/// Begins to take slots, once it is known who is alive; false if the process ends.
async fn take(
    shared: &Shared,
    new: &[(u16, u64)],
    token: &tokio_util::sync::CancellationToken,
) -> bool {
    // Both live lists are read after the table: they hold every process that could act for the older owner.
    while !membership::refresh(shared).await {
        tokio::select! {
            () = token.cancelled() => return false,
            () = tokio::time::sleep(ROUND) => {}
        }
    }
    let live: Vec<proto::Node> = shared
        .live
        .nodes()
        .into_iter()
        .filter(|n| n.role() == proto::NodeRole::Edge || n.role() == proto::NodeRole::Router)
        .collect();
    let live: Arc<[proto::Node]> = live.into();
    tracing::info!(slots = new.len(), "taking slots");
    for (slot, epoch) in new {
        let input = Input::Take {
            slot: *slot,
            epoch: *epoch,
            live: live.clone(),
        };
        shared
            .mailboxes
            .tell(shared.mailboxes.worker_of(*slot), input);
    }
    // Whose end was told while this went on was not waited for by those that came later.
    let still = shared.live.nodes();
    for node in live.iter() {
        if !still.iter().any(|n| n.incarnation == node.incarnation) {
            shared.tell_gone(node.incarnation);
        }
    }
    true
}

/// Sends the table to all edges that have a lane here, with routers that own nothing yet: edges open
/// lanes to them before they get anything.
fn tell_edges(shared: &Shared, map: &proto::SlotMap, routers: Vec<proto::Node>) {
    let map = with_routers(map.clone(), routers);
    let workers = shared.mailboxes.len();
    let mut told = HashSet::new();
    let lanes: Vec<_> = shared
        .edge_lanes
        .lock()
        .iter()
        .map(|(k, l)| (k.0, l.clone()))
        .collect();
    for (lane, sink) in lanes {
        if told.insert(lane.edge) {
            let frames = vec![process_frame(proto::to_edge::Body::SlotMap(map.clone()))];
            let batch = proto::ToEdgeBatch {
                worker: workers,
                seq: 0,
                frames,
            };
            sink.send(batch).ok();
        }
    }
}

/// Adds routers that the map does not name. The numbers of the others stay.
pub(super) fn with_routers(mut map: proto::SlotMap, routers: Vec<proto::Node>) -> proto::SlotMap {
    for router in routers {
        if !map.routers.iter().any(|known| same(known, &router)) {
            map.routers.push(router);
        }
    }
    map
}

/// Sends the table to all routers that have a lane here.
fn tell_routers(shared: &Shared, map: &proto::SlotMap) {
    let peers: Vec<_> = shared.peer_lanes.lock().values().cloned().collect();
    for peer in peers {
        let body = Some(proto::peer_frame::Body::SlotMap(map.clone()));
        let frame = proto::PeerFrame {
            slot: 0,
            epoch: 0,
            body,
        };
        peer.send(frame).ok();
    }
}
