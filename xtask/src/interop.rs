//! `cargo xtask interop`: clients of other projects against a server started for them.
//!
//! slixmpp (Python), @xmpp/client (Node, over WebSocket) and tokio-xmpp log in with certificate
//! checking, chat, fetch the archive and resume. The scripts are in `tests/interop`; packages are
//! installed in the target folder, in the versions that the tree pins.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::fleet::Embedded;
use crate::repo;

/// A host with anonymous logins.
const GUESTS: &str = "guests.localhost";

/// Builds, runs and prints a closing line.
pub(crate) fn run() -> Result<()> {
    let checks = run_clients()?;
    println!("clients of other projects: {checks} checks passed");
    Ok(())
}

/// Returns the number of checks that passed; an error if one failed.
pub(crate) fn run_clients() -> Result<usize> {
    let programs = repo::build_debug()?;
    let cache = repo::target()?.join("interop");
    let python = python(&cache)?;
    let node = node(&cache)?;
    let folder = tempfile::Builder::new().prefix("sestina-").tempdir()?;
    let hosts = [
        ("0__DOMAIN", "localhost"),
        ("1__DOMAIN", GUESTS),
        ("1__ANONYMOUS", "true"),
    ]
    .map(|(key, value)| {
        let key = format!("{}HOST__{key}", sestina_config::load::ENV_PREFIX);
        (key, value.to_owned())
    });
    let server = Embedded::start(
        &programs.join("sestina"),
        folder.path(),
        &cache.join("logs"),
        &hosts,
    )?;
    let scripts = repo::root().join("tests/interop");
    let certificate = &server.certificate;

    let mut slixmpp = Command::new(python);
    slixmpp
        .arg(scripts.join("python/slixmpp_client.py"))
        .args(["--host", &server.c2s.ip().to_string()])
        .args(["--port", &server.c2s.port().to_string()])
        .arg("--ca")
        .arg(certificate);

    let mut xmpp_js = Command::new("node");
    xmpp_js
        .arg(node.join("xmpp_client.mjs"))
        .arg("--service")
        // By name, because the certificate is for localhost.
        .arg(format!(
            "wss://localhost:{}/xmpp-websocket",
            server.https.port()
        ))
        .args(["--guests", GUESTS])
        .env("NODE_EXTRA_CA_CERTS", certificate);

    let mut tokio_xmpp = Command::new(programs.join("sestina-interop"));
    tokio_xmpp
        .args(["--address", &server.c2s.to_string()])
        .env("SSL_CERT_FILE", certificate);

    let passwords = ["a rose by any other name", "wherefore art thou"];
    let mut checks = 0;
    for (language, client) in [
        ("python", &mut slixmpp),
        ("node", &mut xmpp_js),
        ("rust", &mut tokio_xmpp),
    ] {
        // Each client has its own accounts: messages that one leaves unacknowledged at its end are
        // stored for the next login.
        let romeo = format!("romeo-{language}@localhost");
        let juliet = format!("juliet-{language}@localhost");
        server.admin.add_user(&romeo, passwords[0])?;
        server.admin.add_user(&juliet, passwords[1])?;
        client
            .args(["--jid", &romeo, "--password", passwords[0]])
            .args(["--peer", &juliet, "--peer-password", passwords[1]]);
        checks += run_client(client, &server)?;
    }
    Ok(checks)
}

fn run_client(client: &mut Command, server: &Embedded) -> Result<usize> {
    let output = client
        .output()
        .with_context(|| format!("cannot run {}", client.get_program().to_string_lossy()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    print!("{text}");
    let checks = text.lines().filter(|line| line.contains(": ok: ")).count();
    if !output.status.success() {
        bail!(
            "{} ended with {}:\n{}\n(the server is process {}, its log is in {})",
            client.get_program().to_string_lossy(),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim(),
            server.process.pid(),
            repo::target()?.join("interop/logs").display()
        );
    }
    ensure!(checks > 0, "{:?} checked nothing", client.get_program());
    Ok(checks)
}

/// A Python with slixmpp in a virtual environment of its own.
fn python(cache: &Path) -> Result<PathBuf> {
    let venv = cache.join("venv");
    let wanted = repo::root().join("tests/interop/python/requirements.txt");
    let python = venv.join("bin/python");
    if installed(&venv, &wanted)? {
        return Ok(python);
    }
    ensure!(
        repo::have_or_install("python3", &["python3", "python3-venv"]),
        "python3 was not found; install it (package python3-venv)"
    );
    let make = || {
        let mut command = Command::new("python3");
        command.args(["-m", "venv", "--clear"]).arg(&venv);
        repo::capture(&mut command)
    };
    if make().is_err() {
        // Debian ships the module without its dependencies.
        repo::install(&["python3-venv"]);
        make().context("cannot make a virtual environment; install python3-venv")?;
    }
    repo::run(
        Command::new(&python)
            .args(["-m", "pip", "install", "--quiet", "--requirement"])
            .arg(&wanted),
    )?;
    mark_installed(&venv, &wanted)?;
    Ok(python)
}

/// A folder with @xmpp/client beside the script.
fn node(cache: &Path) -> Result<PathBuf> {
    let source = repo::root().join("tests/interop/node");
    let folder = cache.join("node");
    fs::create_dir_all(&folder)?;
    for file in ["package.json", "package-lock.json", "xmpp_client.mjs"] {
        fs::copy(source.join(file), folder.join(file))?;
    }
    let wanted = source.join("package-lock.json");
    if installed(&folder, &wanted)? {
        return Ok(folder);
    }
    ensure!(
        repo::have_or_install("node", &["nodejs"]) && repo::have_or_install("npm", &["npm"]),
        "node and npm were not found; install them (packages nodejs and npm)"
    );
    repo::run(
        Command::new("npm")
            .args(["ci", "--no-audit", "--no-fund", "--loglevel=error"])
            .current_dir(&folder),
    )?;
    mark_installed(&folder, &wanted)?;
    Ok(folder)
}

/// Whether a folder was filled from this list.
fn installed(folder: &Path, list: &Path) -> Result<bool> {
    let wanted = fs::read(list).with_context(|| format!("cannot read {}", list.display()))?;
    let marked = fs::read(folder.join(".installed")).unwrap_or_default();
    Ok(wanted == marked)
}

fn mark_installed(folder: &Path, list: &Path) -> Result<()> {
    fs::copy(list, folder.join(".installed"))?;
    Ok(())
}
