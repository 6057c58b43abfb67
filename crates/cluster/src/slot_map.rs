//! The published slot table, checked once and shared by all parts of a process.

use std::sync::Arc;

use arc_swap::ArcSwap;
use sestina_proto as proto;
use sestina_runtime::guard;
use tokio::sync::watch;

use crate::slots::SLOTS;

/// An invalid slot map; a defect of the sender.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SlotMapError {
    /// The map has not one entry for each slot.
    #[error("slot map {version} has {owners} owners and {epochs} epochs instead of {SLOTS} each")]
    Length {
        /// The map's version.
        version: u64,
        /// How many owners it has.
        owners: usize,
        /// How many epochs it has.
        epochs: usize,
    },
    /// A slot names an owner that is not in the list of routers.
    #[error("slot map {version} names router {owner} for slot {slot} but has only {routers}")]
    Owner {
        /// The map's version.
        version: u64,
        /// Which slot.
        slot: usize,
        /// The owner's number in the list.
        owner: u32,
        /// How many routers the list has.
        routers: usize,
    },
}

/// Slot → owner and epoch, of one version.
#[derive(Clone, Debug, PartialEq)]
pub struct SlotTable {
    map: proto::SlotMap,
}

impl Default for SlotTable {
    fn default() -> SlotTable {
        SlotTable::empty()
    }
}

impl SlotTable {
    /// The table before any other is known: version 0, no owners.
    pub fn empty() -> SlotTable {
        SlotTable {
            map: proto::SlotMap {
                version: 0,
                routers: Vec::new(),
                owners: vec![0; SLOTS],
                epochs: vec![0; SLOTS],
                ..proto::SlotMap::default()
            },
        }
    }

    /// Checks a map from the wire.
    pub fn new(map: proto::SlotMap) -> Result<SlotTable, SlotMapError> {
        if map.owners.len() != SLOTS || map.epochs.len() != SLOTS {
            return Err(SlotMapError::Length {
                version: map.version,
                owners: map.owners.len(),
                epochs: map.epochs.len(),
            });
        }
        let routers = map.routers.len();
        let stranger = map
            .owners
            .iter()
            .position(|owner| *owner as usize > routers);
        if let Some(slot) = stranger {
            let owner = map.owners[slot];
            return Err(SlotMapError::Owner {
                version: map.version,
                slot,
                owner,
                routers,
            });
        }
        Ok(SlotTable { map })
    }

    /// The owner of a slot, if it has one.
    pub fn owner(&self, slot: u16) -> Option<&proto::Node> {
        let index = *self.map.owners.get(usize::from(slot))?;
        self.map.routers.get((index as usize).checked_sub(1)?)
    }

    /// Whether this incarnation owns the slot.
    pub fn owned_by(&self, slot: u16, node: &proto::Node) -> bool {
        self.owner(slot).is_some_and(|owner| same(owner, node))
    }

    /// The epoch of a slot; 0 if it never had an owner.
    pub fn epoch(&self, slot: u16) -> u64 {
        self.map.epochs.get(usize::from(slot)).copied().unwrap_or(0)
    }

    /// The table's version; on one timeline a higher one is newer.
    pub fn version(&self) -> u64 {
        self.map.version
    }

    /// The table's position; see [`newer`].
    pub fn position(&self) -> proto::Position {
        self.map.position()
    }

    /// All slots of this incarnation, in ascending order.
    pub fn slots_of(&self, node: &proto::Node) -> impl Iterator<Item = u16> {
        let wanted: Vec<bool> = self
            .map
            .routers
            .iter()
            .map(|router| same(router, node))
            .collect();
        let owners = self.map.owners.iter().enumerate();
        owners.filter_map(move |(slot, owner)| {
            let index = (*owner as usize).checked_sub(1)?;
            (*wanted.get(index)?).then_some(slot as u16)
        })
    }

    /// The routers that the table names, with and without slots.
    pub fn routers(&self) -> &[proto::Node] {
        &self.map.routers
    }

    /// The form for the wire.
    pub fn as_proto(&self) -> &proto::SlotMap {
        &self.map
    }
}

/// Whether two nodes are the same incarnation of the same process. Address and draining flag do not
/// matter.
pub fn same(a: &proto::Node, b: &proto::Node) -> bool {
    a.incarnation == b.incarnation && a.name == b.name
}

/// Whether a table at `a` is newer than one at `b`: of a later timeline, or of the same one and of
/// a higher version. A new timeline continues from an older version, because the database has lost
/// the newer ones.
pub fn newer(a: proto::Position, b: proto::Position) -> bool {
    if guard!("timeline") {
        a.place() > b.place()
    } else {
        a.version > b.version
    }
}

/// The newest table that this process knows: read without a lock, replaced only by a newer table.
#[derive(Clone, Debug)]
pub struct SharedSlotTable {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    table: ArcSwap<SlotTable>,
    position: watch::Sender<proto::Position>,
}

impl Default for SharedSlotTable {
    fn default() -> SharedSlotTable {
        SharedSlotTable::new(SlotTable::empty())
    }
}

impl SharedSlotTable {
    /// Starts with this table.
    pub fn new(table: SlotTable) -> SharedSlotTable {
        let position = watch::Sender::new(table.position());
        let table = ArcSwap::from_pointee(table);
        SharedSlotTable {
            shared: Arc::new(Shared { table, position }),
        }
    }

    /// The table as it is now.
    pub fn load(&self) -> Arc<SlotTable> {
        self.shared.table.load_full()
    }

    /// Takes the table if it is newer than the present one; returns whether it was.
    pub fn replace_if_newer(&self, table: SlotTable) -> bool {
        let table = Arc::new(table);
        // The watch's lock makes the comparison and the swap one step.
        self.shared.position.send_if_modified(|position| {
            let newer = newer(table.position(), *position) || !guard!("newer-table");
            if newer {
                *position = table.position();
                self.shared.table.store(table.clone());
            }
            newer
        })
    }

    /// The same for a map from the wire, which is checked first.
    pub fn offer(&self, map: proto::SlotMap) -> Result<bool, SlotMapError> {
        if !newer(map.position(), self.shared.table.load().position()) && guard!("newer-table") {
            return Ok(false);
        }
        Ok(self.replace_if_newer(SlotTable::new(map)?))
    }

    /// Notifies of the position of each newer table (or of the last, if several came meanwhile).
    pub fn subscribe(&self) -> watch::Receiver<proto::Position> {
        self.shared.position.subscribe()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn node(name: &str, incarnation: u64) -> proto::Node {
        proto::Node {
            name: name.into(),
            incarnation,
            ..Default::default()
        }
    }

    fn map(version: u64) -> proto::SlotMap {
        let mut map = SlotTable::empty().map;
        map.version = version;
        map.routers = vec![node("a", 1), node("b", 2)];
        map.owners[5] = 2;
        map.epochs[5] = 9;
        map
    }

    #[test]
    fn reads_owner_and_epoch() {
        let table = SlotTable::new(map(3)).unwrap();
        assert_eq!(table.owner(5).unwrap().name, "b");
        assert_eq!(
            (table.epoch(5), table.epoch(6), table.epoch(5000)),
            (9, 0, 0)
        );
        assert!(table.owner(6).is_none() && table.owner(5000).is_none());
        assert!(table.owned_by(5, &node("b", 2)) && !table.owned_by(5, &node("b", 3)));
        assert_eq!(table.slots_of(&node("b", 2)).collect::<Vec<_>>(), [5]);
        assert_eq!(table.slots_of(&node("b", 3)).count(), 0);
    }

    #[test]
    fn refuses_maps_that_make_no_sense() {
        let mut short = map(1);
        short.epochs.pop();
        assert!(matches!(
            SlotTable::new(short),
            Err(SlotMapError::Length { epochs: 4095, .. })
        ));
        let mut stranger = map(1);
        stranger.owners[7] = 3;
        let error = SlotTable::new(stranger).unwrap_err();
        assert!(matches!(
            error,
            SlotMapError::Owner {
                slot: 7,
                owner: 3,
                routers: 2,
                ..
            }
        ));
    }

    /// Also run as the child of the next test, with the guard off.
    #[tokio::test]
    async fn only_newer_tables_are_taken() {
        sestina_runtime::faults_from_env().unwrap();
        let shared = SharedSlotTable::default();
        let mut versions = shared.subscribe();
        assert!(shared.offer(map(2)).unwrap());
        versions.changed().await.unwrap();
        assert_eq!(versions.borrow_and_update().version, 2);
        assert!(!shared.offer(map(2)).unwrap());
        assert!(!shared.offer(map(1)).unwrap());
        assert!(!versions.has_changed().unwrap());
        assert_eq!(shared.load().version(), 2);
        let mut broken = map(3);
        broken.owners.clear();
        assert!(shared.offer(broken).is_err());
        assert_eq!(shared.load().epoch(5), 9);
    }

    #[test]
    fn the_guard_of_newer_tables_is_missed() {
        let name = "slot_map::tests::only_newer_tables_are_taken";
        let text = sestina_runtime::mutation::test_without("newer-table", name).unwrap();
        assert!(text.contains("1 failed"), "{text}");
    }

    #[test]
    fn a_later_timeline_is_taken_though_its_version_is_lower() {
        let shared = SharedSlotTable::default();
        let at = |timeline, version| proto::SlotMap {
            timeline,
            ..map(version)
        };
        assert!(shared.offer(at(1, 60)).unwrap());
        assert!(shared.offer(at(2, 58)).unwrap());
        assert!(!shared.offer(at(1, 61)).unwrap());
        assert!(shared.offer(at(2, 59)).unwrap());
        assert_eq!(shared.load().position().place(), (2, 59));
    }
}
