//! Questions of administrators to a router process.

use std::ops::Range;
use std::sync::atomic::Ordering;

use sestina_proto as proto;
use tokio::sync::oneshot;

use super::Router;
use crate::admin::{Counts, Replica, SessionInfo};
use crate::worker::input::{Command, Input};

impl Router {
    /// The sessions that this process owns.
    pub async fn sessions(&self) -> Vec<SessionInfo> {
        let mut all = Vec::new();
        for worker in 0..self.workers() {
            let (answer, answered) = oneshot::channel();
            self.shared
                .mailboxes
                .tell(worker, Input::Command(Command::Sessions { answer }));
            all.extend(answered.await.unwrap_or_default());
        }
        all.sort_by(|a, b| a.jid.cmp(&b.jid));
        all
    }

    /// Ends a session (full JID) or all of a user (bare JID) that this process owns.
    pub async fn close_sessions(&self, jid: &str) -> usize {
        let mut closed = 0;
        for worker in 0..self.workers() {
            let (answer, answered) = oneshot::channel();
            let jid = jid.to_owned();
            self.shared
                .mailboxes
                .tell(worker, Input::Command(Command::Close { jid, answer }));
            closed += answered.await.unwrap_or(0);
        }
        closed
    }

    /// Sessions without a socket, and rooms, of these slots. What changes after the answer is not in
    /// it, so the edges must have let go of their clients before.
    pub async fn replicas(&self, slots: Range<u16>) -> Vec<Replica> {
        let mut all = Vec::new();
        for worker in 0..self.workers() {
            let (answer, answered) = oneshot::channel();
            let slots = slots.clone();
            self.shared
                .mailboxes
                .tell(worker, Input::Command(Command::Replicas { slots, answer }));
            all.extend(answered.await.unwrap_or_default());
        }
        all
    }

    /// Counts of this process.
    pub async fn counts(&self) -> Counts {
        let mut counts = Counts {
            moving: self.shared.moving.load(Ordering::Acquire),
            ..Counts::default()
        };
        for worker in 0..self.workers() {
            let (answer, answered) = oneshot::channel();
            self.shared
                .mailboxes
                .tell(worker, Input::Command(Command::Counts { answer }));
            counts.merge(&answered.await.unwrap_or_default());
        }
        counts
    }

    /// An account changed: every router forgets its keys; its owner ends its sessions if `close`.
    pub fn user_changed(&self, bare: &str, close: bool) {
        self.shared.credentials.forget(bare);
        let jid = sestina_xmpp::jid::Jid::from_wire(bare);
        let slot = u32::from(self.shared.config.slot_of(&jid));
        let changed = proto::UserChanged {
            bare: bare.to_owned(),
            close,
        };
        let frame = proto::PeerFrame {
            slot,
            epoch: 0,
            body: Some(proto::peer_frame::Body::UserChanged(changed)),
        };
        let peers: Vec<_> = self.shared.peer_lanes.lock().values().cloned().collect();
        for peer in peers {
            peer.send(frame.clone()).ok();
        }
        let me = crate::worker::core::PeerRef(self.shared.node.incarnation);
        self.shared.mailboxes.pass_on(me, frame);
    }

    /// All processes with a fresh lease.
    pub fn live(&self) -> Vec<proto::Node> {
        self.shared.live.nodes()
    }

    fn workers(&self) -> u32 {
        self.shared.mailboxes.len()
    }
}
