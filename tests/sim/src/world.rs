//! The world: everything that exists, and one small step of it at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use parking_lot::Mutex;
use sestina_cluster::slots::{SLOTS, name_in_slot};
use sestina_edge::attachment::hands::Hands as _;
use sestina_proto as proto;
use sestina_proto::to_edge::Body as Down;

use super::check::{GivenUp, Misjudged};
use super::client::{Client, Socks, What};
use super::edge::Edge;
use super::host::{Asker, Host, JobState, Life};
use super::lease::Leases;
use super::net::{Ends, Net, SharedNet};
use super::partition::Cut;
use super::rng::Rng;
use super::state_store::Shadow;
use super::steps::process_frame;
use super::stores::Storage;
use sestina_router::config::{HostConfig, RouterConfig};
use sestina_router::simulation::Job;

/// How long a lease outlives its process.
pub(super) const LEASE: u64 = 500;
/// The key of XEP-0198 ids.
pub(super) const SM_KEY: &[u8] = &[7; 32];
/// How often it is asked whether the shadow has everything, slot by slot: rarely enough that there is
/// a pause between two of five slots in which the world is seen to rest.
pub(super) const SHADOW_CHECK: u64 = 5000;
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
    /// How many holders had been lost when it was sent.
    pub(super) losses: u64,
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
    pub(super) orphans: Vec<(Job, Asker)>,
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
    /// Messages from this one on are judged.
    pub(super) judged_from: u64,
    /// What the network does not let through.
    pub(super) cuts: Vec<Cut>,
    /// Leases that are renewed with each authority by itself, where faults of the network are tried;
    /// without them a process has its lease for as long as it lives.
    pub(super) leases: Option<Leases>,
    /// The same since all was at rest before.
    pub(super) round_from: u64,
    /// What clients believe falsely of others since more than one fault, until they are told again.
    pub(super) misjudged: BTreeSet<Misjudged>,
    /// What was given up is no concern of later rounds.
    pub(super) given_up: GivenUp,
    /// Processes that have died.
    pub(super) deaths: u64,
    /// The number of the n-th stanza of a session.
    pub(super) numbers: BTreeMap<(u128, u64), u64>,
    /// Of each session, by owner: its stanzas up to here are settled.
    pub(super) settled: BTreeMap<(u64, u128), u64>,
    /// Of each attachment, by edge: its client was told that all up to here are accepted.
    pub(super) told: BTreeMap<(u64, u64), u64>,
    /// The last fault is over at that time.
    pub(super) calm_from: u64,
    /// It was looked whether all are served since then.
    pub(super) served_at: u64,
    /// Bytes that wait for a socket before it is cut.
    pub(super) output_queue: usize,
}

/// Bounds of what is held, in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Settings {
    pub(super) session_queue: usize,
    pub(super) user_queue: usize,
    pub(super) slot_queue: usize,
    pub(super) output_queue: usize,
}

/// Nobody comes near these who reads now and then.
const ROOMY: Settings = Settings {
    session_queue: 256 << 10,
    user_queue: 320 << 10,
    slot_queue: 512 << 10,
    output_queue: 128 << 10,
};

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
        World::with(seed, traced, false)
    }

    /// The same; with faults of the `network`, leases are renewed.
    pub(super) fn with(seed: u64, traced: bool, network: bool) -> World {
        World::bounded(seed, traced, network, &ROOMY)
    }

    /// The same with other bounds.
    pub(super) fn bounded(seed: u64, traced: bool, network: bool, settings: &Settings) -> World {
        sestina_router::simulation::repeat(seed);
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
            sm_key: SM_KEY.to_vec(),
            session_queue_bytes: settings.session_queue,
            user_queue_bytes: settings.user_queue,
            slot_queue_bytes: settings.slot_queue,
            session_credit_bytes: 2 << 10,
            lane_bytes: 2 << 10,
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
            timeline: 1,
            token: 0,
        };
        let users: Vec<(u16, &[&str])> = vec![
            (1, &["a", "b"]),
            (1, &["a"]),
            (2, &["a", "b"]),
            (3, &["a"]),
            (4, &["a"]),
            (4, &["a", "b"]),
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
            judged_from: 0,
            cuts: Vec::new(),
            leases: network.then(Leases::default),
            round_from: 0,
            misjudged: BTreeSet::new(),
            given_up: GivenUp::default(),
            deaths: 0,
            numbers: BTreeMap::new(),
            settled: BTreeMap::new(),
            told: BTreeMap::new(),
            calm_from: 1000,
            served_at: 0,
            output_queue: settings.output_queue,
        };
        for _ in 0..3 {
            world.start_host();
        }
        for _ in 0..2 {
            world.start_edge();
        }
        for (index, slot) in world.slots.clone().into_iter().enumerate() {
            world.storage.change(|map| {
                map.owners[usize::from(slot)] = index as u32 % 3 + 1;
                map.epochs[usize::from(slot)] = 1;
            });
        }
        world
    }

    pub(super) fn note(&mut self, text: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            trace.push(format!("{:>6} {}", self.now, text()));
        }
    }

    pub(super) fn start_host(&mut self) {
        self.start_host_as(format!("r{}", self.last_incarnation + 1));
    }

    pub(super) fn start_host_as(&mut self, name: String) {
        self.last_incarnation += 1;
        let incarnation = self.last_incarnation;
        self.note(|| format!("== router r{incarnation} starts as {name}"));
        let node = node(name, incarnation, proto::NodeRole::Router);
        self.storage.change(|map| map.routers.push(node.clone()));
        self.hosts
            .push(Host::new(node.clone(), &self.config, self.workers));
        self.first_lease(&node);
    }

    pub(super) fn start_edge(&mut self) {
        self.start_edge_as(format!("e{}", self.last_incarnation + 1));
    }

    pub(super) fn start_edge_as(&mut self, name: String) {
        self.last_incarnation += 1;
        let incarnation = self.last_incarnation;
        self.note(|| format!("== edge e{incarnation} starts as {name}"));
        let node = node(name, incarnation, proto::NodeRole::Edge);
        let edge = Edge::new(node.clone(), &self.net);
        edge.at(self.now).learn(self.storage.map.clone());
        self.edges.push(edge);
        self.first_lease(&node);
    }

    /// All processes with a fresh lease.
    pub(super) fn fresh(&self) -> BTreeMap<u64, proto::Node> {
        let alive = |node: &proto::Node, renews: bool| {
            let incarnation = node.incarnation;
            if let Some(leases) = &self.leases {
                return leases.is_fresh(incarnation, self.now);
            }
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
        self.deaths += 1;
        host.life = Life::Dead;
        host.workers.clear();
        host.inbox.clear();
        for job in std::mem::take(&mut host.jobs) {
            if let JobState::Asked { job, at, .. } = job
                && self.rng.one_in(2)
            {
                let asker = Asker {
                    node: host.node.clone(),
                    known: host.table.position(),
                    at,
                };
                self.orphans.push((job, asker));
            }
        }
        self.until.entry(incarnation).or_insert(self.now + LEASE);
        self.net.lock().kill(incarnation, &mut self.rng);
        self.note(|| format!("!! router r{incarnation} dies"));
    }

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
            if self.is_ended(incarnation) {
                // With leases, a turn looks at them before it begins.
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

    pub(super) fn break_conn(&mut self, id: u64) {
        self.net.lock().break_it(id, &mut self.rng);
        self.note(|| format!("!! connection {id} breaks"));
    }

    // ---- steps

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
        let Some(planner) = self.planner() else {
            return;
        };
        if self.leases.is_some() {
            return self.plan_round(planner);
        }
        let known = self.hosts[planner].table.clone();
        let old = self.storage.map.clone();
        let mut map = old.clone();
        map.routers.retain(|r| fresh.contains_key(&r.incarnation));
        for slot in self.slots.clone() {
            let above = self.shadow.epoch(slot).max(known.epoch(slot));
            let slot = usize::from(slot);
            let owner = (old.owners[slot] as usize)
                .checked_sub(1)
                .map(|i| old.routers[i].incarnation);
            let stays = owner.filter(|o| fresh.contains_key(o));
            let next = stays.or_else(|| {
                map.epochs[slot] = map.epochs[slot].max(above) + 1;
                self.rng.pick(&running).copied()
            });
            let index = map.routers.iter().position(|r| Some(r.incarnation) == next);
            map.owners[slot] = index.map_or(0, |i| i as u32 + 1);
        }
        self.storage.change(|now| *now = map);
        for router in old.routers {
            if !fresh.contains_key(&router.incarnation) {
                self.ended.insert(router.incarnation);
            }
        }
        self.note(|| "== slots move to others".to_owned());
    }
}
