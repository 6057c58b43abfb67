//! Sessions and slots of a simulated edge: what is held, sent again, reported.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use sestina_proto as proto;
use sestina_proto::to_router::Body;
use sestina_runtime::guard;

use super::client::FromServer;
use super::edge::*;

impl EdgeSession {
    pub(super) fn send(&self, hands: &Hands<'_>, body: Body) {
        if let Link::Live(conn) = self.link {
            hands.send(conn, self.slot, self.epoch, body);
        }
    }

    pub(super) fn inbound(&self, n: u64, stanza: proto::Stanza) -> Body {
        Body::Inbound(proto::Inbound {
            handle: self.handle,
            generation: self.generation,
            n,
            stanza: Some(stanza),
            ..Default::default()
        })
    }

    pub(super) fn enable_frame(&self, n: u64) -> Body {
        Body::EnableSm(proto::EnableSm {
            handle: self.handle,
            generation: self.generation,
            n,
            resume: true,
            max_s: 0,
        })
    }

    pub(super) fn report(&mut self, hands: &Hands<'_>) {
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

    pub(super) fn prune_in(&mut self) {
        while self.held_in.front().is_some_and(|h| h.0 <= self.settled) {
            self.held_in.pop_front();
        }
    }

    pub(super) fn prune_out(&mut self, acked: u64) {
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

    pub(super) fn connect(
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

    pub(super) fn relink(
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

    pub(super) fn close_frame(&self) -> Option<Body> {
        (self.phase != Phase::Open).then(|| {
            Body::Close(proto::Close {
                handle: self.handle,
                generation: self.generation,
                clean: self.phase == Phase::Closed,
            })
        })
    }

    pub(super) fn leave(&mut self, phase: Phase, hands: &mut Hands<'_>) {
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

    pub(super) fn deliver(
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

    pub(super) fn write_ack(&mut self, hands: &mut Hands<'_>) {
        if self.phase == Phase::Open {
            self.told = self.told.max(self.accepted);
            hands.write(self.sock, FromServer::Ack(self.told - self.in_base));
        }
    }

    /// Without XEP-0198 what was written counts as acknowledged.
    pub(super) fn take_written(&mut self) {
        if !self.managed && self.phase == Phase::Open {
            self.prune_out(self.out_last);
        }
    }

    pub(super) fn report_epoch(&mut self) -> proto::SessionReport {
        self.take_written();
        self.link = Link::Restoring;
        let floor = self.acked.min(self.released);
        let held = self
            .held_out
            .iter()
            .filter(|h| h.0 > floor)
            .map(|(number, key, stanza)| proto::Outbound {
                at_ms: 0,
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
            accepted: self.told.max(self.accepted),
            sent: self.in_last,
            ..Default::default()
        }
    }

    pub(super) fn new(slot: u16, epoch: u64, handle: u64, sock: u64) -> EdgeSession {
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

pub(super) fn open_conn(
    route: Option<u64>,
    lanes: &BTreeMap<(u64, u32), Lane>,
    slot: u16,
) -> Option<u64> {
    let lane = lanes.get(&(route?, u32::from(slot) % LANES))?;
    lane.conn.filter(|_| lane.welcomed)
}

impl EdgeSlot {
    pub(super) fn raise(&mut self, epoch: u64, route: Option<u64>) {
        self.epoch = epoch;
        self.route = route;
        for session in self.sessions.values_mut() {
            session.link = Link::Restoring;
        }
    }

    pub(super) fn send_pending(
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

    pub(super) fn resend(
        &mut self,
        number: u16,
        lanes: &BTreeMap<(u64, u32), Lane>,
        hands: &Hands<'_>,
    ) {
        let (epoch, route) = (self.epoch, self.route);
        for session in self.sessions.values_mut() {
            session.relink(epoch, route, lanes, hands);
        }
        self.send_pending(number, lanes, hands);
    }

    pub(super) fn wait_for_owner(&mut self, now: u64) {
        let tries = match self.retry {
            Some((at, _)) if at > now => return,
            Some((_, tries)) => tries + 1,
            None => 0,
        };
        self.retry = Some((now + (20 << tries.min(6)).min(1000), tries));
    }

    pub(super) fn is_waiting(&self) -> bool {
        !self.pending.is_empty() || self.sessions.values().any(|s| s.link == Link::Waiting)
    }

    /// Whether something of this epoch is to be taken.
    pub(super) fn is_of_owner(&mut self, router: u64, epoch: u64) -> bool {
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

    pub(super) fn session(&mut self, handle: u64, generation: u32) -> Option<&mut EdgeSession> {
        let session = self.sessions.get_mut(&handle)?;
        (generation >= session.generation || !guard!("generation")).then_some(session)
    }

    pub(super) fn dismiss(&mut self, hands: &mut Hands<'_>, handle: u64, condition: &str) {
        if let Some(session) = self.sessions.remove(&handle) {
            hands.write(session.sock, FromServer::Error(condition.to_owned()));
            hands.close(session.sock);
        }
    }
}
