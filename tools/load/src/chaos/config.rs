//! The configuration of a fault run.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

use super::history::{Conversation, Kind};
use crate::client::endpoint::Transport;
use crate::client::sasl::Mechanism;

/// Configuration file of `sestina-load chaos`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Seed of all random choices.
    #[serde(default)]
    pub seed: u64,
    /// Number of sessions.
    #[serde(default = "sessions")]
    pub sessions: usize,
    /// Share of the sessions that are in rooms; the others are in pairs.
    #[serde(default = "half")]
    pub room_share: f64,
    /// Occupants of a room.
    #[serde(default = "ten")]
    pub room_size: usize,
    /// `host:port` of all edges.
    pub edges: Vec<String>,
    /// The transport of streams.
    #[serde(default = "direct_tls")]
    pub transport: Transport,
    /// XMPP domain.
    pub domain: String,
    /// Domain of the rooms.
    pub muc: String,
    /// PEM file with trusted certificates; either this or `insecure` must be given.
    #[serde(default)]
    pub ca: Option<PathBuf>,
    /// Accept any certificate.
    #[serde(default)]
    pub insecure: bool,
    /// The accounts.
    pub users: Users,
    /// SASL mechanism.
    #[serde(default)]
    pub mechanism: Mechanism,
    /// Messages per second of each session, on average.
    #[serde(default = "one")]
    pub rate: f64,
    /// Reads of the last page of its own archive per second of each session of a pair, on average.
    #[serde(default = "archive_rate")]
    pub archive_rate: f64,
    /// Check archives at the end; false for servers without archives.
    #[serde(default = "yes")]
    pub archives: bool,
    /// Bytes of padding in each body.
    #[serde(default)]
    pub padding: usize,
    /// Ask for an acknowledgement with every n-th stanza.
    #[serde(default = "three")]
    pub ask_every: u32,
    /// A socket counts as dead if a request for an acknowledgement is unanswered for this time and
    /// no other bytes come either.
    #[serde(default = "ten_seconds")]
    pub ack_timeout_ms: u64,
    /// Limit from the connection attempt to the resumed or bound session.
    #[serde(default = "eight_seconds")]
    pub login_timeout_ms: u64,
    /// Logins at the same time while the run starts.
    #[serde(default = "sixteen")]
    pub start_concurrency: usize,
    /// Begin to send as soon as all sessions are ready, without waiting for `resume`.
    #[serde(default = "yes")]
    pub autostart: bool,
    /// Limit for messages that are under way at `verify`, in seconds.
    #[serde(default = "sixty")]
    pub verify_timeout_s: u64,
    /// File for all events, one line of JSON each.
    #[serde(default)]
    pub log: Option<PathBuf>,
}

/// The accounts: one per session.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Users {
    /// `user%04d` with one password.
    Pattern(Pattern),
    /// Names with their passwords.
    List(Vec<(String, String)>),
}

/// Accounts by pattern.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pattern {
    /// Local parts, such as `user%04d`.
    pub pattern: String,
    /// Password of all accounts.
    pub password: String,
    /// Number of the first account.
    #[serde(default)]
    pub first: usize,
}

impl Users {
    /// Name and password of account `index`.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<(String, String)> {
        match self {
            Self::Pattern(users) => {
                let name = crate::bench::spec::numbered(&users.pattern, users.first + index);
                Some((name, users.password.clone()))
            }
            Self::List(users) => users.get(index).cloned(),
        }
    }
}

fn sessions() -> usize {
    500
}

fn half() -> f64 {
    0.5
}

fn ten() -> usize {
    10
}

fn one() -> f64 {
    1.0
}

fn archive_rate() -> f64 {
    0.02
}

fn three() -> u32 {
    3
}

fn ten_seconds() -> u64 {
    10_000
}

fn eight_seconds() -> u64 {
    8_000
}

fn sixteen() -> usize {
    16
}

fn sixty() -> u64 {
    60
}

fn yes() -> bool {
    true
}

fn direct_tls() -> Transport {
    Transport::DirectTls
}

impl Config {
    /// Refuses a configuration that cannot work.
    ///
    /// # Errors
    /// When a value is out of range or accounts are missing.
    pub fn check(&self) -> Result<()> {
        ensure!(
            !self.edges.is_empty(),
            "'edges' is empty: give host:port of at least one edge"
        );
        ensure!(self.sessions >= 2, "'sessions' must be at least 2");
        ensure!(
            (0.0..=1.0).contains(&self.room_share),
            "'room_share' must be from 0 to 1"
        );
        ensure!(self.room_size >= 2, "'room_size' must be at least 2");
        ensure!(self.rate > 0.0, "'rate' must be above 0");
        ensure!(
            self.archive_rate >= 0.0,
            "'archive_rate' must not be negative"
        );
        ensure!(self.ask_every > 0, "'ask_every' must be at least 1");
        ensure!(
            self.users.get(self.sessions - 1).is_some(),
            "'users' has fewer accounts than 'sessions'"
        );
        Ok(())
    }

    /// The members of each conversation: rooms first, then pairs. A session that is left over joins
    /// the last room or, without rooms, stays unavailable.
    #[must_use]
    pub fn conversations(&self) -> Vec<Conversation> {
        let mut in_rooms = (self.sessions as f64 * self.room_share).round() as usize;
        if in_rooms < self.room_size {
            in_rooms = 0;
        }
        if (self.sessions - in_rooms) % 2 == 1 && in_rooms > 0 {
            in_rooms += 1;
        }
        let rooms = in_rooms / self.room_size;
        let mut found = Vec::new();
        let mut next = 0;
        for room in 0..rooms {
            let end = if room + 1 == rooms {
                in_rooms
            } else {
                next + self.room_size
            };
            found.push(Conversation {
                kind: Kind::Room,
                members: (next..end).collect(),
            });
            next = end;
        }
        while next + 1 < self.sessions {
            found.push(Conversation {
                kind: Kind::Pair,
                members: vec![next, next + 1],
            });
            next += 2;
        }
        found
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn config(extra: &str) -> Config {
        let text = format!(
            r#"{{"edges":["127.0.0.1:1"],"domain":"d","muc":"m","insecure":true,
                "users":{{"pattern":"user%04d","password":"x"}}{extra}}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn half_of_500_are_in_rooms_of_ten() {
        let conversations = config("").conversations();
        let rooms: Vec<_> = conversations
            .iter()
            .filter(|c| c.kind == Kind::Room)
            .collect();
        assert_eq!((rooms.len(), conversations.len()), (25, 150));
        assert!(rooms.iter().all(|room| room.members.len() == 10));
        let mut members: Vec<_> = conversations.iter().flat_map(|c| &c.members).collect();
        members.sort_unstable();
        members.dedup();
        assert_eq!(members.len(), 500);
    }

    #[test]
    fn accounts_come_from_a_pattern_or_a_list() {
        assert_eq!(config("").users.get(3).unwrap().0, "user0003");
        let users: Users = serde_json::from_str(r#"[["a","b"]]"#).unwrap();
        assert_eq!(users.get(0).unwrap(), ("a".to_owned(), "b".to_owned()));
        assert!(users.get(1).is_none());
        assert!(config(r#","sessions":1"#).check().is_err());
    }
}
