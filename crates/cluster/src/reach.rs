//! Which process reaches which router, as their leases report: a slot in use moves only to a router
//! to which every process that may send something for the slot has lanes.
//!
//! A router takes a slot once every live edge and router has answered its epoch, and the slot's
//! users get nothing until then. A router with a wrong address, or behind a firewall that lets
//! packets through in one direction only, renews its lease like any other. Only the other processes
//! know that it cannot be reached, and they report it with their own leases.

use std::collections::BTreeSet;

use sestina_proto as proto;
use sestina_runtime::guard;

use crate::slot_map::{SlotTable, same};

/// The live edges and routers, and the routers that each of them reaches.
#[derive(Clone, Debug, Default)]
pub struct Reach {
    processes: Vec<proto::Node>,
}

impl Reach {
    /// From all processes with a fresh lease; storage processes are left out.
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
    /// router that owns slots reach one another. A router without slots sends nothing to an owner,
    /// so its lanes do not count; otherwise one unreachable router would stop all moves.
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

    /// The routers that most processes reach: for a slot without an owner, an owner that some
    /// processes cannot reach is better than none.
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

    /// Whether a process reaches a router, and the router reaches it if it is a router too: lanes
    /// of edges carry frames both ways, lanes between routers one way each.
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
