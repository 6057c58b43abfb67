//! Storage as its contract says: where the slot table is, who owns what on a new timeline, and commits
//! that the database can lose.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use sestina_cluster::slot_map::same;
use sestina_proto as proto;
use sestina_runtime::guard;

use super::client::number_in;
use super::stores::{Archived, KeyOf, Storage};

/// So many commits can be lost.
const KEPT: usize = 30;

/// What a commit has changed, as it was before.
#[derive(Debug)]
pub(super) enum Undo {
    Map(Box<proto::SlotMap>),
    Archived {
        archive: String,
        id: Bytes,
        moved: Vec<Archived>,
    },
    Stored {
        bare: String,
        key: KeyOf,
    },
    Delivered {
        bare: String,
        key: KeyOf,
    },
}

/// The commits that a promoted standby may lack, and what was lost so far.
#[derive(Debug, Default)]
pub(super) struct Commits {
    last: VecDeque<Vec<Undo>>,
    /// Positions of the table, by version.
    positions: BTreeMap<u64, proto::Position>,
    /// Never twice the same.
    tokens: u64,
    /// How often it has lost some.
    pub(super) losses: u64,
    /// Numbers of messages whose archive rows were lost.
    pub(super) archived: BTreeSet<u64>,
    /// Numbers of messages whose offline rows were lost.
    pub(super) stored: BTreeSet<u64>,
    /// Numbers of messages that are stored again though they were delivered.
    pub(super) delivered: BTreeSet<u64>,
}

impl Commits {
    pub(super) fn note(&mut self, commit: Vec<Undo>) {
        if !commit.is_empty() {
            self.last.push_back(commit);
        }
        if self.last.len() > KEPT {
            self.last.pop_front();
        }
    }
}

impl Storage {
    /// Changes the table, on that timeline.
    fn change_on(&mut self, timeline: u64, change: impl FnOnce(&mut proto::SlotMap)) {
        let before = Box::new(self.map.clone());
        change(&mut self.map);
        self.commits.tokens += 1;
        self.map.timeline = timeline;
        self.map.version = before.version + 1;
        self.map.token = self.commits.tokens;
        let position = self.map.position();
        self.commits.positions.insert(position.version, position);
        self.commits.note(vec![Undo::Map(before)]);
    }

    /// Changes the table.
    pub(super) fn change(&mut self, change: impl FnOnce(&mut proto::SlotMap)) {
        self.change_on(self.map.timeline, change);
    }

    /// Whether the table had this position.
    pub(super) fn knows(&self, position: proto::Position) -> bool {
        position.timeline < self.map.timeline
            || self.commits.positions.get(&position.version) == Some(&position)
    }

    /// Whether a process that has this table is to report it: a new timeline begins then.
    pub(super) fn has_lost(&self, position: proto::Position) -> bool {
        position.timeline > 0 && !self.knows(position) && guard!("timeline")
    }

    /// A process has this table.
    pub(super) fn report(&mut self, position: proto::Position) {
        if self.has_lost(position) {
            let timeline = self.map.timeline.max(position.timeline) + 1;
            self.change_on(timeline, |_| {});
        }
    }

    /// Whether slots may move that were chosen by that table.
    pub(super) fn may_move(&self, known: proto::Position) -> bool {
        known.timeline == self.map.timeline && self.knows(known) || !guard!("timeline")
    }

    /// The place of a router in the table, as its owners are written.
    fn place(&self, node: &proto::Node) -> Option<u32> {
        let routers = &self.map.routers;
        let at = routers.iter().position(|router| same(router, node))?;
        Some(at as u32 + 1)
    }

    /// Gives a slot of a router to another one, if it is still that router's under that epoch.
    pub(super) fn move_slot(
        &mut self,
        (slot, epoch): (u16, u64),
        (from, to): (&proto::Node, &proto::Node),
        known: proto::Position,
    ) -> bool {
        let step = proto::SlotMove {
            slot: u32::from(slot),
            from_name: from.name.clone(),
            from_incarnation: from.incarnation,
            from_epoch: epoch,
            to: Some(to.clone()),
            min_epoch: 0,
            released: true,
        };
        self.place(to).is_some() && !self.make_moves(&[step], &BTreeSet::new(), known).is_empty()
    }

    /// Gives a slot of a router an epoch above `above`.
    pub(super) fn raise(
        &mut self,
        slot: u16,
        above: u64,
        owner: &proto::Node,
        known: proto::Position,
    ) {
        let slot = usize::from(slot);
        let place = self.place(owner);
        if place == Some(self.map.owners[slot]) && self.may_move(known) {
            self.change(|map| map.epochs[slot] = map.epochs[slot].max(above) + 1);
        }
    }

    /// A router tells what it holds, on a new timeline; returns what others own.
    pub(super) fn assert(&mut self, holder: &proto::Node, held: &BTreeMap<u16, u64>) -> Vec<u16> {
        let Some(me) = self.place(holder) else {
            return held.keys().copied().collect();
        };
        let mut refused = Vec::new();
        let mut map = self.map.clone();
        for slot in 0..map.owners.len() {
            let (owner, epoch) = (map.owners[slot], map.epochs[slot]);
            match held.get(&(slot as u16)) {
                Some(asserted) if *asserted > epoch || (*asserted == epoch && owner == 0) => {
                    map.owners[slot] = me;
                    map.epochs[slot] = *asserted;
                }
                Some(_) if owner == me => {}
                Some(_) => refused.push(slot as u16),
                None if owner == me => map.owners[slot] = 0,
                None => {}
            }
        }
        if map != self.map {
            self.change(|now| *now = map);
        }
        refused
    }

    /// Another database takes over that lacks the last commits.
    pub(super) fn lose_commits(&mut self, count: usize) {
        self.commits.losses += 1;
        for _ in 0..count {
            let Some(commit) = self.commits.last.pop_back() else {
                return;
            };
            for undo in commit.into_iter().rev() {
                self.undo(undo);
            }
        }
    }

    /// The same, until the table is as it was at that version.
    pub(super) fn lose_commits_since(&mut self, version: u64) {
        while self.map.version > version && !self.commits.last.is_empty() {
            self.lose_commits(1);
        }
    }

    fn undo(&mut self, undo: Undo) {
        match undo {
            Undo::Map(mut before) => {
                // Which routers there are is read from their leases.
                for router in &self.map.routers {
                    if !before.routers.iter().any(|known| same(known, router)) {
                        before.routers.push(router.clone());
                    }
                }
                self.map = *before;
                self.commits.positions.split_off(&(self.map.version + 1));
            }
            Undo::Archived { archive, id, moved } => {
                let rows = self.archives.entry(archive).or_default();
                let lost = rows.iter().filter(|row| row.id == id);
                let numbers = lost.filter_map(|row| number_in(row.row.stanza.as_ref()));
                self.commits.archived.extend(numbers);
                rows.retain(|row| row.id != id);
                rows.extend(moved);
                rows.sort_by_key(|row| row.place);
            }
            Undo::Stored { bare, key } => {
                let row = self.offline.entry(bare).or_default().remove(&key);
                let number = row.and_then(|row| number_in(row.2.stanza.as_ref()));
                self.commits.stored.extend(number);
            }
            Undo::Delivered { bare, key } => {
                let rows = self.offline.entry(bare).or_default();
                if let Some(row) = rows.get_mut(&key) {
                    row.3 = false;
                    let number = number_in(row.2.stanza.as_ref());
                    self.commits.delivered.extend(number);
                }
            }
        }
    }
}
