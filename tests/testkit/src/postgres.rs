//! One PostgreSQL server.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Signal, geteuid};
use tempfile::TempDir;

use crate::process::{Program, ServerProcess};
use crate::{POSTGRES_VARIABLE, dir, install, port, wait};

const READY: Duration = Duration::from_secs(60);
/// PostgreSQL refuses to run as root; the Debian package creates this user.
const USER: &str = "postgres";

/// How to start a server.
#[derive(Clone, Debug)]
pub struct PostgresOptions {
    /// Wait for the disk at each commit. Tests without a crash of the machine may turn it off.
    pub fsync: bool,
    /// Further settings, as `("max_connections", "50")`.
    pub settings: Vec<(String, String)>,
}

impl Default for PostgresOptions {
    fn default() -> PostgresOptions {
        PostgresOptions {
            fsync: true,
            settings: Vec::new(),
        }
    }
}

/// A PostgreSQL server with one empty database (more with [`Postgres::create_database`]).
#[derive(Debug)]
pub struct Postgres {
    url: String,
    /// Databases to drop at the end, on an external server.
    created: std::sync::Mutex<Vec<String>>,
    own: Option<ServerProcess>,
    _folder: Option<TempDir>,
}

impl Postgres {
    /// A private server, or an empty database of the one that `SESTINA_TEST_POSTGRES` names.
    pub fn start() -> Result<Postgres> {
        match std::env::var(POSTGRES_VARIABLE) {
            Ok(url) => Postgres::external(&url),
            Err(_) => Postgres::start_own(&PostgresOptions::default()),
        }
    }

    /// A private server, which may be killed and suspended.
    pub fn start_own(options: &PostgresOptions) -> Result<Postgres> {
        install::require("psql")?;
        let folder = dir::make("postgres")?;
        let data = folder.path().join("data");
        give_to_user(folder.path())?;
        init(folder.path(), &data)?;
        let mut last = None;
        // Another process may take the port between the check and the start.
        for _ in 0..5 {
            let port = port::free_port()?;
            let url = format!("postgres://{USER}@127.0.0.1:{port}/postgres");
            let mut process = ServerProcess::start(Program {
                path: install::require("postgres")?,
                arguments: arguments(&data, port, options),
                user: Some(USER.to_owned()),
                // "Immediate shutdown": its children end too, and shared memory is freed.
                stop: Signal::QUIT,
                folder: folder.path().to_owned(),
            })?;
            match wait_ready(&mut process, &url) {
                Ok(()) => {
                    return Ok(Postgres {
                        url,
                        created: Vec::new().into(),
                        own: Some(process),
                        _folder: Some(folder),
                    });
                }
                Err(error) => last = Some(error),
            }
        }
        Err(last.context("postgres did not start")?)
    }

    fn external(url: &str) -> Result<Postgres> {
        let mut named = Postgres {
            url: url.to_owned(),
            created: Vec::new().into(),
            own: None,
            _folder: None,
        };
        query(url, "SELECT 1")
            .with_context(|| format!("cannot use the server that {POSTGRES_VARIABLE} names"))?;
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("sestina_test_{}_{number}", std::process::id());
        named.url = named.create_database(&name)?;
        Ok(named)
    }

    /// `postgres://…`
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Creates an empty database and returns its URL. The name consists of letters, digits and `_`.
    pub fn create_database(&self, name: &str) -> Result<String> {
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
            bail!("{name:?} is not a database name: only letters, digits and _");
        }
        if self.own.is_none() {
            query(
                &self.url,
                &format!("DROP DATABASE IF EXISTS \"{name}\" WITH (FORCE)"),
            )?;
            self.created
                .lock()
                .expect("no code panics with it")
                .push(name.to_owned());
        }
        query(&self.url, &format!("CREATE DATABASE \"{name}\""))?;
        with_database(&self.url, name)
    }

    /// Runs SQL through psql and returns what it prints (unaligned, without headers).
    pub fn query(&self, sql: &str) -> Result<String> {
        query(&self.url, sql)
    }

    /// The same in the database that [`Postgres::create_database`] made at that URL.
    pub fn query_at(&self, url: &str, sql: &str) -> Result<String> {
        query(url, sql)
    }

    /// The postmaster's process id.
    ///
    /// # Panics
    /// For a server named by the environment, as all methods below.
    pub fn pid(&self) -> u32 {
        self.own().pid()
    }

    /// Kills the postmaster and all backends with SIGKILL.
    pub fn kill9(&mut self) {
        self.own_mut().kill9();
    }

    /// Suspends the postmaster and all backends (SIGSTOP).
    pub fn suspend(&self) {
        self.own().suspend();
    }

    /// Resumes a suspended server.
    pub fn resume(&self) {
        self.own().resume();
    }

    /// Starts the server again on the same port with the same data; stops it first if it runs.
    pub fn restart(&mut self) -> Result<()> {
        let url = self.url.clone();
        let own = self.own_mut();
        own.restart()?;
        wait_ready(own, &url)
    }

    fn own(&self) -> &ServerProcess {
        self.own.as_ref().expect(NOT_OWN)
    }

    fn own_mut(&mut self) -> &mut ServerProcess {
        self.own.as_mut().expect(NOT_OWN)
    }
}

const NOT_OWN: &str = "this PostgreSQL was not started here; the test must use Postgres::start_own";

impl Drop for Postgres {
    fn drop(&mut self) {
        let created = std::mem::take(&mut *self.created.lock().expect("no code panics with it"));
        let Ok(url) = with_database(&self.url, "postgres") else {
            return;
        };
        for name in created {
            query(
                &url,
                &format!("DROP DATABASE IF EXISTS \"{name}\" WITH (FORCE)"),
            )
            .ok();
        }
    }
}

fn wait_ready(process: &mut ServerProcess, url: &str) -> Result<()> {
    let mut ended = None;
    wait::wait_for("PostgreSQL to answer", READY, || {
        if let Err(error) = process.check_alive() {
            // A dead process never becomes ready.
            ended = Some(error);
            return Ok(());
        }
        query(url, "SELECT 1").map(drop)
    })?;
    ended.map_or(Ok(()), Err)
}

fn arguments(data: &Path, port: u16, options: &PostgresOptions) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = vec!["-D".into(), data.into()];
    let mut set = |name: &str, value: &str| {
        arguments.extend(["-c".into(), format!("{name}={value}").into()]);
    };
    set("port", &port.to_string());
    set("listen_addresses", "127.0.0.1");
    set("unix_socket_directories", "");
    set("max_connections", "200");
    set("fsync", if options.fsync { "on" } else { "off" });
    for (name, value) in &options.settings {
        set(name, value);
    }
    arguments
}

fn init(folder: &Path, data: &Path) -> Result<()> {
    let initdb = install::require("initdb")?;
    let mut command = as_user(&initdb)?;
    command.args(["--no-sync", "--auth=trust", "--encoding=UTF8", "--locale=C"]);
    command
        .arg(format!("--username={USER}"))
        .arg("-D")
        .arg(data)
        .current_dir(folder);
    run(command, "initdb").map(drop)
}

fn as_user(program: &Path) -> Result<Command> {
    if !geteuid().is_root() {
        return Ok(Command::new(program));
    }
    let setpriv = install::find_program("setpriv");
    let mut command = Command::new(setpriv.context("setpriv was not found; install util-linux")?);
    command
        .arg(format!("--reuid={USER}"))
        .arg(format!("--regid={USER}"));
    command.args(["--init-groups", "--"]).arg(program);
    Ok(command)
}

fn give_to_user(folder: &Path) -> Result<()> {
    if !geteuid().is_root() {
        return Ok(());
    }
    let users = fs::read_to_string("/etc/passwd")?;
    let ids = users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, _, user, group) = (
            fields.next()?,
            fields.next()?,
            fields.next()?,
            fields.next()?,
        );
        (name == USER).then(|| Some((user.parse().ok()?, group.parse().ok()?)))?
    });
    let (user, group): (u32, u32) =
        ids.context("there is no user postgres, and PostgreSQL does not run as root")?;
    std::os::unix::fs::chown(folder, Some(user), Some(group))?;
    Ok(())
}

fn query(url: &str, sql: &str) -> Result<String> {
    let psql: PathBuf = install::require("psql")?;
    let mut command = Command::new(psql);
    command.args([
        "--no-psqlrc",
        "--quiet",
        "-A",
        "-t",
        "-v",
        "ON_ERROR_STOP=1",
        "-c",
        sql,
        url,
    ]);
    command.env("PGCONNECT_TIMEOUT", "5");
    run(command, "psql")
}

fn run(mut command: Command, name: &str) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .env("LC_ALL", "C")
        .output()
        .with_context(|| format!("cannot run {name}"))?;
    if !output.status.success() {
        bail!(
            "{name} failed: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// The URL of another database on the same server.
fn with_database(url: &str, name: &str) -> Result<String> {
    let (rest, parameters) = match url.split_once('?') {
        Some((rest, parameters)) => (rest, format!("?{parameters}")),
        None => (url, String::new()),
    };
    let (scheme, authority) = rest
        .split_once("://")
        .with_context(|| format!("{POSTGRES_VARIABLE} must be written as postgres://host/name"))?;
    let authority = authority.split('/').next().unwrap_or_default();
    Ok(format!("{scheme}://{authority}/{name}{parameters}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn keeps_what_was_committed_over_a_kill_on_the_same_port() {
        let mut postgres = Postgres::start_own(&PostgresOptions::default()).unwrap();
        let url = postgres.create_database("one").unwrap();
        query(&url, "CREATE TABLE t (a int); INSERT INTO t VALUES (7)").unwrap();
        let pid = postgres.pid();
        assert_eq!(postgres.query("SHOW fsync").unwrap(), "on");
        postgres.kill9();
        assert!(query(&url, "SELECT 1").is_err());
        postgres.restart().unwrap();
        assert_ne!(postgres.pid(), pid);
        assert_eq!(query(&url, "SELECT a FROM t").unwrap(), "7");
        assert!(postgres.create_database("a\"b").is_err());
        // An external server provides empty databases, which are dropped at the end.
        let count = |postgres: &Postgres| {
            postgres.query("SELECT count(*) FROM pg_database WHERE datname LIKE 'sestina_test_%'")
        };
        let named = Postgres::external(postgres.url()).unwrap();
        assert_ne!(named.url(), postgres.url());
        assert_eq!(count(&postgres).unwrap(), "1");
        drop(named);
        assert_eq!(count(&postgres).unwrap(), "0");
    }

    #[test]
    fn suspended_backends_do_not_answer() {
        let options = PostgresOptions {
            fsync: false,
            settings: Vec::new(),
        };
        let postgres = Postgres::start_own(&options).unwrap();
        assert_eq!(postgres.query("SHOW fsync").unwrap(), "off");
        let url = postgres.url().to_owned();
        // A backend that is working when all are stopped.
        let asker = std::thread::spawn(move || query(&url, "SELECT pg_sleep(0.2), 'woke'"));
        wait::wait_for("the backend", READY, || {
            let sql = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%'";
            if postgres.query(sql)? == "1" {
                Ok(())
            } else {
                bail!("not there")
            }
        })
        .unwrap();
        postgres.suspend();
        std::thread::sleep(Duration::from_millis(400));
        assert!(!asker.is_finished());
        postgres.resume();
        assert_eq!(asker.join().unwrap().unwrap(), "|woke");
    }

    #[test]
    fn swaps_the_database_in_a_url() {
        let url = "postgres://u:p@h:1/x?sslmode=disable";
        assert_eq!(
            with_database(url, "y").unwrap(),
            "postgres://u:p@h:1/y?sslmode=disable"
        );
        assert_eq!(
            with_database("postgres://h", "y").unwrap(),
            "postgres://h/y"
        );
        assert!(with_database("h", "y").is_err());
    }
}
