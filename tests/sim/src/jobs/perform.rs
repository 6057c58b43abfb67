//! The answers of storage and the state store to a job.

use sestina_api::shadow::ShadowError;
use sestina_proto as proto;
use sestina_router::simulation::{Job, JobDone, Known, WorkId};

use crate::state_store::{Fate, Shadow};
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
    shadow: &mut Shadow,
    fate: Fate,
) -> Option<JobDone> {
    Some(match job {
        Job::Archive { .. } | Job::Offline { .. } | Job::OfflineRemove { .. } => {
            return write(job, storage);
        }
        Job::UserKnown { .. } | Job::OfflineList(_) | Job::ArchiveQuery { .. } => {
            return read(job, storage, now > asker.at + QUESTION);
        }
        Job::Keys { .. } => JobDone::Keys,
        Job::Shadow { slot, at, ops } => JobDone::Shadow {
            slot: *slot,
            at: *at,
            result: shadow.write(*slot, *at, ops, fate, now),
        },
        Job::ShadowList { slot, at } => {
            let away = ShadowError::Away("simulated".to_owned());
            JobDone::ShadowListed {
                slot: *slot,
                at: *at,
                result: match fate {
                    Fate::Answered => shadow.list(*slot, *at),
                    Fate::Unanswered => shadow.list(*slot, *at).and(Err(away)),
                    Fate::Lost | Fate::Late { .. } => Err(away),
                },
            }
        }
        // Loads go step by step: see `World::begin_load`.
        Job::ShadowLoad { .. } => return None,
        Job::Release { slot, epoch, to } => {
            let moved = !storage.away
                && !shadow.away
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

/// Changes what users have in storage. While storage is away, that waits.
fn write(job: &Job, storage: &mut Storage) -> Option<JobDone> {
    if storage.away {
        return None;
    }
    match job {
        Job::Archive { rows, works } => {
            let fence = |row: &proto::ArchiveRow| row.fence;
            let fenced = storage.archive(rows);
            Some(JobDone::Archive {
                slots: rows.iter().map(fence).map(slot_and_epoch).collect(),
                works: works.clone(),
                fenced: refused(rows, works, &fenced, fence),
            })
        }
        Job::Offline { rows, works } => {
            let fence = |row: &proto::OfflineRow| row.fence;
            let fenced = storage.offline_append(rows);
            Some(JobDone::Offline {
                slots: rows.iter().map(fence).map(slot_and_epoch).collect(),
                works: works.clone(),
                fenced: refused(rows, works, &fenced, fence),
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
    works: &[WorkId],
    fenced: &[u32],
    fence: impl Fn(&R) -> Option<proto::Fence>,
) -> Vec<(R, WorkId)> {
    let both = rows.iter().zip(works);
    let refused = both.filter(|(row, _)| fenced.contains(&fence(row).map_or(0, |f| f.slot)));
    refused.map(|(row, work)| (row.clone(), *work)).collect()
}

/// Reads what users have in storage. While storage is away, the router waits, and gets an error when
/// it is `late`.
fn read(job: &Job, storage: &mut Storage, late: bool) -> Option<JobDone> {
    if storage.away && !late {
        return None;
    }
    match job {
        Job::UserKnown { slot, bare, keys } => Some(JobDone::UserKnown {
            slot: *slot,
            bare: bare.clone(),
            known: storage.if_there(|storage| Known {
                exists: storage.accounts.contains(bare),
                stored: storage.offline_known(bare, keys),
            }),
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
        _ => None,
    }
}
