//! Sessions of which one process alone holds something that was acknowledged: until a second one has
//! it, the cluster could not take another fault.

use super::channel::{Attachment, Channel, PreviousAttachment};
use super::core::{Core, LaneRef};
use super::slot::Slot;

/// Copies of a session's stanzas that were lost because the edges of earlier attachments died.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Lone {
    /// Stanzas of the client up to here: no edge holds them until they are settled.
    inbound: u64,
    /// Deliveries that the edge which has the socket now has not got yet.
    outbound: bool,
}

impl Channel {
    /// An edge has died that had held what the client had sent, up to there.
    pub(super) fn lose_copies(&mut self, until: u64) {
        self.copies.lone.inbound = self.copies.lone.inbound.max(until);
        self.copies.lone.outbound = self.copies.redundant_copies.is_some();
    }

    /// Up to which stanza a new owner will hear that all is settled: the edge of the last attachment tells
    /// what it was told itself. One that has died tells nothing, and the state store takes for settled
    /// what was accepted.
    pub(super) fn settled_as_reported(&self) -> u64 {
        let silent = match self.attachment {
            Attachment::Edge { .. } => 0,
            Attachment::Detached { .. } | Attachment::Ending => self.copies.lone.inbound,
        };
        self.incoming
            .watermark
            .max(silent.min(self.incoming.settled))
    }

    /// Why something of it would be lost with one process; none if nothing would.
    fn why_sole(&self, core: &Core) -> Option<&'static str> {
        let dark = |lane: &LaneRef| !core.lanes.contains_key(lane);
        let previous = self
            .copies
            .previous
            .iter()
            .filter(|previous| dark(&previous.lane));
        // A new owner would wait for a stanza that is settled, because the edge that knew that is dead.
        let needed = |previous: &PreviousAttachment| {
            previous.until > self.incoming.watermark || self.copies.redundant_copies.is_some()
        };
        let here = match &self.attachment {
            // The edge may be dead: then the queue is here alone, until the edge's lease has ended and
            // the state store has it. What an owner before this one may have accepted is at the edge
            // alone until it has come again.
            Attachment::Edge { lane, .. } if dark(lane) => Some("its edge is not connected"),
            Attachment::Edge { .. } | Attachment::Detached { .. } if self.is_replaying() => {
                Some("its edge has still to send again what was accepted")
            }
            Attachment::Edge { .. }
                if self.copies.lone.outbound && self.copies.redundant_copies.is_some() =>
            {
                Some("its edge has not yet got what another one had")
            }
            Attachment::Edge { .. } | Attachment::Ending => None,
            // Its edge keeps what it has until the state store has the session and all is settled.
            Attachment::Detached { committed, .. } => {
                let held = self
                    .copies
                    .detached_from
                    .is_some_and(|(lane, _)| !dark(&lane));
                match held {
                    false if !committed => Some("redis does not have it yet"),
                    false if self.incoming.settled < self.incoming.accepted => {
                        Some("what it sent is not settled")
                    }
                    _ => None,
                }
            }
        };
        let lone = self.incoming.watermark < self.copies.lone.inbound;
        here.or_else(|| lone.then_some("an edge died that had what it sent"))
            .or_else(|| {
                let needed = previous.copied().any(|o| needed(&o));
                needed.then_some("an edge that it had before is not connected")
            })
    }
}

impl Slot {
    /// How many sessions would lose something with one process, and one of them, with the reason.
    pub(crate) fn sole(&self, core: &Core) -> (usize, Option<String>) {
        let sessions = self.sessions.values();
        let mut sole = sessions.filter_map(|s| Some((s, s.channel.why_sole(core)?)));
        let first = sole.next();
        let count = usize::from(first.is_some()) + sole.count();
        (
            count,
            first.map(|(s, why)| format!("{}: {why}", s.channel.jid)),
        )
    }
}

#[cfg(test)]
#[path = "sole_tests.rs"]
mod tests;
