//! IQs to a room or to one of its occupants.

use sestina_xmpp::jid::Jid;
use sestina_xmpp::ns;
use sestina_xmpp::stanza::Stanza;
use sestina_xmpp::stanza::error::Condition;
use sha2::{Digest, Sha256};

use super::input::Origin;
use super::occupant::{Affiliation, Occupant, RoomSession};
use super::state::Broadcast;
use crate::hooks::IqTarget;
use crate::worker::core::Core;
use crate::worker::data::Asked;
use crate::worker::execute::Cause;
use crate::worker::receive::InHand;
use crate::worker::slot::Slot;

/// The IQs that rooms answer without a module: (is it a set, namespace, name).
pub(crate) const ANSWERS: [(bool, &str, &str); 2] = [
    (false, ns::MUC_OWNER, "query"),
    (true, ns::MUC_OWNER, "query"),
];

impl Slot {
    pub(super) fn room_iq(
        &mut self,
        core: &mut Core,
        hand: InHand,
        origin: Origin,
        to: Jid,
        stanza: Stanza,
    ) {
        let request = matches!(stanza.type_.as_str(), "get" | "set");
        let room_jid = to.bare();
        let Some(room) = self.rooms.get(&room_jid) else {
            if request {
                self.room_refuse(hand, &stanza, Condition::ItemNotFound, None);
            }
            return;
        };
        let sender = room.occupant_of(origin.session).cloned();
        if let Some(nick) = to.resource() {
            let Some(sender) = sender else {
                if request {
                    // §6.6 of discovery; XEP-0410 §3.1 of pings, and of all the rest.
                    let discovers = stanza
                        .children()
                        .any(|c| matches!(c.ns, ns::DISCO_INFO | ns::DISCO_ITEMS));
                    let condition = match discovers {
                        true => Condition::BadRequest,
                        false => Condition::NotAcceptable,
                    };
                    let text = Some("only occupants can be asked by occupants");
                    self.room_refuse(hand, &stanza, condition, text);
                }
                return;
            };
            if nick == sender.nick && request && stanza.child(ns::PING, "ping").is_some() {
                // XEP-0410 §3.1: an occupant who pings itself is in the room.
                self.answer_with(hand, stanza.result_reply(None));
                return;
            }
            let Some(receiver) = room.occupants.get(nick) else {
                if request {
                    self.room_refuse(hand, &stanza, Condition::ItemNotFound, None);
                }
                return;
            };
            let mut asked = stanza;
            asked.from = room.address(&sender.nick);
            asked.to = String::new();
            let target = if request {
                if sender.main.session != origin.session {
                    asked.id = format!("{}/{}", tag(room.identity, origin.session), asked.id);
                }
                &receiver.main
            } else {
                asker(room.identity, receiver, &mut asked.id)
            };
            let mut broadcast = Broadcast::default();
            broadcast.add(asked, [target]);
            return self.room_emit_for(core, hand, &room_jid, broadcast);
        }
        if !request {
            return;
        }
        if let Some(query) = stanza.element(ns::MUC_OWNER, "query") {
            let owner = sender.is_some_and(|s| s.affiliation == Affiliation::Owner);
            return self.room_owner(core, hand, &room_jid, &stanza, owner.then_some(&query));
        }
        let asked = Asked {
            cause: Cause::Message(hand),
            target: IqTarget::Room,
            from: origin.jid,
            to,
            stanza,
        };
        self.ask_modules(core, asked);
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
