//! Lanes of a worker to other routers: what a turn collects for them, what a full lane has refused,
//! and what goes again on a new one.

use std::collections::VecDeque;
use std::sync::Arc;

use sestina_api::link::{BULK, Unsent};
use sestina_api::peer::PeerSink;
use sestina_proto as proto;
use sestina_runtime::failpoint;

use super::channel::stanza_weight;
use super::core::{Core, PeerRef};
use super::lanes::SMALL;
use super::trace_context;

/// One lane to a router.
#[derive(Default)]
pub(crate) struct PeerState {
    sink: Option<Arc<dyn PeerSink>>,
    out: VecDeque<proto::PeerFrame>,
    out_bytes: usize,
    /// The first of all, which the lane has refused.
    refused: Option<proto::PeerFrame>,
    /// Slots whose frames go again.
    anew: VecDeque<u16>,
}

impl PeerState {
    /// Whether frames of some slot go again.
    pub(crate) fn has_anew(&self) -> bool {
        !self.anew.is_empty()
    }
}

impl Core {
    /// A process whose lease has ended: its lane will not come back.
    pub(super) fn forget_peer(&mut self, incarnation: u64) {
        if let Some(peer) = self.peers.remove(&PeerRef(incarnation))
            && let Some(sink) = peer.sink
        {
            sink.close();
        }
    }

    /// A frame for the owner of `slot` at `owner`; lost if that lane breaks (the pending list resends).
    pub(crate) fn send_peer(&mut self, peer: PeerRef, frame: proto::PeerFrame) {
        if peer.0 == self.me.node.incarnation {
            self.local.push_back(frame);
        } else if let Some(state) = self.peers.get_mut(&peer) {
            state.out_bytes += peer_weight(&frame);
            state.out.push_back(frame);
        }
    }

    pub(crate) fn peer_opened(&mut self, key: PeerRef, sink: Arc<dyn PeerSink>) {
        let state = self.peers.entry(key).or_default();
        state.clear();
        state.sink = Some(sink);
        // From here on it is answered: whatever it asked before may have had no way back.
        let hello = proto::PeerHello {
            router: Some(self.me.node.clone()),
            ..proto::PeerHello::default()
        };
        state.out.push_back(proto::PeerFrame {
            slot: 0,
            epoch: 0,
            body: Some(proto::peer_frame::Body::Hello(hello)),
        });
    }

    pub(crate) fn peer_closed(&mut self, peer: PeerRef) {
        if let Some(state) = self.peers.get_mut(&peer) {
            state.sink = None;
            state.clear();
        }
    }

    /// Whether a lane to that router is open (to this process itself: always).
    pub(crate) fn peer_open(&self, peer: PeerRef) -> bool {
        peer.0 == self.me.node.incarnation
            || self.peers.get(&peer).is_some_and(|p| p.sink.is_some())
    }

    /// Whether that router's lane has refused something: what has another place stays there.
    pub(crate) fn peer_full(&self, peer: PeerRef) -> bool {
        self.peers
            .get(&peer)
            .is_some_and(|p| p.refused.is_some() || p.out_bytes >= self.config.limits.lane_bytes)
    }

    /// The bytes that wait for each lane to a router.
    #[cfg(feature = "simulation")]
    pub(crate) fn peer_levels(&self) -> impl Iterator<Item = (PeerRef, usize)> {
        let peers = self.peers.iter();
        peers.map(|(peer, state)| (*peer, state.out_bytes))
    }

    /// Whether a lane to that router is open and takes something.
    pub(crate) fn peer_takes(&self, peer: PeerRef) -> bool {
        self.peer_open(peer) && !self.peer_full(peer)
    }

    /// The frames of these slots for a router are sent again.
    pub(crate) fn peer_anew(&mut self, peer: PeerRef, slots: VecDeque<u16>) {
        if let Some(state) = self.peers.get_mut(&peer) {
            state.anew = slots;
        }
    }

    /// The next slot of which frames go to a router again, if its lane has room for it.
    pub(crate) fn next_anew(&mut self, peer: PeerRef) -> Option<u16> {
        let state = self.peers.get_mut(&peer)?;
        let waiting = state.sink.as_ref()?.waiting();
        let room = state.refused.is_none() && state.out_bytes + waiting < BULK;
        room.then(|| state.anew.pop_front()).flatten()
    }

    /// Sends what the turn collected for routers, behind what their lanes have refused.
    pub(crate) fn flush_peers(&mut self) {
        let mut wait = false;
        for state in self.peers.values_mut() {
            state.flush(self.clock);
            wait |= state.refused.is_some() || !state.anew.is_empty();
        }
        self.peers_wait = wait;
    }
}

impl PeerState {
    fn clear(&mut self) {
        self.out.clear();
        self.out_bytes = 0;
        self.refused = None;
        self.anew.clear();
    }

    /// The next frame for its lane.
    fn next(&mut self, clock: fn() -> trace_context::Micros) -> Option<proto::PeerFrame> {
        if let Some(frame) = self.refused.take() {
            return Some(frame);
        }
        let mut frame = self.out.pop_front()?;
        self.out_bytes = self.out_bytes.saturating_sub(peer_weight(&frame));
        trace_context::leaving(&mut frame, clock());
        Some(frame)
    }

    fn flush(&mut self, clock: fn() -> trace_context::Micros) {
        let Some(sink) = self.sink.clone() else {
            return self.clear();
        };
        while let Some(frame) = self.next(clock) {
            let room = matches!(frame.body, Some(proto::peer_frame::Body::RoomEvent(_)));
            let sent = match failpoint!("router.peer_send") {
                true => Err(Unsent::Closed),
                false => sink.send(frame),
            };
            match sent {
                Ok(()) => {}
                Err(Unsent::Full(frame)) => {
                    self.refused = Some(*frame);
                    return;
                }
                Err(Unsent::Closed) => {
                    sink.close();
                    self.sink = None;
                    return self.clear();
                }
            }
            if room {
                failpoint!("router.room_sent");
            }
        }
    }
}

/// Bytes of a frame for a router, about.
fn peer_weight(frame: &proto::PeerFrame) -> usize {
    use proto::peer_frame::Body;
    SMALL
        + match &frame.body {
            Some(Body::SlotMessage(message)) => message.stanza.as_ref().map_or(0, stanza_weight),
            Some(Body::RoomEvent(event)) => {
                let payloads = event.variants.iter().map(|v| SMALL + v.payload.len());
                payloads.sum::<usize>() + event.targets.len() * SMALL
            }
            Some(Body::SlotMessageAck(done)) => done.reply.as_ref().map_or(0, stanza_weight),
            _ => 0,
        }
}
