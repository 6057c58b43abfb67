//! The stanzas that the generator sends.

use crate::xml::tree::escape;

/// On WebSocket every stanza declares its namespace; on TCP the stream header does.
fn ns(websocket: bool) -> &'static str {
    if websocket {
        " xmlns='jabber:client'"
    } else {
        ""
    }
}

/// A message with a body.
#[must_use]
pub fn message(websocket: bool, kind: &str, to: &str, id: &str, body: &str) -> Vec<u8> {
    format!(
        "<message{} type='{kind}' to='{}' id='{}'><body>{}</body></message>",
        ns(websocket),
        escape(to),
        escape(id),
        escape(body)
    )
    .into_bytes()
}

/// Available presence without an address.
#[must_use]
pub fn available(websocket: bool) -> Vec<u8> {
    format!("<presence{}/>", ns(websocket)).into_bytes()
}

/// Presence for an address, with a status text.
#[must_use]
pub fn presence(websocket: bool, to: &str, status: &str) -> Vec<u8> {
    format!(
        "<presence{} to='{}'><status>{}</status></presence>",
        ns(websocket),
        escape(to),
        escape(status)
    )
    .into_bytes()
}

/// Joins a room; `history` is the number of requested old messages.
#[must_use]
pub fn join(websocket: bool, room: &str, nick: &str, history: u32) -> Vec<u8> {
    format!(
        "<presence{} to='{}/{}'><x xmlns='http://jabber.org/protocol/muc'>\
         <history maxstanzas='{history}'/></x></presence>",
        ns(websocket),
        escape(room),
        escape(nick)
    )
    .into_bytes()
}

/// Accepts the default configuration of a room that was just created, which unlocks it.
#[must_use]
pub fn instant_room(websocket: bool, room: &str, id: &str) -> Vec<u8> {
    format!(
        "<iq{} type='set' to='{}' id='{}'><query xmlns='http://jabber.org/protocol/muc#owner'>\
         <x xmlns='jabber:x:data' type='submit'/></query></iq>",
        ns(websocket),
        escape(room),
        escape(id)
    )
    .into_bytes()
}

/// A ping (XEP-0199).
#[must_use]
pub fn ping(websocket: bool, to: &str, id: &str) -> Vec<u8> {
    format!(
        "<iq{} type='get' to='{}' id='{}'><ping xmlns='urn:xmpp:ping'/></iq>",
        ns(websocket),
        escape(to),
        escape(id)
    )
    .into_bytes()
}
