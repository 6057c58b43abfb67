//! Which processes are alive. Both authorities are asked often; a process is gone when both say so.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use sestina_api::lease::LeaseAuthority;
use sestina_cluster::claim::united;
use sestina_proto as proto;
use tokio::sync::{Notify, watch};

use super::Shared;
use crate::worker::input::Input;

/// How often the authorities are asked.
const PERIOD: Duration = Duration::from_millis(300);
/// How long one may take to answer.
const LIMIT: Duration = Duration::from_millis(800);

/// Processes with a fresh lease, as last heard.
pub(super) struct Live {
    nodes: Mutex<HashMap<u64, proto::Node>>,
    changed: watch::Sender<u64>,
    /// Something has happened that the authorities know of.
    news: Notify,
}

impl Default for Live {
    fn default() -> Live {
        Live {
            nodes: Mutex::default(),
            changed: watch::Sender::new(0),
            news: Notify::new(),
        }
    }
}

impl Live {
    /// All live processes.
    pub(super) fn nodes(&self) -> Vec<proto::Node> {
        self.nodes.lock().values().cloned().collect()
    }

    /// Whether that process had a fresh lease when it was last asked.
    pub(super) fn has(&self, incarnation: u64) -> bool {
        self.nodes.lock().contains_key(&incarnation)
    }

    /// A process has just renewed its lease: if what it says of itself is news, the authorities are
    /// asked at once.
    pub(super) fn heard_of(&self, node: &proto::Node) {
        if self.nodes.lock().get(&node.incarnation) != Some(node) {
            self.news.notify_one();
        }
    }

    /// Changes whenever the set of live processes does.
    pub(super) fn subscribe(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }
}

impl Shared {
    /// Returns once there has been no process for a while that could take slots.
    pub(super) async fn alone(&self) {
        let mut changes = self.live.subscribe();
        loop {
            let others = self.live.nodes().into_iter().any(|node| {
                node.role() == proto::NodeRole::Router
                    && node.incarnation != self.node.incarnation
                    && !node.draining
            });
            let change = changes.changed();
            let changed = if others {
                change.await.is_ok()
            } else {
                match tokio::time::timeout(super::ALONE, change).await {
                    Ok(changed) => changed.is_ok(),
                    Err(_) => return,
                }
            };
            if !changed {
                return std::future::pending().await;
            }
        }
    }

    /// Tells the workers which tables the other processes have installed.
    fn tell_installed(&self) {
        let nodes = self.live.nodes.lock();
        let installed = nodes
            .values()
            .map(|node| (node.incarnation, node.installed.unwrap_or_default()));
        let installed: Arc<[(u64, proto::Position)]> = installed.collect();
        drop(nodes);
        self.mailboxes.tell_all(|| Input::Installed {
            installed: installed.clone(),
        });
    }

    /// Tells the workers that a process is gone for good.
    pub(super) fn tell_gone(&self, incarnation: u64) {
        self.mailboxes.tell_all(|| Input::NodeGone { incarnation });
    }
}

/// The live processes by both authorities, or none if neither answers. The flag says that both did.
pub(super) async fn ask(shared: &Shared) -> Option<(HashMap<u64, proto::Node>, bool)> {
    let (state_store, storage) = tokio::join!(
        fresh(&*shared.ports.state_store_leases),
        fresh(&*shared.ports.storage_leases)
    );
    let complete = state_store.is_some() && storage.is_some();
    if state_store.is_none() && storage.is_none() {
        return None;
    }
    let nodes = united(
        &state_store.unwrap_or_default(),
        &storage.unwrap_or_default(),
    );
    let nodes = nodes.into_iter().map(|node| (node.incarnation, node));
    Some((nodes.collect(), complete))
}

async fn fresh(authority: &dyn LeaseAuthority) -> Option<Vec<proto::Node>> {
    let nodes = tokio::time::timeout(LIMIT, authority.fresh())
        .await
        .ok()?
        .ok()?;
    Some(nodes.into_iter().map(|(node, _)| node).collect())
}

pub(super) async fn run(shared: Arc<Shared>) {
    let token = shared.tasks.token();
    tokio::select! {
        () = token.cancelled() => return,
        // Whether it has a lease or has lost it: what matters is in the answers.
        _ = shared.lease.wait_serving() => {}
    }
    loop {
        refresh(&shared).await;
        tokio::select! {
            () = token.cancelled() => return,
            () = tokio::time::sleep(PERIOD) => {}
            () = shared.live.news.notified() => {}
        }
    }
}

/// Asks, and tells the workers of processes that are gone.
pub(super) async fn refresh(shared: &Shared) -> bool {
    let Some((now, complete)) = ask(shared).await else {
        return false;
    };
    shared.note_versions(&now, complete);
    let mut gone = Vec::new();
    let mut changed = false;
    {
        let mut nodes = shared.live.nodes.lock();
        if complete {
            nodes.retain(|incarnation, node| {
                let alive = now.contains_key(incarnation);
                if !alive {
                    gone.push(node.clone());
                }
                alive
            });
        }
        for (incarnation, node) in now {
            let before = nodes.insert(incarnation, node.clone());
            // Each new table is reported as installed: that alone is no news.
            changed |= before.is_none_or(|mut before| {
                before.installed = node.installed;
                before != node
            });
        }
    }
    for node in &gone {
        if node.incarnation == shared.node.incarnation {
            continue;
        }
        tracing::info!(
            name = node.name,
            role = node.role,
            "the lease of a process has ended"
        );
        shared.note_mismatch(node.incarnation, false);
        shared.proved.forget(node.incarnation);
        shared.tell_gone(node.incarnation);
    }
    if changed || !gone.is_empty() {
        shared.live.changed.send_modify(|version| *version += 1);
    }
    shared.tell_installed();
    true
}
