//! The commands of a router: all commands.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use sestina_api::admin::{AdminError, AdminHandler};
use sestina_api::store::Stores;
use sestina_cluster::slot_map::{SlotTable, same};
use sestina_cluster::slots::SLOTS;
use sestina_config::Config;
use sestina_edge::Edge;
use sestina_proto as proto;
use sestina_rpc::{AdminClient, Dialer};
use sestina_runtime::CancellationToken;
use sestina_storage::Storage;
use sestina_telemetry::Metrics;

use super::node::fail_points;
use super::types::{SlotOwner, SlotRange, Slots, StatusQuery};
use super::{answer, arguments};
use crate::serve::cell::{RouterCell, Running};

/// How often the metric `redundant` is updated.
const WHOLE_EVERY: Duration = Duration::from_secs(2);
/// How long another router may take for its part of an answer.
const PEER_LIMIT: Duration = Duration::from_secs(3);

/// The commands that routers send each other, each for its part of an answer.
pub const AMONG_ROUTERS: &[&str] = &["status", "sessions.list", "sessions.close"];
/// The most connections to other routers that are kept for later requests.
const CLIENTS: usize = 64;

/// The commands of a router, or of a process with all tiers.
pub struct RouterAdmin {
    pub(super) config: Config,
    pub(super) cell: RouterCell,
    pub(super) stores: Arc<dyn Stores>,
    /// Connects to the other routers; none in a single process.
    dialer: Option<Arc<Dialer>>,
    /// The other tiers, if this process is the whole system.
    pub(super) alone: Option<Alone>,
    metrics: Arc<Metrics>,
    /// By address: a new connection for each request would cost a handshake.
    clients: Mutex<HashMap<String, Arc<AdminClient>>>,
}

/// The other tiers of a process that is the whole system.
pub struct Alone {
    /// The edge.
    pub edge: Arc<Edge>,
    /// The database.
    pub storage: Arc<Storage>,
}

impl RouterAdmin {
    /// Commands for the router in this cell.
    pub fn new(
        config: &Config,
        cell: RouterCell,
        stores: Arc<dyn Stores>,
        dialer: Option<Arc<Dialer>>,
        alone: Option<Alone>,
        metrics: Arc<Metrics>,
    ) -> Arc<RouterAdmin> {
        Arc::new(RouterAdmin {
            config: config.clone(),
            cell,
            stores,
            dialer,
            alone,
            metrics,
            clients: Mutex::default(),
        })
    }

    /// Keeps the metric `redundant` up to date.
    pub async fn watch_redundant(self: Arc<Self>, stop: CancellationToken) {
        let mut last = None;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(WHOLE_EVERY) => {}
            }
            let (redundant, missing) = match self.status().await {
                Ok(status) => (status.redundant, status.missing),
                Err(error) => (false, vec![error.text]),
            };
            self.metrics.redundant.set(i64::from(redundant));
            if last != Some(redundant) {
                if redundant {
                    tracing::info!("the cluster is redundant");
                } else if last.is_some() {
                    tracing::warn!(missing = missing.join("; "), "the cluster is not redundant");
                }
                last = Some(redundant);
            }
        }
    }

    pub(super) fn running(&self) -> Result<Running, AdminError> {
        self.cell.get().ok_or_else(|| {
            let why = self.cell.ready().err().unwrap_or_default();
            AdminError::new("away", format!("{why}, try again in a moment"))
        })
    }

    /// Sends a request to all other live routers; also returns the names of those that did not
    /// answer.
    pub(super) async fn ask_others(
        &self,
        running: &Running,
        command: &str,
        json: &str,
    ) -> (Vec<String>, Vec<String>) {
        let Some(dialer) = &self.dialer else {
            return (Vec::new(), Vec::new());
        };
        let mut questions = Vec::new();
        for node in running.router.live() {
            if node.role() != proto::NodeRole::Router || same(&node, &running.node) {
                continue;
            }
            let client = self.client(dialer, &node.address);
            let (command, json) = (command.to_owned(), json.to_owned());
            questions.push(async move {
                let asked = async { client?.call(&command, &json).await };
                match tokio::time::timeout(PEER_LIMIT, asked).await {
                    Ok(Ok(json)) => Ok(json),
                    Ok(Err(error)) => Err(format!("router {}: {error}", node.name)),
                    Err(_) => Err(format!("router {} did not answer in time", node.name)),
                }
            });
        }
        // All at once, so that several unavailable routers cost only one time-out.
        let asked: Vec<_> = questions.into_iter().map(tokio::spawn).collect();
        let (mut answers, mut missing) = (Vec::new(), Vec::new());
        for question in asked {
            match question.await {
                Ok(Ok(json)) => answers.push(json),
                Ok(Err(why)) => missing.push(why),
                Err(error) => missing.push(error.to_string()),
            }
        }
        (answers, missing)
    }

    /// The connection to that router. It connects at its first use, and again after it broke.
    fn client(&self, dialer: &Arc<Dialer>, address: &str) -> Result<Arc<AdminClient>, AdminError> {
        let mut clients = self.clients.lock();
        if let Some(client) = clients.get(address) {
            return Ok(client.clone());
        }
        let target = address
            .parse()
            .map_err(|error: sestina_rpc::RpcError| AdminError::new("away", error.to_string()))?;
        let client = Arc::new(AdminClient::connect(dialer, &target)?);
        if clients.len() >= CLIENTS {
            clients.clear();
        }
        clients.insert(address.to_owned(), client.clone());
        Ok(client)
    }
}

#[async_trait]
impl AdminHandler for RouterAdmin {
    async fn call(&self, command: &str, json: &str) -> Result<String, AdminError> {
        if let Some(done) = fail_points(command, json) {
            return done;
        }
        match command {
            "user.add" => answer(&self.user_add(arguments(json)?).await?),
            "user.passwd" => answer(&self.user_passwd(arguments(json)?).await?),
            "user.list" => answer(&self.user_list(arguments(json)?).await?),
            "user.show" => answer(&self.user_show(arguments(json)?).await?),
            "user.disable" => answer(&self.user_disable(arguments(json)?, true).await?),
            "user.enable" => answer(&self.user_disable(arguments(json)?, false).await?),
            "user.delete" => answer(&self.user_delete(arguments(json)?).await?),
            "sessions.list" => answer(&self.sessions_list(arguments(json)?).await?),
            "sessions.close" => answer(&self.sessions_close(arguments(json)?).await?),
            "slots" => answer(&slots(&self.running()?.router.table())),
            "status" => {
                let query: StatusQuery = arguments(json)?;
                if query.local {
                    answer(&super::status::local(&self.running()?).await)
                } else {
                    answer(&self.status().await?)
                }
            }
            _ => Err(AdminError::unknown_command(command)),
        }
    }
}

/// The slot table in the form for people.
pub fn slots(table: &SlotTable) -> Slots {
    let mut ranges: Vec<SlotRange> = Vec::new();
    let mut owned: BTreeMap<(String, u64), (String, usize)> = BTreeMap::new();
    let (mut unowned, mut last) = (0, None);
    for slot in (0..SLOTS).filter_map(|slot| u16::try_from(slot).ok()) {
        let owner = table.owner(slot);
        match owner {
            Some(node) => {
                let key = (node.name.clone(), node.incarnation);
                owned.entry(key).or_insert((node.address.clone(), 0)).1 += 1;
            }
            None => unowned += 1,
        }
        let id = owner.map(|node| node.incarnation);
        match ranges.last_mut() {
            Some(range) if last == Some(id) => range.last = slot,
            _ => {
                let owner = owner.map(|node| node.name.clone());
                ranges.push(SlotRange {
                    first: slot,
                    last: slot,
                    owner,
                });
            }
        }
        last = Some(id);
    }
    let routers = owned
        .into_iter()
        .map(|((name, incarnation), (address, slots))| SlotOwner {
            name,
            incarnation: incarnation.to_string(),
            address,
            slots,
        });
    Slots {
        version: table.version(),
        ranges,
        routers: routers.collect(),
        unowned,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn slots_are_told_as_ranges() {
        let node = |name: &str, incarnation| proto::Node {
            name: name.to_owned(),
            incarnation,
            ..proto::Node::default()
        };
        let mut owners = vec![1; SLOTS];
        owners[10..20].fill(2);
        owners[4095] = 0;
        let map = proto::SlotMap {
            version: 7,
            routers: vec![node("a", 1), node("b", 2)],
            owners,
            epochs: vec![1; SLOTS],
            ..proto::SlotMap::default()
        };
        let slots = slots(&SlotTable::new(map).unwrap());
        let ranges: Vec<_> = slots
            .ranges
            .iter()
            .map(|r| (r.first, r.last, r.owner.as_deref()))
            .collect();
        assert_eq!(
            ranges,
            [
                (0, 9, Some("a")),
                (10, 19, Some("b")),
                (20, 4094, Some("a")),
                (4095, 4095, None)
            ]
        );
        let counts: Vec<_> = slots
            .routers
            .iter()
            .map(|r| (r.name.as_str(), r.slots))
            .collect();
        assert_eq!(counts, [("a", 4085), ("b", 10)]);
        assert_eq!((slots.version, slots.unowned), (7, 1));
    }
}
