//! One process with all tiers, as `cargo run --release` starts it.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use sestina_testkit::{free_port, wait_for};

use super::node::ready;
use crate::child::{Process, Spec};
use crate::sestina::Admin;

/// A running server on free ports of 127.0.0.1.
pub(crate) struct Embedded {
    pub(crate) process: Process,
    pub(crate) admin: Admin,
    pub(crate) c2s: SocketAddr,
    pub(crate) c2s_tls: SocketAddr,
    pub(crate) https: SocketAddr,
    /// Address of `/metrics` and `/ready`.
    pub(crate) metrics: SocketAddr,
    /// The self-signed certificate that the server makes at its first start.
    pub(crate) certificate: PathBuf,
}

impl Embedded {
    /// Starts the server with its data in `folder` and waits until it is ready.
    pub(crate) fn start(
        binary: &Path,
        folder: &Path,
        logs: &Path,
        more: &[(String, String)],
    ) -> Result<Embedded> {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        fs::create_dir_all(logs)?;
        let ports: [SocketAddr; 6] = free_addresses()?;
        let [c2s, c2s_tls, http, https, cluster, metrics] = ports;
        let socket = folder.join("admin.sock");
        let set = [
            ("NODE__NAME", "embedded".to_owned()),
            ("NODE__DATA_DIR", folder.display().to_string()),
            ("ADMIN__SOCKET", socket.display().to_string()),
            ("EDGE__C2S", c2s.to_string()),
            ("EDGE__C2S_TLS", c2s_tls.to_string()),
            ("EDGE__HTTP", http.to_string()),
            ("EDGE__HTTPS", https.to_string()),
            ("CLUSTER__LISTEN", cluster.to_string()),
            ("TELEMETRY__PROMETHEUS", metrics.to_string()),
        ];
        let environment = set
            .into_iter()
            .map(|(key, value)| (format!("{}{key}", sestina_config::load::ENV_PREFIX), value))
            .chain(more.iter().cloned())
            .collect();
        let mut process = Process::start(Spec {
            name: "sestina".to_owned(),
            program: binary.to_owned(),
            arguments: vec!["serve".into()],
            environment,
            folder: folder.to_owned(),
            log: logs.join("sestina.log"),
            user: None,
        })?;
        let mut ended = None;
        wait_for("the server to be ready", Duration::from_secs(60), || {
            if let Err(error) = process.check() {
                ended = Some(error);
                return Ok(());
            }
            ready(metrics)
        })?;
        ended.map_or(Ok(()), Err)?;
        Ok(Embedded {
            process,
            admin: Admin {
                binary: binary.to_owned(),
                socket,
            },
            c2s,
            c2s_tls,
            https,
            metrics,
            certificate: folder.join("tls/self-signed.crt"),
        })
    }
}

/// Addresses that no process uses.
fn free_addresses<const COUNT: usize>() -> Result<[SocketAddr; COUNT]> {
    let mut addresses = [SocketAddr::from((Ipv4Addr::LOCALHOST, 0)); COUNT];
    for address in &mut addresses {
        address.set_port(free_port()?);
    }
    Ok(addresses)
}
