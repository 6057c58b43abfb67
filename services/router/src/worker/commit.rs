//! Commits of a slot to the state store: bounded in bytes, numbered, one under way at a time.
//!
//! After a failure the owner does not know whether the write was done, or is still to be done. It
//! never repeats it: the objects concerned are written whole under the next number, so that the
//! older write is refused should it arrive later. An answer that finds an older write than the store
//! had acknowledged tells that the store has lost writes: then all of the slot is written anew, and
//! what the store has beside that is removed. [`cut`](super::cut) takes what one commit is to write.

use sestina_api::state_store::{Found, Listing, ReplicaOp, Stamp, StateStoreError};
use sestina_runtime::{failpoint, guard};

use super::core::{Core, Job};
use super::cut::Cut;
use super::replica::{Change, SlotReplica, Waiting};
use super::slot::Slot;
use crate::rng::HashSet;

/// A script that is under way.
#[derive(Debug)]
pub(crate) struct InFlight {
    at: Stamp,
    kind: Kind,
    /// The groups of several objects among those that are written.
    groups: Vec<Vec<String>>,
}

#[derive(Debug)]
enum Kind {
    /// These objects are written.
    Objects(Vec<(String, Waiting)>),
    /// A part of a change is put aside.
    Part,
    /// The store is asked for the names of its objects.
    Listing,
}

impl InFlight {
    pub(super) fn objects(&self) -> usize {
        match &self.kind {
            Kind::Objects(objects) => objects.len(),
            Kind::Part | Kind::Listing => 0,
        }
    }
}

/// A check under way: all objects were written, if with nothing, after it began.
#[derive(Debug)]
pub(super) struct Check {
    /// Up to which doubt it tells.
    doubts: u64,
    /// The newest write when it began.
    since: u64,
    /// Objects that were not written since.
    left: HashSet<String>,
}

impl Check {
    pub(super) fn new(doubts: u64, since: u64, left: HashSet<String>) -> Check {
        Check {
            doubts,
            since,
            left,
        }
    }
}

impl SlotReplica {
    /// Whether a change of the object is under way.
    pub(super) fn is_being_written(&self, object: &str) -> bool {
        let staged = self.staging.as_ref();
        let flying = self.in_flight.as_ref().map(|flight| &flight.kind);
        staged.is_some_and(|staging| staging.objects().any(|staged| staged == object))
            || matches!(flying, Some(Kind::Objects(objects)) if objects.iter().any(|o| o.0 == object))
    }

    /// The store took a write.
    fn taken(&mut self, at: Stamp, objects: &[(String, Waiting)]) {
        self.failed = false;
        for (object, _) in objects {
            self.doubtful.remove(object);
        }
        if self.doubtful.is_empty() && !self.to_list {
            self.rewriting = false;
        }
        let Some(check) = self.check.as_mut().filter(|check| at.n > check.since) else {
            return;
        };
        for (object, _) in objects {
            check.left.remove(object);
        }
        if check.left.is_empty() && !self.to_list {
            self.checked = check.doubts.max(self.checked);
            self.check = None;
        }
    }
}

impl Slot {
    /// Begins a commit if none is under way; run at the end of a turn.
    pub(crate) fn replica_flush(&mut self, core: &mut Core) {
        let replica = &mut self.replica;
        replica.listed = false;
        let idle = replica.is_idle() && !replica.probe;
        if replica.in_flight.is_some() || idle {
            return;
        }
        if core.now_ms < replica.retry_at_ms {
            return self.replica_list(core);
        }
        let slot = self.slot;
        let at = Stamp::new(self.epoch, replica.n + 1);
        replica.n = at.n;
        // The request for the names of all objects also deletes what is staged.
        if replica.to_list && replica.staging.is_none() {
            let (kind, groups) = (Kind::Listing, Vec::new());
            replica.in_flight = Some(InFlight { at, kind, groups });
            return core.jobs.push(Job::ReplicaList { slot, at });
        }
        let limit = core.config.limits.replica_commit_bytes;
        if replica.staging.is_none() {
            let cut = self.cut_commit(at, limit);
            if self.replica.staging.is_none() {
                return self.send_objects(core, at, cut);
            }
        }
        let Some(staging) = &mut self.replica.staging else {
            return;
        };
        let (ops, bytes) = staging.step(at, limit);
        if !ops.is_empty() {
            let (kind, groups) = (Kind::Part, Vec::new());
            let flight = InFlight { at, kind, groups };
            return self.send_commit(core, flight, ops, bytes);
        }
        if let Some(staging) = self.replica.staging.take() {
            let cut = self.replica.cut_staged(staging, at, bytes);
            self.send_objects(core, at, cut);
        }
    }

    fn send_objects(&mut self, core: &mut Core, at: Stamp, cut: Cut) {
        let (kind, groups) = (Kind::Objects(cut.objects), cut.groups);
        let flight = InFlight { at, kind, groups };
        self.send_commit(core, flight, cut.ops, cut.bytes);
    }

    fn send_commit(
        &mut self,
        core: &mut Core,
        flight: InFlight,
        ops: Vec<ReplicaOp>,
        bytes: usize,
    ) {
        failpoint!("router.replica_commit");
        let (slot, at) = (self.slot, flight.at);
        self.replica.probe = false;
        self.replica.in_flight = Some(flight);
        core.metrics.replica_commit(bytes);
        core.jobs.push(Job::ReplicaCommit { slot, at, ops });
    }

    /// A commit ended; false if a higher epoch fences this owner.
    pub(crate) fn replica_done(
        &mut self,
        core: &mut Core,
        at: Stamp,
        result: Result<Found, StateStoreError>,
    ) -> bool {
        let Some(flight) = self.replica.in_flight.take_if(|flight| flight.at == at) else {
            return true;
        };
        match result {
            Ok(found) => {
                failpoint!("router.replica_committed");
                self.look_for_unanswered(core, found);
                self.answered(core, at, found);
                if let Kind::Objects(objects) = flight.kind {
                    self.replica.taken(at, &objects);
                    for (_, waiting) in objects {
                        self.written(core, waiting);
                    }
                }
            }
            Err(error) => {
                if !self.commit_failed(core, at, &error) {
                    return false;
                }
                if let Kind::Objects(objects) = flight.kind {
                    for (object, waiting) in objects {
                        self.not_written(core, object, waiting);
                    }
                }
                let mut groups = flight.groups;
                if let Some(staging) = self.replica.staging.take() {
                    groups.push(staging.objects().map(str::to_owned).collect());
                    for (object, waiting) in staging.give_up() {
                        self.not_written(core, object, waiting);
                    }
                }
                for group in &groups {
                    self.replica.tie(group);
                }
            }
        }
        self.ask_on();
        if !self.replica.is_idle() || self.replica.probe {
            self.replica_list(core);
        }
        true
    }

    /// The store has told which objects it has; false if a higher epoch fences this owner.
    pub(crate) fn replica_listed(
        &mut self,
        core: &mut Core,
        at: Stamp,
        result: Result<Listing, StateStoreError>,
    ) -> bool {
        let flight = self.replica.in_flight.take_if(|flight| flight.at == at);
        if flight.is_none() {
            return true;
        }
        match result {
            Ok(listing) => {
                self.replica.to_list = false;
                self.replica.failed = false;
                self.answered(core, at, listing.found);
                let told = self.replica.told.take();
                if told.is_some_and(|told| told != listing.before) {
                    tracing::warn!(
                        slot = self.slot,
                        found = %listing.before,
                        "the state store has lost writes of the owner before; the slot is written anew"
                    );
                    self.doubt(core);
                    self.replica.rewriting = true;
                }
                let mut objects = match self.replica.rewriting {
                    true => self.stored_objects(),
                    false => Vec::new(),
                };
                let there = listing.names.into_iter();
                objects.extend(there.filter(|object| !self.is_stored(object)));
                for object in objects {
                    let waiting = Waiting::default();
                    self.not_written(core, object, waiting);
                }
                self.replica.rewriting &= !self.replica.doubtful.is_empty() || self.replica.to_list;
            }
            Err(error) => {
                if !self.commit_failed(core, at, &error) {
                    return false;
                }
                // Events of rooms and ends of sessions do not wait for the state store while it is unavailable.
                let mut ends = Vec::new();
                for pending in self.replica.changes.values_mut() {
                    ends.append(&mut pending.waiting.ends);
                    for (room, seq) in pending.waiting.events.drain(..) {
                        core.rooms.uncommitted.push((self.slot, room, seq));
                    }
                }
                for id in ends {
                    self.tell_end(core, id);
                }
            }
        }
        self.ask_on();
        self.replica_list(core);
        true
    }

    /// A check goes on until the store has answered: where nothing is left to be written, with a
    /// commit of nothing.
    fn ask_on(&mut self) {
        self.replica.probe |= self.replica.check.is_some();
    }

    /// Looks at what the store knew before a write that it took (or would have taken).
    fn answered(&mut self, core: &mut Core, at: Stamp, found: Found) {
        let before = self.replica.refused.replace(found.refused);
        let refused = before.map_or(0, |before| found.refused.saturating_sub(before));
        core.metrics.refused_writes(refused);
        let lost = found.last < self.replica.acked && guard!("lost-writes");
        if lost {
            tracing::warn!(
                slot = self.slot,
                found = %found.last,
                acknowledged = %self.replica.acked,
                "the state store has lost writes; the slot is written anew"
            );
            self.replica_list_anew(core);
        }
        self.replica.acked = at;
    }

    /// Asks the store which objects it has, if it has done a write whose answer this process did not get.
    /// The store may have lost the removal of an object before that write, and only the missing answer would
    /// have said so.
    fn look_for_unanswered(&mut self, core: &mut Core, found: Found) {
        let acked = self.replica.acked.max(Stamp::new(self.epoch, 0));
        if found.last > acked {
            self.replica.to_list = true;
            self.replica_list(core);
        }
    }

    /// The store has lost writes: it is asked which objects it has, all of the slot's are written
    /// anew, and those that the slot does not have are removed.
    pub(super) fn replica_list_anew(&mut self, core: &mut Core) {
        self.doubt(core);
        self.replica.to_list = true;
        self.replica.rewriting = true;
        self.replica_list(core);
    }

    /// Something may be missing in the store: all slots ask for theirs.
    fn doubt(&mut self, core: &mut Core) {
        if !self.replica.failed && self.replica.checked == core.checks.doubts {
            core.checks.doubts += 1;
        }
    }

    /// Nothing was written, as far as is known; false if a higher epoch fences this owner.
    fn commit_failed(&mut self, core: &mut Core, at: Stamp, error: &StateStoreError) -> bool {
        match error {
            StateStoreError::Fenced { found } if found.last.epoch > self.epoch => {
                tracing::warn!(
                    slot = self.slot,
                    epoch = self.epoch,
                    known = found.last.epoch,
                    "fenced by the state store"
                );
                core.admit_epoch(self.slot, found.last.epoch);
                return false;
            }
            // Something on the way has repeated it: whether it was done is unknown as well.
            StateStoreError::Fenced { found } => {
                core.metrics.refused_writes(1);
                self.doubt(core);
                self.replica.refused = Some(found.refused);
                self.replica.n = self.replica.n.max(found.last.n);
            }
            StateStoreError::Stale { found, .. } => {
                self.doubt(core);
                self.look_for_unanswered(core, *found);
                self.answered(core, at, *found);
            }
            StateStoreError::Unavailable(reason) => {
                tracing::debug!(
                    slot = self.slot,
                    reason,
                    "commit to the state store failed; trying again"
                );
                self.doubt(core);
                self.replica.retry_at_ms = core.now_ms + core.config.times.state_store_retry_ms;
                core.metrics.state_store_unavailable();
            }
        }
        self.replica.failed = true;
        true
    }

    /// An object is written: what waited for it goes on.
    fn written(&mut self, core: &mut Core, waiting: Waiting) {
        for (id, number) in waiting.sessions {
            self.detach_committed(core, id, number);
        }
        for (id, settled) in waiting.settled {
            self.settled_committed(core, id, settled);
        }
        for id in waiting.ends {
            self.tell_end(core, id);
        }
        for (room, seq) in waiting.events {
            core.rooms.committed.push((self.slot, room, seq));
        }
        for (room, seq) in waiting.trims {
            core.rooms.trimmed.push((self.slot, room, seq));
        }
    }

    /// An object may be written or not: it is written whole, or deleted.
    fn not_written(&mut self, core: &mut Core, object: String, waiting: Waiting) {
        // Rooms go on while the state store is unavailable: their events leave uncommitted and are settled by
        // their receivers.
        for (room, seq) in waiting.events {
            core.rooms.uncommitted.push((self.slot, room, seq));
        }
        for id in waiting.ends {
            self.tell_end(core, id);
        }
        self.replica.doubtful.insert(object.clone());
        let change = if self.is_stored(&object) {
            Change::Replace
        } else {
            Change::Delete
        };
        let pending = self.replica.put(object, change);
        pending.sessions.extend(waiting.sessions);
        pending.settled.extend(waiting.settled);
        pending.trims.extend(waiting.trims);
    }
}

#[cfg(test)]
#[path = "commit_tests.rs"]
pub(super) mod tests;
