//! The edge tier as a process.

use std::sync::Arc;

use anyhow::Context;
use sestina_certs::Role as CertRole;
use sestina_edge::tls::CertStore;
use sestina_edge::{Around, Edge};
use sestina_rpc::{Dialer, GrpcRouterConnector, RpcServer};

use super::process::{LAST, Process};
use crate::admin::NodeAdmin;
use crate::compose;
use crate::metrics::EdgeCounts;

/// Whether an edge can serve.
pub fn ready(edge: &Edge) -> Result<(), String> {
    let status = edge.status();
    if status.draining {
        Err("draining".to_owned())
    } else if !status.leased {
        Err(match edge.refusal() {
            Some(why) => format!("the edge gets no lease: {why}"),
            None => "the edge's lease is not fresh".to_owned(),
        })
    } else if status.reached == 0 {
        Err("no router can be reached".to_owned())
    } else {
        Ok(())
    }
}

/// Serves until the operator asks to end.
pub async fn run(mut process: Process) -> anyhow::Result<()> {
    let served = Box::pin(serve(&mut process)).await;
    process.end().await;
    served
}

async fn serve(process: &mut Process) -> anyhow::Result<()> {
    let config = process.config.clone();
    let security = compose::security(&config)?;
    compose::check_own_certificate(&security, CertRole::Edge);
    let tls = compose::client_tls(&config);
    let certs = tokio::task::spawn_blocking(move || CertStore::open(&tls)).await??;
    process.reload_on_hangup(Some(certs.clone()), Some(security.clone()));
    let cluster = compose::cluster(&config);
    let dialer = Dialer::with_leases_on(security.clone(), cluster, process.leases());
    let seeds = compose::targets("cluster.routers", &config.cluster.routers)?;
    let connector = Arc::new(GrpcRouterConnector::new(dialer.clone(), seeds));
    let mut settings = compose::edge(&config, &config.node.name)?;
    settings.around_is(Around {
        leases: Some(process.leases()),
        pressure: process.pressure.clone(),
    });
    let counts = Arc::new(EdgeCounts(process.metrics.clone()));
    let edge = Arc::new(Edge::start(settings, certs, connector, counts)?);
    let served = Box::pin(work(process, &edge, security)).await;
    edge.shutdown().await;
    dialer.shutdown().await;
    served
}

async fn work(
    process: &Process,
    edge: &Arc<Edge>,
    security: sestina_rpc::Security,
) -> anyhow::Result<()> {
    let config = &process.config;
    let looked_at = edge.clone();
    let state = Arc::new(move || ready(&looked_at));
    let told = process.announce(state.clone()).await?;
    let speaking = edge.clone();
    let speaks = Box::new(move || speaking.status().speaks);
    let admin = NodeAdmin::new(config, "edge", state, speaks);
    let socket = process.admin_socket(admin.clone()).await?;
    let server = RpcServer::new(security)
        .admin(admin)
        .health(told)
        .listen(config.cluster.listen)
        .await
        .context("change cluster.listen")?;
    process.shutdown.drain.cancelled().await;
    process.begin_draining();
    process.unless_now(edge.drain()).await;
    server.shutdown(LAST).await;
    socket.shutdown(LAST).await;
    Ok(())
}
