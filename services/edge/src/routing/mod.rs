//! Lanes to the routers, and what comes in on them.
//!
//! - [`lane`]: one lane, kept open
//! - [`directory`]: the slot map, and a set of lanes to each router in it
//! - [`standing`]: the right of this edge to be one; [`lease`]: how it is renewed

pub(crate) mod directory;
pub(crate) mod lane;
pub(crate) mod lease;
pub(crate) mod standing;
