//! Clients that abuse the server, all at once, within the limits of the protocol.
//!
//! They are guests of a fault run, and must not affect other clients. The effects on themselves are
//! not checked; the sessions of the run beside them are.
//!
//! - silent: connections that send nothing, and TLS handshakes that end in their first record
//! - hoard: one account fills the queue of its own second session, which does not read
//! - archive: many pages of an archive are requested at a time, without waiting for them
//! - joins: rooms are joined as fast as the server allows
//! - presence: large presences in one room, as fast as the server reads

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde::Serialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::client::archive::{Part, Query};
use crate::client::endpoint::Endpoint;
use crate::client::handle::Kind;
use crate::client::sasl::Credentials;
use crate::client::stanza;
use crate::smoke::User;

/// Silent connections; every second one begins a TLS handshake and stops there.
const SILENT: usize = 400;
/// The head of a TLS record that is never finished: a handshake of 512 bytes.
const HALF_A_HELLO: [u8; 5] = [0x16, 3, 1, 2, 0];
/// Bytes of padding in messages that fill queues.
const LARGE: usize = 60_000;
/// Bytes of status text in a presence.
const STATUS: usize = 20_000;
/// Requests under way at a time.
const OPEN: usize = 20;
/// How long a disconnected client waits before it returns.
const AGAIN: Duration = Duration::from_millis(500);

/// The plan of the abuse.
#[derive(Debug, Clone)]
pub struct Abuse {
    /// `host:port` of the edge to which they connect.
    pub address: String,
    /// Accounts: hoard, archive, joins, presence.
    pub users: [Credentials; 4],
    /// Domain of the rooms.
    pub muc: String,
    /// Its duration.
    pub time: Duration,
}

/// The result.
#[derive(Debug, Default, Serialize)]
pub struct Outcome {
    /// Silent connections that were opened, including replacements.
    pub silent_opened: u64,
    /// Silent connections that the server closed or refused.
    pub silent_ended: u64,
    /// Stanzas that abusers wrote.
    pub stanzas: u64,
    /// Errors that the server sent.
    pub errors: u64,
    /// Streams that the server ended.
    pub streams_ended: u64,
    /// Logins that the server refused.
    pub logins_refused: u64,
}

impl Outcome {
    fn add(&mut self, other: &Outcome) {
        self.silent_opened += other.silent_opened;
        self.silent_ended += other.silent_ended;
        self.stanzas += other.stanzas;
        self.errors += other.errors;
        self.streams_ended += other.streams_ended;
        self.logins_refused += other.logins_refused;
    }
}

/// The behaviour of an account.
#[derive(Debug, Clone, Copy)]
enum Habit {
    Hoard,
    Archive,
    Joins,
    Presence,
}

/// Runs the plan.
///
/// # Errors
/// When a task of this process fails, which is no defect of the server.
pub async fn abuse(endpoint: &Endpoint, plan: &Abuse) -> Result<Outcome> {
    let until = Instant::now() + plan.time;
    let mut tasks = JoinSet::new();
    for n in 0..SILENT {
        tasks.spawn(silent(plan.address.clone(), n % 2 == 1, until));
    }
    let habits = [Habit::Hoard, Habit::Archive, Habit::Joins, Habit::Presence];
    for (who, habit) in plan.users.iter().zip(habits) {
        let (endpoint, plan, who) = (endpoint.clone(), plan.clone(), who.clone());
        tasks.spawn(async move { Box::pin(account(&endpoint, &plan, &who, habit, until)).await });
    }
    let mut outcome = Outcome::default();
    while let Some(done) = tasks.join_next().await {
        outcome.add(&done.context("an abuser failed")?);
    }
    Ok(outcome)
}

/// Opens one silent connection after the other.
async fn silent(address: String, half: bool, until: Instant) -> Outcome {
    let mut out = Outcome::default();
    let mut byte = [0; 1];
    while let Some(left) = left(until) {
        out.silent_opened += 1;
        let held = async {
            let mut tcp = TcpStream::connect(&address).await?;
            if half {
                tcp.write_all(&HALF_A_HELLO).await?;
            }
            // Returns when the server closes the connection.
            tcp.read(&mut byte).await
        };
        match timeout(left, held).await {
            Err(_) => break,
            Ok(_) => out.silent_ended += 1,
        }
        sleep(AGAIN).await;
    }
    out
}

/// One account with its behaviour, over as many sessions as needed.
async fn account(
    endpoint: &Endpoint,
    plan: &Abuse,
    who: &Credentials,
    habit: Habit,
    until: Instant,
) -> Outcome {
    let mut out = Outcome::default();
    let mut sessions = 0;
    while left(until).is_some() {
        let user = match User::login(endpoint, &plan.address, who).await {
            Ok(user) => user,
            Err(_) => {
                out.logins_refused += 1;
                sleep(AGAIN).await;
                continue;
            }
        };
        // The second session of the hoarder, which reads nothing.
        let idle = match habit {
            Habit::Hoard => User::login(endpoint, &plan.address, who).await.ok(),
            _ => None,
        };
        sessions += 1;
        let to = idle.as_ref().map(|user| user.jid().to_owned());
        let mut abuser = Abuser {
            user,
            habit,
            to: to.unwrap_or_default(),
            muc: &plan.muc,
            prefix: format!("abuse-{:08x}-{sessions}", rand::random::<u32>()),
            written: 0,
            answered: 0,
        };
        if abuser.run(until, &mut out).await.is_err() {
            out.streams_ended += 1;
            sleep(AGAIN).await;
        } else {
            abuser.user.handle().close();
        }
    }
    out
}

struct Abuser<'a> {
    user: User,
    habit: Habit,
    /// The session that does not read.
    to: String,
    muc: &'a str,
    /// Makes names and ids of this session unique.
    prefix: String,
    written: usize,
    answered: usize,
}

impl Abuser<'_> {
    async fn run(&mut self, until: Instant, out: &mut Outcome) -> Result<()> {
        while left(until).is_some() {
            let waits = self.written.saturating_sub(self.answered) >= OPEN;
            if !(self.user.handle().link().is_blocked() || self.asks() && waits) {
                let stanza = self.stanza();
                self.user.handle().send(&stanza, None)?;
                self.written += 1;
                out.stanzas += 1;
            }
            match timeout(Duration::from_millis(1), self.user.stream_mut().fill()).await {
                Ok(Ok(true)) => self.hear(out)?,
                Ok(Ok(false)) => bail!("the connection was closed"),
                Ok(Err(error)) => return Err(error),
                Err(_) => {}
            }
        }
        Ok(())
    }

    /// Whether each stanza gets an answer, so that the number under way can be limited.
    fn asks(&self) -> bool {
        matches!(self.habit, Habit::Archive | Habit::Joins)
    }

    fn stanza(&self) -> Vec<u8> {
        let (web, n) = (self.user.is_websocket(), self.written);
        let id = format!("{}-{n}", self.prefix);
        match self.habit {
            Habit::Hoard => stanza::message(web, "chat", &self.to, &id, &"x".repeat(LARGE)),
            // The first messages fill the pages.
            Habit::Archive if n < OPEN => {
                let own = self.user.jid().split('/').next().unwrap_or_default();
                stanza::message(web, "chat", own, &id, &"x".repeat(LARGE))
            }
            Habit::Archive => Query::start(&id, web, Part::All, 250).1,
            Habit::Joins => stanza::join(web, &format!("{id}@{}", self.muc), "a", 0),
            Habit::Presence if n == 0 => {
                stanza::join(web, &format!("abuse@{}", self.muc), &self.prefix, 0)
            }
            Habit::Presence => {
                let to = format!("abuse@{}/{}", self.muc, self.prefix);
                stanza::presence(web, &to, &"x".repeat(STATUS))
            }
        }
    }

    fn hear(&mut self, out: &mut Outcome) -> Result<()> {
        while let Some((kind, bytes)) = self.user.take()? {
            let error = contains(&bytes, b"type='error'") || contains(&bytes, b"type=\"error\"");
            out.errors += u64::from(error);
            match kind {
                Kind::Other => bail!("the server ended the stream"),
                Kind::Iq => self.answered += 1,
                Kind::Message if self.asks() => {
                    // The subject is the last stanza that a newcomer gets.
                    let last = contains(&bytes, b"<subject");
                    let own = matches!(self.habit, Habit::Archive) && !contains(&bytes, b"<result");
                    self.answered += usize::from(last || own);
                }
                Kind::Presence if error => self.answered += 1,
                _ => {}
            }
        }
        Ok(())
    }
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

/// The remaining time; none if it is over.
fn left(until: Instant) -> Option<Duration> {
    until
        .checked_duration_since(Instant::now())
        .filter(|left| !left.is_zero())
}
