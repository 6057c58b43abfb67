//! Stanzas as the server handles them: an envelope read once, and a payload left alone.
//!
//! RFC 6120 §8. [`Stanza`] is what the edge makes of the bytes of a client and what travels
//! between tiers; [`build`] makes new ones; [`error`] makes error answers (RFC 6120 §8.3).

pub mod build;
mod envelope;
pub mod error;

pub use envelope::{Child, Children, Kind, Stanza};
