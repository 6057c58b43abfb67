//! Benchmarks: the same scenarios against any XMPP server and against the floors.
//!
//! `spec` is what a configuration file says, `open` makes sessions, `traffic` is what scenarios
//! with messages share, `chat`, `room`, `login` and `idle` are the scenarios, `outcome` is what
//! one run found, `all` interleaves servers and repeats, `table` prints.

pub mod all;
pub mod chat;
pub mod idle;
pub mod login;
pub mod open;
pub mod outcome;
pub mod room;
pub mod spec;
pub mod table;
pub mod traffic;
