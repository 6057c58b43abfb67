//! One process of a fleet.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use sestina_testkit::wait_for;

use crate::child::Process;
use crate::proxy::Proxy;
use crate::sestina::Admin;

/// A tier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Edge,
    Router,
    Storage,
}

impl Role {
    /// The name of the tier on the command line and in certificates.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Role::Edge => "edge",
            Role::Router => "router",
            Role::Storage => "storage",
        }
    }

    /// The name of its n-th process, as in docker-compose.yml.
    pub(crate) fn name(self, number: usize) -> String {
        format!("{}-{number}", self.word())
    }

    /// The arguments of its processes; the settings that they share are in that folder.
    pub(crate) fn arguments(self, settings: &Path) -> Vec<OsString> {
        let file = settings.join(format!("{}.toml", self.word()));
        vec![self.word().into(), "--config".into(), file.into()]
    }

    /// The last part of the address before those of its processes.
    fn first_address(self) -> u8 {
        match self {
            Role::Edge => 10,
            Role::Router => 30,
            Role::Storage => 50,
        }
    }

    /// The last part of the address of its n-th process.
    pub(super) fn address(self, number: usize) -> u8 {
        self.first_address() + u8::try_from(number).unwrap_or(0)
    }
}

/// A running process, its proxy and its admin socket.
pub(crate) struct Node {
    pub(crate) role: Role,
    pub(crate) ip: Ipv4Addr,
    pub(crate) process: Process,
    /// The proxy between this process and its callers.
    pub(crate) proxy: Option<Proxy>,
    pub(crate) admin: Admin,
}

impl Node {
    /// Waits for its readiness; fails at once if it has ended.
    pub(crate) fn wait_ready(&mut self, limit: Duration) -> Result<()> {
        let address = self.metrics();
        let process = &mut self.process;
        let mut ended = None;
        let what = format!("{} to be ready", process.name());
        wait_for(&what, limit, || {
            if let Err(error) = process.check() {
                // A dead process never becomes ready.
                ended = Some(error);
                return Ok(());
            }
            ready(address)
        })?;
        ended.map_or(Ok(()), Err)
    }

    /// Address of `/metrics` and `/ready`.
    pub(crate) fn metrics(&self) -> SocketAddr {
        SocketAddr::from((self.ip, 9090))
    }

    /// How often its lease was renewed.
    pub(crate) fn renewals(&self) -> Result<f64> {
        let by = |authority| {
            let labels = format!("authority=\"{authority}\",event=\"renewed\"");
            self.metric(&format!("sestina_lease_events_total{{{labels}}}"))
        };
        Ok(by("redis")? + by("storage")?)
    }

    /// A metric, with its labels as they are exported; 0 if the process does not have it yet.
    pub(crate) fn metric(&self, name: &str) -> Result<f64> {
        let answer = get(self.metrics(), "/metrics")?;
        let line = answer.lines().find_map(|line| line.strip_prefix(name));
        Ok(line.map_or(Ok(0.0), |value| value.trim().parse())?)
    }
}

/// Checks that a process is ready.
pub(crate) fn ready(address: SocketAddr) -> Result<()> {
    let answer = get(address, "/ready")?;
    ensure!(
        answer.starts_with("HTTP/1.1 200"),
        "{}",
        answer.lines().last().unwrap_or("no answer")
    );
    Ok(())
}

fn get(address: SocketAddr, path: &str) -> Result<String> {
    let limit = Duration::from_secs(2);
    let mut stream = TcpStream::connect_timeout(&address, limit)?;
    stream.set_read_timeout(Some(limit))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: xtask\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}
