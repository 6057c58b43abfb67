//! What crosses a tier: traits with two implementations each (direct call and gRPC).
//!
//! The frames themselves are the types of `sestina-proto`: a lane moves them as they are in one
//! process, and encodes them between processes. So there is one vocabulary, and nothing to keep
//! in step.
//!
//! - [`link`]: edge and router
//! - [`peer`]: router and router
//! - [`store`]: router and storage
//! - [`state_store`]: router and Redis (or memory): live state that must survive the owner
//! - [`lease`]: the two authorities on who is alive; [`identity`]: what proves an incarnation
//! - [`key`]: idempotency keys
//! - [`admin`]: the administrator's commands

pub mod admin;
pub mod identity;
pub mod key;
pub mod lease;
pub mod link;
pub mod peer;
pub mod state_store;
pub mod store;
