//! A network of namespaces: each process of a fleet has a network stack of its own, and packets
//! vanish.
//!
//! ```text
//! edge-1 ──┐
//! router-1 ┼── hub ── this machine: clients, the tool, and in front of Redis and PostgreSQL
//! storage-1┘          a proxy with an address of its own
//! ```
//!
//! Each namespace has one link, to the hub, which forwards all packets between two addresses. A
//! rule of the hub that drops them cuts these two off from each other and from no other process,
//! and no side is notified, as when a switch fails. The settings of this machine stay as they are;
//! it gets one interface and a route.
//!
//! Names contain the tool's process id, so several may run at once. A helper waits for the end of
//! the tool, in whatever way, and then removes the namespaces with all that they contain.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use sestina_testkit::find_program;

use super::subnet::Subnet;
use crate::proxy::Proxy;
use crate::repo;

/// Last parts of addresses that no process of a fleet has.
const MACHINE: u8 = 1;
const REDIS: u8 = 2;
const POSTGRES: u8 = 3;
const HUB: u8 = 254;

/// The prefix of all names of namespaces; the tool's process id follows.
const PREFIX: &str = "sestina-";
/// Advice if namespaces cannot be made.
const INSTEAD: &str = "or leave out --namespaces: faults of the network are then those that \
                       proxies can make";

/// Addresses between which no packet passes, in neither direction.
pub(crate) type Pair = (Ipv4Addr, Ipv4Addr);

/// Fails if a requirement is missing, before anything is built or started.
pub(crate) fn check() -> Result<()> {
    ensure!(
        rustix::process::geteuid().is_root(),
        "network namespaces need root; run this as root, {INSTEAD}"
    );
    for (program, package) in [("ip", "iproute2"), ("nsenter", "util-linux")] {
        ensure!(
            repo::have_or_install(program, &[package]),
            "network namespaces need `{program}` of the package {package}, which could not be \
             installed; install it, {INSTEAD}"
        );
    }
    let name = format!("{PREFIX}{}-trial", std::process::id());
    let end = format!("peer name eth1 netns {name}\n");
    let made = ip(None, &format!("netns add {name}\n"))
        .and_then(|()| ip(None, &format!("link add eth0 netns {name} type veth {end}")))
        .and_then(|()| forward(&name));
    // The namespace does not exist if it could not be made.
    ip(None, &format!("netns delete {name}\n")).ok();
    made.with_context(|| {
        format!(
            "this machine makes no network namespaces; they need CAP_SYS_ADMIN, CAP_NET_ADMIN and \
             a writable /proc/sys, which a container has with `--privileged`: give them, {INSTEAD}"
        )
    })
}

/// Whether this machine has a route to addresses of this subnet, apart from default routes.
pub(super) fn has_routes(subnet: Subnet) -> Result<bool> {
    let subnet = subnet.to_string();
    let mut found = String::new();
    for which in ["root", "match"] {
        let mut command = Command::new(program("ip")?);
        command.args(["-4", "route", "show", "table", "all", which, &subnet]);
        found.push_str(&output(&mut command)?);
    }
    // A default route leads to all addresses.
    Ok(found.lines().any(|line| !line.starts_with("default")))
}

/// The running network.
pub(crate) struct Network {
    subnet: Subnet,
    /// Removes the namespaces when its input ends.
    cleaner: Child,
    stores: Vec<Proxy>,
    cuts: Vec<(u32, Vec<Pair>)>,
    /// The preference of the next rules.
    preference: u32,
}

impl Network {
    /// Makes namespaces with these names and last parts of addresses, and links them.
    pub(super) fn start(subnet: Subnet, members: &[(String, u8)]) -> Result<Network> {
        remove_abandoned()?;
        let hub = namespace("hub");
        let names = members.iter().map(|(name, _)| namespace(name));
        let all: Vec<String> = std::iter::once(hub.clone()).chain(names).collect();
        let network = Network {
            subnet,
            cleaner: cleaner(&all)?,
            stores: Vec::new(),
            cuts: Vec::new(),
            preference: 1000,
        };
        let add: String = all
            .iter()
            .map(|name| format!("netns add {name}\n"))
            .collect();
        ip(None, &add)?;
        forward(&hub)?;
        for (name, last) in members {
            let link = Link::of_member(name, subnet.at(*last));
            ip(None, &link.create(&hub))?;
            ip(link.namespace.as_deref(), &link.own_end(subnet))?;
            ip(Some(&hub), &link.hub_end(subnet))?;
        }
        let link = Link::of_machine(subnet);
        ip(None, &link.create(&hub))?;
        ip(None, &link.own_end(subnet))?;
        ip(Some(&hub), &link.hub_end(subnet))?;
        Ok(network)
    }

    /// The command that runs a program in the namespace of this name; the program keeps the process
    /// id.
    pub(super) fn enter(
        &self,
        name: &str,
        program: &Path,
        arguments: Vec<OsString>,
    ) -> (PathBuf, Vec<OsString>) {
        let file = format!("--net=/run/netns/{}", namespace(name));
        let mut all: Vec<OsString> = vec![file.into(), "--".into(), program.into()];
        all.extend(arguments);
        ("nsenter".into(), all)
    }

    /// Makes Redis reachable from the namespaces; returns its URL there.
    pub(super) fn reach_redis(&mut self, url: &str) -> Result<String> {
        self.reach(url, REDIS)
    }

    /// Makes PostgreSQL reachable from the namespaces; returns its URL there.
    pub(super) fn reach_postgres(&mut self, url: &str) -> Result<String> {
        self.reach(url, POSTGRES)
    }

    fn reach(&mut self, url: &str, last: u8) -> Result<String> {
        let (server, moved) = replace_address(url, self.subnet.at(last))
            .with_context(|| format!("no host and port in {url}"))?;
        let target = server
            .to_socket_addrs()?
            .next()
            .with_context(|| format!("{server} has no address"))?;
        let listen = SocketAddr::new(IpAddr::V4(self.subnet.at(last)), target.port());
        self.stores.push(Proxy::start(listen, target)?);
        Ok(moved)
    }

    /// The address of Redis in the namespaces.
    pub(crate) fn redis(&self) -> Ipv4Addr {
        self.subnet.at(REDIS)
    }

    /// The address of PostgreSQL in the namespaces.
    pub(crate) fn postgres(&self) -> Ipv4Addr {
        self.subnet.at(POSTGRES)
    }

    /// Drops the packets between these pairs from now on.
    pub(crate) fn cut(&mut self, pairs: Vec<Pair>) -> Result<()> {
        ip(
            Some(&namespace("hub")),
            &rules("add", self.preference, &pairs),
        )?;
        self.cuts.push((self.preference, pairs));
        self.preference += 1;
        Ok(())
    }

    /// Ends such a cut.
    pub(crate) fn heal(&mut self, pairs: &[Pair]) -> Result<()> {
        let found = self.cuts.iter().position(|(_, cut)| cut == pairs);
        let (preference, pairs) = self.cuts.remove(found.context("there is no such cut")?);
        ip(
            Some(&namespace("hub")),
            &rules("delete", preference, &pairs),
        )
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        drop(self.cleaner.stdin.take());
        self.cleaner.wait().ok();
    }
}

/// A pair of interfaces: one at the hub, one elsewhere.
struct Link {
    /// Namespace of the end that is not the hub's; none for this machine.
    namespace: Option<String>,
    /// The name of that end, and of the hub's.
    names: [String; 2],
    /// The addresses of that end.
    addresses: Vec<Ipv4Addr>,
}

impl Link {
    fn of_member(name: &str, ip: Ipv4Addr) -> Link {
        Link {
            namespace: Some(namespace(name)),
            names: ["eth0".to_owned(), name.to_owned()],
            addresses: vec![ip],
        }
    }

    fn of_machine(subnet: Subnet) -> Link {
        // The kernel takes 15 characters; process ids have up to 7.
        let own = format!("sestina{}", std::process::id());
        Link {
            namespace: None,
            names: [own, "machine".to_owned()],
            addresses: [MACHINE, REDIS, POSTGRES]
                .map(|last| subnet.at(last))
                .to_vec(),
        }
    }

    fn create(&self, hub: &str) -> String {
        let [own, far] = &self.names;
        let netns = self.namespace.as_deref();
        let place = netns.map_or(String::new(), |name| format!(" netns {name}"));
        format!("link add {own}{place} type veth peer name {far} netns {hub}\n")
    }

    /// Sets up an interface with one neighbour: all other addresses are behind the hub.
    fn own_end(&self, subnet: Subnet) -> String {
        let (own, hub) = (&self.names[0], subnet.at(HUB));
        let mut script = String::new();
        for ip in &self.addresses {
            writeln!(script, "address add {ip} peer {hub} dev {own}").ok();
        }
        writeln!(script, "link set dev {own} up").ok();
        if self.namespace.is_some() {
            writeln!(script, "link set dev lo up\nroute add default via {hub}").ok();
        } else {
            let source = subnet.at(MACHINE);
            writeln!(script, "route add {subnet} via {hub} src {source}").ok();
        }
        script
    }

    fn hub_end(&self, subnet: Subnet) -> String {
        let (far, hub) = (&self.names[1], subnet.at(HUB));
        let mut script = String::new();
        for ip in &self.addresses {
            writeln!(script, "address add {hub} peer {ip} dev {far}").ok();
        }
        writeln!(script, "link set dev {far} up").ok();
        script
    }
}

/// Rules that drop the packets between these pairs; they take effect before routes.
fn rules(action: &str, preference: u32, pairs: &[Pair]) -> String {
    pairs
        .iter()
        .flat_map(|&(one, other)| [(one, other), (other, one)])
        .map(|(from, to)| {
            format!("rule {action} preference {preference} from {from} to {to} blackhole\n")
        })
        .collect()
}

fn namespace(name: &str) -> String {
    format!("{PREFIX}{}-{name}", std::process::id())
}

/// `host:port` of a URL, and the URL with another host there.
fn replace_address(url: &str, host: Ipv4Addr) -> Option<(String, String)> {
    let (scheme, rest) = url.split_once("://")?;
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let (user, server) = match authority.rsplit_once('@') {
        Some((user, server)) => (format!("{user}@"), server),
        None => (String::new(), authority),
    };
    let (_, port) = server.rsplit_once(':')?;
    let slash = if rest.contains('/') { "/" } else { "" };
    let moved = format!("{scheme}://{user}{host}:{port}{slash}{path}");
    Some((server.to_owned(), moved))
}

/// A helper that ignores Ctrl-C, which reaches all processes of a terminal, and removes the
/// namespaces when its input is closed: by the tool, or by the kernel.
fn cleaner(names: &[String]) -> Result<Child> {
    let script = "trap '' HUP INT TERM; read -r _; \
                  for name in \"$@\"; do \"$0\" netns delete \"$name\"; done";
    Command::new("sh")
        .args(["-c", script])
        .arg(program("ip")?)
        .args(names)
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        // Some namespaces may be missing.
        .stderr(Stdio::null())
        .spawn()
        .context("cannot start sh")
}

/// Removes the namespaces of tools whose helper was killed too.
fn remove_abandoned() -> Result<()> {
    let list = output(Command::new(program("ip")?).args(["netns", "list"]))?;
    let alive =
        |pid: u32| pid != std::process::id() && Path::new("/proc").join(pid.to_string()).exists();
    for name in abandoned(&list, alive) {
        // Another tool that starts may have removed it.
        ip(None, &format!("netns delete {name}\n")).ok();
    }
    Ok(())
}

/// Those names in a list of namespaces whose tool is not alive.
fn abandoned(list: &str, alive: impl Fn(u32) -> bool) -> BTreeSet<&str> {
    let names = list
        .lines()
        .filter_map(|line| line.split_whitespace().next());
    names
        .filter(|name| {
            let pid = name
                .strip_prefix(PREFIX)
                .and_then(|rest| rest.split_once('-'));
            let pid = pid.and_then(|(pid, _)| pid.parse().ok());
            pid.is_some_and(|pid| !alive(pid))
        })
        .collect()
}

/// Makes a namespace forward packets.
fn forward(namespace: &str) -> Result<()> {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net=/run/netns/{namespace}")).args([
        "--",
        "sh",
        "-c",
        "echo 1 > /proc/sys/net/ipv4/ip_forward",
    ]);
    output(&mut command).map(drop)
}

fn program(name: &str) -> Result<PathBuf> {
    find_program(name).with_context(|| format!("{name} was not found in PATH"))
}

/// Performs commands of `ip`, one per line, up to the first that fails.
fn ip(namespace: Option<&str>, script: &str) -> Result<()> {
    let mut command = Command::new(program("ip")?);
    if let Some(name) = namespace {
        command.args(["-netns", name]);
    }
    let mut child = command
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot start ip")?;
    if let Some(mut input) = child.stdin.take() {
        // The output of `ip` explains more than an error here.
        input.write_all(script.as_bytes()).ok();
    }
    let ended = child.wait_with_output()?;
    ensure!(
        ended.status.success(),
        "ip: {}, in:\n{script}",
        String::from_utf8_lossy(&ended.stderr).trim()
    );
    Ok(())
}

fn output(command: &mut Command) -> Result<String> {
    let ended = command.stdin(Stdio::null()).output()?;
    if !ended.status.success() {
        let said = String::from_utf8_lossy(&ended.stderr);
        bail!("{:?} failed: {}", command.get_program(), said.trim());
    }
    Ok(String::from_utf8_lossy(&ended.stdout).into_owned())
}

#[cfg(test)]
#[path = "network_tests.rs"]
mod tests;
