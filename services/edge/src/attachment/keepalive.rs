//! Clients whose connection died unnoticed: if nothing comes from a socket for a while, the client
//! is asked, and the socket of a client that does not answer counts as lost.
//!
//! A client that has enabled XEP-0198 answers `<r/>` with `<a/>` at once (§4). Otherwise a
//! WebSocket is pinged (RFC 6455 §5.5.2). A plain stream without either has nothing that a client
//! must answer, so only the kernel's probes of the connection watch it.
//!
//! This needs no timer and no list: the sweep over all sessions, every few seconds, does it.

use std::sync::Arc;
use std::time::Instant;

use super::hands::{Hands, Socket as _};
use super::inbound::unsettled;
use super::state::{Phase, Session, State};
use crate::metrics::Count;
use crate::transport::Flush;

impl<H: Hands> Session<H> {
    /// Asks a client that is silent, and gives up one that has not answered.
    pub fn check_keepalive(self: &Arc<Self>, hands: &H, state: &mut State<H>, now: Instant) {
        // A client that is not read cannot be heard.
        let paused = state.incoming.held_bytes >= unsettled(hands) / 2;
        if state.phase != Phase::Open || paused {
            return;
        }
        let heard = self.wire.heard_at();
        if let Some((asked, heard_then)) = state.keepalive_asked {
            if heard != heard_then {
                state.keepalive_asked = None;
            } else if now.saturating_duration_since(asked) >= hands.limits().keepalive_answer {
                hands.metrics().count(Count::Unanswered, 1);
                self.lose_locked(hands, state);
                return;
            } else {
                return;
            }
        }
        if now.saturating_duration_since(heard) < hands.limits().keepalive_after {
            return;
        }
        let asked = if state.managed() {
            self.write_request(state);
            self.wire.flush()
        } else if self.wire.is_websocket() {
            self.wire.keepalive()
        } else {
            return;
        };
        state.keepalive_asked = Some((now, heard));
        if asked == Flush::Closed {
            self.lose_locked(hands, state);
        }
    }
}
