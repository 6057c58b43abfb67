//! The XMPP protocol, pure: no sockets, no clock, no tasks.
//!
//! - [`jid`]: XMPP addresses (RFC 7622 / RFC 6122)
//! - [`precis`]: resources and nicknames in today's Unicode (RFC 8264 to RFC 8266)
//! - [`xml`]: strict checking, framing, writing, small element trees
//! - [`stanza`]: envelopes, builders, errors (RFC 6120 §8)
//! - [`stream`]: stream headers, features and stream errors (RFC 6120 §4, RFC 7395)
//! - [`sasl`]: the SASL mechanisms (RFC 4422, RFC 5802, RFC 7677)
//! - [`ext`]: one file for each XEP

pub mod ext;
pub mod jid;
pub mod ns;
pub mod precis;
pub mod sasl;
pub mod stanza;
pub mod stream;
pub mod xml;
