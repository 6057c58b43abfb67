#![allow(clippy::unwrap_used)]

use crate::worker::garden::{GARDEN, Garden, NONE, part, stored, told, with_presence};

/// A presence of that type from that nick.
fn of(type_: &str, nick: &str) -> (String, String) {
    (type_.to_owned(), format!("{GARDEN}/{nick}"))
}

/// Juliet is as the state store has her; her nurse has another nick, and Romeo has entered since.
fn garden() -> Garden {
    let fields = vec![
        stored("juliet", 1, 5, "here"),
        stored("nurse", 2, 6, "sighing"),
    ];
    let mut garden = Garden::new(fields);
    garden.router_tells(Vec::new());
    garden.edge_tells(vec![
        told("juliet", 1, NONE, 5, "here"),
        told("angelica", 2, NONE, 12, "sighing"),
        told("romeo", 4, NONE, 14, "in love"),
    ]);
    let romeo = told("romeo", 4, NONE, 14, "in love");
    garden.edge(part(vec![with_presence(romeo, "in love")], false));
    garden
}

#[test]
fn others_are_told_of_who_has_entered_and_of_a_new_nick() {
    let told = garden().told_of_others(1);
    let expected = [
        of("unavailable", "nurse"),
        of("", "angelica"),
        of("", "romeo"),
    ];
    assert_eq!(told, expected);
}

#[test]
fn a_session_is_told_of_its_own_new_nick() {
    let mut garden = garden();
    assert_eq!(garden.own_of(2), [of("", "angelica")]);
    assert_eq!(
        garden.told_of_others(2),
        [of("unavailable", "nurse"), of("", "romeo")]
    );
}

/// So many sessions that not all can be announced to all: those with the latest events are.
#[test]
fn a_large_room_announces_the_latest() {
    let all = 1..=200u64;
    let mut garden = Garden::new(Vec::new());
    garden.router_tells(Vec::new());
    let nick = |n: u64| format!("guest{n}");
    let guests = all.clone().map(|n| told(&nick(n), n, NONE, n, "here"));
    garden.edge_tells(guests.clone().collect());
    let guests = guests.map(|guest| with_presence(guest, "here"));
    garden.edge(part(guests.collect(), false));
    // 20,000 presences are 100 for each of 200 sessions, and one more.
    let heard = garden.told_of_others(1);
    let latest: Vec<(String, String)> = (100..=200).map(|n| of("", &nick(n))).collect();
    assert_eq!(heard, latest);
}
