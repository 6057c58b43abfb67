//! Who owns which part of the keyspace, and how that changes.
//!
//! - [`slots`]: from an address to its slot (a wire contract)
//! - [`rendezvous`]: from a slot to the router that should own it
//! - [`slot_map`]: the published table, shared by all parts of a process
//! - [`plan`]: what to claim and what to move, as a pure function
//! - [`lease`]: this process's own lease with both authorities
//! - [`lease_storage`]: storage as a lease authority
//! - [`claim`]: the fail-over procedure and the planner's round

pub mod claim;
pub mod lease;
pub mod lease_storage;
pub mod plan;
pub mod rendezvous;
pub mod slot_map;
pub mod slots;
