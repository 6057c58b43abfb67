//! Lanes of a worker to edges: what a turn collects for them, what they acknowledge.

use std::collections::VecDeque;
use std::sync::Arc;

use sestina_api::link::{EdgeLane, Unsent};
use sestina_proto as proto;
use sestina_runtime::failpoint;

use super::channel::stanza_weight;
use super::core::{Core, LaneRef};
use super::operations::OperationId;
use super::session::Session;
use super::trace_context::{self, TraceContext};

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
    State { operation: OperationId },
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
    /// Bytes of what this turn collects, about.
    flying_bytes: usize,
    unacked: VecDeque<Unacked>,
    /// Bytes of these.
    unacked_bytes: usize,
    /// Batches that the lane has refused, in order.
    refused: VecDeque<proto::ToEdgeBatch>,
    /// Sessions (slot and id) with more than it took.
    waiting: VecDeque<(u16, u128)>,
}

/// A batch that the edge has not acknowledged.
struct Unacked {
    seq: u64,
    bytes: usize,
    flying: Vec<(u16, InFlight)>,
}

/// A frame with little in it, about.
pub(super) const SMALL: usize = 64;

impl Core {
    /// An opening of a lane takes the place of the one before, which ends. Openings may arrive in another
    /// order than that in which the edge made them: after a network failure, the edge may use the one that
    /// is replaced here. Without its end the edge would go on using it, and get no answer.
    pub(crate) fn lane_opened(
        &mut self,
        lane: LaneRef,
        instance: u64,
        lanes: u32,
        sink: Arc<dyn EdgeLane>,
    ) {
        self.end_lane(lane);
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
            flying_bytes: 0,
            unacked: VecDeque::new(),
            unacked_bytes: 0,
            refused: VecDeque::new(),
            waiting: VecDeque::new(),
        };
        if self.lanes.is_empty() {
            self.lanes_since_ms = self.now_ms;
        }
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
        let unacked = state.unacked.into_iter().flat_map(|batch| batch.flying);
        for flying in unacked.chain(state.flying) {
            if let (_, InFlight::State { operation }) = flying {
                // The record goes again with every opening; the owner has it meanwhile.
                self.part_done(operation);
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
            self.end_lane(lane);
        }
        self.forget_peer(incarnation);
    }

    /// Ends the present opening of a lane from this side.
    fn end_lane(&mut self, lane: LaneRef) {
        if let Some(state) = self.lanes.get(&lane) {
            let instance = state.instance;
            state.sink.close();
            self.lane_closed(lane, instance);
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
            state.flying_bytes += SMALL;
            if let proto::to_edge::Body::KeepState(keep) = &body {
                state.flying_bytes += keep.state.len();
            }
            state.out.push(proto::ToEdge {
                slot: u32::from(slot),
                epoch,
                body: Some(body),
            });
        }
    }

    /// Whether the edge has to take something before it gets more: deliveries and records stay where
    /// they are. Answers and news of sessions are small, and go all the same.
    pub(crate) fn lane_full(&self, lane: LaneRef) -> bool {
        let bytes = |state: &EdgeLaneState| state.unacked_bytes + state.flying_bytes;
        self.lanes
            .get(&lane)
            .is_some_and(|state| bytes(state) >= self.config.limits.lane_bytes)
    }

    /// The bytes that are under way on each lane to an edge.
    #[cfg(feature = "simulation")]
    pub(crate) fn lane_levels(&self) -> impl Iterator<Item = (LaneRef, usize)> {
        let lanes = self.lanes.iter();
        lanes.map(|(lane, state)| (*lane, state.unacked_bytes + state.flying_bytes))
    }

    /// A session goes on when that lane has room.
    pub(crate) fn wait_for_lane(&mut self, lane: LaneRef, slot: u16, session: u128) {
        if let Some(state) = self.lanes.get_mut(&lane) {
            state.waiting.push_back((slot, session));
        }
    }

    /// The next session that waits for a lane, if that has room.
    pub(crate) fn next_waiting(&mut self, lane: LaneRef) -> Option<(u16, u128)> {
        if self.lane_full(lane) {
            return None;
        }
        self.lanes.get_mut(&lane)?.waiting.pop_front()
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
        trace_context: &TraceContext,
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
        state.flying_bytes += SMALL;
        if !same {
            state.flying_bytes += stanza_weight(stanza);
            deliver.variants.push(proto::Variant {
                stanza: Some((**stanza).clone()),
                key: Some(key),
                trace: trace_context.traceparent(),
                age_us: trace_context.received_at,
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

    /// Sends what the turn collected for edges, behind what their lanes have refused.
    pub(crate) fn flush_edges(&mut self) {
        for state in self.lanes.values_mut() {
            state.seal();
            if !state.out.is_empty() {
                for frame in &mut state.out {
                    if let Some(proto::to_edge::Body::Deliver(deliver)) = &mut frame.body {
                        trace_context::edge_leaving(deliver, (self.clock)());
                    }
                }
                let batch = state.batch(self.me.worker);
                state.refused.push_back(batch);
            }
            while let Some(batch) = state.refused.pop_front() {
                let sent = match failpoint!("router.lane_send") {
                    true => Err(Unsent::Closed),
                    false => state.sink.send(batch),
                };
                match sent {
                    Ok(()) => {}
                    Err(Unsent::Full(batch)) => {
                        state.refused.push_front(*batch);
                        break;
                    }
                    Err(Unsent::Closed) => {
                        // The lane's end is reported by the transport; what is unacknowledged is
                        // sent again when the edge opens the next one.
                        state.sink.close();
                        state.refused.clear();
                    }
                }
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
    pub(crate) fn settled_reported(
        &mut self,
        lane: LaneRef,
        slot: u16,
        session: u128,
        settled: u64,
    ) {
        self.told(lane, slot, InFlight::Settled { session, settled });
    }

    /// Notes that this turn's batch tells the edge of a session that it has.
    pub(crate) fn attached_told(&mut self, lane: LaneRef, slot: u16, session: &Session) {
        let attached = InFlight::Attached {
            attached_no: session.channel.copies.attached_no,
            session: session.channel.id,
        };
        self.told(lane, slot, attached);
    }

    /// Notes that this turn's batch tells the edge that a session is over.
    pub(crate) fn gone_told(&mut self, lane: LaneRef, slot: u16, session: u128, handle: u64) {
        self.told(lane, slot, InFlight::Gone { session, handle });
    }

    /// Lets an operation wait until the edge has acknowledged the batch with a registry record: that of this turn or an
    /// earlier one. There is nothing to wait for if the edge has all records, or if there is no connection: the record
    /// is sent again when the lane opens.
    pub(crate) fn state_told(&mut self, lane: LaneRef, slot: u16, operation: OperationId) {
        let told = self.lanes.get_mut(&lane).and_then(|state| {
            if state.out.is_empty() && state.deliver.is_none() {
                state.unacked.back_mut().map(|batch| &mut batch.flying)
            } else {
                Some(&mut state.flying)
            }
        });
        match told {
            Some(flying) => flying.push((slot, InFlight::State { operation })),
            None => self.part_done(operation),
        }
    }

    /// The edge took all batches up to `seq`: returns what it holds and knows now.
    pub(crate) fn lane_acked(&mut self, lane: LaneRef, seq: u64) -> Vec<(u16, InFlight)> {
        let mut held = Vec::new();
        let Some(state) = self.lanes.get_mut(&lane) else {
            return held;
        };
        while let Some(batch) = state.unacked.pop_front_if(|batch| batch.seq <= seq) {
            state.unacked_bytes -= batch.bytes;
            held.extend(batch.flying);
        }
        held
    }
}

impl EdgeLaneState {
    /// The batch of this turn.
    fn batch(&mut self, worker: u32) -> proto::ToEdgeBatch {
        self.seq += 1;
        let next = Vec::with_capacity(self.flying.len().min(USUAL));
        let bytes = std::mem::take(&mut self.flying_bytes);
        self.unacked_bytes += bytes;
        self.unacked.push_back(Unacked {
            seq: self.seq,
            bytes,
            flying: std::mem::replace(&mut self.flying, next),
        });
        proto::ToEdgeBatch {
            worker,
            seq: self.seq,
            frames: std::mem::take(&mut self.out),
        }
    }

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

#[cfg(test)]
#[path = "lanes_tests.rs"]
mod tests;
