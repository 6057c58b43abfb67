//! The slot map, and lanes to every router in it.

use std::sync::Arc;

use parking_lot::Mutex;
use sestina_api::link::RouterPort;
use sestina_cluster::slot_map::newer;
use sestina_proto as proto;

use super::lane::LaneSet;
use crate::shared::Shared;

/// What is known of the routers.
#[derive(Default)]
pub(crate) struct Directory {
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    position: proto::Position,
    /// The same, once all slots have the epochs of the map.
    installed: proto::Position,
    sets: Vec<Arc<LaneSet>>,
}

impl Directory {
    /// Where the map in use was; timeline 0: there is none.
    pub(crate) fn position(&self) -> proto::Position {
        self.known.lock().position
    }

    /// Ports to all routers of the map.
    pub(crate) fn ports(&self) -> Vec<Arc<dyn RouterPort>> {
        self.known
            .lock()
            .sets
            .iter()
            .map(|set| Arc::clone(&set.port))
            .collect()
    }

    /// Forgets everything and ends all lanes.
    pub(crate) fn clear(&self) {
        let known = std::mem::take(&mut *self.known.lock());
        for set in known.sets {
            set.stop();
        }
    }

    /// The newest map whose epochs all slots have.
    pub(crate) fn installed(&self) -> proto::Position {
        self.known.lock().installed
    }

    /// Incarnations of routers to which all lanes are open, ascending.
    pub(crate) fn reached(&self) -> Vec<u64> {
        let known = self.known.lock();
        let open = known
            .sets
            .iter()
            .filter(|set| set.lanes.iter().all(|lane| lane.attempt().is_some()));
        let mut reached: Vec<u64> = open.map(|set| set.router.incarnation).collect();
        reached.sort_unstable();
        reached
    }

    /// Routers with at least one open lane, and routers in all.
    pub(crate) fn reach(&self) -> (usize, usize) {
        let known = self.known.lock();
        let open = known
            .sets
            .iter()
            .filter(|set| set.lanes.iter().any(|lane| lane.attempt().is_some()))
            .count();
        (open, known.sets.len())
    }
}

impl Shared {
    /// Opens lanes to routers that came since the map in use was made: they are to be reached before
    /// they get slots.
    fn meet(self: &Arc<Self>, known: &mut Known, routers: Vec<proto::Node>) {
        for router in routers {
            if known.sets.iter().any(|set| set.is(&router)) {
                continue;
            }
            let port = self.connector.connect(&router);
            let set = LaneSet::new(router, port, self.config.lanes);
            known.sets.push(Arc::clone(&set));
            set.run(self);
        }
    }

    /// Takes a slot map if it is newer than the one in use: lanes to new routers are opened, those
    /// to routers that left are ended, and each slot follows its owner.
    pub(crate) fn learn(self: &Arc<Self>, map: proto::SlotMap) {
        let slots = self.attachments.slots.len();
        if map.owners.len() != slots || map.epochs.len() != slots {
            tracing::warn!(
                owners = map.owners.len(),
                "a slot map of the wrong size was ignored"
            );
            return;
        }
        let mut started = Vec::new();
        let sets = {
            let mut known = self.directory.known.lock();
            if newer(known.position, map.position()) {
                return;
            }
            if !newer(map.position(), known.position) {
                return self.meet(&mut known, map.routers);
            }
            known.position = map.position();
            let sets: Vec<Arc<LaneSet>> = map
                .routers
                .iter()
                .map(|router| {
                    known
                        .sets
                        .iter()
                        .find(|set| set.is(router))
                        .cloned()
                        .unwrap_or_else(|| {
                            let port = self.connector.connect(router);
                            let set = LaneSet::new(router.clone(), port, self.config.lanes);
                            started.push(Arc::clone(&set));
                            set
                        })
                })
                .collect();
            for old in std::mem::replace(&mut known.sets, sets.clone()) {
                if !sets.iter().any(|set| Arc::ptr_eq(set, &old)) {
                    old.stop();
                }
            }
            sets
        };
        tracing::debug!(version = map.version, routers = sets.len(), "new slot map");
        for (index, cell) in self.attachments.slots.iter().enumerate() {
            let owner = (map.owners[index] as usize)
                .checked_sub(1)
                .and_then(|i| sets.get(i));
            let mut slot = cell.lock();
            slot.follow(&**self, index as u16, map.epochs[index], owner);
        }
        {
            let mut known = self.directory.known.lock();
            if newer(map.position(), known.installed) {
                known.installed = map.position();
            }
        }
        for set in started {
            set.run(self);
        }
    }
}
