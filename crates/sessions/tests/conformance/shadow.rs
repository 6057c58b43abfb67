//! What every shadow does.

use std::time::Duration;

use bytes::Bytes;
use sestina_api::shadow::{
    Found, Listing, Loaded, Loading, Shadow, ShadowError, ShadowObject, ShadowOp, StagedPart, Stamp,
};
use tokio::time::{Instant, sleep};

pub(crate) type Fields = Vec<(String, Bytes)>;

pub(crate) fn fields(pairs: &[(&str, &str)]) -> Fields {
    let own = |text: &str| Bytes::copy_from_slice(text.as_bytes());
    pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), own(value)))
        .collect()
}

pub(crate) fn replace(object: &str, pairs: &[(&str, &str)]) -> ShadowOp {
    ShadowOp::Replace {
        object: object.into(),
        fields: fields(pairs),
    }
}

pub(crate) fn update(object: &str, base: Stamp, set: &[(&str, &str)], remove: &[&str]) -> ShadowOp {
    let remove = remove.iter().map(|field| (*field).to_owned()).collect();
    ShadowOp::Update {
        object: object.into(),
        base,
        set: fields(set),
        remove,
    }
}

pub(crate) fn delete(object: &str) -> ShadowOp {
    ShadowOp::Delete {
        object: object.into(),
    }
}

pub(crate) fn at(epoch: u64, n: u64) -> Stamp {
    Stamp::new(epoch, n)
}

/// What a store answers that knew this write last, and has refused none.
pub(crate) fn found(epoch: u64, n: u64) -> Found {
    Found {
        last: at(epoch, n),
        refused: 0,
    }
}

/// The objects that were stale, and nothing else.
pub(crate) fn stale(result: Result<Found, ShadowError>) -> Vec<String> {
    match result {
        Err(ShadowError::Stale { objects, .. }) => objects,
        other => panic!("not stale: {other:?}"),
    }
}

/// The write that was known, and how many were refused by now.
pub(crate) fn refused<T: std::fmt::Debug>(result: Result<T, ShadowError>) -> (Stamp, u64) {
    match result {
        Err(ShadowError::Fenced { found }) => (found.last, found.refused),
        other => panic!("not refused: {other:?}"),
    }
}

/// Loads a slot as its new owner does.
pub(crate) async fn load(
    shadow: &dyn Shadow,
    slot: u16,
    epoch: u64,
) -> Result<Loaded, ShadowError> {
    let mut loading = Loading::new(shadow.list(slot, at(epoch, 0)).await?);
    while let Some((names, after)) = loading.next() {
        let part = shadow.load_part(slot, names, after).await?;
        assert!(loading.take(part, false), "the store has changed");
    }
    Ok(loading.finish())
}

/// The slot's objects in order, each with its fields in order.
pub(crate) async fn contents(shadow: &dyn Shadow, slot: u16, epoch: u64) -> Vec<ShadowObject> {
    // Loads have a connection of their own, which may come back later than that of commits.
    let end = Instant::now() + Duration::from_secs(30);
    let loaded = loop {
        match load(shadow, slot, epoch).await {
            Err(ShadowError::Away(_)) if Instant::now() < end => {
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

pub(crate) fn object(name: &str, version: Stamp, pairs: &[(&str, &str)]) -> ShadowObject {
    ShadowObject {
        object: name.into(),
        version,
        fields: fields(pairs),
    }
}

pub(crate) async fn shadow_suite(shadow: &dyn Shadow) {
    changes_are_atomic_and_versioned(shadow).await;
    only_newer_writes_are_taken(shadow).await;
    epochs_only_rise(shadow).await;
    sizes_and_bytes(shadow).await;
    large_changes_go_in_parts(shadow).await;
    slots_do_not_touch(shadow).await;
}

pub(crate) async fn changes_are_atomic_and_versioned(shadow: &dyn Shadow) {
    let slot = 1;
    let apply = async |n: u64, ops: Vec<ShadowOp>| shadow.apply(slot, at(1, n), ops).await;
    assert_eq!(contents(shadow, slot, 1).await, []);
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
    assert_eq!(contents(shadow, slot, 1).await, expected);

    // One stale delta refuses all of them, in whatever place.
    let mixed = vec![
        replace("s:c", &[("new", "1")]),
        update("r:a", at(1, 2), &[("x", "9")], &[]),
        update("s:b", at(1, 1), &[("x", "9")], &[]),
        delete("r:a"),
        update("s:gone", at(1, 2), &[], &[]),
    ];
    assert_eq!(stale(apply(3, mixed).await), ["s:b", "s:gone"]);
    assert_eq!(contents(shadow, slot, 1).await, expected);

    // Operations see those before them in the same step.
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
    assert_eq!(contents(shadow, slot, 1).await, expected);
    let after_delete = vec![delete("r:a"), update("r:a", at(1, 4), &[], &[])];
    assert_eq!(stale(apply(5, after_delete).await), ["r:a"]);

    // A replacement leaves nothing of what was there; a field set and removed at once is set.
    apply(6, vec![replace("r:a", &[("only", "1")])])
        .await
        .unwrap();
    let both = vec![update("r:a", at(1, 6), &[("only", "2")], &["only"])];
    apply(7, both).await.unwrap();
    apply(8, vec![delete("s:b")]).await.unwrap();
    assert_eq!(
        contents(shadow, slot, 1).await,
        [object("r:a", at(1, 7), &[("only", "2")])]
    );
}

/// A write that its owner has given up comes late, or twice: it changes nothing, not even after the
/// object that it is of was deleted, or the slot is empty.
pub(crate) async fn only_newer_writes_are_taken(shadow: &dyn Shadow) {
    let slot = 4;
    let apply = async |n: u64, ops: Vec<ShadowOp>| shadow.apply(slot, at(3, n), ops).await;
    load(shadow, slot, 3).await.unwrap();
    let newer = vec![replace("s:a", &[("q", "newer")])];
    assert_eq!(apply(2, newer).await, Ok(found(3, 0)));
    let older = vec![replace("s:a", &[("q", "older")]), replace("s:b", &[])];
    assert_eq!(refused(apply(1, older.clone()).await), (at(3, 2), 1));
    assert_eq!(refused(apply(2, older.clone()).await), (at(3, 2), 2));
    let expected = [object("s:a", at(3, 2), &[("q", "newer")])];
    assert_eq!(contents(shadow, slot, 3).await, expected);

    // A gap is fine: the writes between are lost, or come late.
    let deleted = apply(9, vec![delete("s:a")]).await.unwrap();
    assert_eq!((deleted.last, deleted.refused), (at(3, 2), 2));
    assert_eq!(refused(apply(8, older.clone()).await), (at(3, 9), 3));
    assert_eq!(contents(shadow, slot, 3).await, []);
    assert_eq!(refused(shadow.list(slot, at(3, 9)).await), (at(3, 9), 4));

    // A listing is a write, and the next epoch begins anew.
    let listing = shadow.list(slot, at(3, 10)).await.unwrap();
    assert_eq!((listing.found.last, listing.at), (at(3, 9), at(3, 10)));
    let listing = shadow.list(slot, at(4, 0)).await.unwrap();
    assert_eq!((listing.at, listing.before), (at(4, 0), at(3, 10)));
    assert_eq!(refused(apply(11, older).await), (at(4, 0), 5));
    shadow.apply(slot, at(4, 1), Vec::new()).await.unwrap();
    // Told again, should the answer have been lost.
    let listing: Listing = shadow.list(slot, at(4, 0)).await.unwrap();
    assert_eq!((listing.at, listing.before), (at(4, 1), at(3, 10)));
}

pub(crate) async fn epochs_only_rise(shadow: &dyn Shadow) {
    let (slot, never) = (2, 4095);
    let apply = async |at: Stamp, ops: Vec<ShadowOp>| shadow.apply(slot, at, ops).await;
    assert_eq!(shadow.epochs(&[slot, never]).await.unwrap(), [0, 0]);
    apply(at(9, 1), vec![replace("a", &[])]).await.unwrap();
    // As text "9" is the higher one.
    let (tenth, ninth) = (at(10, 1), at(9, 2));
    apply(tenth, vec![replace("a", &[])]).await.unwrap();
    assert_eq!(refused(apply(ninth, vec![delete("a")]).await), (tenth, 1));
    assert_eq!(refused(load(shadow, slot, 9).await), (tenth, 2));
    assert_eq!(load(shadow, slot, 12).await.unwrap().objects.len(), 1);
    let late = apply(at(10, 2), vec![delete("a")]).await;
    assert_eq!(refused(late), (at(12, 0), 3));
    assert_eq!(contents(shadow, slot, 12).await, [object("a", tenth, &[])]);
    assert_eq!(shadow.epochs(&[never, slot]).await.unwrap(), [0, 12]);
    let all: Vec<u16> = (0..4096).collect();
    let epochs = shadow.epochs(&all).await.unwrap();
    assert_eq!((epochs.len(), epochs[2], epochs[4095]), (4096, 12, 0));
    // Beyond what a double holds exactly.
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

pub(crate) async fn sizes_and_bytes(shadow: &dyn Shadow) {
    let slot = 3;
    let odd = Bytes::from_static(b"\0\r\n\xff\xfe*3");
    let many: Fields = (0..5000)
        .map(|n| (format!("o:{n:05}"), odd.clone()))
        .collect();
    let object = "r:{curly}:stand up@x.example".to_owned();
    let op = ShadowOp::Replace {
        object: object.clone(),
        fields: many.clone(),
    };
    shadow.apply(slot, at(1, 1), vec![op]).await.unwrap();
    let loaded = contents(shadow, slot, 1).await;
    assert_eq!(
        loaded,
        [ShadowObject {
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
    let op = ShadowOp::Update {
        object: object.clone(),
        base: at(1, 1),
        set: Vec::new(),
        remove,
    };
    shadow.apply(slot, at(1, 2), vec![op]).await.unwrap();
    assert_eq!(contents(shadow, slot, 1).await[0].fields, many[..1]);
    let ops = (0..300)
        .map(|n| replace(&format!("s:{n:03}"), &[("n", "1")]))
        .collect();
    shadow.apply(slot, at(1, 3), ops).await.unwrap();
    assert_eq!(contents(shadow, slot, 1).await.len(), 301);
}

fn part(field: &str, append: bool, value: &[u8]) -> StagedPart {
    StagedPart {
        field: field.into(),
        append,
        value: Bytes::copy_from_slice(value),
    }
}

/// Parts take effect in the last step, all or none; loads of what is large come in parts as well.
pub(crate) async fn large_changes_go_in_parts(shadow: &dyn Shadow) {
    let slot = 5;
    let apply = async |n: u64, op: ShadowOp| shadow.apply(slot, at(1, n), vec![op]).await;
    let stage = |base: Option<u64>, parts: Vec<StagedPart>| ShadowOp::Stage {
        base: base.map(|n| at(1, n)),
        parts,
    };
    let staged = |object: &str, n: u64| ShadowOp::ReplaceStaged {
        object: object.into(),
        staged: at(1, n),
    };
    let large = vec![b'x'; 150_000];
    apply(1, replace("r:a", &[("before", "1")])).await.unwrap();
    let parts = vec![part("a", false, b"1"), part("b", false, &large)];
    apply(2, stage(None, parts)).await.unwrap();
    let parts = vec![part("b", true, &large), part("c", false, b"\0")];
    apply(3, stage(Some(2), parts)).await.unwrap();
    // Not there until the last step; no part of it may be missing.
    assert_eq!(contents(shadow, slot, 1).await.len(), 1);
    assert_eq!(stale(apply(4, staged("r:a", 2)).await), [""]);
    assert_eq!(stale(apply(5, stage(Some(2), Vec::new())).await), [""]);
    apply(6, staged("r:a", 3)).await.unwrap();
    let loaded = contents(shadow, slot, 1).await;
    let sizes = |object: &ShadowObject| -> Vec<(String, usize)> {
        let fields = object.fields.iter();
        fields.map(|(f, v)| (f.clone(), v.len())).collect()
    };
    let expected = [("a", 1), ("b", 300_000), ("c", 1)].map(|(f, size)| (f.to_owned(), size));
    assert_eq!((loaded.len(), loaded[0].version), (1, at(1, 6)));
    assert_eq!(sizes(&loaded[0]), expected);
    assert_eq!(stale(apply(7, staged("r:b", 3)).await), [""], "used up");

    // The same as a change of fields.
    apply(
        8,
        stage(
            None,
            vec![part("c", false, b"22"), part("d", false, &large)],
        ),
    )
    .await
    .unwrap();
    let change = |base: u64| ShadowOp::UpdateStaged {
        object: "r:a".into(),
        base: at(1, base),
        remove: vec!["a".into(), "d".into()],
        staged: at(1, 8),
    };
    assert_eq!(stale(apply(9, change(1)).await), ["r:a"]);
    apply(10, change(6)).await.unwrap();
    let loaded = contents(shadow, slot, 1).await;
    let expected = [("b", 300_000), ("c", 2), ("d", 150_000)];
    let expected = expected.map(|(f, size)| (f.to_owned(), size));
    assert_eq!(
        (loaded[0].version, sizes(&loaded[0])),
        (at(1, 10), expected.to_vec())
    );

    // What is staged ends with the epoch, and when staging begins anew.
    apply(11, stage(None, vec![part("old", false, b"1")]))
        .await
        .unwrap();
    apply(12, stage(None, vec![part("new", true, b"1")]))
        .await
        .unwrap();
    apply(13, staged("r:b", 12)).await.unwrap();
    let loaded = contents(shadow, slot, 1).await;
    assert_eq!(loaded[1], object("r:b", at(1, 13), &[("new", "1")]));
    apply(14, stage(None, vec![part("old", false, b"1")]))
        .await
        .unwrap();
    load(shadow, slot, 2).await.unwrap();
    let late = ShadowOp::ReplaceStaged {
        object: "r:c".into(),
        staged: at(1, 14),
    };
    assert_eq!(stale(shadow.apply(slot, at(2, 1), vec![late]).await), [""]);
}

pub(crate) async fn slots_do_not_touch(shadow: &dyn Shadow) {
    for slot in [10, 11, 100, 1011] {
        let name = slot.to_string();
        let op = replace("same", &[("slot", &name)]);
        shadow.apply(slot, at(1, 1), vec![op]).await.unwrap();
    }
    let gone = vec![delete("same")];
    shadow.apply(11, at(1, 2), gone).await.unwrap();
    for (slot, count) in [(10, 1), (11, 0), (100, 1), (1011, 1)] {
        let name = slot.to_string();
        let expected = vec![object("same", at(1, 1), &[("slot", &name)]); count];
        assert_eq!(contents(shadow, slot, 1).await, expected);
    }
}
