//! Taking a slot: install the epoch everywhere, gather what edges and the shadow hold, go on.
//!
//! No edge or router that lives can act for the older owner once it has the epoch; one that
//! cannot be reached is waited for until its lease has ended. Then sessions are rebuilt from the
//! edges that hold their sockets, and from the shadow where there is none.

use std::collections::BTreeMap;

use sestina_api::key::join;
use sestina_api::shadow::Loaded;
use sestina_cluster::slot_map::newer;
use sestina_proto as proto;
use sestina_proto::to_edge::Body;
use sestina_runtime::{failpoint, guard};

use super::archive_again::Held;
use super::claims::Claims;
use super::core::{Core, LaneRef, PeerRef};
use super::detach::superseded;
use super::passage::Passage;
use super::reports;
use super::slot::{Phase, Slot};
use super::turn::Worker;
use crate::chance::{HashMap, HashSet};

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
    /// Who is in its rooms.
    pub(super) claims: Claims,
    pub(super) stored: Option<Loaded>,
    /// What the owner before has told and what the store has are not the same: the store has lost
    /// writes, and holds what it should not.
    store_lost: bool,
    started_ms: u64,
    /// Effects that came meanwhile, in order: whoever sent them need not ask again and again.
    pub(super) held: Vec<(PeerRef, proto::Effect)>,
    /// Likewise events of rooms, with the sessions of this slot as their targets.
    pub(super) held_events: Vec<(PeerRef, proto::RoomEvent)>,
    pub(super) held_bytes: usize,
}

/// A takeover that takes longer is told.
const LONG_MS: u64 = 3_000;

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
                tracing::warn!(slots, "slots are not taken: the shadow does not answer");
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

impl Slot {
    /// Begins to take a slot that the table gave to this process. `live` are all edges and routers
    /// whose lease is fresh.
    pub(crate) fn take(core: &mut Core, slot: u16, epoch: u64, live: &[proto::Node]) -> Slot {
        failpoint!("router.claimed");
        core.admit_epoch(slot, epoch);
        let me = core.me.incarnation;
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
            since: core.table.position(),
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
        core.jobs.push(super::core::Job::ShadowLoad { slot, epoch });
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
            owner: Some(core.me.clone()),
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
            owner: Some(core.me.clone()),
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
        let long = core.now_ms > taking.started_ms + LONG_MS;
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

    /// The shadow was read, or the owner before has told what it should hold: of two the newer
    /// counts, because the store may have lost writes between.
    pub(crate) fn shadow_loaded(&mut self, core: &mut Core, loaded: Loaded) {
        if let Phase::Taking(taking) = &mut self.phase {
            let known = taking.stored.as_ref();
            taking.store_lost |= known.is_some_and(|known| known.before != loaded.before);
            if known.is_none_or(|known| known.before < loaded.before) {
                taking.stored = Some(loaded);
            }
            self.try_restore(core);
        }
    }

    /// For whom a takeover that takes long waits: processes, by incarnation, and 0 for the shadow.
    pub(crate) fn waits_for(&self, core: &Core) -> impl Iterator<Item = u64> {
        let taking = match &self.phase {
            Phase::Taking(taking) if core.now_ms > taking.started_ms + LONG_MS => Some(taking),
            _ => None,
        };
        taking.into_iter().flat_map(|taking| {
            let shadow = taking.stored.is_none().then_some(0);
            let told = taking.claims.waits_for();
            let others = told.filter(|router| !taking.waiting.contains(router));
            taking.waiting.iter().copied().chain(others).chain(shadow)
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
        self.restore_objects(core, taking.stored.unwrap_or_default());
        if taking.store_lost {
            self.shadow_list_anew(core);
        }
        let mut restored: HashMap<LaneRef, Vec<proto::ProgressItem>> = HashMap::default();
        let mut newest: HashMap<u128, u32> = HashMap::default();
        for (_, report) in &taking.reports {
            for session in &report.sessions {
                let id = join(session.session_hi, session.session_lo);
                let generation = newest.entry(id).or_default();
                *generation = session.generation.max(*generation);
            }
        }
        let mut older = Vec::new();
        let mut reports = Vec::new();
        let mut began: HashMap<u128, u64> = HashMap::default();
        for (lane, report) in taking.reports {
            restored.entry(lane).or_default();
            for session in report.sessions {
                let id = join(session.session_hi, session.session_lo);
                let newest = newest.get(&id).copied().unwrap_or(0);
                if session.generation < newest && guard!("generation") {
                    older.push((lane, session));
                    continue;
                }
                began.insert(id, session.began);
                reports.push((lane, session));
            }
        }
        let mut before: HashMap<u128, BTreeMap<u64, proto::Outbound>> = HashMap::default();
        // From which of its stanzas on a session is held by attachments before its present one.
        let mut held_from: HashMap<u128, u64> = HashMap::default();
        for (_, older) in &mut older {
            let id = join(older.session_hi, older.session_lo);
            let from = held_from.entry(id).or_insert(older.began);
            *from = older.began.min(*from);
            let held = std::mem::take(&mut older.held).into_iter();
            let before = before.entry(id).or_default();
            before.extend(held.map(|item| (item.number, item)));
        }
        let mut taken: HashMap<u128, Held> = HashMap::default();
        for (lane, mut session) in reports {
            let id = join(session.session_hi, session.session_lo);
            let held_from = held_from.get(&id).copied().unwrap_or(session.began);
            self.give_up_lost(core, id, &mut session, held_from);
            let before = before.remove(&id).unwrap_or_default();
            let taken = taken.entry(id).or_default();
            if let Some(item) = self.restore_reported(core, lane, session, before, taken) {
                restored.entry(lane).or_default().push(item);
            }
        }
        let mut superfluous = Vec::new();
        for (lane, report) in older {
            let id = join(report.session_hi, report.session_lo);
            let until = began.get(&id).copied().unwrap_or(0);
            let Some(session) = self.sessions.get_mut(&id) else {
                continue;
            };
            let item = proto::ProgressItem {
                handle: report.handle,
                generation: report.generation,
                accepted: session.accepted,
                settled: session.settled,
                released: report.released,
            };
            if !session.keep_older(lane, &report, until) {
                superfluous.push((lane, superseded(report.handle, report.generation)));
            }
            restored.entry(lane).or_default().push(item);
        }
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
        let ids: Vec<u128> = self.sessions.keys().copied().collect();
        for id in ids {
            self.offline_restored(core, id);
            let (slot, epoch) = (self.slot, self.epoch);
            if let Some(session) = self.sessions.get_mut(&id) {
                session.pump(core, slot, epoch);
            }
            self.touch(core, id);
        }
        failpoint!("router.restored");
        self.rooms_reconcile(core, taking.claims.into_members());
        self.rooms_restored(core);
        for (from, effect) in held {
            let (passage, span) = Passage::of(effect.age_us, &effect.trace, "receive");
            core.passage = passage;
            span.in_scope(|| self.effect(core, from, effect));
            core.passage = Passage::default();
        }
        core.held_events.extend(taking.held_events);
        core.metrics
            .slot_taken(core.now_ms.saturating_sub(taking.started_ms));
    }
}

#[cfg(test)]
#[path = "takeover_tests.rs"]
mod tests;
