//! A load generator for XMPP servers, a benchmark driver, and a checker for fault runs.
//!
//! It depends on no crate of the server, so that an error in the server's own understanding of the
//! protocol cannot stay hidden here.

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
