//! Sessions of which one process alone holds something that was acknowledged: until a second one has
//! it, the cluster could not take another fault.

use super::core::{Core, LaneRef};
use super::session::{Attachment, Older, Session};
use super::slot::Slot;

/// What died with edges that had held it for a session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Lone {
    /// Stanzas of the client up to here: no edge holds them until they are settled.
    inbound: u64,
    /// Deliveries that the edge which has the socket now has not got yet.
    outbound: bool,
}

impl Session {
    /// An edge has died that had held what the client had sent, up to there.
    pub(super) fn lose_copies(&mut self, until: u64) {
        self.lone.inbound = self.lone.inbound.max(until);
        self.lone.outbound = self.spare.is_some();
    }

    /// Whether something of it would be lost with one process.
    fn is_sole(&self, core: &Core) -> bool {
        let dark = |lane: &LaneRef| !core.lanes.contains_key(lane);
        let older = self.older.iter().filter(|older| dark(&older.lane));
        // What is settled without its edge's knowledge would be waited for.
        let needed = |older: &Older| older.until > self.mark || self.spare.is_some();
        let here = match &self.attachment {
            // The edge may be dead: then the queue is here alone, until the edge's lease has ended and
            // the state store has it. What an owner before this one had accepted is at the edge
            // alone until it has come again.
            Attachment::Edge { lane, .. } => {
                let unsent = self.lone.outbound && self.spare.is_some();
                dark(lane) || self.promised > self.accepted || unsent
            }
            // Its edge keeps what it has until the state store has the session and all is settled.
            Attachment::Detached { committed, .. } => {
                let held = self.detached_from.is_some_and(|(lane, _)| !dark(&lane));
                !held && (!committed || self.mark < self.accepted)
            }
            Attachment::Ending => false,
        };
        here || self.mark < self.lone.inbound || older.copied().any(|o| needed(&o))
    }
}

impl Slot {
    /// How many sessions would lose something with one process.
    pub(crate) fn sole(&self, core: &Core) -> usize {
        let sessions = self.sessions.values();
        sessions.filter(|session| session.is_sole(core)).count()
    }
}

#[cfg(test)]
#[path = "sole_tests.rs"]
mod tests;
