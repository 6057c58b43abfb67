#![allow(clippy::unwrap_used)]

use prost::Message as _;
use sestina_api::state_store::{ReplicaOp, StateStoreError};
use sestina_proto as proto;
use sestina_xmpp::jid::Jid;

use crate::config::{RouterConfig, RouterLimits};
use crate::room::OwnedRoom;
use crate::worker::commit::tests::{Owner, found};
use crate::worker::turn::Worker;

/// A room whole, with its long name, has about 1,600 bytes; of an update about 850 bytes are not the field's value.
const LIMIT: usize = 6_000;

/// The owner of a slot without objects in the state store, but for a session.
fn owner(limit: usize) -> Owner {
    let mut owner = Owner::new(RouterConfig {
        limits: RouterLimits {
            replica_commit_bytes: limit,
            ..RouterLimits::default()
        },
        ..RouterConfig::default()
    });
    while taken(&mut owner) {}
    owner
}

/// The same with rooms that the state store has.
fn owner_of(rooms: &[&str]) -> Owner {
    let mut owner = owner(LIMIT);
    for room in rooms {
        input(&mut owner, &[(room, 1)]);
    }
    owner.wait(1);
    while taken(&mut owner) {}
    owner
}

fn jid(room: &str) -> Jid {
    let jid = format!("{room}{}@muc.c.example", "-".repeat(700));
    Jid::from_wire(&jid)
}

/// One input changes so many bytes of these rooms.
fn input(owner: &mut Owner, changes: &[(&str, usize)]) {
    let Worker { slots, core, .. } = &mut owner.router.worker;
    let slot = slots.get_mut(owner.slot).unwrap();
    slot.together(|slot| {
        for (room, bytes) in changes {
            let room = jid(room);
            let state = proto::RoomState {
                jid: room.as_str().to_owned(),
                ..proto::RoomState::default()
            };
            let meta = ("meta".to_owned(), state.encode_to_vec().into());
            let new = || OwnedRoom::from_replica(vec![meta]).unwrap();
            slot.rooms.entry(room.clone()).or_insert_with(new);
            let set = vec![("x".to_owned(), vec![0; *bytes].into())];
            slot.replica_room(core, &room, set, Vec::new(), Some(1), None);
        }
    });
}

/// The store takes the write that is under way, and has done none that it did not answer; whether another left.
fn taken(owner: &mut Owner) -> bool {
    let slot = owner.router.worker.slots.get_mut(owner.slot).unwrap();
    let acknowledged = slot.replica.acked().n;
    owner.answer(Ok(found(acknowledged)))
}

/// No answer comes. When it is time the slot writes again; checks of other objects are taken.
fn times_out(owner: &mut Owner) {
    let error = StateStoreError::Unavailable("no answer".to_owned());
    assert!(!owner.answer(Err(error)), "it waits before it tries again");
    assert!(owner.wait(owner.router.config.times.state_store_retry_ms));
    while written(owner).is_empty() && !is_part(owner) {
        assert!(taken(owner));
    }
}

/// Whether the write that is under way puts a part aside.
fn is_part(owner: &Owner) -> bool {
    let mut ops = owner.ops.iter();
    ops.any(|op| matches!(op, ReplicaOp::Stage { .. }))
}

/// The kind of each change of a room in the write that is under way, and the first letter of its room.
fn written(owner: &Owner) -> Vec<(&'static str, String)> {
    let ops = owner.ops.iter().filter_map(|op| match op {
        ReplicaOp::Replace { object, .. } => Some(("replace", object)),
        ReplicaOp::Update { object, .. } => Some(("update", object)),
        ReplicaOp::ReplaceStaged { object, .. } => Some(("replace staged", object)),
        ReplicaOp::UpdateStaged { object, .. } => Some(("update staged", object)),
        ReplicaOp::Delete { object } => Some(("delete", object)),
        ReplicaOp::Stage { .. } => None,
    });
    let rooms = ops.filter_map(|(kind, object)| {
        let letter = object.strip_prefix("r:")?.get(..1)?;
        Some((kind, letter.to_owned()))
    });
    rooms.collect()
}

fn all(kind: &'static str, rooms: &[&str]) -> Vec<(&'static str, String)> {
    let rooms = rooms.iter();
    rooms.map(|room| (kind, (*room).to_owned())).collect()
}

/// The parts of a group are taken until its last script is under way; how many writes they were.
fn until_last_script(owner: &mut Owner) -> usize {
    let mut parts = 0;
    while is_part(owner) {
        assert_eq!(written(owner), [], "a part changes no room");
        parts += 1;
        assert!(taken(owner));
    }
    parts
}

#[test]
fn two_rooms_changed_by_one_input_are_in_one_commit() {
    let mut owner = owner_of(&["a", "b", "c"]);
    input(&mut owner, &[("c", 2_000)]);
    input(&mut owner, &[("a", 1_500), ("b", 1_500)]);
    // The first of them would fit behind the other room.
    assert!(owner.wait(1));
    assert_eq!(written(&owner), all("update", &["c"]));
    assert!(taken(&mut owner));
    assert_eq!(written(&owner), all("update", &["a", "b"]));
}

#[test]
fn two_rooms_of_a_commit_that_timed_out_are_written_again_together() {
    let mut owner = owner_of(&["a", "b", "c"]);
    input(&mut owner, &[("a", 1_500), ("b", 1_500)]);
    assert!(owner.wait(1));
    assert_eq!(written(&owner), all("update", &["a", "b"]));
    for _ in 0..2 {
        input(&mut owner, &[("c", 3_000)]);
        times_out(&mut owner);
        assert_eq!(written(&owner), all("update", &["c"]));
        assert!(taken(&mut owner));
        assert_eq!(written(&owner), all("replace", &["a", "b"]));
    }
}

#[test]
fn a_group_above_the_bound_takes_effect_in_one_last_script() {
    let mut owner = owner_of(&["a", "b"]);
    input(&mut owner, &[("a", 3_000), ("b", 3_000)]);
    assert!(owner.wait(1));
    assert_eq!(until_last_script(&mut owner), 2);
    assert_eq!(written(&owner), all("update staged", &["a", "b"]));
    times_out(&mut owner);
    assert_eq!(written(&owner), all("replace", &["a", "b"]));
}

#[test]
fn rooms_of_a_group_whose_part_was_lost_are_written_again_together() {
    let rooms = ["a", "b", "c", "d"];
    let mut owner = owner(LIMIT);
    input(&mut owner, &rooms.map(|room| (room, 1)));
    assert!(owner.wait(1));
    for _ in 0..2 {
        assert!(matches!(owner.ops[0], ReplicaOp::Stage { base: None, .. }));
        times_out(&mut owner);
    }
    assert_eq!(until_last_script(&mut owner), 1);
    assert_eq!(written(&owner), all("replace staged", &rooms));
    while taken(&mut owner) {}
    // The store has the group: its rooms have nothing to do with each other any more.
    input(&mut owner, &[("a", 4_000)]);
    input(&mut owner, &[("b", 4_000)]);
    assert!(owner.wait(1));
    assert_eq!(written(&owner), all("update", &["a"]));
}

#[test]
fn groups_with_a_room_in_common_are_one_group() {
    let mut owner = owner_of(&["a", "b", "c", "d"]);
    input(&mut owner, &[("c", 500), ("d", 500)]);
    input(&mut owner, &[("a", 500), ("b", 500)]);
    assert!(owner.wait(1));
    // What is under way is tied to nothing that changes now, unless it has to be written again.
    assert_eq!(written(&owner).len(), 4);
    input(&mut owner, &[("b", 3_000)]);
    input(&mut owner, &[("c", 500), ("b", 3_000)]);
    times_out(&mut owner);
    assert_eq!(until_last_script(&mut owner), 1);
    assert_eq!(
        written(&owner),
        all("replace staged", &["b", "c", "d", "a"])
    );
}

#[test]
fn rooms_changed_by_separate_inputs_are_cut_between() {
    let mut owner = owner_of(&["a", "b", "c"]);
    input(&mut owner, &[("a", 2_000)]);
    input(&mut owner, &[("b", 2_000)]);
    input(&mut owner, &[("c", 2_000)]);
    assert!(owner.wait(1));
    assert_eq!(written(&owner), all("update", &["a", "b"]));
    assert!(taken(&mut owner));
    assert_eq!(written(&owner), all("update", &["c"]));
}
