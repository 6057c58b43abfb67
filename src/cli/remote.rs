//! Commands that a server performs.

use std::process::ExitCode;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;
use sestina_api::admin::AdminHandler;
use sestina_rpc::target::Target;
use sestina_rpc::{AdminClient, Dialer, MutualTls, Security, TlsFiles};

use super::args::{Failpoint, Global, NewPassword, Sessions, User};
use super::run::{Failure, load, small_runtime};
use super::{password, print, show};
use crate::admin::types;

/// The server that performs a command.
struct Server {
    client: AdminClient,
    /// Keeps the connections, which are made at their first use.
    _dialer: Option<Arc<Dialer>>,
    hint: String,
}

impl Server {
    /// The server that the flags or the configuration name.
    fn find(global: &Global) -> Result<Server, Failure> {
        if let Some(address) = &global.connect {
            return Server::connect(global, address);
        }
        let path = match &global.socket {
            Some(path) => path.clone(),
            None => super::socket(&load(global)?),
        };
        let hint = format!(
            "no server answers at {}; start one with `sestina serve`, or name its socket with \
             --socket, its configuration with --config, or a router with --connect",
            path.display()
        );
        if !path.exists() {
            return Err(Failure::new("away", hint));
        }
        Ok(Server {
            client: AdminClient::unix(&path),
            _dialer: None,
            hint,
        })
    }

    fn connect(global: &Global, address: &str) -> Result<Server, Failure> {
        let failed = |error: sestina_rpc::RpcError| Failure::new("failed", error.to_string());
        let target: Target = address.parse().map_err(failed)?;
        let config = load(global)?.cluster;
        let own = |flag: &Option<std::path::PathBuf>| flag.clone();
        // A node's own configuration is enough if its certificate is that of an administrator.
        let files = (
            own(&global.ca).or(config.tls_ca),
            own(&global.cert).or(config.tls_certificate),
            own(&global.key).or(config.tls_key),
        );
        let security = match files {
            (Some(ca), Some(cert), Some(key)) => {
                let files = TlsFiles { cert, key, ca };
                Security::Mutual(MutualTls::load(files).map_err(failed)?)
            }
            (None, None, None) if config.plaintext => Security::Plaintext,
            _ => {
                let text = "--connect needs --ca, --cert and --key; issue a certificate with \
                            `sestina certs node NAME --role admin`, or set cluster.plaintext if \
                            the cluster speaks without TLS";
                return Err(Failure::new("invalid-arguments", text));
            }
        };
        let dialer = Dialer::new(security);
        let client = AdminClient::connect(&dialer, &target)?;
        let hint = format!("no router answers at {address}; is the address right?");
        Ok(Server {
            client,
            _dialer: Some(dialer),
            hint,
        })
    }
}

/// Sends a command; returns the answer as text and as a value.
fn ask<A: Serialize, R: DeserializeOwned>(
    global: &Global,
    command: &str,
    arguments: &A,
) -> Result<(serde_json::Value, R), Failure> {
    let internal = |error: serde_json::Error| Failure::new("internal", error.to_string());
    let json = serde_json::to_string(arguments).map_err(internal)?;
    let text = small_runtime()?.block_on(async {
        let server = Server::find(global)?;
        server.client.call(command, &json).await.map_err(|error| {
            if error.code == "away" && error.text.contains("did not answer") {
                Failure::new("away", format!("{} ({})", server.hint, error.text))
            } else {
                Failure::from(error)
            }
        })
    })?;
    let value: serde_json::Value = serde_json::from_str(&text).map_err(internal)?;
    let read = serde_json::from_value(value.clone()).map_err(internal)?;
    Ok((value, read))
}

/// Sends a command and prints the answer, as JSON or by `people`.
fn tell<A: Serialize, R: DeserializeOwned>(
    global: &Global,
    command: &str,
    arguments: &A,
    people: impl FnOnce(&R) -> String,
) -> Result<R, Failure> {
    tell_if(global, command, arguments, |_| Ok(()), people)
}

/// The same, unless `check` finds that the answer is a failure.
fn tell_if<A: Serialize, R: DeserializeOwned>(
    global: &Global,
    command: &str,
    arguments: &A,
    check: impl FnOnce(&R) -> Result<(), Failure>,
    people: impl FnOnce(&R) -> String,
) -> Result<R, Failure> {
    let (value, read) = ask::<A, R>(global, command, arguments)?;
    check(&read)?;
    if global.json {
        print(&format!("{value:#}\n"));
    } else {
        print(&people(&read));
    }
    Ok(read)
}

pub(super) fn user(global: &Global, command: User) -> Result<ExitCode, Failure> {
    match command {
        User::Add(new) => set_password(global, "user.add", "added", new)?,
        User::Passwd(new) => set_password(global, "user.passwd", "has a new password", new)?,
        User::List { host } => {
            tell(global, "user.list", &types::UserQuery { host }, show::users)?;
        }
        User::Show { jid } => {
            tell(global, "user.show", &types::UserRef { jid }, show::user)?;
        }
        User::Disable { jid } => change(global, "user.disable", "disabled", jid)?,
        User::Enable { jid } => change(global, "user.enable", "enabled", jid)?,
        User::Delete { jid, yes } => {
            if !yes && !password::confirm(&format!("delete {jid} with everything kept for it?"))? {
                return Err(Failure::new("cancelled", "nothing was deleted"));
            }
            change(global, "user.delete", "deleted", jid)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn change(global: &Global, command: &str, what: &str, jid: String) -> Result<(), Failure> {
    tell(
        global,
        command,
        &types::UserRef { jid },
        |done: &types::Done| format!("{} {what}\n", done.jid),
    )?;
    Ok(())
}

fn set_password(
    global: &Global,
    command: &str,
    what: &str,
    new: NewPassword,
) -> Result<(), Failure> {
    let password = password::get(&new)?;
    let request = types::UserPassword {
        jid: new.jid,
        password: password.text.clone(),
    };
    let (mut value, done) = ask::<_, types::Done>(global, command, &request)?;
    if global.json {
        if password.made
            && let Some(object) = value.as_object_mut()
        {
            object.insert("password".to_owned(), password.text.into());
        }
        print(&format!("{value:#}\n"));
    } else {
        let made = if password.made {
            format!("password: {}\n", password.text)
        } else {
            String::new()
        };
        print(&format!("{} {what}\n{made}", done.jid));
    }
    Ok(())
}

pub(super) fn sessions(global: &Global, command: Sessions) -> Result<ExitCode, Failure> {
    match command {
        Sessions::List { jid } => {
            let query = types::SessionQuery { jid, local: false };
            tell(global, "sessions.list", &query, show::sessions)?;
        }
        Sessions::Show { jid } => {
            let query = types::SessionQuery {
                jid: Some(jid.clone()),
                local: false,
            };
            let check = |found: &types::Sessions| none(&jid, found.sessions.len(), &found.missing);
            tell_if(
                global,
                "sessions.list",
                &query,
                check,
                show::session_details,
            )?;
        }
        Sessions::Close { jid } => {
            let query = types::SessionQuery {
                jid: Some(jid.clone()),
                local: false,
            };
            let check = |done: &types::Closed| none(&jid, done.closed, &done.missing);
            tell_if(global, "sessions.close", &query, check, show::closed)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn none(jid: &str, count: usize, missing: &[String]) -> Result<(), Failure> {
    if count > 0 {
        return Ok(());
    }
    let mut text = format!("{jid} has no session");
    if !missing.is_empty() {
        text.push_str(&format!(
            " on the routers that answered ({})",
            missing.join("; ")
        ));
    }
    Err(Failure::new("not-found", text))
}

pub(super) fn slots(global: &Global) -> Result<ExitCode, Failure> {
    tell(global, "slots", &serde_json::json!({}), show::slots)?;
    Ok(ExitCode::SUCCESS)
}

/// Exit code 1 if something is missing, so that scripts can wait for it.
pub(super) fn status(global: &Global) -> Result<ExitCode, Failure> {
    let query = types::StatusQuery::default();
    let (value, told) = ask::<_, Told>(global, "status", &query)?;
    let (good, text) = match &told {
        Told::Cluster(status) => (status.redundant, show::status(status)),
        Told::Node(node) => (node.ready, show::node_status(node)),
    };
    print(&if global.json {
        format!("{value:#}\n")
    } else {
        text
    });
    Ok(if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// A router reports the state of the cluster, an edge or a storage process its own.
#[derive(serde::Deserialize)]
#[serde(untagged)]
enum Told {
    Cluster(Box<types::Status>),
    Node(types::NodeStatus),
}

pub(super) fn failpoint(global: &Global, command: Failpoint) -> Result<ExitCode, Failure> {
    match command {
        Failpoint::Arm { points } => {
            let arm = types::FailpointArm {
                points: points.join(";"),
            };
            tell(global, "failpoint.arm", &arm, show::armed)?;
        }
        Failpoint::Disarm { name } => {
            tell(
                global,
                "failpoint.disarm",
                &types::FailpointRef { name },
                show::armed,
            )?;
        }
        Failpoint::List => {
            tell(
                global,
                "failpoint.list",
                &serde_json::json!({}),
                show::failpoints,
            )?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
