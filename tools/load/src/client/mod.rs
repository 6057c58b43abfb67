//! A small XMPP client: streams over TCP, TLS and WebSocket, SASL, binding, stream management.
//!
//! `endpoint` says where and how to connect, `stream` moves elements, `login` goes from a fresh
//! stream to a bound one, `sasl` proves who we are, `sm` counts what XEP-0198 counts, `handle`
//! sends stanzas from any task, `archive` reads an archive page by page, `stanza` writes the XML.

pub mod archive;
pub mod endpoint;
pub mod handle;
pub mod login;
pub mod sasl;
pub mod sm;
pub mod stanza;
pub mod stream;
