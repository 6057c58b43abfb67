//! What storage is asked once, for a client or a session that waits: after a while the answer is that storage is
//! unavailable.

use std::time::Duration;

use sestina_api::key::IdempotencyKey;
use sestina_api::store::StoreError;
use sestina_proto as proto;
use sestina_proto::versions::ENTITY_DATA;
use sestina_telemetry::Shed;

use super::Shared;
use crate::worker::core::Job;
use crate::worker::data::{DataReply, DataRequest};
use crate::worker::input::{JobDone, Known};

/// How long a client's question may wait for storage.
const QUESTION: Duration = Duration::from_secs(5);

/// How long a large answer may wait while the process is overloaded.
const BULK_WAITS: Duration = Duration::from_millis(500);

/// Asks storage what a job says; none if the job is another one.
pub(super) async fn ask(shared: &Shared, job: Job) -> Option<JobDone> {
    Some(match job {
        Job::UserKnown {
            slot,
            bare,
            keys,
            names,
        } => {
            let asked = user_known(shared, &bare, keys, names);
            let known = match tokio::time::timeout(QUESTION, asked).await {
                Ok(Ok(known)) => Ok(known),
                Ok(Err(_)) | Err(_) => Err(()),
            };
            JobDone::UserKnown { slot, bare, known }
        }
        Job::OfflineList(read) => {
            bulk_waits(shared).await;
            let asked = shared.ports.stores.offline_list(read.request.clone());
            let page = match tokio::time::timeout(QUESTION, asked).await {
                Ok(Ok(page)) => Ok(page),
                Ok(Err(_)) | Err(_) => Err(()),
            };
            JobDone::OfflineList { read, page }
        }
        Job::ArchiveQuery { query, request } => {
            bulk_waits(shared).await;
            let asked = shared.ports.stores.archive_query(request);
            let page = match tokio::time::timeout(QUESTION, asked).await {
                Ok(Ok(page)) => Ok(page),
                Ok(Err(_)) | Err(_) => Err(()),
            };
            JobDone::ArchiveQuery { query, page }
        }
        Job::Residents {
            slot,
            epoch,
            question,
            user,
            names,
        } => {
            let asked = data_items(shared, &user, names);
            let items = match tokio::time::timeout(QUESTION, asked).await {
                Ok(items) => items.map_err(|error| error.to_string()),
                Err(_) => Err(format!("no answer within {} s", QUESTION.as_secs())),
            };
            JobDone::Residents {
                slot,
                epoch,
                question,
                user,
                items,
            }
        }
        Job::EntityData {
            slot,
            epoch,
            entity,
            request,
        } => {
            let asked = entity_data(shared, &entity, request);
            let reply = match tokio::time::timeout(QUESTION, asked).await {
                Ok(reply) => reply.map_err(|error| error.to_string()),
                Err(_) => Err(format!("no answer within {} s", QUESTION.as_secs())),
            };
            JobDone::EntityData {
                slot,
                epoch,
                entity,
                reply,
            }
        }
        _ => return None,
    })
}

/// Whether a user exists, which of these offline messages it has or had, and its data with these names.
async fn user_known(
    shared: &Shared,
    bare: &str,
    keys: Vec<proto::Key>,
    names: Vec<String>,
) -> Result<Known, StoreError> {
    let stores = &shared.ports.stores;
    let asked = stores.account_get(proto::AccountRef {
        bare: bare.to_owned(),
    });
    let exists = match asked.await {
        Ok(reply) => reply.account.is_some(),
        Err(StoreError::NotFound(_)) => false,
        Err(error) => return Err(error),
    };
    let mut stored = Vec::new();
    if !keys.is_empty() {
        let request = proto::OfflineKnownRequest {
            bare: bare.to_owned(),
            keys,
        };
        let reply = stores.offline_known(request).await?;
        stored.extend(reply.keys.iter().map(IdempotencyKey::from));
    }
    let data = match exists {
        true => data_items(shared, bare, names).await?,
        false => Vec::new(),
    };
    Ok(Known {
        exists,
        stored,
        data,
    })
}

/// The data of a user with these names, as far as the user has it.
async fn data_items(
    shared: &Shared,
    user: &str,
    names: Vec<String>,
) -> Result<Vec<proto::EntityDataItem>, StoreError> {
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let request = proto::EntityDataGetRequest {
        entity: user.to_owned(),
        names,
    };
    match shared.ports.stores.entity_data_get(request).await {
        Ok(reply) => Ok(reply.items),
        // A storage process of the version before does not know the call, and its users have no data.
        Err(StoreError::Internal(_)) if shared.speaks() < ENTITY_DATA => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Reads or writes data of an entity, once: what a failed write has done is not known.
async fn entity_data(
    shared: &Shared,
    entity: &str,
    request: DataRequest,
) -> Result<DataReply, StoreError> {
    let stores = &shared.ports.stores;
    match request {
        DataRequest::Get { names, cancel } => {
            if let Some(cancel) = cancel
                && stores.entity_data_put(*cancel).await?.fenced
            {
                let fenced = proto::EntityDataPutReply {
                    fenced: true,
                    ..Default::default()
                };
                return Ok(DataReply::Put(Box::new(fenced)));
            }
            if names.is_empty() {
                return Ok(DataReply::Got(Vec::new()));
            }
            let entity = entity.to_owned();
            let request = proto::EntityDataGetRequest { entity, names };
            let reply = stores.entity_data_get(request).await?;
            Ok(DataReply::Got(reply.items))
        }
        DataRequest::Put(request) => {
            let reply = stores.entity_data_put(*request).await?;
            Ok(DataReply::Put(Box::new(reply)))
        }
    }
}

/// A large answer is begun a moment later while the process is overloaded.
async fn bulk_waits(shared: &Shared) {
    if shared.pressure.pause(BULK_WAITS).await {
        shared.metrics.shed[Shed::Answer].inc();
    }
}
