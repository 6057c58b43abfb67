//! Which frames nobody waits for: acknowledgements and counters, which may stay a moment in a queue
//! until something else leaves. Order within a lane is kept all the same.

use crate::{PeerFrame, ToRouter, peer_frame, to_router};

impl ToRouter {
    /// Whether it may wait for company.
    pub fn is_trailing(&self) -> bool {
        matches!(
            self.body,
            Some(to_router::Body::LaneAck(_) | to_router::Body::Acked(_))
        )
    }
}

impl ToRouter {
    /// Whether a full lane refuses it: what brings bytes, or asks for something, is held by its sender
    /// until it is answered. Other frames are small, and there are no more of them than of what was
    /// admitted before: acknowledgements, ends of sockets.
    pub fn is_refusable(&self) -> bool {
        use to_router::Body;
        matches!(
            self.body,
            Some(
                Body::Inbound(_)
                    | Body::Bind(_)
                    | Body::Resume(_)
                    | Body::Asked(_)
                    | Body::EpochReport(_)
                    | Body::RoomMembers(_)
            )
        )
    }
}

impl PeerFrame {
    /// Whether it may wait for company. An answer that brings a stanza or a refusal may not.
    pub fn is_trailing(&self) -> bool {
        match &self.body {
            Some(peer_frame::Body::SlotMessageAck(done)) => done.owner && done.reply.is_none(),
            Some(peer_frame::Body::RoomAck(ack)) => ack.not_owner.is_empty(),
            Some(peer_frame::Body::Watermarks(_) | peer_frame::Body::WatermarkQuery(_)) => true,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Acked, Inbound, SlotMessageAck, Stanza};

    fn to_router(body: to_router::Body) -> ToRouter {
        ToRouter {
            body: Some(body),
            ..ToRouter::default()
        }
    }

    #[test]
    fn what_carries_a_stanza_does_not_wait() {
        assert!(to_router(to_router::Body::Acked(Acked::default())).is_trailing());
        assert!(!to_router(to_router::Body::Inbound(Inbound::default())).is_trailing());
        let done = |done| {
            let body = Some(peer_frame::Body::SlotMessageAck(done));
            PeerFrame {
                body,
                ..PeerFrame::default()
            }
        };
        let owner = SlotMessageAck {
            owner: true,
            ..SlotMessageAck::default()
        };
        assert!(done(owner.clone()).is_trailing());
        let reply = Some(Stanza::default());
        assert!(!done(SlotMessageAck { reply, ..owner }).is_trailing());
        assert!(
            !done(SlotMessageAck::default()).is_trailing(),
            "a refusal is acted on at once"
        );
    }
}
