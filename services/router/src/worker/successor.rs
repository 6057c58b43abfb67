//! For tests: a router that takes a slot from another owner, and what edges and routers tell it of what
//! that owner had accepted and delivered.

use std::sync::Arc;

use prost::Message as _;
use sestina_api::key::{IdempotencyKey, Purpose};
use sestina_api::state_store::{Loaded, ReplicaObject, Stamp};
use sestina_proto as proto;
use sestina_proto::to_router::Body as RouterBody;
use sestina_xmpp::jid::Jid;
use sestina_xmpp::stanza::Stanza;

use super::core::{Job, PeerRef};
use super::input::{Input, JobDone, Known};
use super::slot::new_origin;
use super::testing::{LANE, Router};

/// The epoch of the new owner.
pub(crate) const EPOCH: u64 = 2;

/// See the module.
pub(crate) struct Successor {
    pub(crate) router: Router,
    pub(crate) slot: u16,
}

/// The record of a new session of this slot: it is resumable for 300 s.
pub(crate) fn record(slot: u16, full: &str) -> proto::SessionState {
    let (session_hi, session_lo) = sestina_api::key::split(new_origin(slot));
    proto::SessionState {
        session_hi,
        session_lo,
        jid: full.to_owned(),
        generation: 1,
        sm: true,
        sm_resume: true,
        sm_max_s: 300,
        residents_known: true,
        ..proto::SessionState::default()
    }
}

/// The report of an edge about a session: its client has acknowledged nothing and sent nothing.
pub(crate) fn report(record: &proto::SessionState, handle: u64) -> proto::SessionReport {
    proto::SessionReport {
        handle,
        generation: 1,
        session_hi: record.session_hi,
        session_lo: record.session_lo,
        jid: record.jid.clone(),
        state: record.encode_to_vec().into(),
        ..proto::SessionReport::default()
    }
}

/// A delivery that an edge holds: the `n`-th stanza of a session of another slot.
pub(crate) fn held(number: u64, origin: u128, n: u64, stanza: &Stanza) -> proto::Outbound {
    proto::Outbound {
        number,
        key: Some(IdempotencyKey::new(origin, n, Purpose::Route).into()),
        stanza: Some(stanza.clone().into()),
        ..proto::Outbound::default()
    }
}

/// A session as the state store has it.
pub(crate) fn stored(record: &proto::SessionState) -> ReplicaObject {
    let id = sestina_api::key::join(record.session_hi, record.session_lo);
    ReplicaObject {
        object: format!("s:{id:032x}"),
        version: Stamp::new(1, 1),
        fields: vec![("meta".to_owned(), record.encode_to_vec().into())],
    }
}

/// The edge of [`LANE`], which the new owner has to hear.
pub(crate) fn edge() -> Arc<[proto::Node]> {
    Arc::from([proto::Node {
        name: "edge".to_owned(),
        incarnation: LANE.edge,
        ..proto::Node::default()
    }])
}

impl Successor {
    /// A router that is to own the slot of this user.
    pub(crate) fn new(user: &str) -> Successor {
        let router = Router::new(1, &[], || 0);
        let slot = router.config.slot_of(&Jid::from_wire(user));
        Successor { router, slot }
    }

    /// It takes the slot: these edges live, and the state store has these objects.
    pub(crate) fn take(&mut self, live: Arc<[proto::Node]>, objects: Vec<ReplicaObject>) {
        let (slot, epoch) = (self.slot, EPOCH);
        let result = Ok(Loaded {
            objects,
            ..Loaded::default()
        });
        let loaded = JobDone::ReplicaLoaded {
            slot,
            epoch,
            result,
        };
        self.router
            .turn(vec![Input::Take { slot, epoch, live }, Input::Done(loaded)]);
    }

    /// The edge reports these sessions.
    pub(crate) fn reported(&mut self, sessions: Vec<proto::SessionReport>) -> Vec<Job> {
        self.edge_says(RouterBody::EpochReport(proto::EpochReport {
            sessions,
            ..proto::EpochReport::default()
        }))
    }

    pub(crate) fn edge_says(&mut self, body: RouterBody) -> Vec<Job> {
        let frame = proto::ToRouter {
            slot: self.slot.into(),
            epoch: EPOCH,
            body: Some(body),
        };
        self.router.turn(vec![Input::Edge { lane: LANE, frame }])
    }

    /// The `n`-th stanza of the client of the session with handle 1.
    pub(crate) fn client_says(&mut self, n: u64, stanza: Stanza) -> Vec<Job> {
        self.edge_says(RouterBody::Inbound(proto::Inbound {
            handle: 1,
            generation: 1,
            n,
            stanza: Some(stanza.into()),
            ..proto::Inbound::default()
        }))
    }

    /// A second connection binds the resource `orchard` of Romeo. Returns the frames that the router sends to the edge.
    pub(crate) fn second_binds(&mut self) -> Vec<proto::to_edge::Body> {
        self.told();
        self.edge_says(RouterBody::Bind(proto::Bind {
            handle: 2,
            bare: "romeo@c.example".to_owned(),
            resource: "orchard".to_owned(),
            ..proto::Bind::default()
        }));
        self.told()
    }

    /// The socket of the session with handle 1 ends with its stream.
    pub(crate) fn client_closes(&mut self) -> Vec<Job> {
        self.edge_says(RouterBody::Close(proto::Close {
            handle: 1,
            generation: 1,
            clean: true,
        }))
    }

    /// The router that owns slot 1 sends the stanza with that number of its stream, which the owner
    /// before may have handled.
    pub(crate) fn comes_again(
        &mut self,
        origin: u128,
        n: u64,
        seq: u64,
        stanza: &Stanza,
    ) -> Vec<Job> {
        let message = proto::SlotMessage {
            key: Some(IdempotencyKey::new(origin, n, Purpose::Route).into()),
            origin_slot: 1,
            origin_epoch: 1,
            stanza: Some(stanza.clone().into()),
            stream: 1,
            seq,
            ..proto::SlotMessage::default()
        };
        self.peer_says(proto::peer_frame::Body::SlotMessage(message))
    }

    pub(crate) fn peer_says(&mut self, body: proto::peer_frame::Body) -> Vec<Job> {
        let frame = proto::PeerFrame {
            slot: self.slot.into(),
            epoch: EPOCH,
            body: Some(body),
        };
        let from = PeerRef(2);
        self.router.turn(vec![Input::Peer { from, frame }])
    }

    /// Storage answers that the user exists, and that none of the messages that it was asked about is
    /// stored.
    pub(crate) fn not_stored(&mut self, bare: &str) -> Vec<Job> {
        self.stored(bare, Vec::new())
    }

    /// Storage answers that the user exists, and which of the messages that it was asked about are
    /// stored.
    pub(crate) fn stored(&mut self, bare: &str, stored: Vec<IdempotencyKey>) -> Vec<Job> {
        let known = Known {
            exists: true,
            stored,
            data: Vec::new(),
        };
        self.router.turn(vec![Input::Done(JobDone::UserKnown {
            slot: self.slot,
            bare: bare.to_owned(),
            known: Ok(known),
        })])
    }

    /// The frames that were sent to the edge since this was asked last.
    pub(crate) fn told(&mut self) -> Vec<proto::to_edge::Body> {
        std::mem::take(&mut *self.router.edge.0.lock())
    }
}
