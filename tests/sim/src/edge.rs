//! An edge as the contract of the link asks for it: it numbers and holds, and knows nothing.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use sestina_proto as proto;
use sestina_proto::to_edge::Body as Down;
use sestina_proto::to_router::Body;
use sestina_runtime::guard;

use super::client::{FromServer, Socks};
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
        let (rooms, parts) = match &body {
            Down::InstallEpoch(_) => {
                let members = self.members(number).into_iter();
                let rooms: BTreeSet<String> = members.map(|m| m.room).collect();
                (rooms.into_iter().collect(), Vec::new())
            }
            Down::AskMembers(ask) => (Vec::new(), self.members_of(number, &ask.rooms)),
            _ => (Vec::new(), Vec::new()),
        };
        let lanes = &self.lanes;
        let slot = self.slots.entry(number).or_default();
        match body {
            Down::AskMembers(_) => {
                let ours = slot.is_of_owner(router, epoch);
                if ours && let Some(conn) = open_conn(slot.route, lanes, number) {
                    for part in parts {
                        hands.send(conn, number, epoch, Body::RoomMembers(part));
                    }
                }
                return ours;
            }
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
                let report = Body::EpochReport(proto::EpochReport { sessions, rooms });
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
