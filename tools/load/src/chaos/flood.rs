//! Clients that write as fast as the server reads, to a client that does not read.
//!
//! They are guests of a fault run, and must not affect other clients. Each of their messages that
//! the server acknowledged must reach the receiver once it reads, or come back as an error.

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

/// How long the reader waits for further messages.
const SILENCE: Duration = Duration::from_secs(5);
/// How long all steps after the flood may take.
const LIMIT: Duration = Duration::from_secs(90);
/// Messages written before the reading side gets its turn.
const BURST: u32 = 32;
/// Messages of one writer that may be unacknowledged: those in the kernel's buffers are written
/// after the flood, at the rate that the server allows.
const WINDOW: u32 = 500;
/// Numbers of one writer's messages.
const SHARE: u32 = 1_000_000;

/// The plan of the flood.
#[derive(Debug, Clone)]
pub struct Flood {
    /// `host:port` for the writers, then for the reader.
    pub addresses: [String; 2],
    /// The accounts of the writers.
    pub writers: Vec<Credentials>,
    /// The account of the reader.
    pub reader: Credentials,
    /// How long the writers write.
    pub time: Duration,
    /// Bytes of padding in each message.
    pub size: usize,
}

/// The result.
#[derive(Debug, Default, Serialize)]
pub struct Outcome {
    /// Messages written.
    pub sent: u32,
    /// Messages that the server acknowledged.
    pub acknowledged: usize,
    /// Messages that came back with an error.
    pub bounced: usize,
    /// Messages that reached the reader.
    pub delivered: usize,
    /// Messages that reached it more than once.
    pub doubled: usize,
    /// Messages that were acknowledged, and neither delivered nor returned.
    pub lost: usize,
    /// The reasons for which the server ended the writers' streams.
    pub writers_ended: Vec<String>,
    /// The reasons for which it ended the reader's streams.
    pub reader_ended: Vec<String>,
}

/// The state of one writer.
struct Writer {
    user: User,
    /// The number before its first message.
    first: u32,
    sent: u32,
    told: Told,
    ended: Vec<String>,
}

/// Runs the plan.
///
/// # Errors
/// When a client cannot log in, or the flood does not end within [`LIMIT`].
pub async fn flood(endpoint: &Endpoint, plan: &Flood) -> Result<Outcome> {
    let [to_writers, to_reader] = &plan.addresses;
    let reader = User::login(endpoint, to_reader, &plan.reader).await?;
    let to = reader.jid().to_owned();
    let mark = format!("{:08x}", rand::random::<u32>());
    let mut writing = Vec::new();
    for (index, who) in plan.writers.iter().enumerate() {
        let writer = Writer {
            user: User::login(endpoint, to_writers, who).await?,
            first: index as u32 * SHARE,
            sent: 0,
            told: Told::default(),
            ended: Vec::new(),
        };
        writing.push(writer.write(endpoint, plan, &to, &mark));
    }
    let mut out = Outcome::default();
    let mut writers = futures_util::future::try_join_all(writing).await?;
    let got = timeout(LIMIT, read(endpoint, plan, reader, &mark, &mut out));
    let got = got.await.context("the reader did not come to its end")??;
    for writer in &mut writers {
        // Errors for undeliverable messages may come late, after the last message.
        let second = Duration::from_secs(1);
        while let Ok(Ok(true)) = timeout(second, writer.user.stream_mut().fill()).await {
            writer.told.drain(&mut writer.user, &mark)?;
        }
        writer.user.handle().close();
        let told = &writer.told;
        out.sent += writer.sent;
        out.acknowledged += told.acknowledged.len();
        out.bounced += told.bounced.len();
        let gone = told.acknowledged.difference(&got);
        out.lost += gone.filter(|n| !told.bounced.contains(n)).count();
        out.writers_ended.append(&mut writer.ended);
    }
    out.delivered = got.len();
    Ok(out)
}

/// Acknowledgements and errors for the writer.
#[derive(Default)]
struct Told {
    acknowledged: HashSet<u32>,
    bounced: HashSet<u32>,
}

impl Told {
    /// Handles all elements that were read; an error is the end of the stream.
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

impl Writer {
    async fn write(
        mut self,
        endpoint: &Endpoint,
        plan: &Flood,
        to: &str,
        mark: &str,
    ) -> Result<Writer> {
        let filling = "x".repeat(plan.size);
        let begun = Instant::now();
        let mut asked = false;
        while begun.elapsed() < plan.time + LIMIT {
            let over = begun.elapsed() >= plan.time;
            let open = self.user.handle().counters(|counters| counters.open());
            if over && open == 0 {
                return Ok(self);
            }
            let mut broken = None;
            if over {
                if !std::mem::replace(&mut asked, true) {
                    broken = self.user.handle().request().err().map(anyhow::Error::from);
                }
            } else if open < WINDOW && !self.user.handle().link().is_blocked() {
                broken = self.burst(to, mark, &filling).err();
            }
            let wait = Duration::from_millis(if over { 200 } else { 1 });
            match timeout(wait, self.user.stream_mut().fill()).await {
                Ok(Ok(true)) => broken = broken.or(self.told.drain(&mut self.user, mark).err()),
                Ok(Ok(false)) => broken = Some(anyhow::anyhow!("the connection was closed")),
                Ok(Err(error)) => broken = Some(error),
                Err(_) => {}
            }
            if let Some(why) = broken {
                self.ended.push(format!("{why:#}"));
                asked = false;
                self.user = again(endpoint, &plan.addresses[0], self.user).await?.0;
            }
        }
        bail!("the messages were not acknowledged within {LIMIT:?}")
    }

    fn burst(&mut self, to: &str, mark: &str, filling: &str) -> Result<()> {
        for _ in 0..BURST {
            let number = self.first + self.sent;
            let id = format!("{mark} {number}");
            let message = stanza::message(self.user.is_websocket(), "chat", to, &id, filling);
            self.sent += 1;
            self.user.handle().send(&message, Some(number))?;
        }
        Ok(())
    }
}

/// Reads all waiting messages, over as many connections as needed.
async fn read(
    endpoint: &Endpoint,
    plan: &Flood,
    mut reader: User,
    mark: &str,
    out: &mut Outcome,
) -> Result<HashSet<u32>> {
    let mut got = HashSet::new();
    // After a failed resumption, unacknowledged messages of the old session may be delivered again.
    let mut here = HashSet::new();
    loop {
        let end = loop {
            let mut doubled = 0;
            let drained = each(&mut reader, |kind, element| {
                let message = element.filter(|_| kind == Kind::Message);
                if let Some(n) = message.and_then(|element| number(element, mark)) {
                    doubled += usize::from(!here.insert(n));
                    got.insert(n);
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
        let (user, anew) = again(endpoint, &plan.addresses[1], reader).await?;
        reader = user;
        if let Some(why) = anew {
            out.reader_ended.push(why);
            here.clear();
        }
    }
}

/// Resumes; if the server refuses, logs in anew and returns the reason.
async fn again(endpoint: &Endpoint, address: &str, user: User) -> Result<(User, Option<String>)> {
    let who = user.who().clone();
    let mut last = match user.resume(endpoint, address).await {
        Ok(user) => return Ok((user, None)),
        Err(error) => error,
    };
    for _ in 0..10 {
        match User::login(endpoint, address, &who).await {
            Ok(user) => return Ok((user, Some(format!("{last:#}")))),
            Err(error) => last = error,
        }
        sleep(Duration::from_millis(500)).await;
    }
    Err(last)
}

/// Passes on each element that was read.
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
