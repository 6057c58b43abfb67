//! The faults, and how a seed selects them.

use std::fmt;
use std::time::Duration;

use anyhow::{Result, ensure};
use rustix::process::Signal;

use super::partition::Partition;
use super::scene::{EDGES, ROUTERS, STORAGES, Scene};
use crate::fleet::Role;
use crate::rng::Rng;

/// Longer than the term of a lease.
const PAST_LEASE: Duration = Duration::from_secs(6);
/// Shorter than the term of a lease.
const SHORT_OF_LEASE: Duration = Duration::from_secs(2);
/// Longer than the term of a lease and a takeover: when the process resumes, other routers own its
/// slots.
const PAST_TAKEOVER: Duration = Duration::from_secs(8);

/// How long a process may take to renew its lease once it can.
const RENEWED: Duration = Duration::from_secs(30);

/// How long a flood lasts.
const FLOOD_SECONDS: u64 = 8;

/// A fault and its target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    /// SIGKILL, and a restart.
    Kill(Role, usize),
    /// SIGSTOP for a while.
    Suspend(Role, usize),
    /// SIGTERM, wait for the end, and a restart.
    Drain(Role, usize),
    /// One connection between a process and its callers is closed.
    CutLane(Role, usize),
    /// No bytes pass on one connection between a router and its callers.
    FreezeLane(usize),
    /// No bytes pass between a router and its callers.
    FreezeLanes(usize),
    /// Redis does not answer.
    SuspendRedis,
    /// Redis loses all its data.
    FlushRedis,
    /// Redis dies and restarts empty.
    KillRedis,
    /// PostgreSQL does not answer.
    SuspendPostgres,
    /// Packets between some processes vanish.
    Partition(Partition),
    /// Guests on one edge write as fast as they can to a guest on another edge that does not read.
    Flood(usize, usize),
    /// Guests on one edge abuse the server: silent connections, half handshakes, hoarded messages,
    /// archive pages, joins, presences.
    Abuse(usize),
}

/// A fault, and how long it lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    what: What,
    hold: Duration,
}

/// Faults that need proxies in front of routers and storage processes.
const PROXIED: [&str; 4] = [
    "cut-lane-router",
    "cut-lane-storage",
    "freeze-lane-router",
    "freeze-lanes-router",
];

/// Faults that replace them with `--namespaces`.
const PARTITIONS: [&str; 11] = [
    "cut-lanes-router",
    "cut-lanes-router-long",
    "cut-routers",
    "cut-edge-router",
    "cut-router-redis",
    "cut-router-storages",
    "isolate-router-short",
    "isolate-router-past-lease",
    "isolate-edge-short",
    "isolate-edge-past-lease",
    "isolate-storage",
];

/// The names of all kinds of faults without namespaces; all have the same probability.
const KINDS: [&str; 21] = [
    "kill-edge",
    "kill-router",
    "kill-storage",
    "suspend-edge-past-lease",
    "suspend-router-past-lease",
    "suspend-storage-past-lease",
    "suspend-edge-short",
    "suspend-router-short",
    "suspend-redis",
    "flush-redis",
    "kill-redis",
    "suspend-postgres",
    "cut-lane-router",
    "cut-lane-storage",
    "freeze-lane-router",
    "freeze-lanes-router",
    "drain-edge",
    "drain-router",
    "drain-storage",
    "flood",
    "abuse",
];

fn make(kind: &str, rng: &mut Rng, seconds: u64) -> Fault {
    let hold = |low, high, rng: &mut Rng| Duration::from_millis(rng.between(low, high));
    let (edge, router, storage) = (rng.below(EDGES), rng.below(ROUTERS), rng.below(STORAGES));
    let cut = What::Partition;
    // A short run has no time for long outages.
    let silence = if seconds < 300 { 10_000 } else { 30_000 };
    let (what, hold) = match kind {
        "kill-edge" => (What::Kill(Role::Edge, edge), hold(200, 3000, rng)),
        "kill-router" => (What::Kill(Role::Router, router), hold(200, 8000, rng)),
        "kill-storage" => (What::Kill(Role::Storage, storage), hold(200, 3000, rng)),
        "suspend-edge-past-lease" => (What::Suspend(Role::Edge, edge), PAST_LEASE),
        "suspend-router-past-lease" => (What::Suspend(Role::Router, router), PAST_LEASE),
        "suspend-storage-past-lease" => (What::Suspend(Role::Storage, storage), PAST_LEASE),
        "suspend-edge-short" => (What::Suspend(Role::Edge, edge), SHORT_OF_LEASE),
        "suspend-router-short" => (What::Suspend(Role::Router, router), SHORT_OF_LEASE),
        "suspend-redis" => (What::SuspendRedis, hold(2000, silence, rng)),
        "flush-redis" => (What::FlushRedis, Duration::ZERO),
        "kill-redis" => (What::KillRedis, hold(200, 8000, rng)),
        "suspend-postgres" => (What::SuspendPostgres, hold(2000, silence, rng)),
        "cut-lane-router" => (What::CutLane(Role::Router, router), Duration::ZERO),
        "cut-lane-storage" => (What::CutLane(Role::Storage, storage), Duration::ZERO),
        "freeze-lane-router" => (What::FreezeLane(router), hold(1000, 12_000, rng)),
        "freeze-lanes-router" => (What::FreezeLanes(router), hold(1000, 7000, rng)),
        "cut-lanes-router" => (cut(Partition::Lanes(router)), hold(1000, 7000, rng)),
        "cut-lanes-router-long" => (cut(Partition::Lanes(router)), hold(8000, 15_000, rng)),
        "cut-routers" => {
            let other = (router + 1 + rng.below(ROUTERS - 1)) % ROUTERS;
            (
                cut(Partition::Routers(router, other)),
                hold(2000, 10_000, rng),
            )
        }
        "cut-edge-router" => (
            cut(Partition::EdgeRouter(edge, router)),
            hold(2000, 10_000, rng),
        ),
        "cut-router-redis" => (cut(Partition::RouterRedis(router)), hold(2000, 10_000, rng)),
        "cut-router-storages" => (
            cut(Partition::RouterStorages(router)),
            hold(2000, 10_000, rng),
        ),
        "isolate-router-short" => (cut(Partition::Router(router)), SHORT_OF_LEASE),
        "isolate-router-past-lease" => (cut(Partition::Router(router)), PAST_TAKEOVER),
        "isolate-edge-short" => (cut(Partition::Edge(edge)), SHORT_OF_LEASE),
        "isolate-edge-past-lease" => (cut(Partition::Edge(edge)), PAST_TAKEOVER),
        "isolate-storage" => (cut(Partition::Storage(storage)), hold(2000, 10_000, rng)),
        "drain-edge" => (What::Drain(Role::Edge, edge), Duration::ZERO),
        "drain-router" => (What::Drain(Role::Router, router), Duration::ZERO),
        "flood" => (
            What::Flood(edge, rng.below(EDGES)),
            Duration::from_secs(FLOOD_SECONDS),
        ),
        "abuse" => (What::Abuse(edge), Duration::from_secs(FLOOD_SECONDS)),
        _ => (What::Drain(Role::Storage, storage), Duration::ZERO),
    };
    Fault { what, hold }
}

/// The order of faults: all kinds in a random order, then all again.
pub(super) struct Order {
    kinds: Vec<&'static str>,
    left: Vec<&'static str>,
    seconds: u64,
}

impl Order {
    /// All kinds that exist with or without namespaces, or those whose name contains a word of
    /// `only`.
    pub(super) fn new(only: Option<&str>, seconds: u64, namespaces: bool) -> Result<Order> {
        let all = if namespaces {
            let others = KINDS.into_iter().filter(|kind| !PROXIED.contains(kind));
            others.chain(PARTITIONS).collect()
        } else {
            KINDS.to_vec()
        };
        let kinds: Vec<&'static str> = all
            .iter()
            .copied()
            .filter(|kind| only.is_none_or(|only| only.split(',').any(|word| kind.contains(word))))
            .collect();
        ensure!(
            !kinds.is_empty(),
            "no fault is called {:?}; there are {}",
            only.unwrap_or_default(),
            all.join(", ")
        );
        Ok(Order {
            kinds,
            left: Vec::new(),
            seconds,
        })
    }

    /// The next fault.
    pub(super) fn next(&mut self, rng: &mut Rng) -> Fault {
        if self.left.is_empty() {
            self.left.clone_from(&self.kinds);
        }
        let kind = self.left.swap_remove(rng.below(self.left.len()));
        make(kind, rng, self.seconds)
    }
}

impl Fault {
    /// How long it lasts.
    pub(super) fn hold(&self) -> Duration {
        self.hold
    }

    /// The edge that the fault affects: its clients may lose their connection.
    pub(super) fn edge(&self) -> Option<usize> {
        match self.what {
            What::Kill(Role::Edge, n)
            | What::Suspend(Role::Edge, n)
            | What::Drain(Role::Edge, n) => Some(n),
            What::Partition(partition) => partition.edge(),
            _ => None,
        }
    }

    /// The name under which the report combines faults.
    pub(super) fn kind(&self) -> String {
        match self.what {
            What::Kill(role, _) => format!("kill {}", role.word()),
            What::Suspend(role, _) if self.hold >= PAST_LEASE => {
                format!("suspend {} past its lease", role.word())
            }
            What::Suspend(role, _) => format!("suspend {} shortly", role.word()),
            What::Drain(role, _) => format!("drain {}", role.word()),
            What::CutLane(role, _) => format!("cut a lane of a {}", role.word()),
            What::FreezeLane(_) => "freeze a lane of a router".to_owned(),
            What::FreezeLanes(_) => "freeze the lanes of a router".to_owned(),
            What::SuspendRedis => "suspend Redis".to_owned(),
            What::FlushRedis => "empty Redis".to_owned(),
            What::KillRedis => "kill Redis".to_owned(),
            What::SuspendPostgres => "suspend PostgreSQL".to_owned(),
            What::Partition(partition) => {
                let long = match partition {
                    Partition::Router(_) | Partition::Edge(_) if self.hold >= PAST_LEASE => {
                        " past its lease"
                    }
                    Partition::Router(_) | Partition::Edge(_) => " shortly",
                    Partition::Lanes(_) if self.hold >= PAST_TAKEOVER => " for long",
                    _ => "",
                };
                format!("{}{long}", partition.kind())
            }
            What::Flood(..) => "flood".to_owned(),
            What::Abuse(..) => "abuse".to_owned(),
        }
    }

    /// Begins it.
    pub(super) fn begin(&self, scene: &mut Scene, rng: &mut Rng) -> Result<()> {
        match self.what {
            What::Kill(role, n) => scene.node(role, n)?.process.kill(),
            What::Suspend(role, n) => scene.node(role, n)?.process.signal(Signal::STOP),
            What::Drain(role, n) => scene.node(role, n)?.process.signal(Signal::TERM),
            What::CutLane(role, n) => {
                if let Some(proxy) = &scene.node(role, n)?.proxy {
                    // Without a connection there is no fault.
                    proxy.cut_one(rng);
                }
            }
            What::FreezeLane(n) => {
                if let Some(proxy) = &scene.node(Role::Router, n)?.proxy {
                    proxy.freeze_one(rng);
                }
            }
            What::FreezeLanes(n) => {
                if let Some(proxy) = &scene.node(Role::Router, n)?.proxy {
                    proxy.freeze_all(true);
                }
            }
            What::SuspendRedis => scene.redis.suspend(),
            What::FlushRedis => {
                sestina_testkit::command(scene.redis.port(), &["FLUSHALL"])?;
            }
            What::KillRedis => scene.redis.kill9(),
            What::SuspendPostgres => scene.postgres.suspend(),
            What::Partition(partition) => partition.begin(&mut scene.fleet)?,
            What::Flood(from, to) => scene.begin_flood(from, to, FLOOD_SECONDS)?,
            What::Abuse(edge) => scene.begin_abuse(edge, FLOOD_SECONDS)?,
        }
        Ok(())
    }

    /// Ends the fault; a process that was killed is restarted. Returns the broken promises that the
    /// fault itself has found.
    pub(super) fn end(&self, scene: &mut Scene) -> Result<Vec<String>> {
        match self.what {
            What::Kill(role, n) => scene.restart(role, n)?,
            What::Suspend(role, n) => scene.node(role, n)?.process.signal(Signal::CONT),
            What::Drain(role, n) => {
                scene.wait_drained(role, n)?;
                scene.restart(role, n)?;
            }
            What::FreezeLane(n) | What::FreezeLanes(n) => {
                if let Some(proxy) = &scene.node(Role::Router, n)?.proxy {
                    proxy.freeze_all(false);
                }
            }
            What::SuspendRedis => scene.redis.resume(),
            What::KillRedis => scene.redis.restart()?,
            What::SuspendPostgres => scene.postgres.resume(),
            What::Partition(partition) => partition.end(&mut scene.fleet)?,
            What::Flood(..) | What::Abuse(..) => return scene.end_guests(),
            What::CutLane(..) | What::FlushRedis => {}
        }
        Ok(Vec::new())
    }
}

impl Fault {
    /// Waits until a process that could not renew its lease has renewed it. Until then it may still
    /// lose the lease, because packets that vanished are sent again only after a while.
    pub(super) fn wait_renewed(&self, scene: &mut Scene) -> Result<Vec<String>> {
        let What::Partition(partition) = self.what else {
            return Ok(Vec::new());
        };
        let Some((role, n)) = partition.without_lease() else {
            return Ok(Vec::new());
        };
        let node = scene.node(role, n)?;
        let before = node.renewals()?;
        let what = format!("{} to renew its lease", node.process.name());
        let renewed = sestina_testkit::wait_for(&what, RENEWED, || {
            ensure!(node.renewals()? > before, "not renewed yet");
            Ok(())
        });
        Ok(renewed
            .err()
            .map(|error| format!("{error:#}"))
            .into_iter()
            .collect())
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let who = match self.what {
            What::Kill(role, n)
            | What::Suspend(role, n)
            | What::Drain(role, n)
            | What::CutLane(role, n) => format!(" ({})", role.name(n + 1)),
            What::FreezeLane(n) | What::FreezeLanes(n) => {
                format!(" ({})", Role::Router.name(n + 1))
            }
            What::Partition(partition) => format!(" ({partition})"),
            What::Abuse(edge) => format!(" ({})", Role::Edge.name(edge + 1)),
            What::Flood(from, to) => format!(
                " ({} to {})",
                Role::Edge.name(from + 1),
                Role::Edge.name(to + 1)
            ),
            _ => String::new(),
        };
        write!(f, "{}{who}", self.kind())?;
        if !self.hold.is_zero() {
            write!(f, " for {:.1} s", self.hold.as_secs_f64())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_seed_gives_one_order_that_leaves_no_kind_out() {
        for (namespaces, count) in [(false, 20), (true, 27)] {
            let take = |seed| {
                let mut rng = Rng::new(seed);
                let mut order = Order::new(None, 600, namespaces).unwrap();
                (0..count).map(|_| order.next(&mut rng)).collect::<Vec<_>>()
            };
            assert_eq!(take(7), take(7));
            assert_ne!(take(7), take(8));
            let kinds: std::collections::BTreeSet<String> =
                take(7).iter().map(Fault::kind).collect();
            assert_eq!(kinds.len(), count, "{kinds:?}");
        }
        assert!(Order::new(Some("no such"), 60, false).is_err());
    }

    #[test]
    fn a_fault_says_whom_it_hits() {
        let only = |kind, namespaces| {
            let mut order = Order::new(Some(kind), 60, namespaces).unwrap();
            order.next(&mut Rng::new(1))
        };
        let fault = only("drain-edge", false);
        assert!(fault.edge().is_some() && fault.to_string().starts_with("drain edge (edge-"));
        let fault = only("isolate-edge-past-lease", true);
        let text = fault.to_string();
        assert!(fault.edge().is_some(), "{text}");
        assert!(
            text.starts_with("isolate edge past its lease (edge-") && text.ends_with(" for 8.0 s"),
            "{text}"
        );
        let fault = only("cut-routers", true);
        let text = fault.to_string();
        assert!(fault.edge().is_none(), "{text}");
        assert!(text.contains("cut two routers (router-") && text.contains(" and router-"));
        assert!(Order::new(Some("cut-lane-router"), 60, true).is_err());
    }
}
