//! ejabberd from Debian, configured for the same traffic.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result};
use sestina_testkit::{find_program, free_port};

use super::prosody::wait_listening;
use super::{Measured, certificate, other};
use crate::child::{Process, Spec};

/// The user that the Debian package makes.
const USER: &str = "ejabberd";

/// Starts ejabberd on a free port of 127.0.0.1.
pub(super) fn start(programs: &Path, logs: &Path) -> Result<Measured> {
    let folder = tempfile::Builder::new()
        .prefix("sestina-ejabberd-")
        .tempdir()?;
    let (cert, key) = certificate(programs, folder.path())?;
    let both = folder.path().join("both.pem");
    fs::write(
        &both,
        [fs::read_to_string(cert)?, fs::read_to_string(key)?].concat(),
    )?;
    let (port, distribution) = (free_port()?, free_port()?);
    let config = format!(
        r#"# made for a benchmark: anonymous users, rooms, stream management, TLS from the first byte
hosts: [localhost]
loglevel: warning
certfiles: ["{both}"]
listen:
  - port: {port}
    ip: "127.0.0.1"
    module: ejabberd_c2s
    tls: true
    max_stanza_size: 262144
    shaper: none
    access: c2s
auth_method: [anonymous]
anonymous_protocol: sasl_anon
access_rules:
  c2s:
    allow: all
modules:
  mod_stream_mgmt: {{}}
  mod_ping: {{}}
  mod_disco: {{}}
  mod_carboncopy: {{}}
  mod_muc:
    host: conference.localhost
    access: all
    access_create: all
    max_users: 1000
    default_room_options:
      max_users: 1000
"#,
        both = both.display(),
    );
    fs::write(folder.path().join("ejabberd.yml"), config)?;
    open_to_user(folder.path())?;
    let at = |name: &str| folder.path().join(name).into_os_string();
    let mut process = Process::start(Spec {
        name: "ejabberd".to_owned(),
        program: find_program("ejabberdctl").context("ejabberdctl has gone")?,
        arguments: vec![
            "--config".into(),
            at("ejabberd.yml"),
            "--config-dir".into(),
            at(""),
            "--logs".into(),
            at("logs"),
            "--spool".into(),
            at("spool"),
            "--node".into(),
            format!("sestina-bench-{port}@localhost").into(),
            "foreground".into(),
        ],
        environment: vec![
            // Without the port mapper, which would outlive the run.
            ("ERL_DIST_PORT".to_owned(), distribution.to_string()),
            ("HOME".to_owned(), folder.path().display().to_string()),
        ],
        folder: folder.path().to_owned(),
        log: logs.join("ejabberd.log"),
        user: Some(USER.to_owned()),
    })?;
    wait_listening(&mut process, port)?;
    Ok(other("ejabberd", port, process, folder))
}

/// If this tool runs as root, ejabberd runs as a user of its own, which gets access to the folder.
fn open_to_user(folder: &Path) -> Result<()> {
    for name in ["logs", "spool"] {
        fs::create_dir_all(folder.join(name))?;
    }
    for path in ["", "logs", "spool", "certs"] {
        fs::set_permissions(folder.join(path), fs::Permissions::from_mode(0o777))?;
    }
    for path in ["both.pem", "ejabberd.yml"] {
        fs::set_permissions(folder.join(path), fs::Permissions::from_mode(0o644))?;
    }
    Ok(())
}
