//! The answers of storage and the state store to a job.

use sestina_api::state_store::StateStoreError;
use sestina_proto as proto;
use sestina_router::simulation::{DataReply, DataRequest, Job, JobDone, Known, OperationId};

use crate::state_store::{Fate, StateStore};
use crate::stores::Storage;

/// How long a router waits for the answer to a question to storage, in simulated milliseconds.
pub(crate) const QUESTION: u64 = 500;

/// The router that asks for a job.
#[derive(Clone, Debug)]
pub(crate) struct Asker {
    pub(crate) node: proto::Node,
    /// The position of the slot table that it has.
    pub(crate) known: proto::Position,
    /// When it asked.
    pub(crate) at: u64,
}

/// Does a job at the stores; `None` if it has to wait.
pub(crate) fn perform(
    job: &Job,
    asker: &Asker,
    now: u64,
    storage: &mut Storage,
    state_store: &mut StateStore,
    fate: Fate,
) -> Option<JobDone> {
    Some(match job {
        Job::Archive { .. } | Job::Offline { .. } | Job::OfflineRemove { .. } => {
            return write(job, storage);
        }
        Job::UserKnown { .. }
        | Job::OfflineList(_)
        | Job::ArchiveQuery { .. }
        | Job::Residents { .. }
        | Job::EntityData { .. } => {
            return read(job, storage, now > asker.at + QUESTION);
        }
        Job::Keys { .. } => JobDone::Keys,
        Job::ReplicaCommit { slot, at, ops } => JobDone::ReplicaCommitted {
            slot: *slot,
            at: *at,
            result: state_store.write(*slot, *at, ops, fate, now),
        },
        Job::ReplicaList { slot, at } => {
            let away = StateStoreError::Unavailable("simulated".to_owned());
            JobDone::ReplicaListed {
                slot: *slot,
                at: *at,
                result: match fate {
                    Fate::Answered => state_store.list(*slot, *at),
                    Fate::Unanswered => state_store.list(*slot, *at).and(Err(away)),
                    Fate::Lost | Fate::Late { .. } => Err(away),
                },
            }
        }
        // Loads go step by step: see `World::begin_load`.
        Job::ReplicaLoad { .. } => return None,
        Job::Release { slot, epoch, to } => {
            let moved = !storage.away
                && !state_store.away
                && storage.move_slot((*slot, *epoch), (&asker.node, to), asker.known);
            JobDone::Released {
                slot: *slot,
                epoch: *epoch,
                done: moved,
            }
        }
        Job::Raise { slot, known } => {
            if !storage.away {
                storage.raise(*slot, *known, &asker.node, asker.known);
            }
            JobDone::Raised { slot: *slot }
        }
    })
}

/// Changes what users have in storage. While storage is unavailable, that waits.
fn write(job: &Job, storage: &mut Storage) -> Option<JobDone> {
    if storage.away {
        return None;
    }
    match job {
        Job::Archive { rows, operations } => {
            let fence = |row: &proto::ArchiveRow| row.fence;
            let fenced = storage.archive(rows);
            Some(JobDone::Archive {
                slots: rows.iter().map(fence).map(slot_and_epoch).collect(),
                operations: operations.clone(),
                fenced: refused(rows, operations, &fenced, fence),
            })
        }
        Job::Offline { rows, operations } => {
            let fence = |row: &proto::OfflineRow| row.fence;
            let fenced = storage.offline_append(rows);
            Some(JobDone::Offline {
                slots: rows.iter().map(fence).map(slot_and_epoch).collect(),
                operations: operations.clone(),
                fenced: refused(rows, operations, &fenced, fence),
                full: Vec::new(),
            })
        }
        Job::OfflineRemove {
            slot,
            session,
            request,
        } => Some(JobDone::OfflineRemoved {
            slot: *slot,
            session: *session,
            request: request.clone(),
            fenced: !storage.offline_remove(request),
        }),
        _ => None,
    }
}

fn slot_and_epoch(fence: Option<proto::Fence>) -> (u16, u64) {
    fence.map_or((u16::MAX, 0), |f| (f.slot as u16, f.epoch))
}

/// The rows of fenced slots, with the operations that wait for them.
fn refused<R: Clone>(
    rows: &[R],
    operations: &[OperationId],
    fenced: &[u32],
    fence: impl Fn(&R) -> Option<proto::Fence>,
) -> Vec<(R, OperationId)> {
    let both = rows.iter().zip(operations);
    let refused = both.filter(|(row, _)| fenced.contains(&fence(row).map_or(0, |f| f.slot)));
    refused.map(|(row, work)| (row.clone(), *work)).collect()
}

/// Reads or writes data of a user. A write without an answer arrives later: after up to eleven other requests.
fn entity_data(
    entity: &str,
    request: &DataRequest,
    storage: &mut Storage,
) -> Result<DataReply, String> {
    if let DataRequest::Put(request) = request {
        let n = request.key.map_or(0, |key| key.n);
        // One in eight hangs, as if its storage process was suspended.
        if storage.away || n % 8 == 3 {
            storage.late.push((1 + n % 12, (**request).clone()));
            return Err("simulated".to_owned());
        }
    }
    if storage.away {
        return Err("simulated".to_owned());
    }
    storage.late_writes(false);
    Ok(match request {
        DataRequest::Get { names, cancel } => {
            if let Some(cancel) = cancel {
                let reply = storage.entity_data_put(cancel);
                if reply.fenced {
                    return Ok(DataReply::Put(Box::new(reply)));
                }
            }
            DataReply::Got(data_items(entity, names, storage))
        }
        DataRequest::Put(request) => DataReply::Put(Box::new(storage.entity_data_put(request))),
    })
}

/// The data of a user with these names, as far as the user has it.
fn data_items(user: &str, names: &[String], storage: &Storage) -> Vec<proto::EntityDataItem> {
    let request = proto::EntityDataGetRequest {
        entity: user.to_owned(),
        names: names.to_vec(),
    };
    storage.entity_data_get(&request).items
}

/// Reads what users have in storage. While storage is unavailable, the router waits, and gets an error when
/// it is `late`.
fn read(job: &Job, storage: &mut Storage, late: bool) -> Option<JobDone> {
    if storage.away && !late {
        return None;
    }
    match job {
        Job::UserKnown {
            slot,
            bare,
            keys,
            names,
        } => Some(JobDone::UserKnown {
            slot: *slot,
            bare: bare.clone(),
            known: storage.if_there(|storage| Known {
                exists: storage.accounts.contains(bare),
                stored: storage.offline_known(bare, keys),
                data: data_items(bare, names, storage),
            }),
        }),
        Job::Residents {
            slot,
            epoch,
            question,
            user,
            names,
        } => Some(JobDone::Residents {
            slot: *slot,
            epoch: *epoch,
            question: *question,
            user: user.clone(),
            items: match storage.away {
                true => Err("simulated".to_owned()),
                false => Ok(data_items(user, names, storage)),
            },
        }),
        Job::OfflineList(read) => {
            let page = storage.if_there(|storage| storage.offline_list(&read.request));
            if page.is_err() {
                storage.unread.insert(read.request.bare.clone());
            }
            let read = read.clone();
            Some(JobDone::OfflineList { read, page })
        }
        Job::ArchiveQuery { query, request } => Some(JobDone::ArchiveQuery {
            query: query.clone(),
            page: storage.if_there(|storage| storage.page(request)),
        }),
        Job::EntityData {
            slot,
            epoch,
            entity,
            request,
        } => Some(JobDone::EntityData {
            slot: *slot,
            epoch: *epoch,
            entity: entity.clone(),
            reply: entity_data(entity, request, storage),
        }),
        _ => None,
    }
}
