//! Where a new row goes in its archive.

use std::collections::{BTreeMap, HashMap, HashSet};

use sestina_api::store::StoreError;
use sestina_proto as proto;
use sestina_runtime::clock::steady_ms;

/// Where a row is: its time, and its place in the order of the archive (epoch, counter).
pub(super) type Place = (i64, i64, i64);

/// The newest row of an archive; all -1 if it is empty.
pub(super) type Head = Place;

/// (epoch, counter) of a row; its range has been checked.
pub(super) fn order(row: &proto::ArchiveRow) -> (i64, i64) {
    (row.epoch as i64, row.counter as i64)
}

/// A row and where it goes.
#[derive(Debug, PartialEq)]
pub(super) struct Placed<'a> {
    pub(super) row: &'a proto::ArchiveRow,
    pub(super) place: Place,
}

/// The rows that the archive does not have, in order, each once: where it moves to, or else first.
pub(super) fn fresh<'a>(
    rows: &[&'a proto::ArchiveRow],
    known: &HashSet<Vec<u8>>,
) -> Vec<&'a proto::ArchiveRow> {
    let mut seen = HashMap::new();
    for row in rows
        .iter()
        .copied()
        .filter(|row| !known.contains(&row.stanza_id[..]))
    {
        let there = seen.entry(&row.stanza_id[..]).or_insert(row);
        if row.moves && order(there) < order(row) {
            *there = row;
        }
    }
    let mut fresh: Vec<&proto::ArchiveRow> = seen.into_values().collect();
    fresh.sort_by_key(|row| order(row));
    fresh
}

/// The lowest (epoch, counter) that comes at or before what the archive already has, if any: its
/// neighbours must be known to place it.
pub(super) fn late(fresh: &[&proto::ArchiveRow], head: Head) -> Option<(i64, i64)> {
    fresh
        .first()
        .map(|row| order(row))
        .filter(|first| *first <= (head.1, head.2))
}

/// Places the rows (in order). Each has its own time, unless a clock has stepped back a little since
/// the row before it. One that comes late, between rows that are there, is levelled with the row
/// after it in the same way; `tail` holds the times of what is there, from the neighbour before the
/// lowest late row on.
pub(super) fn place<'a>(
    fresh: &[&'a proto::ArchiveRow],
    head: Head,
    mut tail: BTreeMap<(i64, i64), i64>,
) -> Result<(Vec<Placed<'a>>, Head), StoreError> {
    let mut newest = head;
    let mut placed = Vec::with_capacity(fresh.len());
    for row in fresh {
        let at = order(row);
        let mut at_ms = row.at_ms;
        if at > (newest.1, newest.2) {
            at_ms = steady_ms(newest.0, at_ms);
            newest = (at_ms, at.0, at.1);
        } else {
            if tail.contains_key(&at) {
                return Err(StoreError::Invalid(format!(
                    "two rows of the archive {} have epoch {} and counter {}",
                    row.archive, row.epoch, row.counter
                )));
            }
            if let Some((_, before)) = tail.range(..at).next_back() {
                at_ms = steady_ms(*before, at_ms);
            }
            if let Some((_, after)) = tail.range(at..).next()
                && steady_ms(at_ms, *after) == at_ms
            {
                at_ms = *after;
            }
        }
        tail.insert(at, at_ms);
        placed.push(Placed {
            row,
            place: (at_ms, at.0, at.1),
        });
    }
    Ok((placed, newest))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn row(counter: u64, at_ms: i64) -> proto::ArchiveRow {
        let id = vec![counter as u8; 16];
        proto::ArchiveRow {
            epoch: 1,
            counter,
            at_ms,
            stanza_id: id.into(),
            ..Default::default()
        }
    }

    fn times(placed: &[Placed<'_>]) -> Vec<i64> {
        placed.iter().map(|placed| placed.place.0).collect()
    }

    #[test]
    fn a_small_step_back_of_the_clock_is_levelled() {
        let rows = [row(5, 100), row(6, 90), row(7, 120)];
        let rows: Vec<_> = rows.iter().collect();
        let (placed, newest) = place(&rows, (110, 1, 4), BTreeMap::new()).unwrap();
        assert_eq!(times(&placed), [110, 110, 120]);
        assert_eq!(newest, (120, 1, 7));
    }

    #[test]
    fn a_clock_that_was_ahead_falsifies_nothing_that_comes_later() {
        const YEAR: i64 = 365 * 86_400_000;
        let rows = [row(1, 100), row(2, YEAR), row(3, 300), row(4, 200)];
        let rows: Vec<_> = rows.iter().collect();
        let (placed, newest) = place(&rows, (-1, -1, -1), BTreeMap::new()).unwrap();
        assert_eq!(times(&placed), [100, YEAR, 300, 300]);
        assert_eq!(newest, (300, 1, 4));
        // The same where the newest row is one of that time.
        let rows = [row(5, 400)];
        let rows: Vec<_> = rows.iter().collect();
        let (placed, newest) = place(&rows, (YEAR, 1, 4), BTreeMap::new()).unwrap();
        assert_eq!((times(&placed), newest), (vec![400], (400, 1, 5)));
    }

    #[test]
    fn a_late_row_lies_between_its_neighbours() {
        const FAR: i64 = 86_400_000;
        let tail = BTreeMap::from([((1, 2), 50), ((1, 4), 60), ((1, 9), 90)]);
        let late_at = [(10, 50), (55, 55), (80, 60), (FAR, FAR)];
        for (at_ms, expected) in late_at {
            let rows = [row(3, at_ms)];
            let rows: Vec<_> = rows.iter().collect();
            assert_eq!(late(&rows, (90, 1, 9)), Some((1, 3)));
            let (placed, newest) = place(&rows, (90, 1, 9), tail.clone()).unwrap();
            assert_eq!(times(&placed), [expected]);
            assert_eq!(newest, (90, 1, 9), "the head stays");
        }
        let rows = [row(4, 60)];
        let rows: Vec<_> = rows.iter().collect();
        assert!(matches!(
            place(&rows, (90, 1, 9), tail),
            Err(StoreError::Invalid(_))
        ));
    }

    #[test]
    fn each_row_counts_once_and_in_order() {
        let rows = [row(3, 1), row(1, 1), row(3, 9), row(2, 1)];
        let rows: Vec<_> = rows.iter().collect();
        let known = HashSet::from([vec![2; 16]]);
        let fresh: Vec<_> = fresh(&rows, &known).iter().map(|row| row.counter).collect();
        assert_eq!(fresh, [1, 3]);
    }
}
