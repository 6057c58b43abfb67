//! Jobs on their way through the network: a request or its answer may be lost or late.

use sestina_router::simulation::{Job, JobDone};

use super::{Asker, perform};
use crate::partition::Place;
use crate::state_store::Fate;
use crate::world::World;

impl World {
    /// The requests of dead processes that can arrive now.
    pub(crate) fn orphans_on_their_way(&self) -> impl Iterator<Item = usize> {
        let arrives = |asker: &Asker| {
            let from = Place::Process(asker.node.incarnation);
            self.passes(from, Place::Storage) && self.passes(from, Place::StateStore)
        };
        let orphans = self.orphans.iter().enumerate();
        orphans
            .filter(move |(_, (_, asker))| arrives(asker))
            .map(|(index, _)| index)
    }

    /// Does a job of a router at the stores, as far as the network lets it; `None` if the router has to
    /// ask again.
    pub(super) fn through_network(&mut self, job: &Job, asker: &Asker) -> Option<JobDone> {
        let me = Place::Process(asker.node.incarnation);
        let of_state_store = matches!(job, Job::ReplicaCommit { .. } | Job::ReplicaList { .. });
        let store = if of_state_store {
            Place::StateStore
        } else {
            Place::Storage
        };
        let (there, back) = (self.passes(me, store), self.passes(store, me));
        let fate = if of_state_store {
            self.fate_of_write(me, there, back)
        } else {
            Fate::Answered
        };
        let moves = matches!(job, Job::Release { .. } | Job::Raise { .. });
        // A request that changes something takes effect even if its answer is lost; the router asks
        // again then. A request that only reads has no effect without its answer.
        let writes = matches!(
            job,
            Job::Archive { .. } | Job::Offline { .. } | Job::OfflineRemove { .. }
        );
        let lost = !of_state_store && (!there || (!back && !writes && !moves));
        // The state store is asked for the epoch of a slot before the slot is given away.
        let lost = lost || (moves && self.gives_nothing(asker.node.incarnation, Place::StateStore));
        if lost
            && let Job::Release { slot, epoch, to } = job
            && self.rng.one_in(2)
        {
            // The release arrives after the router has given it up.
            let (slot, epoch, to) = (*slot, *epoch, to.clone());
            let job = Job::Release { slot, epoch, to };
            self.orphans.push((job, asker.clone()));
        }
        if let Job::ReplicaCommit { at, ops, .. } = job {
            self.note_queued(at.epoch, ops);
        }
        let away = self.storage.away;
        self.storage.away |= lost;
        let (storage, state_store) = (&mut self.storage, &mut self.state_store);
        let done = perform(job, asker, self.now, storage, state_store, fate);
        self.storage.away = away;
        match done? {
            JobDone::Released { slot, epoch, .. } if !back => Some(JobDone::Released {
                slot,
                epoch,
                done: false,
            }),
            _ if writes && !back => None,
            done => Some(done),
        }
    }

    /// What becomes of a request to the state store, if requests arrive `there` and answers come `back`.
    fn fate_of_write(&mut self, me: Place, there: bool, back: bool) -> Fate {
        if there && back {
            return self.state_store.fate(&mut self.rng);
        }
        if there {
            return Fate::Unanswered;
        }
        let until = self.cut_until(me, Place::StateStore).unwrap_or(self.now);
        match self.rng.below(2) {
            0 => Fate::Lost,
            _ => Fate::Late {
                wait: until.saturating_sub(self.now) + self.rng.below(600),
                twice: false,
            },
        }
    }
}
