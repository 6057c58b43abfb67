#![allow(clippy::unwrap_used)]

use sestina_xmpp::ns;
use sestina_xmpp::stanza::{Kind, Stanza};
use sestina_xmpp::xml::Element;

use crate::worker::verona::{Verona, message};

const ROOM: &str = "masque@muc.c.example";
/// Together more than a session's queue holds.
const GUESTS: u64 = 30;
const BYTES: usize = 160_000;

fn presence(nick: &str, type_: &str, bytes: usize) -> Stanza {
    let mut stanza = Stanza::new(Kind::Presence);
    stanza.to = format!("{ROOM}/{nick}");
    stanza.type_ = type_.to_owned();
    if type_.is_empty() {
        stanza.push_element(&Element::new("x", ns::MUC));
        let status = format!("<status>{nick} {}</status>", " ".repeat(bytes));
        stanza.push_raw(status.as_bytes(), "status", ns::CLIENT);
    }
    stanza
}

/// A room that is full of large presences.
fn masque() -> Verona {
    let mut verona = Verona::new();
    verona.owns(ROOM);
    for guest in 0..GUESTS {
        verona.guest(&format!("guest{guest:02}@c.example/x"), 100 + guest);
    }
    for guest in 0..GUESTS {
        let handle = 100 + guest;
        verona.says(handle, presence(&format!("g{guest:02}"), "", BYTES));
        // The guests read what they are told, so that nothing waits for them.
        for known in 100..=handle {
            while !verona.has(known).is_empty() {
                verona.reads(known);
            }
        }
    }
    verona
}

/// Nicks of the presences that a client reads until nothing more comes.
fn hears(verona: &mut Verona, handle: u64) -> Vec<String> {
    let mut heard = Vec::new();
    while !verona.has(handle).is_empty() {
        for payload in verona.has(handle) {
            if let Some((_, rest)) = payload.split_once("<status>") {
                heard.push(rest.split(' ').next().unwrap().to_owned());
            } else if payload.contains("110") {
                heard.push("me".to_owned());
            } else if let Some((_, rest)) = payload.split_once("<body>") {
                heard.push(rest.split('<').next().unwrap().to_owned());
            }
        }
        verona.reads(handle);
    }
    heard
}

#[test]
fn a_newcomer_is_told_of_all_occupants_as_fast_as_it_reads() {
    let mut verona = masque();
    verona.says(2, presence("juliet", "", 1));
    let first = verona.has(2).len();
    assert!(first < 8, "{first} at once");
    let mut expected: Vec<String> = (0..GUESTS).map(|n| format!("g{n:02}")).collect();
    expected.push("juliet".to_owned());
    assert_eq!(hears(&mut verona, 2), expected);
    assert!(verona.closed.is_empty(), "{:?}", verona.closed);
}

#[test]
fn messages_during_a_join_are_history_and_occupants_that_leave_are_gone() {
    let mut verona = masque();
    verona.says(2, presence("juliet", "", 1));
    let mut hello = message(ROOM, "hello");
    hello.type_ = "groupchat".to_owned();
    verona.says(100, hello);
    // One that was told already, and one that was not.
    verona.says(101, presence("g01", "unavailable", 0));
    verona.says(129, presence("g29", "unavailable", 0));
    let heard = hears(&mut verona, 2);
    let rooms = verona.members(ROOM);
    assert_eq!(rooms.len() as u64, GUESTS - 1, "{rooms:?}");
    assert!(!heard.contains(&"g29".to_owned()));
    let place = |what: &str| heard.iter().position(|h| h == what).unwrap();
    assert!(place("juliet") < place("hello"), "{heard:?}");
    assert_eq!(heard.iter().filter(|h| *h == "hello").count(), 1);
}

#[test]
fn a_newcomer_that_gives_up_is_not_in() {
    let mut verona = masque();
    verona.says(2, presence("juliet", "", 1));
    verona.says(2, presence("juliet", "unavailable", 0));
    hears(&mut verona, 2);
    assert_eq!(verona.members(ROOM).len() as u64, GUESTS);
    verona.says(2, presence("juliet", "", 1));
    hears(&mut verona, 2);
    assert_eq!(verona.members(ROOM).len() as u64, GUESTS + 1);
}

/// The first event of an owner has a number that does not follow the last one of its predecessor.
#[test]
fn a_newcomer_is_told_all_by_a_new_owner_of_the_room() {
    let mut verona = masque();
    let room = sestina_xmpp::jid::Jid::from_wire(ROOM);
    let slot = verona.router.config.slot_of(&room);
    let slot = verona.router.worker.slots.get_mut(slot).unwrap();
    slot.rooms.get_mut(&room).unwrap().log.seq = 1;
    verona.says(2, presence("juliet", "", 1));
    let heard = hears(&mut verona, 2);
    assert_eq!(heard.len() as u64, GUESTS + 1, "{heard:?}");
    assert_eq!(verona.members(ROOM).len() as u64, GUESTS + 1);
}
