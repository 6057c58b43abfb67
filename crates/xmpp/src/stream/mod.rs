//! The elements of a stream other than stanzas.
//!
//! - [`header`]: opening and closing, over TCP (RFC 6120 §4.7) and WebSocket (RFC 7395 §3.3)
//! - [`StreamCondition`], [`error`]: stream errors (RFC 6120 §4.9)
//! - [`features`]: stream features (RFC 6120 §4.3.2)
//! - [`negotiation`]: STARTTLS and SASL answers (RFC 6120 §5, §6)
//! - [`sm`]: stream management elements (XEP-0198)
//!
//! All functions append to a `Vec<u8>`; values are escaped.

mod condition;
pub mod error;
pub mod features;
pub mod header;
pub mod negotiation;
pub mod sm;
#[cfg(test)]
mod tests;

pub use condition::StreamCondition;
pub use features::Features;
pub use header::{Framing, Header};
