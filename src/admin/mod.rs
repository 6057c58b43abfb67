//! The administrator's commands, as performed by a server process.
//!
//! - [`types`]: arguments and answers, shared with the command line
//! - [`node`]: the commands that every process answers; [`router`]: those of a router
//! - [`users`]: accounts; [`sessions`]: sessions of all routers; [`status`]: the state of the
//!   cluster

pub mod node;
pub mod router;
pub mod sessions;
pub mod status;
pub mod types;
pub mod users;

pub use node::NodeAdmin;
pub use router::{Alone, RouterAdmin};

use serde::Serialize;
use serde::de::DeserializeOwned;
use sestina_api::admin::AdminError;

/// Parses a command's arguments; no text counts as an empty object.
fn arguments<T: DeserializeOwned>(json: &str) -> Result<T, AdminError> {
    let json = if json.trim().is_empty() { "{}" } else { json };
    serde_json::from_str(json)
        .map_err(|error| AdminError::new("invalid-arguments", format!("the arguments: {error}")))
}

fn answer<T: Serialize>(value: &T) -> Result<String, AdminError> {
    serde_json::to_string(value).map_err(|error| AdminError::new("internal", error.to_string()))
}
