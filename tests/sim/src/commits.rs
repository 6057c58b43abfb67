//! The slot table in storage with its timelines, and commits that the database can lose.
//!
//! A standby of the database that takes over may lack the last commits. A process that has a table which
//! storage does not know then reports it, and a new timeline begins.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use sestina_cluster::slot_map::same;
use sestina_proto as proto;
use sestina_runtime::guard;

use super::client::number_in;
use super::stores::{Archived, KeyOf, Storage};

/// How many of the last commits can be lost.
const KEPT: usize = 30;

/// How a change is undone.
#[derive(Debug)]
pub(super) enum Undo {
    /// The slot table was this one.
    Map(Box<proto::SlotMap>),
    /// An archive did not have the row with this id; it had the rows that were `moved`.
    Archived {
        archive: String,
        id: Bytes,
        moved: Vec<Archived>,
    },
    /// A user did not have this offline message.
    Stored { bare: String, key: KeyOf },
    /// This offline message was not delivered.
    Delivered { bare: String, key: KeyOf },
    /// No request with this key had written data.
    Answered { key: KeyOf },
    /// The last write of an entity had this epoch and counter, or there was none.
    Order {
        entity: String,
        before: Option<(u64, u64)>,
    },
    /// An entity had this value under this name, or none.
    Data {
        place: (String, String),
        before: Option<Bytes>,
    },
}

/// The last commits, and what the database has lost so far.
#[derive(Debug, Default)]
pub(super) struct Commits {
    last: VecDeque<Vec<Undo>>,
    /// The positions that the table has had, by version.
    positions: BTreeMap<u64, proto::Position>,
    /// The last token of a position; none is given twice.
    tokens: u64,
    /// How often the database has lost commits.
    pub(super) losses: u64,
    /// Numbers of messages whose archive rows were lost.
    pub(super) archived: BTreeSet<u64>,
    /// Numbers of messages whose offline rows were lost.
    pub(super) stored: BTreeSet<u64>,
    /// Users whose data was lost.
    pub(super) data: BTreeSet<String>,
    /// Numbers of messages that are stored again though they were delivered.
    pub(super) delivered: BTreeSet<u64>,
}

impl Commits {
    /// Notes how a commit is undone.
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
    /// Changes the table, in one commit on a timeline.
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

    /// Changes the table, in one commit.
    pub(super) fn change(&mut self, change: impl FnOnce(&mut proto::SlotMap)) {
        self.change_on(self.map.timeline, change);
    }

    /// Whether the table has had this position.
    pub(super) fn knows(&self, position: proto::Position) -> bool {
        position.timeline < self.map.timeline
            || self.commits.positions.get(&position.version) == Some(&position)
    }

    /// Whether a table with this position was lost, so that the process that has it is to report it.
    pub(super) fn has_lost(&self, position: proto::Position) -> bool {
        position.timeline > 0 && !self.knows(position) && guard!("timeline")
    }

    /// A process reports the position of its table: if that was lost, a new timeline begins.
    pub(super) fn report(&mut self, position: proto::Position) {
        if self.has_lost(position) {
            let timeline = self.map.timeline.max(position.timeline) + 1;
            self.change_on(timeline, |_| {});
        }
    }

    /// Whether moves are allowed that a router has chosen by a table with this position.
    pub(super) fn may_move(&self, known: proto::Position) -> bool {
        known.timeline == self.map.timeline && self.knows(known) || !guard!("timeline")
    }

    /// The number of a router in the table: owners of slots are written as such.
    fn place(&self, node: &proto::Node) -> Option<u32> {
        let routers = &self.map.routers;
        let at = routers.iter().position(|router| same(router, node))?;
        Some(at as u32 + 1)
    }

    /// Gives a slot of a router to another one; false if the router does not own it under this epoch.
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

    /// Raises the epoch of a slot above `above`, if `owner` owns it.
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

    /// A router tells on a new timeline which slots it holds, with their epochs; returns those of them that
    /// others own.
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

    /// A standby of the database takes over that lacks so many of the last commits.
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

    /// The same with all commits since the table had this version.
    pub(super) fn lose_commits_since(&mut self, version: u64) {
        while self.map.version > version && !self.commits.last.is_empty() {
            self.lose_commits(1);
        }
    }

    fn undo(&mut self, undo: Undo) {
        match undo {
            Undo::Map(mut before) => {
                // Routers that started since then are known from their leases.
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
            Undo::Answered { key } => {
                self.answers.remove(&key);
            }
            Undo::Order { entity, before } => {
                self.order.remove(&entity);
                self.order.extend(before.map(|at| (entity, at)));
            }
            Undo::Data { place, before } => {
                self.commits.data.insert(place.0.clone());
                match before {
                    Some(value) => drop(self.data.insert(place, value)),
                    None => drop(self.data.remove(&place)),
                }
            }
        }
    }
}
