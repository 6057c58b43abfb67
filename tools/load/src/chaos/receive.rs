//! The handling of stanzas that a session receives.

use std::collections::HashSet;
use std::time::Instant;

use anyhow::Result;
use tokio::sync::oneshot;

use super::history::MessageId;
use super::world::World;
use crate::client::archive::{Item, Progress, Query};
use crate::client::handle::Handle;
use crate::client::stanza;
use crate::client::stream::condition;
use crate::xml::tree::{Element, escape};

const CLIENT: &str = "jabber:client";
const STANZA_ID: &str = "urn:xmpp:sid:0";
const MUC_USER: &str = "http://jabber.org/protocol/muc#user";

/// The conversation of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// With one other session.
    Peer {
        /// Its bare JID.
        to: String,
    },
    /// In a room.
    Room {
        /// Its JID.
        room: String,
        /// The session's nick there.
        nick: String,
        /// Number of the conversation.
        conversation: usize,
        /// How many members there are.
        size: usize,
    },
    /// None: a session that was left over.
    Nowhere,
}

/// A read of the archive under way.
#[derive(Debug)]
pub struct ArchiveJob {
    /// The query.
    pub query: Query,
    /// When it began.
    pub since: Instant,
    /// Waits for the result; none for reads that are part of the load.
    pub reply: Option<oneshot::Sender<Result<Vec<Item>, String>>>,
}

/// The state that incoming stanzas change.
#[derive(Debug)]
pub struct Receiver {
    /// Number of the session.
    pub index: usize,
    /// The session's bare JID.
    pub bare: String,
    /// The session's conversation.
    pub place: Place,
    /// Nicks seen in the room.
    pub occupants: HashSet<String>,
    /// Bound and, if there is a room, joined.
    pub present: bool,
    /// The read of the archive under way.
    pub archive: Option<ArchiveJob>,
}

/// Text of message `n` of session `sender` in this run.
#[must_use]
pub fn body(run: &str, id: MessageId, padding: usize) -> String {
    format!("{run} {} {} {}", id.sender, id.n, "x".repeat(padding))
}

/// The message that a text of this run names.
#[must_use]
pub fn parse_body(run: &str, text: &str) -> Option<MessageId> {
    let mut words = text.split(' ');
    if words.next() != Some(run) {
        return None;
    }
    Some(MessageId {
        sender: words.next()?.parse().ok()?,
        n: words.next()?.parse().ok()?,
    })
}

impl Receiver {
    /// Handles a stanza that was counted already.
    ///
    /// # Errors
    /// When an answer cannot be sent or the stanza is malformed.
    pub fn stanza(&mut self, world: &World, handle: &Handle, bytes: &[u8], ws: bool) -> Result<()> {
        let element = Element::parse(bytes, CLIENT)?;
        if self.archive(world, handle, &element)? {
            return Ok(());
        }
        match element.name.as_str() {
            "message" => self.message(world, &element),
            "presence" => self.presence(world, handle, &element, ws)?,
            "iq" => self.iq(world, handle, &element, ws)?,
            _ => {}
        }
        Ok(())
    }

    fn archive(&mut self, world: &World, handle: &Handle, element: &Element) -> Result<bool> {
        let Some(job) = &mut self.archive else {
            return Ok(false);
        };
        let done = match job.query.incoming(element) {
            Ok(Progress::NotMine) => return Ok(false),
            Ok(Progress::More) => return Ok(true),
            Ok(Progress::Ask(request)) => {
                job.since = Instant::now();
                handle.send(&request, None)?;
                return Ok(true);
            }
            Ok(Progress::Done(items)) => Ok(items),
            Err(error) => Err(format!("{error:#}")),
        };
        self.finish_archive(world, done);
        Ok(true)
    }

    /// Ends the read of the archive that is under way, if one is.
    pub fn finish_archive(&mut self, world: &World, result: Result<Vec<Item>, String>) {
        let Some(job) = self.archive.take() else {
            return;
        };
        match job.reply {
            // The requester may have given up.
            Some(reply) => drop(reply.send(result)),
            None => world.archive_read(result.err().as_deref()),
        }
    }

    fn message(&mut self, world: &World, element: &Element) {
        if element.attribute("type") == Some("error") {
            let id = element
                .attribute("id")
                .and_then(|id| parse_body(&world.run, id));
            if let Some(id) = id {
                let error = element.child("error", CLIENT);
                let error = error.map_or_else(|| "no condition".to_owned(), condition);
                world.bounced(id, &error);
            }
            return;
        }
        let Some(body) = element.child("body", CLIENT) else {
            return;
        };
        let Some(id) = parse_body(&world.run, &body.text) else {
            return;
        };
        let stanza_id = element
            .children
            .iter()
            .filter(|child| child.is("stanza-id", STANZA_ID))
            .find(|child| child.attribute("by") == Some(&self.bare))
            .and_then(|child| child.attribute("id"));
        world.delivered(self.index, id, stanza_id.map(Into::into));
    }

    fn presence(
        &mut self,
        world: &World,
        handle: &Handle,
        element: &Element,
        ws: bool,
    ) -> Result<()> {
        let Place::Room {
            room,
            nick,
            conversation,
            size,
        } = &self.place
        else {
            return Ok(());
        };
        let Some((from, who)) = element
            .attribute("from")
            .and_then(|from| from.split_once('/'))
        else {
            return Ok(());
        };
        if from != room {
            return Ok(());
        }
        match element.attribute("type") {
            Some("unavailable") if who == nick => {
                self.present = false;
                self.occupants.clear();
                world.evicted(self.index);
                handle.send(&stanza::join(ws, room, nick, 0), None)?;
            }
            Some("unavailable") => {
                self.occupants.remove(who);
                world.leave_seen(self.index, who);
            }
            Some(_) => anyhow::bail!(
                "the room refused: {}",
                element
                    .child("error", CLIENT)
                    .map(condition)
                    .unwrap_or_default()
            ),
            None => {
                self.occupants.insert(who.to_owned());
                let codes: Vec<&str> = element
                    .child("x", MUC_USER)
                    .into_iter()
                    .flat_map(|x| &x.children)
                    .filter(|child| child.name == "status")
                    .filter_map(|status| status.attribute("code"))
                    .collect();
                if codes.contains(&"110") {
                    self.present = true;
                    world.present_again(self.index, world.now());
                    if codes.contains(&"201") {
                        handle.send(&stanza::instant_room(ws, room, "unlock"), None)?;
                    } else {
                        world.room_open(*conversation);
                    }
                }
                if self.present && self.occupants.len() >= *size {
                    world.ready(self.index);
                }
            }
        }
        Ok(())
    }

    fn iq(&mut self, world: &World, handle: &Handle, element: &Element, ws: bool) -> Result<()> {
        let id = element.attribute("id").unwrap_or_default();
        match element.attribute("type") {
            Some("get" | "set") => {
                let to = element
                    .attribute("from")
                    .map(|from| format!(" to='{}'", escape(from)));
                let to = to.unwrap_or_default();
                let ns = if ws { " xmlns='jabber:client'" } else { "" };
                let answer = if element.child("ping", "urn:xmpp:ping").is_some() {
                    format!("<iq{ns} type='result'{to} id='{}'/>", escape(id))
                } else {
                    format!(
                        "<iq{ns} type='error'{to} id='{}'><error type='cancel'>\
                         <service-unavailable xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/>\
                         </error></iq>",
                        escape(id)
                    )
                };
                handle.send(answer.as_bytes(), None)?;
            }
            _ if id == "unlock" => {
                if let Place::Room { conversation, .. } = &self.place {
                    world.room_open(*conversation);
                }
            }
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_name_their_message_and_other_runs_are_ignored() {
        let id = MessageId { sender: 17, n: 4 };
        assert_eq!(parse_body("ab", &body("ab", id, 9)), Some(id));
        assert_eq!(parse_body("cd", &body("ab", id, 9)), None);
        assert_eq!(parse_body("ab", "ab x 4"), None);
        assert_eq!(parse_body("ab", ""), None);
    }
}
