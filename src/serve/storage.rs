//! The storage tier as a process.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use parking_lot::Mutex;
use sestina_api::store::Stores;
use sestina_certs::Role as CertRole;
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

/// How often the database is asked whether it is there, and how long it may take.
const PROBE: Duration = Duration::from_secs(1);
const PROBE_LIMIT: Duration = Duration::from_secs(2);
/// How often a database that is not there is tried again: at first, and at most.
const FIRST_TRY: Duration = Duration::from_millis(100);
const LAST_TRY: Duration = Duration::from_secs(2);
/// Routers connect anew after this time, so that new replicas get their share.
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
    let admin = NodeAdmin::new(&config, "storage", state);
    let socket = process.admin_socket(admin.clone()).await?;
    let opened = tokio::select! {
        opened = open(&config, &database) => opened.map(Some),
        () = process.shutdown.drain.cancelled() => Ok(None),
    };
    let served = match opened {
        Ok(Some(storage)) => {
            let server = RpcServer::new(security)
                .leases_on(process.leases())
                .max_connection_age(CONNECTION_AGE)
                .admin(admin)
                .health(ready);
            Box::pin(work(process, &storage, &database, server)).await
        }
        Ok(None) => Ok(()),
        Err(error) => Err(error),
    };
    socket.shutdown(LAST).await;
    served
}

/// How the database is.
struct Database(Mutex<Result<(), String>>);

impl Default for Database {
    fn default() -> Database {
        Database(Mutex::new(Err("the database is being opened".to_owned())))
    }
}

impl Database {
    fn ready(&self) -> Result<(), String> {
        self.0.lock().clone()
    }

    fn is(&self, state: Result<(), String>) {
        *self.0.lock() = state;
    }
}

/// Opens the database, and waits for one that is not there. What waiting does not mend is an error.
async fn open(config: &Config, database: &Database) -> anyhow::Result<Arc<Storage>> {
    let mut backoff = Backoff::new(FIRST_TRY, LAST_TRY);
    let mut said = String::new();
    loop {
        match Storage::open(compose::storage(config)).await {
            Ok(storage) => {
                database.is(Ok(()));
                return Ok(storage);
            }
            Err(error @ OpenError::Away { .. }) => {
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

/// Serves the stores until the operator asks to end.
async fn work(
    process: &Process,
    storage: &Arc<Storage>,
    database: &Arc<Database>,
    server: RpcServer,
) -> anyhow::Result<()> {
    let stores = metered_stores(storage.clone(), process.metrics.clone());
    let token = process.tasks.token();
    let probe = probe(storage.clone(), stores.clone(), database.clone(), token);
    process.tasks.spawn("probe", probe);
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
    storage.close().await;
    served
}

/// Asks the database now and then whether it is there, and can store what it is given.
async fn probe(
    storage: Arc<Storage>,
    stores: Arc<dyn Stores>,
    database: Arc<Database>,
    token: CancellationToken,
) {
    loop {
        let asked = tokio::time::timeout(PROBE_LIMIT, stores.lease_list(proto::Empty {}));
        database.is(match asked.await {
            Ok(Ok(_)) => storage.health(),
            _ => Err("the database does not answer".to_owned()),
        });
        tokio::select! {
            () = token.cancelled() => return,
            () = tokio::time::sleep(PROBE) => {}
        }
    }
}
