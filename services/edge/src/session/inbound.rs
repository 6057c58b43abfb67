//! What a client sends: numbered, forwarded to the owner, and held until it is settled.

use std::time::Instant;

use sestina_proto as proto;
use sestina_proto::to_router::Body;
use sestina_runtime::failpoint;
use sestina_xmpp::stanza::Stanza;
use sestina_xmpp::stream::StreamCondition;

use super::state::{HeldIn, Phase, Session, State, Traced};
use crate::metrics::{Count, Timing};
use crate::shared::Shared;

/// Whether the reader goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flow {
    /// It does.
    Continue,
    /// Too much is unsettled: it waits for [`Session::room`].
    Pause,
    /// The stream is over.
    Stop,
}

impl Session {
    /// Takes one stanza of the client. `refused` is the error that its owner must answer it with;
    /// empty if there is none.
    pub(crate) fn take_stanza(
        &self,
        shared: &Shared,
        mut stanza: Stanza,
        refused: &'static str,
        read: Instant,
    ) -> Flow {
        if !self.own_address(&stanza.from) {
            // RFC 6120 §8.1.2.1: a client may only speak for itself.
            self.fail(
                shared,
                StreamCondition::InvalidFrom,
                "from is not the address of this stream",
            );
            return Flow::Stop;
        }
        // The owner stamps the full JID.
        stanza.from.clear();
        shared.metrics.count(Count::StanzaIn, 1);
        failpoint!("edge.received");
        let weight = stanza.weight() as u32;
        let traced = Traced::draw(stanza.kind);
        let stanza = proto::Stanza::from(stanza);
        let mut state = self.state.lock();
        if state.phase != Phase::Open {
            return Flow::Stop;
        }
        state.in_last += 1;
        let n = state.in_last;
        self.send(
            &mut state,
            Body::Inbound(self.inbound_frame(n, stanza.clone(), refused, read, traced.as_deref())),
        );
        state.held_in.push_back(HeldIn {
            n,
            stanza,
            refused,
            weight,
            read,
            traced,
        });
        state.held_in_bytes += weight as usize;
        state.tell_unsettled(&*shared.metrics);
        failpoint!("edge.sent");
        if state.held_in_bytes >= shared.config.unsettled_bytes {
            shared.metrics.count(Count::PausedByBound, 1);
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
    pub(crate) fn inbound_frame(
        &self,
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
            age_us: u32::try_from(read.elapsed().as_micros()).unwrap_or(u32::MAX),
            trace: traced.map(|t| t.parent.clone()).unwrap_or_default(),
            refused: refused.to_owned(),
        }
    }

    /// Whether a paused reader may go on: half of the bound is free again, or the stream is over.
    pub(crate) fn has_room(&self, shared: &Shared) -> bool {
        let state = self.state.lock();
        state.phase != Phase::Open || state.held_in_bytes < shared.config.unsettled_bytes / 2
    }

    /// The owner's progress with this session. True if something was put on the wire.
    pub(crate) fn take_progress(
        &self,
        shared: &Shared,
        state: &mut State,
        item: &proto::ProgressItem,
    ) -> bool {
        let accepted = item.accepted.min(state.in_last);
        if accepted > state.accepted {
            if let Some(last) = state.held_in.iter().rev().find(|h| h.n <= accepted) {
                shared.metrics.timing(Timing::Accepted, last.read.elapsed());
            }
            state.accepted = accepted;
            state.waiting_since = None;
            failpoint!("edge.accepted");
        }
        if item.settled > state.settled {
            state.settled = item.settled.min(state.in_last);
            let full = state.held_in_bytes >= shared.config.unsettled_bytes / 2;
            let now = Instant::now();
            for held in state.held_in.iter().take_while(|h| h.n <= state.settled) {
                shared
                    .metrics
                    .timing(Timing::Settled, now.saturating_duration_since(held.read));
            }
            state.prune_in();
            state.tell_unsettled(&*shared.metrics);
            if full && state.held_in_bytes < shared.config.unsettled_bytes / 2 {
                self.room.notify_one();
            }
        }
        if item.released > state.released {
            state.released = item.released.min(state.out_last);
            let acked = state.acked;
            state.prune_out(acked);
        }
        let all = state.accepted == state.in_last && std::mem::take(&mut state.answer_all);
        let due = state.told < state.answer_until || all;
        due && state.accepted > state.told && state.managed() && self.write_ack(state)
    }
}
