//! Lanes to the routers, and what comes in on them.
//!
//! - [`lane`]: one lane, kept open
//! - [`slots`]: for each slot its epoch, its owner, and the sessions that are held here
//! - [`directory`]: the slot map, and a set of lanes to each router in it
//! - [`turn`]: one batch of frames, worked in the thread that read it
//! - [`takeover`]: epochs, redirections, and what is sent again
//! - [`lease`]: the right of this edge to be one

pub(crate) mod directory;
pub(crate) mod lane;
pub(crate) mod lease;
pub(crate) mod slots;
pub(crate) mod takeover;
pub(crate) mod turn;
