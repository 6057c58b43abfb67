//! A run of the simulation: rounds in which clients talk, a fault happens, and the cluster heals and
//! comes to rest.

use super::check;
use super::client::Mode;
use super::faults::{Fault, lists};
use super::host::{Host, Life};
use super::places;
use super::talk;
use super::world::World;

/// Two faults after which a room may have lost messages, but no occupant: the owner of each session knows in which
/// rooms it is.
const UNSEEN_CHANGES: [Fault; 2] = [Fault::StateStoreLongUnavailable, Fault::KillRouterUnheard];

/// What is wrong if things go on happening although no client does anything.
const RESTLESS: &str = "it does not come to rest";

impl World {
    /// Clients talk for a while.
    pub(super) fn begin_round(&mut self) {
        self.talking = true;
        let acts = 60 + self.rng.below(200);
        self.run(acts);
    }

    /// A fault happens, and clients go on for a while.
    pub(super) fn fault_while_talking(&mut self, fault: Fault) {
        self.talking = true;
        self.fault(fault);
        let acts = 20 + self.rng.below(150);
        self.run(acts);
    }

    /// One round with these faults: clients talk, the faults happen one after the other, the cluster
    /// heals and comes to rest. Returns what is wrong then.
    pub(super) fn round(&mut self, faults: &[Fault]) -> Vec<String> {
        self.begin_round();
        for fault in faults {
            self.fault_while_talking(*fault);
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

    /// A round with faults that may lose something, and one without faults, after which nothing more may be
    /// missing.
    fn forgiven_round(&mut self, faults: &[Fault]) -> Vec<String> {
        let wrong = self.round(faults);
        if wrong.first().is_some_and(|first| first == RESTLESS) {
            return wrong;
        }
        if faults == UNSEEN_CHANGES {
            let missed = places::missed(self);
            if !missed.is_empty() {
                return missed;
            }
        }
        self.forgive();
        self.round(&[])
    }

    /// Judges only what happens from here on: earlier messages may have been lost, and earlier requests
    /// may have no answer.
    fn forgive(&mut self) {
        self.note(|| "== from here on all is judged".to_owned());
        self.judged_from = self.last_number + 1;
        self.trouble = check::silent(self);
        self.given_up = check::given_up(self);
        self.misjudged = check::misjudged(self);
        for client in &mut self.clients {
            client.login.asking.clear();
            client.pages.clear();
            client.login.rooms.retain(|_, inside| *inside);
            client.heard.is_only_in(&client.login.rooms);
        }
        for edge in &mut self.edges {
            edge.forgive();
        }
    }

    /// What is wrong with a cluster that does not come to rest: the checks may tell why.
    fn restless(&self) -> Vec<String> {
        let mut wrong = vec![RESTLESS.to_owned()];
        wrong.extend(check::check(self));
        wrong
    }

    /// Whether nothing happens any more, if need be after each client has sent another stanza.
    fn rests(&mut self, quiet: u64, limit: u64) -> bool {
        self.rest(quiet, limit) || {
            talk::ask_all(self);
            self.rest(quiet, limit)
        }
    }

    /// Waits until all clients are back and nothing is under way any more. Returns what is wrong then.
    pub(super) fn come_to_rest(&mut self) -> Vec<String> {
        // Suspensions, and the times for which clients stay unavailable, are shorter.
        let until = (self.now + 8000).max(self.redundant_at + 1000);
        while self.now < until {
            if !self.rests(400, 20_000) {
                return self.restless();
            }
            if self.hosts.iter().any(Host::reads_in_bulk) {
                // The server sends the next ones when the client has acknowledged these.
                talk::acknowledge_all(self);
            }
            let waits = self
                .clients
                .iter()
                .any(|c| (c.wanted && !c.is_online()) || matches!(c.mode, Mode::Broken { .. }))
                || self.hosts.iter().any(|h| {
                    // A session that its client has given up ends when its time for a resumption is
                    // over. Offline messages that storage did not give are asked for again later.
                    matches!(h.life, Life::Suspended { .. })
                        || h.has_detached()
                        || h.reads_in_bulk()
                });
            if !waits && self.now >= self.redundant_at {
                break;
            }
        }
        for _ in 0..2 {
            talk::acknowledge_all(self);
            // Routers ask now and then whether the state store has everything. With three routers the
            // pauses between those questions may be too short for the first of these times.
            if !self.rest(900, 10_000) && !self.rests(700, 10_000) {
                return self.restless();
            }
        }
        self.storage.late_writes(true);
        let wrong = check::check(self);
        talk::settle_in(self);
        wrong
    }
}

/// Runs a seed. Returns what was wrong, and the trace if there is to be one.
pub(super) fn run(seed: u64, traced: bool, network: bool) -> (Vec<String>, Vec<String>) {
    let mut world = World::with(seed, traced, network);
    let all = lists::of_run(network);
    let overlapping = seed % 8 == 7;
    let rounds = 5;
    let mut wrong = world.come_to_rest();
    for _ in 0..rounds {
        if !wrong.is_empty() {
            break;
        }
        // Without faults of the network no number is drawn here: seeds stay what they were.
        if network && world.rng.one_in(3) {
            wrong = world.redundant_round();
            continue;
        }
        let one = *world.rng.pick(&all).unwrap_or(&Fault::None);
        if overlapping {
            let two = *world.rng.pick(&all).unwrap_or(&Fault::None);
            let faults = match world.rng.below(3) {
                0 | 1 => UNSEEN_CHANGES,
                _ => [one, two],
            };
            // Two faults at once may lose something; a round after that must not.
            wrong = world.forgiven_round(&faults);
        } else if matches!(one, Fault::Partition(which) if which.is_double()) {
            wrong = world.forgiven_round(&[one]);
        } else {
            wrong = world.round(&[one]);
        }
    }
    (wrong, world.trace.take().unwrap_or_default())
}
