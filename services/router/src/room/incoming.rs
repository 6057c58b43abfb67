//! What a room says to a user passes the points that every message to that user passes: forged ids
//! are taken out, and a private message is archived for its receiver.

use std::borrow::Cow;
use std::sync::Arc;

use sestina_api::key::EffectKey;
use sestina_proto as proto;
use sestina_xmpp::jid::Jid;
use sestina_xmpp::stanza::Stanza;

use crate::config::RouterConfig;
use crate::hooks::{Effect, MessageContext, Pipeline, Point};
use crate::worker::core::Core;
use crate::worker::receive::stamp;
use crate::worker::slot::Slot;
use crate::worker::work::WorkId;

/// The variants of one event, shared by all their receivers.
pub(super) struct Incoming {
    variants: Vec<Variant>,
    config: Arc<RouterConfig>,
    pipeline: Arc<Pipeline>,
    /// Sessions of one user come one after the other: the points are passed once for all of them.
    last: Option<(Jid, u32, Option<Arc<proto::Stanza>>)>,
}

struct Variant {
    wire: Arc<proto::Stanza>,
    /// Of a message that handlers may have to do with: its form for them, and whom it is from.
    message: Option<(Stanza, Jid)>,
}

impl Incoming {
    pub(super) fn new(core: &Core, variants: Vec<proto::Stanza>) -> Incoming {
        let variant = |wire: proto::Stanza| {
            let is_message = wire.kind() == proto::StanzaKind::Message;
            let stanza = is_message.then(|| Stanza::from(wire.clone()));
            let concerned =
                stanza.filter(|stanza| core.pipeline.concerns(Point::MessageIn, stanza));
            let message = concerned.map(|stanza| {
                let peer = Jid::from_wire(&stanza.from);
                (stanza, peer)
            });
            let wire = Arc::new(wire);
            Variant { wire, message }
        };
        Incoming {
            variants: variants.into_iter().map(variant).collect(),
            config: core.config.clone(),
            pipeline: core.pipeline.clone(),
            last: None,
        }
    }

    /// A variant as the room made it.
    pub(super) fn variant(&self, index: u32) -> Option<&Arc<proto::Stanza>> {
        Some(&self.variants.get(index as usize)?.wire)
    }

    /// All of them, to be sent on.
    pub(super) fn all(&self) -> Vec<proto::Stanza> {
        self.variants.iter().map(|v| (*v.wire).clone()).collect()
    }
}

impl Slot {
    /// What a session gets of a variant, after the points; `None` if a filter stops it. The room is
    /// not told of that: an error of an occupant's session may cost the occupant its place.
    /// `moves`: an owner before this one may have archived what it could not deliver any more.
    pub(super) fn incoming(
        &mut self,
        core: &mut Core,
        said: &mut Incoming,
        index: u32,
        key: EffectKey,
        (id, work): (u128, WorkId),
        moves: bool,
    ) -> Option<Arc<proto::Stanza>> {
        let variant = said.variants.get(index as usize)?;
        let Some((message, peer)) = &variant.message else {
            return Some(variant.wire.clone());
        };
        let session = self.sessions.get(&id)?;
        let user = session.jid.bare();
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
            has_account: !session.anonymous && said.config.has_accounts(user.domain()),
            from_room: true,
            config: &said.config,
        };
        let mut stanza = Cow::Borrowed(message);
        let filtered = said
            .pipeline
            .filter(Point::MessageIn, &context, &mut stanza);
        let stanza = match filtered {
            Err(_) => None,
            Ok(()) => {
                let effects = said.pipeline.observe(Point::MessageIn, &context, &stanza);
                for effect in effects {
                    match effect {
                        // The room tells senders to wait when its own storage is behind; here the
                        // bound on rows that wait comes first.
                        Effect::Archive if core.storage_backlogged() => {}
                        Effect::Archive => {
                            let row = self.archive(core, &user, peer, key, &stanza, work, moves);
                            stamp(stanza.to_mut(), &user, &row);
                        }
                        // Each device in the room gets it from the room (XEP-0280 §6.1).
                        Effect::Carbons => {}
                        other => tracing::error!(?other, "a module asked for this at MessageIn"),
                    }
                }
                Some(match stanza {
                    Cow::Borrowed(_) => variant.wire.clone(),
                    Cow::Owned(stanza) => Arc::new(stanza.into()),
                })
            }
        };
        said.last = Some((user, index, stanza.clone()));
        stanza
    }
}
