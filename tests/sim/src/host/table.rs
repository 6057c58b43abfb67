//! The slot table of a router, and the processes that it takes for alive.

use std::collections::BTreeMap;
use std::sync::Arc;

use sestina_cluster::slot_map::{SlotTable, newer};
use sestina_proto as proto;
use sestina_router::simulation::{Input, Worker};

use super::Host;
use crate::stores::Storage;

impl Host {
    /// Takes a slot table, if it is newer.
    pub(crate) fn offer(&mut self, map: &proto::SlotMap) {
        if newer(map.position(), self.table.position())
            && let Ok(table) = SlotTable::new(map.clone())
        {
            self.table = Arc::new(table);
        }
    }

    /// Whether its table begins a new timeline, so that it has to tell storage what it holds before its
    /// workers get the table.
    pub(crate) fn has_to_assert(&self) -> bool {
        self.timeline > 0 && self.table.position().timeline > self.timeline
    }

    /// Tells storage which slots it holds, and gives up those that others own. Its workers take all of
    /// their inputs before that.
    pub(crate) fn assert(&mut self, storage: &mut Storage, now: u64) {
        for worker in 0..self.workers.len() {
            self.turn(worker, usize::MAX, now);
        }
        let held: BTreeMap<u16, u64> = self
            .workers
            .iter_mut()
            .flat_map(Worker::assert_slots)
            .collect();
        for slot in storage.assert(&self.node, &held) {
            let epoch = storage.map.epochs[usize::from(slot)].max(held[&slot] + 1);
            self.push(self.worker_of(slot.into()), Input::Lose { slot, epoch });
        }
        self.offer(&storage.map);
        self.timeline = self.table.position().timeline;
    }

    /// Takes what both authorities say of the processes: those whose leases are `fresh` are alive, all
    /// others are gone.
    pub(crate) fn refresh(&mut self, fresh: &BTreeMap<u64, proto::Node>) {
        let me = self.incarnation();
        let gone: Vec<u64> = self
            .live
            .keys()
            .filter(|i| !fresh.contains_key(i) && **i != me)
            .copied()
            .collect();
        for incarnation in gone {
            self.live.remove(&incarnation);
            self.push_all(|| Input::NodeGone { incarnation });
        }
        self.live.extend(fresh.iter().map(|(i, n)| (*i, n.clone())));
    }

    /// Gives its table to the workers, with the slots that they are to take and to give up.
    pub(crate) fn watch(&mut self, fresh: &BTreeMap<u64, proto::Node>) {
        let table = self.table.clone();
        self.watched = table.position();
        self.timeline = self.watched.timeline;
        self.push_all(|| Input::Table(table.clone()));
        let owned: BTreeMap<u16, u64> = table
            .slots_of(&self.node)
            .map(|slot| (slot, table.epoch(slot)))
            .collect();
        let lost: Vec<u16> = self
            .mine
            .keys()
            .filter(|s| !owned.contains_key(s))
            .copied()
            .collect();
        for slot in lost {
            self.mine.remove(&slot);
            let worker = self.worker_of(slot.into());
            let epoch = table.epoch(slot);
            self.push(worker, Input::Lose { slot, epoch });
        }
        let new: Vec<(u16, u64)> = owned
            .into_iter()
            .filter(|(slot, epoch)| self.mine.get(slot) != Some(epoch))
            .collect();
        if new.is_empty() {
            return;
        }
        self.refresh(fresh);
        let live: Arc<[proto::Node]> = self.live.values().cloned().collect();
        for (slot, epoch) in new {
            self.mine.insert(slot, epoch);
            let worker = self.worker_of(slot.into());
            let live = live.clone();
            self.push(worker, Input::Take { slot, epoch, live });
        }
    }
}
