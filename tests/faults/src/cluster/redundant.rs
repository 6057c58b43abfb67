//! A cluster is redundant when all its processes run, each slot is at its rendezvous owner, and two
//! processes hold each session and room: the next fault may come.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use sestina_cluster::rendezvous;

use super::Cluster;
use crate::process::Seen;
use crate::wait::until;

impl Cluster {
    /// Why the cluster is not redundant, if it is not.
    async fn missing(&mut self) -> Result<String> {
        for at in self.all() {
            let process = self.process(at);
            let seen = process.seen()?;
            if matches!(seen, Seen::Killed | Seen::Ended) {
                bail!("{} has ended: {seen:?}", process.name);
            }
        }
        let (edges, routers) = (self.edges.len(), self.routers.len());
        for router in &self.routers {
            let status = match router.ask("status", "").await {
                Ok(status) => status,
                Err(error) => return Ok(error.to_string()),
            };
            let missing = status["missing"].as_array().cloned().unwrap_or_default();
            if !missing.is_empty() {
                return Ok(format!("{}: {missing:?}", router.name));
            }
            let processes = status["processes"].as_array().map_or(0, Vec::len);
            if processes != edges + routers {
                return Ok(format!(
                    "{}: {processes} processes have a lease",
                    router.name
                ));
            }
        }
        if let Some(missing) = self.misplaced().await? {
            return Ok(missing);
        }
        for process in self.edges.iter().chain(&self.storages) {
            match process.ask("status", "").await {
                Ok(status) if status["ready"] == true => {}
                Ok(status) => return Ok(format!("{}: {}", process.name, status["reason"])),
                Err(error) => return Ok(error.to_string()),
            }
        }
        Ok(String::new())
    }

    /// How many slots are not at their rendezvous owner. The cluster is redundant even then, but
    /// the next fault must strike the owner of the slots in question.
    async fn misplaced(&self) -> Result<Option<String>> {
        let Some(router) = self.routers.first() else {
            return Ok(None);
        };
        let names: Vec<String> = self.routers.iter().map(|r| r.name.clone()).collect();
        let slots = match router.ask("slots", "").await {
            Ok(slots) => slots,
            Err(error) => return Ok(Some(error.to_string())),
        };
        let mut misplaced = 0;
        for range in slots["ranges"].as_array().into_iter().flatten() {
            let bound = |name: &str| range[name].as_u64().and_then(|n| u16::try_from(n).ok());
            let (first, last) = bound("first")
                .zip(bound("last"))
                .context("a range of slots")?;
            for slot in first..=last {
                let owner = rendezvous::owner(slot, &names).map(|at| names[at].as_str());
                misplaced += usize::from(range["owner"].as_str() != owner);
            }
        }
        Ok((misplaced > 0).then(|| format!("{misplaced} slots are not where they belong")))
    }

    /// Waits until every process runs and the cluster is redundant.
    pub async fn redundant(&mut self, limit: Duration) -> Result<()> {
        let mut broken = None;
        until("the cluster is redundant", limit, async || {
            match self.missing().await {
                Ok(missing) if missing.is_empty() => Ok(()),
                Ok(missing) => Err(missing),
                Err(error) => {
                    broken = Some(error);
                    Ok(())
                }
            }
        })
        .await?;
        broken.map_or(Ok(()), Err)
    }
}
