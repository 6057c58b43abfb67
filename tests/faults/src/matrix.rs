//! The faults of a run: points in the life of a stanza against actions.
//!
//! The points that each action reaches are measured without a fault, and must include the list in
//! `reached.txt`. In a short run every point strikes once, every tier is struck during every
//! action, and some points suspend; a full run (`SESTINA_FAULTS=full`) is the whole product.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use sestina_runtime::failpoint::NAMES;

use crate::cluster::At;
use crate::deeds::{DEEDS, Deed};
use crate::fault::{Blow, Fault};
use crate::process::Tier;

/// The value `full` selects a full run.
pub const VARIABLE: &str = "SESTINA_FAULTS";

/// Points and the actions that reach them.
pub type Reached = BTreeMap<String, BTreeSet<Deed>>;

/// Points that are reached when slots move. They cannot be measured: a router that has drained is
/// gone when its hits could be counted, and other routers may reach them at any time afterwards.
const MOVING: [(&str, Deed); 8] = [
    ("router.quiesce", Deed::Leave),
    ("router.flushed", Deed::Leave),
    ("router.released", Deed::Leave),
    ("router.claimed", Deed::Take),
    ("router.installed", Deed::Take),
    ("router.restored", Deed::Take),
    ("storage.claim", Deed::Take),
    ("storage.claimed", Deed::Take),
];

/// Points that also suspend in a short run: a stanza or a commit is being processed there.
const SUSPENDED: [&str; 10] = [
    "edge.received",
    "edge.sent",
    "edge.delivering",
    "router.accepted",
    "router.message_received",
    "router.room_committed",
    "router.replica_commit",
    "router.archived",
    "router.lane_send",
    "storage.write",
];

/// Points that also suspend for less than a lease in a short run.
const DOZING: [&str; 4] = [
    "edge.delivering",
    "edge.received",
    "router.message_received",
    "router.room_committed",
];

/// The tier of a point.
pub fn tier_of(point: &str) -> Tier {
    match point.split('.').next() {
        Some("edge") => Tier::Edge,
        Some("storage") => Tier::Storage,
        // Routers are the processes that connect to the state store.
        _ => Tier::Router,
    }
}

/// The list in its stored form: a line for each point, in the order of the names.
pub fn written(reached: &Reached) -> String {
    let mut text = String::new();
    for (point, _) in NAMES {
        let deeds = reached
            .get(*point)
            .into_iter()
            .flatten()
            .map(|deed| deed.name());
        let deeds: Vec<&str> = deeds.collect();
        let deeds = if deeds.is_empty() {
            "-".to_owned()
        } else {
            deeds.join(" ")
        };
        text.push_str(&format!("{point}: {deeds}\n"));
    }
    text
}

/// Parses such a list. Unknown names are errors: the list belongs to this version.
pub fn read(text: &str) -> Result<Reached, String> {
    let mut reached = Reached::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (point, names) = line.split_once(':').ok_or_else(|| format!("{line:?}"))?;
        if !NAMES.iter().any(|(name, _)| *name == point) {
            return Err(format!("no point is named {point:?}"));
        }
        let mut deeds = BTreeSet::new();
        for name in names.split_whitespace().filter(|name| *name != "-") {
            let deed = DEEDS.into_iter().find(|deed| deed.name() == name);
            deeds.insert(deed.ok_or_else(|| format!("no deed is named {name:?}"))?);
        }
        reached.insert(point.to_owned(), deeds);
    }
    Ok(reached)
}

/// The entries of the promised list that the measurement lacks.
pub fn missing(promised: &Reached, measured: &Reached) -> Vec<String> {
    let mut missing = Vec::new();
    for (point, deeds) in promised {
        for deed in deeds {
            if !measured
                .get(point)
                .is_some_and(|found| found.contains(deed))
            {
                missing.push(format!("{point} during {deed}"));
            }
        }
    }
    missing
}

fn fault(point: &str, deed: Deed, blow: Blow, number: usize) -> Fault {
    Fault {
        point: point.to_owned(),
        deed,
        blow,
        victim: At {
            tier: tier_of(point),
            number,
        },
    }
}

/// The faults of a run. The victims take turns, so that a restarted process has time to get its
/// slots while another is struck.
pub fn faults(reached: &Reached, full: bool, count: impl Fn(Tier) -> usize) -> Vec<Fault> {
    let mut faults = Vec::new();
    let mut turns: BTreeMap<Tier, usize> = BTreeMap::new();
    let mut add = |point: &str, deed: Deed, blow: Blow| {
        let tier = tier_of(point);
        let turn = turns.entry(tier).or_default();
        faults.push(fault(point, deed, blow, *turn % count(tier)));
        *turn += 1;
    };
    for (point, deed) in MOVING {
        add(point, deed, Blow::Kill);
    }
    if full {
        for (point, deeds) in reached {
            for deed in deeds {
                add(point, *deed, Blow::Kill);
                add(point, *deed, Blow::Suspend);
                add(point, *deed, Blow::Doze);
            }
        }
        return mixed(faults);
    }
    let mut used: BTreeMap<(Tier, Deed), usize> = BTreeMap::new();
    for (point, _) in NAMES {
        let tier = tier_of(point);
        let deeds = reached.get(*point).into_iter().flatten();
        let least = deeds.min_by_key(|deed| used.get(&(tier, **deed)).copied().unwrap_or(0));
        if let Some(deed) = least {
            *used.entry((tier, *deed)).or_default() += 1;
            add(point, *deed, Blow::Kill);
        }
    }
    // Every tier during every deed.
    let mut turn = 0;
    for tier in [Tier::Edge, Tier::Router, Tier::Storage] {
        for deed in DEEDS {
            let points = reached
                .iter()
                .filter(|(point, deeds)| tier_of(point) == tier && deeds.contains(&deed));
            let points: Vec<&String> = points.map(|(point, _)| point).collect();
            if !used.contains_key(&(tier, deed)) && !points.is_empty() {
                add(points[turn % points.len()], deed, Blow::Kill);
                turn += 1;
            }
        }
    }
    for (turn, point) in SUSPENDED.iter().enumerate() {
        let deeds: Vec<Deed> = reached.get(*point).into_iter().flatten().copied().collect();
        if !deeds.is_empty() {
            add(point, deeds[turn % deeds.len()], Blow::Suspend);
        }
    }
    for point in DOZING {
        if let Some(deed) = reached.get(point).into_iter().flatten().next() {
            add(point, *deed, Blow::Doze);
        }
    }
    mixed(faults)
}

/// The faults with their tiers in turn, so that the effects of a router's death end while other
/// tiers are struck.
fn mixed(faults: Vec<Fault>) -> Vec<Fault> {
    let mut queues: BTreeMap<Tier, VecDeque<Fault>> = BTreeMap::new();
    for fault in faults {
        queues
            .entry(fault.victim.tier)
            .or_default()
            .push_back(fault);
    }
    let mut mixed = Vec::new();
    while queues.values().any(|queue| !queue.is_empty()) {
        mixed.extend(queues.values_mut().filter_map(VecDeque::pop_front));
    }
    mixed
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn some() -> Reached {
        read(
            "edge.received: chat join\nrouter.accepted: chat room-message\nstorage.write: offline\n\
             storage.read: -\n",
        )
        .unwrap()
    }

    #[test]
    fn lists_are_written_and_read() {
        let reached = some();
        let text = written(&reached);
        assert_eq!(text.lines().count(), NAMES.len());
        let again = read(&text).unwrap();
        assert_eq!(again["edge.received"], reached["edge.received"]);
        assert!(again["router.settled"].is_empty());
        assert!(read("router.nothing: chat").is_err());
        assert!(read("router.settled: dance").is_err());
    }

    #[test]
    fn what_is_not_reached_any_more_is_missed() {
        let mut measured = some();
        assert!(missing(&some(), &measured).is_empty());
        measured
            .get_mut("router.accepted")
            .unwrap()
            .remove(&Deed::Chat);
        assert_eq!(missing(&some(), &measured), ["router.accepted during chat"]);
    }

    #[test]
    fn a_short_run_has_every_point_and_every_deed_of_each_tier() {
        let short = faults(&some(), false, |_| 2);
        let has = |point: &str, deed| short.iter().any(|f| f.point == point && f.deed == deed);
        assert!(has("edge.received", Deed::Chat) && has("edge.received", Deed::Join));
        assert!(has("router.accepted", Deed::Chat) && has("router.accepted", Deed::RoomMessage));
        assert!(has("router.quiesce", Deed::Leave) && has("storage.write", Deed::Offline));
        assert!(short.iter().any(|f| f.blow == Blow::Suspend));
        let full = faults(&some(), true, |_| 2);
        assert_eq!(full.len(), MOVING.len() + 3 * 5);
    }
}
