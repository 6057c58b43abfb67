//! Load and checker for fault runs.
//!
//! Hundreds of sessions write numbered messages, resume by themselves when their socket breaks,
//! and note all that they send and get. In the end the notes are checked against what a server
//! with stream management promises: what it acknowledged arrives once and in order, and stands
//! in both archives once, in that order, under the id that was delivered.
//!
//! `config` says what to run, `history` holds the notes, `checker` judges them (and knows nothing
//! of sockets), `world` is what all sessions share
//! and `seen` what they note in it beside messages, `session` is one session with its
//! reconnects, `receive` is what it does with what comes, `control` is the dialogue on standard
//! input and output, `summary` turns times into figures. `flood` and `abuse` are more clients, who
//! do what nobody should.

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
