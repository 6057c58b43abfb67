//! The storage tier as a process.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use parking_lot::Mutex;
use sestina_api::store::{StoreError, Stores};
use sestina_certs::Role as CertRole;
use sestina_cluster::speaks::Speaks;
use sestina_config::Config;
use sestina_proto as proto;
use sestina_rpc::RpcServer;
use sestina_runtime::CancellationToken;
use sestina_runtime::backoff::Backoff;
use sestina_storage::{OpenError, Storage};

use super::process::{LAST, Process};
use crate::admin::NodeAdmin;
use crate::compose;
use crate::metrics::metered_stores;

/// How often the database is checked, and how long its answer may take.
const PROBE: Duration = Duration::from_secs(1);
const PROBE_LIMIT: Duration = Duration::from_secs(2);
/// How often this process renews its registration, and for how long one counts.
const COUNTED: Duration = Duration::from_secs(3);
const TERM: Duration = Duration::from_secs(15);
/// The first and the longest delay before the database is tried again.
const FIRST_TRY: Duration = Duration::from_millis(100);
const LAST_TRY: Duration = Duration::from_secs(2);
/// Routers reconnect after this time, so that new storage processes get their share.
const CONNECTION_AGE: Duration = Duration::from_secs(600);

/// Serves until the operator asks to end.
pub async fn run(mut process: Process) -> anyhow::Result<()> {
    let served = Box::pin(serve(&mut process)).await;
    process.end().await;
    served
}

async fn serve(process: &mut Process) -> anyhow::Result<()> {
    let config = process.config.clone();
    let security = compose::security(&config)?;
    compose::check_own_certificate(&security, CertRole::Storage);
    process.reload_on_hangup(None, Some(security.clone()));
    if config.storage.url.is_none() {
        std::fs::create_dir_all(&config.node.data_dir).with_context(|| {
            format!(
                "cannot create {}; set node.data_dir",
                config.node.data_dir.display()
            )
        })?;
    }
    let database = Arc::new(Database::default());
    let state = {
        let database = database.clone();
        Arc::new(move || database.ready())
    };
    let ready = process.announce(state.clone()).await?;
    let speaking = database.clone();
    let speaks = Box::new(move || speaking.speaks.lock().version());
    let admin = NodeAdmin::new(&config, "storage", state, speaks);
    let socket = process.admin_socket(admin.clone()).await?;
    let address = compose::address(&config);
    let node = compose::node(&config.node.name, proto::NodeRole::Storage, &address);
    let opened = tokio::select! {
        opened = open_and_join(&config, &node, &database) => opened.map(Some),
        () = process.shutdown.drain.cancelled() => Ok(None),
    };
    let served = match opened {
        Ok(Some(storage)) => {
            let server = RpcServer::new(security)
                .leases_on(process.leases())
                .max_connection_age(CONNECTION_AGE)
                .admin(admin)
                .health(ready);
            Box::pin(work(process, &storage, &node, &database, server)).await
        }
        Ok(None) => Ok(()),
        Err(error) => Err(error),
    };
    socket.shutdown(LAST).await;
    served
}

/// The state of the database.
struct Database {
    state: Mutex<Result<(), String>>,
    /// The version that the cluster speaks, by the processes registered in the database.
    speaks: Mutex<Speaks>,
}

impl Default for Database {
    fn default() -> Database {
        Database {
            state: Mutex::new(Err("the database is being opened".to_owned())),
            speaks: Mutex::default(),
        }
    }
}

impl Database {
    fn ready(&self) -> Result<(), String> {
        self.state.lock().clone()
    }

    fn is(&self, state: Result<(), String>) {
        *self.state.lock() = state;
    }
}

/// Opens the database, and waits while it is unavailable. A fault that waiting cannot repair is an
/// error.
async fn open(config: &Config, database: &Database) -> anyhow::Result<Arc<Storage>> {
    let mut backoff = Backoff::new(FIRST_TRY, LAST_TRY);
    let mut said = String::new();
    loop {
        match Storage::open(compose::storage(config)).await {
            Ok(storage) => return Ok(storage),
            Err(error @ OpenError::Unavailable { .. }) => {
                let reason = error.to_string();
                if reason != said {
                    tracing::warn!(reason, "waiting for the database");
                    said.clone_from(&reason);
                }
                database.is(Err(format!("waiting for the database: {reason}")));
                backoff.wait().await;
            }
            Err(error) => return Err(error).context(compose::storage_option(config)),
        }
    }
}

/// The same, and waits until this process can work with every live process.
async fn open_and_join(
    config: &Config,
    node: &proto::Node,
    database: &Database,
) -> anyhow::Result<Arc<Storage>> {
    let storage = open(config, database).await?;
    let mut said = String::new();
    while let Err(error) = storage.register(node, TERM).await {
        let reason = match error {
            StoreError::Invalid(why) => format!("the cluster refuses this process: {why}"),
            error => format!("waiting for the database: {error}"),
        };
        if reason != said {
            tracing::error!(reason, "not in the cluster yet");
            said.clone_from(&reason);
        }
        database.is(Err(reason));
        tokio::time::sleep(PROBE).await;
    }
    database.is(Ok(()));
    Ok(storage)
}

/// Serves the stores until the operator asks to end.
async fn work(
    process: &Process,
    storage: &Arc<Storage>,
    node: &proto::Node,
    database: &Arc<Database>,
    server: RpcServer,
) -> anyhow::Result<()> {
    let stores = metered_stores(storage.clone(), process.metrics.clone());
    let token = process.tasks.token();
    let probe = probe(
        storage.clone(),
        stores.clone(),
        database.clone(),
        token.clone(),
    );
    process.tasks.spawn("probe", probe);
    let counted = stay(storage.clone(), node.clone(), token);
    process.tasks.spawn("versions", counted);
    let cluster = compose::cluster(&process.config);
    cluster.learn(&storage.identity().id);
    let server = server.cluster(cluster).storage(stores);
    let served = match server.listen(process.config.cluster.listen).await {
        Ok(server) => {
            process.shutdown.drain.cancelled().await;
            process.begin_draining();
            process
                .unless_now(async {
                    server.shutdown(LAST).await;
                })
                .await;
            Ok(())
        }
        Err(error) => Err(error).context("change cluster.listen"),
    };
    if let Err(error) = storage.leave(node).await {
        tracing::info!(%error, "this process could not unregister; it counts as live for some seconds more");
    }
    storage.close().await;
    served
}

/// Keeps this process registered as live, so that its versions count.
async fn stay(storage: Arc<Storage>, node: proto::Node, token: CancellationToken) {
    loop {
        tokio::select! {
            () = token.cancelled() => return,
            () = tokio::time::sleep(COUNTED) => {}
        }
        if let Err(error) = storage.register(&node, TERM).await {
            // If the database is unavailable, no process can read there which processes live.
            tracing::warn!(%error, "this process could not register as live");
        }
    }
}

/// Checks at intervals whether the database is available and accepts writes.
async fn probe(
    storage: Arc<Storage>,
    stores: Arc<dyn Stores>,
    database: Arc<Database>,
    token: CancellationToken,
) {
    loop {
        let asked = tokio::time::timeout(PROBE_LIMIT, stores.lease_list(proto::Empty {}));
        database.is(match asked.await {
            Ok(Ok(listed)) => {
                let leases = listed.leases.iter().filter(|lease| lease.remaining_ms > 0);
                let live = leases.chain(&listed.storages);
                let live = live.filter_map(|lease| lease.node.as_ref());
                database.speaks.lock().note(live, true, Instant::now());
                storage.health()
            }
            _ => Err("the database does not answer".to_owned()),
        });
        tokio::select! {
            () = token.cancelled() => return,
            () = tokio::time::sleep(PROBE) => {}
        }
    }
}
