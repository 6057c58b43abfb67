//! An edge as the contract of the link asks for it: it numbers and holds, and knows nothing.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use sestina_api::key::join;
use sestina_proto as proto;
use sestina_proto::to_edge::Body as Down;
use sestina_proto::to_router::Body;
use sestina_runtime::guard;

use super::client::{FromServer, Sock, Socks};
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
    slot: u16,
    pub(super) nonce: u128,
    jid: String,
    pub(super) sock: u64,
    pub(super) phase: Phase,
    pub(super) link: Link,
    epoch: u64,
    asked_sm: Option<u64>,
    managed: bool,
    pub(super) in_last: u64,
    pub(super) accepted: u64,
    pub(super) settled: u64,
    began: u64,
    in_base: u64,
    answer_until: u64,
    told: u64,
    pub(super) held_in: VecDeque<(u64, proto::Stanza)>,
    pub(super) out_last: u64,
    pub(super) acked: u64,
    pub(super) released: u64,
    out_base: u64,
    pub(super) held_out: VecDeque<(u64, Option<proto::Key>, Option<proto::Stanza>)>,
    asked_at: u64,
    reported_acked: u64,
    reported_written: u64,
    record: Bytes,
}

/// A bind or resumption that waits for its owner.
#[derive(Debug)]
pub(super) struct Pending {
    sock: u64,
    body: Body,
}

#[derive(Debug, Default)]
pub(super) struct EdgeSlot {
    pub(super) epoch: u64,
    reported: u64,
    route: Option<u64>,
    retry: Option<(u64, u32)>,
    pub(super) sessions: BTreeMap<u64, EdgeSession>,
    pub(super) pending: BTreeMap<u64, Pending>,
}

#[derive(Debug, Default)]
pub(super) struct Lane {
    pub(super) conn: Option<u64>,
    welcomed: bool,
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
    last_handle: u64,
    ticks: u64,
}

/// What an edge acts on.
pub(super) struct Hands<'a> {
    pub(super) net: &'a SharedNet,
    pub(super) socks: &'a mut Socks,
    pub(super) now: u64,
    pub(super) trouble: &'a mut Vec<String>,
}

impl Hands<'_> {
    fn send(&self, conn: u64, slot: u16, epoch: u64, body: Body) {
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

    fn write(&mut self, sock: u64, what: FromServer) {
        if let Some(sock) = self.socks.get_mut(&sock).filter(|s| s.open) {
            sock.down.push_back(what);
        }
    }

    fn close(&mut self, sock: u64) {
        if let Some(sock) = self.socks.get_mut(&sock) {
            sock.open = false;
        }
    }
}

impl EdgeSession {
    fn send(&self, hands: &Hands<'_>, body: Body) {
        if let Link::Live(conn) = self.link {
            hands.send(conn, self.slot, self.epoch, body);
        }
    }

    fn inbound(&self, n: u64, stanza: proto::Stanza) -> Body {
        Body::Inbound(proto::Inbound {
            handle: self.handle,
            generation: self.generation,
            n,
            stanza: Some(stanza),
            ..Default::default()
        })
    }

    fn enable_frame(&self, n: u64) -> Body {
        Body::EnableSm(proto::EnableSm {
            handle: self.handle,
            generation: self.generation,
            n,
            resume: true,
            max_s: 0,
        })
    }

    fn report(&mut self, hands: &Hands<'_>) {
        self.reported_acked = self.acked;
        self.reported_written = if self.phase == Phase::Open {
            self.out_last
        } else {
            self.reported_written.max(self.acked)
        };
        let acked = proto::Acked {
            handle: self.handle,
            generation: self.generation,
            number: self.acked,
            written: self.reported_written,
        };
        self.send(hands, Body::Acked(acked));
    }

    fn prune_in(&mut self) {
        while self.held_in.front().is_some_and(|h| h.0 <= self.settled) {
            self.held_in.pop_front();
        }
    }

    fn prune_out(&mut self, acked: u64) {
        let acked = acked.min(self.out_last);
        if acked > self.acked {
            for held in &mut self.held_out {
                let message = held
                    .2
                    .as_ref()
                    .is_some_and(|s| s.kind() == proto::StanzaKind::Message);
                if held.0 > self.acked && held.0 <= acked && !message {
                    held.2 = None;
                }
            }
            self.acked = acked;
        }
        let gone = self.acked.min(self.released);
        while self.held_out.front().is_some_and(|h| h.0 <= gone) {
            self.held_out.pop_front();
        }
    }

    fn connect(
        &mut self,
        route: Option<u64>,
        lanes: &BTreeMap<(u64, u32), Lane>,
        hands: &Hands<'_>,
    ) {
        let Some(conn) = open_conn(route, lanes, self.slot) else {
            self.link = Link::Waiting;
            return;
        };
        self.link = Link::Live(conn);
        let mut enable = self.asked_sm;
        for (n, stanza) in &self.held_in {
            if *n <= self.accepted {
                continue;
            }
            if let Some(at) = enable.take_if(|at| *at < *n) {
                self.send(hands, self.enable_frame(at));
            }
            self.send(hands, self.inbound(*n, stanza.clone()));
        }
        if let Some(at) = enable {
            self.send(hands, self.enable_frame(at));
        }
        if self.out_last > 0 {
            self.report(hands);
        }
        if let Some(close) = self.close_frame() {
            self.send(hands, close);
        }
    }

    fn relink(
        &mut self,
        epoch: u64,
        route: Option<u64>,
        lanes: &BTreeMap<(u64, u32), Lane>,
        hands: &Hands<'_>,
    ) {
        if self.link != Link::Restoring && self.epoch >= epoch {
            self.connect(route, lanes, hands);
        }
    }

    fn close_frame(&self) -> Option<Body> {
        (self.phase != Phase::Open).then(|| {
            Body::Close(proto::Close {
                handle: self.handle,
                generation: self.generation,
                clean: self.phase == Phase::Closed,
            })
        })
    }

    fn leave(&mut self, phase: Phase, hands: &mut Hands<'_>) {
        if self.phase != Phase::Open {
            return;
        }
        self.take_written();
        if self.acked > self.reported_acked || self.out_last > self.reported_written {
            self.report(hands);
        }
        self.phase = phase;
        if let Some(close) = self.close_frame() {
            self.send(hands, close);
        }
        hands.close(self.sock);
    }

    fn deliver(
        &mut self,
        hands: &mut Hands<'_>,
        number: u64,
        key: Option<proto::Key>,
        stanza: &proto::Stanza,
    ) {
        if number <= self.out_last {
            return;
        }
        if number != self.out_last + 1 {
            let text = format!(
                "{}: gap in deliveries: {number} after {}",
                self.jid, self.out_last
            );
            hands.trouble.push(text);
            self.leave(Phase::Lost, hands);
            return;
        }
        self.out_last = number;
        self.held_out.push_back((number, key, Some(stanza.clone())));
        if self.phase == Phase::Open {
            hands.write(self.sock, FromServer::Stanza(stanza.clone()));
        }
    }

    fn write_ack(&mut self, hands: &mut Hands<'_>) {
        if self.phase == Phase::Open {
            self.told = self.told.max(self.accepted);
            hands.write(self.sock, FromServer::Ack(self.told - self.in_base));
        }
    }

    /// Without XEP-0198 what was written counts as acknowledged.
    fn take_written(&mut self) {
        if !self.managed && self.phase == Phase::Open {
            self.prune_out(self.out_last);
        }
    }

    fn report_epoch(&mut self) -> proto::SessionReport {
        self.take_written();
        self.link = Link::Restoring;
        let floor = self.acked.min(self.released);
        let held = self
            .held_out
            .iter()
            .filter(|h| h.0 > floor)
            .map(|(number, key, stanza)| proto::Outbound {
                number: *number,
                key: *key,
                stanza: stanza.clone(),
            });
        let (session_hi, session_lo) = sestina_api::key::split(self.nonce);
        proto::SessionReport {
            handle: self.handle,
            generation: self.generation,
            session_hi,
            session_lo,
            jid: self.jid.clone(),
            settled: self.settled,
            received: self.out_last,
            acked: self.acked,
            released: self.released,
            held: held.collect(),
            state: self.record.clone(),
            began: self.began,
            ..Default::default()
        }
    }

    fn new(slot: u16, epoch: u64, handle: u64, sock: u64) -> EdgeSession {
        EdgeSession {
            handle,
            generation: 0,
            slot,
            nonce: 0,
            jid: String::new(),
            sock,
            phase: Phase::Open,
            link: Link::Waiting,
            epoch,
            asked_sm: None,
            managed: false,
            in_last: 0,
            accepted: 0,
            settled: 0,
            began: 0,
            in_base: 0,
            answer_until: 0,
            told: 0,
            held_in: VecDeque::new(),
            out_last: 0,
            acked: 0,
            released: 0,
            out_base: 0,
            held_out: VecDeque::new(),
            asked_at: 0,
            reported_acked: 0,
            reported_written: 0,
            record: Bytes::new(),
        }
    }
}

fn open_conn(route: Option<u64>, lanes: &BTreeMap<(u64, u32), Lane>, slot: u16) -> Option<u64> {
    let lane = lanes.get(&(route?, u32::from(slot) % LANES))?;
    lane.conn.filter(|_| lane.welcomed)
}

impl EdgeSlot {
    fn raise(&mut self, epoch: u64, route: Option<u64>) {
        self.epoch = epoch;
        self.route = route;
        for session in self.sessions.values_mut() {
            session.link = Link::Restoring;
        }
    }

    fn send_pending(
        &self,
        number: u16,
        lanes: &BTreeMap<(u64, u32), Lane>,
        hands: &Hands<'_>,
    ) -> bool {
        let Some(conn) = open_conn(self.route, lanes, number) else {
            return false;
        };
        for pending in self.pending.values() {
            hands.send(conn, number, self.epoch, pending.body.clone());
        }
        true
    }

    fn resend(&mut self, number: u16, lanes: &BTreeMap<(u64, u32), Lane>, hands: &Hands<'_>) {
        let (epoch, route) = (self.epoch, self.route);
        for session in self.sessions.values_mut() {
            session.relink(epoch, route, lanes, hands);
        }
        self.send_pending(number, lanes, hands);
    }

    fn wait_for_owner(&mut self, now: u64) {
        let tries = match self.retry {
            Some((at, _)) if at > now => return,
            Some((_, tries)) => tries + 1,
            None => 0,
        };
        self.retry = Some((now + (20 << tries.min(6)).min(1000), tries));
    }

    fn is_waiting(&self) -> bool {
        !self.pending.is_empty() || self.sessions.values().any(|s| s.link == Link::Waiting)
    }

    /// Whether something of this epoch is to be taken.
    fn is_of_owner(&mut self, router: u64, epoch: u64) -> bool {
        if epoch < self.epoch && guard!("epoch") {
            return false;
        }
        if epoch > self.epoch {
            self.raise(epoch, Some(router));
        } else if self.route.is_none() {
            self.route = Some(router);
        }
        true
    }

    fn session(&mut self, handle: u64, generation: u32) -> Option<&mut EdgeSession> {
        let session = self.sessions.get_mut(&handle)?;
        (generation >= session.generation || !guard!("generation")).then_some(session)
    }

    fn dismiss(&mut self, hands: &mut Hands<'_>, handle: u64, condition: &str) {
        if let Some(session) = self.sessions.remove(&handle) {
            hands.write(session.sock, FromServer::Error(condition.to_owned()));
            hands.close(session.sock);
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
                Down::Deliver(deliver) => self.deliver(hands, router, deliver),
                body => self.take(hands, router, frame.slot as u16, frame.epoch, body),
            }
        }
        let ack = proto::LaneAck {
            worker: batch.worker,
            seq: batch.seq,
        };
        hands.send(conn, 0, 0, Body::LaneAck(ack));
    }

    fn lane_ready(&mut self, hands: &Hands<'_>, router: u64, lane: u32) {
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

    fn deliver(&mut self, hands: &mut Hands<'_>, router: u64, deliver: proto::Deliver) {
        for target in deliver.targets {
            let number = (target.handle & 0xfff) as u16;
            let slot = self.slots.entry(number).or_default();
            if !slot.is_of_owner(router, target.epoch) {
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

    fn take(&mut self, hands: &mut Hands<'_>, router: u64, number: u16, epoch: u64, body: Down) {
        let lanes = &self.lanes;
        let slot = self.slots.entry(number).or_default();
        match body {
            Down::InstallEpoch(install) => {
                if epoch < slot.epoch && guard!("epoch") {
                    return;
                }
                if install
                    .owner
                    .as_ref()
                    .is_some_and(|o| o.incarnation != router)
                {
                    return;
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
                return;
            }
            Down::Redirect(redirect) => {
                if slot.route != Some(router) {
                    return;
                }
                let now = hands.now;
                if let Some(session) = slot.sessions.get_mut(&redirect.handle) {
                    if redirect.generation < session.generation || session.link == Link::Restoring {
                        return;
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
                        return;
                    }
                    session.link = Link::Waiting;
                } else if !slot.pending.contains_key(&redirect.handle) {
                    return;
                }
                slot.wait_for_owner(now);
                return;
            }
            _ => {}
        }
        if slot.is_of_owner(router, epoch) {
            Self::take_owned(lanes, hands, number, slot, body);
        }
    }

    fn take_owned(
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
                    s.held_out.clear();
                    if s.phase == Phase::Open {
                        s.phase = Phase::Lost;
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

    fn attach(
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

    fn stray(
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

    fn of_sock(&mut self, sock: &Sock) -> Option<&mut EdgeSession> {
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
