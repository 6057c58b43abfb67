//! Runs one worker: takes what waits for it, works a turn, sends jobs on their way.

use std::sync::Arc;
use std::time::Duration;

use sestina_proto as proto;
use sestina_runtime::clock::BootInstant;
use sestina_runtime::clock::wall_ms;
use sestina_runtime::linger::until;
use sestina_runtime::mailbox::{PushError, Receiver, Sender};
use sestina_telemetry::{Authority, LeaseEvent, Queue};

use super::{Shared, jobs};
use crate::worker::core::{Job, PeerRef};
use crate::worker::input::Input;
use crate::worker::turn::Worker;

pub(super) async fn run(shared: Arc<Shared>, mut worker: Worker, mut inbox: Receiver<Input>) {
    worker.core.clock = now_us;
    worker.core.given_away = shared.given_away.clone();
    work(&shared, &mut worker, &mut inbox).await;
    worker.end();
}

async fn work(shared: &Arc<Shared>, worker: &mut Worker, inbox: &mut Receiver<Input>) {
    let token = shared.tasks.token();
    let mut inputs = Vec::new();
    let mut others = Vec::new();
    let mut wanted = Vec::new();
    let tick = Duration::from_millis(shared.config.tick_ms);
    loop {
        let wait = worker.patience().map_or(tick, Duration::from_millis);
        let wait = worker
            .progress_due()
            .map_or(wait, |due| wait.min(until(due)));
        tokio::select! {
            () = token.cancelled() => return,
            taken = tokio::time::timeout(wait, inbox.recv_all(&mut inputs)) => {
                if taken.is_ok_and(|open| !open) {
                    return;
                }
            }
        }
        // A process whose lease ran out (it was suspended, or cut off from both authorities) must
        // not act: it waits until it has the lease again, or learns that it lost it.
        if !shared.lease.serving() {
            shared.lease_event(worker, LeaseEvent::Stopped);
            tokio::select! {
                () = token.cancelled() => return,
                waited = shared.lease.wait_serving() => if waited.is_err() { return },
            }
            shared.lease_event(worker, LeaseEvent::Resumed);
        }
        worker.turn(
            inputs.drain(..),
            now_ms(),
            wall_ms(),
            &mut others,
            &mut wanted,
        );
        for frame in others.drain(..) {
            shared.dispatch_peer(PeerRef(shared.node.incarnation), frame);
        }
        for job in wanted.drain(..) {
            let traces = match &job {
                Job::Archive { .. } => std::mem::take(&mut worker.core.archive.flying_traces),
                _ => Vec::new(),
            };
            jobs::start(shared, worker.core.worker, job, &traces);
        }
    }
}

/// Microseconds of the same clock, modulo 2^32, for how old stanzas are.
pub(super) fn now_us() -> u32 {
    (BootInstant::now().as_nanos() / 1_000) as u32
}

/// Milliseconds of the clock that runs while suspended.
pub(super) fn now_ms() -> u64 {
    BootInstant::now().as_nanos() / 1_000_000
}

impl Shared {
    /// Hands a frame of another router (or of another worker) to the worker that owns its slot.
    pub(super) fn dispatch_peer(&self, from: PeerRef, frame: proto::PeerFrame) -> bool {
        use proto::peer_frame::Body;
        let workers = u32::try_from(self.workers.len()).unwrap_or(1);
        match frame.body {
            Some(Body::RoomEvent(event)) if from.0 == self.node.incarnation => {
                // Cut by the sending worker already; `slot` is the worker.
                let frame = proto::PeerFrame {
                    body: Some(Body::RoomEvent(event)),
                    ..frame
                };
                self.push(frame.slot, Input::Peer { from, frame })
            }
            Some(Body::RoomEvent(event)) => {
                let epoch = frame.epoch;
                crate::worker::turn::split_event(event, workers)
                    .into_iter()
                    .all(|(worker, part)| {
                        let body = Some(Body::RoomEvent(part));
                        let frame = proto::PeerFrame {
                            slot: worker,
                            epoch,
                            body,
                        };
                        self.push(worker, Input::Peer { from, frame })
                    })
            }
            // For all workers; those of this process have a frame each, and `slot` is the worker.
            Some(Body::RoomAsk(ask)) if from.0 != self.node.incarnation => {
                (0..workers).all(|worker| {
                    let frame = proto::PeerFrame {
                        slot: worker,
                        epoch: frame.epoch,
                        body: Some(Body::RoomAsk(ask)),
                    };
                    self.push(worker, Input::Peer { from, frame })
                })
            }
            _ => self.push(frame.slot % workers, Input::Peer { from, frame }),
        }
    }

    /// Puts an input into a worker's mailbox; false if it is full or gone.
    pub(super) fn push(&self, worker: u32, input: Input) -> bool {
        let bytes = weight(&input);
        let Some(mailbox) = self.workers.get(worker as usize) else {
            return false;
        };
        let trailing = match &input {
            Input::Edge { frame, .. } => frame.is_trailing(),
            Input::Peer { frame, .. } => frame.is_trailing(),
            _ => false,
        };
        let pushed = if trailing {
            mailbox.push_trailing(input, bytes, &self.linger)
        } else {
            mailbox.push(input, bytes)
        };
        if let Err(PushError::Full(_)) = &pushed {
            self.metrics.queue_full[Queue::Worker].inc();
        }
        pushed.is_ok()
    }

    /// Counts what all workers see, once.
    fn lease_event(&self, worker: &Worker, event: LeaseEvent) {
        if worker.core.worker == 0 {
            for authority in [Authority::Redis, Authority::Storage] {
                self.metrics.lease_events[(authority, event)].inc();
            }
        }
    }

    /// Keeps the gauges of the mailboxes up to date.
    pub(super) async fn measure(self: Arc<Self>) {
        const EVERY: Duration = Duration::from_secs(1);
        let token = self.tasks.token();
        let (items, bytes) = (
            &self.metrics.queue_items[Queue::Worker],
            &self.metrics.queue_bytes[Queue::Worker],
        );
        loop {
            tokio::select! {
                () = token.cancelled() => break,
                () = tokio::time::sleep(EVERY) => {}
            }
            let sum = |each: fn(&Sender<Input>) -> usize| {
                i64::try_from(self.workers.iter().map(each).sum::<usize>()).unwrap_or(i64::MAX)
            };
            items.set(sum(Sender::len));
            bytes.set(sum(Sender::bytes));
        }
        items.set(0);
        bytes.set(0);
        self.metrics.slots_owned.set(0);
        self.metrics.config_mismatches.set(0);
    }

    /// The worker of a slot.
    pub(super) fn worker_of(&self, slot: u16) -> u32 {
        u32::from(slot) % u32::try_from(self.workers.len()).unwrap_or(1).max(1)
    }
}

fn weight(input: &Input) -> usize {
    let stanza = |s: &Option<proto::Stanza>| s.as_ref().map_or(0, |s| s.payload.len() + 128);
    128 + match input {
        Input::Edge { frame, .. } => match &frame.body {
            Some(proto::to_router::Body::Inbound(inbound)) => stanza(&inbound.stanza),
            _ => 0,
        },
        Input::Peer { frame, .. } => match &frame.body {
            Some(proto::peer_frame::Body::Effect(effect)) => stanza(&effect.stanza),
            Some(proto::peer_frame::Body::RoomEvent(event)) => {
                event
                    .variants
                    .iter()
                    .map(|v| v.payload.len() + 128)
                    .sum::<usize>()
                    + event.targets.len() * 48
            }
            _ => 0,
        },
        _ => 0,
    }
}
