//! Which process reaches which router, as their leases say: a router gets a slot in use only when
//! every process that may have something for the slot has lanes to that router.
//!
//! A router takes a slot once every live edge and router has answered its epoch, and its users
//! are silent until then. A router with a wrong address, or behind a firewall that lets packets
//! through one way only, renews its lease like any other: only the others know that it cannot be
//! reached, and they say so with their own leases.

use std::collections::BTreeSet;

use sestina_proto as proto;
use sestina_runtime::guard;

use crate::slot_map::{SlotTable, same};

/// The edges and routers that live, and what each of them reaches.
#[derive(Clone, Debug, Default)]
pub struct Reach {
    processes: Vec<proto::Node>,
}

impl Reach {
    /// From all processes with a fresh lease.
    pub fn of(live: &[proto::Node]) -> Reach {
        let speaks = |node: &&proto::Node| {
            matches!(node.role(), proto::NodeRole::Edge | proto::NodeRole::Router)
        };
        Reach {
            processes: live.iter().filter(speaks).cloned().collect(),
        }
    }

    fn routers(&self) -> impl Iterator<Item = &proto::Node> {
        let all = self.processes.iter();
        all.filter(|node| node.role() == proto::NodeRole::Router)
    }

    /// Pairs of a process and a router to which it has no lanes.
    pub fn unreached(&self) -> impl Iterator<Item = (&proto::Node, &proto::Node)> {
        self.processes.iter().flat_map(move |process| {
            self.routers()
                .filter(move |router| !reaches(process, router))
                .map(move |router| (process, router))
        })
    }

    /// The routers that may get slots in use: every live edge reaches them, and they and every
    /// router that owns slots reach one another. A router without slots has nothing to send to an
    /// owner, so it does not count: one that cannot be reached would stop all moves otherwise.
    pub fn open<'a>(&self, table: &SlotTable, routers: &[&'a proto::Node]) -> Vec<&'a proto::Node> {
        if !guard!("reached") {
            return routers.to_vec();
        }
        let owners: BTreeSet<u64> = table
            .routers()
            .iter()
            .filter(|router| table.slots_of(router).next().is_some())
            .map(|router| router.incarnation)
            .collect();
        let counts = |process: &proto::Node| {
            process.role() == proto::NodeRole::Edge || owners.contains(&process.incarnation)
        };
        let of = |router: &proto::Node| {
            let mut counting = self.processes.iter().filter(|process| counts(process));
            counting.all(|process| self.connected(process, router))
        };
        routers
            .iter()
            .copied()
            .filter(|router| of(router))
            .collect()
    }

    /// Those of the routers that most processes reach: where nothing lives, a slot rather has an
    /// owner that some cannot reach than none.
    pub fn most<'a>(&self, routers: &[&'a proto::Node]) -> Vec<&'a proto::Node> {
        if !guard!("reached") {
            return routers.to_vec();
        }
        let missed = |router: &proto::Node| {
            let all = self.processes.iter();
            let apart = all.clone().filter(|p| !self.connected(p, router)).count();
            (apart, all.filter(|p| !reaches(p, router)).count())
        };
        let least = routers.iter().map(|router| missed(router)).min();
        routers
            .iter()
            .copied()
            .filter(|router| Some(missed(router)) == least)
            .collect()
    }

    /// Whether a process reaches a router, and is reached by it if it is a router itself: lanes
    /// of edges carry frames both ways, those of routers one way each.
    fn connected(&self, process: &proto::Node, router: &proto::Node) -> bool {
        let back = || {
            let mut routers = self.routers();
            routers.any(|known| same(known, router) && reaches(known, process))
        };
        reaches(process, router) && (process.role() == proto::NodeRole::Edge || back())
    }
}

fn reaches(process: &proto::Node, router: &proto::Node) -> bool {
    same(process, router) || process.reaches.contains(&router.incarnation)
}
