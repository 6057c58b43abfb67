//! Small runs for smoke tests: check that the server answers, and that two users can write to each
//! other.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use tokio::time::timeout;

use crate::client::archive::{Part, Progress, Query};
use crate::client::endpoint::Endpoint;
use crate::client::handle::{Handle, Kind};
use crate::client::login::{Resumption, login};
use crate::client::sasl::Credentials;
use crate::client::sm::Counters;
use crate::client::stanza;
use crate::client::stream::Stream;
use crate::xml::split::Item;
use crate::xml::tree::Element;

const STEP: Duration = Duration::from_secs(10);

/// A user of the smoke test.
pub struct User {
    stream: Stream,
    handle: Handle,
    jid: String,
    sm_id: Option<String>,
    who: Credentials,
}

impl std::fmt::Debug for User {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("User")
            .field("jid", &self.jid)
            .finish_non_exhaustive()
    }
}

impl User {
    /// Logs in, binds, enables stream management and becomes available.
    ///
    /// # Errors
    /// When any step fails or takes too long.
    pub async fn login(endpoint: &Endpoint, address: &str, who: &Credentials) -> Result<Self> {
        let all = async {
            let mut login = Box::pin(login(endpoint, address, who)).await?;
            let jid = login.bind(None).await?;
            let sm_id = login.enable(true).await?.id;
            let user = Self::new(login.stream, Counters::keeping(), jid, sm_id, who.clone());
            user.handle
                .send(&stanza::available(user.stream.is_websocket()), None)?;
            anyhow::Ok(user)
        };
        timeout(STEP, all).await.context("no login in time")?
    }

    fn new(
        stream: Stream,
        counters: Counters,
        jid: String,
        sm_id: Option<String>,
        who: Credentials,
    ) -> Self {
        let link = std::sync::Arc::clone(stream.link());
        let handle = Handle::new(link, stream.is_websocket(), 1, counters);
        Self {
            stream,
            handle,
            jid,
            sm_id,
            who,
        }
    }

    /// The full JID.
    #[must_use]
    pub fn jid(&self) -> &str {
        &self.jid
    }

    /// The session's handle.
    #[must_use]
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// The stream, to read from.
    pub fn stream_mut(&mut self) -> &mut Stream {
        &mut self.stream
    }

    /// The account of the session.
    #[must_use]
    pub fn who(&self) -> &Credentials {
        &self.who
    }

    /// The next element of the bytes read so far, counted; none if no complete one has come.
    ///
    /// # Errors
    /// When the stream has ended or the connection is gone.
    pub fn take(&mut self) -> Result<Option<(Kind, Vec<u8>)>> {
        match self.stream.take()? {
            None => Ok(None),
            Some(Item::Element(range)) => {
                let bytes = self.stream.bytes(&range);
                let kind = self.handle.incoming(bytes)?;
                Ok(Some((kind, bytes.to_vec())))
            }
            Some(_) => bail!("the server ended the stream"),
        }
    }

    /// Whether stanzas are WebSocket messages.
    #[must_use]
    pub fn is_websocket(&self) -> bool {
        self.stream.is_websocket()
    }

    /// The next stanza for which `wanted` returns a value; others are counted and dropped.
    ///
    /// # Errors
    /// When the connection breaks or no such stanza comes in time.
    pub async fn until<T>(
        &mut self,
        what: &str,
        mut wanted: impl FnMut(&Element, &Handle) -> Result<Option<T>>,
    ) -> Result<T> {
        let search = async {
            loop {
                while let Some(item) = self.stream.take()? {
                    let Item::Element(range) = item else {
                        bail!("the server ended the stream")
                    };
                    let bytes = self.stream.bytes(&range);
                    match self.handle.incoming(bytes)? {
                        Kind::Message | Kind::Presence | Kind::Iq => {
                            let element = Element::parse(bytes, "jabber:client")?;
                            if let Some(found) = wanted(&element, &self.handle)? {
                                return Ok(found);
                            }
                        }
                        Kind::Other => bail!("unexpected {}", String::from_utf8_lossy(bytes)),
                        Kind::Ack(_) | Kind::Request => {}
                    }
                }
                ensure!(
                    self.stream.fill().await?,
                    "the server closed the connection"
                );
            }
        };
        timeout(STEP, search)
            .await
            .with_context(|| format!("{what} did not come"))?
    }

    /// Waits for a message with this body.
    ///
    /// # Errors
    /// When it does not come.
    pub async fn expect_body(&mut self, body: &str) -> Result<Element> {
        self.until(&format!("the message '{body}'"), |element, _| {
            let found = element.child("body", "jabber:client");
            Ok(found
                .is_some_and(|found| found.text == body)
                .then(|| element.clone()))
        })
        .await
    }

    /// Sends a chat message to a JID.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn say(&self, to: &str, body: &str) -> Result<()> {
        let message = stanza::message(self.is_websocket(), "chat", to, body, body);
        Ok(self.handle.send(&message, None)?)
    }

    /// Drops the socket and resumes at `address`.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn resume(self, endpoint: &Endpoint, address: &str) -> Result<Self> {
        let id = self
            .sm_id
            .clone()
            .context("the server does not resume sessions")?;
        self.handle.link().abandon();
        let counters = self.handle.take_counters();
        let Self {
            jid,
            who,
            stream,
            handle,
            ..
        } = self;
        drop((stream, handle));
        let all = async {
            let mut login = Box::pin(login(endpoint, address, &who)).await?;
            match login.resume(&id, counters.received).await? {
                Resumption::Resumed(handled) => {
                    let user = Self::new(login.stream, counters, jid, Some(id), who.clone());
                    let tags = user.handle.resumed(handled)?;
                    ensure!(
                        tags.is_some(),
                        "the server claims stanzas that were never sent"
                    );
                    Ok(user)
                }
                Resumption::Refused { reason, .. } => bail!("resumption was refused: {reason}"),
            }
        };
        timeout(STEP, all).await.context("no resumption in time")?
    }
}

/// Logs in and asks the server for a pong; returns the round trip's time.
///
/// # Errors
/// When any step fails.
pub async fn ping(endpoint: &Endpoint, address: &str, who: &Credentials) -> Result<Duration> {
    let mut user = User::login(endpoint, address, who).await?;
    let begin = std::time::Instant::now();
    let request = stanza::ping(user.is_websocket(), &endpoint.domain, "ping");
    user.handle.send(&request, None)?;
    user.until("the pong", |element, _| {
        if element.attribute("id") != Some("ping") {
            return Ok(None);
        }
        ensure!(
            element.attribute("type") == Some("result"),
            "the server refuses pings"
        );
        Ok(Some(()))
    })
    .await?;
    user.handle.close();
    Ok(begin.elapsed())
}

/// Two users write to each other, one resumes at each address in turn, and both archives are read.
/// Reports each step to `done`.
///
/// # Errors
/// When any step fails.
pub async fn chat_once(
    endpoint: &Endpoint,
    addresses: &[String],
    users: [&Credentials; 2],
    with_archive: bool,
    done: impl Fn(&str),
) -> Result<()> {
    let first = addresses.first().context("no address given")?;
    let mut a = User::login(endpoint, first, users[0]).await?;
    let mut b = User::login(endpoint, addresses.last().unwrap_or(first), users[1]).await?;
    done(&format!("{} and {} are logged in", a.jid(), b.jid()));

    let mark = format!("{:08x}", rand::random::<u32>());
    let text = |n: u32| format!("{mark} {n}");
    a.say(b.jid(), &text(1))?;
    b.expect_body(&text(1)).await?;
    b.say(a.jid(), &text(2))?;
    a.expect_body(&text(2)).await?;
    done("a message went each way");

    let mut n = 3;
    for address in addresses {
        let to = a.jid().to_owned();
        a.handle.link().close_notify();
        b.say(&to, &text(n))?;
        a = a.resume(endpoint, address).await?;
        a.expect_body(&text(n)).await?;
        a.say(b.jid(), &text(n + 1))?;
        b.expect_body(&text(n + 1)).await?;
        done(&format!("resumed at {address}, nothing was lost"));
        n += 2;
    }
    if with_archive {
        for (name, user) in [("sender", &mut a), ("recipient", &mut b)] {
            let bodies = archive(user)
                .await
                .with_context(|| format!("archive of the {name}"))?;
            let ours: Vec<&String> = bodies.iter().filter(|b| b.starts_with(&mark)).collect();
            let expected: Vec<String> = (1..n).map(text).collect();
            ensure!(
                ours.iter().copied().eq(&expected),
                "the archive of the {name} holds {ours:?}, expected {expected:?}"
            );
        }
        done("both archives hold each message once, in order");
    }
    a.handle.close();
    b.handle.close();
    Ok(())
}

async fn archive(user: &mut User) -> Result<Vec<String>> {
    let (mut query, request) = Query::start("smoke", user.is_websocket(), Part::All, 50);
    user.handle.send(&request, None)?;
    let items = user
        .until("the archive", |element, handle| {
            match query.incoming(element)? {
                Progress::Done(items) => Ok(Some(items)),
                Progress::Ask(request) => {
                    handle.send(&request, None)?;
                    Ok(None)
                }
                Progress::More | Progress::NotMine => Ok(None),
            }
        })
        .await?;
    Ok(items.into_iter().map(|item| item.body).collect())
}
