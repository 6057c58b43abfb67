//! What every shadow does.

use bytes::Bytes;
use sestina_api::shadow::{Shadow, ShadowError, ShadowObject, ShadowOp};

pub(crate) type Fields = Vec<(String, Bytes)>;

pub(crate) fn fields(pairs: &[(&str, &str)]) -> Fields {
    let own = |text: &str| Bytes::copy_from_slice(text.as_bytes());
    pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), own(value)))
        .collect()
}

pub(crate) fn replace(object: &str, version: u64, pairs: &[(&str, &str)]) -> ShadowOp {
    ShadowOp::Replace {
        object: object.into(),
        version,
        fields: fields(pairs),
    }
}

pub(crate) fn update(object: &str, base: u64, set: &[(&str, &str)], remove: &[&str]) -> ShadowOp {
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

pub(crate) fn stale(objects: &[&str]) -> Result<(), ShadowError> {
    Err(ShadowError::Stale(
        objects.iter().map(|object| (*object).to_owned()).collect(),
    ))
}

/// The slot's objects in order, each with its fields in order.
pub(crate) async fn contents(shadow: &dyn Shadow, slot: u16, epoch: u64) -> Vec<ShadowObject> {
    let mut objects = shadow.load(slot, epoch).await.unwrap();
    objects.iter_mut().for_each(|object| object.fields.sort());
    objects.sort_by(|a, b| a.object.cmp(&b.object));
    objects
}

pub(crate) fn object(name: &str, version: u64, pairs: &[(&str, &str)]) -> ShadowObject {
    ShadowObject {
        object: name.into(),
        version,
        fields: fields(pairs),
    }
}

pub(crate) async fn shadow_suite(shadow: &dyn Shadow) {
    changes_are_atomic_and_versioned(shadow).await;
    epochs_only_rise(shadow).await;
    sizes_and_bytes(shadow).await;
    slots_do_not_touch(shadow).await;
}

pub(crate) async fn changes_are_atomic_and_versioned(shadow: &dyn Shadow) {
    let slot = 1;
    assert_eq!(shadow.load(slot, 1).await.unwrap(), []);
    assert_eq!(
        shadow
            .apply(slot, 1, vec![update("r:a", 0, &[], &[])])
            .await,
        stale(&["r:a"])
    );
    let first = vec![
        replace("r:a", 5, &[("x", "1"), ("y", "2"), ("z", "3")]),
        replace("s:b", 1, &[]),
        delete("s:never"),
    ];
    shadow.apply(slot, 1, first).await.unwrap();
    let expected = [
        object("r:a", 5, &[("x", "1"), ("y", "2"), ("z", "3")]),
        object("s:b", 1, &[]),
    ];
    assert_eq!(contents(shadow, slot, 1).await, expected);

    // One stale delta refuses all of them, in whatever place.
    let mixed = vec![
        replace("s:c", 1, &[("new", "1")]),
        update("r:a", 5, &[("x", "9")], &[]),
        update("s:b", 7, &[("x", "9")], &[]),
        delete("r:a"),
        update("s:gone", 1, &[], &[]),
    ];
    assert_eq!(
        shadow.apply(slot, 1, mixed).await,
        stale(&["s:b", "s:gone"])
    );
    assert_eq!(contents(shadow, slot, 1).await, expected);

    // Operations see those before them in the same step.
    let chain = vec![
        update("r:a", 5, &[("x", "5")], &["y"]),
        update("r:a", 6, &[("w", "6")], &["no-such-field"]),
        delete("s:b"),
        replace("s:b", 40, &[("q", "40")]),
        update("s:b", 40, &[("q", "41")], &[]),
        replace("s:d", 1, &[("gone", "soon")]),
        delete("s:d"),
    ];
    shadow.apply(slot, 1, chain).await.unwrap();
    let expected = [
        object("r:a", 7, &[("w", "6"), ("x", "5"), ("z", "3")]),
        object("s:b", 41, &[("q", "41")]),
    ];
    assert_eq!(contents(shadow, slot, 1).await, expected);
    let after_delete = vec![delete("r:a"), update("r:a", 7, &[], &[])];
    assert_eq!(shadow.apply(slot, 1, after_delete).await, stale(&["r:a"]));

    // A replacement leaves nothing of what was there; a field set and removed at once is set.
    shadow
        .apply(slot, 1, vec![replace("r:a", 1, &[("only", "1")])])
        .await
        .unwrap();
    shadow
        .apply(slot, 1, vec![update("r:a", 1, &[("only", "2")], &["only"])])
        .await
        .unwrap();
    shadow.apply(slot, 1, vec![delete("s:b")]).await.unwrap();
    assert_eq!(
        contents(shadow, slot, 1).await,
        [object("r:a", 2, &[("only", "2")])]
    );
}

pub(crate) async fn epochs_only_rise(shadow: &dyn Shadow) {
    let (slot, never) = (2, 4095);
    assert_eq!(shadow.epochs(&[slot, never]).await.unwrap(), [0, 0]);
    shadow
        .apply(slot, 9, vec![replace("a", 1, &[])])
        .await
        .unwrap();
    // As text "9" is the higher one.
    shadow
        .apply(slot, 10, vec![replace("a", 2, &[])])
        .await
        .unwrap();
    let fenced = ShadowError::Fenced { known: 10 };
    assert_eq!(
        shadow.apply(slot, 9, vec![delete("a")]).await,
        Err(fenced.clone())
    );
    assert_eq!(shadow.load(slot, 9).await, Err(fenced));
    assert_eq!(shadow.load(slot, 12).await.unwrap().len(), 1);
    let fenced = ShadowError::Fenced { known: 12 };
    assert_eq!(shadow.apply(slot, 10, vec![delete("a")]).await, Err(fenced));
    assert_eq!(contents(shadow, slot, 12).await, [object("a", 2, &[])]);
    assert_eq!(shadow.epochs(&[never, slot]).await.unwrap(), [0, 12]);
    let all: Vec<u16> = (0..4096).collect();
    let epochs = shadow.epochs(&all).await.unwrap();
    assert_eq!((epochs.len(), epochs[2], epochs[4095]), (4096, 12, 0));
    // Beyond what a double holds exactly.
    shadow.apply(slot, u64::MAX - 1, vec![]).await.unwrap();
    let fenced = ShadowError::Fenced {
        known: u64::MAX - 1,
    };
    assert_eq!(shadow.apply(slot, u64::MAX - 2, vec![]).await, Err(fenced));
    let huge = (1 << 60) + 1;
    shadow
        .apply(slot, u64::MAX, vec![replace("big", huge, &[])])
        .await
        .unwrap();
    let off_by_one = shadow
        .apply(slot, u64::MAX, vec![update("big", huge - 1, &[], &[])])
        .await;
    assert_eq!(off_by_one, stale(&["big"]));
    shadow
        .apply(slot, u64::MAX, vec![update("big", huge, &[], &[])])
        .await
        .unwrap();
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
        version: 1,
        fields: many.clone(),
    };
    shadow.apply(slot, 1, vec![op]).await.unwrap();
    let loaded = contents(shadow, slot, 1).await;
    assert_eq!(
        loaded,
        [ShadowObject {
            object: object.clone(),
            version: 1,
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
        base: 1,
        set: Vec::new(),
        remove,
    };
    shadow.apply(slot, 1, vec![op]).await.unwrap();
    assert_eq!(contents(shadow, slot, 1).await[0].fields, many[..1]);
    let ops = (0..300)
        .map(|n| replace(&format!("s:{n:03}"), 1, &[("n", "1")]))
        .collect();
    shadow.apply(slot, 1, ops).await.unwrap();
    assert_eq!(contents(shadow, slot, 1).await.len(), 301);
}

pub(crate) async fn slots_do_not_touch(shadow: &dyn Shadow) {
    for slot in [10, 11, 100, 1011] {
        let name = slot.to_string();
        shadow
            .apply(slot, 1, vec![replace("same", 1, &[("slot", &name)])])
            .await
            .unwrap();
    }
    shadow.apply(11, 1, vec![delete("same")]).await.unwrap();
    for (slot, count) in [(10, 1), (11, 0), (100, 1), (1011, 1)] {
        let name = slot.to_string();
        let expected = vec![object("same", 1, &[("slot", &name)]); count];
        assert_eq!(contents(shadow, slot, 1).await, expected);
    }
}
