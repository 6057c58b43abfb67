//! Slots come and go: what a new table means for this process, and the planner's rounds.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use sestina_cluster::claim::{Planner, PlannerSettings};
use sestina_proto as proto;
use sestina_runtime::clock::BootClock;

use super::lanes::process_frame;
use super::{Shared, membership};
use crate::worker::input::Input;

/// How often the planner looks, and the table is read from storage even if nobody sends one.
const ROUND: Duration = Duration::from_millis(250);

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
    loop {
        if shared.lease.serving() {
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
                        for order in round.hand_overs {
                            shared.send_order(&order.owner, order.order);
                        }
                        if !round.planner {
                            read_table(&shared).await;
                        }
                    }
                    Err(error) => {
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
        tokio::select! {
            () = token.cancelled() => return,
            () = tokio::time::sleep(ROUND) => {}
        }
    }
}

async fn read_table(shared: &Shared) {
    let known_version = shared.ports.table.load().version();
    let request = proto::SlotTableRequest { known_version };
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

/// Acts on each new table: tells workers, edges and routers; begins takeovers.
pub(super) async fn watch(shared: Arc<Shared>) {
    let token = shared.tasks.token();
    let mut versions = shared.ports.table.subscribe();
    // Slot -> epoch under which this process was told to take it.
    let mut mine: HashMap<u16, u64> = HashMap::new();
    loop {
        let table = shared.ports.table.load();
        versions.mark_unchanged();
        shared
            .metrics
            .slot_table_version
            .set(i64::try_from(table.version()).unwrap_or(i64::MAX));
        for worker in &shared.workers {
            drop(worker.push(Input::Table(table.clone()), 0));
        }
        publish(&shared, table.as_proto());
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
            shared.push(shared.worker_of(slot), input);
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

/// Begins to take slots, once it is known who is alive; false if the process ends.
async fn take(
    shared: &Shared,
    new: &[(u16, u64)],
    token: &tokio_util::sync::CancellationToken,
) -> bool {
    // Both live lists are read after the table: whoever could act for the older owner is in them.
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
        shared.push(shared.worker_of(*slot), input);
    }
    true
}

/// Sends the table to all edges and routers that have a lane here.
fn publish(shared: &Shared, map: &proto::SlotMap) {
    let workers = u32::try_from(shared.workers.len()).unwrap_or(1);
    let mut told = std::collections::HashSet::new();
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
