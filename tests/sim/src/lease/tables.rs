//! What processes tell with their leases: which slot table they have installed, and which routers they
//! reach.

use std::collections::BTreeSet;
use std::sync::Arc;

use sestina_cluster::reach::Reach;
use sestina_proto as proto;
use sestina_router::simulation::{Input, Worker};

use crate::world::World;

/// How often a router asks which tables others have while one of its slots waits, in simulated
/// milliseconds.
const ASKED: u64 = 300;

impl World {
    /// What the processes that count as alive have told of themselves; `None` without leases.
    pub(crate) fn told(&self) -> Option<Vec<proto::Node>> {
        let leases = self.leases.as_ref()?;
        let live = leases.of.iter();
        let live = live.filter(|(process, _)| leases.is_fresh(**process, self.now));
        Some(live.map(|(_, lease)| lease.told.clone()).collect())
    }

    /// Whether a slot in use may move to a router: every process that is alive has to reach that.
    pub(crate) fn may_move_to(&self, host: usize) -> bool {
        let Some(told) = self.told() else { return true };
        let open = Reach::of(&told).open(&self.hosts[host].table, &[&self.hosts[host].node]);
        !open.is_empty()
    }

    /// Whether a router has to be told which tables other processes have: those have changed, or one of
    /// its slots has waited for a while to be served.
    pub(crate) fn has_news_of_tables(&self, host: usize) -> bool {
        let Some(leases) = &self.leases else {
            return false;
        };
        let host = &self.hosts[host];
        let waits = || {
            let mut workers = host.workers.iter();
            workers.any(Worker::holds_unserved)
        };
        match leases.installed.get(&host.incarnation()) {
            None => true,
            Some((at, known)) => *known != leases.tables || (self.now > at + ASKED && waits()),
        }
    }

    /// Tells the workers of a router which tables other processes have.
    pub(crate) fn tell_installed(&mut self, host: usize) {
        let me = self.hosts[host].incarnation();
        let Some(leases) = &mut self.leases else {
            return;
        };
        let tables = leases.tables.clone();
        leases.installed.insert(me, (self.now, tables.clone()));
        let installed: Arc<[(u64, proto::Position)]> = tables.into();
        self.hosts[host].push_all(|| Input::Installed {
            installed: installed.clone(),
        });
    }

    /// The routers that a process has lanes to.
    pub(super) fn reached(&self, process: u64) -> Vec<u64> {
        let net = self.net.lock();
        let mut reached = BTreeSet::new();
        if let Some(edge) = self.edge_index(process) {
            reached.extend(self.edges[edge].reached());
        }
        if let Some(host) = self.host_index(process) {
            let keepers = self.hosts[host].keepers.iter();
            let open = |conn: &u64| net.conns.get(conn).is_some_and(|conn| !conn.broken);
            let open = keepers.filter(|(_, k)| k.conn.as_ref().is_some_and(open));
            reached.extend(open.map(|(router, _)| *router));
        }
        reached.into_iter().collect()
    }
}
