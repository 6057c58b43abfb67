//! An event that is kept until all its receivers have it, and its form in the shadow.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;
use sestina_api::key::{join, split};
use sestina_proto as proto;

use super::state::Receiver;
use crate::chance::HashMap;
use crate::worker::core::PeerRef;
use crate::worker::passage::Passage;
use crate::worker::work::WorkId;

/// One event that not all its receivers have.
#[derive(Debug)]
pub(crate) struct TailEvent {
    pub(super) variants: Vec<Arc<proto::Stanza>>,
    pub(super) targets: Vec<Receiver>,
    /// Slots whose owner has not acknowledged it, and the router to which it was sent.
    pub(super) waiting: HashMap<u16, Option<PeerRef>>,
    /// Open until the event is in the shadow (or, without it, until all have it).
    pub(super) work: Option<WorkId>,
    pub(super) sent: bool,
    pub(super) passage: Passage,
}

impl TailEvent {
    pub(super) fn restored(event: proto::RoomTailEvent) -> TailEvent {
        let targets: Vec<Receiver> = event
            .targets
            .iter()
            .map(|t| Receiver {
                slot: u16::try_from(t.slot).unwrap_or(0),
                session: join(t.session_hi, t.session_lo),
                variant: t.variant,
                standing: t.standing,
            })
            .collect();
        TailEvent {
            variants: event.variants.into_iter().map(Arc::new).collect(),
            waiting: targets.iter().map(|t| (t.slot, None)).collect(),
            targets,
            work: None,
            sent: true,
            passage: Passage::default(),
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
        let is = |t: &&Receiver| t.session == session && t.standing != 0;
        let own = self.targets.iter().rfind(is)?;
        self.variants.get(own.variant as usize).map(Arc::as_ref)
    }

    /// The sessions that it tells their own presences, where the owners of their slots have not
    /// acknowledged it.
    pub(super) fn owes_own(&self) -> impl Iterator<Item = u128> {
        let own = self.targets.iter().filter(|target| target.standing != 0);
        own.filter(|target| self.waiting.contains_key(&target.slot))
            .map(|target| target.session)
    }

    pub(super) fn field(&self, seq: u64) -> (String, Bytes) {
        let event = proto::RoomTailEvent {
            seq,
            variants: self.variants.iter().map(|v| (**v).clone()).collect(),
            targets: self
                .targets
                .iter()
                .map(|t| {
                    let (session_hi, session_lo) = split(t.session);
                    proto::RoomTailTarget {
                        slot: u32::from(t.slot),
                        variant: t.variant,
                        session_hi,
                        session_lo,
                        standing: t.standing,
                    }
                })
                .collect(),
        };
        (format!("e:{seq}"), event.encode_to_vec().into())
    }
}
