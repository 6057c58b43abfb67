//! An edge as the contract of the link asks for it: it numbers and holds, and knows nothing.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use sestina_api::key::join;
use sestina_proto as proto;
use sestina_proto::to_edge::Body as Down;
use sestina_proto::to_router::Body;
use sestina_runtime::guard;

use super::client::{FromServer, Sock, Socks};
use super::edge_session::open_conn;
use super::net::{Ends, SharedNet};

/// Lanes of an edge to each router.
pub(super) const LANES: u32 = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Open,
    Lost,
    Closed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Link {
    /// Into that connection.
    Live(u64),
    Waiting,
    Restoring,
}

/// One attachment of a session.
#[derive(Debug)]
pub(super) struct EdgeSession {
    pub(super) handle: u64,
    pub(super) generation: u32,
    pub(super) slot: u16,
    pub(super) nonce: u128,
    pub(super) jid: String,
    pub(super) sock: u64,
    pub(super) phase: Phase,
    pub(super) link: Link,
    pub(super) epoch: u64,
    pub(super) asked_sm: Option<u64>,
    pub(super) managed: bool,
    pub(super) in_last: u64,
    pub(super) accepted: u64,
    pub(super) settled: u64,
    pub(super) began: u64,
    pub(super) in_base: u64,
    pub(super) answer_until: u64,
    pub(super) told: u64,
    pub(super) held_in: VecDeque<(u64, proto::Stanza)>,
    pub(super) out_last: u64,
    pub(super) acked: u64,
    pub(super) released: u64,
    pub(super) out_base: u64,
    pub(super) held_out: VecDeque<(u64, Option<proto::Key>, Option<proto::Stanza>)>,
    pub(super) asked_at: u64,
    pub(super) reported_acked: u64,
    pub(super) reported_written: u64,
    pub(super) record: Bytes,
}

/// A bind or resumption that waits for its owner.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) sock: u64,
    pub(super) body: Body,
}

#[derive(Debug, Default)]
pub(super) struct EdgeSlot {
    pub(super) epoch: u64,
    pub(super) reported: u64,
    pub(super) route: Option<u64>,
    pub(super) retry: Option<(u64, u32)>,
    pub(super) sessions: BTreeMap<u64, EdgeSession>,
    pub(super) pending: BTreeMap<u64, Pending>,
}

#[derive(Debug, Default)]
pub(super) struct Lane {
    pub(super) conn: Option<u64>,
    pub(super) welcomed: bool,
    pub(super) reopen_at: u64,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Edge {
    pub(super) node: proto::Node,
    pub(super) alive: bool,
    pub(super) slots: BTreeMap<u16, EdgeSlot>,
    pub(super) lanes: BTreeMap<(u64, u32), Lane>,
    pub(super) version: u64,
    pub(super) last_handle: u64,
    pub(super) ticks: u64,
}

/// What an edge acts on.
pub(super) struct Hands<'a> {
    pub(super) net: &'a SharedNet,
    pub(super) socks: &'a mut Socks,
    pub(super) now: u64,
    pub(super) trouble: &'a mut Vec<String>,
}

impl Hands<'_> {
    pub(super) fn send(&self, conn: u64, slot: u16, epoch: u64, body: Body) {
        if let Some(conn) = self.net.lock().conns.get_mut(&conn)
            && !conn.broken
        {
            conn.up.push_back(proto::ToRouter {
                slot: slot.into(),
                epoch,
                body: Some(body),
            });
        }
    }

    pub(super) fn write(&mut self, sock: u64, what: FromServer) {
        if let Some(sock) = self.socks.get_mut(&sock).filter(|s| s.open) {
            sock.down.push_back(what);
        }
    }

    pub(super) fn close(&mut self, sock: u64) {
        if let Some(sock) = self.socks.get_mut(&sock) {
            sock.open = false;
        }
    }
}

impl Edge {
    pub(super) fn new(node: proto::Node) -> Edge {
        Edge {
            node,
            alive: true,
            slots: BTreeMap::new(),
            lanes: BTreeMap::new(),
            version: 0,
            last_handle: 0,
            ticks: 0,
        }
    }

    pub(super) fn incarnation(&self) -> u64 {
        self.node.incarnation
    }

    /// A newer slot map.
    pub(super) fn learn(&mut self, hands: &mut Hands<'_>, map: &proto::SlotMap) {
        if map.version <= self.version {
            return;
        }
        self.version = map.version;
        for router in &map.routers {
            for lane in 0..LANES {
                self.lanes.entry((router.incarnation, lane)).or_default();
            }
        }
        let named = |router: u64| map.routers.iter().any(|r| r.incarnation == router);
        for (key, lane) in &mut self.lanes {
            if !named(key.0)
                && let Some(conn) = lane.conn.take()
            {
                lane.welcomed = false;
                if let Some(conn) = hands.net.lock().conns.get_mut(&conn) {
                    conn.broken = true;
                    conn.opener_told = true;
                    conn.down.clear();
                }
            }
        }
        self.lanes.retain(|key, _| named(key.0));
        // A real edge keeps all slots; only these are used here.
        for number in 0..16 {
            self.slots.entry(number).or_default();
        }
        for (number, slot) in &mut self.slots {
            let epoch = map.epochs[usize::from(*number)];
            let owner = (map.owners[usize::from(*number)] as usize)
                .checked_sub(1)
                .map(|i| map.routers[i].incarnation);
            if epoch < slot.epoch {
                continue;
            }
            if epoch > slot.epoch {
                slot.raise(epoch, owner);
            } else if slot.route == owner {
                continue;
            } else {
                slot.route = owner;
            }
            slot.resend(*number, &self.lanes, hands);
        }
    }

    /// A lane's connection ended.
    pub(super) fn lane_ended(&mut self, conn: u64, now: u64) {
        for lane in self.lanes.values_mut() {
            if lane.conn == Some(conn) {
                *lane = Lane {
                    conn: None,
                    welcomed: false,
                    reopen_at: now + 50,
                };
            }
        }
    }

    /// One batch of a router.
    pub(super) fn take_batch(
        &mut self,
        hands: &mut Hands<'_>,
        conn: u64,
        router: u64,
        batch: proto::ToEdgeBatch,
    ) {
        let Some(lane) = self
            .lanes
            .iter()
            .find(|(_, l)| l.conn == Some(conn))
            .map(|(k, _)| *k)
        else {
            return;
        };
        let mut refused = BTreeSet::new();
        for frame in batch.frames {
            let Some(body) = frame.body else { continue };
            match body {
                Down::Welcome(_) => {
                    if let Some(lane) = self.lanes.get_mut(&lane) {
                        lane.welcomed = true;
                    }
                    self.lane_ready(hands, router, lane.1);
                }
                Down::SlotMap(map) => self.learn(hands, &map),
                Down::Deliver(deliver) => self.deliver(hands, router, deliver, &mut refused),
                body => {
                    if !self.take(hands, router, frame.slot as u16, frame.epoch, body) {
                        refused.insert(frame.slot);
                    }
                }
            }
        }
        let ack = proto::LaneAck {
            worker: batch.worker,
            seq: batch.seq,
            refused_slots: refused.into_iter().collect(),
        };
        hands.send(conn, 0, 0, Body::LaneAck(ack));
    }

    pub(super) fn lane_ready(&mut self, hands: &Hands<'_>, router: u64, lane: u32) {
        for (number, slot) in &mut self.slots {
            if u32::from(*number) % LANES != lane || slot.route != Some(router) {
                continue;
            }
            if slot.reported == slot.epoch {
                let epoch = slot.epoch;
                for session in slot
                    .sessions
                    .values_mut()
                    .filter(|s| s.link == Link::Restoring)
                {
                    session.epoch = epoch;
                    session.accepted = session.settled;
                    session.link = Link::Waiting;
                }
            }
            slot.resend(*number, &self.lanes, hands);
        }
    }

    pub(super) fn deliver(
        &mut self,
        hands: &mut Hands<'_>,
        router: u64,
        deliver: proto::Deliver,
        refused: &mut BTreeSet<u32>,
    ) {
        for target in deliver.targets {
            let number = (target.handle & 0xfff) as u16;
            let slot = self.slots.entry(number).or_default();
            if !slot.is_of_owner(router, target.epoch) {
                refused.insert(number.into());
                continue;
            }
            let Some(session) = slot.session(target.handle, target.generation) else {
                continue;
            };
            let Some(variant) = deliver.variants.get(target.variant as usize) else {
                hands.trouble.push("a delivery names no variant".to_owned());
                continue;
            };
            let stanza = variant.stanza.clone().unwrap_or_default();
            session.deliver(hands, target.number, variant.key, &stanza);
        }
    }

    /// False if it is of an older epoch than this edge knows.
    pub(super) fn take(
        &mut self,
        hands: &mut Hands<'_>,
        router: u64,
        number: u16,
        epoch: u64,
        body: Down,
    ) -> bool {
        let lanes = &self.lanes;
        let slot = self.slots.entry(number).or_default();
        match body {
            Down::InstallEpoch(install) => {
                if epoch < slot.epoch && guard!("epoch") {
                    return true;
                }
                if install
                    .owner
                    .as_ref()
                    .is_some_and(|o| o.incarnation != router)
                {
                    return true;
                }
                slot.raise(epoch, Some(router));
                slot.reported = epoch;
                let sessions = slot
                    .sessions
                    .values_mut()
                    .map(EdgeSession::report_epoch)
                    .collect();
                let report = Body::EpochReport(proto::EpochReport { sessions });
                if let Some(conn) = open_conn(slot.route, lanes, number) {
                    hands.send(conn, number, epoch, report);
                }
                if !slot.pending.is_empty() {
                    slot.wait_for_owner(hands.now);
                }
                return true;
            }
            Down::Redirect(redirect) => {
                if slot.route != Some(router) {
                    return true;
                }
                let now = hands.now;
                if let Some(session) = slot.sessions.get_mut(&redirect.handle) {
                    if redirect.generation < session.generation || session.link == Link::Restoring {
                        return true;
                    }
                    if redirect.n > 0 && redirect.n <= session.accepted {
                        session.accepted = session.settled.max(redirect.n - 1);
                    }
                    if session.link == Link::Waiting {
                        if redirect.n == session.accepted + 1
                            && let Some(retry) = &mut slot.retry
                        {
                            retry.0 = now;
                        }
                        return true;
                    }
                    session.link = Link::Waiting;
                } else if !slot.pending.contains_key(&redirect.handle) {
                    return true;
                }
                slot.wait_for_owner(now);
                return true;
            }
            _ => {}
        }
        let ours = slot.is_of_owner(router, epoch);
        if ours {
            Self::take_owned(lanes, hands, number, slot, body);
        }
        ours
    }

    pub(super) fn take_owned(
        lanes: &BTreeMap<(u64, u32), Lane>,
        hands: &mut Hands<'_>,
        number: u16,
        slot: &mut EdgeSlot,
        body: Down,
    ) {
        match body {
            Down::Progress(progress) => {
                for item in progress.items {
                    let Some(s) = slot.session(item.handle, item.generation) else {
                        continue;
                    };
                    s.accepted = s.accepted.max(item.accepted.min(s.in_last));
                    if item.settled > s.settled {
                        s.settled = item.settled.min(s.in_last);
                        s.prune_in();
                    }
                    if item.released > s.released {
                        s.released = item.released.min(s.out_last);
                        let acked = s.acked;
                        s.prune_out(acked);
                    }
                    if s.told < s.answer_until && s.accepted > s.told && s.managed {
                        s.write_ack(hands);
                    }
                }
            }
            Down::Bound(bound) => {
                if slot.sessions.contains_key(&bound.handle) {
                    return;
                }
                let Some(pending) = slot.pending.remove(&bound.handle) else {
                    return Self::stray(lanes, hands, number, slot, bound.handle, bound.generation);
                };
                let mut session = EdgeSession::new(number, slot.epoch, bound.handle, pending.sock);
                session.generation = bound.generation;
                session.nonce = join(bound.session_hi, bound.session_lo);
                session.jid = bound.jid;
                hands.write(
                    pending.sock,
                    FromServer::Bound {
                        session: session.nonce,
                    },
                );
                Self::attach(lanes, hands, slot, session);
            }
            Down::Resumed(resumed) => {
                if slot.sessions.contains_key(&resumed.handle) {
                    return;
                }
                let Some(pending) = slot.pending.remove(&resumed.handle) else {
                    return Self::stray(
                        lanes,
                        hands,
                        number,
                        slot,
                        resumed.handle,
                        resumed.generation,
                    );
                };
                let mut s = EdgeSession::new(number, slot.epoch, resumed.handle, pending.sock);
                s.generation = resumed.generation;
                s.nonce = join(resumed.session_hi, resumed.session_lo);
                s.jid = resumed.jid;
                s.managed = true;
                s.in_last = resumed.accepted;
                s.began = resumed.accepted;
                s.accepted = resumed.accepted;
                s.settled = resumed.settled;
                s.in_base = resumed.in_base;
                s.told = resumed.accepted;
                s.answer_until = resumed.accepted;
                s.out_last = resumed.acked;
                s.acked = resumed.acked;
                s.out_base = resumed.out_base;
                s.asked_at = resumed.acked;
                s.reported_acked = resumed.acked;
                s.reported_written = resumed.acked;
                s.record = resumed.state;
                hands.write(
                    pending.sock,
                    FromServer::Resumed {
                        h: resumed.accepted - resumed.in_base,
                    },
                );
                Self::attach(lanes, hands, slot, s);
            }
            Down::Refused(refused) => {
                if let Some(pending) = slot.pending.remove(&refused.handle) {
                    hands.write(pending.sock, FromServer::Refused(refused.condition));
                    hands.close(pending.sock);
                }
            }
            Down::SmEnabled(enabled) => {
                let Some(s) = slot.session(enabled.handle, enabled.generation) else {
                    return;
                };
                if s.asked_sm.take().is_none() {
                    return;
                }
                s.managed = true;
                s.out_base = enabled.out_base;
                s.prune_out(enabled.out_base);
                s.asked_at = s.asked_at.max(enabled.out_base);
                if s.phase == Phase::Open {
                    hands.write(s.sock, FromServer::Enabled);
                    if s.answer_until > s.told {
                        s.write_ack(hands);
                    }
                }
            }
            Down::Close(close) => {
                let Some(s) = slot.session(close.handle, close.generation) else {
                    return;
                };
                if close.keep {
                    if s.phase == Phase::Open {
                        s.phase = if close.ended {
                            Phase::Closed
                        } else {
                            Phase::Lost
                        };
                        hands.write(s.sock, FromServer::Error(close.condition));
                        hands.close(s.sock);
                    }
                } else {
                    slot.dismiss(hands, close.handle, &close.condition);
                }
            }
            Down::KeepState(keep) => {
                if let Some(s) = slot.session(keep.handle, keep.generation) {
                    s.record = keep.state;
                }
            }
            Down::Detached(detached) => {
                if slot.session(detached.handle, detached.generation).is_some()
                    && let Some(session) = slot.sessions.remove(&detached.handle)
                {
                    hands.close(session.sock);
                }
            }
            Down::Restored(restored) => {
                let (epoch, route) = (slot.epoch, slot.route);
                for item in &restored.items {
                    let Some(s) = slot.sessions.get_mut(&item.handle) else {
                        continue;
                    };
                    if s.generation != item.generation {
                        continue;
                    }
                    s.epoch = epoch;
                    s.accepted = item.accepted.min(s.in_last);
                    s.settled = s.settled.max(item.settled.min(s.in_last));
                    s.released = s.released.max(item.released.min(s.out_last));
                    s.prune_in();
                    let acked = s.acked;
                    s.prune_out(acked);
                    s.connect(route, lanes, hands);
                }
                let unknown: Vec<u64> = slot
                    .sessions
                    .values()
                    .filter(|s| s.link == Link::Restoring)
                    .map(|s| s.handle)
                    .collect();
                for handle in unknown {
                    slot.dismiss(hands, handle, "reset");
                }
                slot.retry = None;
                slot.send_pending(number, lanes, hands);
            }
            Down::Deliver(_)
            | Down::InstallEpoch(_)
            | Down::Redirect(_)
            | Down::SlotMap(_)
            | Down::Welcome(_) => {}
        }
    }

    pub(super) fn attach(
        lanes: &BTreeMap<(u64, u32), Lane>,
        hands: &mut Hands<'_>,
        slot: &mut EdgeSlot,
        mut s: EdgeSession,
    ) {
        let sock = s.sock;
        s.relink(slot.epoch, slot.route, lanes, hands);
        if let Some(sock) = hands.socks.get_mut(&sock) {
            sock.handle = Some(s.handle);
        }
        if !hands.socks.get(&sock).is_some_and(|s| s.open) {
            s.leave(Phase::Lost, hands);
        }
        slot.sessions.insert(s.handle, s);
    }

    pub(super) fn stray(
        lanes: &BTreeMap<(u64, u32), Lane>,
        hands: &Hands<'_>,
        number: u16,
        slot: &EdgeSlot,
        handle: u64,
        generation: u32,
    ) {
        if let Some(conn) = open_conn(slot.route, lanes, number) {
            let close = Body::Close(proto::Close {
                handle,
                generation,
                clean: false,
            });
            hands.send(conn, number, slot.epoch, close);
        }
    }

    // ---- what clients do

    /// A client asks to bind or to resume.
    pub(super) fn ask(
        &mut self,
        hands: &mut Hands<'_>,
        number: u16,
        sock: u64,
        body: impl FnOnce(u64) -> Body,
    ) {
        self.last_handle += 1;
        let handle = (self.last_handle << 12) | u64::from(number);
        let slot = self.slots.entry(number).or_default();
        if let Some(sock) = hands.socks.get_mut(&sock) {
            sock.handle = Some(handle);
        }
        let pending = Pending {
            sock,
            body: body(handle),
        };
        let sent = match open_conn(slot.route, &self.lanes, number) {
            Some(conn) => {
                hands.send(conn, number, slot.epoch, pending.body.clone());
                true
            }
            None => false,
        };
        if !sent {
            slot.wait_for_owner(hands.now);
        }
        slot.pending.insert(handle, pending);
    }

    pub(super) fn of_sock(&mut self, sock: &Sock) -> Option<&mut EdgeSession> {
        let handle = sock.handle?;
        self.slots
            .get_mut(&((handle & 0xfff) as u16))?
            .sessions
            .get_mut(&handle)
    }

    /// The socket ended without the stream having been closed.
    pub(super) fn sock_lost(&mut self, hands: &mut Hands<'_>, sock: u64) {
        let Some(handle) = hands.socks.get(&sock).and_then(|s| s.handle) else {
            return;
        };
        let Some(slot) = self.slots.get_mut(&((handle & 0xfff) as u16)) else {
            return;
        };
        slot.pending.remove(&handle);
        if let Some(session) = slot.sessions.get_mut(&handle) {
            session.leave(Phase::Lost, hands);
        }
    }

    pub(super) fn stanza(&mut self, hands: &mut Hands<'_>, sock: &Sock, stanza: proto::Stanza) {
        let Some(s) = self.of_sock(sock).filter(|s| s.phase == Phase::Open) else {
            return;
        };
        s.in_last += 1;
        let frame = s.inbound(s.in_last, stanza.clone());
        s.send(hands, frame);
        s.held_in.push_back((s.in_last, stanza));
    }

    pub(super) fn enable(&mut self, hands: &mut Hands<'_>, sock: &Sock) {
        let Some(s) = self.of_sock(sock).filter(|s| s.phase == Phase::Open) else {
            return;
        };
        s.asked_sm = Some(s.in_last);
        s.in_base = s.in_last;
        s.told = s.in_last;
        s.answer_until = s.in_last;
        let frame = s.enable_frame(s.in_last);
        s.send(hands, frame);
    }

    pub(super) fn asked(&mut self, hands: &mut Hands<'_>, sock: &Sock) {
        let Some(s) = self.of_sock(sock).filter(|s| s.phase == Phase::Open) else {
            return;
        };
        s.answer_until = s.in_last;
        if s.managed {
            s.write_ack(hands);
        }
    }

    pub(super) fn acknowledged(&mut self, hands: &mut Hands<'_>, sock: &Sock, h: u64) {
        let Some(s) = self
            .of_sock(sock)
            .filter(|s| s.phase == Phase::Open && s.managed)
        else {
            return;
        };
        let acked = s.out_base + h;
        if acked > s.out_last {
            let text = format!("{}: acknowledged {acked} of {}", s.jid, s.out_last);
            hands.trouble.push(text);
            return;
        }
        if acked > s.acked {
            s.prune_out(acked);
            s.report(hands);
        }
    }

    pub(super) fn closed(&mut self, hands: &mut Hands<'_>, sock: &Sock) {
        if let Some(s) = self.of_sock(sock) {
            s.leave(Phase::Closed, hands);
        }
    }

    // ---- time

    /// Every 50 ms.
    pub(super) fn tick(&mut self, hands: &mut Hands<'_>) {
        self.ticks += 1;
        let repeat_close = self.ticks.is_multiple_of(10);
        for (number, slot) in &mut self.slots {
            for s in slot.sessions.values_mut() {
                if s.phase == Phase::Open {
                    s.take_written();
                    if s.managed && s.out_last > s.asked_at.max(s.acked) {
                        s.asked_at = s.out_last;
                        hands.write(s.sock, FromServer::Request);
                    }
                    if s.out_last > s.reported_written || s.acked > s.reported_acked {
                        s.report(hands);
                    }
                } else if repeat_close && let Some(close) = s.close_frame() {
                    s.send(hands, close);
                }
            }
            let Some((at, tries)) = slot.retry else {
                continue;
            };
            if at > hands.now {
                continue;
            }
            if slot.is_waiting() {
                slot.resend(*number, &self.lanes, hands);
                slot.retry = Some((hands.now + (20 << tries.min(6)).min(1000), tries + 1));
            } else {
                slot.retry = None;
            }
        }
    }

    /// Notes a connection that was opened for a lane.
    pub(super) fn opened(&mut self, lane: (u64, u32), conn: u64) {
        if let Some(lane) = self.lanes.get_mut(&lane) {
            lane.conn = Some(conn);
            lane.welcomed = false;
        }
    }

    /// Lanes that are due to be opened.
    pub(super) fn lanes_due(&self, now: u64) -> Vec<(u64, u32)> {
        let due = self
            .lanes
            .iter()
            .filter(|(_, l)| l.conn.is_none() && l.reopen_at <= now);
        due.map(|(key, _)| *key).collect()
    }

    /// Whether a frame of this edge waits for somebody.
    pub(super) fn is_quiet(&self) -> bool {
        self.slots.values().all(|slot| {
            slot.pending.is_empty()
                && slot.sessions.values().all(|s| {
                    matches!(s.link, Link::Live(_))
                        && s.phase == Phase::Open
                        && s.held_in.is_empty()
                })
        })
    }
}

/// Ends of a lane.
pub(super) fn lane_ends(edge: u64, lane: (u64, u32)) -> Ends {
    Ends::Edge {
        edge,
        router: lane.0,
        lane: lane.1,
    }
}
