//! The versions of the protocol between tiers: the one that the whole cluster speaks, the one of each
//! lane, and the processes that are refused because there is none in common.

use std::collections::HashMap;
use std::time::Instant;

use parking_lot::Mutex;
use sestina_api::link::LinkError;
use sestina_cluster::speaks::Speaks;
use sestina_proto as proto;
use sestina_proto::versions::{NoCommon, Range, admits};
use sestina_runtime::logged::Logged;

use super::Shared;

/// The versions that this router knows of.
#[derive(Default)]
pub(super) struct Versions {
    speaks: Mutex<Speaks>,
    /// The refusals that are in the log.
    refused: Logged,
}

impl Shared {
    /// The version that the cluster speaks.
    pub(crate) fn speaks(&self) -> u32 {
        self.versions.speaks.lock().version()
    }

    /// The version that a lane with that process speaks.
    pub(super) fn lane_version(&self, who: &proto::Node, theirs: Range) -> Result<u32, LinkError> {
        let version = Range::ours().with(&self.node.name, &who.name, theirs);
        let version = version.map_err(|error| self.refuse(&who.name, &error))?;
        tracing::debug!(peer = who.name, version, "a lane is opened");
        Ok(version)
    }

    /// Whether a process that asks for a lease for the first time can work with all others.
    pub(super) fn admits(&self, who: &proto::Node) -> Result<(), LinkError> {
        if self.live.has(who.incarnation) {
            return Ok(());
        }
        let live = self.live.nodes();
        let all = live.iter().chain([&self.node]);
        admits(who, all).map_err(|error| self.refuse(&who.name, &error))
    }

    fn refuse(&self, who: &str, error: &NoCommon) -> LinkError {
        if self.versions.refused.is_first(error.to_string()) {
            tracing::warn!(peer = who, %error, "refused a process of another version");
        }
        LinkError::Refused {
            peer: self.node.name.clone(),
            reason: error.to_string(),
        }
    }

    /// Takes note of the processes that hold a lease.
    pub(super) fn note_versions(&self, live: &HashMap<u64, proto::Node>, complete: bool) {
        let mut speaks = self.versions.speaks.lock();
        if let Some(version) = speaks.note(live.values(), complete, Instant::now()) {
            tracing::info!(
                version,
                "the cluster speaks another version between its tiers"
            );
        }
        self.metrics
            .protocol_version
            .set(i64::from(speaks.version()));
    }
}
