//! Data of entities: items by name, and writes that carry a request's key and answer.

use std::sync::Arc;

use sestina_api::store::{
    ENTITY_BYTES, ENTITY_ITEMS, ENTITY_NAME_BYTES, ENTITY_VALUE_BYTES, StoreError, Stores,
};
use sestina_proto as proto;

use crate::support::*;

/// An item, and its value as text.
type Item<'a> = (&'a str, &'a str);

/// The `n`-th request; its answer is named after its first value.
fn put(n: u64, epoch: u64, entity: &str, items: &[Item<'_>]) -> proto::EntityDataPutRequest {
    let item = |(name, value): &Item<'_>| proto::EntityDataItem {
        name: (*name).to_owned(),
        value: value.as_bytes().to_vec().into(),
    };
    proto::EntityDataPutRequest {
        fence: fence(0, epoch),
        key: Some(key(n)),
        answer: Some(stanza(items.first().map_or("none", |(_, value)| value))),
        entity: entity.to_owned(),
        items: items.iter().map(item).collect(),
        counter: 0,
    }
}

/// The same with a place in the order of the entity's requests.
fn put_at(
    counter: u64,
    n: u64,
    epoch: u64,
    entity: &str,
    items: &[Item<'_>],
) -> proto::EntityDataPutRequest {
    proto::EntityDataPutRequest {
        counter,
        ..put(n, epoch, entity, items)
    }
}

/// Writes, and asserts that it was the first time.
async fn write(stores: &dyn Stores, request: proto::EntityDataPutRequest) {
    let reply = stores.entity_data_put(request).await.unwrap();
    assert_eq!(reply, proto::EntityDataPutReply::default());
}

/// The items of these names, in their order.
async fn read(stores: &dyn Stores, entity: &str, names: &[&str]) -> Vec<(String, String)> {
    let request = proto::EntityDataGetRequest {
        entity: entity.to_owned(),
        names: names.iter().map(|name| (*name).to_owned()).collect(),
    };
    let items = stores.entity_data_get(request).await.unwrap().items;
    let text = |item: proto::EntityDataItem| {
        let value = String::from_utf8(item.value.to_vec()).unwrap();
        (item.name, value)
    };
    items.into_iter().map(text).collect()
}

fn items(expected: &[Item<'_>]) -> Vec<(String, String)> {
    let owned = |(name, value): &Item<'_>| ((*name).to_owned(), (*value).to_owned());
    expected.iter().map(owned).collect()
}

pub(crate) async fn entity_data_put_is_read_until_deleted(stores: Arc<dyn Stores>) {
    let stores = &*stores;
    let epoch = own(stores).await;
    assert_eq!(read(stores, "a@h", &["roster"]).await, []);
    let first = [("roster", "r1"), ("version", "v1"), ("privacy", "p1")];
    write(stores, put(1, epoch, "a@h", &first)).await;
    write(stores, put(2, epoch, "b@h", &[("roster", "other")])).await;
    assert_eq!(
        read(stores, "a@h", &["version", "none", "roster"]).await,
        items(&[("version", "v1"), ("roster", "r1")])
    );
    assert_eq!(read(stores, "a@h", &[]).await, []);
    assert_eq!(read(stores, "A@h", &["roster"]).await, [], "another entity");
    assert_eq!(read(stores, "a@h", &["Roster"]).await, [], "another name");

    // A later write replaces what it names and deletes what it gives no value for.
    let second = [("roster", "r2"), ("version", "")];
    write(stores, put(3, epoch, "a@h", &second)).await;
    assert_eq!(
        read(stores, "a@h", &["roster", "version", "privacy"]).await,
        items(&[("roster", "r2"), ("privacy", "p1")])
    );
    write(stores, put(4, epoch, "a@h", &[("version", "")])).await;
    write(stores, put(5, epoch, "a@h", &[("version", "v3")])).await;
    assert_eq!(
        read(stores, "a@h", &["version"]).await,
        items(&[("version", "v3")])
    );
    assert_eq!(
        read(stores, "b@h", &["roster", "privacy"]).await,
        items(&[("roster", "other")])
    );
}

pub(crate) async fn entity_data_replay_is_answered_and_not_written(stores: Arc<dyn Stores>) {
    let stores = &*stores;
    let epoch = own(stores).await;
    write(stores, put(1, epoch, "a@h", &[("roster", "one")])).await;
    let replay = stores
        .entity_data_put(put(1, epoch, "a@h", &[("roster", "two"), ("more", "m")]))
        .await
        .unwrap();
    let expected = proto::EntityDataPutReply {
        replayed: true,
        answer: Some(stanza("one")),
        ..proto::EntityDataPutReply::default()
    };
    assert_eq!(replay, expected);
    let both = ["roster", "more"];
    assert_eq!(
        read(stores, "a@h", &both).await,
        items(&[("roster", "one")])
    );
    // The key is that of a request, whatever it changes: a deletion is not repeated either, nor is a
    // request without items.
    write(stores, put(2, epoch, "a@h", &[("roster", "")])).await;
    write(stores, put(3, epoch, "a@h", &[("roster", "three")])).await;
    write(stores, put(4, epoch, "a@h", &[])).await;
    for (n, value) in [(2, ""), (4, "four")] {
        let replay = put(n, epoch, "a@h", &[("roster", value)]);
        let replay = stores.entity_data_put(replay).await.unwrap();
        assert!(replay.replayed, "request {n}: {replay:?}");
    }
    assert_eq!(
        read(stores, "a@h", &both).await,
        items(&[("roster", "three")])
    );
    // Maintenance keeps what is young.
    let keep = proto::MaintainRequest {
        outcome_keep_s: 3600,
        archive_keep_days: 0,
    };
    stores.maintain(keep).await.unwrap();
    let replay = put(1, epoch, "a@h", &[("roster", "four")]);
    let replay = stores.entity_data_put(replay).await.unwrap();
    assert_eq!(replay, expected, "after maintenance");
}

pub(crate) async fn entity_data_request_after_a_later_one_changes_nothing(stores: Arc<dyn Stores>) {
    let stores = &*stores;
    let epoch = own(stores).await;
    let overtaken = proto::EntityDataPutReply {
        overtaken: true,
        ..proto::EntityDataPutReply::default()
    };
    let late = async |counter: u64, n: u64| {
        let put = put_at(counter, n, epoch, "a@h", &[("roster", "late")]);
        stores.entity_data_put(put).await.unwrap()
    };
    write(stores, put_at(2, 1, epoch, "a@h", &[("roster", "two")])).await;
    assert_eq!(late(1, 2).await, overtaken);
    assert_eq!(late(2, 2).await, overtaken, "two requests with one counter");
    assert_eq!(
        read(stores, "a@h", &["roster"]).await,
        items(&[("roster", "two")])
    );
    assert!(late(1, 1).await.replayed, "its key was committed before");
    write(stores, put_at(1, 3, epoch, "b@h", &[("roster", "other")])).await;

    // Its key was not stored. A request without items is in the order too, and so is one that deletes.
    write(stores, put_at(3, 2, epoch, "a@h", &[("roster", "three")])).await;
    write(stores, put_at(5, 4, epoch, "a@h", &[])).await;
    assert_eq!(late(4, 5).await, overtaken);
    write(stores, put_at(7, 6, epoch, "a@h", &[("roster", "")])).await;
    assert_eq!(late(6, 7).await, overtaken);
    assert_eq!(read(stores, "a@h", &["roster"]).await, []);

    // A new account begins anew.
    let account = Some(proto::Account {
        bare: "a@h".to_owned(),
        ..proto::Account::default()
    });
    let create = proto::AccountPutRequest {
        account,
        create: true,
    };
    stores.account_put(create).await.unwrap();
    write(stores, put_at(1, 8, epoch, "a@h", &[("roster", "new")])).await;
}

pub(crate) async fn entity_data_of_another_epoch_is_fenced(stores: Arc<dyn Stores>) {
    let stores = &*stores;
    let owner = node("owner", 1);
    own(stores).await;
    // The slot moves, so that there is a lower epoch.
    let next = proto::SlotMove {
        from_name: owner.name.clone(),
        from_incarnation: owner.incarnation,
        from_epoch: 1,
        released: true,
        ..first_move(0, &node("next", 2))
    };
    let known = stores.slot_table(proto::SlotTableRequest::default()).await;
    let known = known.unwrap().map.unwrap().position();
    let moved = proto::SlotClaimRequest {
        known: Some(known),
        ..claim(vec![next], &owner)
    };
    let moved = stores.slot_claim(moved).await.unwrap();
    assert_eq!(moved.refused_slots, [0_u32; 0]);
    let epoch = moved.map.unwrap().epochs[0];
    assert!(epoch > 1, "epoch {epoch}");
    let fenced = proto::EntityDataPutReply {
        fenced: true,
        ..proto::EntityDataPutReply::default()
    };
    write(stores, put(1, epoch, "a@h", &[("roster", "one")])).await;
    for stale in [0, epoch - 1, epoch + 1] {
        for n in [1, 2] {
            let put = put(n, stale, "a@h", &[("roster", "stale")]);
            let reply = stores.entity_data_put(put).await.unwrap();
            assert_eq!(reply, fenced, "request {n} under epoch {stale}");
        }
    }
    assert_eq!(
        read(stores, "a@h", &["roster"]).await,
        items(&[("roster", "one")])
    );
    // Its key was not stored either.
    write(stores, put(2, epoch, "a@h", &[("roster", "two")])).await;
    assert_eq!(
        read(stores, "a@h", &["roster"]).await,
        items(&[("roster", "two")])
    );
}

/// Text of that many bytes that a database cannot make much smaller.
fn dense(bytes: usize) -> String {
    let mut state = 7_u64;
    let letter = |_| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        char::from(b'!' + ((state >> 33) % 94) as u8)
    };
    (0..bytes).map(letter).collect()
}

pub(crate) async fn entity_data_beyond_bounds_is_refused(stores: Arc<dyn Stores>) {
    let stores = &*stores;
    let epoch = own(stores).await;
    let refused = async |request: proto::EntityDataPutRequest, told: &[&str]| {
        let error = stores.entity_data_put(request).await.unwrap_err();
        assert!(matches!(error, StoreError::Invalid(_)), "{error:?}");
        let text = error.to_string();
        assert!(told.iter().all(|part| text.contains(part)), "{text}");
    };
    let names: Vec<String> = (0..=ENTITY_ITEMS).map(|n| format!("item-{n}")).collect();
    let many: Vec<Item<'_>> = names.iter().map(|name| (&**name, "v")).collect();
    let value = dense(ENTITY_VALUE_BYTES + 1);
    let (entity, name) = (dense(ENTITY_BYTES + 1), dense(ENTITY_NAME_BYTES + 1));
    let small = [("n", "v")];
    refused(put(1, epoch, "a@h", &many), &["17 items", "at most 16"]).await;
    let long = [("n", "v"), ("big", &*value)];
    refused(put(1, epoch, "a@h", &long), &["\"big\"", "1048576"]).await;
    refused(put(1, epoch, &entity, &small), &["entity", "2561", "2560"]).await;
    refused(put(1, epoch, "a@h", &[(&name, "v")]), &["item", "65", "64"]).await;
    refused(put(1, epoch, "", &small), &["entity", "empty"]).await;
    refused(put(1, epoch, "a@h", &[("", "v")]), &["item", "empty"]).await;
    refused(put(1, epoch, "a\0@h", &small), &["U+0000"]).await;
    let unanswered = proto::EntityDataPutRequest {
        answer: None,
        ..put(1, epoch, "a@h", &small)
    };
    refused(unanswered, &["answer"]).await;
    let ask = |entity: &str, names: &[String]| proto::EntityDataGetRequest {
        entity: entity.to_owned(),
        names: names.to_vec(),
    };
    for request in [
        ask("a@h", &names),
        ask(&entity, &names[..1]),
        ask("a@h", std::slice::from_ref(&name)),
    ] {
        let reply = stores.entity_data_get(request).await;
        assert!(matches!(reply, Err(StoreError::Invalid(_))), "{reply:?}");
    }

    // What is at the bounds is stored, and the refused ones have left neither a key nor data.
    let (entity, name) = (&entity[1..], &name[1..]);
    let mut most = many[..ENTITY_ITEMS - 1].to_vec();
    most.push((name, &value[1..]));
    write(stores, put(1, epoch, entity, &most)).await;
    let wanted: Vec<&str> = most.iter().map(|(name, _)| *name).collect();
    assert!(read(stores, entity, &wanted).await == items(&most));
    assert_eq!(read(stores, "a@h", &["n", "big"]).await, []);
}

pub(crate) async fn entity_data_of_removed_account_is_removed(stores: Arc<dyn Stores>) {
    let stores = &*stores;
    let epoch = own(stores).await;
    let create = async |bare: &str| {
        let account = Some(proto::Account {
            bare: bare.to_owned(),
            ..proto::Account::default()
        });
        let put = proto::AccountPutRequest {
            account,
            create: true,
        };
        stores.account_put(put).await.unwrap();
    };
    let both = [("roster", "r"), ("privacy", "p")];
    for (n, bare) in [(1, "a@h"), (2, "b@h")] {
        create(bare).await;
        write(stores, put(n, epoch, bare, &both)).await;
    }
    let bare = "a@h".to_owned();
    stores
        .account_delete(proto::AccountRef { bare })
        .await
        .unwrap();
    let names = ["roster", "privacy"];
    assert_eq!(read(stores, "a@h", &names).await, []);
    assert_eq!(read(stores, "b@h", &names).await, items(&both));
    // A session that has not ended yet may write once more; a namesake does not get that.
    write(stores, put(3, epoch, "a@h", &both)).await;
    create("a@h").await;
    assert_eq!(read(stores, "a@h", &names).await, []);
    // New keys of an account leave its data alone.
    let account = Some(proto::Account {
        bare: "b@h".to_owned(),
        ..proto::Account::default()
    });
    let keys = proto::AccountPutRequest {
        account,
        create: false,
    };
    stores.account_put(keys).await.unwrap();
    assert_eq!(read(stores, "b@h", &names).await, items(&both));
}
