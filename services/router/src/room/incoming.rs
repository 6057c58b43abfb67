//! A message of a room to a user passes the points that every message to that user passes: forged ids
//! are taken out, and a private message is archived for its receiver.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::sync::Arc;

use sestina_api::key::IdempotencyKey;
use sestina_proto as proto;
use sestina_xmpp::jid::Jid;
use sestina_xmpp::stanza::Stanza;

use crate::config::RouterConfig;
use crate::hooks::{MessageContext, Pipelines, Point};
use crate::worker::core::Core;
use crate::worker::execute::{Cause, Passing};
use crate::worker::operations::OperationId;
use crate::worker::session::Session;
use crate::worker::slot::Slot;

/// The variants of one event, shared by all their receivers.
pub(super) struct Incoming {
    variants: Vec<Variant>,
    config: Arc<RouterConfig>,
    pipelines: Arc<Pipelines>,
    /// Sessions of one user come one after the other: the points are passed once for all of them.
    last: Option<(Jid, u32, Option<Arc<proto::Stanza>>)>,
}

struct Variant {
    wire: Arc<proto::Stanza>,
    /// Of a message that handlers may have to do with: its form for them, and whom it is from.
    message: Option<(Stanza, Jid)>,
    /// The same of any variant, once a filter has asked for it.
    filtered: OnceCell<(Stanza, Jid)>,
}

impl Incoming {
    pub(super) fn new(core: &Core, variants: Vec<proto::Stanza>) -> Incoming {
        let variant = |wire: proto::Stanza| {
            let is_message = wire.kind() == proto::StanzaKind::Message;
            let stanza = is_message.then(|| Stanza::from(wire.clone()));
            let concerned =
                stanza.filter(|stanza| core.pipelines.concern(Point::MessageIn, stanza));
            let message = concerned.map(|stanza| {
                let peer = Jid::from_wire(&stanza.from);
                (stanza, peer)
            });
            Variant {
                wire: Arc::new(wire),
                message,
                filtered: OnceCell::new(),
            }
        };
        Incoming {
            variants: variants.into_iter().map(variant).collect(),
            config: core.config.clone(),
            pipelines: core.pipelines.clone(),
            last: None,
        }
    }

    /// A variant as the room made it.
    pub(super) fn variant(&self, index: u32) -> Option<&Arc<proto::Stanza>> {
        Some(&self.variants.get(index as usize)?.wire)
    }

    /// Whether the stanza filters of its user let a session have a variant. The room is not told if they do not.
    pub(super) fn passes(&self, index: u32, session: &Session) -> bool {
        let Some(variant) = self.variants.get(index as usize) else {
            return true;
        };
        session.passes_filters(&self.pipelines, || {
            let (stanza, peer) = variant.filtered.get_or_init(|| {
                let stanza = Stanza::from((*variant.wire).clone());
                let peer = Jid::from_wire(&stanza.from);
                (stanza, peer)
            });
            (stanza, peer)
        })
    }

    /// All of them, to be sent on.
    pub(super) fn all(&self) -> Vec<proto::Stanza> {
        self.variants.iter().map(|v| (*v.wire).clone()).collect()
    }
}

impl Slot {
    /// The stanza that a session gets of a variant, after the points; `None` if a filter stops it. The room is
    /// not told of that: an error of an occupant's session may cost the occupant its place.
    /// `moves`: an owner before this one may have archived what it could not deliver any more.
    pub(super) fn incoming(
        &mut self,
        core: &mut Core,
        said: &mut Incoming,
        index: u32,
        key: IdempotencyKey,
        (id, operation): (u128, OperationId),
        moves: bool,
    ) -> Option<Arc<proto::Stanza>> {
        let variant = said.variants.get(index as usize)?;
        let Some((message, peer)) = &variant.message else {
            return Some(variant.wire.clone());
        };
        let session = self.sessions.get(&id)?;
        let user = session.channel.jid.bare();
        if let Some((last, of, stanza)) = &said.last
            && *of == index
            && *last == user
        {
            return stanza.clone();
        }
        let context = MessageContext {
            user: &user,
            peer,
            key,
            has_account: !session.client.anonymous
                && said.config.services.has_accounts(user.domain()),
            from_room: true,
            config: &said.config,
        };
        let mut stanza = Cow::Borrowed(message);
        let filtered =
            said.pipelines
                .of(user.domain())
                .filter(Point::MessageIn, &context, &mut stanza);
        let stanza = match filtered {
            Err(_) => None,
            Ok(()) => {
                let mut passing = Passing::new(stanza, moves);
                let cause = Cause::RoomEvent { operation };
                // Each device in the room gets it from the room: nothing is copied (XEP-0280 §6.1).
                self.observed(core, cause, Point::MessageIn, &context, &mut passing);
                Some(match passing.stanza {
                    Cow::Borrowed(_) => variant.wire.clone(),
                    Cow::Owned(stanza) => Arc::new(stanza.into()),
                })
            }
        };
        said.last = Some((user, index, stanza.clone()));
        stanza
    }
}
