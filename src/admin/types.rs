//! Arguments and answers. The keys are what `--json` prints: they are only ever added to.

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

/// Which users to list.
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
    /// Mechanisms that there are keys for.
    pub mechanisms: Vec<String>,
}

/// Accounts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Users {
    /// In order of JID.
    pub users: Vec<User>,
}

/// Which sessions.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SessionQuery {
    /// Full JID, or bare for all sessions of a user; none: all.
    pub jid: Option<String>,
    /// Only what the asked process owns.
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

/// What became of closing sessions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Closed {
    /// How many were closed.
    pub closed: usize,
    /// All routers answered.
    pub complete: bool,
    /// Routers that did not answer, and why.
    pub missing: Vec<String>,
}

/// What became of a change.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// What was changed.
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
    /// Its incarnation, as text: programs lose digits of numbers of that size.
    pub incarnation: String,
    /// Its address.
    pub address: String,
    /// How many slots it owns.
    pub slots: usize,
}

/// Which processes the status is about.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StatusQuery {
    /// Only the asked process.
    pub local: bool,
}

/// How one router is.
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
    /// What it has.
    pub counts: Counts,
}

/// How a process that is no router is.
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
    /// It can do its work.
    pub ready: bool,
    /// If not, why.
    pub reason: String,
}

/// One of the two lease authorities.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthorityStatus {
    /// `redis` or `storage`.
    pub name: String,
    /// It answers.
    pub reachable: bool,
    /// If not, why.
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
    /// It is leaving.
    pub draining: bool,
    /// Its lease is fresh in Redis (or memory).
    pub redis: bool,
    /// Its lease is fresh in storage.
    pub storage: bool,
    /// Version of its program; empty: it does not say.
    #[serde(default)]
    pub program: String,
    /// The oldest version of the protocol between tiers that it speaks.
    #[serde(default)]
    pub oldest: u32,
    /// The newest one.
    #[serde(default)]
    pub newest: u32,
}

/// How the cluster is, as one router sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// It can take the next fault: nothing is missing.
    pub whole: bool,
    /// What is missing.
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
    /// Occupants of them.
    pub occupants: usize,
}

/// Fail points to arm: `name=action`, several with `;` between them.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FailpointArm {
    /// What to arm.
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
    /// Where it is.
    pub what: String,
    /// What it does when it is reached; none: it is not armed.
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
