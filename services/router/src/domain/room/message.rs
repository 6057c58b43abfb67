//! Messages of occupants to their room: to all (XEP-0045 §7.4, §8.1) and to one (§7.5).

use sestina_xmpp::ext::muc;
use sestina_xmpp::jid::Jid;
use sestina_xmpp::ns;
use sestina_xmpp::stanza::Stanza;
use sestina_xmpp::stanza::error::Condition;
use sestina_xmpp::xml::Element;

use super::broadcast::{Broadcast, Changed};
use super::occupant::Occupant;
use super::state::{Decision, Environment, Origin, Remembered, Room};
use crate::hooks::{RoomAction, RoomMessage, RoomRequest};

impl Room {
    /// A message to all, or a change of the subject.
    pub(crate) fn groupchat(
        &mut self,
        environment: Environment<'_>,
        origin: &Origin,
        to: &Jid,
        stanza: Stanza,
    ) -> Decision {
        if to.resource().is_some() {
            let text = Some("groupchat goes to the room");
            return Decision::refused(&stanza, Condition::BadRequest, text);
        }
        let Some(sender) = self.occupant_of(origin.session) else {
            return strangers_are_silent(&stanza);
        };
        let context = environment.of(self);
        let message = RoomMessage {
            sender,
            stanza: &stanza,
        };
        if let Err(bounce) = environment.pipeline.room_pre_message(&context, &message) {
            return Decision::bounced(&stanza, &bounce);
        }
        let actions = environment.pipeline.room_message(&context, &message);
        let from = self.address(&sender.nick);
        let mut said = stanza;
        said.from = from;
        said.to = String::new();
        let room = self.jid.as_str();
        said.retain_children(|c| c.ns != ns::DELAY && !muc::is_said_by_rooms(c, room));
        let mut broadcast = Broadcast::default();
        for action in actions {
            match action {
                RoomAction::SetSubject => {
                    self.subject = Some(said.clone());
                    self.subject_at_ms = environment.wall_ms;
                }
                RoomAction::Remember { at_most } => {
                    self.remember(&mut broadcast, environment, &said, at_most);
                }
            }
        }
        broadcast.add(said, self.sessions());
        Decision::Happens(broadcast, None)
    }

    /// Adds a message to the history, which keeps so many messages.
    fn remember(
        &mut self,
        broadcast: &mut Broadcast,
        environment: Environment<'_>,
        message: &Stanza,
        at_most: usize,
    ) {
        self.history.push_back(Remembered {
            seq: environment.seq,
            message: message.clone(),
            at_ms: environment.wall_ms,
        });
        broadcast.changed.push(Changed::History(environment.seq));
        while self.history.len() > at_most {
            if let Some(old) = self.history.pop_front() {
                broadcast.changed.push(Changed::History(old.seq));
            }
        }
    }

    /// A message to one occupant, on all its sessions (§7.2.8), or to the room itself.
    pub(crate) fn private_message(
        &self,
        environment: Environment<'_>,
        origin: &Origin,
        to: &Jid,
        mut stanza: Stanza,
    ) -> Decision {
        let sender = self.occupant_of(origin.session);
        let Some(nick) = to.resource() else {
            return self.request(environment, origin, sender, &stanza);
        };
        let Some(sender) = sender else {
            return strangers_are_silent(&stanza);
        };
        let Some(receiver) = self.occupants.get(nick) else {
            return Decision::refused(&stanza, Condition::ItemNotFound, None);
        };
        stanza.from = self.address(&sender.nick);
        stanza.to = String::new();
        stanza.retain_children(|c| !muc::is_said_by_rooms(c, self.jid.as_str()));
        if !stanza.is_error() {
            stanza.push_element(&Element::new("x", ns::MUC_USER));
        }
        let mut broadcast = Broadcast::default();
        broadcast.add(stanza, receiver.sessions());
        Decision::Happens(broadcast, None)
    }

    /// A message to the room itself: modules know what is to be done.
    fn request(
        &self,
        environment: Environment<'_>,
        origin: &Origin,
        asker: Option<&Occupant>,
        stanza: &Stanza,
    ) -> Decision {
        let request = RoomRequest {
            asker,
            from: &origin.jid,
            stanza,
        };
        let context = environment.of(self);
        match environment.pipeline.room_request(&context, &request) {
            _ if stanza.is_error() => Decision::Ignored,
            Some(Ok(stanzas)) => Decision::Sends(origin.jid.clone(), stanzas),
            Some(Err(bounce)) => Decision::bounced(stanza, &bounce),
            None if asker.is_none() => strangers_are_silent(stanza),
            None => Decision::refused(stanza, Condition::NotAcceptable, None),
        }
    }
}

fn strangers_are_silent(stanza: &Stanza) -> Decision {
    let text = Some("only occupants can speak here");
    Decision::refused(stanza, Condition::NotAcceptable, text)
}
