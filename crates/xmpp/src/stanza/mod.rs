//! Stanzas as the server handles them: an envelope read once, and a payload left alone.
//!
//! RFC 6120 §8. [`Stanza`] is what the edge makes of the bytes of a client and what travels
//! between tiers; [`build`] makes new ones; [`error`] makes error answers (RFC 6120 §8.3).

pub mod build;
pub mod error;
mod envelope;

pub use envelope::{Child, Children, Kind, Stanza};
