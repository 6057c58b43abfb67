//! A new timeline of the slot table: the database has lost commits, and owners assert their slots.

use sestina_proto as proto;

use crate::slot_map::SlotTable;

/// The live processes that know only an older timeline of the table: a router among them may own
/// slots that the table has lost, an edge may send to owners that the table does not know. A
/// process that knows no table owns nothing.
pub fn awaited<'a>(
    table: &SlotTable,
    live: &'a [proto::Node],
) -> impl Iterator<Item = &'a proto::Node> {
    let timeline = table.position().timeline;
    live.iter().filter(move |node| {
        let installed = node.installed.unwrap_or_default();
        installed.timeline > 0 && installed.timeline < timeline
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_process_that_knows_an_older_timeline_is_awaited() {
        let node = |name: &str, timeline| proto::Node {
            name: name.to_owned(),
            installed: Some(proto::Position {
                timeline,
                version: 9,
                token: 1,
            }),
            ..proto::Node::default()
        };
        let table = SlotTable::new(proto::SlotMap {
            timeline: 3,
            version: 5,
            ..SlotTable::empty().as_proto().clone()
        });
        let live = [node("old", 2), node("new", 3), node("none", 0)];
        let awaited: Vec<_> = awaited(&table.unwrap(), &live).collect();
        assert_eq!(awaited, [&live[0]]);
    }
}
