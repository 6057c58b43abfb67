//! The administrator's commands, as a process performs them.
//!
//! - [`types`]: arguments and answers, shared with the command line
//! - [`node`]: what every process answers; [`router`]: what a router answers
//! - [`users`]: accounts; [`sessions`]: sessions of all routers; [`status`]: how the cluster is

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

/// Reads a command's arguments; none at all stand for an empty object.
fn arguments<T: DeserializeOwned>(json: &str) -> Result<T, AdminError> {
    let json = if json.trim().is_empty() { "{}" } else { json };
    serde_json::from_str(json)
        .map_err(|error| AdminError::new("invalid-arguments", format!("the arguments: {error}")))
}

fn answer<T: Serialize>(value: &T) -> Result<String, AdminError> {
    serde_json::to_string(value).map_err(|error| AdminError::new("internal", error.to_string()))
}
