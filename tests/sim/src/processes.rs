//! Routers and edges as processes: they start, die, are suspended, and wake up.

use std::collections::BTreeMap;

use sestina_edge::attachment::hands::Hands as _;
use sestina_proto as proto;

use super::edge::Edge;
use super::host::{Host, Life};
use super::jobs::JobState;
use super::world::{LEASE, World};

impl World {
    /// The node of a process that starts now: no other has had its incarnation.
    fn new_node(&mut self, name: String, role: proto::NodeRole) -> proto::Node {
        self.last_incarnation += 1;
        proto::Node {
            name,
            incarnation: self.last_incarnation,
            role: role.into(),
            ..Default::default()
        }
    }

    /// A router starts, under a new name.
    pub(super) fn start_host(&mut self) {
        self.start_host_as(format!("r{}", self.last_incarnation + 1));
    }

    /// A router starts under this name.
    pub(super) fn start_host_as(&mut self, name: String) {
        let node = self.new_node(name, proto::NodeRole::Router);
        self.note(|| format!("== router r{} starts as {}", node.incarnation, node.name));
        self.storage.change(|map| map.routers.push(node.clone()));
        self.hosts
            .push(Host::new(node.clone(), &self.config, self.workers));
        self.first_lease(&node);
    }

    /// An edge starts, under a new name.
    pub(super) fn start_edge(&mut self) {
        self.start_edge_as(format!("e{}", self.last_incarnation + 1));
    }

    /// An edge starts under this name.
    pub(super) fn start_edge_as(&mut self, name: String) {
        let node = self.new_node(name, proto::NodeRole::Edge);
        self.note(|| format!("== edge e{} starts as {}", node.incarnation, node.name));
        let edge = Edge::new(node.clone(), &self.net);
        edge.at(self.now).learn(self.storage.map.clone());
        self.edges.push(edge);
        self.first_lease(&node);
    }

    /// The processes whose leases are fresh, by incarnation.
    pub(super) fn fresh(&self) -> BTreeMap<u64, proto::Node> {
        let is_fresh = |node: &proto::Node, renews: bool| {
            let incarnation = node.incarnation;
            if let Some(leases) = &self.leases {
                return leases.is_fresh(incarnation, self.now);
            }
            let lasts = |until: &u64| *until > self.now;
            let lasts = || self.until.get(&incarnation).is_some_and(lasts);
            !self.ended.contains(&incarnation) && (renews || lasts())
        };
        let hosts = self.hosts.iter().map(|h| (&h.node, h.is_running()));
        let edges = self.edges.iter().map(|e| (&e.node, e.alive));
        hosts
            .chain(edges)
            .filter(|(node, renews)| is_fresh(node, *renews))
            .map(|(node, _)| (node.incarnation, node.clone()))
            .collect()
    }

    /// The place of a router in `hosts`.
    pub(super) fn host_index(&self, incarnation: u64) -> Option<usize> {
        self.hosts
            .iter()
            .position(|h| h.incarnation() == incarnation)
    }

    /// The place of an edge in `edges`.
    pub(super) fn edge_index(&self, incarnation: u64) -> Option<usize> {
        self.edges
            .iter()
            .position(|e| e.incarnation() == incarnation)
    }

    /// One of the routers that run, chosen by the seed.
    pub(super) fn any_host(&mut self) -> Option<usize> {
        let hosts = 0..self.hosts.len();
        let running: Vec<usize> = hosts.filter(|h| self.hosts[*h].is_running()).collect();
        self.rng.pick(&running).copied()
    }

    /// One of the edges that live, chosen by the seed.
    pub(super) fn any_edge(&mut self) -> Option<usize> {
        let edges = 0..self.edges.len();
        let alive: Vec<usize> = edges.filter(|e| self.edges[*e].alive).collect();
        self.rng.pick(&alive).copied()
    }

    /// A router dies. Some of the requests that it has sent to the stores arrive later.
    pub(super) fn kill_host(&mut self, index: usize) {
        let host = &mut self.hosts[index];
        if host.life == Life::Dead {
            return;
        }
        let incarnation = host.incarnation();
        self.deaths += 1;
        host.life = Life::Dead;
        host.workers.clear();
        host.inbox.clear();
        for job in std::mem::take(&mut host.jobs) {
            if let JobState::Asked { job, at, .. } = job
                && self.rng.one_in(2)
            {
                self.orphans.push((job, host.asker(at)));
            }
        }
        self.until.entry(incarnation).or_insert(self.now + LEASE);
        self.net.lock().kill(incarnation, &mut self.rng);
        self.note(|| format!("!! router r{incarnation} dies"));
    }

    /// An edge dies. Its clients still receive the first part of what it has written.
    pub(super) fn kill_edge(&mut self, index: usize) {
        let edge = &mut self.edges[index];
        let incarnation = edge.incarnation();
        self.deaths += 1;
        edge.alive = false;
        self.until.insert(incarnation, self.now + LEASE);
        self.net.lock().kill(incarnation, &mut self.rng);
        for sock in self.socks.values_mut().filter(|s| s.edge == index) {
            sock.pipe.cut();
            sock.edge_told = true;
            sock.up.clear();
            let mut down = sock.pipe.down.borrow_mut();
            let arrives = self.rng.below(down.len() as u64 + 1) as usize;
            down.truncate(arrives);
        }
        self.note(|| format!("!! edge e{incarnation} dies"));
    }

    /// A router stops for a while, and does not renew its lease meanwhile.
    pub(super) fn suspend_host(&mut self, index: usize, until: u64) {
        let incarnation = self.hosts[index].incarnation();
        self.hosts[index].life = Life::Suspended { until };
        self.until.insert(incarnation, self.now + LEASE);
        self.note(|| format!("!! router r{incarnation} is suspended until {until}"));
    }

    /// Suspended routers go on when their time has come: at once if they still have their leases;
    /// otherwise they work for some turns until they learn that they have lost them.
    pub(super) fn wake(&mut self) {
        for index in 0..self.hosts.len() {
            let Life::Suspended { until } = self.hosts[index].life else {
                continue;
            };
            if until > self.now {
                continue;
            }
            let incarnation = self.hosts[index].incarnation();
            if self.is_ended(incarnation) {
                // A process that keeps leases looks at them before each turn.
                let most = self.leases.as_ref().map_or(40, |_| self.workers.into());
                let turns = 1 + self.rng.below(most) as u32;
                self.hosts[index].life = Life::Late { turns };
                self.note(|| format!("!! router r{incarnation} wakes up too late"));
            } else {
                self.hosts[index].life = Life::Running;
                self.until.remove(&incarnation);
                self.note(|| format!("!! router r{incarnation} wakes up"));
            }
        }
    }
}
