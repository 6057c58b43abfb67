//! Lanes of a worker: what a turn collects for edges and routers, what edges acknowledge.

use std::collections::VecDeque;
use std::sync::Arc;

use sestina_api::link::EdgeLane;
use sestina_api::peer::PeerSink;
use sestina_proto as proto;
use sestina_runtime::failpoint;

use super::core::{Core, LaneRef, PeerRef};
use super::passage::{self, Passage};
use super::session::Session;
use super::work::WorkId;

/// What an edge will hold, or know, once its lane acknowledges the batch; listed with its slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum InFlight {
    /// A delivery: held twice then.
    Delivery {
        generation: u32,
        session: u128,
        number: u64,
    },
    /// A bound or resumed session: it is at that edge then.
    Attached { attached_no: u32, session: u128 },
    /// That all up to here is settled: the edge has dropped its copies and will not replay them.
    Settled { session: u128, settled: u64 },
    /// That a session is over: the edge holds nothing of that attachment any more.
    Gone { session: u128, handle: u64 },
    /// A registry record: held twice then.
    State { work: WorkId },
}

/// So much room a batch begins with at most.
const USUAL: usize = 256;

/// One lane as a worker sees it.
pub(crate) struct EdgeLaneState {
    /// Which opening of this lane it is.
    instance: u64,
    pub(crate) lanes: u32,
    sink: Arc<dyn EdgeLane>,
    out: Vec<proto::ToEdge>,
    deliver: Option<proto::Deliver>,
    last_payload: usize,
    /// Variants and targets of the last delivery: the next one begins with room for as many.
    usual: (usize, usize),
    seq: u64,
    flying: Vec<(u16, InFlight)>,
    unacked: VecDeque<(u64, Vec<(u16, InFlight)>)>,
}

pub(crate) struct PeerState {
    sink: Option<Arc<dyn PeerSink>>,
    out: Vec<proto::PeerFrame>,
}

impl Core {
    // ---- edges

    pub(crate) fn lane_opened(
        &mut self,
        lane: LaneRef,
        instance: u64,
        lanes: u32,
        sink: Arc<dyn EdgeLane>,
    ) {
        self.lane_closed(lane, self.lanes.get(&lane).map_or(0, |l| l.instance));
        let state = EdgeLaneState {
            instance,
            lanes,
            sink,
            out: Vec::new(),
            deliver: None,
            last_payload: 0,
            usual: (0, 0),
            seq: 0,
            flying: Vec::new(),
            unacked: VecDeque::new(),
        };
        self.lanes.insert(lane, state);
    }

    /// That opening of the lane ended: what was not acknowledged goes again with the next one.
    pub(crate) fn lane_closed(&mut self, lane: LaneRef, instance: u64) {
        if self.lanes.get(&lane).is_none_or(|l| l.instance != instance) {
            return;
        }
        let Some(state) = self.lanes.remove(&lane) else {
            return;
        };
        let unacked = state.unacked.into_iter().flat_map(|(_, flying)| flying);
        for flying in unacked.chain(state.flying) {
            if let (_, InFlight::State { work }) = flying {
                // The record goes again with every opening; the owner has it meanwhile.
                self.part_done(work);
            }
        }
    }

    /// A process whose lease has ended: none of its lanes will come back.
    pub(crate) fn forget_node(&mut self, incarnation: u64) {
        let lanes: Vec<LaneRef> = self
            .lanes
            .keys()
            .filter(|l| l.edge == incarnation)
            .copied()
            .collect();
        for lane in lanes {
            let instance = self.lanes.get(&lane).map_or(0, |l| l.instance);
            if let Some(state) = self.lanes.get(&lane) {
                state.sink.close();
            }
            self.lane_closed(lane, instance);
        }
        if let Some(peer) = self.peers.remove(&PeerRef(incarnation))
            && let Some(sink) = peer.sink
        {
            sink.close();
        }
    }

    pub(crate) fn send_edge(
        &mut self,
        lane: LaneRef,
        slot: u16,
        epoch: u64,
        body: proto::to_edge::Body,
    ) {
        if let Some(state) = self.lanes.get_mut(&lane) {
            state.seal();
            state.out.push(proto::ToEdge {
                slot: u32::from(slot),
                epoch,
                body: Some(body),
            });
        }
    }

    /// Adds one delivery; deliveries of one payload in a row share a variant.
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn deliver(
        &mut self,
        lane: LaneRef,
        slot: u16,
        session: u128,
        target: proto::Target,
        stanza: &Arc<proto::Stanza>,
        key: proto::Key,
        passage: &Passage,
    ) {
        let Some(state) = self.lanes.get_mut(&lane) else {
            return;
        };
        let (number, generation) = (target.number, target.generation);
        let (variants, targets) = state.usual;
        let deliver = state.deliver.get_or_insert_with(|| proto::Deliver {
            variants: Vec::with_capacity(variants),
            targets: Vec::with_capacity(targets),
        });
        let payload = Arc::as_ptr(stanza) as usize;
        let same = state.last_payload == payload
            && deliver
                .variants
                .last()
                .is_some_and(|v| v.key.as_ref() == Some(&key));
        if !same {
            deliver.variants.push(proto::Variant {
                stanza: Some((**stanza).clone()),
                key: Some(key),
                trace: passage.traceparent(),
                age_us: passage.born,
            });
            state.last_payload = payload;
        }
        let variant = u32::try_from(deliver.variants.len() - 1).unwrap_or(u32::MAX);
        deliver.targets.push(proto::Target { variant, ..target });
        let delivery = InFlight::Delivery {
            generation,
            session,
            number,
        };
        state.flying.push((slot, delivery));
    }

    /// Sends what the turn collected for edges.
    pub(crate) fn flush_edges(&mut self) {
        for state in self.lanes.values_mut() {
            state.seal();
            if state.out.is_empty() {
                continue;
            }
            for frame in &mut state.out {
                if let Some(proto::to_edge::Body::Deliver(deliver)) = &mut frame.body {
                    passage::edge_leaving(deliver, (self.clock)());
                }
            }
            state.seq += 1;
            let next = Vec::with_capacity(state.flying.len().min(USUAL));
            state
                .unacked
                .push_back((state.seq, std::mem::replace(&mut state.flying, next)));
            let batch = proto::ToEdgeBatch {
                worker: self.worker,
                seq: state.seq,
                frames: std::mem::take(&mut state.out),
            };
            if failpoint!("router.lane_send") || state.sink.send(batch).is_err() {
                // The lane's end is reported by the transport; what is unacknowledged is sent
                // again when the edge opens the next one.
                state.sink.close();
            }
        }
    }

    /// Notes what the edge will know when it has taken this turn's batch.
    fn told(&mut self, lane: LaneRef, slot: u16, what: InFlight) {
        if let Some(state) = self.lanes.get_mut(&lane) {
            state.flying.push((slot, what));
        }
    }

    /// Notes that this turn's batch tells the edge what is settled.
    pub(crate) fn settled_told(&mut self, lane: LaneRef, slot: u16, session: u128, settled: u64) {
        self.told(lane, slot, InFlight::Settled { session, settled });
    }

    /// Notes that this turn's batch tells the edge of a session that it has.
    pub(crate) fn attached_told(&mut self, lane: LaneRef, slot: u16, session: &Session) {
        let attached = InFlight::Attached {
            attached_no: session.attached_no,
            session: session.id,
        };
        self.told(lane, slot, attached);
    }

    /// Notes that this turn's batch tells the edge that a session is over.
    pub(crate) fn gone_told(&mut self, lane: LaneRef, slot: u16, session: u128, handle: u64) {
        self.told(lane, slot, InFlight::Gone { session, handle });
    }

    /// Notes that a work waits for a registry record that this turn's batch carries, or one
    /// before it. Done at once where the edge has all of them, and between two connections: the
    /// record is told again when the lane opens.
    pub(crate) fn state_told(&mut self, lane: LaneRef, slot: u16, work: WorkId) {
        let told = self.lanes.get_mut(&lane).and_then(|state| {
            if state.out.is_empty() && state.deliver.is_none() {
                state.unacked.back_mut().map(|(_, flying)| flying)
            } else {
                Some(&mut state.flying)
            }
        });
        match told {
            Some(flying) => flying.push((slot, InFlight::State { work })),
            None => self.part_done(work),
        }
    }

    /// The edge took all batches up to `seq`: returns what it holds and knows now.
    pub(crate) fn lane_acked(&mut self, lane: LaneRef, seq: u64) -> Vec<(u16, InFlight)> {
        let mut held = Vec::new();
        let Some(state) = self.lanes.get_mut(&lane) else {
            return held;
        };
        while state.unacked.front().is_some_and(|(s, _)| *s <= seq) {
            if let Some((_, flying)) = state.unacked.pop_front() {
                held.extend(flying);
            }
        }
        held
    }

    // ---- routers

    /// A frame for the owner of `slot` at `owner`; lost if that lane breaks (the pending list resends).
    pub(crate) fn send_peer(&mut self, peer: PeerRef, frame: proto::PeerFrame) {
        if peer.0 == self.me.incarnation {
            self.local.push_back(frame);
        } else if let Some(state) = self.peers.get_mut(&peer) {
            state.out.push(frame);
        }
    }

    pub(crate) fn peer_opened(&mut self, key: PeerRef, sink: Arc<dyn PeerSink>) {
        let state = self.peers.entry(key).or_insert_with(|| PeerState {
            sink: None,
            out: Vec::new(),
        });
        state.sink = Some(sink);
        // From here on it is answered: whatever it asked before may have had no way back.
        let hello = proto::PeerHello {
            router: Some(self.me.clone()),
            ..proto::PeerHello::default()
        };
        state.out.push(proto::PeerFrame {
            slot: 0,
            epoch: 0,
            body: Some(proto::peer_frame::Body::Hello(hello)),
        });
    }

    pub(crate) fn peer_closed(&mut self, peer: PeerRef) {
        if let Some(state) = self.peers.get_mut(&peer) {
            state.sink = None;
            state.out.clear();
        }
    }

    /// Whether a lane to that router is open (to this process itself: always).
    pub(crate) fn peer_open(&self, peer: PeerRef) -> bool {
        peer.0 == self.me.incarnation || self.peers.get(&peer).is_some_and(|p| p.sink.is_some())
    }

    pub(crate) fn flush_peers(&mut self) {
        for state in self.peers.values_mut() {
            for mut frame in state.out.drain(..) {
                passage::leaving(&mut frame, (self.clock)());
                let room = matches!(frame.body, Some(proto::peer_frame::Body::RoomEvent(_)));
                if let Some(sink) = &state.sink
                    && (failpoint!("router.peer_send") || sink.send(frame).is_err())
                {
                    sink.close();
                    state.sink = None;
                }
                if room {
                    failpoint!("router.room_sent");
                }
            }
        }
    }
}

impl EdgeLaneState {
    /// Puts the deliveries collected so far behind what was queued before them.
    fn seal(&mut self) {
        if let Some(deliver) = self.deliver.take() {
            self.last_payload = 0;
            let room = |length: usize| length.min(USUAL);
            self.usual = (room(deliver.variants.len()), room(deliver.targets.len()));
            self.out.push(proto::ToEdge {
                slot: 0,
                epoch: 0,
                body: Some(proto::to_edge::Body::Deliver(deliver)),
            });
        }
    }
}
