//! The outbox of a slot: messages of its origins on their way to the owners of other slots.
//!
//! The messages for one other slot are a stream in order. The receiver takes only the next one of a stream, so the
//! stream begins anew whenever the receiver may have missed a message. A message stays here until its receiver has
//! acknowledged it, and is sent again to each new owner; the receiver's dedup table handles it once.

use std::collections::VecDeque;

use sestina_api::key::IdempotencyKey;
use sestina_proto as proto;
use sestina_runtime::failpoint;
use sestina_xmpp::jid::Jid;

use super::core::{Core, PeerRef};
use super::operations::OperationId;
use super::receive::InHand;
use crate::rng::{HashMap, HashSet};

/// A message on its way to the owner of another slot.
#[derive(Debug)]
pub(crate) struct PendingMessage {
    /// Its idempotency key. The origin is a session of this slot, unless the message has a cause.
    pub(crate) key: IdempotencyKey,
    /// The frame, to send again.
    pub(crate) message: proto::SlotMessage,
    /// Waits until the message is acknowledged.
    pub(crate) operation: OperationId,
    /// No owner has sent it yet, neither this one nor one before.
    pub(crate) fresh: bool,
    sent: bool,
    /// The slot message that causes this one.
    pub(crate) cause: Option<Box<Cause>>,
}

/// A slot message of another slot that makes an entity of this slot send a message.
#[derive(Clone, Debug)]
pub(crate) struct Cause {
    pub(crate) hand: InHand,
    /// Full JID of the sender of that slot message. If the addressee answers with an error, the sender gets the error.
    pub(crate) from: String,
}

impl PendingMessage {
    /// A message that has not been sent by this owner.
    pub(crate) fn new(
        key: IdempotencyKey,
        message: proto::SlotMessage,
        operation: OperationId,
        fresh: bool,
    ) -> PendingMessage {
        PendingMessage {
            key,
            message,
            operation,
            fresh,
            sent: false,
            cause: None,
        }
    }

    /// The message is caused by one of another slot: its origin is a session of that slot.
    pub(crate) fn caused_by(self, cause: Cause) -> PendingMessage {
        PendingMessage {
            cause: Some(Box::new(cause)),
            ..self
        }
    }

    /// Whether it is a presence to a room (`bare`): with it a session enters the room, or leaves it.
    fn is_presence_to(&self, bare: &Jid) -> bool {
        let stanza = self.message.stanza.as_ref();
        let stanza = stanza.filter(|stanza| stanza.kind() == proto::StanzaKind::Presence);
        stanza.is_some_and(|stanza| Jid::from_wire(&stanza.to).bare_str() == bare.as_str())
    }
}

/// The messages for one other slot.
#[derive(Debug, Default)]
struct Stream {
    pending: VecDeque<PendingMessage>,
    owner: Option<PeerRef>,
    /// 0: the next message begins a stream.
    number: u64,
    seq: u64,
    /// Refused: goes again at the next tick or with the next slot table.
    waiting: bool,
}

impl Stream {
    fn restart(&mut self) {
        self.number = 0;
        self.owner = None;
        self.waiting = false;
        for pending in &mut self.pending {
            pending.sent = false;
        }
    }
}

/// The slot of an outbox as its messages name it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sender {
    /// The epoch of the slot.
    pub(crate) epoch: u64,
    /// The slot is being handed over: it takes nothing new, and finishes what it has accepted.
    pub(crate) settling: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    streams: HashMap<u16, Stream>,
    /// Slots whose messages wait for an owner or a lane, tried again at each tick and with each slot table.
    stuck: HashSet<u16>,
}

impl Outbox {
    /// Whether all messages are acknowledged.
    pub(crate) fn is_empty(&self) -> bool {
        self.streams.is_empty()
    }

    /// Slots whose messages wait for an owner or a lane.
    #[cfg(feature = "simulation")]
    pub(crate) fn stuck(&self) -> usize {
        self.stuck.len()
    }

    /// The operations that wait for acknowledgements.
    pub(crate) fn operations(&self) -> impl Iterator<Item = OperationId> {
        let pending = self.streams.values().flat_map(|stream| &stream.pending);
        pending.map(|pending| pending.operation)
    }

    /// Whether a presence of an origin to a room (`bare`) of slot `target` is under way.
    pub(crate) fn has_presence_to(&self, target: u16, origin: u128, bare: &Jid) -> bool {
        let stream = self.streams.get(&target);
        let mut pending = stream.into_iter().flat_map(|stream| &stream.pending);
        // The origin first: an address is copied to compare it.
        pending.any(|pending| pending.key.origin == origin && pending.is_presence_to(bare))
    }

    /// Adds a message and sends it if its receiver has an owner whose lane takes it.
    pub(crate) fn push(
        &mut self,
        core: &mut Core,
        sender: Sender,
        target: u16,
        message: PendingMessage,
    ) {
        core.operations.part(message.operation);
        let stream = self.streams.entry(target).or_default();
        stream.pending.push_back(message);
        self.pump(core, sender, target);
    }

    /// Sends what is pending for a slot to its owner, in order; waits if there is none.
    fn pump(&mut self, core: &mut Core, sender: Sender, target: u16) {
        let owner = core.owner_of(target).filter(|o| core.peer_open(*o));
        let Some(stream) = self.streams.get_mut(&target) else {
            return;
        };
        if stream.pending.is_empty() {
            self.streams.remove(&target);
            return;
        }
        let Some(owner) = owner else {
            stream.restart();
            self.stuck.insert(target);
            return;
        };
        if stream.owner != Some(owner) {
            stream.restart();
            stream.owner = Some(owner);
        }
        if stream.waiting {
            return;
        }
        if stream.number == 0 {
            core.counters.streams += 1;
            stream.number = (sender.epoch << 32) | core.counters.streams;
            stream.seq = 0;
        }
        let epoch = core.owners.table.epoch(target);
        for pending in stream.pending.iter_mut().filter(|p| !p.sent) {
            if core.peer_full(owner) {
                // Goes on where it stopped.
                self.stuck.insert(target);
                break;
            }
            failpoint!("router.message_sent");
            stream.seq += 1;
            pending.sent = true;
            if std::mem::take(&mut pending.fresh) {
                pending.message.first_epoch = epoch;
            }
            let mut message = pending.message.clone();
            message.stream = stream.number;
            message.seq = stream.seq;
            message.settling = sender.settling;
            let frame = proto::PeerFrame {
                slot: u32::from(target),
                epoch,
                body: Some(proto::peer_frame::Body::SlotMessage(message)),
            };
            core.send_peer(owner, frame);
        }
    }

    /// The owner of the receiving slot answered. Returns the message that is acknowledged by that: the answer of an
    /// owner that was replaced, or to an older stream, acknowledges nothing, because all of it was sent again.
    pub(crate) fn answered(
        &mut self,
        core: &mut Core,
        ack: &proto::SlotMessageAck,
    ) -> Option<PendingMessage> {
        let key = ack.key.as_ref().map(IdempotencyKey::from)?;
        let target = u16::try_from(ack.target_slot).ok()?;
        let stream = self.streams.get_mut(&target)?;
        if !ack.owner {
            // Refused: not the owner now, or out of order. Everything pending goes again, as a
            // new stream, a little later or when the slot table changes.
            if ack.stream == stream.number {
                stream.restart();
                stream.waiting = true;
                self.stuck.insert(target);
                core.slots.messages_refused = true;
            }
            return None;
        }
        if !core.admit_epoch(target, ack.target_epoch) || ack.stream != stream.number {
            return None;
        }
        failpoint!("router.message_done");
        let at = stream.pending.iter().position(|p| p.key == key)?;
        let pending = stream.pending.remove(at);
        if stream.pending.is_empty() {
            self.streams.remove(&target);
        }
        pending
    }

    /// Tries again what waits for an owner or a lane.
    pub(crate) fn retry(&mut self, core: &mut Core, sender: Sender) {
        for target in std::mem::take(&mut self.stuck) {
            if let Some(stream) = self.streams.get_mut(&target) {
                stream.waiting = false;
            }
            self.pump(core, sender, target);
        }
    }

    /// A router is gone or its lane is new: what it did not acknowledge goes again.
    pub(crate) fn resend_to(&mut self, core: &mut Core, sender: Sender, peer: PeerRef) {
        self.restart(core, sender, |_, stream| {
            stream.owner == Some(peer) || stream.owner.is_none()
        });
    }

    /// The slot table changed: messages to slots that changed hands go to the new owners.
    pub(crate) fn owners_changed(&mut self, core: &mut Core, sender: Sender) {
        let table = core.owners.table.clone();
        let owner_of = |slot| table.owner(slot).map(|n| PeerRef(n.incarnation));
        self.restart(core, sender, |target, stream| {
            stream.owner.is_some() && stream.owner != owner_of(target)
        });
    }

    fn restart(&mut self, core: &mut Core, sender: Sender, is: impl Fn(u16, &Stream) -> bool) {
        let streams = self.streams.iter();
        let chosen = streams.filter(|(target, stream)| is(**target, stream));
        let targets: Vec<u16> = chosen.map(|(target, _)| *target).collect();
        for target in targets {
            if let Some(stream) = self.streams.get_mut(&target) {
                stream.restart();
            }
            self.pump(core, sender, target);
        }
    }
}

#[cfg(test)]
mod tests {
    use sestina_api::key::Purpose;
    use sestina_xmpp::stanza::{Kind, Stanza};

    use super::super::operations::{OnDone, Operations};
    use super::*;

    #[test]
    fn a_presence_to_a_room_enters_or_leaves_and_a_message_does_not() {
        let operation = Operations::default().open(OnDone::Nothing);
        let room = Jid::from_wire("garden@muc.c.example");
        let is = |kind: Kind, to: &str| {
            let mut stanza = Stanza::new(kind);
            stanza.to = to.to_owned();
            let message = proto::SlotMessage {
                stanza: Some(stanza.into()),
                ..proto::SlotMessage::default()
            };
            let key = IdempotencyKey::new(7, 1, Purpose::Route);
            PendingMessage::new(key, message, operation, true).is_presence_to(&room)
        };
        assert!(is(Kind::Presence, "garden@muc.c.example/romeo"));
        assert!(!is(Kind::Presence, "orchard@muc.c.example/romeo"));
        assert!(!is(Kind::Message, "garden@muc.c.example"));
    }
}
