//! The suite of all state stores.

use std::time::Duration;

use bytes::Bytes;
use sestina_api::state_store::{
    Found, Listing, Loaded, Loading, ReplicaObject, ReplicaOp, StagedPart, Stamp, StateStore,
    StateStoreError,
};
use tokio::time::{Instant, sleep};

/// The slot of [`objects_that_are_staged_together_change_together`].
pub(crate) const STAGED_TOGETHER: u16 = 6;

pub(crate) type Fields = Vec<(String, Bytes)>;

pub(crate) fn fields(pairs: &[(&str, &str)]) -> Fields {
    let own = |text: &str| Bytes::copy_from_slice(text.as_bytes());
    pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), own(value)))
        .collect()
}

pub(crate) fn replace(object: &str, pairs: &[(&str, &str)]) -> ReplicaOp {
    ReplicaOp::Replace {
        object: object.into(),
        fields: fields(pairs),
    }
}

pub(crate) fn update(
    object: &str,
    base: Stamp,
    set: &[(&str, &str)],
    remove: &[&str],
) -> ReplicaOp {
    let remove = remove.iter().map(|field| (*field).to_owned()).collect();
    ReplicaOp::Update {
        object: object.into(),
        base,
        set: fields(set),
        remove,
    }
}

pub(crate) fn delete(object: &str) -> ReplicaOp {
    ReplicaOp::Delete {
        object: object.into(),
    }
}

pub(crate) fn at(epoch: u64, n: u64) -> Stamp {
    Stamp::new(epoch, n)
}

/// The answer of a store whose last write was this one, and that has refused none.
pub(crate) fn found(epoch: u64, n: u64) -> Found {
    Found {
        last: at(epoch, n),
        refused: 0,
    }
}

/// The stale objects of a refusal; any other result fails.
pub(crate) fn stale(result: Result<Found, StateStoreError>) -> Vec<String> {
    match result {
        Err(StateStoreError::Stale { objects, .. }) => objects,
        other => panic!("not stale: {other:?}"),
    }
}

/// The last write and the number of refused ones, of a refusal.
pub(crate) fn refused<T: std::fmt::Debug>(result: Result<T, StateStoreError>) -> (Stamp, u64) {
    match result {
        Err(StateStoreError::Fenced { found }) => (found.last, found.refused),
        other => panic!("not refused: {other:?}"),
    }
}

/// Loads a slot in the way of a new owner.
pub(crate) async fn load(
    state_store: &dyn StateStore,
    slot: u16,
    epoch: u64,
) -> Result<Loaded, StateStoreError> {
    let mut loading = Loading::new(state_store.list(slot, at(epoch, 0)).await?);
    while let Some((names, after)) = loading.next() {
        let part = state_store.load_part(slot, names, after).await?;
        assert!(loading.take(part, false), "the store has changed");
    }
    Ok(loading.finish())
}

/// The slot's objects in order, each with its fields in order.
pub(crate) async fn contents(
    state_store: &dyn StateStore,
    slot: u16,
    epoch: u64,
) -> Vec<ReplicaObject> {
    // Loads have a connection of their own, which may reconnect later than that of commits.
    let end = Instant::now() + Duration::from_secs(30);
    let loaded = loop {
        match load(state_store, slot, epoch).await {
            Err(StateStoreError::Unavailable(_)) if Instant::now() < end => {
                sleep(Duration::from_millis(20)).await;
            }
            loaded => break loaded.unwrap(),
        }
    };
    let mut objects = loaded.objects;
    objects.iter_mut().for_each(|object| object.fields.sort());
    objects.sort_by(|a, b| a.object.cmp(&b.object));
    objects
}

pub(crate) fn object(name: &str, version: Stamp, pairs: &[(&str, &str)]) -> ReplicaObject {
    ReplicaObject {
        object: name.into(),
        version,
        fields: fields(pairs),
    }
}

pub(crate) async fn state_store_suite(state_store: &dyn StateStore) {
    changes_are_atomic_and_versioned(state_store).await;
    only_newer_writes_are_taken(state_store).await;
    epochs_only_rise(state_store).await;
    sizes_and_bytes(state_store).await;
    large_changes_go_in_parts(state_store).await;
    objects_that_are_staged_together_change_together(state_store).await;
    slots_do_not_touch(state_store).await;
}

pub(crate) async fn changes_are_atomic_and_versioned(state_store: &dyn StateStore) {
    let slot = 1;
    let apply = async |n: u64, ops: Vec<ReplicaOp>| state_store.apply(slot, at(1, n), ops).await;
    assert_eq!(contents(state_store, slot, 1).await, []);
    let nothing = vec![update("r:a", at(1, 1), &[], &[])];
    assert_eq!(stale(apply(1, nothing).await), ["r:a"]);
    let first = vec![
        replace("r:a", &[("x", "1"), ("y", "2"), ("z", "3")]),
        replace("s:b", &[]),
        delete("s:never"),
    ];
    assert_eq!(apply(2, first).await, Ok(found(1, 1)));
    let expected = [
        object("r:a", at(1, 2), &[("x", "1"), ("y", "2"), ("z", "3")]),
        object("s:b", at(1, 2), &[]),
    ];
    assert_eq!(contents(state_store, slot, 1).await, expected);

    // One stale delta refuses the whole write, at any position.
    let mixed = vec![
        replace("s:c", &[("new", "1")]),
        update("r:a", at(1, 2), &[("x", "9")], &[]),
        update("s:b", at(1, 1), &[("x", "9")], &[]),
        delete("r:a"),
        update("s:gone", at(1, 2), &[], &[]),
    ];
    assert_eq!(stale(apply(3, mixed).await), ["s:b", "s:gone"]);
    assert_eq!(contents(state_store, slot, 1).await, expected);

    // An operation sees the earlier ones of the same write.
    let chain = vec![
        update("r:a", at(1, 2), &[("x", "5")], &["y"]),
        update("r:a", at(1, 4), &[("w", "6")], &["no-such-field"]),
        delete("s:b"),
        replace("s:b", &[("q", "40")]),
        update("s:b", at(1, 4), &[("q", "41")], &[]),
        replace("s:d", &[("gone", "soon")]),
        delete("s:d"),
    ];
    assert_eq!(apply(4, chain).await, Ok(found(1, 3)));
    let expected = [
        object("r:a", at(1, 4), &[("w", "6"), ("x", "5"), ("z", "3")]),
        object("s:b", at(1, 4), &[("q", "41")]),
    ];
    assert_eq!(contents(state_store, slot, 1).await, expected);
    let after_delete = vec![delete("r:a"), update("r:a", at(1, 4), &[], &[])];
    assert_eq!(stale(apply(5, after_delete).await), ["r:a"]);

    // A replacement leaves no old field; a field that is both set and removed is set.
    apply(6, vec![replace("r:a", &[("only", "1")])])
        .await
        .unwrap();
    let both = vec![update("r:a", at(1, 6), &[("only", "2")], &["only"])];
    apply(7, both).await.unwrap();
    apply(8, vec![delete("s:b")]).await.unwrap();
    assert_eq!(
        contents(state_store, slot, 1).await,
        [object("r:a", at(1, 7), &[("only", "2")])]
    );
}

/// A write that its owner has given up arrives late, or twice: it changes nothing, even if its
/// object was deleted meanwhile, or the slot is empty.
pub(crate) async fn only_newer_writes_are_taken(state_store: &dyn StateStore) {
    let slot = 4;
    let apply = async |n: u64, ops: Vec<ReplicaOp>| state_store.apply(slot, at(3, n), ops).await;
    load(state_store, slot, 3).await.unwrap();
    let newer = vec![replace("s:a", &[("q", "newer")])];
    assert_eq!(apply(2, newer).await, Ok(found(3, 0)));
    let older = vec![replace("s:a", &[("q", "older")]), replace("s:b", &[])];
    assert_eq!(refused(apply(1, older.clone()).await), (at(3, 2), 1));
    assert_eq!(refused(apply(2, older.clone()).await), (at(3, 2), 2));
    let expected = [object("s:a", at(3, 2), &[("q", "newer")])];
    assert_eq!(contents(state_store, slot, 3).await, expected);

    // A gap is allowed: the writes between are lost, or late.
    let deleted = apply(9, vec![delete("s:a")]).await.unwrap();
    assert_eq!((deleted.last, deleted.refused), (at(3, 2), 2));
    assert_eq!(refused(apply(8, older.clone()).await), (at(3, 9), 3));
    assert_eq!(contents(state_store, slot, 3).await, []);
    assert_eq!(
        refused(state_store.list(slot, at(3, 9)).await),
        (at(3, 9), 4)
    );

    // A listing is a write, and numbers start again with the next epoch.
    let listing = state_store.list(slot, at(3, 10)).await.unwrap();
    assert_eq!((listing.found.last, listing.at), (at(3, 9), at(3, 10)));
    let listing = state_store.list(slot, at(4, 0)).await.unwrap();
    assert_eq!((listing.at, listing.before), (at(4, 0), at(3, 10)));
    assert_eq!(refused(apply(11, older).await), (at(4, 0), 5));
    state_store.apply(slot, at(4, 1), Vec::new()).await.unwrap();
    // The same answer again, in case the first one was lost.
    let listing: Listing = state_store.list(slot, at(4, 0)).await.unwrap();
    assert_eq!((listing.at, listing.before), (at(4, 1), at(3, 10)));
}

pub(crate) async fn epochs_only_rise(state_store: &dyn StateStore) {
    let (slot, never) = (2, 4095);
    let apply = async |at: Stamp, ops: Vec<ReplicaOp>| state_store.apply(slot, at, ops).await;
    assert_eq!(state_store.epochs(&[slot, never]).await.unwrap(), [0, 0]);
    apply(at(9, 1), vec![replace("a", &[])]).await.unwrap();
    // As text, "9" would be higher than "10".
    let (tenth, ninth) = (at(10, 1), at(9, 2));
    apply(tenth, vec![replace("a", &[])]).await.unwrap();
    assert_eq!(refused(apply(ninth, vec![delete("a")]).await), (tenth, 1));
    assert_eq!(refused(load(state_store, slot, 9).await), (tenth, 2));
    assert_eq!(load(state_store, slot, 12).await.unwrap().objects.len(), 1);
    let late = apply(at(10, 2), vec![delete("a")]).await;
    assert_eq!(refused(late), (at(12, 0), 3));
    assert_eq!(
        contents(state_store, slot, 12).await,
        [object("a", tenth, &[])]
    );
    assert_eq!(state_store.epochs(&[never, slot]).await.unwrap(), [0, 12]);
    let all: Vec<u16> = (0..4096).collect();
    let epochs = state_store.epochs(&all).await.unwrap();
    assert_eq!((epochs.len(), epochs[2], epochs[4095]), (4096, 12, 0));
    // Numbers that a double does not hold exactly.
    let huge = (1 << 60) + 1;
    apply(at(u64::MAX - 1, huge), vec![]).await.unwrap();
    let known = (at(u64::MAX - 1, huge), 4);
    assert_eq!(refused(apply(at(u64::MAX - 2, 1), vec![]).await), known);
    let known = (at(u64::MAX - 1, huge), 5);
    assert_eq!(
        refused(apply(at(u64::MAX - 1, huge - 1), vec![]).await),
        known
    );
    let big = vec![replace("big", &[])];
    apply(at(u64::MAX, huge), big).await.unwrap();
    let off_by_one = vec![update("big", at(u64::MAX, huge - 1), &[], &[])];
    assert_eq!(
        stale(apply(at(u64::MAX, huge + 1), off_by_one).await),
        ["big"]
    );
    let right = vec![update("big", at(u64::MAX, huge), &[], &[])];
    apply(at(u64::MAX, huge + 2), right).await.unwrap();
}

pub(crate) async fn sizes_and_bytes(state_store: &dyn StateStore) {
    let slot = 3;
    let odd = Bytes::from_static(b"\0\r\n\xff\xfe*3");
    let many: Fields = (0..5000)
        .map(|n| (format!("o:{n:05}"), odd.clone()))
        .collect();
    let object = "r:{curly}:stand up@x.example".to_owned();
    let op = ReplicaOp::Replace {
        object: object.clone(),
        fields: many.clone(),
    };
    state_store.apply(slot, at(1, 1), vec![op]).await.unwrap();
    let loaded = contents(state_store, slot, 1).await;
    assert_eq!(
        loaded,
        [ReplicaObject {
            object: object.clone(),
            version: at(1, 1),
            fields: many.clone()
        }]
    );
    let remove = many
        .iter()
        .skip(1)
        .map(|(field, _)| field.clone())
        .collect();
    let op = ReplicaOp::Update {
        object: object.clone(),
        base: at(1, 1),
        set: Vec::new(),
        remove,
    };
    state_store.apply(slot, at(1, 2), vec![op]).await.unwrap();
    assert_eq!(contents(state_store, slot, 1).await[0].fields, many[..1]);
    let ops = (0..300)
        .map(|n| replace(&format!("s:{n:03}"), &[("n", "1")]))
        .collect();
    state_store.apply(slot, at(1, 3), ops).await.unwrap();
    assert_eq!(contents(state_store, slot, 1).await.len(), 301);
}

fn part(field: &str, append: bool, value: &[u8]) -> StagedPart {
    StagedPart {
        field: field.into(),
        append,
        value: Bytes::copy_from_slice(value),
    }
}

fn stage(place: usize, base: Option<u64>, parts: Vec<StagedPart>) -> ReplicaOp {
    ReplicaOp::Stage {
        place,
        base: base.map(|n| at(1, n)),
        parts,
    }
}

/// Parts take effect in the last step, all or none; a load of a large object comes in parts too.
pub(crate) async fn large_changes_go_in_parts(state_store: &dyn StateStore) {
    let slot = 5;
    let apply = async |n: u64, op: ReplicaOp| state_store.apply(slot, at(1, n), vec![op]).await;
    let stage = |base: Option<u64>, parts: Vec<StagedPart>| stage(0, base, parts);
    let staged = |object: &str, n: u64| ReplicaOp::ReplaceStaged {
        object: object.into(),
        place: 0,
        staged: at(1, n),
    };
    let large = vec![b'x'; 150_000];
    apply(1, replace("r:a", &[("before", "1")])).await.unwrap();
    let parts = vec![part("a", false, b"1"), part("b", false, &large)];
    apply(2, stage(None, parts)).await.unwrap();
    let parts = vec![part("b", true, &large), part("c", false, b"\0")];
    apply(3, stage(Some(2), parts)).await.unwrap();
    // The object is not there until the last step, and no part of it may be missing.
    assert_eq!(contents(state_store, slot, 1).await.len(), 1);
    assert_eq!(stale(apply(4, staged("r:a", 2)).await), [""]);
    assert_eq!(stale(apply(5, stage(Some(2), Vec::new())).await), [""]);
    apply(6, staged("r:a", 3)).await.unwrap();
    let loaded = contents(state_store, slot, 1).await;
    let sizes = |object: &ReplicaObject| -> Vec<(String, usize)> {
        let fields = object.fields.iter();
        fields.map(|(f, v)| (f.clone(), v.len())).collect()
    };
    let expected = [("a", 1), ("b", 300_000), ("c", 1)].map(|(f, size)| (f.to_owned(), size));
    assert_eq!((loaded.len(), loaded[0].version), (1, at(1, 6)));
    assert_eq!(sizes(&loaded[0]), expected);
    assert_eq!(stale(apply(7, staged("r:b", 3)).await), [""], "used up");

    // The same for a change of fields.
    apply(
        8,
        stage(
            None,
            vec![part("c", false, b"22"), part("d", false, &large)],
        ),
    )
    .await
    .unwrap();
    let change = |base: u64| ReplicaOp::UpdateStaged {
        object: "r:a".into(),
        base: at(1, base),
        remove: vec!["a".into(), "d".into()],
        place: 0,
        staged: at(1, 8),
    };
    assert_eq!(stale(apply(9, change(1)).await), ["r:a"]);
    apply(10, change(6)).await.unwrap();
    let loaded = contents(state_store, slot, 1).await;
    let expected = [("b", 300_000), ("c", 2), ("d", 150_000)];
    let expected = expected.map(|(f, size)| (f.to_owned(), size));
    assert_eq!(
        (loaded[0].version, sizes(&loaded[0])),
        (at(1, 10), expected.to_vec())
    );

    // Staged parts are dropped when the epoch changes, and when staging begins anew.
    apply(11, stage(None, vec![part("old", false, b"1")]))
        .await
        .unwrap();
    apply(12, stage(None, vec![part("new", true, b"1")]))
        .await
        .unwrap();
    apply(13, staged("r:b", 12)).await.unwrap();
    let loaded = contents(state_store, slot, 1).await;
    assert_eq!(loaded[1], object("r:b", at(1, 13), &[("new", "1")]));
    apply(14, stage(None, vec![part("old", false, b"1")]))
        .await
        .unwrap();
    load(state_store, slot, 2).await.unwrap();
    let late = ReplicaOp::ReplaceStaged {
        object: "r:c".into(),
        place: 0,
        staged: at(1, 14),
    };
    assert_eq!(
        stale(state_store.apply(slot, at(2, 1), vec![late]).await),
        [""]
    );
}

/// Several objects, each staged in a place of its own, take effect in one script, all or none.
pub(crate) async fn objects_that_are_staged_together_change_together(state_store: &dyn StateStore) {
    let slot = STAGED_TOGETHER;
    let apply = async |n: u64, ops: Vec<ReplicaOp>| state_store.apply(slot, at(1, n), ops).await;
    let first = vec![
        replace("r:b", &[("x", "1"), ("y", "2")]),
        replace("r:c", &[("x", "1")]),
        replace("r:gone", &[]),
    ];
    apply(1, first).await.unwrap();
    let parts = vec![
        stage(0, None, vec![part("x", false, b"0")]),
        stage(1, None, vec![part("y", false, b"3")]),
        stage(2, None, vec![part("z", false, b"0")]),
    ];
    apply(2, parts).await.unwrap();
    let parts = vec![
        stage(1, Some(2), vec![part("y", true, b"4")]),
        stage(2, None, vec![part("x", false, b"6")]),
    ];
    apply(3, parts).await.unwrap();
    let missing = vec![stage(0, Some(2), Vec::new()), stage(1, Some(2), Vec::new())];
    assert_eq!(stale(apply(4, missing).await), [""]);
    let whole = |object: &str, place: usize, n: u64| ReplicaOp::ReplaceStaged {
        object: object.into(),
        place,
        staged: at(1, n),
    };
    let group = |base: u64, last: u64| {
        vec![
            whole("r:a", 0, 2),
            ReplicaOp::UpdateStaged {
                object: "r:b".into(),
                base: at(1, base),
                remove: vec!["x".into()],
                place: 1,
                staged: at(1, 3),
            },
            update("r:c", at(1, 1), &[("x", "5")], &[]),
            whole("r:d", 2, last),
            delete("r:gone"),
        ]
    };
    let before = contents(state_store, slot, 1).await;
    assert_eq!(stale(apply(5, group(2, 3)).await), ["r:b"]);
    assert_eq!(stale(apply(6, group(1, 2)).await), [""]);
    assert_eq!(contents(state_store, slot, 1).await, before);
    assert_eq!(apply(7, group(1, 3)).await, Ok(found(1, 6)));
    let expected = [
        object("r:a", at(1, 7), &[("x", "0")]),
        object("r:b", at(1, 7), &[("y", "34")]),
        object("r:c", at(1, 7), &[("x", "5")]),
        object("r:d", at(1, 7), &[("x", "6")]),
    ];
    assert_eq!(contents(state_store, slot, 1).await, expected);
    let again = apply(8, group(7, 3)).await;
    assert_eq!(stale(again), ["", "", "r:c", ""], "used up");
    let left = vec![stage(1, None, vec![part("x", false, b"0")])];
    apply(9, left).await.unwrap();
}

pub(crate) async fn slots_do_not_touch(state_store: &dyn StateStore) {
    for slot in [10, 11, 100, 1011] {
        let name = slot.to_string();
        let op = replace("same", &[("slot", &name)]);
        state_store.apply(slot, at(1, 1), vec![op]).await.unwrap();
    }
    let gone = vec![delete("same")];
    state_store.apply(11, at(1, 2), gone).await.unwrap();
    for (slot, count) in [(10, 1), (11, 0), (100, 1), (1011, 1)] {
        let name = slot.to_string();
        let expected = vec![object("same", at(1, 1), &[("slot", &name)]); count];
        assert_eq!(contents(state_store, slot, 1).await, expected);
    }
}
