//! Load and checker for fault runs.
//!
//! Hundreds of sessions write numbered messages, resume by themselves when their socket breaks, and
//! note all stanzas that they send and get. At the end the notes are checked against the promises
//! of a server with stream management: an acknowledged message arrives once and in order, and is in
//! both archives once, in that order, under the delivered id.
//!
//! `config` is the configuration, `history` holds the notes, `checker` checks them without
//! knowledge of sockets, `world` is the state that all sessions share, `seen` has its notes beside
//! messages, `session` is one session with its reconnects, `receive` handles incoming stanzas,
//! `control` is the dialogue on standard input and output, `summary` turns times into figures.
//! `flood` and `abuse` are further clients that abuse the server.

pub mod abuse;
pub mod checker;
pub mod config;
pub mod control;
pub mod flood;
pub mod history;
pub mod receive;
pub mod seen;
pub mod session;
pub mod summary;
pub mod world;
