//! Taking a slot: install the epoch everywhere, gather what edges and the shadow hold, go on.
//!
//! No edge or router that lives can act for the older owner once it has the epoch; one that
//! cannot be reached is waited for until its lease has ended. Then sessions are rebuilt from the
//! edges that hold their sockets, and from the shadow where there is none.

use prost::Message as _;
use sestina_api::key::{EffectKey, EffectKind, join};
use sestina_api::shadow::ShadowObject;
use sestina_proto as proto;
use sestina_proto::to_edge::Body;
use sestina_runtime::{failpoint, guard};
use sestina_xmpp::jid::Jid;
use sestina_xmpp::stanza::{Kind, Stanza};

use super::core::{Core, LaneRef, PeerRef};
use super::passage::Passage;
use super::receive::{Asker, refuse_effect};
use super::session::{Attachment, Older, Session};
use super::slot::{Phase, Slot};
use super::work::OnDone;
use crate::chance::{HashMap, HashSet};

/// A takeover under way.
#[derive(Debug, Default)]
pub(crate) struct Taking {
    /// Incarnations of live edges and routers that have not answered.
    waiting: HashSet<u64>,
    reports: Vec<(LaneRef, proto::EpochReport)>,
    objects: Option<Vec<ShadowObject>>,
    started_ms: u64,
    /// Effects that came meanwhile, in order: whoever sent them need not ask again and again.
    held: Vec<(PeerRef, proto::Effect)>,
    held_bytes: usize,
}

/// Effects that a slot holds while it is taken; more are refused.
const HELD_BYTES: usize = 1 << 20;

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
        let taking = Taking {
            waiting,
            started_ms: core.now_ms,
            ..Taking::default()
        };
        let this = Slot::new(slot, epoch, Phase::Taking(Box::new(taking)));
        let lanes: Vec<LaneRef> = core.lanes.keys().copied().collect();
        for lane in lanes {
            this.install_at_edge(core, lane);
        }
        for node in live {
            this.install_at_router(core, PeerRef(node.incarnation));
        }
        core.jobs.push(super::core::Job::ShadowLoad { slot, epoch });
        this
    }

    /// Sends the epoch to an edge, on the lane that carries this slot.
    pub(crate) fn install_at_edge(&self, core: &mut Core, lane: LaneRef) {
        let Phase::Taking(taking) = &self.phase else {
            return;
        };
        let lanes = core.lanes.get(&lane).map_or(1, |l| l.lanes.max(1));
        if u32::from(self.slot) % lanes != lane.lane || !taking.waiting.contains(&lane.edge) {
            return;
        }
        let install = proto::InstallEpoch {
            owner: Some(core.me.clone()),
        };
        core.send_edge(lane, self.slot, self.epoch, Body::InstallEpoch(install));
    }

    /// Sends the epoch to a router.
    pub(crate) fn install_at_router(&self, core: &mut Core, peer: PeerRef) {
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

    /// An edge has the epoch and says what it holds.
    pub(crate) fn edge_reported(
        &mut self,
        core: &mut Core,
        lane: LaneRef,
        report: proto::EpochReport,
    ) {
        let Phase::Taking(taking) = &mut self.phase else {
            return;
        };
        if taking.waiting.remove(&lane.edge) {
            taking.reports.push((lane, report));
        }
        self.try_restore(core);
    }

    /// A router has the epoch, or its lease (an edge's likewise) has ended.
    pub(crate) fn node_done(&mut self, core: &mut Core, incarnation: u64) {
        if let Phase::Taking(taking) = &mut self.phase {
            taking.waiting.remove(&incarnation);
            self.try_restore(core);
        }
    }

    /// The shadow was read.
    pub(crate) fn shadow_loaded(&mut self, core: &mut Core, objects: Vec<ShadowObject>) {
        if let Phase::Taking(taking) = &mut self.phase {
            taking.objects = Some(objects);
            self.try_restore(core);
        }
    }

    /// Keeps an effect for when the slot serves; returns those that it cannot keep.
    pub(crate) fn hold_effect(
        &mut self,
        from: PeerRef,
        effect: proto::Effect,
    ) -> Option<proto::Effect> {
        let Phase::Taking(taking) = &mut self.phase else {
            return Some(effect);
        };
        let bytes = 256 + effect.stanza.as_ref().map_or(0, |s| s.payload.len());
        if taking.held_bytes + bytes > HELD_BYTES {
            return Some(effect);
        }
        taking.held_bytes += bytes;
        taking.held.push((from, effect));
        None
    }

    /// Whoever waits for an answer to a held effect asks another owner: there will be no answer.
    pub(crate) fn refuse_held(&mut self, core: &mut Core) {
        let Phase::Taking(taking) = &mut self.phase else {
            return;
        };
        for (peer, effect) in std::mem::take(&mut taking.held) {
            if let Some(key) = effect.key.as_ref().map(EffectKey::from) {
                let origin_slot = u16::try_from(effect.origin_slot).unwrap_or(u16::MAX);
                let asker = Asker {
                    peer,
                    origin_slot,
                    stream: effect.stream,
                };
                refuse_effect(core, self.slot, asker, key);
            }
        }
    }

    fn try_restore(&mut self, core: &mut Core) {
        let Phase::Taking(taking) = &mut self.phase else {
            return;
        };
        if !taking.waiting.is_empty() || taking.objects.is_none() {
            return;
        }
        failpoint!("router.installed");
        let mut taking = std::mem::take(&mut **taking);
        let held = std::mem::take(&mut taking.held);
        self.phase = Phase::Active;
        self.restore_objects(core, taking.objects.unwrap_or_default());
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
        let mut began: HashMap<u128, u64> = HashMap::default();
        for (lane, report) in taking.reports {
            let items = restored.entry(lane).or_default();
            for session in report.sessions {
                let id = join(session.session_hi, session.session_lo);
                let newest = newest.get(&id).copied().unwrap_or(0);
                if session.generation < newest && guard!("generation") {
                    older.push((lane, session));
                    continue;
                }
                began.insert(id, session.began);
                if let Some(item) = self.restore_reported(core, lane, session) {
                    items.push(item);
                }
            }
        }
        for (lane, report) in older {
            let id = join(report.session_hi, report.session_lo);
            let until = began.get(&id).copied().unwrap_or(0);
            if let Some(item) = self.restore_older(lane, id, &report, until) {
                restored.entry(lane).or_default().push(item);
            }
        }
        for (lane, items) in restored {
            if !items.is_empty() || core.lanes.contains_key(&lane) {
                let body = Body::Restored(proto::Restored { items });
                core.send_edge(lane, self.slot, self.epoch, body);
            }
        }
        let ids: Vec<u128> = self.sessions.keys().copied().collect();
        for id in ids {
            self.archive_again(core, id);
            let (slot, epoch) = (self.slot, self.epoch);
            if let Some(session) = self.sessions.get_mut(&id) {
                session.pump(core, slot, epoch);
            }
            self.touch(core, id);
        }
        failpoint!("router.restored");
        self.rooms_restored(core);
        for (from, effect) in held {
            let (passage, span) = Passage::of(effect.age_us, &effect.trace, "receive");
            core.passage = passage;
            span.in_scope(|| self.effect(core, from, effect));
            core.passage = Passage::default();
        }
        core.metrics
            .slot_taken(core.now_ms.saturating_sub(taking.started_ms));
    }

    /// An attachment that was resumed from holds what its successor does not: it sends that first.
    fn restore_older(
        &mut self,
        lane: LaneRef,
        id: u128,
        report: &proto::SessionReport,
        until: u64,
    ) -> Option<proto::ProgressItem> {
        let session = self.sessions.get_mut(&id).filter(|s| s.settled < until)?;
        session.older.push(Older {
            lane,
            handle: report.handle,
            generation: report.generation,
            until,
        });
        Some(proto::ProgressItem {
            handle: report.handle,
            generation: report.generation,
            accepted: session.accepted,
            settled: session.settled,
            released: report.received,
        })
    }

    /// Rebuilds a session from what its edge holds.
    fn restore_reported(
        &mut self,
        core: &mut Core,
        lane: LaneRef,
        report: proto::SessionReport,
    ) -> Option<proto::ProgressItem> {
        let record = proto::SessionState::decode(report.state.clone()).ok()?;
        let id = join(report.session_hi, report.session_lo);
        if let Some(shadow) = self.sessions.get(&id) {
            if shadow.generation > report.generation {
                return None;
            }
            self.remove_session(id);
            self.shadow_delete_session(core, id);
            core.metrics.reattached();
            core.metrics.ended();
            // The edge has it: what the shadow kept while it was detached goes.
            self.shadow_delete_session(core, id);
        }
        let attachment = Attachment::Edge {
            lane,
            handle: report.handle,
        };
        let mut session = Session::from_record(record, attachment);
        session.id = id;
        session.jid = Jid::from_wire(&report.jid);
        session.generation = report.generation;
        session.transport = report.transport;
        session.remote = report.remote;
        session.accepted = report.settled;
        session.settled = report.settled;
        session.promised = report.accepted;
        session.mark = report.settled;
        session.acked = report.acked;
        session.next = report.acked;
        let mut replay = Vec::new();
        for item in report.held {
            if item.number <= report.acked {
                // Taken by the client, but its origin may still replay it.
                if let Some(key) = item.key.as_ref().map(EffectKey::from) {
                    session.unreleased.insert(item.number, key);
                    session.restored.insert(key);
                }
                replay.push(item);
            } else if item.number == session.next + 1 {
                session.restore_item(item);
            }
        }
        session.next = session.next.max(report.received);
        session.held = session.next;
        session.sent = session.next;
        session.written = session.acked;
        session.flying_bytes = session.queue_bytes;
        self.any_restored |= !session.restored.is_empty();
        core.metrics.bound();
        let item = proto::ProgressItem {
            handle: report.handle,
            generation: report.generation,
            accepted: session.accepted,
            settled: session.settled,
            released: session.released(),
        };
        for item in replay {
            if let (Some(key), Some(stanza)) = (item.key, item.stanza) {
                self.archive_item(core, &session.jid, EffectKey::from(&key), stanza);
            }
        }
        self.handles.insert((lane.edge, report.handle), id);
        self.insert_session(session);
        Some(item)
    }

    /// What was delivered live comes into the archive before anything new: the order that the
    /// clients saw is the archive's. Rows that are there already count as done.
    fn archive_again(&mut self, core: &mut Core, id: u128) {
        let Some(session) = self.sessions.get(&id) else {
            return;
        };
        let jid = session.jid.clone();
        let items: Vec<(EffectKey, proto::Stanza)> = session
            .queue
            .iter()
            .map(|i| (i.key, (*i.stanza).clone()))
            .collect();
        for (key, stanza) in items {
            self.archive_item(core, &jid, key, stanza);
        }
    }

    fn archive_item(&mut self, core: &mut Core, jid: &Jid, key: EffectKey, stanza: proto::Stanza) {
        if key.kind != EffectKind::Route as u32 {
            return;
        }
        let mut stanza = Stanza::from(stanza);
        let user = jid.bare();
        let stamped = stanza
            .children()
            .any(|c| super::records::is_stanza_id_by(&c, user.as_str()));
        if stanza.kind != Kind::Message || !stamped {
            return;
        }
        stanza.retain_children(|c| !super::records::is_stanza_id_by(c, user.as_str()));
        let peer = Jid::from_wire(&stanza.from);
        let work = core.works.open(OnDone::Nothing);
        self.archive(core, &user, &peer, key, &stanza, work);
        core.part_done(work);
    }
}
