//! `cargo xtask cluster`: the cluster of docker-compose.yml, without containers.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use sestina_testkit::{Postgres, PostgresOptions, Redis, find_program};

use crate::child::{Process, Spec};
use crate::fleet::{Fleet, FleetSpec, Links, Role};
use crate::repo;

/// See the module.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Accounts to add at the start, as name@localhost; the password of each is its name.
    #[arg(long)]
    user: Vec<String>,
    /// Stop as soon as the cluster is redundant, with a non-zero exit code if it never is.
    #[arg(long)]
    check: bool,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    sestina_testkit::ensure_installed()?;
    let binary = repo::build_release(&["sestina"])?.join("sestina");
    let folder = tempfile::Builder::new().prefix("sestina-").tempdir()?;
    let redis = Redis::start_own()?;
    let postgres = Postgres::start_own(&PostgresOptions::default())?;
    let logs = repo::target()?.join("cluster");
    let has_front = repo::have_or_install("haproxy", &["haproxy"]);
    let mut fleet = Fleet::start(FleetSpec {
        settings: repo::settings(),
        binary,
        edges: 2,
        routers: 2,
        storages: 2,
        links: Links::Loopback,
        front: has_front,
        domain: "localhost".to_owned(),
        redis: redis.url().to_owned(),
        postgres: postgres.create_database("sestina")?,
        environment: Vec::new(),
        folder: folder.path().to_owned(),
        logs: logs.clone(),
    })?;
    fleet.wait_redundant(Duration::from_secs(60))?;
    for bare in &options.user {
        let password = bare.split('@').next().unwrap_or(bare).to_owned();
        fleet.add_users(&[(bare.clone(), password)])?;
    }
    let front = front(&fleet, folder.path(), &logs)?;
    describe(&fleet, front.as_ref(), &logs);
    if !options.check {
        println!("Ctrl-C stops it");
        wait_for_interrupt()?;
    }
    drop(front);
    fleet.stop(Duration::from_secs(10));
    Ok(())
}

/// HAProxy with the settings of the compose file, if it is installed.
fn front(fleet: &Fleet, folder: &Path, logs: &Path) -> Result<Option<Process>> {
    let Some(haproxy) = find_program("haproxy") else {
        return Ok(None);
    };
    let edge = |number: usize| {
        fleet
            .of(Role::Edge)
            .nth(number)
            .map(|node| node.ip.to_string())
            .context("the cluster has two edges")
    };
    let variable = |name: &str, value: String| (name.to_owned(), value);
    let mut process = Process::start(Spec {
        name: "haproxy".to_owned(),
        program: haproxy,
        arguments: vec![
            "-db".into(),
            "-f".into(),
            repo::root().join("deploy/haproxy/haproxy.cfg").into(),
        ],
        environment: vec![
            variable("EDGE_1", edge(0)?),
            variable("EDGE_2", edge(1)?),
            variable("BIND", fleet.front().to_string()),
            variable("SOURCE", fleet.front().to_string()),
        ],
        folder: folder.to_owned(),
        log: logs.join("haproxy.log"),
        user: None,
    })?;
    let address = (fleet.front(), 5222).into();
    sestina_testkit::wait_for("haproxy to listen", Duration::from_secs(10), || {
        std::net::TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
        Ok(())
    })
    .or_else(|error| process.check().and(Err(error)))?;
    Ok(Some(process))
}

fn describe(fleet: &Fleet, front: Option<&Process>, logs: &Path) {
    for node in &fleet.nodes {
        println!(
            "{:10} {:15} process {:7} administrator's socket {}",
            node.process.name(),
            node.ip.to_string(),
            node.process.pid(),
            node.admin.socket.display()
        );
    }
    match front {
        Some(_) => println!(
            "clients: {0}:5222 (STARTTLS), {0}:5223 (TLS), wss://{0}:5281/xmpp-websocket",
            fleet.front()
        ),
        None => println!(
            "haproxy cannot be had; clients: {} (STARTTLS), {} (TLS)",
            fleet.edges(5222).join(" "),
            fleet.edges(5223).join(" ")
        ),
    }
    println!("certificates: {}", fleet.certs.join("ca.pem").display());
    println!("logs: {}", logs.display());
}

/// Waits for Ctrl-C, or the signal that service managers send.
fn wait_for_interrupt() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        use tokio::signal::unix::{SignalKind, signal};
        let mut ended = signal(SignalKind::terminate())?;
        tokio::select! {
            interrupted = tokio::signal::ctrl_c() => interrupted?,
            _ = ended.recv() => {}
        }
        Ok(())
    })
}
