#![allow(clippy::unwrap_used)]

use sestina_proto as proto;
use sestina_xmpp::ns;
use sestina_xmpp::stanza::{Kind, Stanza};
use sestina_xmpp::xml::Element;

use super::{QUESTIONS, WAIT_MS, indexes};
use crate::worker::verona::{Verona, message};

fn question(id: &str, after: Option<&str>) -> Stanza {
    let mut query = Element::new("query", ns::MAM);
    let mut set = Element::new("set", ns::RSM);
    if let Some(after) = after {
        set.push(Element::new("after", ns::RSM).with_text(after));
    }
    set.push(Element::new("max", ns::RSM).with_text("250"));
    query.push(set);
    let mut stanza = Stanza::new(Kind::Iq);
    stanza.type_ = "set".to_owned();
    stanza.id = id.to_owned();
    stanza.push_element(&query);
    stanza
}

fn between<'a>(text: &'a str, from: &str, to: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(from)?;
    Some(rest.split_once(to)?.0)
}

/// The numbers in a page that has been sent whole, its last id, and whether it is the last page.
fn page(verona: &mut Verona) -> (Vec<u8>, String, bool) {
    let mut numbers = Vec::new();
    loop {
        let inbox = verona.has(2);
        assert!(!inbox.is_empty(), "the answer does not come");
        for payload in &inbox {
            if let Some(number) = between(payload, "<body>", "<") {
                numbers.push(number.parse().unwrap());
            } else if payload.contains("<fin") {
                let last = between(payload, "<last>", "<").unwrap().to_owned();
                assert!(!last.is_empty());
                let complete = payload.contains("complete=");
                verona.reads(2);
                return (numbers, last, complete);
            }
        }
        verona.reads(2);
    }
}

#[test]
fn a_page_that_is_larger_than_the_client_has_room_for_is_shorter_and_says_so() {
    let mut verona = Verona::new();
    verona.archived(100, 60_000);
    let (mut all, mut after, mut pages) = (Vec::new(), None, 0);
    loop {
        pages += 1;
        verona.says(2, question(&pages.to_string(), after.as_deref()));
        let (numbers, last, complete) = page(&mut verona);
        let last_number = *numbers.last().unwrap();
        assert_eq!(last, format!("{last_number:02x}").repeat(16));
        assert!(numbers.len() < 20);
        all.extend(numbers);
        if complete {
            break;
        }
        after = Some(last);
    }
    assert_eq!(all, (1..=100).collect::<Vec<u8>>());
    assert!(pages > 5 && verona.closed.is_empty(), "{pages} pages");
}

#[test]
fn questions_wait_for_a_slow_client_and_are_bounded() {
    let mut verona = Verona::new();
    verona.archived(100, 60_000);
    for n in 0..QUESTIONS + 3 {
        verona.says(2, question(&n.to_string(), None));
    }
    assert!(verona.has(2).len() < 12, "the others wait");
    let mut texts = Vec::new();
    while !verona.has(2).is_empty() {
        texts.extend(verona.has(2));
        verona.reads(2);
    }
    let count = |what: &str| texts.iter().filter(|t| t.contains(what)).count();
    assert_eq!(count("<fin"), QUESTIONS + 1, "all but two are answered");
    assert_eq!(count("resource-constraint"), 2);
    assert!(count("<result") > QUESTIONS * 8);
    assert!(verona.closed.is_empty());
}

#[test]
fn a_question_of_a_client_that_does_not_acknowledge_is_answered_after_a_while() {
    let mut verona = Verona::new();
    verona.archived(9, 100_000);
    verona.says(2, question("1", None));
    verona.says(2, question("2", None));
    // All that it was sent, and what follows when that is written.
    verona.writes(2);
    verona.writes(2);
    let before = verona.has(2).len();
    verona.router.now_ms += WAIT_MS;
    for _ in 0..3 {
        verona.router.now_ms += verona.router.config.times.tick_ms;
        verona.turn(Vec::new());
    }
    let later = verona.has(2).split_off(before);
    assert!(!later.is_empty() && later.iter().all(|t| t.contains("<result")));
    verona.writes(2);
    assert!(verona.has(2).last().unwrap().contains("<fin"));
}

#[test]
fn what_a_client_does_not_read_is_no_reason_to_hold_others_back() {
    let mut verona = Verona::new();
    verona.archived(100, 60_000);
    verona.says(2, question("1", None));
    verona.says(2, question("2", None));
    verona.says(1, message("juliet@c.example/balcony", "hear"));
    let mut texts = Vec::new();
    while !verona.has(2).is_empty() {
        texts.extend(verona.has(2));
        verona.reads(2);
    }
    let heard = texts.iter().position(|t| t.contains("hear")).unwrap();
    let fins = texts[..heard].iter().filter(|t| t.contains("<fin")).count();
    assert_eq!(fins, 1, "it came before the second page");
}

#[test]
fn the_key_of_a_row_does_not_depend_on_its_place() {
    let row = |id: [u8; 4]| proto::ArchiveRow {
        stanza_id: id.to_vec().into(),
        ..proto::ArchiveRow::default()
    };
    let (a, b, c) = (row([9, 9, 9, 1]), row([9, 9, 9, 2]), row([1, 0, 0, 0]));
    let all = indexes(&[a.clone(), b.clone(), c.clone()]);
    assert_eq!(all, [0x09_0909, 0x09_090a, 0x01_0000]);
    assert_eq!(indexes(&[c, b, a]), [0x01_0000, 0x09_090a, 0x09_0909]);
    let last = [row([0xff; 4]), row([0xff, 0xff, 0xff, 0])];
    assert_eq!(indexes(&last), [0, 0xff_ffff]);
}
