//! Which process reaches which router: what this one reports with its lease, and what is said of
//! pairs that do not reach each other.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use sestina_cluster::reach::Reach;
use sestina_cluster::slot_map::SlotTable;
use sestina_cluster::slots::SLOTS;
use sestina_proto as proto;

use super::Shared;

/// How often the pairs are looked at.
const PERIOD: Duration = Duration::from_millis(500);

impl Shared {
    /// Reports the routers to which this one has a lane.
    pub(super) fn report_reach(&self) {
        let mut reaches: Vec<u64> = self.peer_lanes.lock().keys().copied().collect();
        reaches.sort_unstable();
        self.lease.update_node(|node| node.reaches = reaches);
    }

    /// Notes the epochs of a new table, so that frames of older owners are refused here, and says
    /// so with the next renewal: a new owner that has no lane to this router need not wait for its
    /// answer.
    pub(super) fn installed(&self, table: &SlotTable) {
        for slot in (0..SLOTS).filter_map(|slot| u16::try_from(slot).ok()) {
            self.epochs[usize::from(slot)].fetch_max(table.epoch(slot), Ordering::AcqRel);
        }
        let position = table.position();
        self.lease.note(|node| node.installed = Some(position));
    }
}

/// Counts pairs that have not reached each other for longer than `late`, and has the planner name
/// them. What has died is still alive by its lease for a while.
pub(super) async fn watch(shared: Arc<Shared>, late: Duration) {
    let token = shared.tasks.token();
    let mut unreached = Unreached::default();
    loop {
        tokio::select! {
            () = token.cancelled() => return,
            () = tokio::time::sleep(PERIOD) => {}
        }
        let live = shared.live.nodes();
        for news in unreached.look(&live, Instant::now(), late) {
            if shared.plans.load(Ordering::Acquire) {
                news.tell();
            }
        }
        let count = i64::try_from(unreached.count()).unwrap_or(i64::MAX);
        shared.metrics.unreached.set(count);
    }
}

/// Pairs without lanes: process, then router.
#[derive(Default)]
struct Unreached {
    pairs: BTreeMap<(u64, u64), Pair>,
}

struct Pair {
    since: Instant,
    /// It has lasted too long.
    late: bool,
    process: String,
    router: proto::Node,
}

#[derive(Debug, PartialEq)]
struct News {
    reached: bool,
    process: String,
    router: String,
    address: String,
}

impl News {
    fn tell(&self) {
        let News {
            process,
            router,
            address,
            ..
        } = self;
        if self.reached {
            tracing::info!(process, router, address, "a process reaches a router again");
        } else {
            tracing::error!(
                process,
                router,
                address,
                "a process does not reach a router, which gets no slots in use; check the router's \
                 cluster.advertise, and names and firewalls between the two"
            );
        }
    }
}

impl Pair {
    fn news(&self, reached: bool) -> News {
        News {
            reached,
            process: self.process.clone(),
            router: self.router.name.clone(),
            address: self.router.address.clone(),
        }
    }
}

impl Unreached {
    /// Takes what is so now; returns what is to be told.
    fn look(&mut self, live: &[proto::Node], now: Instant, late: Duration) -> Vec<News> {
        let reach = Reach::of(live);
        let mut before = std::mem::take(&mut self.pairs);
        let mut news = Vec::new();
        for (process, router) in reach.unreached() {
            let key = (process.incarnation, router.incarnation);
            let mut pair = before.remove(&key).unwrap_or_else(|| Pair {
                since: now,
                late: false,
                process: process.name.clone(),
                router: router.clone(),
            });
            if !pair.late && now.duration_since(pair.since) >= late {
                pair.late = true;
                news.push(pair.news(false));
            }
            self.pairs.insert(key, pair);
        }
        // One of the two may have ended: then nothing is reached again.
        let lives = |incarnation: u64| live.iter().any(|node| node.incarnation == incarnation);
        for ((process, router), pair) in before {
            if pair.late && lives(process) && lives(router) {
                news.push(pair.news(true));
            }
        }
        news
    }

    fn count(&self) -> usize {
        self.pairs.values().filter(|pair| pair.late).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(incarnation: u64, role: proto::NodeRole, reaches: &[u64]) -> proto::Node {
        proto::Node {
            name: format!("n{incarnation}"),
            incarnation,
            role: role.into(),
            address: format!("h{incarnation}:1"),
            reaches: reaches.to_vec(),
            ..proto::Node::default()
        }
    }

    #[test]
    fn a_pair_is_told_once_when_it_is_late_and_when_it_has_mended() {
        let (edge, router) = (proto::NodeRole::Edge, proto::NodeRole::Router);
        let late = Duration::from_secs(8);
        let start = Instant::now();
        let mut unreached = Unreached::default();
        let apart = [node(1, router, &[]), node(2, edge, &[])];
        assert_eq!(unreached.look(&apart, start, late), []);
        assert_eq!(unreached.look(&apart, start + late / 2, late), []);
        assert_eq!(
            unreached.count(),
            0,
            "a process that has just come is no error"
        );
        let named = News {
            reached: false,
            process: "n2".into(),
            router: "n1".into(),
            address: "h1:1".into(),
        };
        assert_eq!(unreached.look(&apart, start + late, late), [named]);
        assert_eq!(unreached.count(), 1);
        assert_eq!(unreached.look(&apart, start + 2 * late, late), []);
        let together = [node(1, router, &[]), node(2, edge, &[1])];
        let told = unreached.look(&together, start + 2 * late, late);
        assert!(told.len() == 1 && told[0].reached, "{told:?}");
        assert_eq!(unreached.count(), 0);
        // One that ends reaches nothing again.
        unreached.look(&apart, start, late);
        unreached.look(&apart, start + late, late);
        assert_eq!(unreached.look(&apart[..1], start + late, late), []);
        assert_eq!(unreached.count(), 0);
    }
}
