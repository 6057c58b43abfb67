//! A client that writes as fast as its socket takes it, to one that does not read.
//!
//! Two guests of a fault run: what they do must cost nobody else anything, and what the server
//! acknowledged to the one must still reach the other once it reads, or come back as an error.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde::Serialize;
use tokio::time::{sleep, timeout};

use crate::client::endpoint::Endpoint;
use crate::client::handle::Kind;
use crate::client::sasl::Credentials;
use crate::client::stanza;
use crate::smoke::User;
use crate::xml::tree::Element;

/// How long the reader waits for more once nothing comes.
const SILENCE: Duration = Duration::from_secs(5);
/// How long everything may take after the flood.
const LIMIT: Duration = Duration::from_secs(90);
/// Messages written before the reading side gets its turn.
const BURST: u32 = 32;

/// What the two do.
#[derive(Debug, Clone)]
pub struct Flood {
    /// `host:port` for the writer, then for the reader.
    pub addresses: [String; 2],
    /// The accounts of both.
    pub users: [Credentials; 2],
    /// How long it is written.
    pub time: Duration,
    /// Bytes of filling in each message.
    pub size: usize,
}

/// What came of it.
#[derive(Debug, Default, Serialize)]
pub struct Outcome {
    /// Messages written.
    pub sent: u32,
    /// Of those the server acknowledged.
    pub acknowledged: usize,
    /// Came back with an error.
    pub bounced: usize,
    /// Reached the reader, once it read.
    pub delivered: usize,
    /// Reached it more than once.
    pub doubled: usize,
    /// Acknowledged, and neither delivered nor bounced.
    pub lost: usize,
    /// How the server ended the writer's streams, if it did.
    pub writer_ended: Vec<String>,
    /// How it ended the reader's.
    pub reader_ended: Vec<String>,
}

/// Runs it.
///
/// # Errors
/// When somebody cannot log in, or the end does not come within [`LIMIT`].
pub async fn flood(endpoint: &Endpoint, plan: &Flood) -> Result<Outcome> {
    let [to_writer, to_reader] = &plan.addresses;
    let reader = User::login(endpoint, to_reader, &plan.users[1]).await?;
    let to = reader.jid().to_owned();
    let writer = User::login(endpoint, to_writer, &plan.users[0]).await?;
    let mark = format!("{:08x}", rand::random::<u32>());
    let mut out = Outcome::default();
    let mut told = Told::default();
    let writer = write(endpoint, plan, writer, &to, &mark, &mut out, &mut told).await?;
    let got = timeout(LIMIT, read(endpoint, plan, reader, &mark, &mut out));
    let got = got.await.context("the reader did not come to its end")??;
    // Errors for what could not be delivered may come as late as the last of it.
    let mut writer = writer;
    while let Ok(Ok(true)) = timeout(Duration::from_secs(1), writer.stream_mut().fill()).await {
        told.drain(&mut writer, &mark)?;
    }
    writer.handle().close();
    out.acknowledged = told.acknowledged.len();
    out.bounced = told.bounced.len();
    out.delivered = got.len();
    let gone = told.acknowledged.difference(&got);
    out.lost = gone.filter(|n| !told.bounced.contains(n)).count();
    Ok(out)
}

/// What the server told the writer.
#[derive(Default)]
struct Told {
    acknowledged: HashSet<u32>,
    bounced: HashSet<u32>,
}

impl Told {
    /// Handles all that was read; an error is the end of the stream.
    fn drain(&mut self, user: &mut User, mark: &str) -> Result<()> {
        each(user, |kind, element| {
            match (kind, element) {
                (Kind::Ack(tags), _) => self.acknowledged.extend(tags),
                (Kind::Message, Some(element)) if element.attribute("type") == Some("error") => {
                    self.bounced.extend(number(element, mark));
                }
                _ => {}
            }
            Ok(())
        })
    }
}

async fn write(
    endpoint: &Endpoint,
    plan: &Flood,
    mut writer: User,
    to: &str,
    mark: &str,
    out: &mut Outcome,
    told: &mut Told,
) -> Result<User> {
    let filling = "x".repeat(plan.size);
    let begun = Instant::now();
    let mut asked = false;
    while begun.elapsed() < plan.time + LIMIT {
        let over = begun.elapsed() >= plan.time;
        if over && writer.handle().counters(|counters| counters.open()) == 0 {
            return Ok(writer);
        }
        let mut broken = None;
        if over {
            if !std::mem::replace(&mut asked, true) {
                broken = writer.handle().request().err().map(anyhow::Error::from);
            }
        } else if !writer.handle().link().is_blocked() {
            for _ in 0..BURST {
                let id = format!("{mark} {}", out.sent);
                let message = stanza::message(writer.is_websocket(), "chat", to, &id, &filling);
                let sent = writer.handle().send(&message, Some(out.sent));
                out.sent += 1;
                if let Err(error) = sent {
                    broken = Some(error.into());
                    break;
                }
            }
        }
        let wait = Duration::from_millis(if over { 200 } else { 1 });
        match timeout(wait, writer.stream_mut().fill()).await {
            Ok(Ok(true)) => broken = broken.or(told.drain(&mut writer, mark).err()),
            Ok(Ok(false)) => broken = Some(anyhow::anyhow!("the connection was closed")),
            Ok(Err(error)) => broken = Some(error),
            Err(_) => {}
        }
        if let Some(why) = broken {
            out.writer_ended.push(format!("{why:#}"));
            asked = false;
            writer = again(endpoint, &plan.addresses[0], writer).await?;
        }
    }
    bail!("what was written was not acknowledged within {LIMIT:?}")
}

/// Reads all that waits, over as many connections as it takes.
async fn read(
    endpoint: &Endpoint,
    plan: &Flood,
    mut reader: User,
    mark: &str,
    out: &mut Outcome,
) -> Result<HashSet<u32>> {
    let mut got = HashSet::new();
    loop {
        let end = loop {
            let mut doubled = 0;
            let drained = each(&mut reader, |kind, element| {
                if let (Kind::Message, Some(element)) = (kind, element) {
                    let new = number(element, mark).map(|n| got.insert(n));
                    doubled += usize::from(new == Some(false));
                }
                Ok(())
            });
            out.doubled += doubled;
            if let Err(error) = drained {
                break error;
            }
            match timeout(SILENCE, reader.stream_mut().fill()).await {
                Ok(Ok(true)) => {}
                Ok(Ok(false)) => break anyhow::anyhow!("the connection was closed"),
                Ok(Err(error)) => break error,
                Err(_) => {
                    reader.handle().close();
                    return Ok(got);
                }
            }
        };
        out.reader_ended.push(format!("{end:#}"));
        reader = again(endpoint, &plan.addresses[1], reader).await?;
    }
}

/// Resumes, or where the server does not, begins anew.
async fn again(endpoint: &Endpoint, address: &str, user: User) -> Result<User> {
    let who = user.who().clone();
    let mut last = match user.resume(endpoint, address).await {
        Ok(user) => return Ok(user),
        Err(error) => error,
    };
    for _ in 0..10 {
        match User::login(endpoint, address, &who).await {
            Ok(user) => return Ok(user),
            Err(error) => last = error,
        }
        sleep(Duration::from_millis(500)).await;
    }
    Err(last)
}

/// Hands on each element that was read.
fn each(user: &mut User, mut hear: impl FnMut(Kind, Option<&Element>) -> Result<()>) -> Result<()> {
    while let Some((kind, bytes)) = user.take()? {
        if kind == Kind::Other {
            bail!("the server sent {}", String::from_utf8_lossy(&bytes));
        }
        let stanza = matches!(kind, Kind::Message);
        let element = stanza
            .then(|| Element::parse(&bytes, "jabber:client"))
            .transpose()?;
        hear(kind, element.as_ref())?;
    }
    Ok(())
}

/// The number in the id of a message of this flood.
fn number(element: &Element, mark: &str) -> Option<u32> {
    element
        .attribute("id")?
        .strip_prefix(mark)?
        .trim()
        .parse()
        .ok()
}
