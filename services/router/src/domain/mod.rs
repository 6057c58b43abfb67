//! What an XMPP server decides, as pure types: no type here knows how it is stored, replicated or sent. Each takes a
//! stanza and returns what is to happen; the slot that owns it does that.

pub(crate) mod room;
