//! Benchmarks: the same scenarios against any XMPP server and against the floors.
//!
//! `spec` is what a configuration file says, `open` makes sessions, `traffic` is what scenarios
//! with messages share, `chat`, `room`, `login`, `idle` and `overload` are the scenarios, `outcome`
//! is what one run found, `leases` reads metrics, `all` interleaves servers and repeats, `table`
//! prints.

pub mod all;
pub mod chat;
pub mod idle;
pub mod leases;
pub mod login;
pub mod open;
pub mod outcome;
pub mod overload;
mod overload_table;
pub mod room;
pub mod spec;
pub mod table;
pub mod traffic;
