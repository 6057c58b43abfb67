//! The program itself: one process with everything in it, on free ports, in an empty directory.

#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_sestina");
/// Far beyond what a start or an end takes; only a defect takes longer.
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

/// Waits until the page says so.
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

/// An address that nobody uses.
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

/// A server; killed when the test is over, should it still run.
struct Server {
    child: Child,
    said: String,
}

impl Server {
    /// Returns when it says that it serves.
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
    assert_eq!(status["whole"], true, "{status}");
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

    // What was written is there, and a process that died leaves no lease to wait for.
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

/// A client's plaintext stream.
struct Line(TcpStream);

impl Line {
    /// Logs in without an account.
    fn login(address: SocketAddr) -> Line {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        let mut line = Line(stream);
        let header = "<stream:stream xmlns='jabber:client' to='localhost' version='1.0' \
                      xmlns:stream='http://etherx.jabber.org/streams'>";
        let sasl = "urn:ietf:params:xml:ns:xmpp-sasl";
        let bind = "urn:ietf:params:xml:ns:xmpp-bind";
        line.ask(header, "</stream:features>");
        line.ask(
            &format!("<auth xmlns='{sasl}' mechanism='ANONYMOUS'/>"),
            "<success",
        );
        line.ask(header, "</stream:features>");
        line.ask(
            &format!("<iq type='set' id='b'><bind xmlns='{bind}'/></iq>"),
            "</iq>",
        );
        line
    }

    /// Sends, and returns what comes up to and with `until`.
    fn ask(&mut self, text: &str, until: &str) -> String {
        self.0.write_all(text.as_bytes()).unwrap();
        let mut heard = Vec::new();
        let mut byte = [0];
        while !String::from_utf8_lossy(&heard).contains(until) {
            let read = self.0.read(&mut byte).unwrap();
            assert!(read > 0, "the server closed: {}", text_of(&heard));
            heard.extend(byte);
        }
        text_of(&heard)
    }

    fn ping(&mut self, id: &str) {
        let ping = format!("<iq type='get' id='{id}'><ping xmlns='urn:xmpp:ping'/></iq>");
        let answer = self.ask(&ping, &format!("id='{id}'"));
        assert!(!answer.contains("stream:error"), "{answer}");
    }
}

fn text_of(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// One process is the whole system: whatever time it stood still, its clients are there afterwards.
#[test]
fn a_server_that_stands_still_again_and_again_cuts_no_client() {
    use rustix::process::Signal;
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    configure(dir);
    let plain = free();
    let config = std::fs::read_to_string(dir.join("sestina.toml")).unwrap();
    let config = config.replace(
        "[edge]\n",
        &format!("[edge]\nc2s_plaintext = [\"{plain}\"]\n"),
    );
    let config = format!("{config}[[host]]\ndomain = \"localhost\"\nanonymous = true\n");
    std::fs::write(dir.join("sestina.toml"), config).unwrap();
    let server = Server::start(dir);
    let mut line = Line::login(plain);
    line.ping("before");
    // Longer than a lease of a cluster lasts; then with a tenth of the time to work in.
    let still = |time: u64, working: u64| {
        server.signal(Signal::STOP);
        std::thread::sleep(Duration::from_millis(time));
        server.signal(Signal::CONT);
        std::thread::sleep(Duration::from_millis(working));
    };
    for (time, working, times) in [(6000, 0, 1), (3000, 300, 4), (900, 100, 10)] {
        for _ in 0..times {
            still(time, working);
        }
        line.ping(&format!("after-{time}"));
    }
    let log = std::fs::read_to_string(dir.join("log")).unwrap();
    assert!(!log.contains("lease"), "{log}");
}

/// A pipe that is not read (a supervisor that hangs, a terminal that was stopped) holds up nothing.
#[test]
fn a_log_that_is_not_read_holds_up_no_client() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let ports = configure(dir);
    let mut child = program(dir)
        .args(["serve", "--set", "telemetry.log=trace"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let ready = || {
        let since = Instant::now();
        while since.elapsed() < LIMIT {
            if let Ok(mut stream) = TcpStream::connect(ports[4]) {
                let ask = "GET /ready HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
                let mut answer = String::new();
                stream
                    .set_read_timeout(Some(Duration::from_secs(5)))
                    .unwrap();
                if stream.write_all(ask.as_bytes()).is_ok()
                    && stream.read_to_string(&mut answer).is_ok()
                    && answer.contains("\r\n\r\nready")
                {
                    return true;
                }
            }
            std::thread::yield_now();
        }
        false
    };
    let mut well = ready();
    // What is said of these is far more than a pipe holds.
    for _ in 0..800 {
        if let Ok(mut stream) = TcpStream::connect(ports[0]) {
            stream.write_all(b"<no-stream/>").ok();
        }
    }
    well &= ready();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(well, "the server waits for its log to be read");
}

#[test]
fn a_database_of_another_cluster_is_refused_until_it_is_renamed() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    configure(dir);
    let mut server = Server::start(dir);
    server.signal(rustix::process::Signal::TERM);
    assert!(server.ended().success());
    let refused = call(dir, &["serve", "--set", "cluster.name=other"]);
    assert_eq!(refused.status.code(), Some(1));
    let why = text(&refused.stderr);
    assert!(
        why.contains("\"sestina\"") && why.contains("\"other\""),
        "{why}"
    );
    assert!(why.contains("sestina cluster rename other"), "{why}");

    let unfit = call(dir, &["cluster", "rename", "o ther"]);
    assert_eq!(unfit.status.code(), Some(1), "{unfit:?}");
    let first = json(dir, &["cluster", "rename", "other"]);
    assert_eq!(first["name"], "other");
    let second = json(dir, &["cluster", "rename", "other"]);
    assert_ne!(
        first["id"], second["id"],
        "a renamed cluster is one of its own"
    );
    let config = std::fs::read_to_string(dir.join("sestina.toml")).unwrap();
    std::fs::write(
        dir.join("sestina.toml"),
        format!("{config}[cluster]\nname = \"other\"\n"),
    )
    .unwrap();
    Server::start(dir);
}

/// A storage process that is there before its database waits, and says so.
#[test]
fn a_storage_process_waits_for_its_database_and_says_so() {
    let mut postgres = sestina_testkit::Postgres::start_own(&Default::default()).unwrap();
    let url = postgres.create_database("late").unwrap();
    postgres.kill9();
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let [listen, metrics] = [free(), free()];
    std::fs::write(
        dir.join("sestina.toml"),
        format!(
            "[node]\nname = \"s\"\ndata_dir = \"data\"\n[cluster]\nlisten = \"{listen}\"\n\
             advertise = \"{listen}\"\nplaintext = true\n[telemetry]\nprometheus = \
             [\"{metrics}\"]\n[storage]\nurl = \"{url}\"\n"
        ),
    )
    .unwrap();
    let child = program(dir)
        .arg("storage")
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let mut storage = Server {
        child,
        said: String::new(),
    };
    let says = |wanted: &str| {
        let since = Instant::now();
        while TcpStream::connect(metrics).is_err() || !get(metrics, "/ready").contains(wanted) {
            assert!(since.elapsed() < LIMIT, "it never says {wanted:?}");
            std::thread::yield_now();
        }
    };
    says("waiting for the database");
    postgres.restart().unwrap();
    says("\r\n\r\nready");
    storage.signal(rustix::process::Signal::TERM);
    assert!(storage.ended().success());

    // What waiting does not mend is an error.
    let wrong = url.replace("/late", "/nowhere");
    let refused = call(dir, &["storage", "--set", &format!("storage.url={wrong}")]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("nowhere"), "{refused:?}");
}

#[test]
fn users_are_managed() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    configure(dir);
    let _server = Server::start(dir);
    let mut add = program(dir)
        .args(["user", "add", "bob@localhost", "--stdin"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    add.stdin.take().unwrap().write_all(b"pencil\n").unwrap();
    let added = add.wait_with_output().unwrap();
    assert!(added.status.success());
    assert!(!text(&added.stdout).contains("pencil"));

    assert_eq!(
        json(dir, &["user", "disable", "bob@localhost"])["jid"],
        "bob@localhost"
    );
    assert_eq!(
        json(dir, &["user", "show", "bob@localhost"])["disabled"],
        true
    );
    assert!(
        call(dir, &["user", "passwd", "bob@localhost", "--generate"])
            .status
            .success()
    );
    let shown = json(dir, &["user", "show", "bob@localhost"]);
    assert_eq!(
        shown["disabled"], true,
        "a new password allows nothing: {shown}"
    );
    assert!(
        call(dir, &["user", "enable", "bob@localhost"])
            .status
            .success()
    );
    assert_eq!(
        json(dir, &["user", "show", "bob@localhost"])["disabled"],
        false
    );

    for (arguments, code) in [
        (["user", "show", "nobody@localhost"], "not-found"),
        (["user", "show", "bob@elsewhere"], "invalid-arguments"),
        (["user", "show", "localhost"], "invalid-arguments"),
        (["user", "add", "a b@localhost"], "invalid-arguments"),
        (["user", "passwd", "nobody@localhost"], "not-found"),
        (["user", "delete", "bob@localhost"], "invalid-arguments"),
        (["sessions", "close", "bob@localhost"], "not-found"),
    ] {
        let output = call(dir, &[&arguments[..], &["--json"]].concat());
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        let out = text(&output.stdout);
        let error: Value = serde_json::from_str(&out).unwrap();
        assert_eq!(error["error"]["code"], code, "{arguments:?}: {out}");
    }
    assert!(
        call(dir, &["user", "delete", "bob@localhost", "--yes"])
            .status
            .success()
    );
    assert_eq!(
        json(dir, &["user", "list"])["users"]
            .as_array()
            .unwrap()
            .len(),
        0
    );

    assert_eq!(json(dir, &["sessions", "list"])["complete"], true);
    let slots = json(dir, &["slots"]);
    assert_eq!(
        (&slots["unowned"], &slots["routers"][0]["slots"]),
        (&0.into(), &4096.into())
    );
    let armed = json(dir, &["failpoint", "list"]);
    assert!(armed["points"].as_array().unwrap().len() > 5);
}

#[test]
fn commands_without_a_server() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    configure(dir);
    let pipeline = call(dir, &["pipeline"]);
    assert!(pipeline.status.success());
    assert!(text(&pipeline.stdout).contains("mam"), "{pipeline:?}");
    assert!(call(dir, &["config", "check"]).status.success());
    let unfit = call(dir, &["config", "check", "--role", "edge"]);
    assert_eq!(unfit.status.code(), Some(1));
    assert!(text(&unfit.stderr).contains("cluster.routers"), "{unfit:?}");
    let typo = call(dir, &["config", "check", "--set", "edge.limits.dept=8"]);
    assert!(text(&typo.stderr).contains("edge.limits.depth"), "{typo:?}");
    assert!(text(&call(dir, &["config", "show"]).stdout).contains("data_dir = \"data\""));
    assert!(text(&call(dir, &["config", "docs"]).stdout).contains("connection_rate"));
    let files = json(
        dir,
        &[
            "certs",
            "node",
            "r1",
            "--role",
            "router",
            "--san",
            "127.0.0.1",
        ],
    );
    let shown = json(
        dir,
        &["certs", "show", files["certificate"].as_str().unwrap()],
    );
    assert_eq!(shown["roles"][0], "router");
    assert_eq!(call(dir, &["nonsense"]).status.code(), Some(2));
    assert_eq!(call(dir, &["--version"]).status.code(), Some(0));
}

#[test]
fn a_database_file_that_is_gone_is_told_and_refuses_users_until_it_is_back() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let ports = configure(dir);
    let _server = Server::start(dir);
    until_ready_is(ports[4], " 200 ");
    let (file, aside) = (dir.join("data/sestina.db"), dir.join("aside.db"));
    std::fs::rename(&file, &aside).unwrap();
    let page = until_ready_is(ports[4], " 503 ");
    assert!(
        page.contains("was deleted while the server was running"),
        "{page}"
    );
    let refused = call(dir, &["user", "add", "bob@localhost", "--generate"]);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(
        text(&refused.stderr).contains("put the file back"),
        "{refused:?}"
    );
    let status = json(dir, &["status"]);
    assert_eq!(status["whole"], false, "{status}");
    assert!(
        status["missing"].to_string().contains("was deleted"),
        "{status}"
    );
    std::fs::rename(&aside, &file).unwrap();
    until_ready_is(ports[4], " 200 ");
    let added = call(dir, &["user", "add", "bob@localhost", "--generate"]);
    assert!(added.status.success(), "{added:?}");
}

/// What `config check` says with these further lines in the configuration.
fn checked(dir: &Path, more: &str) -> String {
    configure(dir);
    let path = dir.join("sestina.toml");
    let config = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, format!("{config}{more}")).unwrap();
    let output = call(dir, &["config", "check"]);
    assert_eq!(output.status.code(), Some(1), "{more}: {output:?}");
    text(&output.stderr)
}

#[test]
fn config_check_opens_what_the_configuration_names() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    configure(dir);
    assert!(call(dir, &["config", "check"]).status.success());
    assert!(!dir.join("data").exists(), "nothing is made");
    // Two certificates: a.test's and b.test's.
    for name in ["a", "b"] {
        let mut command = program(dir);
        command.args(["certs", "node", &format!("{name}.test"), "--role", "edge"]);
        assert!(
            command
                .args(["--dir", name])
                .output()
                .unwrap()
                .status
                .success()
        );
    }
    let file = |folder: &str, end: &str| {
        let files = std::fs::read_dir(dir.join(folder)).unwrap();
        let mut files = files.map(|file| file.unwrap().path());
        let is = |path: &std::path::PathBuf| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            name.starts_with(folder) && name.ends_with(end)
        };
        files.find(is).unwrap().display().to_string()
    };
    let (a, a_key, b_key) = (file("a", ".pem"), file("a", "key"), file("b", "key"));
    let pair = |cert: &str, key: &str| {
        format!("[[host]]\ndomain = \"a.test\"\ncertificate = {cert:?}\nkey = {key:?}\n")
    };
    for (more, wanted) in [
        (
            pair("none.pem", &a_key),
            "host a.test: cannot read none.pem: No such file",
        ),
        (pair(&a, &b_key), "does not belong to the first certificate"),
        (pair(&a_key, &a), "holds no certificate"),
        (
            pair(&a, &a_key).replace("domain = \"a", "domain = \"c"),
            "is for other names (a.test)",
        ),
        (
            "[[host]]\ndomain = \"a.test:5222\"\n".to_owned(),
            "without a port",
        ),
        (
            "[admin]\nsocket = \"sestina.toml/x/admin.sock\"\n".to_owned(),
            "`admin.socket`",
        ),
    ] {
        let said = checked(dir, &more);
        assert!(said.contains(wanted), "{wanted:?} is not in {said:?}");
        assert!(!said.contains("os error"), "{said}");
    }
    let ports = configure(dir);
    let path = dir.join("sestina.toml");
    let config = std::fs::read_to_string(&path).unwrap();
    let twice = config.replace(&ports[1].to_string(), &ports[0].to_string());
    std::fs::write(&path, twice).unwrap();
    let said = call(dir, &["config", "check"]);
    assert!(text(&said.stderr).contains("`edge.c2s_tls`"), "{said:?}");
    std::fs::write(&path, &config).unwrap();
    let _taken = std::net::TcpListener::bind(ports[2]).unwrap();
    let said = call(dir, &["config", "check"]);
    assert!(
        text(&said.stderr).contains("`edge.http`: cannot listen"),
        "{said:?}"
    );
    let mut command = program(dir);
    command
        .args(["config", "check"])
        .env("SESTINA_EDGE_C2S", "x");
    let said = command.output().unwrap();
    assert!(
        text(&said.stderr).contains("SESTINA__EDGE__C2S"),
        "{said:?}"
    );
}

#[test]
fn the_pipeline_names_what_rooms_answer() {
    let dir = tempfile::tempdir().unwrap();
    configure(dir.path());
    let pipeline = text(&call(dir.path(), &["pipeline"]).stdout);
    assert!(
        pipeline.contains("{http://jabber.org/protocol/muc#owner}query"),
        "{pipeline}"
    );
}
