//! Storage of the simulation keeps data of entities as the databases do.

use sestina_cluster::slot_map::SlotTable;

use super::*;

const EPOCH: u64 = 3;

fn storage() -> Storage {
    let mut map = SlotTable::empty().as_proto().clone();
    map.epochs[0] = EPOCH;
    Storage::new(map)
}

/// The `n`-th request: it sets the roster, and its answer is named after it.
fn put(n: u64, epoch: u64, value: &'static str) -> proto::EntityDataPutRequest {
    proto::EntityDataPutRequest {
        fence: Some(proto::Fence { slot: 0, epoch }),
        key: Some(proto::Key {
            n,
            ..proto::Key::default()
        }),
        answer: Some(answer(value)),
        entity: "a@h".to_owned(),
        items: vec![proto::EntityDataItem {
            name: "roster".to_owned(),
            value: Bytes::from_static(value.as_bytes()),
        }],
        counter: n,
    }
}

fn answer(id: &str) -> proto::Stanza {
    proto::Stanza {
        id: id.to_owned(),
        ..proto::Stanza::default()
    }
}

/// The roster; empty if there is none.
fn roster(storage: &Storage) -> Bytes {
    let names = ["other", "roster"].map(str::to_owned).to_vec();
    let reply = storage.entity_data_get(&proto::EntityDataGetRequest {
        entity: "a@h".to_owned(),
        names,
    });
    assert!(reply.items.len() <= 1, "{reply:?}");
    let item = reply.items.first();
    item.map(|item| item.value.clone()).unwrap_or_default()
}

#[test]
fn entity_data_that_is_put_is_read_until_it_is_deleted() {
    let mut storage = storage();
    assert_eq!(roster(&storage), "");
    for (n, value) in [(1, "one"), (2, "two"), (3, ""), (4, "four")] {
        let reply = storage.entity_data_put(&put(n, EPOCH, value));
        assert_eq!(reply, proto::EntityDataPutReply::default());
        assert_eq!(roster(&storage), value);
    }
}

#[test]
fn entity_data_of_a_repeated_request_is_answered_as_before_and_not_written() {
    let mut storage = storage();
    storage.entity_data_put(&put(1, EPOCH, "one"));
    let reply = storage.entity_data_put(&put(1, EPOCH, "two"));
    let expected = proto::EntityDataPutReply {
        replayed: true,
        answer: Some(answer("one")),
        ..proto::EntityDataPutReply::default()
    };
    assert_eq!((reply, roster(&storage)), (expected, "one".into()));
}

#[test]
fn entity_data_under_another_epoch_is_fenced_and_not_written() {
    let mut storage = storage();
    for stale in [0, EPOCH - 1, EPOCH + 1] {
        let reply = storage.entity_data_put(&put(1, stale, "stale"));
        assert!(reply.fenced, "epoch {stale}: {reply:?}");
        assert_eq!(roster(&storage), "");
    }
    let reply = storage.entity_data_put(&put(1, EPOCH, "one"));
    assert_eq!(reply, proto::EntityDataPutReply::default());
}

#[test]
fn entity_data_of_a_lost_commit_is_as_before_and_its_request_is_new() {
    let mut storage = storage();
    for (n, value) in [(1, "one"), (2, "two"), (3, "")] {
        storage.entity_data_put(&put(n, EPOCH, value));
    }
    storage.lose_commits(1);
    assert_eq!(roster(&storage), "two");
    storage.lose_commits(2);
    assert_eq!(roster(&storage), "");
    let reply = storage.entity_data_put(&put(2, EPOCH, "again"));
    assert!(!reply.replayed, "{reply:?}");
    assert_eq!(roster(&storage), "again");
}

#[test]
fn entity_data_of_a_late_write_is_not_written_although_its_cancellation_is_lost() {
    let mut storage = storage();
    let late = put(1, EPOCH, "one");
    let cancel = proto::EntityDataPutRequest {
        answer: Some(answer("error")),
        items: Vec::new(),
        ..late.clone()
    };
    let reply = storage.entity_data_put(&cancel);
    assert_eq!(reply, proto::EntityDataPutReply::default());
    storage.lose_commits(1);
    storage.entity_data_put(&put(2, EPOCH, "two"));
    let reply = storage.entity_data_put(&late);
    assert!(reply.overtaken && !reply.replayed, "{reply:?}");
    assert_eq!(roster(&storage), "two");
    assert_eq!(storage.answers.len(), 1, "its key is not stored");
}
