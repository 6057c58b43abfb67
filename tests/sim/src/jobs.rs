//! Jobs of routers at the stores: when they are asked, and what they answer.

use sestina_api::shadow::{Loading, Stamp};
use sestina_router::simulation::{Input, Job, JobDone};
use sestina_runtime::guard;

use super::host::{Asker, JobState};
use super::partition::Place;
use super::trace;
use super::world::World;

impl World {
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
                if let Job::ShadowLoad { slot, epoch } = job {
                    return self.begin_load(host, worker, slot, epoch, at);
                }
                let asker = Asker {
                    node: self.hosts[host].node.clone(),
                    known: self.hosts[host].table.position(),
                    at,
                };
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

    /// The first step of a load: the epoch is installed.
    fn begin_load(&mut self, host: usize, worker: usize, slot: u16, epoch: u64, at: u64) -> bool {
        let me = self.hosts[host].incarnation();
        let away = self.gives_nothing(me, Place::Shadow);
        let next = if away {
            if !self.is_away(me, Place::Shadow) {
                // The question arrives: the epoch is installed, though nobody hears so.
                self.shadow.list(slot, Stamp::new(epoch, 0)).ok();
            }
            let job = Job::ShadowLoad { slot, epoch };
            JobState::Asked { worker, job, at }
        } else {
            match self.shadow.list(slot, Stamp::new(epoch, 0)) {
                Ok(listing) => JobState::Loading {
                    worker,
                    slot,
                    epoch,
                    loading: Loading::new(listing),
                },
                Err(error) => JobState::Answered {
                    worker,
                    done: JobDone::ShadowLoaded {
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

    /// Another part of a load; from the beginning if that cannot be had.
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
            job: Job::ShadowLoad { slot, epoch },
            at: self.now,
        };
        if self.gives_nothing(self.hosts[host].incarnation(), Place::Shadow) {
            return again;
        }
        let Some((names, after)) = loading.next() else {
            let result = Ok(loading.finish());
            self.note(|| format!("stores: loaded {slot}@{epoch}: {result:?}"));
            return JobState::Answered {
                worker,
                done: JobDone::ShadowLoaded {
                    slot,
                    epoch,
                    result,
                },
            };
        };
        let part = self.shadow.load_part(slot, names, after);
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
