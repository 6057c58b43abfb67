//! Runs one worker: takes what waits for it, works a turn, sends jobs on their way.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sestina_proto as proto;
use sestina_runtime::clock::BootInstant;
use sestina_runtime::mailbox::Receiver;

use super::{Shared, jobs};
use crate::worker::core::PeerRef;
use crate::worker::input::Input;
use crate::worker::turn::Worker;

/// How often a worker that waits for a hand-over to settle looks again.
const HURRIED: Duration = Duration::from_millis(5);

pub(super) async fn run(shared: Arc<Shared>, mut worker: Worker, mut inbox: Receiver<Input>) {
    let token = shared.tasks.token();
    let mut inputs = Vec::new();
    let mut others = Vec::new();
    let mut wanted = Vec::new();
    let tick = Duration::from_millis(shared.config.tick_ms);
    loop {
        let wait = if worker.hurried() { HURRIED } else { tick };
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
            tokio::select! {
                () = token.cancelled() => return,
                waited = shared.lease.wait_serving() => if waited.is_err() { return },
            }
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
            jobs::start(&shared, worker.core.worker, job);
        }
    }
}

/// Milliseconds of the clock that runs while suspended.
pub(super) fn now_ms() -> u64 {
    BootInstant::now().as_nanos() / 1_000_000
}

/// Unix milliseconds: for time stamps that people see, never for decisions.
#[allow(clippy::disallowed_methods)]
pub(super) fn wall_ms() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| {
            i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
        })
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
            _ => self.push(frame.slot % workers, Input::Peer { from, frame }),
        }
    }

    /// Puts an input into a worker's mailbox; false if it is full or gone.
    pub(super) fn push(&self, worker: u32, input: Input) -> bool {
        let bytes = weight(&input);
        self.workers
            .get(worker as usize)
            .is_some_and(|w| w.push(input, bytes).is_ok())
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
