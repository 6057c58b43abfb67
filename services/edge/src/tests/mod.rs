//! Whole edges against scripted routers and real sockets.
#![allow(clippy::unwrap_used)]

mod anonymous;
mod client;
mod failed_logins;
mod flow;
mod held;
mod initiating;
mod lanes;
mod late;
mod login;
mod resume;
mod rig;
mod router;
mod strangers;
mod takeover;
mod telemetry;
mod tickets;
