//! Which router owns which part of the keyspace, and how that changes.
//!
//! - [`slots`]: from an address to its slot (a wire contract)
//! - [`rendezvous`]: from a slot to the router that should own it
//! - [`slot_map`]: the published table, shared by all parts of a process
//! - [`plan`]: which slots to claim and to move, as a pure function
//! - [`reach`]: which process reaches which router
//! - [`lease`]: this process's own lease with both authorities; [`lease_health`]: how much is left
//!   of it
//! - [`alone`]: the lease authority of a process that is the whole system
//! - [`lease_storage`]: storage as a lease authority
//! - [`speaks`]: the version of the protocol between tiers that all processes know
//! - [`hand_over`]: changes of the table, and how an owner hands slots over
//! - [`timeline`]: the processes that must assert their slots after the database has lost commits
//! - [`claim`]: the planner's round, and fail-over

pub mod alone;
pub mod claim;
pub mod hand_over;
pub mod lease;
mod lease_deadline;
pub mod lease_health;
pub mod lease_storage;
pub mod plan;
pub mod reach;
pub mod rendezvous;
pub mod slot_map;
pub mod slots;
pub mod speaks;
pub mod timeline;
