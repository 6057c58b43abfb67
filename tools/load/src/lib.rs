//! A load generator for XMPP servers, a benchmark driver, and a checker for fault runs.
//!
//! It depends on nothing of the server, on purpose: a mistake in the server's own understanding of
//! the protocol cannot hide here.

pub mod bench;
pub mod chaos;
pub mod cli;
pub mod client;
pub mod floor;
pub mod measure;
pub mod net;
pub mod rng;
pub mod smoke;
pub mod xml;
