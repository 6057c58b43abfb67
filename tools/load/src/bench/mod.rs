//! Benchmarks: the same scenarios against any XMPP server and against the floors.
//!
//! `spec` has the configuration, `open` opens sessions, `traffic` is the common part of scenarios
//! with messages, `chat`, `room`, `login`, `idle` and `overload` are the scenarios, `outcome` is
//! the result of one run, `leases` reads metrics, `all` interleaves servers and repeats, `table`
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
