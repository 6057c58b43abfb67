//! Invitations to a room, and declines of invitations (XEP-0045 §7.8.2). A room sends both on to users.
//!
//! A decline goes to occupants of the room only. Otherwise any user could send messages to any other user through a
//! room.
//!
//! An invitation to a user without an account is answered with `service-unavailable`, like a message to that user. The
//! XEP proposes `item-not-found`, but this error would reveal which accounts exist.

use std::collections::BTreeSet;

use sestina_xmpp::ext::muc_invite::{Mediated, Mediation};
use sestina_xmpp::jid::Jid;
use sestina_xmpp::ns;
use sestina_xmpp::stanza::error::{Condition, StanzaError};
use sestina_xmpp::stanza::{Kind, Stanza};

use crate::hooks::{Bounce, Registrar, RoomContext, RoomRequest};
use crate::services::ServiceKind;

/// Users that one message invites at most.
const MOST: usize = 20;

pub(super) fn register(registrar: &mut Registrar<'_>) {
    registrar.room_request(ns::MUC_USER, "x", pass_on);
}

fn pass_on(context: &RoomContext<'_>, request: &RoomRequest<'_>) -> Result<Vec<Stanza>, Bounce> {
    let all = Mediated::parse(request.stanza);
    if all.is_empty() {
        let text = "a room passes on invitations and refusals of them, of type normal";
        return Err(refusal(Condition::BadRequest, text));
    }
    if all.len() > MOST {
        let text = format!("one message invites at most {MOST} users");
        return Err(refusal(Condition::PolicyViolation, &text));
    }
    let from = request.from.bare();
    let mut users = BTreeSet::new();
    let mut messages = Vec::new();
    for mediated in &all {
        let to = addressee(context, request, mediated)?;
        if !users.insert(to.bare().as_str().to_owned()) {
            continue;
        }
        let mut message = Stanza::new(Kind::Message);
        message.from = context.jid().as_str().to_owned();
        message.to = to.as_str().to_owned();
        message.id = request.stanza.id.clone();
        message.lang = request.stanza.lang.clone();
        message.push_element(&mediated.passed_on(&from));
        messages.push(message);
    }
    Ok(messages)
}

/// The address to which a room sends an invitation or a decline.
fn addressee(
    context: &RoomContext<'_>,
    request: &RoomRequest<'_>,
    mediated: &Mediated,
) -> Result<Jid, Bounce> {
    let Some(to) = mediated.to.clone() else {
        let text = "an invitation names a user: <invite to='user@host'/>";
        return Err(refusal(Condition::JidMalformed, text));
    };
    let nobody = || refusal(Condition::ItemNotFound, "there is no such user here");
    match mediated.mediation {
        Mediation::Invite if request.asker.is_none() => {
            let text = "only occupants invite others";
            Err(refusal(Condition::NotAcceptable, text))
        }
        Mediation::Invite => {
            let kind = context.config.services.kind(to.domain());
            let is_host = matches!(kind, Some(ServiceKind::Host { .. }));
            match to.local().is_some() && is_host {
                true => Ok(to),
                false => Err(nobody()),
            }
        }
        Mediation::Decline if to.bare() == *context.jid() => {
            let nick = to.resource().unwrap_or_default();
            context.room.user_of(nick).ok_or_else(nobody)
        }
        Mediation::Decline => {
            let user = to.bare();
            match context.room.has_user(&user) {
                true => Ok(user),
                false => Err(nobody()),
            }
        }
    }
}

fn refusal(condition: Condition, text: &str) -> Bounce {
    Bounce::with(StanzaError::new(condition).with_text(text))
}
