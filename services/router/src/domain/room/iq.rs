//! IQs to a room or to one of its occupants.

use sestina_xmpp::jid::Jid;
use sestina_xmpp::ns;
use sestina_xmpp::stanza::Stanza;
use sestina_xmpp::stanza::error::Condition;
use sha2::{Digest, Sha256};

use super::broadcast::{Broadcast, Changed};
use super::occupant::{Occupant, RoomSession};
use super::state::{Decision, Environment, Origin, Room};
use crate::hooks::RoomReply;

impl Room {
    pub(crate) fn iq(
        &mut self,
        environment: Environment<'_>,
        origin: &Origin,
        to: &Jid,
        stanza: Stanza,
    ) -> Decision {
        let is_request = matches!(stanza.type_.as_str(), "get" | "set");
        if let Some(nick) = to.resource() {
            let decision = self.iq_to_occupant(environment.identity, origin, nick, stanza);
            // Answers are not answered.
            return match decision {
                Decision::Answered(_) if !is_request => Decision::Ignored,
                decision => decision,
            };
        }
        if !is_request {
            return Decision::Ignored;
        }
        let asker = self.occupant_of(origin.session);
        let context = environment.of(self);
        let Some(reply) = environment.pipeline.room_iq(&context, asker, &stanza) else {
            return Decision::ForModules(origin.jid.clone(), stanza);
        };
        let result = || stanza.result_reply(None);
        match reply {
            RoomReply::Result(payload) => Decision::Answered(stanza.result_reply(payload.as_ref())),
            RoomReply::Error(condition, text) => {
                Decision::refused(&stanza, condition, text.as_deref())
            }
            RoomReply::Configured => {
                self.unconfigured = false;
                // An event without receivers writes it down.
                Decision::Happens(Broadcast::default(), Some(result()))
            }
            RoomReply::Destroy => Decision::Happens(self.destroy(), Some(result())),
        }
    }

    /// An IQ of one occupant to another one, or to itself.
    fn iq_to_occupant(
        &self,
        identity: u128,
        origin: &Origin,
        nick: &str,
        stanza: Stanza,
    ) -> Decision {
        let is_request = matches!(stanza.type_.as_str(), "get" | "set");
        let Some(sender) = self.occupant_of(origin.session) else {
            // §6.6 of discovery; XEP-0410 §3.1 of pings, and of all the rest.
            let discovers = stanza
                .children()
                .any(|c| matches!(c.ns, ns::DISCO_INFO | ns::DISCO_ITEMS));
            let condition = match discovers {
                true => Condition::BadRequest,
                false => Condition::NotAcceptable,
            };
            let text = Some("only occupants can be asked by occupants");
            return Decision::refused(&stanza, condition, text);
        };
        if nick == sender.nick && is_request && stanza.child(ns::PING, "ping").is_some() {
            // XEP-0410 §3.1: an occupant who pings itself is in the room.
            return Decision::Answered(stanza.result_reply(None));
        }
        let Some(receiver) = self.occupants.get(nick) else {
            return Decision::refused(&stanza, Condition::ItemNotFound, None);
        };
        let mut asked = stanza;
        asked.from = self.address(&sender.nick);
        asked.to = String::new();
        let target = if is_request {
            if sender.main.session != origin.session {
                asked.id = format!("{}/{}", tag(identity, origin.session), asked.id);
            }
            &receiver.main
        } else {
            asker(identity, receiver, &mut asked.id)
        };
        let mut broadcast = Broadcast::default();
        broadcast.add(asked, [target]);
        Decision::Happens(broadcast, None)
    }

    /// All occupants leave, and the history and the subject are gone.
    fn destroy(&mut self) -> Broadcast {
        let mut broadcast = Broadcast::default();
        let occupants = std::mem::take(&mut self.occupants);
        for occupant in occupants.values() {
            broadcast.changes(&occupant.nick);
            for session in occupant.sessions() {
                let gone = self.destroyed(occupant);
                broadcast.add_own(gone, occupant, session);
            }
        }
        self.by_session.clear();
        self.any_left = true;
        self.subject = None;
        let history = self.history.drain(..);
        let history = history.map(|message| Changed::History(message.seq));
        broadcast.changed.extend(history);
        broadcast
    }
}

/// Marks the id of a question of a session that shares its nick: an answer comes to the nick, and its id
/// is all that it has of the question. Others learn nothing of the session from it.
fn tag(room: u128, session: u128) -> String {
    let mut hash = Sha256::new();
    hash.update(room.to_be_bytes());
    hash.update(session.to_be_bytes());
    let hash = hash.finalize();
    let first = hash.iter().take(8);
    first.map(|byte| format!("{byte:02x}")).collect()
}

/// Which session of an occupant an answer is for; its id becomes that of the question.
fn asker<'a>(room: u128, occupant: &'a Occupant, id: &mut String) -> &'a RoomSession {
    let tagged = id.split_once('/').and_then(|(tagged, own)| {
        let mut sessions = occupant.sessions();
        let asker = sessions.find(|s| tag(room, s.session) == tagged)?;
        Some((asker, own.to_owned()))
    });
    match tagged {
        Some((asker, own)) => {
            *id = own;
            asker
        }
        None => &occupant.main,
    }
}
