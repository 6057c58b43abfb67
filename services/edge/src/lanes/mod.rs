//! Lanes to the routers, and what comes in on them.
//!
//! - [`lane`]: one lane, kept open
//! - [`directory`]: the slot map, and a set of lanes to each router in it
//! - [`lease`]: the right of this edge to be one

pub(crate) mod directory;
pub(crate) mod lane;
pub(crate) mod lease;
