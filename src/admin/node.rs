//! The commands that every process answers.

use std::sync::Arc;

use async_trait::async_trait;
use sestina_api::admin::{AdminError, AdminHandler};
use sestina_config::Config;
use sestina_proto::versions::Range;
use sestina_runtime::failpoint;
use sestina_telemetry::http::Ready;

use super::types::{Failpoint, FailpointArm, FailpointRef, Failpoints, NodeStatus};
use super::{answer, arguments};

/// The commands of an edge or a storage process.
pub struct NodeAdmin {
    name: String,
    role: &'static str,
    ready: Ready,
    speaks: Speaks,
}

/// Returns the version of the protocol between tiers that the cluster speaks; 0: not known.
pub type Speaks = Box<dyn Fn() -> u32 + Send + Sync>;

impl NodeAdmin {
    /// The commands for a process of this role.
    pub fn new(
        config: &Config,
        role: &'static str,
        ready: Ready,
        speaks: Speaks,
    ) -> Arc<NodeAdmin> {
        Arc::new(NodeAdmin {
            name: config.node.name.clone(),
            role,
            ready,
            speaks,
        })
    }

    fn status(&self) -> NodeStatus {
        let reason = (self.ready)().err().unwrap_or_default();
        let Range { oldest, newest } = Range::ours();
        NodeStatus {
            name: self.name.clone(),
            role: self.role.to_owned(),
            program: env!("CARGO_PKG_VERSION").to_owned(),
            oldest,
            newest,
            speaks: (self.speaks)(),
            ready: reason.is_empty(),
            reason,
        }
    }
}

#[async_trait]
impl AdminHandler for NodeAdmin {
    async fn call(&self, command: &str, json: &str) -> Result<String, AdminError> {
        if let Some(done) = fail_points(command, json) {
            return done;
        }
        match command {
            "status" => answer(&self.status()),
            "user.add" | "user.passwd" | "user.list" | "user.show" | "user.disable"
            | "user.enable" | "user.delete" | "sessions.list" | "sessions.close" | "slots" => {
                let text = format!("this is an {} process; ask a router", self.role);
                Err(AdminError::new(
                    "wrong-tier",
                    text.replace("an storage", "a storage"),
                ))
            }
            _ => Err(AdminError::unknown_command(command)),
        }
    }
}

/// The commands about fail points, which every process has, for tests.
pub(super) fn fail_points(command: &str, json: &str) -> Option<Result<String, AdminError>> {
    let invalid =
        |error: failpoint::FailpointError| AdminError::new("invalid-arguments", error.to_string());
    Some(match command {
        "failpoint.arm" => arguments::<FailpointArm>(json)
            .and_then(|arm| failpoint::arm_all(&arm.points).map_err(invalid))
            .and_then(|()| answer(&list())),
        "failpoint.disarm" => arguments::<FailpointRef>(json)
            .and_then(|point| failpoint::disarm(&point.name).map_err(invalid))
            .and_then(|()| answer(&list())),
        "failpoint.list" => answer(&list()),
        _ => return None,
    })
}

fn list() -> Failpoints {
    let armed = failpoint::armed();
    let points = failpoint::NAMES.iter().map(|(name, what)| {
        let armed = armed.iter().find(|(armed, ..)| armed == name);
        Failpoint {
            name: (*name).to_owned(),
            what: (*what).to_owned(),
            action: armed.map(|(_, action, _)| action.to_string()),
            hits: armed.map_or(0, |(_, _, hits)| *hits),
        }
    });
    Failpoints {
        points: points.collect(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// A later version's administrator or router sends a command that this version does not know.
    #[tokio::test]
    async fn unknown_commands_and_arguments_are_refused_by_name() {
        let ready: Ready = Arc::new(|| Ok(()));
        let node = NodeAdmin::new(&Config::default(), "edge", ready, Box::new(|| 1));
        let error = node.call("edge.paint", "").await.unwrap_err();
        assert_eq!(error.code, "unknown-command");
        assert!(error.text.contains("edge.paint"), "{error:?}");
        let error = node
            .call("failpoint.disarm", r#"{"name":"edge.acked","after":1}"#)
            .await
            .unwrap_err();
        assert_eq!(error.code, "invalid-arguments");
        assert!(error.text.contains("after"), "{error:?}");
    }
}
