//! An event that is kept until all its receivers have it, and its form in the state store.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;
use sestina_api::key::{join, split};
use sestina_proto as proto;

use crate::domain::room::{Home, Receiver};
use crate::rng::HashMap;
use crate::worker::core::PeerRef;
use crate::worker::operations::OperationId;
use crate::worker::trace_context::TraceContext;

/// One event that not all its receivers have.
#[derive(Debug)]
pub(crate) struct LoggedEvent {
    pub(super) variants: Vec<Arc<proto::Stanza>>,
    pub(super) targets: Vec<Receiver>,
    /// Slots whose owner has not acknowledged it, and the router to which it was sent.
    pub(super) waiting: HashMap<u16, Option<PeerRef>>,
    /// Open until the event is in the state store (or, without it, until all have it).
    pub(super) operation: Option<OperationId>,
    pub(super) sent: bool,
    pub(super) trace_context: TraceContext,
}

impl LoggedEvent {
    pub(super) fn restored(event: proto::RoomLoggedEvent) -> LoggedEvent {
        let targets: Vec<Receiver> = event
            .targets
            .iter()
            .map(|t| Receiver {
                home: Home(u16::try_from(t.slot).unwrap_or(0)),
                session: join(t.session_hi, t.session_lo),
                variant: t.variant,
                affiliation_and_role: t.affiliation_and_role,
            })
            .collect();
        LoggedEvent {
            variants: event.variants.into_iter().map(Arc::new).collect(),
            waiting: targets.iter().map(|t| (t.home.0, None)).collect(),
            targets,
            operation: None,
            sent: true,
            trace_context: TraceContext::default(),
        }
    }

    /// Whether it is a session's last presence under an address.
    pub(super) fn takes_out(&self, session: u128, address: &str) -> bool {
        let own = self.targets.iter().filter(|t| t.session == session);
        let mut said = own.filter_map(|t| self.variants.get(t.variant as usize));
        said.any(|stanza| stanza.r#type == "unavailable" && stanza.from == address)
    }

    /// The session's own presence in this event.
    pub(super) fn own_of(&self, session: u128) -> Option<&proto::Stanza> {
        let is = |t: &&Receiver| t.session == session && t.affiliation_and_role != 0;
        let own = self.targets.iter().rfind(is)?;
        self.variants.get(own.variant as usize).map(Arc::as_ref)
    }

    /// Removes a session from the receivers if this event tells the session that it has left the room. For a session that
    /// knows a later event about itself.
    pub(super) fn forget_leaving(&mut self, session: u128) {
        // A session that only changes its nick gets an unavailable and an available presence; the available one is last.
        let own = self.own_of(session);
        if own.is_none_or(|own| own.r#type != "unavailable") {
            return;
        }
        self.targets.retain(|target| target.session != session);
        let targets = &self.targets;
        self.waiting
            .retain(|slot, _| targets.iter().any(|target| target.home.0 == *slot));
    }

    /// The sessions that it tells their own presences, where the owners of their slots have not
    /// acknowledged it.
    pub(super) fn owes_own(&self) -> impl Iterator<Item = u128> {
        let own = self
            .targets
            .iter()
            .filter(|target| target.affiliation_and_role != 0);
        own.filter(|target| self.waiting.contains_key(&target.home.0))
            .map(|target| target.session)
    }

    pub(super) fn field(&self, seq: u64) -> (String, Bytes) {
        let event = proto::RoomLoggedEvent {
            seq,
            variants: self.variants.iter().map(|v| (**v).clone()).collect(),
            targets: self
                .targets
                .iter()
                .map(|t| {
                    let (session_hi, session_lo) = split(t.session);
                    proto::RoomLoggedTarget {
                        slot: u32::from(t.home.0),
                        variant: t.variant,
                        session_hi,
                        session_lo,
                        affiliation_and_role: t.affiliation_and_role,
                    }
                })
                .collect(),
        };
        (format!("e:{seq}"), event.encode_to_vec().into())
    }
}
