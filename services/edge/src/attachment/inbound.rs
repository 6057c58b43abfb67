//! What a client sends: numbered, forwarded to the owner, and held until it is settled.

use std::time::Instant;

use sestina_proto as proto;
use sestina_runtime::failpoint;
use sestina_xmpp::stanza::Stanza;
use sestina_xmpp::stream::StreamCondition;

use super::hands::{Hands, Lock as _, Reader as _};
use super::held::LITTLE;
use super::state::{HeldIn, Phase, Session, State, Traced};
use crate::metrics::{Count, Timing};

/// Whether the reader goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// It does.
    Continue,
    /// Too much is unsettled: it waits for [`Session::room`].
    Pause,
    /// The stream is over.
    Stop,
}

/// Bytes of one client that may be unsettled now.
pub fn unsettled<H: Hands>(hands: &H) -> usize {
    let limit = hands.limits().unsettled_bytes;
    hands.attachments().held.unsettled(limit)
}

impl<H: Hands> Session<H> {
    /// Takes one stanza of the client. `refused` is the error that its owner must answer it with;
    /// empty if there is none.
    pub fn take_stanza(
        &self,
        hands: &H,
        mut stanza: Stanza,
        refused: &'static str,
        read: Instant,
    ) -> Flow {
        if !self.own_address(&stanza.from) {
            // RFC 6120 §8.1.2.1: a client may only speak for itself.
            self.fail(
                hands,
                StreamCondition::InvalidFrom,
                "from is not the address of this stream",
            );
            return Flow::Stop;
        }
        // The owner stamps the full JID.
        stanza.from.clear();
        hands.metrics().count(Count::StanzaIn, 1);
        failpoint!("edge.received");
        let weight = stanza.weight() as u32;
        let traced = Traced::draw(stanza.kind);
        let stanza = proto::Stanza::from(stanza);
        let mut state = self.state.lock();
        if state.phase != Phase::Open {
            return Flow::Stop;
        }
        state.incoming.last += 1;
        let n = state.incoming.last;
        state.incoming.held.push_back(HeldIn {
            n,
            stanza,
            refused,
            weight,
            read,
            traced,
        });
        state.incoming.held_bytes += weight as usize;
        if !state.incoming.behind {
            self.forward(hands, &mut state, false);
        }
        state.tell_unsettled(hands);
        failpoint!("edge.sent");
        if state.incoming.held_bytes >= unsettled(hands) {
            hands.metrics().count(Count::PausedByBound, 1);
            return Flow::Pause;
        }
        Flow::Continue
    }

    /// Whether a `from` is absent or this session's own full or bare JID.
    fn own_address(&self, from: &str) -> bool {
        from.is_empty()
            || *from == *self.jid
            || self
                .jid
                .strip_prefix(from)
                .is_some_and(|rest| rest.starts_with('/'))
    }

    /// The frame of one of its stanzas.
    pub fn inbound_frame(
        &self,
        hands: &H,
        n: u64,
        stanza: proto::Stanza,
        refused: &str,
        read: Instant,
        traced: Option<&Traced>,
    ) -> proto::Inbound {
        proto::Inbound {
            handle: self.handle,
            generation: self.generation,
            n,
            stanza: Some(stanza),
            age_us: u32::try_from(hands.now().saturating_duration_since(read).as_micros())
                .unwrap_or(u32::MAX),
            trace: traced.map(|t| t.parent.clone()).unwrap_or_default(),
            refused: refused.to_owned(),
        }
    }

    /// Whether a paused reader may go on: half of the bound is free again, or the stream is over.
    pub fn has_room(&self, hands: &H) -> bool {
        let state = self.state.lock();
        state.phase != Phase::Open || state.incoming.held_bytes < unsettled(hands) / 2
    }

    /// The owner's progress with this session. True if something was put on the wire.
    pub fn take_progress(
        &self,
        hands: &H,
        state: &mut State<H>,
        item: &proto::ProgressItem,
    ) -> bool {
        let accepted = item.accepted.min(state.incoming.last);
        if accepted > state.incoming.accepted {
            if let Some(last) = state.incoming.held.iter().rev().find(|h| h.n <= accepted) {
                hands.metrics().timing(
                    Timing::Accepted,
                    hands.now().saturating_duration_since(last.read),
                );
            }
            state.incoming.accepted = accepted;
            state.waiting_since = None;
            failpoint!("edge.accepted");
        }
        if item.settled > state.incoming.settled {
            state.incoming.settled = item.settled.min(state.incoming.last);
            // By the smaller bound: which of the two the reader has met, is not known any more.
            let full = state.incoming.held_bytes >= hands.limits().unsettled_bytes.min(LITTLE) / 2;
            let now = hands.now();
            for held in state
                .incoming
                .held
                .iter()
                .take_while(|h| h.n <= state.incoming.settled)
            {
                hands
                    .metrics()
                    .timing(Timing::Settled, now.saturating_duration_since(held.read));
            }
            state.prune_in();
            state.tell_unsettled(hands);
            if full && state.incoming.held_bytes < unsettled(hands) / 2 {
                self.room.wake();
            }
        }
        if item.released > state.outgoing.released {
            state.outgoing.released = item.released.min(state.outgoing.last);
            let acked = state.outgoing.acked;
            state.prune_out(acked);
        }
        let all = state.incoming.accepted == state.incoming.last
            && std::mem::take(&mut state.incoming.answer_all);
        let due = state.incoming.told < state.incoming.answer_until || all;
        due && state.incoming.accepted > state.incoming.told
            && state.managed()
            && self.write_ack(state)
    }
}
