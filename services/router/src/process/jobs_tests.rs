#![allow(clippy::unwrap_used)]

use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use sestina_api::state_store::{Found, Listing, LoadPart, ReplicaObject, ReplicaOp};

use super::*;

/// A store whose server is replaced, between two parts of a load, by one that lacks the last writes.
#[derive(Default)]
struct Replaced {
    parts: AtomicUsize,
}

#[async_trait]
impl StateStore for Replaced {
    async fn apply(&self, _: u16, _: Stamp, _: Vec<ReplicaOp>) -> Result<Found, StateStoreError> {
        Err(StateStoreError::Unavailable("it is only read".to_owned()))
    }

    async fn list(&self, _: u16, at: Stamp) -> Result<Listing, StateStoreError> {
        Ok(Listing {
            at,
            names: vec!["s:1".to_owned(), "s:2".to_owned()],
            ..Listing::default()
        })
    }

    async fn load_part(
        &self,
        _: u16,
        names: &[String],
        _: Option<&str>,
    ) -> Result<LoadPart, StateStoreError> {
        let replaced = self.parts.fetch_add(1, Ordering::Relaxed) > 0;
        let object = |name: &String| ReplicaObject {
            object: name.clone(),
            version: Stamp::new(1, 3),
            fields: Vec::new(),
        };
        Ok(LoadPart {
            at: if replaced {
                Stamp::new(1, 4)
            } else {
                Stamp::new(2, 0)
            },
            objects: names.first().map(object).into_iter().map(Some).collect(),
            rest: None,
        })
    }

    async fn epochs(&self, slots: &[u16]) -> Result<Vec<u64>, StateStoreError> {
        Ok(vec![0; slots.len()])
    }
}

/// Also run as the child of the next test, with the guard off.
#[tokio::test]
async fn a_load_that_the_store_changes_under_is_not_used() {
    sestina_runtime::faults_from_env().unwrap();
    let loaded = load(&Replaced::default(), 1, 2).await;
    assert!(
        matches!(loaded, Err(StateStoreError::Unavailable(_))),
        "{loaded:?}"
    );
}

#[test]
fn the_guard_of_loads_in_parts_is_missed() {
    let name = "process::jobs::tests::a_load_that_the_store_changes_under_is_not_used";
    let text = sestina_runtime::mutation::test_without("load-in-parts", name).unwrap();
    assert!(text.contains("1 failed"), "{text}");
}
