//! What clients do at the simulated edge.

use sestina_proto as proto;

use super::client::Sock;
use super::edge::*;

impl Edge {
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
}
