//! A small XMPP client: streams over TCP, TLS and WebSocket, SASL, binding, stream management.
//!
//! `endpoint` has the server's address and transport, `stream` moves elements, `login` goes from a
//! new stream to a bound one, `sasl` authenticates, `sm` has the counts of XEP-0198, `handle` sends
//! stanzas from any task, `archive` reads an archive page by page, `stanza` writes the XML.

pub mod archive;
pub mod endpoint;
pub mod handle;
pub mod login;
pub mod sasl;
pub mod sm;
pub mod stanza;
pub mod stream;
