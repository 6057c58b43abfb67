//! What belongs to users: accounts, offline messages.

use std::sync::Arc;

use sestina_api::store::{StoreError, Stores};
use sestina_proto as proto;

use crate::support::*;

pub(crate) async fn accounts(stores: Arc<dyn Stores>) {
    let keys = |iterations| proto::ScramKeys {
        mechanism: "SCRAM-SHA-256".into(),
        salt: vec![1, 2].into(),
        iterations,
        stored_key: vec![3].into(),
        server_key: vec![4].into(),
    };
    let put = |bare: &str, create, iterations| proto::AccountPutRequest {
        account: Some(proto::Account {
            bare: bare.into(),
            keys: vec![keys(iterations)],
            ..Default::default()
        }),
        create,
    };
    let bare = |bare: &str| proto::AccountRef { bare: bare.into() };
    let missing = stores.account_put(put("a@h", false, 1)).await;
    assert!(
        matches!(missing, Err(StoreError::NotFound(_))),
        "{missing:?}"
    );
    stores.account_put(put("a@h", true, 1)).await.unwrap();
    let twice = stores.account_put(put("a@h", true, 9)).await;
    assert!(matches!(twice, Err(StoreError::Exists(_))), "{twice:?}");
    let account = stores
        .account_get(bare("a@h"))
        .await
        .unwrap()
        .account
        .unwrap();
    assert_eq!(
        account.keys,
        [keys(1)],
        "the second creation changed nothing"
    );
    assert!(account.created_ms > 1_700_000_000_000);
    stores.account_put(put("a@h", false, 2)).await.unwrap();
    stores
        .account_set_disabled(proto::AccountDisable {
            bare: "a@h".into(),
            disabled: true,
        })
        .await
        .unwrap();
    let changed = stores
        .account_get(bare("a@h"))
        .await
        .unwrap()
        .account
        .unwrap();
    assert_eq!(
        (changed.disabled, changed.created_ms),
        (true, account.created_ms)
    );
    assert_eq!(changed.keys, [keys(2)]);
    for name in ["c@h", "b@h", "B@h", "x@other"] {
        stores.account_put(put(name, true, 1)).await.unwrap();
    }
    let list = |after: &str| proto::AccountListRequest {
        host: "h".into(),
        after: after.into(),
        limit: 2,
    };
    let names = |reply: proto::AccountListReply| -> Vec<String> {
        reply
            .accounts
            .into_iter()
            .map(|account| account.bare)
            .collect()
    };
    assert_eq!(
        names(stores.account_list(list("")).await.unwrap()),
        ["B@h", "a@h"]
    );
    assert_eq!(
        names(stores.account_list(list("a@h")).await.unwrap()),
        ["b@h", "c@h"]
    );
    let nul = stores.account_get(bare("a\0@h")).await;
    assert!(matches!(nul, Err(StoreError::Invalid(_))), "{nul:?}");

    // Deleting takes everything along.
    let epoch = own(&*stores).await;
    append(&*stores, vec![row("a@h", epoch, 1)]).await;
    let rows = vec![offline("a@h", epoch, 1)];
    stores
        .offline_append(proto::OfflineAppendRequest { rows, max_rows: 9 })
        .await
        .unwrap();
    stores.account_delete(bare("a@h")).await.unwrap();
    let gone = stores.account_get(bare("a@h")).await;
    assert!(matches!(gone, Err(StoreError::NotFound(_))), "{gone:?}");
    let again = stores.account_delete(bare("a@h")).await;
    assert!(matches!(again, Err(StoreError::NotFound(_))), "{again:?}");
    assert_eq!(stores.archive_query(ask("a@h", 9)).await.unwrap().count, 0);
    let list = proto::OfflineListRequest {
        bare: "a@h".into(),
        limit: 9,
        ..Default::default()
    };
    assert!(stores.offline_list(list).await.unwrap().rows.is_empty());
    stores
        .maintain(proto::MaintainRequest::default())
        .await
        .unwrap();
    // A namesake starts with an empty archive, even for the same stanza-ids.
    append(&*stores, vec![row("a@h", epoch, 1)]).await;
    assert_eq!(stores.archive_query(ask("a@h", 9)).await.unwrap().count, 1);
}

pub(crate) async fn offline_messages(stores: Arc<dyn Stores>) {
    let epoch = own(&*stores).await;
    let put = |rows, max_rows| {
        let stores = Arc::clone(&stores);
        async move {
            stores
                .offline_append(proto::OfflineAppendRequest { rows, max_rows })
                .await
                .unwrap()
        }
    };
    let listed = || async {
        let list = proto::OfflineListRequest {
            bare: "a@h".into(),
            limit: 100,
            ..Default::default()
        };
        let rows = stores.offline_list(list).await.unwrap().rows;
        rows.iter().map(|row| row.counter).collect::<Vec<_>>()
    };
    let rows = vec![
        offline("a@h", epoch, 2),
        offline("a@h", epoch, 1),
        offline("a@h", epoch, 1),
    ];
    put(rows, 3).await;
    assert_eq!(listed().await, [1, 2]);
    let list = proto::OfflineListRequest {
        bare: "a@h".into(),
        limit: 1,
        ..Default::default()
    };
    let first = stores.offline_list(list).await.unwrap().rows.remove(0);
    assert_eq!(
        first,
        proto::OfflineRow {
            fence: None,
            ..offline("a@h", epoch, 1)
        }
    );

    // A page ends with the row that fills it; the next begins behind a place.
    let page = |after_counter, max_bytes| {
        let stores = Arc::clone(&stores);
        let list = proto::OfflineListRequest {
            bare: "a@h".into(),
            limit: 100,
            after_epoch: if after_counter == 0 { 0 } else { epoch },
            after_counter,
            max_bytes,
        };
        async move {
            let page = stores.offline_list(list).await.unwrap();
            let counters: Vec<u64> = page.rows.iter().map(|row| row.counter).collect();
            (counters, page.more)
        }
    };
    assert_eq!(page(0, 1).await, (vec![1], true));
    assert_eq!(page(1, 1).await, (vec![2], false));
    assert_eq!(page(0, 1 << 20).await, (vec![1, 2], false));
    assert_eq!(page(2, 1).await, (vec![], false));

    // Only what is beyond the limit is refused, by its index; another user has room.
    let rows = vec![
        offline("a@h", epoch, 2),
        offline("a@h", epoch, 3),
        offline("a@h", epoch, 4),
        offline("b@h", epoch, 1),
    ];
    let reply = put(rows, 3).await;
    assert_eq!((reply.full, reply.fenced_slots), (vec![2], vec![]));
    assert_eq!(listed().await, [1, 2, 3]);

    let remove = proto::OfflineRemoveRequest {
        fence: fence(0, epoch),
        bare: "a@h".into(),
        keys: vec![key(1), key(2), key(77)],
    };
    stores.offline_remove(remove.clone()).await.unwrap();
    stores.offline_remove(remove).await.unwrap();
    assert_eq!(listed().await, [3]);
    let known = |keys| {
        let bare = "a@h".into();
        stores.offline_known(proto::OfflineKnownRequest { bare, keys })
    };
    let known = known(vec![key(1), key(3), key(77)]).await.unwrap().keys;
    assert_eq!(known.len(), 2);
    assert!(
        known.contains(&key(1)) && known.contains(&key(3)),
        "{known:?}"
    );
    let nobody = proto::OfflineKnownRequest {
        bare: "nobody@h".into(),
        keys: vec![key(1)],
    };
    assert!(stores.offline_known(nobody).await.unwrap().keys.is_empty());
    // A replay of a delivered one is done already; there is room for two others.
    let rows = vec![
        offline("a@h", epoch, 1),
        offline("a@h", epoch, 5),
        offline("a@h", epoch, 6),
    ];
    assert!(put(rows, 3).await.full.is_empty());
    assert_eq!(listed().await, [3, 5, 6]);
    let keep = proto::MaintainRequest {
        outcome_keep_s: 3600,
        archive_keep_days: 0,
    };
    stores.maintain(keep).await.unwrap();
    put(vec![offline("a@h", epoch, 1)], 0).await;
    assert_eq!(listed().await, [3, 5, 6], "still remembered");
}
