//! What is SQLite's own: memory, files, group commit.

#![allow(clippy::unwrap_used)]

mod support;

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use sestina_api::store::{StoreError, Stores};
use sestina_proto as proto;
use sestina_storage::{Metered, OpenError, Storage, StorageConfig};
use support::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_database_in_memory_works_and_is_its_own() {
    let (one, two) = (open("sqlite::memory:").await, open("sqlite::memory:").await);
    let epoch = own(&*one).await;
    append(&*one, vec![row("a@h", epoch, 1)]).await;
    assert_eq!(one.archive_query(ask("a@h", 5)).await.unwrap().count, 1);
    assert_eq!(two.archive_query(ask("a@h", 5)).await.unwrap().count, 0);
    one.close().await;
    two.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_in_a_later_format_is_refused_and_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("later.db");
    let url = format!("sqlite:{}", path.display());
    open(&url).await.close().await;
    let write = |format: i64| {
        let path = path.clone();
        async move {
            let options = sqlx::sqlite::SqliteConnectOptions::new().filename(path);
            let mut conn = sqlx::ConnectOptions::connect(&options).await.unwrap();
            sqlx::query("UPDATE storage_format SET format = $1")
                .bind(format)
                .execute(&mut conn)
                .await
                .unwrap();
            sqlx::Connection::close(conn).await.unwrap();
        }
    };
    write(2).await;
    let refused = Storage::open(StorageConfig::new(&url)).await;
    let error = refused.map(drop).unwrap_err();
    assert!(
        matches!(
            error,
            OpenError::Format {
                ours: 1,
                theirs: 2,
                ..
            }
        ),
        "{error:?}"
    );
    let text = error.to_string();
    assert!(
        text.contains("format 2") && text.contains("up to 1"),
        "{text}"
    );
    write(1).await;
    open(&url).await.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_whose_file_is_deleted_takes_nothing_until_it_is_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.db");
    let aside = folder.path().join("aside.db");
    let storage = open(&format!("sqlite:{}", path.display())).await;
    assert_eq!(storage.health(), Ok(()));
    let account = || proto::AccountPutRequest {
        account: Some(proto::Account {
            bare: "a@h".to_owned(),
            ..proto::Account::default()
        }),
        ..proto::AccountPutRequest::default()
    };
    std::fs::rename(&path, &aside).unwrap();
    let refused = storage.account_put(account()).await.unwrap_err();
    assert!(matches!(refused, StoreError::Unavailable(_)), "{refused:?}");
    assert!(refused.to_string().contains("was deleted"), "{refused}");
    assert!(storage.health().unwrap_err().contains("put the file back"));
    let list = storage.account_list(proto::AccountListRequest::default());
    assert!(
        list.await.is_err(),
        "no empty database is read in its place"
    );
    assert!(!path.exists(), "none was made");
    std::fs::copy(&aside, &path).unwrap();
    assert!(storage.health().unwrap_err().contains("was replaced"));
    assert!(storage.account_put(account()).await.is_err());
    std::fs::rename(&aside, &path).unwrap();
    assert_eq!(storage.health(), Ok(()));
    storage.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_is_there_after_reopening() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a b.db");
    let url = format!("sqlite:{}", path.display());
    let storage = open(&url).await;
    let epoch = own(&*storage).await;
    let secret = storage.cluster_secret(proto::Empty {}).await.unwrap();
    let writers: Vec<_> = (0..300)
        .map(|n| {
            let storage = Arc::clone(&storage);
            tokio::spawn(async move {
                append(&*storage, vec![row(&format!("a{}@h", n % 7), epoch, n)]).await
            })
        })
        .collect();
    for writer in writers {
        assert!(writer.await.unwrap().is_empty());
    }
    storage.close().await;
    let closed = storage.archive_query(ask("a0@h", 5)).await;
    assert!(
        matches!(closed, Err(StoreError::Unavailable(_))),
        "{closed:?}"
    );
    let closed = storage.cluster_secret(proto::Empty {}).await;
    assert!(
        matches!(closed, Err(StoreError::Unavailable(_))),
        "{closed:?}"
    );

    let storage = open(&url).await;
    let mut count = 0;
    for n in 0..7 {
        count += storage
            .archive_query(ask(&format!("a{n}@h"), 0))
            .await
            .unwrap()
            .count;
    }
    assert_eq!(count, 300);
    assert_eq!(
        storage.cluster_secret(proto::Empty {}).await.unwrap(),
        secret
    );
    storage.close().await;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "it holds secrets");
    }
}

#[tokio::test]
async fn what_cannot_be_opened_is_explained() {
    let missing = Storage::open(StorageConfig::new("sqlite:/nowhere/at/all.db")).await;
    assert!(
        matches!(missing, Err(OpenError::Connect { .. })),
        "{missing:?}"
    );
    let unknown = Storage::open(StorageConfig::new("mysql://u:secret@h/d")).await;
    let error = unknown.unwrap_err();
    assert!(matches!(error, OpenError::Url { .. }));
    assert!(!error.to_string().contains("secret"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn operations_are_measured() {
    let notes = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&notes);
    let storage = open("sqlite::memory:").await;
    let metered = Metered::new(
        Arc::clone(&storage) as _,
        move |operation, took: Duration, ok| {
            assert!(took > Duration::ZERO);
            seen.lock().push((operation, ok));
        },
    );
    let nobody = proto::AccountRef { bare: "a@h".into() };
    assert!(metered.account_get(nobody.clone()).await.is_err());
    metered.cluster_secret(proto::Empty {}).await.unwrap();
    storage.close().await;
    assert!(metered.account_get(nobody).await.is_err());
    let expected = [
        ("account_get", true),
        ("cluster_secret", true),
        ("account_get", false),
    ];
    assert_eq!(*notes.lock(), expected);
}
