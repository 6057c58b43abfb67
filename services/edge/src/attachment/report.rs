//! What a new owner of a slot is told of it, in parts, each sent when its lane has room.
//!
//! One part holds at most [`Limits::report_part`](super::hands::Limits) bytes (one delivery may
//! exceed it), and the slots with something left take turns: many megabytes of one account do not
//! hold up the takeover of other slots. If the lane breaks, the owner installs its epoch again on
//! the next one, and the report begins anew.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use sestina_api::key::split;
use sestina_api::link::BULK;
use sestina_proto as proto;
use sestina_proto::to_router::Body;
use sestina_xmpp::stanza::Stanza;

use super::Attachments;
use super::hands::{Hands, Lock as _, Sent, Socket as _};
use super::held::Delivery;
use super::slots::Slot;
use super::state::{Link, Phase, Session, State};

/// What an entry of a report takes beside its stanza, about.
const ENTRY: usize = 64;

/// Parts of a slot that wait for their lane.
pub struct Parts<H: Hands> {
    /// The opening of the lane that they are for.
    lane: H::Lane,
    /// Made already, in order.
    ready: VecDeque<Body>,
    /// What the next ones are made of.
    rest: Option<Rest>,
}

/// How far a report has come.
struct Rest {
    report: u64,
    part: u32,
    /// The session that is next.
    handle: u64,
    /// Its deliveries up to here are in earlier parts.
    told: u64,
}

/// Slots with parts that wait, in turns.
pub struct Reports<H: Hands> {
    waiting: H::Lock<VecDeque<u16>>,
    last: AtomicU64,
}

impl<H: Hands> Default for Reports<H> {
    fn default() -> Reports<H> {
        Reports {
            waiting: H::Lock::new(VecDeque::new()),
            last: AtomicU64::new(0),
        }
    }
}

#[cfg(feature = "simulation")]
impl<H: Hands> Reports<H> {
    /// How many slots have parts that wait.
    pub fn waits(&self) -> usize {
        self.waiting.lock().len()
    }
}

/// What became of a part.
enum Step {
    /// It was sent, and there are others.
    More,
    /// It was the last one, or the lane is over.
    Done,
    /// Its lane is full.
    Full,
}

impl<H: Hands> Attachments<H> {
    /// Begins to report a slot to its new owner, over the lane that is open to it.
    pub fn begin_report(&self, hands: &H, number: u16, slot: &mut Slot<H>) {
        for session in slot.sessions.values() {
            session.begin_report(hands, &mut session.state.lock());
        }
        let route = slot.route.as_ref();
        let Some(lane) = route.and_then(|route| hands.lane(route, number)) else {
            // The owner installs its epoch again on the next one.
            slot.parts = None;
            return;
        };
        let rest = Rest {
            report: self.reports.last.fetch_add(1, Relaxed) + 1,
            part: 0,
            handle: 0,
            told: 0,
        };
        let rooms = self.rooms.of_slot(hands, number).into_iter();
        let parts = Parts {
            lane,
            ready: rooms.map(Body::RoomMembers).collect(),
            rest: Some(rest),
        };
        self.begin_parts(hands, number, slot, parts);
    }

    /// Sends what was made already, as the lane takes it.
    pub fn begin_answer(&self, hands: &H, number: u16, slot: &mut Slot<H>, ready: VecDeque<Body>) {
        let route = slot.route.as_ref();
        let Some(lane) = route.and_then(|route| hands.lane(route, number)) else {
            return;
        };
        let parts = Parts {
            lane,
            ready,
            rest: None,
        };
        self.begin_parts(hands, number, slot, parts);
    }

    fn begin_parts(&self, hands: &H, number: u16, slot: &mut Slot<H>, parts: Parts<H>) {
        let listed = slot.parts.replace(parts).is_some();
        if !matches!(self.send_part(hands, number, slot), Step::Done) && !listed {
            self.reports.waiting.lock().push_back(number);
        }
    }

    /// Sends parts of all slots that have some, in turns, for as long as lanes have room.
    pub fn send_parts(&self, hands: &H) {
        let mut full = 0;
        loop {
            let number = {
                let mut waiting = self.reports.waiting.lock();
                if full >= waiting.len() {
                    return;
                }
                waiting.pop_front()
            };
            let Some(number) = number else {
                return;
            };
            let mut slot = self.slots[usize::from(number)].lock();
            let step = self.send_part(hands, number, &mut slot);
            full = match step {
                Step::Full => full + 1,
                Step::More | Step::Done => 0,
            };
            if !matches!(step, Step::Done) {
                self.reports.waiting.lock().push_back(number);
            }
        }
    }

    fn send_part(&self, hands: &H, number: u16, slot: &mut Slot<H>) -> Step {
        let Some(mut parts) = slot.parts.take() else {
            return Step::Done;
        };
        if hands.waiting(&parts.lane) >= BULK {
            slot.parts = Some(parts);
            return Step::Full;
        }
        if parts.ready.is_empty()
            && let Some(rest) = parts.rest.take()
        {
            let (part, rest) = rest.next(slot, hands.limits().report_part);
            parts.ready.push_back(Body::EpochReport(part));
            parts.rest = rest;
        }
        let Some(body) = parts.ready.pop_front() else {
            return Step::Done;
        };
        let reported = parts.rest.is_none() && matches!(body, Body::EpochReport(_));
        let frame = proto::ToRouter {
            slot: number.into(),
            epoch: slot.epoch,
            body: Some(body),
        };
        match hands.send(&parts.lane, frame) {
            Sent::Over => return Step::Done,
            Sent::Full(frame) => {
                parts.ready.extend(frame.body);
                parts.ready.rotate_right(1);
                slot.parts = Some(parts);
                return Step::Full;
            }
            Sent::Yes => {}
        }
        if reported {
            slot.reported = slot.epoch;
        }
        if parts.ready.is_empty() && parts.rest.is_none() {
            return Step::Done;
        }
        slot.parts = Some(parts);
        Step::More
    }
}

impl Rest {
    /// The next part, and what is left after it.
    fn next<H: Hands>(
        mut self,
        slot: &Slot<H>,
        limit: usize,
    ) -> (proto::EpochReport, Option<Rest>) {
        let mut part = Part {
            bytes: 0,
            limit,
            payloads: Vec::new(),
            report: proto::EpochReport {
                report: self.report,
                part: self.part,
                ..proto::EpochReport::default()
            },
        };
        self.part += 1;
        for (handle, session) in slot.sessions.range(self.handle..) {
            let state = session.state.lock();
            if state.phase == Phase::Gone {
                continue;
            }
            if part.is_full() {
                self.handle = *handle;
                self.told = 0;
                return part.more(self);
            }
            let told = if *handle == self.handle { self.told } else { 0 };
            if let Some(told) = part.add(session, &state, told) {
                self.handle = *handle;
                self.told = told;
                return part.more(self);
            }
        }
        (part.report, None)
    }
}

/// A part that is being made.
struct Part {
    bytes: usize,
    limit: usize,
    /// Where the stanzas of the report are: several sessions may hold the same one.
    payloads: Vec<Arc<Delivery>>,
    report: proto::EpochReport,
}

impl Part {
    fn is_full(&self) -> bool {
        self.bytes >= self.limit
    }

    fn more(mut self, rest: Rest) -> (proto::EpochReport, Option<Rest>) {
        self.report.more = true;
        (self.report, Some(rest))
    }

    /// Adds a session whose deliveries up to `told` are in earlier parts. If not all of it fits,
    /// returns the last delivery that did.
    fn add<H: Hands>(&mut self, session: &Session<H>, state: &State<H>, told: u64) -> Option<u64> {
        let mut report = session.report(state);
        self.bytes += 2 * ENTRY + report.state.len() + report.jid.len();
        let floor = state.outgoing.acked.min(state.outgoing.released).max(told);
        let first = state
            .outgoing
            .held
            .partition_point(|held| held.number <= floor);
        let mut last = None;
        for held in state.outgoing.held.iter().skip(first) {
            if self.is_full() && !(self.report.sessions.is_empty() && report.held.is_empty()) {
                report.more = true;
                last = Some(report.held.last().map_or(floor, |held| held.number));
                break;
            }
            let payload = held
                .stanza
                .as_ref()
                .map_or(0, |stanza| self.payload(stanza));
            self.bytes += ENTRY;
            report.held.push(proto::Outbound {
                at_ms: held.at_ms,
                number: held.number,
                key: held.key,
                stanza: None,
                payload,
            });
        }
        self.report.sessions.push(report);
        last
    }

    /// The place of a stanza in the part, from 1.
    fn payload(&mut self, stanza: &Arc<Delivery>) -> u32 {
        // What one room or one sender said lies close together.
        let known = self
            .payloads
            .iter()
            .rposition(|known| Arc::ptr_eq(known, stanza));
        let at = known.unwrap_or_else(|| {
            self.bytes += stanza.weight();
            self.payloads.push(Arc::clone(stanza));
            self.report.payloads.push(Stanza::clone(stanza).into());
            self.payloads.len() - 1
        });
        u32::try_from(at + 1).unwrap_or(u32::MAX)
    }
}

impl<H: Hands> Session<H> {
    /// From now on nothing is sent until the new owner of the slot answers.
    pub fn begin_report(&self, hands: &H, state: &mut State<H>) {
        if state.phase == Phase::Gone {
            return;
        }
        state.link = Link::Restoring;
        state.waiting_since.get_or_insert_with(|| hands.now());
        if !state.managed() && state.phase == Phase::Open {
            let written = self.wire.written();
            state.prune_out(written);
        }
    }

    /// What this edge holds of the session, without its deliveries.
    fn report(&self, state: &State<H>) -> proto::SessionReport {
        let (session_hi, session_lo) = split(self.nonce);
        proto::SessionReport {
            handle: self.handle,
            generation: self.generation,
            session_hi,
            session_lo,
            jid: self.jid.to_string(),
            settled: state.incoming.settled,
            received: state.outgoing.last,
            acked: state.outgoing.acked,
            released: state.outgoing.released,
            held: Vec::new(),
            state: state.record.clone(),
            transport: self.transport.to_owned(),
            remote: self.remote.to_string(),
            began: state.incoming.began,
            accepted: state.incoming.told.max(state.incoming.accepted),
            sent: state.incoming.last,
            more: false,
            ended: state.phase == Phase::Closed,
        }
    }
}
