//! Whole edges against scripted routers and real sockets.
#![allow(clippy::unwrap_used)]

mod client;
mod flow;
mod login;
mod resume;
mod rig;
mod router;
mod takeover;
mod telemetry;
