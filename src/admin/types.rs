//! Arguments and answers. `--json` prints their keys, so keys are only ever added.

use serde::{Deserialize, Serialize};
use sestina_router::admin::{Counts, SessionInfo};

/// Names a user.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UserRef {
    /// Bare JID.
    pub jid: String,
}

/// A user and a password; never logged.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UserPassword {
    /// Bare JID.
    pub jid: String,
    /// The password.
    pub password: String,
}

/// Selects users.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct UserQuery {
    /// Only of this host.
    pub host: Option<String>,
}

/// An account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// Bare JID.
    pub jid: String,
    /// Logging in is not allowed.
    pub disabled: bool,
    /// Unix milliseconds.
    pub created_ms: i64,
    /// Mechanisms for which the account has keys.
    pub mechanisms: Vec<String>,
}

/// Accounts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Users {
    /// In order of JID.
    pub users: Vec<User>,
}

/// Selects sessions.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SessionQuery {
    /// Full JID, or bare for all sessions of a user; none: all.
    pub jid: Option<String>,
    /// Only sessions that the asked process owns.
    pub local: bool,
}

/// Sessions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sessions {
    /// In order of JID.
    pub sessions: Vec<SessionInfo>,
    /// All routers answered.
    pub complete: bool,
    /// Routers that did not answer, and why.
    pub missing: Vec<String>,
}

/// The result of closing sessions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Closed {
    /// How many were closed.
    pub closed: usize,
    /// All routers answered.
    pub complete: bool,
    /// Routers that did not answer, and why.
    pub missing: Vec<String>,
}

/// The result of a change.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// The user that was changed.
    pub jid: String,
}

/// Which router owns which slots.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slots {
    /// Version of the table.
    pub version: u64,
    /// Runs of slots with the same owner, in order.
    pub ranges: Vec<SlotRange>,
    /// How many slots each router owns.
    pub routers: Vec<SlotOwner>,
    /// Slots without an owner.
    pub unowned: usize,
}

/// A run of slots with the same owner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotRange {
    /// First slot.
    pub first: u16,
    /// Last slot.
    pub last: u16,
    /// Name of the owner.
    pub owner: Option<String>,
}

/// A router and its slots.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotOwner {
    /// Its name.
    pub name: String,
    /// Its incarnation, as text: JSON readers lose digits of numbers of that size.
    pub incarnation: String,
    /// Its address.
    pub address: String,
    /// How many slots it owns.
    pub slots: usize,
}

/// Selects the processes of the status.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StatusQuery {
    /// Only the asked process.
    pub local: bool,
}

/// The state of one router.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouterStatus {
    /// Its name.
    pub name: String,
    /// Its incarnation, as text.
    pub incarnation: String,
    /// It holds its lease.
    pub ready: bool,
    /// Version of the slot table that it knows.
    pub table_version: u64,
    /// Slots that the table gives to it.
    pub owned: usize,
    /// The version of the protocol between tiers that the cluster speaks, as this router knows it.
    #[serde(default)]
    pub speaks: u32,
    /// Its numbers of slots, sessions and rooms.
    pub counts: Counts,
}

/// The state of a process that is no router.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Its name.
    pub name: String,
    /// `edge` or `storage`.
    pub role: String,
    /// Version of the program.
    pub program: String,
    /// The oldest version of the protocol between tiers that it speaks.
    #[serde(default)]
    pub oldest: u32,
    /// The newest one.
    #[serde(default)]
    pub newest: u32,
    /// The version that the cluster speaks, as this process knows it; 0: not known.
    #[serde(default)]
    pub speaks: u32,
    /// It is ready.
    pub ready: bool,
    /// If not, the reason.
    pub reason: String,
}

/// One of the two lease authorities.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthorityStatus {
    /// `redis` or `storage`.
    pub name: String,
    /// It answers.
    pub reachable: bool,
    /// If not, the reason.
    pub reason: String,
}

/// A process with a lease.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessStatus {
    /// Its name.
    pub name: String,
    /// `edge` or `router`.
    pub role: String,
    /// Its incarnation, as text.
    pub incarnation: String,
    /// Its address; empty inside one process.
    pub address: String,
    /// It is draining.
    pub draining: bool,
    /// Its lease is fresh in Redis (or memory).
    pub redis: bool,
    /// Its lease is fresh in storage.
    pub storage: bool,
    /// Version of its program; empty: not reported.
    #[serde(default)]
    pub program: String,
    /// The oldest version of the protocol between tiers that it speaks.
    #[serde(default)]
    pub oldest: u32,
    /// The newest one.
    #[serde(default)]
    pub newest: u32,
}

/// The state of the cluster, as one router sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The cluster is redundant: the next fault may come.
    pub redundant: bool,
    /// The reasons if it is not redundant.
    pub missing: Vec<String>,
    /// All routers answered.
    pub complete: bool,
    /// The process that answers.
    pub node: String,
    /// Version of the program.
    pub program: String,
    /// Version of the slot table.
    pub table_version: u64,
    /// Both authorities.
    pub authorities: Vec<AuthorityStatus>,
    /// All processes with a lease.
    pub processes: Vec<ProcessStatus>,
    /// All storage processes.
    #[serde(default)]
    pub storages: Vec<ProcessStatus>,
    /// Version of the protocol between tiers that the cluster speaks: the highest that all its
    /// processes know.
    #[serde(default)]
    pub speaks: u32,
    /// All routers that answered.
    pub routers: Vec<RouterStatus>,
    /// Sessions, with and without a socket.
    pub sessions: usize,
    /// Of these, without a socket.
    pub detached: usize,
    /// Live rooms.
    pub rooms: usize,
    /// Occupants of these rooms.
    pub occupants: usize,
}

/// Fail points to arm: `name=action`, separated by `;`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FailpointArm {
    /// The points.
    pub points: String,
}

/// Names a fail point.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FailpointRef {
    /// Its name.
    pub name: String,
}

/// A fail point.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failpoint {
    /// Its name.
    pub name: String,
    /// Its place in the code.
    pub what: String,
    /// Its action when it is reached; none: it is not armed.
    pub action: Option<String>,
    /// How often it was reached since it was armed.
    pub hits: u64,
}

/// All fail points.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failpoints {
    /// In the order of the life of a stanza.
    pub points: Vec<Failpoint>,
}
