//! Stanzas in the server: an envelope that is parsed once, and an unparsed payload.
//!
//! RFC 6120 §8. The edge makes a [`Stanza`] of the bytes of a client, and tiers send it to each
//! other; [`build`] makes new ones; [`error`] makes error answers (RFC 6120 §8.3).

pub mod build;
mod envelope;
pub mod error;

pub use envelope::{Child, Children, Kind, Stanza};
