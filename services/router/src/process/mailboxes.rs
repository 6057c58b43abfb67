//! The mailboxes of the workers.
//!
//! Frames of edges and of other routers can be refused: the process that sent them has them still, and sends
//! them again. All else cannot, because it is said only once: the end of a job, a lane
//! that opened or ended, a table, a slot to take, a frame that another worker of this process sent.
//! The number of those is bounded by what was admitted before.

use std::sync::Arc;

use sestina_api::link::Unsent;
use sestina_proto as proto;
use sestina_proto::peer_frame::Body as PeerBody;
use sestina_runtime::coalesce::CoalescingTimer;
use sestina_runtime::mailbox::{PushError, Sender};
use sestina_telemetry::{Metrics, Queue};

use crate::worker::core::{LaneRef, PeerRef};
use crate::worker::input::Input;
use crate::worker::turn::split_event;

/// The mailboxes of a router's workers.
pub(super) struct Mailboxes {
    workers: Vec<Sender<Input>>,
    metrics: Arc<Metrics>,
    /// Inputs for which no process waits are handled together.
    coalesce: Arc<CoalescingTimer>,
}

impl Mailboxes {
    pub(super) fn new(workers: Vec<Sender<Input>>, metrics: Arc<Metrics>) -> Mailboxes {
        Mailboxes {
            workers,
            metrics,
            coalesce: CoalescingTimer::new(),
        }
    }

    /// How many workers there are: at least one.
    pub(super) fn len(&self) -> u32 {
        u32::try_from(self.workers.len()).unwrap_or(1).max(1)
    }

    /// The worker of a slot.
    pub(super) fn worker_of(&self, slot: u16) -> u32 {
        u32::from(slot) % self.len()
    }

    /// Adds up what the mailboxes say of themselves.
    pub(super) fn sum(&self, each: fn(&Sender<Input>) -> usize) -> usize {
        self.workers.iter().map(each).sum()
    }

    /// Tells a worker what it must know.
    pub(super) fn tell(&self, worker: u32, input: Input) {
        if let Some(mailbox) = self.workers.get(worker as usize) {
            mailbox.push_control(input, 0);
        }
    }

    /// Tells all workers.
    pub(super) fn tell_all(&self, input: impl Fn() -> Input) {
        for mailbox in &self.workers {
            mailbox.push_control(input(), 0);
        }
    }

    /// Returns when no mailbox is full.
    pub(super) async fn room(&self) {
        for mailbox in &self.workers {
            if mailbox.is_full() {
                mailbox.room().await;
            }
        }
    }

    /// A frame of an edge, for a worker. What [may not be refused](proto::ToRouter::is_refusable) is
    /// not.
    pub(super) fn offer_edge(
        &self,
        worker: u32,
        lane: LaneRef,
        frame: proto::ToRouter,
    ) -> Result<(), Unsent<proto::ToRouter>> {
        let (trailing, refusable) = (frame.is_trailing(), frame.is_refusable());
        let input = Input::Edge { lane, frame };
        if !refusable {
            self.take(worker, input, trailing);
            return Ok(());
        }
        match self.offer(worker, input) {
            Some(Input::Edge { frame, .. }) => Err(Unsent::full(frame)),
            _ => Ok(()),
        }
    }

    /// A frame of another router, for the workers of its slots: all of them, or none.
    pub(super) fn offer_peer(
        &self,
        from: PeerRef,
        frame: proto::PeerFrame,
    ) -> Result<(), Unsent<proto::PeerFrame>> {
        let trailing = frame.is_trailing();
        match frame.body {
            Some(PeerBody::RoomEvent(event)) => {
                let workers = self.len();
                let full = |target: &proto::RoomTarget| {
                    let mailbox = self.workers.get((target.slot % workers) as usize);
                    mailbox.is_some_and(Sender::is_full)
                };
                if event.targets.iter().any(full) {
                    self.metrics.queue_full[Queue::Worker].inc();
                    let body = Some(PeerBody::RoomEvent(event));
                    return Err(Unsent::full(proto::PeerFrame { body, ..frame }));
                }
                for (worker, part) in split_event(event, workers) {
                    let body = Some(PeerBody::RoomEvent(part));
                    let frame = proto::PeerFrame {
                        slot: worker,
                        epoch: frame.epoch,
                        body,
                    };
                    self.take(worker, Input::Peer { from, frame }, trailing);
                }
                Ok(())
            }
            // For all workers; those of this process have a frame each, and `slot` is the worker.
            Some(PeerBody::RoomAsk(ask)) => {
                if self.workers.iter().any(Sender::is_full) {
                    self.metrics.queue_full[Queue::Worker].inc();
                    return Err(Unsent::full(frame));
                }
                for worker in 0..self.len() {
                    let frame = proto::PeerFrame {
                        slot: worker,
                        epoch: frame.epoch,
                        body: Some(PeerBody::RoomAsk(ask)),
                    };
                    self.take(worker, Input::Peer { from, frame }, false);
                }
                Ok(())
            }
            _ if trailing => {
                self.take(frame.slot % self.len(), Input::Peer { from, frame }, true);
                Ok(())
            }
            _ => match self.offer(frame.slot % self.len(), Input::Peer { from, frame }) {
                Some(Input::Peer { frame, .. }) => Err(Unsent::full(frame)),
                _ => Ok(()),
            },
        }
    }

    /// A frame that one worker of this process has for another. It comes from what was admitted, and
    /// between two workers there is no lane that could be opened anew.
    pub(super) fn pass_on(&self, me: PeerRef, frame: proto::PeerFrame) {
        // Cut by the sending worker already; `slot` is the worker.
        let worker = match &frame.body {
            Some(PeerBody::RoomEvent(_) | PeerBody::RoomAsk(_)) => frame.slot,
            _ => frame.slot % self.len(),
        };
        let trailing = frame.is_trailing();
        self.take(worker, Input::Peer { from: me, frame }, trailing);
    }

    /// Puts an input into a mailbox, whatever waits there already.
    fn take(&self, worker: u32, input: Input, trailing: bool) {
        let Some(mailbox) = self.workers.get(worker as usize) else {
            return;
        };
        let bytes = weight(&input);
        if trailing {
            let pushed = mailbox.push_trailing(input, bytes, &self.coalesce);
            if let Err(PushError::Full(input)) = pushed {
                mailbox.push_control(input, bytes);
            }
        } else {
            mailbox.push_control(input, bytes);
        }
    }

    /// Puts an input into a mailbox; a full one hands it back. A worker that is gone takes nothing,
    /// and no process waits for it.
    #[must_use = "what was handed back has to be sent again"]
    fn offer(&self, worker: u32, input: Input) -> Option<Input> {
        let mailbox = self.workers.get(worker as usize)?;
        let bytes = weight(&input);
        match mailbox.push(input, bytes) {
            Err(PushError::Full(input)) => {
                self.metrics.queue_full[Queue::Worker].inc();
                Some(input)
            }
            Ok(()) | Err(PushError::Closed(_)) => None,
        }
    }
}

fn weight(input: &Input) -> usize {
    let stanza = |s: &Option<proto::Stanza>| s.as_ref().map_or(0, |s| s.payload.len() + 128);
    128 + match input {
        Input::Edge { frame, .. } => match &frame.body {
            Some(proto::to_router::Body::Inbound(inbound)) => stanza(&inbound.stanza),
            Some(proto::to_router::Body::EpochReport(report)) => report
                .payloads
                .iter()
                .map(|payload| payload.payload.len() + 128)
                .sum(),
            _ => 0,
        },
        Input::Peer { frame, .. } => match &frame.body {
            Some(PeerBody::SlotMessage(message)) => stanza(&message.stanza),
            Some(PeerBody::RoomEvent(event)) => {
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use sestina_runtime::mailbox::{Limits, Receiver, mailbox};

    use super::*;
    use crate::worker::input::JobDone;

    fn mailboxes(count: usize) -> (Mailboxes, Vec<Receiver<Input>>) {
        let limits = Limits {
            count: 4,
            bytes: 1 << 20,
        };
        let (senders, receivers) = (0..count).map(|_| mailbox(limits)).unzip();
        (Mailboxes::new(senders, Metrics::new()), receivers)
    }

    fn inbound(slot: u32) -> proto::ToRouter {
        let body = proto::to_router::Body::Inbound(proto::Inbound::default());
        proto::ToRouter {
            slot,
            epoch: 1,
            body: Some(body),
        }
    }

    fn slot_message(slot: u32) -> proto::PeerFrame {
        proto::PeerFrame {
            slot,
            epoch: 1,
            body: Some(PeerBody::SlotMessage(proto::SlotMessage::default())),
        }
    }

    #[test]
    fn a_full_mailbox_refuses_frames_and_takes_all_that_is_said_once() {
        let (mailboxes, mut receivers) = mailboxes(2);
        let lane = LaneRef { edge: 7, lane: 0 };
        let mut taken = 0;
        while mailboxes.offer_edge(1, lane, inbound(1)).is_ok() {
            taken += 1;
        }
        assert_eq!(taken, 4);
        let full = &mailboxes.metrics.queue_full[Queue::Worker];
        assert_eq!(full.get(), 1, "the refusal is counted");
        let refused = mailboxes.offer_peer(PeerRef(8), slot_message(3));
        assert_eq!(refused, Err(Unsent::full(slot_message(3))));
        let event = proto::PeerFrame {
            body: Some(PeerBody::RoomEvent(proto::RoomEvent {
                targets: [2, 3]
                    .map(|slot| proto::RoomTarget {
                        slot,
                        ..Default::default()
                    })
                    .to_vec(),
                ..Default::default()
            })),
            ..Default::default()
        };
        let refused = mailboxes.offer_peer(PeerRef(8), event.clone());
        assert_eq!(refused, Err(Unsent::full(event)), "for both or for none");
        assert_eq!(mailboxes.offer_peer(PeerRef(8), slot_message(2)), Ok(()));
        let ack = proto::ToRouter {
            body: Some(proto::to_router::Body::LaneAck(proto::LaneAck::default())),
            ..Default::default()
        };
        assert_eq!(mailboxes.offer_edge(1, lane, ack), Ok(()));
        mailboxes.tell(1, Input::Done(JobDone::Keys));
        mailboxes.tell_all(|| Input::NodeGone { incarnation: 9 });
        mailboxes.pass_on(PeerRef(1), slot_message(5));
        let mut got = Vec::new();
        receivers[1].try_recv_all(&mut got);
        let said = got.split_off(taken);
        assert!(got.iter().all(|i| matches!(i, Input::Edge { .. })));
        assert!(
            matches!(
                &said[..],
                [
                    Input::Edge { .. },
                    Input::Done(JobDone::Keys),
                    Input::NodeGone { incarnation: 9 },
                    Input::Peer {
                        from: PeerRef(1),
                        ..
                    }
                ]
            ),
            "{} inputs came after those that filled it",
            said.len()
        );
    }
}
