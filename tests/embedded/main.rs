//! The program itself: one process with all tiers, on free ports, in an empty directory.

#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

mod commands;
mod config_check;
mod stalls;
mod storage;

const PROGRAM: &str = env!("CARGO_BIN_EXE_sestina");
/// Far longer than a start or an end; only a defect takes longer.
const LIMIT: Duration = Duration::from_secs(60);

/// Runs the program with a configuration in `dir`.
fn program(dir: &Path) -> Command {
    let mut command = Command::new(PROGRAM);
    command
        .current_dir(dir)
        .env_remove("SESTINA_CONFIG")
        .args(["--config", "sestina.toml"]);
    command
}

fn call(dir: &Path, arguments: &[&str]) -> Output {
    program(dir)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn json(dir: &Path, arguments: &[&str]) -> Value {
    let output = call(dir, &[arguments, &["--json"]].concat());
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{arguments:?}: {error}: {output:?}"))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Waits until `/ready` answers with this text.
fn until_ready_is(address: SocketAddr, wanted: &str) -> String {
    let since = Instant::now();
    loop {
        let page = get(address, "/ready");
        if page.contains(wanted) {
            return page;
        }
        assert!(since.elapsed() < LIMIT, "never {wanted:?}: {page}");
        std::thread::yield_now();
    }
}

/// An address that is not in use.
fn free() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], sestina_testkit::free_port().unwrap()))
}

fn configure(dir: &Path) -> [SocketAddr; 5] {
    let ports = [free(), free(), free(), free(), free()];
    let config = format!(
        "[node]\nname = \"one\"\ndata_dir = \"data\"\n[edge]\nc2s = [\"{}\"]\nc2s_tls = [\"{}\"]\n\
         http = [\"{}\"]\nhttps = [\"{}\"]\n[telemetry]\nprometheus = [\"{}\"]\n",
        ports[0], ports[1], ports[2], ports[3], ports[4]
    );
    std::fs::write(dir.join("sestina.toml"), config).unwrap();
    ports
}

/// A server, which is killed at the end of the test if it still runs.
struct Server {
    child: Child,
    said: String,
}

impl Server {
    /// Returns when the server has printed that it serves.
    fn start(dir: &Path) -> Server {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(dir.join("log"))
            .unwrap();
        let mut child = program(dir)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        let mut said = String::new();
        // Ends with the last line of the welcome, or with the program.
        while lines.read_line(&mut said).unwrap() > 0 && !said.contains("stop it:") {}
        let log = std::fs::read_to_string(dir.join("log")).unwrap();
        assert!(said.contains("stop it:"), "{said}\n{log}");
        Server { child, said }
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let id = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(id, signal).unwrap();
    }

    fn ended(&mut self) -> std::process::ExitStatus {
        let since = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(since.elapsed() < LIMIT, "the server does not end");
            std::thread::yield_now();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            self.child.kill().unwrap();
            self.child.wait().unwrap();
        }
    }
}

fn get(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn serves_from_nothing_and_again_after_an_end_and_a_sudden_death() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let ports = configure(dir);
    let none = call(dir, &["user", "list"]);
    assert_eq!(none.status.code(), Some(1));
    assert!(text(&none.stderr).contains("sestina serve"), "{none:?}");

    let mut server = Server::start(dir);
    assert!(
        server.said.contains("user add alice@localhost"),
        "{}",
        server.said
    );
    assert!(dir.join("data/tls/self-signed.crt").exists());
    assert!(get(ports[4], "/ready").contains("\r\n\r\nready"));

    let added = json(dir, &["user", "add", "alice@localhost"]);
    assert_eq!(added["jid"], "alice@localhost");
    assert!(added["password"].as_str().unwrap().len() >= 16);
    let again = json(dir, &["user", "add", "Alice@localhost"]);
    assert_eq!(again["error"]["code"], "exists", "{again}");
    let users = json(dir, &["user", "list"]);
    assert_eq!(users["users"][0]["jid"], "alice@localhost");
    assert_eq!(users["users"][0]["mechanisms"].as_array().unwrap().len(), 2);

    let status = json(dir, &["status"]);
    assert_eq!(status["redundant"], true, "{status}");
    assert_eq!(status["missing"].as_array().unwrap().len(), 0);
    assert_eq!(status["routers"][0]["counts"]["slots"], 4096);
    let processes = status["processes"].as_array().unwrap();
    assert_eq!(
        (processes.len(), &processes[0]["role"]),
        (1, &"serve".into())
    );
    assert_eq!(
        status["authorities"].as_array().unwrap().len(),
        1,
        "{status}"
    );
    let shown = text(&call(dir, &["status"]).stdout);
    assert!(
        !shown.contains("redis") && !shown.contains("edge"),
        "{shown}"
    );
    let metrics = get(ports[4], "/metrics");
    assert!(metrics.contains("sestina_store_seconds"), "{metrics}");

    let second = call(dir, &["serve"]);
    assert_eq!(second.status.code(), Some(1));
    let refusal = text(&second.stderr);
    assert!(refusal.contains("node.data_dir"), "{refusal}");
    assert!(
        refusal.contains(&server.child.id().to_string()),
        "{refusal}"
    );

    let since = Instant::now();
    server.signal(rustix::process::Signal::TERM);
    assert!(server.ended().success());
    assert!(
        since.elapsed() < Duration::from_secs(10),
        "it took {:?}",
        since.elapsed()
    );
    assert!(!dir.join("data/admin.sock").exists());

    // Stored data survives, and a dead process leaves no lease to wait for.
    for _ in 0..2 {
        let since = Instant::now();
        let mut server = Server::start(dir);
        assert!(
            since.elapsed() < Duration::from_secs(8),
            "it took {:?}",
            since.elapsed()
        );
        let users = json(dir, &["user", "list"]);
        assert_eq!(users["users"][0]["jid"], "alice@localhost");
        server.child.kill().unwrap();
        server.ended();
    }
}
