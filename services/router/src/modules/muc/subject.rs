//! The subject of a room (XEP-0045 §7.2.15, §8.1): moderators change it, and newcomers get it last.

use sestina_xmpp::ext::delay::Delay;
use sestina_xmpp::ns;
use sestina_xmpp::stanza::error::{Condition, StanzaError};
use sestina_xmpp::stanza::{Kind, Stanza};
use sestina_xmpp::xml::Element;

use crate::domain::room::Role;
use crate::hooks::{Bounce, Registrar, RoomAction, RoomContext, Stage};

pub(super) fn register(registrar: &mut Registrar<'_>) {
    registrar.room_pre_message(Stage::Policy, |_, message| {
        if message.sender.role == Role::Moderator || !is_subject(message.stanza) {
            return Ok(());
        }
        let refused = StanzaError::new(Condition::Forbidden);
        Err(Bounce::with(
            refused.with_text("only moderators change the subject"),
        ))
    });
    registrar.room_message(Stage::Index, |_, message, actions| {
        if is_subject(message.stanza) {
            actions.push(RoomAction::SetSubject);
        }
    });
    registrar.room_joined(Stage::Notify, |context, _, stanzas| {
        stanzas.push(subject_of(context));
    });
}

/// Whether a message changes the subject: it has one, and nothing that a message to read has.
fn is_subject(message: &Stanza) -> bool {
    let has = |name| message.child(ns::CLIENT, name).is_some();
    has("subject") && !has("body") && !has("thread")
}

/// The message with the subject for a newcomer, even if there is no subject.
fn subject_of(context: &RoomContext<'_>) -> Stanza {
    let room = context.jid().as_str();
    if let Some((subject, at_ms)) = context.room.subject() {
        let mut subject = subject.clone();
        subject.push_element(&Delay::new(Some(room), at_ms).to_element());
        return subject;
    }
    let mut stanza = Stanza::new(Kind::Message);
    stanza.type_ = "groupchat".to_owned();
    stanza.from = room.to_owned();
    stanza.push_element(&Element::new("subject", ns::CLIENT));
    stanza
}
