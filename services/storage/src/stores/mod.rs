//! One module per store; each offers its operations twice, in `pg` and in `lite`, alike.
//!
//! - `account`: accounts and SCRAM keys
//! - `archive`: archives (XEP-0313)
//! - `offline`: offline messages (XEP-0160)
//! - `entity_data`: data of modules about users, rooms and nodes, with answers for replays
//! - `replica`: sessions and rooms of a process that was stopped
//! - `lease`, `slots`, `secret`, `ticket_keys`: what the cluster shares; `identity`: which cluster it is
//! - `versions`: which versions of the protocol between tiers the processes speak; `format`: in which
//!   format the database is written
//! - `maintain`: pruning
//! - `check`: what all requests must satisfy
//! - `page`: pages that are bounded in bytes

pub(crate) mod account;
pub(crate) mod archive;
pub(crate) mod check;
pub(crate) mod entity_data;
pub(crate) mod format;
pub(crate) mod identity;
pub(crate) mod lease;
pub(crate) mod lease_clock;
pub(crate) mod maintain;
pub(crate) mod offline;
pub(crate) mod page;
pub(crate) mod replica;
pub(crate) mod secret;
pub(crate) mod slots;
pub(crate) mod ticket_keys;
pub(crate) mod versions;

pub(crate) use check::{checked, host_of, instant, key_bytes, key_of, number, stanza_bytes};
pub(crate) use page::fits;
