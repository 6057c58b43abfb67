//! What may happen next in the simulated cluster.

use std::collections::BTreeMap;

use sestina_cluster::slot_map::{SlotTable, newer};
use sestina_cluster::timeline::awaited;
use sestina_proto as proto;

use super::client::Mode;
use super::edge::LaneKey;
use super::host::{Host, Life};
use super::net::Ends;
use super::partition::Place;
use super::world::World;

/// One thing that may happen next. Numbers are those of connections and sockets, and places in the lists
/// of the world.
#[derive(Clone, Copy, Debug)]
pub(super) enum Act {
    /// A frame arrives at a router, on a lane of an edge.
    Up(u64),
    /// A batch arrives at an edge.
    Down(u64),
    /// A frame arrives at a router, on a lane of another router.
    Peer(u64),
    /// The process that opened a connection learns that it is over.
    TellOpener(u64),
    /// The process that accepted a connection learns that it is over.
    TellAcceptor(u64),
    /// One end of a connection (0: the opener) gives it up, because nothing has come for too long.
    GiveUp(u64, usize),
    /// A worker of a router has a turn.
    Turn(usize, usize),
    /// A job of a router goes on.
    Job(usize, usize),
    /// A request of a dead process arrives.
    Orphan(usize),
    /// A write arrives at the state store that its owner has given up.
    LateWrite(usize),
    /// The workers of a router get its slot table.
    Watch(usize),
    /// A router reads the slot table from storage.
    ReadTable(usize),
    /// A router reads the leases.
    Refresh(usize),
    /// A router plans who gets the slots of dead routers.
    Plan,
    /// A claim of a planner arrives at storage.
    Claim(usize),
    /// A router opens a lane to another.
    PeerOpen(usize, u64),
    /// An edge opens a lane to a router.
    LaneOpen(usize, LaneKey),
    /// An edge reads the slot table from a router.
    EdgeLearn(usize, usize),
    /// An edge reads from a socket.
    SockUp(u64),
    /// A client reads from a socket.
    SockDown(u64),
    /// An edge learns that a socket is closed.
    SockTold(u64),
    /// A client learns that its socket is closed.
    SockGone(u64),
    /// A client connects.
    Connect(usize),
    /// A router that was replaced while it was suspended learns that.
    Late(usize),
    /// A router learns which tables other processes have installed.
    Installed(usize),
    /// A process tells storage the position of its table, which storage does not know any more.
    Report(proto::Position),
}

impl World {
    /// Everything that may happen next.
    pub(super) fn acts(&self) -> Vec<Act> {
        let mut acts = Vec::new();
        self.acts_of_net(&mut acts);
        let fresh = self.fresh();
        let stores = !self.storage.away && !self.state_store.away;
        for (index, host) in self.hosts.iter().enumerate() {
            self.acts_of_host(index, host, &fresh, stores, &mut acts);
        }
        acts.extend(self.orphans_on_their_way().map(Act::Orphan));
        acts.extend(self.state_store.late(self.now).map(Act::LateWrite));
        let plans = self.planner().is_some_and(|host| {
            let known = self.hosts[host].table.position();
            !self.storage.has_lost(known) && self.has_to_claim(host)
        });
        if stores && plans && self.owner_without_lease(&fresh) && !self.awaits() {
            acts.push(Act::Plan);
        }
        acts.extend(self.claims_on_their_way().into_iter().map(Act::Claim));
        acts.extend(self.lost_positions().into_iter().map(Act::Report));
        for (index, edge) in self.edges.iter().enumerate().filter(|(_, e)| e.alive) {
            for lane in edge.lanes_due(self.now) {
                let to = self.host_index(lane.0).map(|h| &self.hosts[h]);
                let reached = self.answers(edge.incarnation(), Place::Process(lane.0));
                if to.is_some_and(Host::is_running) && reached {
                    acts.push(Act::LaneOpen(index, lane));
                }
            }
            let me = edge.incarnation();
            let has_newer = |h: &Host| {
                let reached = self.answers(me, Place::Process(h.incarnation()));
                h.is_running() && reached && newer(h.table.position(), edge.position())
            };
            if let Some(host) = self.hosts.iter().position(has_newer) {
                acts.push(Act::EdgeLearn(index, host));
            }
        }
        for (id, sock) in &self.socks {
            let alive = self.edges[sock.edge].alive;
            let open = sock.pipe.is_open();
            let alive = alive && self.serves(self.edges[sock.edge].incarnation());
            if alive && !sock.up.is_empty() && self.reads(sock) {
                acts.push(Act::SockUp(*id));
            } else if alive && !open && !sock.edge_told {
                acts.push(Act::SockTold(*id));
            }
            let client = &self.clients[sock.client];
            let reads = client.reads || !client.is_online();
            if reads && !sock.pipe.down.borrow().is_empty() {
                acts.push(Act::SockDown(*id));
            } else if !open && !sock.client_told {
                acts.push(Act::SockGone(*id));
            }
        }
        let any_edge = self.edges.iter().any(|e| e.alive);
        for client in self.clients.iter().filter(|_| any_edge) {
            let due = match client.mode {
                Mode::Offline => client.wanted,
                Mode::Broken { until } => until <= self.now,
                Mode::Binding | Mode::Resuming | Mode::Online => false,
            };
            if due {
                acts.push(Act::Connect(client.index));
            }
        }
        acts
    }

    /// What may happen next on connections between processes.
    pub(super) fn acts_of_net(&self, acts: &mut Vec<Act>) {
        let net = self.net.lock();
        for (id, conn) in &net.conns {
            let (opener, acceptor) = conn.ends();
            let flow = self.flow(conn);
            let reads = |incarnation: u64| match self.host_index(incarnation) {
                Some(host) => self.hosts[host].acts(),
                None => self
                    .edge_index(incarnation)
                    .is_some_and(|e| self.edges[e].alive),
            };
            let lane = matches!(conn.ends, Ends::Edge { .. });
            if reads(acceptor) {
                if flow.up && !conn.up.is_empty() {
                    acts.push(Act::Up(*id));
                } else if flow.up && !conn.peer.is_empty() {
                    acts.push(Act::Peer(*id));
                } else if conn.broken && !conn.acceptor_told && flow.acceptor_hears {
                    acts.push(Act::TellAcceptor(*id));
                } else if flow.gives_up[1] {
                    acts.push(Act::GiveUp(*id, 1));
                }
            }
            if reads(opener) {
                let told = conn.opener_told || !(lane || conn.peer.is_empty() || !flow.up);
                if flow.down && !conn.down.is_empty() {
                    acts.push(Act::Down(*id));
                } else if conn.broken && !told && flow.opener_hears {
                    acts.push(Act::TellOpener(*id));
                } else if flow.gives_up[0] {
                    acts.push(Act::GiveUp(*id, 0));
                }
            }
        }
    }

    /// What a router may do next. `fresh` are the processes whose leases are fresh; `stores` tells whether
    /// both stores are there.
    pub(super) fn acts_of_host(
        &self,
        index: usize,
        host: &Host,
        fresh: &BTreeMap<u64, proto::Node>,
        stores: bool,
        acts: &mut Vec<Act>,
    ) {
        if !host.acts() {
            return;
        }
        let me = host.incarnation();
        if self.works(host) {
            let inboxes = host.inbox.iter().enumerate();
            let filled = inboxes.filter(|(_, inbox)| !inbox.is_empty());
            acts.extend(filled.map(|(worker, _)| Act::Turn(index, worker)));
        }
        for (at, job) in host.jobs.iter().enumerate() {
            if !self.job_waits(me, job) {
                acts.push(Act::Job(index, at));
            }
        }
        if let Life::Late { turns: 0 } = host.life {
            acts.push(Act::Late(index));
        }
        let refused =
            self.gives_nothing(me, Place::Storage) || self.is_ended(me) || !self.serves(me);
        let waits = host.has_to_assert() && refused;
        if host.watched != host.table.position() && !waits {
            acts.push(Act::Watch(index));
        }
        if !host.is_running() {
            return;
        }
        let known = host.table.position();
        let told = newer(self.storage.map.position(), known) && !self.storage.has_lost(known);
        let hears = |store| !self.gives_nothing(me, store);
        if hears(Place::Storage) && told {
            acts.push(Act::ReadTable(index));
        }
        let hears = hears(Place::Storage) && hears(Place::StateStore);
        if stores && hears && !host.live.keys().eq(fresh.keys()) {
            acts.push(Act::Refresh(index));
        }
        if hears && self.has_news_of_tables(index) {
            acts.push(Act::Installed(index));
        }
        for (incarnation, node) in &host.live {
            let due = host
                .keepers
                .get(incarnation)
                .is_none_or(|k| k.conn.is_none() && k.retry_at <= self.now);
            let other =
                *incarnation != host.incarnation() && node.role() == proto::NodeRole::Router;
            let up = self
                .host_index(*incarnation)
                .is_some_and(|h| self.hosts[h].is_running());
            let up = up && self.answers(me, Place::Process(*incarnation));
            if other && due && up {
                acts.push(Act::PeerOpen(index, *incarnation));
            }
        }
    }

    /// Whether a slot has no owner, or a router in the table has no lease any more.
    pub(super) fn owner_without_lease(&self, fresh: &BTreeMap<u64, proto::Node>) -> bool {
        let map = &self.storage.map;
        let dead = |router: &proto::Node| !fresh.contains_key(&router.incarnation);
        let ownerless = |slot: &u16| map.owners[usize::from(*slot)] == 0;
        (map.routers.iter().any(dead) || self.slots.iter().any(ownerless))
            && self.running_hosts().next().is_some()
    }

    /// The router that plans: one that serves, and that both stores answer.
    pub(super) fn planner(&self) -> Option<usize> {
        let plans = |host: &Host| {
            let me = host.incarnation();
            let stores = [Place::Storage, Place::StateStore];
            host.is_running() && self.serves(me) && stores.iter().all(|s| self.answers(me, *s))
        };
        let hosts = 0..self.hosts.len();
        let able: Vec<usize> = hosts.filter(|host| plans(&self.hosts[*host])).collect();
        self.planner_of(&able)
    }

    /// The positions of the tables of all processes with a lease; of a router the table that its workers
    /// have.
    fn positions(&self) -> Vec<(&proto::Node, proto::Position)> {
        let hosts = self.hosts.iter().map(|host| (&host.node, host.watched));
        let edges = self.edges.iter().filter(|edge| edge.alive);
        let edges = edges.map(|edge| (&edge.node, edge.position()));
        let fresh = self.fresh();
        hosts
            .chain(edges)
            .filter(|(node, _)| fresh.contains_key(&node.incarnation))
            .collect()
    }

    /// The positions of tables that processes have and storage does not know any more.
    fn lost_positions(&self) -> Vec<proto::Position> {
        let mut lost = Vec::new();
        for (node, position) in self.positions() {
            let acts = self
                .host_index(node.incarnation)
                .is_none_or(|host| self.hosts[host].is_running());
            let away = self.is_away_through_others(node, Place::Storage);
            if acts && !away && self.storage.has_lost(position) {
                lost.push(position);
            }
        }
        lost
    }

    /// Whether the newest timeline of the table still waits for a process to take part in it.
    fn awaits(&self) -> bool {
        let Ok(table) = SlotTable::new(self.storage.map.clone()) else {
            return false;
        };
        let live: Vec<proto::Node> = self
            .positions()
            .into_iter()
            .map(|(node, position)| proto::Node {
                installed: Some(position),
                ..node.clone()
            })
            .collect();
        awaited(&table, &live).next().is_some()
    }
}
