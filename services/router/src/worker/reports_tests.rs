#![allow(clippy::unwrap_used)]

use super::*;
use crate::worker::testing::LANE;

fn held(number: u64, payload: u32) -> proto::Outbound {
    proto::Outbound {
        number,
        payload,
        ..Default::default()
    }
}

fn session(handle: u64, held: Vec<proto::Outbound>, more: bool) -> proto::SessionReport {
    proto::SessionReport {
        handle,
        held,
        more,
        ..Default::default()
    }
}

fn part(report: u64, part: u32, sessions: Vec<proto::SessionReport>) -> proto::EpochReport {
    let payload = |id: &str| proto::Stanza {
        id: id.to_owned(),
        ..Default::default()
    };
    proto::EpochReport {
        sessions,
        report,
        part,
        more: true,
        payloads: vec![payload("a"), payload("b")],
    }
}

/// Sessions with the numbers and stanzas that are held.
fn all(reports: &[(LaneRef, proto::EpochReport)]) -> Vec<(u64, Vec<(u64, String)>)> {
    let [(_, report)] = reports else {
        panic!("{} reports", reports.len())
    };
    let held = |s: &proto::SessionReport| {
        let held = s.held.iter();
        held.map(|h| (h.number, h.stanza.clone().unwrap_or_default().id))
            .collect()
    };
    report
        .sessions
        .iter()
        .map(|s| (s.handle, held(s)))
        .collect()
}

#[test]
fn parts_are_put_together_and_each_delivery_gets_its_stanza() {
    let mut reports = Vec::new();
    let first = vec![
        session(1, vec![held(1, 1), held(2, 2)], false),
        session(2, vec![held(1, 1)], true),
    ];
    assert!(take(&mut reports, LANE, part(5, 0, first)));
    let mut rest = session(2, vec![held(2, 0), held(3, 2)], false);
    rest.acked = 2;
    let second = vec![rest, session(3, Vec::new(), false)];
    assert!(take(&mut reports, LANE, part(5, 1, second)));
    let of = |n, id: &str| (n, id.to_owned());
    assert_eq!(
        all(&reports),
        [
            (1, vec![of(1, "a"), of(2, "b")]),
            (2, vec![of(1, "a"), of(2, ""), of(3, "b")]),
            (3, vec![]),
        ]
    );
    assert_eq!(reports[0].1.sessions[1].acked, 2, "the newer number counts");
}

#[test]
fn a_report_that_begins_anew_replaces_what_came_before() {
    let mut reports = Vec::new();
    let one = |handle| vec![session(handle, Vec::new(), false)];
    assert!(take(&mut reports, LANE, part(5, 0, one(1))));
    assert!(take(&mut reports, LANE, part(5, 1, one(2))));
    assert!(!take(&mut reports, LANE, part(5, 1, one(9))), "repeated");
    assert!(
        !take(&mut reports, LANE, part(5, 3, one(9))),
        "one is missing"
    );
    assert!(
        !take(&mut reports, LANE, part(6, 1, one(9))),
        "its beginning"
    );
    assert!(take(&mut reports, LANE, part(6, 0, one(3))));
    // What was still on its way on the broken lane.
    assert!(!take(&mut reports, LANE, part(5, 2, one(9))));
    assert!(!take(&mut reports, LANE, part(5, 0, one(9))));
    assert!(take(&mut reports, LANE, part(6, 1, one(4))));
    assert_eq!(all(&reports), [(3, vec![]), (4, vec![])]);
}

#[test]
fn a_session_that_has_gone_between_two_parts_is_not_there() {
    let mut reports = Vec::new();
    let first = vec![session(2, vec![held(1, 1)], true)];
    assert!(take(&mut reports, LANE, part(5, 0, first)));
    let second = vec![session(3, Vec::new(), false)];
    assert!(take(&mut reports, LANE, part(5, 1, second)));
    assert_eq!(all(&reports), [(3, vec![])]);
}
