//! Servers, scenarios and timing in a configuration file.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

use super::leases::Leases;
use crate::client::endpoint::{Endpoint, Transport, TrustOptions};
use crate::client::sasl::{Credentials, Mechanism};
use crate::measure::process::Groups;
use crate::net::tls::Trust;

/// The kind of server at an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ServerKind {
    /// An XMPP server.
    #[default]
    Xmpp,
    /// The floor of this program.
    Floor,
}

/// One server to measure.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerSpec {
    /// Name in the report.
    pub name: String,
    /// The kind of server.
    #[serde(default)]
    pub kind: ServerKind,
    /// `host:port` of its listeners; sessions are spread over them.
    pub addresses: Vec<String>,
    /// The transport of streams.
    #[serde(default = "direct_tls")]
    pub transport: Transport,
    /// XMPP domain.
    #[serde(default = "localhost")]
    pub domain: String,
    /// Domain of its rooms, for the room scenario.
    #[serde(default)]
    pub muc: Option<String>,
    /// PEM file with trusted certificates; without it, any certificate is accepted.
    #[serde(default)]
    pub ca: Option<PathBuf>,
    /// WebSocket path.
    #[serde(default = "websocket_path")]
    pub path: String,
    /// How clients log in.
    #[serde(default)]
    pub auth: AuthSpec,
    /// Processes by group; ratios are computed from the group `server`.
    #[serde(default)]
    pub pids: Groups,
    /// The metrics with its lost leases, if it has leases.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leases: Option<Leases>,
}

/// Accounts of a server.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuthSpec {
    /// SASL mechanism.
    #[serde(default)]
    pub mechanism: Mechanism,
    /// Local parts, such as `user%04d`.
    #[serde(default)]
    pub user: String,
    /// The password of all accounts.
    #[serde(default)]
    pub password: String,
    /// Number of the first account.
    #[serde(default)]
    pub first: usize,
    /// How many accounts exist; further sessions share them, with other resources. 0: one for each
    /// session.
    #[serde(default)]
    pub accounts: usize,
}

/// The work of each server.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Scenario {
    /// Pairs that write to each other.
    Chat(ChatSpec),
    /// A room with one speaker.
    Room(RoomSpec),
    /// Connect, authenticate, bind, enable.
    Login(LoginSpec),
    /// Sessions that do nothing.
    Idle(IdleSpec),
    /// More messages than the server can deliver, or a smaller part of a core than it needs.
    Overload(OverloadSpec),
}

/// The chat scenario.
#[derive(Debug, Clone, Serialize, Deserialize, clap::Args)]
#[serde(default, deny_unknown_fields)]
pub struct ChatSpec {
    /// Pairs of sessions.
    #[arg(long, default_value_t = 200)]
    pub pairs: usize,
    /// Closed loop: messages in flight, over all pairs.
    #[arg(long, default_value_t = 1)]
    pub in_flight: usize,
    /// Count the messages in flight for each pair instead.
    #[arg(long)]
    pub per_pair: bool,
    /// Open loop instead: messages per second.
    #[arg(long)]
    pub rate: Option<f64>,
    /// Bytes of a body.
    #[arg(long, default_value_t = 200)]
    pub body: usize,
    /// Further sessions that are online and idle.
    #[arg(long, default_value_t = 0)]
    pub background: usize,
    /// Bytes of a delivery at the floors (0: those of the body, and 230).
    #[arg(long, default_value_t = 0)]
    pub floor_bytes: usize,
}

impl Default for ChatSpec {
    fn default() -> Self {
        Self {
            pairs: 200,
            in_flight: 1,
            per_pair: false,
            rate: None,
            body: 200,
            background: 0,
            floor_bytes: 0,
        }
    }
}

/// The room scenario.
#[derive(Debug, Clone, Serialize, Deserialize, clap::Args)]
#[serde(default, deny_unknown_fields)]
pub struct RoomSpec {
    /// Occupants, including the speaker.
    #[arg(long, default_value_t = 500)]
    pub occupants: usize,
    /// Closed loop: messages in flight; a message is done when the last occupant has it.
    #[arg(long, default_value_t = 1)]
    pub in_flight: usize,
    /// Open loop instead: messages per second.
    #[arg(long)]
    pub rate: Option<f64>,
    /// Bytes of a body.
    #[arg(long, default_value_t = 200)]
    pub body: usize,
    /// Bytes of a delivery at the floors (0: those of the body, and 230).
    #[arg(long, default_value_t = 0)]
    pub floor_bytes: usize,
}

impl Default for RoomSpec {
    fn default() -> Self {
        Self {
            occupants: 500,
            in_flight: 1,
            rate: None,
            body: 200,
            floor_bytes: 0,
        }
    }
}

/// The login scenario.
#[derive(Debug, Clone, Serialize, Deserialize, clap::Args)]
#[serde(default, deny_unknown_fields)]
pub struct LoginSpec {
    /// Logins that are measured; a tenth as many are made before.
    #[arg(long, default_value_t = 2000)]
    pub count: usize,
    /// Logins at the same time.
    #[arg(long, default_value_t = 8)]
    pub concurrency: usize,
}

impl Default for LoginSpec {
    fn default() -> Self {
        Self {
            count: 2000,
            concurrency: 8,
        }
    }
}

/// The idle scenario.
#[derive(Debug, Clone, Serialize, Deserialize, clap::Args)]
#[serde(default, deny_unknown_fields)]
pub struct IdleSpec {
    /// Sessions.
    #[arg(long, default_value_t = 10_000)]
    pub sessions: usize,
    /// Logins at the same time.
    #[arg(long, default_value_t = 16)]
    pub concurrency: usize,
    /// Seconds to wait before memory is read.
    #[arg(long, default_value_t = 5.0)]
    pub rest_s: f64,
    /// Seconds to wait after all sessions have left.
    #[arg(long, default_value_t = 15.0)]
    pub after_s: f64,
}

impl Default for IdleSpec {
    fn default() -> Self {
        Self {
            sessions: 10_000,
            concurrency: 16,
            rest_s: 5.0,
            after_s: 15.0,
        }
    }
}

/// The overload scenario.
#[derive(Debug, Clone, Serialize, Deserialize, clap::Args)]
#[serde(default, deny_unknown_fields)]
pub struct OverloadSpec {
    /// Pairs of sessions.
    #[arg(long, default_value_t = 200)]
    pub pairs: usize,
    /// The offered load, as a multiple of the server's capacity. The capacity of a server that is
    /// limited to a part of a core is taken to be that part.
    #[arg(long, default_value_t = 2.0)]
    pub times: f64,
    /// Limit each process of the server to this part of a core, such as 10 for a tenth (1: no
    /// limit).
    #[arg(long, default_value_t = 1)]
    pub part: u32,
    /// Seconds of the measurement.
    #[arg(long, default_value_t = 60.0)]
    pub seconds: f64,
    /// Bytes of a body.
    #[arg(long, default_value_t = 200)]
    pub body: usize,
}

impl Default for OverloadSpec {
    fn default() -> Self {
        Self {
            pairs: 200,
            times: 2.0,
            part: 1,
            seconds: 60.0,
            body: 200,
        }
    }
}

/// Timing and acknowledgements, the same for all servers.
#[derive(Debug, Clone, Serialize, Deserialize, clap::Args)]
#[serde(default, deny_unknown_fields)]
pub struct Timing {
    /// Seconds of traffic before the measurement.
    #[arg(long, default_value_t = 1.0)]
    pub warmup_s: f64,
    /// Seconds of the measurement.
    #[arg(long, default_value_t = 5.0)]
    pub duration_s: f64,
    /// Seconds of rest after a run.
    #[arg(long, default_value_t = 1.0)]
    pub settle_s: f64,
    /// Each session asks for an acknowledgement with every n-th stanza (0: never).
    #[arg(long, default_value_t = 25)]
    pub ask_every: u32,
    /// The floors ask with every n-th delivery (0: never).
    #[arg(long, default_value_t = 25)]
    pub floor_ask_every: u32,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            warmup_s: 1.0,
            duration_s: 5.0,
            settle_s: 1.0,
            ask_every: 25,
            floor_ask_every: 25,
        }
    }
}

fn direct_tls() -> Transport {
    Transport::DirectTls
}

fn localhost() -> String {
    "localhost".to_owned()
}

fn websocket_path() -> String {
    "/xmpp-websocket".to_owned()
}

impl ServerSpec {
    /// The endpoint, ready to connect to.
    ///
    /// # Errors
    /// When there is no address or the certificates are unusable.
    pub fn endpoint(&self) -> Result<Endpoint> {
        ensure!(
            !self.addresses.is_empty(),
            "server '{}' has no address",
            self.name
        );
        let trust = match &self.ca {
            Some(path) => TrustOptions {
                ca: Some(path.clone()),
                insecure: false,
            }
            .load()?,
            None => Trust::Anything,
        };
        let mut endpoint = Endpoint::new(&self.domain, self.transport, &trust)?;
        endpoint.path.clone_from(&self.path);
        Ok(endpoint)
    }

    /// The address of session `index`.
    #[must_use]
    pub fn address(&self, index: usize) -> &str {
        &self.addresses[index % self.addresses.len()]
    }

    /// Credentials and resource of session `index`.
    #[must_use]
    pub fn credentials(&self, index: usize) -> (Credentials, Option<String>) {
        let auth = &self.auth;
        if auth.mechanism == Mechanism::Anonymous {
            let who = Credentials {
                mechanism: Mechanism::Anonymous,
                ..Credentials::default()
            };
            return (who, None);
        }
        let account = if auth.accounts > 0 {
            index % auth.accounts
        } else {
            index
        };
        let who = Credentials {
            mechanism: auth.mechanism,
            user: numbered(&auth.user, auth.first + account),
            password: auth.password.clone(),
        };
        (who, Some(format!("load{index}")))
    }
}

/// Replaces `%d` or `%04d` by `number`; a pattern without either gets it appended.
#[must_use]
pub fn numbered(pattern: &str, number: usize) -> String {
    if let Some((before, after)) = pattern.split_once('%')
        && let Some((width, rest)) = after.split_once('d')
        && width.bytes().all(|b| b.is_ascii_digit())
    {
        let width = width.parse().unwrap_or(0);
        return format!("{before}{number:0width$}{rest}");
    }
    format!("{pattern}{number}")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn patterns_number_accounts() {
        assert_eq!(numbered("user%04d", 7), "user0007");
        assert_eq!(numbered("u%d-x", 12), "u12-x");
        assert_eq!(numbered("u", 3), "u3");
        assert_eq!(numbered("100%", 3), "100%3");
    }

    #[test]
    fn a_minimal_description_gets_defaults_and_a_typo_is_an_error() {
        let server: ServerSpec = serde_json::from_str(
            r#"{"name":"a","addresses":["127.0.0.1:1"],"auth":{"mechanism":"ANONYMOUS"}}"#,
        )
        .unwrap();
        assert_eq!(server.transport, Transport::DirectTls);
        assert_eq!(server.credentials(3).1, None);
        let scenario: Scenario = serde_json::from_str(r#"{"kind":"chat","in_flight":8}"#).unwrap();
        assert!(matches!(scenario, Scenario::Chat(chat) if chat.pairs == 200));
        assert!(serde_json::from_str::<Scenario>(r#"{"kind":"chat","inflight":8}"#).is_err());
    }
}
