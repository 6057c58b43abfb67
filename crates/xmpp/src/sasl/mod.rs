//! SASL for XMPP (RFC 6120 §6), without I/O: the server's side of every mechanism, and the
//! client's side of SCRAM.
//!
//! - [`mechanism`]: their names
//! - [`failure`]: failure conditions (RFC 6120 §6.5)
//! - [`wire`]: base64 as XMPP uses it (RFC 6120 §6.4.2)
//! - [`keys`]: salted SCRAM keys, password checks, fake keys of unknown users
//! - `saslprep`: preparation of passwords before they are hashed (RFC 4013)
//! - [`channel_binding`]: types of channel binding (RFC 5929, RFC 9266)
//! - [`scram`]: SCRAM-SHA-1, SCRAM-SHA-256 and their -PLUS forms (RFC 5802, RFC 7677)
//! - [`plain`]: the PLAIN mechanism (RFC 4616)
//! - [`anonymous`]: the ANONYMOUS mechanism (RFC 4505)

pub mod anonymous;
pub mod channel_binding;
pub mod failure;
pub mod keys;
pub mod mechanism;
pub mod plain;
mod saslprep;
pub mod scram;
pub mod wire;

pub use channel_binding::{BindingType, ChannelBinding};
pub use failure::SaslFailure;
pub use mechanism::{Hash, Mechanism};
