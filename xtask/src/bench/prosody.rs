//! Prosody from Debian, configured for the same traffic.

use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use sestina_testkit::{find_program, free_port, wait_for};

use super::{Measured, certificate, other};
use crate::child::{Process, Spec};

/// Starts Prosody on a free port of 127.0.0.1.
pub(super) fn start(programs: &Path, logs: &Path) -> Result<Measured> {
    let folder = tempfile::Builder::new()
        .prefix("sestina-prosody-")
        .tempdir()?;
    let (cert, key) = certificate(programs, folder.path())?;
    let port = free_port()?;
    let at = folder.path().display();
    let config = format!(
        r#"-- made for a benchmark: anonymous users, rooms, stream management, TLS from the first byte
daemonize = false
run_as_root = true
pidfile = "{at}/prosody.pid"
data_path = "{at}"
log = {{ warn = "*console" }}
-- As in large installations: with its default Prosody collects garbage most of the time.
gc = {{ mode = "incremental"; threshold = 400; speed = 250; step_size = 13 }}
interfaces = {{ "127.0.0.1" }}
c2s_ports = {{ }}
c2s_direct_tls_ports = {{ {port} }}
s2s_ports = {{ }}
http_ports = {{ }}
https_ports = {{ }}
modules_enabled = {{ "saslauth", "tls", "disco", "ping", "smacks", "carbons" }}
modules_disabled = {{ "s2s", "offline" }}
c2s_require_encryption = true
c2s_direct_tls_ssl = {{ certificate = "{cert}"; key = "{key}" }}
ssl = {{ certificate = "{cert}"; key = "{key}" }}

VirtualHost "localhost"
    authentication = "anonymous"

Component "conference.localhost" "muc"
    restrict_room_creation = false
    muc_room_locking = false
"#,
        cert = cert.display(),
        key = key.display(),
    );
    let path = folder.path().join("prosody.cfg.lua");
    std::fs::write(&path, config)?;
    let mut process = Process::start(Spec {
        name: "prosody".to_owned(),
        program: find_program("prosody").context("prosody has gone")?,
        arguments: vec!["-F".into(), "--config".into(), path.into()],
        environment: Vec::new(),
        folder: folder.path().to_owned(),
        log: logs.join("prosody.log"),
        user: None,
    })?;
    wait_listening(&mut process, port)?;
    Ok(other("Prosody", port, process, folder))
}

/// Waits until the process listens on the port; fails at once if it has ended.
pub(super) fn wait_listening(process: &mut Process, port: u16) -> Result<()> {
    let mut ended = None;
    let what = format!("{} to listen", process.name());
    wait_for(&what, Duration::from_secs(60), || {
        if let Err(error) = process.check() {
            ended = Some(error);
            return Ok(());
        }
        TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        Ok(())
    })?;
    ended.map_or(Ok(()), Err)
}
