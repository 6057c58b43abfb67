//! The world: everything that exists, and one small step of it at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use parking_lot::Mutex;
use sestina_cluster::slots::{SLOTS, name_in_slot};
use sestina_proto as proto;
use sestina_proto::to_edge::Body as Down;

use super::client::{Client, Mode, Socks, What};
use super::edge::{Edge, Hands};
use super::host::{self, Host, JobState, Keeper, Life};
use super::net::{Ends, Net, SharedNet};
use super::rng::Rng;
use super::stores::{Shadow, Storage};
use super::trace;
use crate::config::{HostConfig, RouterConfig};
use crate::worker::core::{Job, LaneRef, PeerRef};
use crate::worker::input::Input;

/// How long a lease outlives its process.
pub(super) const LEASE: u64 = 500;
/// How often it is asked whether the shadow has everything.
pub(super) const SHADOW_CHECK: u64 = 2500;
/// The host of all users.
pub(super) const DOMAIN: &str = "h.example";
/// Its rooms.
pub(super) const MUC: &str = "c.example";

/// Something that was sent.
#[derive(Clone, Debug)]
pub(super) struct Sent {
    pub(super) from: usize,
    pub(super) session: u32,
    pub(super) what: What,
    /// Full or bare JID.
    pub(super) to: String,
    /// Sessions that must get it, if they still exist.
    pub(super) cover: Vec<(usize, u32)>,
    /// Sessions that must get a carbon of it.
    pub(super) carbons: Vec<(usize, u32)>,
    /// Its count in the session of its sender.
    pub(super) count: u64,
    pub(super) accepted: bool,
}

/// One thing that may happen next.
#[derive(Clone, Copy, Debug)]
pub(super) enum Act {
    Up(u64),
    Down(u64),
    Peer(u64),
    TellOpener(u64),
    TellAcceptor(u64),
    Turn(usize, usize),
    Job(usize, usize),
    Orphan(usize),
    Watch(usize),
    ReadTable(usize),
    Refresh(usize),
    Plan,
    PeerOpen(usize, u64),
    LaneOpen(usize, (u64, u32)),
    EdgeLearn(usize, usize),
    SockUp(u64),
    SockDown(u64),
    SockTold(u64),
    SockGone(u64),
    Connect(usize),
    Late(usize),
}

/// See the module.
pub(super) struct World {
    pub(super) rng: Rng,
    pub(super) now: u64,
    pub(super) net: SharedNet,
    pub(super) hosts: Vec<Host>,
    pub(super) edges: Vec<Edge>,
    pub(super) socks: Socks,
    pub(super) clients: Vec<Client>,
    pub(super) storage: Storage,
    pub(super) shadow: Shadow,
    /// Leases of processes that do not renew: until when they are fresh.
    pub(super) until: BTreeMap<u64, u64>,
    /// Marked as ended: never renewed.
    pub(super) ended: BTreeSet<u64>,
    pub(super) config: Arc<RouterConfig>,
    pub(super) workers: u32,
    pub(super) sent: BTreeMap<u64, Sent>,
    pub(super) trouble: Vec<String>,
    pub(super) trace: Option<Vec<String>>,
    /// Requests of dead processes that are still on their way.
    pub(super) orphans: Vec<(Job, u64)>,
    pub(super) talking: bool,
    pub(super) rooms: Vec<String>,
    pub(super) slots: Vec<u16>,
    pub(super) last_number: u64,
    pub(super) last_sock: u64,
    pub(super) last_incarnation: u64,
    pub(super) last_instance: u64,
    pub(super) last_act: u64,
    pub(super) edge_tick: u64,
    pub(super) steps: u64,
    /// Sessions whose resumption an edge had asked for when it died.
    pub(super) late_resumes: BTreeSet<u128>,
    /// What the shadow has lost is there again by then.
    pub(super) whole_at: u64,
}

pub(super) fn node(name: String, incarnation: u64, role: proto::NodeRole) -> proto::Node {
    proto::Node {
        name,
        incarnation,
        role: role.into(),
        ..Default::default()
    }
}

impl World {
    pub(super) fn new(seed: u64, traced: bool) -> World {
        crate::chance::repeat(seed);
        let mut rng = Rng::new(seed);
        let config = RouterConfig {
            hosts: vec![HostConfig {
                domain: DOMAIN.to_owned(),
                anonymous: false,
                accounts: true,
                muc: MUC.to_owned(),
            }],
            archive: !rng.one_in(3),
            sm_resume_max_s: 4,
            sm_key: vec![7; 32],
            session_credit_bytes: 2 << 10,
            sweep_ms: 300,
            shadow_check_ms: SHADOW_CHECK,
            stream_idle_ms: 400 + rng.below(2000),
            handover_limit_ms: 1500,
            ..RouterConfig::default()
        };
        let map = proto::SlotMap {
            version: 1,
            routers: Vec::new(),
            owners: vec![0; SLOTS],
            epochs: vec![0; SLOTS],
        };
        let users: Vec<(u16, &[&str])> = vec![
            (1, &["a", "b"]),
            (1, &["a"]),
            (2, &["a", "b"]),
            (3, &["a"]),
            (4, &["a"]),
        ];
        let mut clients = Vec::new();
        let mut storage = Storage::new(map);
        for (user, (slot, resources)) in users.iter().enumerate() {
            let bare = format!("{}@{DOMAIN}", name_in_slot(*slot, (user as u128 + 1) << 12));
            storage.accounts.insert(bare.clone());
            for resource in *resources {
                clients.push(Client::new(clients.len(), bare.clone(), resource, *slot));
            }
        }
        let rooms = vec![
            format!("{}@{MUC}", name_in_slot(3, 0xa1 << 12)),
            format!("{}@{MUC}", name_in_slot(5, 0xa2 << 12)),
        ];
        let workers = 1 + rng.below(2) as u32;
        let mut world = World {
            rng,
            now: 1000,
            net: Arc::new(Mutex::new(Net::default())),
            hosts: Vec::new(),
            edges: Vec::new(),
            socks: Socks::new(),
            clients,
            storage,
            shadow: Shadow::default(),
            until: BTreeMap::new(),
            ended: BTreeSet::new(),
            config: Arc::new(config),
            workers,
            sent: BTreeMap::new(),
            trouble: Vec::new(),
            trace: traced.then(Vec::new),
            orphans: Vec::new(),
            talking: false,
            rooms,
            slots: vec![1, 2, 3, 4, 5],
            last_number: 0,
            last_sock: 0,
            last_incarnation: 0,
            last_instance: 0,
            last_act: 1000,
            edge_tick: 0,
            steps: 0,
            late_resumes: BTreeSet::new(),
            whole_at: 0,
        };
        for _ in 0..3 {
            world.start_host();
        }
        for _ in 0..2 {
            world.start_edge();
        }
        for (index, slot) in world.slots.clone().into_iter().enumerate() {
            world.storage.map.owners[usize::from(slot)] = index as u32 % 3 + 1;
            world.storage.map.epochs[usize::from(slot)] = 1;
        }
        world
    }

    pub(super) fn note(&mut self, text: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            trace.push(format!("{:>6} {}", self.now, text()));
        }
    }

    pub(super) fn start_host(&mut self) {
        self.last_incarnation += 1;
        let incarnation = self.last_incarnation;
        let node = node(
            format!("r{incarnation}"),
            incarnation,
            proto::NodeRole::Router,
        );
        self.note(|| format!("== router r{incarnation} starts"));
        self.storage.map.routers.push(node.clone());
        self.storage.map.version += 1;
        self.hosts.push(Host::new(node, &self.config, self.workers));
    }

    pub(super) fn start_edge(&mut self) {
        self.last_incarnation += 1;
        let incarnation = self.last_incarnation;
        let node = node(
            format!("e{incarnation}"),
            incarnation,
            proto::NodeRole::Edge,
        );
        self.note(|| format!("== edge e{incarnation} starts"));
        let mut edge = Edge::new(node);
        let map = self.storage.map.clone();
        edge.learn(
            &mut hands(&self.net, &mut self.socks, self.now, &mut self.trouble),
            &map,
        );
        self.edges.push(edge);
    }

    /// All processes with a fresh lease.
    pub(super) fn fresh(&self) -> BTreeMap<u64, proto::Node> {
        let alive = |node: &proto::Node, renews: bool| {
            let incarnation = node.incarnation;
            !self.ended.contains(&incarnation)
                && (renews
                    || self
                        .until
                        .get(&incarnation)
                        .is_some_and(|until| *until > self.now))
        };
        let hosts = self.hosts.iter().map(|h| (&h.node, h.is_running()));
        let edges = self.edges.iter().map(|e| (&e.node, e.alive));
        hosts
            .chain(edges)
            .filter(|(node, renews)| alive(node, *renews))
            .map(|(node, _)| (node.incarnation, node.clone()))
            .collect()
    }

    pub(super) fn host_index(&self, incarnation: u64) -> Option<usize> {
        self.hosts
            .iter()
            .position(|h| h.incarnation() == incarnation)
    }

    pub(super) fn edge_index(&self, incarnation: u64) -> Option<usize> {
        self.edges
            .iter()
            .position(|e| e.incarnation() == incarnation)
    }

    // ---- faults

    pub(super) fn kill_host(&mut self, index: usize) {
        let host = &mut self.hosts[index];
        if host.life == Life::Dead {
            return;
        }
        let incarnation = host.incarnation();
        host.life = Life::Dead;
        host.workers.clear();
        host.inbox.clear();
        for job in std::mem::take(&mut host.jobs) {
            if let JobState::Asked { job, at, .. } = job
                && self.rng.one_in(2)
            {
                self.orphans.push((job, at));
            }
        }
        self.until.entry(incarnation).or_insert(self.now + LEASE);
        self.net.lock().kill(incarnation, &mut self.rng);
        self.note(|| format!("!! router r{incarnation} dies"));
    }

    pub(super) fn kill_edge(&mut self, index: usize) {
        let edge = &mut self.edges[index];
        let incarnation = edge.incarnation();
        edge.alive = false;
        self.until.insert(incarnation, self.now + LEASE);
        self.net.lock().kill(incarnation, &mut self.rng);
        for sock in self.socks.values_mut().filter(|s| s.edge == index) {
            sock.open = false;
            sock.edge_told = true;
            sock.up.clear();
            let arrives = self.rng.below(sock.down.len() as u64 + 1) as usize;
            sock.down.truncate(arrives);
        }
        self.note(|| format!("!! edge e{incarnation} dies"));
    }

    pub(super) fn suspend_host(&mut self, index: usize, until: u64) {
        let incarnation = self.hosts[index].incarnation();
        self.hosts[index].life = Life::Suspended { until };
        self.until.insert(incarnation, self.now + LEASE);
        self.note(|| format!("!! router r{incarnation} is suspended until {until}"));
    }

    pub(super) fn wake(&mut self) {
        for index in 0..self.hosts.len() {
            let Life::Suspended { until } = self.hosts[index].life else {
                continue;
            };
            if until > self.now {
                continue;
            }
            let incarnation = self.hosts[index].incarnation();
            if self.ended.contains(&incarnation) {
                let turns = 1 + self.rng.below(40) as u32;
                self.hosts[index].life = Life::Late { turns };
                self.note(|| format!("!! router r{incarnation} wakes up too late"));
            } else {
                self.hosts[index].life = Life::Running;
                self.until.remove(&incarnation);
                self.note(|| format!("!! router r{incarnation} wakes up"));
            }
        }
    }

    pub(super) fn break_conn(&mut self, id: u64) {
        self.net.lock().break_it(id, &mut self.rng);
        self.note(|| format!("!! connection {id} breaks"));
    }

    // ---- steps

    /// Runs steps until `limit` acts happened or nothing is left to do.
    pub(super) fn run(&mut self, acts: u64) {
        let mut left = acts;
        while left > 0 {
            if self.step() {
                left -= 1;
            }
            if self.talking && self.rng.one_in(4) {
                super::talk::talk(self);
            }
        }
    }

    /// Runs until nothing happens any more; says whether it came to that.
    pub(super) fn rest(&mut self, quiet: u64, limit: u64) -> bool {
        let end = self.steps + limit;
        self.last_act = self.now;
        while self.now < self.last_act + quiet {
            self.step();
            if self.steps > end {
                return false;
            }
        }
        true
    }

    /// One step; false if there was nothing to do but to wait.
    pub(super) fn step(&mut self) -> bool {
        self.steps += 1;
        self.wake();
        self.ticks();
        let acts = self.acts();
        let Some(act) = self.rng.pick(&acts).copied() else {
            self.now += 5 + self.rng.below(15);
            return false;
        };
        if self.rng.one_in(2) {
            self.now += self.rng.below(3);
        }
        if self.act(act) {
            self.last_act = self.now;
        }
        if self.steps.is_multiple_of(64) {
            self.net.lock().sweep();
        }
        true
    }

    pub(super) fn ticks(&mut self) {
        if self.now >= self.edge_tick {
            self.edge_tick = self.now + 50;
            for edge in self.edges.iter_mut().filter(|e| e.alive) {
                edge.tick(&mut hands(
                    &self.net,
                    &mut self.socks,
                    self.now,
                    &mut self.trouble,
                ));
            }
        }
        for host in self.hosts.iter_mut().filter(|h| h.acts()) {
            if host.tick_due(self.now) {
                for worker in 0..host.workers.len() {
                    host.turn(worker, 0, self.now);
                }
            }
        }
    }

    pub(super) fn acts(&self) -> Vec<Act> {
        let mut acts = Vec::new();
        self.acts_of_net(&mut acts);
        let fresh = self.fresh();
        let stores = !self.storage.away && !self.shadow.away;
        for (index, host) in self.hosts.iter().enumerate() {
            self.acts_of_host(index, host, &fresh, stores, &mut acts);
        }
        acts.extend((0..self.orphans.len()).map(Act::Orphan));
        if stores && self.owner_without_lease(&fresh) {
            acts.push(Act::Plan);
        }
        for (index, edge) in self.edges.iter().enumerate().filter(|(_, e)| e.alive) {
            for lane in edge.lanes_due(self.now) {
                let to = self.host_index(lane.0).map(|h| &self.hosts[h]);
                if to.is_some_and(Host::is_running) {
                    acts.push(Act::LaneOpen(index, lane));
                }
            }
            let newer = |h: &Host| h.is_running() && h.table.version() > edge.version;
            if let Some(host) = self.hosts.iter().position(newer) {
                acts.push(Act::EdgeLearn(index, host));
            }
        }
        for (id, sock) in &self.socks {
            let alive = self.edges[sock.edge].alive;
            if !sock.up.is_empty() && alive {
                acts.push(Act::SockUp(*id));
            } else if !sock.open && !sock.edge_told && alive {
                acts.push(Act::SockTold(*id));
            }
            if !sock.down.is_empty() {
                acts.push(Act::SockDown(*id));
            } else if !sock.open && !sock.client_told {
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

    pub(super) fn acts_of_net(&self, acts: &mut Vec<Act>) {
        let net = self.net.lock();
        for (id, conn) in &net.conns {
            let (opener, acceptor) = match conn.ends {
                Ends::Edge { edge, router, .. } => (edge, router),
                Ends::Peer { from, to } => (from, to),
            };
            let reads = |incarnation: u64| match self.host_index(incarnation) {
                Some(host) => self.hosts[host].acts(),
                None => self
                    .edge_index(incarnation)
                    .is_some_and(|e| self.edges[e].alive),
            };
            let lane = matches!(conn.ends, Ends::Edge { .. });
            if reads(acceptor) {
                if !conn.up.is_empty() {
                    acts.push(Act::Up(*id));
                } else if !conn.peer.is_empty() {
                    acts.push(Act::Peer(*id));
                } else if conn.broken && !conn.acceptor_told {
                    acts.push(Act::TellAcceptor(*id));
                }
            }
            if reads(opener) {
                if !conn.down.is_empty() {
                    acts.push(Act::Down(*id));
                } else if conn.broken && !conn.opener_told && (lane || conn.peer.is_empty()) {
                    acts.push(Act::TellOpener(*id));
                }
            }
        }
    }

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
        for (worker, inbox) in host.inbox.iter().enumerate() {
            if !inbox.is_empty() {
                acts.push(Act::Turn(index, worker));
            }
        }
        for (at, job) in host.jobs.iter().enumerate() {
            let waits = match job {
                JobState::Answered { .. } => false,
                JobState::Asked { job, at, .. } => match job {
                    Job::Archive { .. } | Job::Offline { .. } | Job::OfflineRemove { .. } => {
                        self.storage.away
                    }
                    Job::UserKnown { .. } | Job::OfflineList { .. } | Job::ArchiveQuery { .. } => {
                        self.storage.away && self.now <= at + 500
                    }
                    Job::ShadowLoad { .. } => self.shadow.away,
                    Job::Shadow { .. } | Job::Release { .. } | Job::Keys { .. } => false,
                },
            };
            if !waits {
                acts.push(Act::Job(index, at));
            }
        }
        if let Life::Late { turns: 0 } = host.life {
            acts.push(Act::Late(index));
        }
        if host.watched < host.table.version() {
            acts.push(Act::Watch(index));
        }
        if !host.is_running() {
            return;
        }
        if !self.storage.away && self.storage.map.version > host.table.version() {
            acts.push(Act::ReadTable(index));
        }
        if stores && !host.live.keys().eq(fresh.keys()) {
            acts.push(Act::Refresh(index));
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
            if other && due && up {
                acts.push(Act::PeerOpen(index, *incarnation));
            }
        }
    }

    pub(super) fn owner_without_lease(&self, fresh: &BTreeMap<u64, proto::Node>) -> bool {
        self.storage
            .map
            .routers
            .iter()
            .any(|r| !fresh.contains_key(&r.incarnation))
            && self.hosts.iter().any(Host::is_running)
    }

    /// Does it; false if it does not count as something happening.
    pub(super) fn act(&mut self, act: Act) -> bool {
        match act {
            Act::Up(conn) => self.up(conn),
            Act::Down(conn) => self.down(conn),
            Act::Peer(conn) => self.peer(conn),
            Act::TellOpener(conn) => self.tell_opener(conn),
            Act::TellAcceptor(conn) => self.tell_acceptor(conn),
            Act::Turn(host, worker) => {
                let count = 1 + self.rng.below(6) as usize;
                self.hosts[host].turn(worker, count, self.now);
            }
            Act::Job(host, job) => return self.job(host, job),
            Act::Orphan(index) => {
                let (job, at) = self.orphans.swap_remove(index);
                let (storage, shadow) = (&mut self.storage, &mut self.shadow);
                host::perform(&job, at, self.now, storage, shadow, false);
            }
            Act::Watch(host) => {
                let fresh = self.fresh();
                self.hosts[host].watch(&fresh);
                self.publish(host);
            }
            Act::ReadTable(host) => self.hosts[host].offer(&self.storage.map),
            Act::Refresh(host) => {
                let fresh = self.fresh();
                let host = &mut self.hosts[host];
                host.refresh(&fresh);
                let gone: Vec<u64> = host
                    .keepers
                    .keys()
                    .filter(|i| !fresh.contains_key(i))
                    .copied()
                    .collect();
                for incarnation in gone {
                    if let Some(conn) = host.keepers.remove(&incarnation).and_then(|k| k.conn)
                        && let Some(conn) = self.net.lock().conns.get_mut(&conn)
                    {
                        conn.broken = true;
                        conn.opener_told = true;
                    }
                }
            }
            Act::Plan => self.plan(),
            Act::PeerOpen(host, to) => self.open_peer(host, to),
            Act::LaneOpen(edge, lane) => self.open_lane(edge, lane),
            Act::EdgeLearn(edge, host) => {
                let table = self.hosts[host].table.clone();
                let hands = &mut hands(&self.net, &mut self.socks, self.now, &mut self.trouble);
                self.edges[edge].learn(hands, table.as_proto());
            }
            Act::SockUp(sock) => self.sock_up(sock),
            Act::SockDown(sock) => self.sock_down(sock),
            Act::SockTold(sock) => {
                let Some(edge) = self.socks.get_mut(&sock).map(|s| {
                    s.edge_told = true;
                    s.edge
                }) else {
                    return false;
                };
                let hands = &mut hands(&self.net, &mut self.socks, self.now, &mut self.trouble);
                self.edges[edge].sock_lost(hands, sock);
                self.forget_socks();
            }
            Act::SockGone(sock) => self.sock_gone(sock),
            Act::Connect(client) => self.connect(client),
            Act::Late(host) => self.kill_host(host),
        }
        true
    }

    pub(super) fn up(&mut self, id: u64) {
        let taken = {
            let mut net = self.net.lock();
            let Some(conn) = net.conns.get_mut(&id) else {
                return;
            };
            conn.up.pop_front().map(|frame| (conn.ends, frame))
        };
        let Some((Ends::Edge { edge, router, lane }, frame)) = taken else {
            return;
        };
        self.note(|| format!("e{edge}->r{router} {}", trace::up(&frame)));
        let alive = self.edge_index(edge).is_some_and(|e| self.edges[e].alive);
        if let Some(proto::to_router::Body::Resume(resume)) = &frame.body
            && !alive
        {
            let session = sestina_api::key::join(resume.session_hi, resume.session_lo);
            self.late_resumes.insert(session);
        }
        if let Some(host) = self.host_index(router) {
            self.hosts[host].edge_frame(LaneRef { edge, lane }, frame);
        }
    }

    pub(super) fn down(&mut self, id: u64) {
        let taken = {
            let mut net = self.net.lock();
            let Some(conn) = net.conns.get_mut(&id) else {
                return;
            };
            conn.down.pop_front().map(|batch| (conn.ends, batch))
        };
        let Some((Ends::Edge { edge, router, .. }, batch)) = taken else {
            return;
        };
        self.note(|| format!("r{router}->e{edge} {}", trace::down(&batch)));
        if let Some(index) = self.edge_index(edge) {
            let hands = &mut hands(&self.net, &mut self.socks, self.now, &mut self.trouble);
            self.edges[index].take_batch(hands, id, router, batch);
        }
    }

    pub(super) fn peer(&mut self, id: u64) {
        let taken = {
            let mut net = self.net.lock();
            let Some(conn) = net.conns.get_mut(&id) else {
                return;
            };
            conn.peer.pop_front().map(|frame| (conn.ends, frame))
        };
        let Some((Ends::Peer { from, to }, frame)) = taken else {
            return;
        };
        self.note(|| format!("r{from}->r{to} {}", trace::peer(&frame)));
        if let Some(host) = self.host_index(to) {
            self.hosts[host].dispatch(PeerRef(from), frame);
        }
    }

    pub(super) fn tell_opener(&mut self, id: u64) {
        let Some(ends) = self.net.lock().conns.get_mut(&id).map(|c| {
            c.opener_told = true;
            c.ends
        }) else {
            return;
        };
        match ends {
            Ends::Edge { edge, .. } => {
                if let Some(index) = self.edge_index(edge) {
                    self.edges[index].lane_ended(id, self.now);
                }
            }
            Ends::Peer { from, to } => {
                let Some(host) = self.host_index(from) else {
                    return;
                };
                let host = &mut self.hosts[host];
                if let Some(keeper) = host.keepers.get_mut(&to).filter(|k| k.conn == Some(id)) {
                    *keeper = Keeper {
                        conn: None,
                        retry_at: self.now + 20,
                    };
                    host.push_all(|| Input::PeerLaneClosed { peer: PeerRef(to) });
                }
            }
        }
    }

    pub(super) fn tell_acceptor(&mut self, id: u64) {
        let Some(ends) = self.net.lock().conns.get_mut(&id).map(|c| {
            c.acceptor_told = true;
            c.ends
        }) else {
            return;
        };
        if let Ends::Edge { edge, router, lane } = ends
            && let Some(host) = self.host_index(router)
        {
            let lane = LaneRef { edge, lane };
            self.hosts[host].push_all(|| Input::EdgeLaneClosed { lane, instance: id });
        }
    }

    pub(super) fn job(&mut self, host: usize, index: usize) -> bool {
        let unsure = self.rng.one_in(4);
        let state = self.hosts[host].jobs.remove(index);
        match state {
            JobState::Answered { worker, done } => {
                self.hosts[host].push(worker, Input::Done(done));
                true
            }
            JobState::Asked { worker, job, at } => {
                let (storage, shadow) = (&mut self.storage, &mut self.shadow);
                let done = host::perform(&job, at, self.now, storage, shadow, unsure);
                self.note(|| format!("stores: r-{host} {} -> {done:?}", trace::job(&job)));
                let Some(done) = done else {
                    self.hosts[host]
                        .jobs
                        .insert(index, JobState::Asked { worker, job, at });
                    return false;
                };
                if let Job::Release { .. } = job {
                    self.hosts[host].offer(&self.storage.map);
                }
                self.hosts[host]
                    .jobs
                    .push(JobState::Answered { worker, done });
                true
            }
        }
    }

    pub(super) fn publish(&mut self, host: usize) {
        let me = self.hosts[host].incarnation();
        let map = self.hosts[host].table.as_proto().clone();
        let workers = self.workers;
        let mut told = BTreeSet::new();
        for conn in self.net.lock().conns.values_mut().filter(|c| !c.broken) {
            match conn.ends {
                Ends::Edge { edge, router, .. } if router == me && told.insert(edge) => {
                    let frames = vec![process_frame(Down::SlotMap(map.clone()))];
                    conn.down.push_back(proto::ToEdgeBatch {
                        worker: workers,
                        seq: 0,
                        frames,
                    });
                }
                Ends::Peer { from, .. } if from == me => {
                    let body = Some(proto::peer_frame::Body::SlotMap(map.clone()));
                    conn.peer.push_back(proto::PeerFrame {
                        slot: 0,
                        epoch: 0,
                        body,
                    });
                }
                _ => {}
            }
        }
    }

    /// Routers whose leases have ended are replaced, in one change of the table.
    pub(super) fn plan(&mut self) {
        let fresh = self.fresh();
        let running: Vec<u64> = self
            .hosts
            .iter()
            .filter(|h| h.is_running())
            .map(Host::incarnation)
            .collect();
        let old = self.storage.map.clone();
        let map = &mut self.storage.map;
        map.routers.retain(|r| fresh.contains_key(&r.incarnation));
        for slot in &self.slots {
            let slot = usize::from(*slot);
            let owner = (old.owners[slot] as usize)
                .checked_sub(1)
                .map(|i| old.routers[i].incarnation);
            let stays = owner.filter(|o| fresh.contains_key(o));
            let next = stays.or_else(|| {
                map.epochs[slot] += 1;
                self.rng.pick(&running).copied()
            });
            let index = map.routers.iter().position(|r| Some(r.incarnation) == next);
            map.owners[slot] = index.map_or(0, |i| i as u32 + 1);
        }
        map.version += 1;
        for router in old.routers {
            if !fresh.contains_key(&router.incarnation) {
                self.ended.insert(router.incarnation);
            }
        }
        self.note(|| "== slots move to others".to_owned());
    }
}

pub(super) fn hands<'a>(
    net: &'a SharedNet,
    socks: &'a mut Socks,
    now: u64,
    trouble: &'a mut Vec<String>,
) -> Hands<'a> {
    Hands {
        net,
        socks,
        now,
        trouble,
    }
}

pub(super) fn process_frame(body: Down) -> proto::ToEdge {
    proto::ToEdge {
        slot: 0,
        epoch: 0,
        body: Some(body),
    }
}
