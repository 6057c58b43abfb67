//! Jobs of routers at the stores: requests to storage and to the state store, and their answers.
//!
//! - [`network`]: what the network lets through of them
//! - [`perform`](mod@perform): what the stores answer

mod network;
mod perform;

pub(super) use perform::{Asker, perform};

use sestina_api::state_store::{Loading, Stamp};
use sestina_router::simulation::{Input, Job, JobDone};
use sestina_runtime::guard;

use super::partition::Place;
use super::trace;
use super::world::World;
use perform::QUESTION;

/// A job of a router's worker.
#[derive(Debug)]
pub(super) enum JobState {
    /// The request is on its way to a store.
    Asked { worker: usize, job: Job, at: u64 },
    /// The answer is on its way back.
    Answered { worker: usize, done: JobDone },
    /// A slot is being loaded from the state store, part by part.
    Loading {
        worker: usize,
        slot: u16,
        epoch: u64,
        loading: Loading,
    },
}

impl World {
    /// Whether a job of a router cannot go on now, because a store does not answer.
    pub(super) fn job_waits(&self, router: u64, job: &JobState) -> bool {
        let JobState::Asked { job, at, .. } = job else {
            return false;
        };
        match job {
            Job::Archive { .. } | Job::Offline { .. } | Job::OfflineRemove { .. } => {
                self.is_unavailable(router, Place::Storage)
            }
            Job::UserKnown { .. }
            | Job::OfflineList(_)
            | Job::ArchiveQuery { .. }
            | Job::Residents { .. }
            | Job::EntityData { .. } => {
                self.gives_nothing(router, Place::Storage) && self.now <= at + QUESTION
            }
            Job::ReplicaLoad { .. } => self.gives_nothing(router, Place::StateStore),
            Job::ReplicaCommit { .. }
            | Job::ReplicaList { .. }
            | Job::Release { .. }
            | Job::Raise { .. }
            | Job::Keys { .. } => false,
        }
    }

    /// Takes a job one step further; false if it has to wait.
    pub(super) fn job(&mut self, host: usize, index: usize) -> bool {
        let state = self.hosts[host].jobs.remove(index);
        match state {
            JobState::Answered { worker, done } => {
                self.hosts[host].push(worker, Input::Done(done));
                true
            }
            JobState::Loading {
                worker,
                slot,
                epoch,
                loading,
            } => {
                let next = self.go_on_loading(host, worker, slot, epoch, loading);
                self.hosts[host].jobs.push(next);
                true
            }
            JobState::Asked { worker, job, at } => {
                if let Job::ReplicaLoad { slot, epoch } = job {
                    return self.begin_load(host, worker, slot, epoch, at);
                }
                let asker = self.hosts[host].asker(at);
                let me = asker.node.incarnation;
                let done = self.through_network(&job, &asker);
                self.note(|| format!("stores: r-{host} {} -> {done:?}", trace::job(&job)));
                let Some(done) = done else {
                    self.hosts[host]
                        .jobs
                        .insert(index, JobState::Asked { worker, job, at });
                    return false;
                };
                let heard = self.passes(Place::Storage, Place::Process(me));
                if let Job::Release { .. } | Job::Raise { .. } = job
                    && heard
                {
                    self.hosts[host].offer(&self.storage.map);
                }
                self.hosts[host]
                    .jobs
                    .push(JobState::Answered { worker, done });
                true
            }
        }
    }

    /// The first step of a load: the state store takes the epoch, and lists the objects of the slot.
    fn begin_load(&mut self, host: usize, worker: usize, slot: u16, epoch: u64, at: u64) -> bool {
        let me = self.hosts[host].incarnation();
        let away = self.gives_nothing(me, Place::StateStore);
        let next = if away {
            if !self.is_unavailable(me, Place::StateStore) {
                // The request arrives, so the epoch is installed; only the answer is lost.
                self.state_store.list(slot, Stamp::new(epoch, 0)).ok();
            }
            let job = Job::ReplicaLoad { slot, epoch };
            JobState::Asked { worker, job, at }
        } else {
            match self.state_store.list(slot, Stamp::new(epoch, 0)) {
                Ok(listing) => JobState::Loading {
                    worker,
                    slot,
                    epoch,
                    loading: Loading::new(listing),
                },
                Err(error) => JobState::Answered {
                    worker,
                    done: JobDone::ReplicaLoaded {
                        slot,
                        epoch,
                        result: Err(error),
                    },
                },
            }
        };
        self.note(|| format!("stores: r-{host} loads {slot}@{epoch}: {next:?}"));
        self.hosts[host].jobs.push(next);
        !away
    }

    /// Loads another part of a slot; begins anew if the state store does not give that part.
    fn go_on_loading(
        &mut self,
        host: usize,
        worker: usize,
        slot: u16,
        epoch: u64,
        mut loading: Loading,
    ) -> JobState {
        let again = JobState::Asked {
            worker,
            job: Job::ReplicaLoad { slot, epoch },
            at: self.now,
        };
        if self.gives_nothing(self.hosts[host].incarnation(), Place::StateStore) {
            return again;
        }
        let Some((names, after)) = loading.next() else {
            let result = Ok(loading.finish());
            self.note(|| format!("stores: loaded {slot}@{epoch}: {result:?}"));
            return JobState::Answered {
                worker,
                done: JobDone::ReplicaLoaded {
                    slot,
                    epoch,
                    result,
                },
            };
        };
        let part = self.state_store.load_part(slot, names, after);
        if !loading.take(part, !guard!("load-in-parts")) {
            return again;
        }
        JobState::Loading {
            worker,
            slot,
            epoch,
            loading,
        }
    }
}
