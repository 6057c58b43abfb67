//! What owners of slots say to the simulated edge.

use std::collections::BTreeMap;

use sestina_api::key::join;
use sestina_proto as proto;
use sestina_proto::to_edge::Body as Down;
use sestina_proto::to_router::Body;

use super::client::FromServer;
use super::edge::*;
use super::edge_session::open_conn;

impl Edge {
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
            | Down::AskMembers(_)
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
}
