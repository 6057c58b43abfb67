//! The same scenarios on both databases. `SESTINA_TEST_POSTGRES` names a server to use; without
//! it the test starts one of its own.

#![allow(clippy::unwrap_used)]

mod scenarios;
mod support;

use std::sync::Arc;

use sestina_testkit::Postgres;
use support::open;

macro_rules! conformance {
    ($($scenario:ident),* $(,)?) => {
        mod sqlite {
            use super::*;
            $(
                #[tokio::test(flavor = "multi_thread")]
                async fn $scenario() {
                    let folder = tempfile::tempdir().unwrap();
                    let path = folder.path().join("test.db");
                    let storage = open(&format!("sqlite:{}", path.display())).await;
                    scenarios::$scenario(Arc::clone(&storage) as _).await;
                    storage.close().await;
                }
            )*
        }

        /// One server, one database for each scenario.
        #[tokio::test(flavor = "multi_thread")]
        async fn postgres() {
            let server = Postgres::start().unwrap();
            $(
                let name = concat!("conformance_", stringify!($scenario));
                let storage = open(&server.create_database(name).unwrap()).await;
                let stores = Arc::clone(&storage);
                let scenario = tokio::spawn(scenarios::$scenario(stores as _)).await;
                storage.close().await;
                assert!(scenario.is_ok(), "{} failed on postgres", stringify!($scenario));
            )*
        }
    };
}

conformance! {
    accounts,
    archive_filters,
    archive_moves,
    archive_pages,
    archive_replays,
    assertions,
    claims_against_writes,
    entity_data_beyond_bounds_is_refused,
    entity_data_of_another_epoch_is_fenced,
    entity_data_of_removed_account_is_removed,
    entity_data_put_is_read_until_deleted,
    entity_data_replay_is_answered_and_not_written,
    entity_data_request_after_a_later_one_changes_nothing,
    fences,
    leases,
    lost_positions,
    maintenance,
    offline_messages,
    one_secret,
    one_timeline,
    ticket_keys_are_shared_and_rotate,
    quiet_timelines,
    renewals_against_claims,
    replicas,
    secrets,
    slot_claims,
    storage_processes,
    two_claimers,
    versions,
}
