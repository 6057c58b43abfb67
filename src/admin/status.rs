//! The state of the cluster, and whether it is redundant, so that the next fault may come.

use std::collections::BTreeMap;
use std::time::Duration;

use sestina_api::admin::AdminError;
use sestina_api::lease::LeaseAuthority;
use sestina_cluster::claim::united;
use sestina_cluster::reach::Reach;
use sestina_cluster::slot_map::SlotTable;
use sestina_cluster::slots::SLOTS;
use sestina_cluster::timeline::awaited;
use sestina_proto as proto;
use sestina_proto::versions::Range;

use super::types::{AuthorityStatus, ProcessStatus, RouterStatus, Status, StatusQuery};
use super::{RouterAdmin, answer, arguments};
use crate::serve::cell::Running;

/// How long an authority may take to answer.
const LIMIT: Duration = Duration::from_millis(1500);

impl RouterAdmin {
    pub(super) async fn status(&self) -> Result<Status, AdminError> {
        let running = self.running()?;
        let json = answer(&StatusQuery { local: true })?;
        let (redis, storage, own, (others, unheard)) = tokio::join!(
            fresh("redis", &*running.state_store_leases),
            fresh("storage", &*running.storage_leases),
            local(&running),
            self.ask_others(&running, "status", &json),
        );
        let mut routers = vec![own];
        for json in others {
            routers.push(arguments(&json)?);
        }
        routers.sort_by(|a, b| a.name.cmp(&b.name));
        let mut status = judge(&running.router.table(), redis, storage, routers, unheard);
        if let Some(alone) = &self.alone {
            let states = [
                alone.storage.health(),
                crate::serve::edge::ready(&alone.edge),
            ];
            one_process(&mut status, &running.node, states);
        }
        status.node = running.node.name;
        status.speaks = running.router.speaks();
        Ok(status)
    }
}

/// Completes the status of a process that is the whole system: there is no Redis, and the tiers are
/// not processes.
fn one_process(status: &mut Status, node: &proto::Node, states: [Result<(), String>; 2]) {
    status
        .authorities
        .retain(|authority| authority.name != "redis");
    status.processes = vec![ProcessStatus {
        role: "serve".to_owned(),
        address: String::new(),
        storage: states[0].is_ok(),
        ..described(node)
    }];
    for state in states {
        if let Err(why) = state {
            status.missing.push(why);
            status.redundant = false;
        }
    }
}

/// The state of the router that was asked.
pub(super) async fn local(running: &Running) -> RouterStatus {
    let table = running.router.table();
    RouterStatus {
        name: running.node.name.clone(),
        incarnation: running.node.incarnation.to_string(),
        ready: running.router.is_ready(),
        table_version: table.version(),
        owned: table.slots_of(&running.node).count(),
        speaks: running.router.speaks(),
        counts: running.router.counts().await,
    }
}

/// An authority's answer: the fresh leases, or why there is none.
type Heard = (AuthorityStatus, Vec<proto::Node>);

async fn fresh(name: &str, authority: &dyn LeaseAuthority) -> Heard {
    let asked = tokio::time::timeout(LIMIT, authority.fresh()).await;
    let (reason, nodes) = match asked {
        Ok(Ok(nodes)) => (String::new(), nodes),
        Ok(Err(error)) => (error.to_string(), Vec::new()),
        Err(_) => ("it did not answer in time".to_owned(), Vec::new()),
    };
    let status = AuthorityStatus {
        name: name.to_owned(),
        reachable: reason.is_empty(),
        reason,
    };
    (status, nodes.into_iter().map(|(node, _)| node).collect())
}

/// Judges the state of the cluster by the answers.
fn judge(
    table: &SlotTable,
    redis: Heard,
    storage: Heard,
    routers: Vec<RouterStatus>,
    unheard: Vec<String>,
) -> Status {
    let mut missing = Vec::new();
    for (authority, _) in [&redis, &storage] {
        if !authority.reachable {
            missing.push(format!(
                "{} cannot be reached: {}",
                authority.name, authority.reason
            ));
        }
    }
    let both = redis.0.reachable && storage.0.reachable;
    let (storages, processes): (Vec<_>, _) = processes(&redis.1, &storage.1)
        .into_iter()
        .partition(|process| process.role == "storage");
    for process in &processes {
        if both && !(process.redis && process.storage) {
            let where_ = if process.redis { "storage" } else { "redis" };
            let (role, name) = (&process.role, &process.name);
            missing.push(format!(
                "the lease of {role} {name} is not fresh in {where_}"
            ));
        }
    }
    let live = united(&redis.1, &storage.1);
    for node in awaited(table, &live) {
        let name = &node.name;
        missing.push(format!(
            "the database lost commits, and {name} has not taken part in the new slot table yet"
        ));
    }
    unreached(&live, &mut missing);
    slots(table, &processes, &mut missing);
    let mut served = 0;
    for router in &routers {
        let (name, counts) = (&router.name, &router.counts);
        // A slot that is being handed over stays redundant until the next owner has it, so it
        // counts as served.
        served += counts.slots + counts.quiescing;
        if !router.ready {
            missing.push(format!("router {name} does not hold its lease"));
        }
        if counts.taking > 0 {
            missing.push(format!(
                "router {name} is taking over {} slots",
                counts.taking
            ));
        }
        // A slot that is moving needs its next owner and the state store: a fault of either would
        // stop it.
        if counts.moving > 0 {
            missing.push(format!("router {name} has {} slots moved", counts.moving));
        }
        if counts.sole > 0 {
            let one = counts.sole_one.as_ref();
            let one = one.map(|one| format!(" ({one})")).unwrap_or_default();
            missing.push(format!(
                "router {name} waits until two processes hold each of {} sessions{one}",
                counts.sole
            ));
        }
        if counts.in_doubt > 0 {
            missing.push(format!(
                "router {name} makes sure that redis has {} detached sessions and rooms",
                counts.in_doubt
            ));
        }
    }
    let complete = unheard.is_empty();
    if complete && missing.is_empty() && served < SLOTS {
        missing.push(format!("{served} of {SLOTS} slots are served"));
    }
    missing.extend(unheard);
    let sum = |count: fn(&RouterStatus) -> usize| routers.iter().map(count).sum();
    Status {
        redundant: missing.is_empty(),
        missing,
        complete,
        node: String::new(),
        program: env!("CARGO_PKG_VERSION").to_owned(),
        table_version: table.version(),
        authorities: vec![redis.0, storage.0],
        processes,
        storages,
        speaks: 0,
        sessions: sum(|router| router.counts.sessions),
        detached: sum(|router| router.counts.detached),
        rooms: sum(|router| router.counts.rooms),
        occupants: sum(|router| router.counts.occupants),
        routers,
    }
}

/// Routers to which some edge or router has no lane: the slots of such a router, or those that it
/// gets after the next fault, cannot be reached from that process.
fn unreached(live: &[proto::Node], missing: &mut Vec<String>) {
    /// How many processes the line about one router names; the others are counted.
    const NAMED: usize = 3;
    let reach = Reach::of(live);
    let mut apart: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (process, router) in reach.unreached() {
        apart.entry(&router.name).or_default().push(&process.name);
    }
    for (router, processes) in apart {
        let count = processes.len();
        let names = processes[..count.min(NAMED)].join(", ");
        let more = match count.saturating_sub(NAMED) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        missing.push(format!("router {router} is not reached by {names}{more}"));
    }
}

fn processes(redis: &[proto::Node], storage: &[proto::Node]) -> Vec<ProcessStatus> {
    let mut all: BTreeMap<(String, u64), ProcessStatus> = BTreeMap::new();
    for (nodes, in_redis) in [(redis, true), (storage, false)] {
        for node in nodes {
            let entry = all
                .entry((node.name.clone(), node.incarnation))
                .or_insert_with(|| described(node));
            entry.draining |= node.draining;
            entry.redis |= in_redis;
            entry.storage |= !in_redis;
        }
    }
    // Processes of roles that only a newer version knows are not judged.
    all.into_values()
        .filter(|process| process.role != "other")
        .collect()
}

/// The properties that a process reports with its lease.
fn described(node: &proto::Node) -> ProcessStatus {
    let Range { oldest, newest } = node.versions();
    ProcessStatus {
        name: node.name.clone(),
        role: role(node).to_owned(),
        incarnation: node.incarnation.to_string(),
        address: node.address.clone(),
        program: node.program.clone(),
        oldest,
        newest,
        ..ProcessStatus::default()
    }
}

fn role(node: &proto::Node) -> &'static str {
    match node.role() {
        proto::NodeRole::Edge => "edge",
        proto::NodeRole::Router => "router",
        proto::NodeRole::Storage => "storage",
        proto::NodeRole::Unspecified => "other",
    }
}

fn slots(table: &SlotTable, processes: &[ProcessStatus], missing: &mut Vec<String>) {
    let alive = |node: &proto::Node| {
        let incarnation = node.incarnation.to_string();
        processes
            .iter()
            .any(|p| p.name == node.name && p.incarnation == incarnation)
    };
    let (mut unowned, mut orphans) = (0, BTreeMap::<&str, usize>::new());
    for slot in (0..SLOTS).filter_map(|slot| u16::try_from(slot).ok()) {
        match table.owner(slot) {
            None => unowned += 1,
            Some(owner) if !alive(owner) => *orphans.entry(&owner.name).or_default() += 1,
            Some(_) => {}
        }
    }
    if unowned > 0 {
        missing.push(format!("{unowned} slots have no owner"));
    }
    for (name, count) in orphans {
        missing.push(format!(
            "the owner of {count} slots, router {name}, has no lease"
        ));
    }
}

#[cfg(test)]
#[path = "status_tests.rs"]
mod tests;
