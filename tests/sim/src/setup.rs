//! The simulated cluster as a run begins: its users, rooms and processes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use parking_lot::Mutex;
use sestina_cluster::slots::{SLOTS, name_in_slot};
use sestina_proto as proto;
use sestina_router::config::{ModulesAt, RouterConfig, RouterLimits, RouterTimes};
use sestina_router::services::Services;

use super::check::GivenUp;
use super::client::{Client, Socks};
use super::lease::Leases;
use super::net::Net;
use super::rng::Rng;
use super::state_store::StateStore;
use super::stores::Storage;
use super::world::{DOMAIN, MUC, RESUMABLE, SM_KEY, STATE_STORE_CHECK, World};

/// Bounds of queues, in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Settings {
    pub(super) session_queue: usize,
    pub(super) user_queue: usize,
    pub(super) slot_queue: usize,
    pub(super) output_queue: usize,
}

/// A client that reads now and then stays far below these bounds.
const ROOMY: Settings = Settings {
    session_queue: 256 << 10,
    user_queue: 320 << 10,
    slot_queue: 512 << 10,
    output_queue: 128 << 10,
};

/// The users: the slot and the resources of each.
const USERS: [(u16, &[&str]); 6] = [
    (1, &["a", "b"]),
    (1, &["a"]),
    (2, &["a", "b"]),
    (3, &["a"]),
    (4, &["a"]),
    (4, &["a", "b"]),
];

/// All modules; archives in some runs only.
fn modules(archives: bool) -> BTreeMap<String, ModulesAt> {
    let all = ModulesAt::default();
    let modules = if archives { all } else { all.without("mam") };
    BTreeMap::from([(DOMAIN.to_owned(), modules)])
}

fn config(rng: &mut Rng, settings: &Settings) -> RouterConfig {
    RouterConfig {
        services: Services::default()
            .with_host(DOMAIN, true)
            .with_rooms(MUC, [DOMAIN]),
        modules: modules(!rng.one_in(3)),
        sm_resume_max_s: (RESUMABLE / 1000) as u32,
        sm_key: SM_KEY.to_vec(),
        limits: RouterLimits {
            session_queue_bytes: settings.session_queue,
            user_queue_bytes: settings.user_queue,
            slot_queue_bytes: settings.slot_queue,
            session_credit_bytes: 2 << 10,
            lane_bytes: 2 << 10,
            ..RouterLimits::default()
        },
        times: RouterTimes {
            sweep_ms: 300,
            state_store_check_ms: STATE_STORE_CHECK,
            handover_limit_ms: 1500,
            stream_idle_ms: 400 + rng.below(2000),
            ..RouterTimes::default()
        },
        ..RouterConfig::default()
    }
}

/// The clients, one for each resource, whose users have accounts in storage.
fn clients(storage: &mut Storage) -> Vec<Client> {
    let mut clients = Vec::new();
    for (user, (slot, resources)) in USERS.into_iter().enumerate() {
        let bare = format!("{}@{DOMAIN}", name_in_slot(slot, (user as u128 + 1) << 12));
        storage.accounts.insert(bare.clone());
        for resource in resources {
            clients.push(Client::new(clients.len(), bare.clone(), resource, slot));
        }
    }
    clients
}

impl World {
    /// A cluster that has just been started.
    pub(super) fn new(seed: u64) -> World {
        World::with(seed, false, false)
    }

    /// The same, with its clients logged in, and at rest.
    pub(super) fn at_rest(seed: u64) -> World {
        let mut world = World::new(seed);
        world.come_to_rest();
        world
    }

    /// A cluster that has just been started, with a trace if it is to be `traced`; for faults of the
    /// `network`, processes renew their leases.
    pub(super) fn with(seed: u64, traced: bool, network: bool) -> World {
        World::bounded(seed, traced, network, &ROOMY)
    }

    /// The same with other bounds.
    pub(super) fn bounded(seed: u64, traced: bool, network: bool, settings: &Settings) -> World {
        sestina_router::simulation::repeat(seed);
        let mut rng = Rng::new(seed);
        let config = config(&mut rng, settings);
        let workers = 1 + rng.below(2) as u32;
        let mut storage = Storage::new(proto::SlotMap {
            version: 1,
            routers: Vec::new(),
            owners: vec![0; SLOTS],
            epochs: vec![0; SLOTS],
            timeline: 1,
            token: 0,
        });
        let mut world = World {
            rng,
            now: 1000,
            net: Arc::new(Mutex::new(Net::default())),
            hosts: Vec::new(),
            edges: Vec::new(),
            socks: Socks::new(),
            clients: clients(&mut storage),
            storage,
            state_store: StateStore::default(),
            orphans: Vec::new(),
            rooms: vec![
                format!("{}@{MUC}", name_in_slot(3, 0xa1 << 12)),
                format!("{}@{MUC}", name_in_slot(5, 0xa2 << 12)),
            ],
            slots: vec![1, 2, 3, 4, 5],
            config: Arc::new(config),
            workers,
            output_queue: settings.output_queue,
            leases: network.then(Leases::default),
            until: BTreeMap::new(),
            ended: BTreeSet::new(),
            cuts: Vec::new(),
            talking: false,
            steps: 0,
            last_number: 0,
            last_sock: 0,
            last_incarnation: 0,
            last_act: 1000,
            edge_tick: 0,
            redundant_at: 0,
            trace: traced.then(Vec::new),
            trouble: Vec::new(),
            sent: BTreeMap::new(),
            cards: BTreeMap::new(),
            numbers: BTreeMap::new(),
            judged_from: 0,
            round_from: 0,
            misjudged: BTreeSet::new(),
            sessions_at: BTreeMap::new(),
            given: BTreeMap::new(),
            given_up: GivenUp::default(),
            late_resumes: BTreeSet::new(),
            deaths: 0,
            settled: BTreeMap::new(),
            told: BTreeMap::new(),
            calm_from: 1000,
            served_at: 0,
        };
        world.start_processes();
        world
    }

    /// Three routers start, which own the slots, and two edges.
    fn start_processes(&mut self) {
        for _ in 0..3 {
            self.start_host();
        }
        for _ in 0..2 {
            self.start_edge();
        }
        for (index, slot) in self.slots.clone().into_iter().enumerate() {
            self.storage.change(|map| {
                map.owners[usize::from(slot)] = index as u32 % 3 + 1;
                map.epochs[usize::from(slot)] = 1;
            });
        }
    }
}
