//! The rules of the slot table, without a database: what a move does to a row, and the map.

use std::collections::{BTreeMap, BTreeSet};

use sestina_proto as proto;
use sestina_runtime::guard;

use crate::fence::SLOTS;
use crate::stores::lease::{LeaseRow, to_lease};

/// A row of the table: slot, owner's name and incarnation, epoch.
pub(crate) type SlotRow = (i64, String, i64, i64);

/// A holder: name and incarnation.
pub(crate) type Holder = (String, u64);

/// The row after the move, or None if the move must be refused: the table is not as the claimer
/// believes, or the holder's lease is still fresh and it has not released the slot.
pub(crate) fn moved(
    step: &proto::SlotMove,
    row: &SlotRow,
    fresh: &BTreeSet<Holder>,
) -> Option<SlotRow> {
    let (slot, owner, incarnation, epoch) = row;
    let same_holder = step.from_name == *owner
        && (owner.is_empty() || step.from_incarnation == *incarnation as u64);
    if !same_holder || i64::try_from(step.from_epoch) != Ok(*epoch) {
        return None;
    }
    let holder = (step.from_name.clone(), step.from_incarnation);
    if !step.released && fresh.contains(&holder) && guard!("two-authorities") {
        return None;
    }
    let (name, incarnation) = match &step.to {
        Some(to) => (to.name.clone(), to.incarnation as i64),
        None => (String::new(), 0),
    };
    let epoch = epoch
        .checked_add(1)?
        .max(i64::try_from(step.min_epoch).ok()?);
    Some((*slot, name, incarnation, epoch))
}

/// What an owner's assertion does to the rows, and the asserted slots that it does not own because
/// the table knows a higher epoch, or the same epoch of another holder. With an owner's `first`
/// assertion, rows that name it and are not asserted lose their owner: it had given these slots
/// away, and the database has lost that.
pub(super) fn asserted(
    rows: &[SlotRow],
    holder: &Holder,
    held: &BTreeMap<u32, u64>,
    first: bool,
) -> (Vec<SlotRow>, Vec<u32>) {
    let mut changed = Vec::new();
    let mut refused = Vec::new();
    for (slot, owner, incarnation, epoch) in rows {
        let its = *owner == holder.0 && *incarnation as u64 == holder.1;
        match held.get(&(*slot as u32)).map(|epoch| *epoch as i64) {
            Some(asserted) if asserted > *epoch || (asserted == *epoch && owner.is_empty()) => {
                changed.push((*slot, holder.0.clone(), holder.1 as i64, asserted));
            }
            // It may be about to take the slot under the row's epoch.
            Some(_) if its => {}
            Some(_) => refused.push(*slot as u32),
            None if its && first => changed.push((*slot, String::new(), 0, *epoch)),
            None => {}
        }
    }
    (changed, refused)
}

/// The published form: all owners, and all routers with a fresh lease, in order of name.
pub(super) fn publish(
    at: proto::Position,
    slots: &[SlotRow],
    leases: Vec<LeaseRow>,
    now: i64,
) -> proto::SlotMap {
    let mut routers: BTreeMap<Holder, proto::Node> = BTreeMap::new();
    let mut known: BTreeMap<Holder, proto::Node> = BTreeMap::new();
    for row in leases {
        let lease = to_lease(row, now);
        let Some(node) = lease.node else { continue };
        let holder = (node.name.clone(), node.incarnation);
        if lease.remaining_ms > 0 && node.role() == proto::NodeRole::Router {
            routers.insert(holder.clone(), node.clone());
        }
        known.insert(holder, node);
    }
    for (_, owner, incarnation, _) in slots.iter().filter(|row| !row.1.is_empty()) {
        let holder = (owner.clone(), *incarnation as u64);
        routers.entry(holder).or_insert_with_key(|holder| {
            known.get(holder).cloned().unwrap_or_else(|| proto::Node {
                name: holder.0.clone(),
                incarnation: holder.1,
                role: proto::NodeRole::Router.into(),
                ..proto::Node::default()
            })
        });
    }
    let places: BTreeMap<Holder, u32> = routers.keys().cloned().zip(1..).collect();
    let mut owners = vec![0; SLOTS as usize];
    let mut epochs = vec![0; SLOTS as usize];
    for (slot, owner, incarnation, epoch) in slots {
        let place = places.get(&(owner.clone(), *incarnation as u64));
        if let Some(entry) = owners.get_mut(*slot as usize) {
            *entry = place.copied().unwrap_or(0);
            epochs[*slot as usize] = *epoch as u64;
        }
    }
    let routers = routers.into_values().collect();
    proto::SlotMap {
        version: at.version,
        routers,
        owners,
        epochs,
        timeline: at.timeline,
        token: at.token,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn step(from: &str, epoch: u64) -> proto::SlotMove {
        proto::SlotMove {
            slot: 7,
            from_name: from.to_owned(),
            from_incarnation: 5,
            from_epoch: epoch,
            to: Some(proto::Node {
                name: "b".into(),
                incarnation: 6,
                ..proto::Node::default()
            }),
            min_epoch: 0,
            released: false,
        }
    }

    #[test]
    fn a_move_is_refused_unless_the_table_agrees_and_the_holder_is_gone() {
        let row = (7, "a".to_owned(), 5, 3);
        let none = BTreeSet::new();
        let fresh = BTreeSet::from([("a".to_owned(), 5)]);
        assert_eq!(
            moved(&step("a", 3), &row, &none).unwrap(),
            (7, "b".to_owned(), 6, 4)
        );
        assert_eq!(moved(&step("a", 2), &row, &none), None, "another epoch");
        assert_eq!(moved(&step("c", 3), &row, &none), None, "another owner");
        assert_eq!(moved(&step("", 3), &row, &none), None, "owned");
        let other = proto::SlotMove {
            from_incarnation: 9,
            ..step("a", 3)
        };
        assert_eq!(moved(&other, &row, &none), None, "another incarnation");
        assert_eq!(moved(&step("a", 3), &row, &fresh), None, "fresh");
        let released = proto::SlotMove {
            released: true,
            min_epoch: 40,
            ..step("a", 3)
        };
        assert_eq!(moved(&released, &row, &fresh).unwrap().3, 40);
    }

    #[test]
    fn an_assertion_gives_back_what_was_lost_and_gives_up_what_is_not_held() {
        let row =
            |slot, owner: &str, incarnation, epoch| (slot, owner.to_owned(), incarnation, epoch);
        let rows = [
            row(0, "a", 5, 3),
            row(1, "b", 6, 3),
            row(2, "b", 6, 9),
            row(3, "a", 5, 3),
            row(4, "", 0, 3),
            row(5, "b", 6, 3),
            row(6, "a", 4, 3),
        ];
        let held = BTreeMap::from([(0, 3), (1, 4), (2, 8), (4, 3), (5, 3)]);
        let me = ("a".to_owned(), 5);
        let (changed, refused) = asserted(&rows, &me, &held, true);
        let wanted = [row(1, "a", 5, 4), row(3, "", 0, 3), row(4, "a", 5, 3)];
        assert_eq!(changed, wanted);
        assert_eq!(refused, [2, 5], "a higher epoch, and the same of another");
        // What it was given since is not lost with a second one.
        let (changed, _) = asserted(&rows, &me, &held, false);
        assert_eq!(changed.iter().map(|row| row.0).collect::<Vec<_>>(), [1, 4]);
    }

    #[test]
    fn the_map_names_owners_and_fresh_routers() {
        let lease = |name: &str, incarnation, role: proto::NodeRole, expires| {
            (
                name.to_owned(),
                incarnation,
                i64::from(i32::from(role)),
                "h:1".into(),
                false,
                expires,
                false,
                0,
                1,
                1,
                String::new(),
            )
        };
        let leases = vec![
            lease("fresh", 1, proto::NodeRole::Router, 200),
            lease("edge", 1, proto::NodeRole::Edge, 200),
            lease("old", 1, proto::NodeRole::Router, 50),
            lease("unused", 1, proto::NodeRole::Router, 50),
        ];
        let slots = vec![
            (0, "old".into(), 1, 2),
            (1, "lost".into(), 9, 3),
            (2, String::new(), 0, 0),
        ];
        let at = proto::Position {
            version: 4,
            ..proto::Position::default()
        };
        let map = publish(at, &slots, leases, 100);
        let names: Vec<_> = map.routers.iter().map(|node| node.name.as_str()).collect();
        assert_eq!(names, ["fresh", "lost", "old"]);
        assert_eq!(map.routers[2].address, "h:1");
        assert_eq!(
            (map.version, &map.owners[..3], &map.epochs[..3]),
            (4, &[3, 2, 0][..], &[2, 3, 0][..])
        );
        assert_eq!((map.owners.len(), map.epochs.len()), (4096, 4096));
    }
}
