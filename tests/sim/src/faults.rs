//! What goes wrong, and what makes it whole again.

use super::check::check;
use super::client::Mode;
use super::host::{Host, Life};
use super::lease::LeaseFault;
use super::net::Ends;
use super::partition::{NETWORK, Partition};
use super::talk;
use super::world::{SHADOW_CHECK, World};

/// One fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    None,
    KillRouter,
    KillEdge,
    EdgeLane,
    PeerLane,
    AllLanes,
    ShadowAway,
    ShadowLongAway,
    ShadowFlushed,
    ShadowFlaky,
    ShadowFailOver,
    MoveAndFailOver,
    StorageAway,
    Pause,
    Suspend,
    HandOver,
    CommitsLost,
    Partition(Partition),
    Lease(LeaseFault),
    UnknownFrames,
}

const FAULTS: [Fault; 25] = [
    Fault::None,
    Fault::KillRouter,
    Fault::KillRouter,
    Fault::KillRouter,
    Fault::KillEdge,
    Fault::KillEdge,
    Fault::EdgeLane,
    Fault::PeerLane,
    Fault::AllLanes,
    Fault::ShadowAway,
    Fault::ShadowLongAway,
    Fault::ShadowFlushed,
    Fault::ShadowFlaky,
    Fault::ShadowFlaky,
    Fault::ShadowFailOver,
    Fault::ShadowFailOver,
    Fault::MoveAndFailOver,
    Fault::MoveAndFailOver,
    Fault::StorageAway,
    Fault::Pause,
    Fault::Suspend,
    Fault::Suspend,
    Fault::HandOver,
    Fault::CommitsLost,
    Fault::CommitsLost,
];

impl World {
    /// Does one fault.
    pub(super) fn fault(&mut self, fault: Fault) {
        self.note(|| format!("!! {fault:?}"));
        match fault {
            Fault::None => {}
            Fault::KillRouter => {
                if let Some(host) = self.any_host() {
                    self.kill_host(host);
                }
            }
            Fault::KillEdge => {
                let alive: Vec<usize> = (0..self.edges.len())
                    .filter(|e| self.edges[*e].alive)
                    .collect();
                if let Some(edge) = self.rng.pick(&alive).copied() {
                    self.kill_edge(edge);
                }
            }
            Fault::EdgeLane => self.break_some(1, true),
            Fault::PeerLane => self.break_some(1, false),
            Fault::AllLanes => {
                self.break_some(3, true);
                self.break_some(3, false);
            }
            Fault::Partition(which) => self.partition(which),
            Fault::UnknownFrames => self.unknown_frames(),
            Fault::Lease(which) => self.lease_fault(which),
            Fault::ShadowAway => self.shadow.away = true,
            Fault::ShadowLongAway => self.long_without_shadow(),
            Fault::ShadowFlushed => {
                self.shadow.flush();
                self.whole_at = self.now + 2 * SHADOW_CHECK;
            }
            Fault::ShadowFlaky => self.shadow.flaky = true,
            Fault::ShadowFailOver => self.fail_over(),
            Fault::MoveAndFailOver => {
                for _ in 0..2 + self.rng.below(3) {
                    self.order_hand_over();
                }
                let acts = self.rng.below(150);
                self.run(acts);
                self.fail_over();
            }
            Fault::StorageAway => self.storage.away = true,
            Fault::Pause | Fault::Suspend => {
                let long = if fault == Fault::Suspend { 480 } else { 100 };
                let until = self.now + long + self.rng.below(600);
                if let Some(host) = self.any_host() {
                    self.suspend_host(host, until);
                }
            }
            Fault::HandOver => {
                for _ in 0..1 + self.rng.below(3) {
                    self.order_hand_over();
                }
            }
            Fault::CommitsLost => {
                for _ in 0..self.rng.below(4) {
                    self.order_hand_over();
                }
                let acts = self.rng.below(250);
                self.run(acts);
                let lost = 1 + self.rng.below(12) as usize;
                self.note(|| format!("!! the database loses {lost} commits"));
                self.storage.lose_commits(lost);
            }
        }
    }

    /// The shadow is away for many leases, and clients go on: they talk, enter, leave, and change their
    /// presence and nicks.
    fn long_without_shadow(&mut self) {
        self.shadow.away = true;
        let until = self.now + 2000 + self.rng.below(8000);
        while self.now < until {
            let acts = 10 + self.rng.below(40);
            self.run(acts);
            // What is on its way arrives: nobody is late only because time passes in leaps here.
            self.run_some(60);
            self.now += self.rng.below(300);
        }
    }

    fn fail_over(&mut self) {
        let lacks = 1 + self.rng.below(12) as usize;
        self.note(|| format!("!! the state store loses {lacks} writes"));
        self.shadow.fail_over(lacks);
        self.whole_at = self.now + 2 * SHADOW_CHECK;
    }

    pub(super) fn any_host(&mut self) -> Option<usize> {
        let running: Vec<usize> = (0..self.hosts.len())
            .filter(|h| self.hosts[*h].is_running())
            .collect();
        self.rng.pick(&running).copied()
    }

    fn break_some(&mut self, count: usize, edges: bool) {
        for _ in 0..count {
            let open: Vec<u64> = self
                .net
                .lock()
                .conns
                .iter()
                .filter(|(_, c)| !c.broken && matches!(c.ends, Ends::Edge { .. }) == edges)
                .map(|(id, _)| *id)
                .collect();
            if let Some(conn) = self.rng.pick(&open).copied() {
                self.break_conn(conn);
            }
        }
    }

    fn order_hand_over(&mut self) {
        let slot = *self.rng.pick(&self.slots).unwrap_or(&1);
        self.order_hand_over_of(slot);
    }

    pub(super) fn order_hand_over_of(&mut self, slot: u16) {
        let map = &self.storage.map;
        let owner = (map.owners[usize::from(slot)] as usize)
            .checked_sub(1)
            .map(|i| map.routers[i].incarnation);
        let Some(owner) = owner.and_then(|o| self.host_index(o)) else {
            return;
        };
        let Some(to) = self.any_host().filter(|to| *to != owner) else {
            return;
        };
        if !self.may_move_to(to) {
            return;
        }
        let node = self.hosts[to].node.clone();
        self.note(|| format!("== slot {slot} is to go to {}", node.name));
        self.hosts[owner].hand_over(&[slot], &node);
    }

    /// Everything is there again.
    pub(super) fn heal(&mut self) {
        self.shadow.away = false;
        self.shadow.flaky = false;
        self.storage.away = false;
        self.calm_from = self.now;
        self.note(|| "== healing".to_owned());
        self.mend_network();
        while self.hosts.iter().filter(|h| h.is_running()).count()
            + self
                .hosts
                .iter()
                .filter(|h| matches!(h.life, Life::Suspended { .. }))
                .count()
            < 3
        {
            self.start_host();
        }
        while self.edges.iter().filter(|e| e.alive).count() < 2 {
            self.start_edge();
        }
    }

    /// Talks, breaks something, heals, rests. What is wrong then.
    pub(super) fn round(&mut self, faults: &[Fault]) -> Vec<String> {
        self.talking = true;
        let acts = 60 + self.rng.below(200);
        self.run(acts);
        for fault in faults {
            self.fault(*fault);
            let acts = 20 + self.rng.below(150);
            self.run(acts);
        }
        if self.rng.one_in(2) {
            self.heal();
            let acts = self.rng.below(200);
            self.run(acts);
        }
        self.talking = false;
        let acts = self.rng.below(100);
        self.run_some(acts);
        self.heal();
        self.come_to_rest()
    }

    /// A round that may cost something, and then one that may not.
    fn forgiven_round(&mut self, faults: &[Fault]) -> Vec<String> {
        let wrong = self.round(faults);
        if wrong.first().is_some_and(|first| first == RESTLESS) {
            return wrong;
        }
        self.forgive();
        self.round(&[])
    }

    pub(super) fn run_some(&mut self, steps: u64) {
        for _ in 0..steps {
            self.step();
        }
    }

    /// It never rests: what is wrong all the time may be why.
    fn restless(&self) -> Vec<String> {
        let mut wrong = vec![RESTLESS.to_owned()];
        wrong.extend(check(self));
        wrong
    }

    pub(super) fn come_to_rest(&mut self) -> Vec<String> {
        // Longer than a suspension and the waits of clients last.
        let until = (self.now + 8000).max(self.whole_at + 1000);
        while self.now < until {
            if !self.rest(400, 20_000) {
                return self.restless();
            }
            if self.hosts.iter().any(Host::reads_in_bulk) {
                // It goes on when its client has acknowledged what it has.
                talk::acknowledge_all(self);
            }
            let waits = self
                .clients
                .iter()
                .any(|c| (c.wanted && !c.is_online()) || matches!(c.mode, Mode::Broken { .. }))
                || self.hosts.iter().any(|h| {
                    // Whom its client has forgotten is forgotten when its time is over; what is
                    // stored is asked for again when storage was away.
                    matches!(h.life, Life::Suspended { .. })
                        || h.has_detached()
                        || h.reads_in_bulk()
                });
            if !waits && self.now >= self.whole_at {
                break;
            }
        }
        for _ in 0..2 {
            talk::acknowledge_all(self);
            // Each router asks now and then whether the store has everything: where three of them take
            // turns, there is less between two questions.
            if !self.rest(900, 10_000) && !self.rest(700, 10_000) {
                return self.restless();
            }
        }
        let wrong = check(self);
        talk::settle_in(self);
        wrong
    }
}

/// What is wrong if things go on happening although nobody does anything.
const RESTLESS: &str = "it does not come to rest";

/// Runs a seed. What was wrong, and what happened.
pub fn run(seed: u64, traced: bool, network: bool) -> (Vec<String>, Vec<String>) {
    let mut world = World::with(seed, traced, network);
    let all: &[Fault] = if network { &NETWORK } else { &FAULTS };
    let overlapping = seed % 8 == 7;
    let rounds = 5;
    let mut wrong = world.come_to_rest();
    for _ in 0..rounds {
        if !wrong.is_empty() {
            break;
        }
        // The default mix has the choices that it always had.
        if network && world.rng.one_in(3) {
            wrong = world.whole_round();
            continue;
        }
        let one = *world.rng.pick(all).unwrap_or(&Fault::None);
        if overlapping {
            let two = *world.rng.pick(all).unwrap_or(&Fault::None);
            let faults = match world.rng.below(3) {
                0 => [Fault::ShadowLongAway, Fault::KillRouter],
                _ => [one, two],
            };
            // Two at once may cost something, but then all is as it should be.
            wrong = world.forgiven_round(&faults);
        } else if matches!(one, Fault::Partition(which) if which.is_double()) {
            wrong = world.forgiven_round(&[one]);
        } else {
            wrong = world.round(&[one]);
        }
    }
    (wrong, world.trace.take().unwrap_or_default())
}
