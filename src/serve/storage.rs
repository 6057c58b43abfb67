//! The storage tier as a process.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use sestina_certs::Role as CertRole;
use sestina_proto as proto;
use sestina_rpc::RpcServer;
use sestina_storage::Storage;

use super::process::{LAST, Process};
use crate::admin::NodeAdmin;
use crate::compose;
use crate::metrics::metered_stores;

/// How often the database is asked whether it is there, and how long it may take.
const PROBE: Duration = Duration::from_secs(1);
const PROBE_LIMIT: Duration = Duration::from_secs(2);
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
    let opened = tokio::select! {
        opened = Storage::open(compose::storage(&config)) => opened,
        () = process.shutdown.drain.cancelled() => return Ok(()),
    };
    let storage = opened.context(compose::storage_option(&config))?;
    let stores = metered_stores(storage.clone(), process.metrics.clone());
    let there = Arc::new(AtomicBool::new(true));
    process.tasks.spawn("probe", {
        let (stores, there, token) = (stores.clone(), there.clone(), process.tasks.token());
        async move {
            loop {
                let asked = tokio::time::timeout(PROBE_LIMIT, stores.lease_list(proto::Empty {}));
                there.store(matches!(asked.await, Ok(Ok(_))), Ordering::Release);
                tokio::select! {
                    () = token.cancelled() => return,
                    () = tokio::time::sleep(PROBE) => {}
                }
            }
        }
    });
    let (answers, database) = (there.clone(), storage.clone());
    let state = Arc::new(move || match answers.load(Ordering::Acquire) {
        true => database.health(),
        false => Err("the database does not answer".to_owned()),
    });
    let ready = process.announce(state.clone()).await?;
    let admin = NodeAdmin::new(&config, "storage", state);
    let socket = process.admin_socket(admin.clone()).await?;
    let server = RpcServer::new(security)
        .max_connection_age(CONNECTION_AGE)
        .storage(stores)
        .admin(admin)
        .health(ready);
    let served = match server.listen(config.cluster.listen).await {
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
    socket.shutdown(LAST).await;
    storage.close().await;
    served
}
