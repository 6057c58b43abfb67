//! Leases are renewed with both authorities, through the network, and end where that fails.

use sestina_proto as proto;

use super::authorities::Renewal;
use super::{AUTHORITIES, EVERY, HURRY};
use crate::host::Host;
use crate::partition::Place;
use crate::world::{LEASE, World};

impl World {
    /// Does what is due by the clock: the network is mended, leases are renewed, and those that were not
    /// renewed end.
    pub(crate) fn keep_leases(&mut self) {
        let Some(leases) = &self.leases else { return };
        let mut due = Vec::new();
        for (process, lease) in &leases.of {
            let which = (0..AUTHORITIES.len()).filter(|w| lease.renews_at[*w] <= self.now);
            due.extend(which.map(|which| (*process, which)));
        }
        self.mend_cuts();
        for (process, which) in &due {
            if !self.renew(*process, *which)
                && let Some(host) = self.host_index(*process)
            {
                self.lose_lease(host);
            }
        }
        if !due.is_empty() {
            self.late_renewals();
            let told = self.told().unwrap_or_default().into_iter();
            let told = told.map(|node| (node.incarnation, node.installed.unwrap_or_default()));
            let tables = told.collect();
            if let Some(leases) = &mut self.leases {
                leases.tables = tables;
            }
        }
        self.end_edges();
    }

    /// A process asks an authority to renew its lease; false if it learns that the lease has ended.
    fn renew(&mut self, process: u64, which: usize) -> bool {
        let now = self.now;
        let (store, serves) = (AUTHORITIES[which], self.serves(process));
        let via = self.renews_through(process, store);
        let arrives = via.is_some_and(|via| !self.is_unavailable(via, store));
        let heard = via.is_some_and(|via| self.passes(store, Place::Process(via)));
        let told = self.says(process);
        let Some(leases) = &mut self.leases else {
            return true;
        };
        let answer = arrives.then(|| leases.take_renewal(process, which, now, told));
        let Some(lease) = leases.of.get_mut(&process) else {
            return true;
        };
        lease.renews_at[which] = now + if serves { EVERY } else { HURRY };
        lease.late[which] |= via.is_some() && !arrives;
        if answer == Some(Renewal::Renewed) && heard {
            lease.own[which] = now + LEASE;
        }
        !(heard && answer == Some(Renewal::Lost))
    }

    /// Some of the renewals that waited in the network arrive when it is mended, whether or not their
    /// processes still live. The answers are lost.
    fn late_renewals(&mut self) {
        for (which, store) in AUTHORITIES.into_iter().enumerate() {
            let late = self.leases.iter().flat_map(|leases| &leases.of);
            let late: Vec<u64> = late
                .filter(|(_, l)| l.late[which])
                .map(|(p, _)| *p)
                .collect();
            for process in late {
                if self.is_unavailable(process, store) {
                    continue;
                }
                let comes = self.rng.one_in(2);
                let now = self.now;
                if let Some(leases) = &mut self.leases {
                    let lease = leases.of.get_mut(&process);
                    let told = lease.map(|lease| {
                        lease.late[which] = false;
                        lease.told.clone()
                    });
                    if comes {
                        leases.take_renewal(process, which, now, told.unwrap_or_default());
                    }
                }
            }
        }
    }

    /// The router through which a process renews its lease: its own, or the first that answers an edge.
    fn renews_through(&self, process: u64, store: Place) -> Option<u64> {
        if let Some(host) = self.host_index(process) {
            let acts = self.hosts[host].is_running();
            return acts.then_some(process);
        }
        let edge = self.edge_index(process)?;
        let alive = self.edges[edge].alive;
        let mut routers = self.hosts.iter().filter(|host| alive && host.acts());
        let reached = |host: &&Host| {
            let router = host.incarnation();
            self.answers(process, Place::Process(router)) && !self.gives_nothing(router, store)
        };
        routers.find(reached).map(Host::incarnation)
    }

    /// What a process tells of itself when it renews its lease.
    fn says(&self, process: u64) -> proto::Node {
        let host = self.host_index(process).map(|host| &self.hosts[host]);
        let edge = self.edge_index(process).map(|edge| &self.edges[edge]);
        let (node, position) = match (host, edge) {
            (Some(host), _) => (host.node.clone(), host.watched),
            (None, Some(edge)) => (edge.node.clone(), edge.position()),
            (None, None) => return proto::Node::default(),
        };
        proto::Node {
            reaches: self.reached(process),
            installed: Some(position),
            ..node
        }
    }

    /// Whether a store cannot be told which table a process has.
    pub(crate) fn is_away_through_others(&self, node: &proto::Node, store: Place) -> bool {
        match &self.leases {
            None => self.storage.away,
            Some(_) => self
                .renews_through(node.incarnation, store)
                .is_none_or(|via| self.is_unavailable(via, store)),
        }
    }
}
