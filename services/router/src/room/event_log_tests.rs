#![allow(clippy::unwrap_used)]

use sestina_xmpp::jid::Jid;
use sestina_xmpp::stanza::{Kind, Stanza};
use sestina_xmpp::xml::Element;

use super::*;
use crate::worker::verona::{Verona, unavailable};

/// Also run as the child of the next test, with the guard off.
#[test]
fn the_numbers_of_an_epoch_are_above_all_of_earlier_ones() {
    sestina_runtime::faults_from_env().unwrap();
    let mut log = EventLog::new(7, 0);
    let stored = log.next_seq(3);
    // These left while the store was unavailable, and receivers drop what is not above them.
    let lost = [log.next_seq(3), log.next_seq(3)];
    assert_eq!(lost, [stored + 1, stored + 2]);
    let mut restored = EventLog::new(7, stored);
    let next = restored.next_seq(4);
    assert!(next > lost[1], "{next} after {}", lost[1]);
}

#[test]
fn the_guard_of_room_numbers_is_missed() {
    let name = "room::event_log::tests::the_numbers_of_an_epoch_are_above_all_of_earlier_ones";
    let text = sestina_runtime::mutation::test_without("room-sequence", name).unwrap();
    assert!(text.contains("1 failed"), "{text}");
}

#[test]
fn a_session_that_has_left_is_forgotten_when_all_has_been_told() {
    const ROOM: &str = "garden@muc.c.example";
    let mut verona = Verona::new();
    verona.owns(ROOM);
    for handle in [1, 2] {
        let mut enters = Stanza::new(Kind::Presence);
        enters.to = format!("{ROOM}/{handle}");
        enters.push_element(&Element::new("x", sestina_xmpp::ns::MUC));
        verona.says(handle, enters);
    }
    assert_eq!(verona.members(ROOM), ["1", "2"]);
    let mut leaves = unavailable();
    leaves.to = format!("{ROOM}/1");
    verona.says(1, leaves);
    assert_eq!(verona.members(ROOM), ["2"]);
    let jid = Jid::from_wire(ROOM);
    let slot = verona.router.config.slot_of(&jid);
    let room = &verona.router.worker.slots.get_mut(slot).unwrap().rooms[&jid];
    assert!(room.log.events.is_empty());
    assert_eq!(room.log.last_sent.len(), 1);
}
