//! Taking a slot: install the epoch everywhere, gather what edges and the state store hold, go on.
//!
//! No edge or router that lives can act for the older owner once it has the epoch; one that
//! cannot be reached is waited for until its lease has ended. Then sessions are rebuilt from the
//! edges that hold their sockets, and from the state store where there is none.

use std::collections::BTreeMap;

use sestina_api::key::join;
use sestina_api::state_store::Loaded;
use sestina_cluster::slot_map::newer;
use sestina_proto as proto;
use sestina_proto::to_edge::Body;
use sestina_runtime::{failpoint, guard};

use super::archive_again::Held;
use super::channel::Channel;
use super::claims::Claims;
use super::core::{Core, LaneRef, PeerRef};
use super::detach::superseded;
use super::reports;
use super::restore::Before;
use super::slot::{Phase, Slot};
use super::trace_context::TraceContext;
use super::turn::Worker;
use crate::rng::{HashMap, HashSet};

/// A takeover under way.
#[derive(Debug, Default)]
pub(crate) struct Taking {
    /// Incarnations of live edges and routers that have not answered.
    pub(super) waiting: HashSet<u64>,
    /// Those of edges: they hold sessions.
    edges: HashSet<u64>,
    /// The slot is this process's in the table at this position, and in newer ones.
    since: proto::Position,
    reports: Vec<(LaneRef, proto::EpochReport)>,
    /// The sessions in its rooms.
    pub(super) claims: Claims,
    pub(super) stored: Option<Loaded>,
    /// The state store has answered.
    store_read: bool,
    /// The owner before sent a state of the slot that differs from the one in the state store: the store has lost
    /// writes, and has objects that were deleted.
    store_lost: bool,
    started_ms: u64,
    /// Slot messages that came meanwhile, in order, so that their origins need not send them again and again.
    pub(super) held: Vec<(PeerRef, proto::SlotMessage)>,
    /// Likewise events of rooms, with the sessions of this slot as their targets.
    pub(super) held_events: Vec<(PeerRef, proto::RoomEvent)>,
    pub(super) held_bytes: usize,
}

/// After this many milliseconds a router logs that a takeover is slow. From then on the slot does not wait for an edge
/// to which this router has no lane.
const LONG_MS: u64 = 3_000;
/// How long a slot waits for the edges while this router has no lane to any edge, in milliseconds.
const APART_MS: u64 = 30_000;

impl Worker {
    /// Says for whom slots have waited long.
    pub(super) fn tell_waiting(&self) {
        let mut waiting: BTreeMap<u64, usize> = BTreeMap::new();
        for incarnation in self
            .slots
            .iter()
            .flat_map(|slot| slot.waits_for(&self.core))
        {
            *waiting.entry(incarnation).or_default() += 1;
        }
        for (incarnation, slots) in waiting {
            if incarnation == 0 {
                tracing::warn!(
                    slots,
                    "slots are not taken: the state store does not answer"
                );
            } else {
                tracing::warn!(
                    slots,
                    incarnation,
                    "slots are not taken: a process does not answer, and its lease has not ended"
                );
            }
        }
    }
}

/// Reports of sessions, each with the lane of its edge.
type Reports = Vec<(LaneRef, proto::SessionReport)>;

/// The reports of edges, sorted by whether they are of a session's present attachment. The state store may know a later
/// one than any edge: then all of a session's reports are of previous attachments.
struct Sorted {
    present: Reports,
    /// Of attachments that the session was resumed from.
    previous: Reports,
    /// From which of its stanzas on a session is held by its present attachment.
    began: HashMap<u128, u64>,
    /// An entry for each lane that has reported.
    restored: HashMap<LaneRef, Vec<proto::ProgressItem>>,
}

impl Sorted {
    /// `newest` are the generations that the state store knows.
    fn of(reports: Vec<(LaneRef, proto::EpochReport)>, mut newest: HashMap<u128, u32>) -> Sorted {
        for (_, report) in &reports {
            for session in &report.sessions {
                let id = join(session.session_hi, session.session_lo);
                let generation = newest.entry(id).or_default();
                *generation = session.generation.max(*generation);
            }
        }
        let mut sorted = Sorted {
            present: Vec::new(),
            previous: Vec::new(),
            began: HashMap::default(),
            restored: HashMap::default(),
        };
        for (lane, report) in reports {
            sorted.restored.entry(lane).or_default();
            for session in report.sessions {
                let id = join(session.session_hi, session.session_lo);
                let newest = newest.get(&id).copied().unwrap_or(0);
                if session.generation < newest && guard!("generation") {
                    sorted.previous.push((lane, session));
                    continue;
                }
                sorted.began.insert(id, session.began);
                sorted.present.push((lane, session));
            }
        }
        sorted
    }
}

impl Slot {
    /// Begins to take a slot that the table gave to this process. `live` are all edges and routers
    /// whose lease is fresh.
    pub(crate) fn take(core: &mut Core, slot: u16, epoch: u64, live: &[proto::Node]) -> Slot {
        failpoint!("router.claimed");
        core.admit_epoch(slot, epoch);
        let me = core.me.node.incarnation;
        let waiting = live
            .iter()
            .map(|n| n.incarnation)
            .filter(|i| *i != me)
            .collect();
        let of_edges = live.iter().filter(|n| n.role() == proto::NodeRole::Edge);
        let routers = live.iter().filter(|n| n.role() == proto::NodeRole::Router);
        let others = routers.map(|n| n.incarnation).filter(|i| *i != me);
        let taking = Taking {
            waiting,
            edges: of_edges.map(|n| n.incarnation).collect(),
            claims: Claims::of(others.chain([me])),
            since: core.owners.table.position(),
            started_ms: core.now_ms,
            ..Taking::default()
        };
        let mut this = Slot::new(slot, epoch, Phase::Taking(Box::new(taking)));
        let lanes: Vec<LaneRef> = core.lanes.keys().copied().collect();
        for lane in lanes {
            this.install_at_edge(core, lane);
        }
        for node in live {
            this.install_at_router(core, PeerRef(node.incarnation));
        }
        this.ask_router(core, PeerRef(me));
        core.jobs
            .push(super::core::Job::ReplicaLoad { slot, epoch });
        this
    }

    /// Sends the epoch to an edge, on the lane that carries this slot.
    pub(crate) fn install_at_edge(&mut self, core: &mut Core, lane: LaneRef) {
        let Phase::Taking(taking) = &mut self.phase else {
            return;
        };
        let lanes = core.lanes.get(&lane).map_or(1, |l| l.lanes.max(1));
        if u32::from(self.slot) % lanes != lane.lane || !taking.waiting.contains(&lane.edge) {
            return;
        }
        taking.claims.forget_edge(lane.edge);
        let install = proto::InstallEpoch {
            owner: Some(core.me.node.clone()),
        };
        core.send_edge(lane, self.slot, self.epoch, Body::InstallEpoch(install));
    }

    /// Sends the epoch to a router.
    pub(crate) fn install_at_router(&self, core: &mut Core, peer: PeerRef) {
        self.ask_router(core, peer);
        let Phase::Taking(taking) = &self.phase else {
            return;
        };
        if !taking.waiting.contains(&peer.0) || !core.peer_open(peer) {
            return;
        }
        let install = proto::PeerInstallEpoch {
            owner: Some(core.me.node.clone()),
        };
        let frame = proto::PeerFrame {
            slot: u32::from(self.slot),
            epoch: self.epoch,
            body: Some(proto::peer_frame::Body::InstallEpoch(install)),
        };
        core.send_peer(peer, frame);
    }

    /// An edge has the epoch and says what it holds, in parts.
    pub(crate) fn edge_reported(
        &mut self,
        core: &mut Core,
        lane: LaneRef,
        part: proto::EpochReport,
    ) {
        let Phase::Taking(taking) = &mut self.phase else {
            return;
        };
        if taking.waiting.contains(&lane.edge) {
            let more = part.more && guard!("report-parts");
            if !reports::take(&mut taking.reports, lane, part) {
                return;
            }
            if !more {
                taking.waiting.remove(&lane.edge);
            }
        }
        self.try_restore(core);
    }

    /// The lease of a process has ended.
    pub(crate) fn node_gone(&mut self, core: &mut Core, incarnation: u64) {
        if let Phase::Taking(taking) = &mut self.phase {
            taking.claims.forget_router(incarnation);
        }
        self.node_done(core, incarnation);
    }

    /// A router has the epoch, or the lease of a process has ended.
    pub(crate) fn node_done(&mut self, core: &mut Core, incarnation: u64) {
        if let Phase::Taking(taking) = &mut self.phase {
            taking.waiting.remove(&incarnation);
            self.try_restore(core);
        }
    }

    /// Processes have said with their leases that they have installed the epochs of a table. One to
    /// which there is no lane is not waited for any longer: a router at once, an edge only after
    /// a while, because its sessions are lost to this owner.
    pub(crate) fn installed_elsewhere(
        &mut self,
        core: &mut Core,
        installed: &[(u64, proto::Position)],
    ) {
        let Phase::Taking(taking) = &mut self.phase else {
            return;
        };
        // A router without a lane to any edge is cut off itself: its slots wait longer for the edges. When the first lane
        // opens, the other edges have the usual time to open theirs.
        let long = match core.lanes.is_empty() {
            true => core.now_ms > taking.started_ms + APART_MS,
            false => {
                let since = core.lanes_since_ms.min(taking.started_ms + APART_MS);
                core.now_ms > taking.started_ms.max(since) + LONG_MS
            }
        };
        for (incarnation, position) in installed {
            let apart = if taking.edges.contains(incarnation) {
                long && !core.lanes.keys().any(|lane| lane.edge == *incarnation)
            } else {
                !core.peer_open(PeerRef(*incarnation))
            };
            if apart && !newer(taking.since, *position) {
                taking.claims.forget_router(*incarnation);
                if taking.waiting.remove(incarnation) {
                    tracing::debug!(slot = self.slot, incarnation, "not waited for any longer");
                }
            }
        }
        self.try_restore(core);
    }

    /// The state store has been read. An owner that went on with the copy of the owner before does not wait for
    /// this: it has asked for the names by itself (`replica_begins`).
    pub(crate) fn replica_loaded(&mut self, core: &mut Core, loaded: Loaded) {
        if let Phase::Taking(taking) = &mut self.phase {
            taking.store_read = true;
        }
        self.take_state(core, loaded);
    }

    /// Takes a state of the slot: the one read from the state store, or the one that the owner before sent. The newer of
    /// both counts, because the store may have lost writes.
    pub(crate) fn take_state(&mut self, core: &mut Core, loaded: Loaded) {
        if let Phase::Taking(taking) = &mut self.phase {
            let known = taking.stored.as_ref();
            taking.store_lost |= known.is_some_and(|known| known.before != loaded.before);
            if known.is_none_or(|known| known.before < loaded.before) {
                taking.stored = Some(loaded);
            }
            self.try_restore(core);
        }
    }

    /// For whom a takeover that takes long waits: processes, by incarnation, and 0 for the state store.
    pub(crate) fn waits_for(&self, core: &Core) -> impl Iterator<Item = u64> {
        let taking = match &self.phase {
            Phase::Taking(taking) if core.now_ms > taking.started_ms + LONG_MS => Some(taking),
            _ => None,
        };
        taking.into_iter().flat_map(|taking| {
            let replica = taking.stored.is_none().then_some(0);
            let told = taking.claims.waits_for();
            let others = told.filter(|router| !taking.waiting.contains(router));
            taking.waiting.iter().copied().chain(others).chain(replica)
        })
    }

    pub(super) fn try_restore(&mut self, core: &mut Core) {
        let Phase::Taking(taking) = &mut self.phase else {
            return;
        };
        if !taking.waiting.is_empty() || !taking.claims.all_told() || taking.stored.is_none() {
            return;
        }
        self.ask_members(core);
        let Phase::Taking(taking) = &mut self.phase else {
            return;
        };
        if !taking.waiting.is_empty() {
            return;
        }
        failpoint!("router.installed");
        let mut taking = std::mem::take(&mut **taking);
        let held = std::mem::take(&mut taking.held);
        self.phase = Phase::Active;
        let stored = taking.stored.unwrap_or_default();
        let before = stored.before;
        self.restore_objects(core, stored);
        self.replica_begins(core, before, taking.store_read);
        if taking.store_lost {
            self.replica_list_anew(core);
        }
        self.restore_sessions(core, taking.reports);
        let replaced = self.replaced_sessions();
        self.sessions_go_on(core);
        failpoint!("router.restored");
        self.rooms_reconcile(core, taking.claims.into_members());
        self.rooms_restored(core);
        for id in replaced {
            self.close_session(core, id, "conflict", "replaced by a new connection");
        }
        for (from, message) in held {
            let (trace_context, span) = TraceContext::of(message.age_us, &message.trace, "receive");
            core.trace_context = trace_context;
            span.in_scope(|| self.slot_message(core, from, message));
            core.trace_context = TraceContext::default();
        }
        core.rooms.held_events.extend(taking.held_events);
        core.metrics
            .slot_taken(core.now_ms.saturating_sub(taking.started_ms));
    }

    /// The sessions whose address was given to another session under an owner before this one. That owner had ended them
    /// and died before their edges or the state store knew. They are about to end, as they were: what they leave comes
    /// before anything new.
    fn replaced_sessions(&mut self) -> Vec<u128> {
        let mut replaced = Vec::new();
        for ids in self.users.values().filter(|ids| ids.len() > 1) {
            let sessions = ids.iter().filter_map(|id| self.sessions.get(id));
            let channels: Vec<&Channel> = sessions.map(|session| &session.channel).collect();
            let over = channels.iter().filter(|channel| {
                let later =
                    |other: &&Channel| other.jid == channel.jid && other.bound > channel.bound;
                let known = channel.bound != (0, 0);
                known && !channel.closing && channels.iter().any(later)
            });
            replaced.extend(over.map(|channel| channel.id));
        }
        for id in &replaced {
            if let Some(session) = self.sessions.get_mut(id) {
                session.channel.closing = true;
            }
        }
        replaced
    }

    /// Rebuilds the sessions that edges hold, and tells each edge how far its sessions are.
    fn restore_sessions(&mut self, core: &mut Core, reports: Vec<(LaneRef, proto::EpochReport)>) {
        let stored = self.sessions.iter();
        let stored = stored.map(|(id, session)| (*id, session.channel.generation));
        let Sorted {
            present,
            mut previous,
            mut began,
            mut restored,
        } = Sorted::of(reports, stored.collect());
        let mut before: HashMap<u128, Before> = HashMap::default();
        for (_, previous) in &mut previous {
            let id = join(previous.session_hi, previous.session_lo);
            before.entry(id).or_default().add(previous);
        }
        let mut taken: HashMap<u128, Held> = HashMap::default();
        for (lane, mut session) in present {
            let id = join(session.session_hi, session.session_lo);
            let before = before.remove(&id).unwrap_or_default();
            let held_from = before.began.unwrap_or(session.began);
            self.give_up_lost(core, id, &mut session, held_from);
            let taken = taken.entry(id).or_default();
            if let Some(item) = self.restore_reported(core, lane, session, before.held, taken) {
                restored.entry(lane).or_default().push(item);
            }
        }
        for (id, before) in before {
            let taken = taken.entry(id).or_default();
            if let Some(until) = self.restore_stored(core, id, &before, taken) {
                began.insert(id, until);
            }
        }
        previous
            .retain(|(_, report)| began.contains_key(&join(report.session_hi, report.session_lo)));
        let superfluous = self.restore_previous(previous, &began, &mut restored);
        for (lane, items) in restored {
            if !items.is_empty() || core.lanes.contains_key(&lane) {
                let body = Body::Restored(proto::Restored { items });
                core.send_edge(lane, self.slot, self.epoch, body);
            }
        }
        for (lane, close) in superfluous {
            core.send_edge(lane, self.slot, self.epoch, close);
        }
        self.archive_again(core, taken);
    }

    /// Notes the attachments before the present ones. Returns the frames for those that hold nothing which is needed.
    fn restore_previous(
        &mut self,
        previous: Reports,
        began: &HashMap<u128, u64>,
        restored: &mut HashMap<LaneRef, Vec<proto::ProgressItem>>,
    ) -> Vec<(LaneRef, Body)> {
        let mut superfluous = Vec::new();
        for (lane, report) in previous {
            let id = join(report.session_hi, report.session_lo);
            let until = began.get(&id).copied().unwrap_or(0);
            let Some(session) = self.sessions.get_mut(&id) else {
                continue;
            };
            let item = proto::ProgressItem {
                handle: report.handle,
                generation: report.generation,
                accepted: session.channel.incoming.accepted,
                settled: session.channel.incoming.settled,
                released: report.released,
            };
            if !session.channel.keep_previous(lane, &report, until) {
                superfluous.push((lane, superseded(report.handle, report.generation)));
            }
            restored.entry(lane).or_default().push(item);
        }
        superfluous
    }

    fn sessions_go_on(&mut self, core: &mut Core) {
        let ids: Vec<u128> = self.sessions.keys().copied().collect();
        for id in ids {
            self.offline_restored(core, id);
            let (slot, epoch) = (self.slot, self.epoch);
            if let Some(session) = self.sessions.get_mut(&id) {
                session.channel.pump(core, slot, epoch);
            }
            self.touch(core, id);
        }
    }
}

#[cfg(test)]
#[path = "takeover_tests.rs"]
mod tests;
