//! Opens many sessions, at XMPP servers and at the floor.

use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use rustls::Connection;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::spec::{ServerKind, ServerSpec};
use crate::client::endpoint::Endpoint;
use crate::client::handle::Handle;
use crate::client::login::login;
use crate::client::sm::Counters;
use crate::client::stanza;
use crate::client::stream::Stream;
use crate::floor::hello::Hello;
use crate::net::link::{ReadSide, link};

/// A session of a benchmark.
#[derive(Debug)]
pub struct Member {
    /// The reading side.
    pub stream: Stream,
    /// The sending side.
    pub handle: Arc<Handle>,
    /// Full JID; empty at the floor.
    pub jid: String,
}

/// A server to connect to.
#[derive(Debug, Clone)]
pub struct Target {
    /// Its description.
    pub spec: Arc<ServerSpec>,
    endpoint: Arc<Endpoint>,
    ask_every: u32,
}

impl Target {
    /// Prepares TLS and the endpoint.
    ///
    /// # Errors
    /// When the description is unusable.
    pub fn new(spec: &ServerSpec, ask_every: u32) -> Result<Self> {
        let mut endpoint = spec.endpoint()?;
        if spec.kind == ServerKind::Floor {
            endpoint = Endpoint::new(
                "localhost",
                crate::client::endpoint::Transport::DirectTls,
                &crate::net::tls::Trust::Anything,
            )?;
            endpoint.tls = crate::net::tls::TlsClient::new(&crate::net::tls::Trust::Anything, &[])?;
        }
        Ok(Self {
            spec: Arc::new(spec.clone()),
            endpoint: Arc::new(endpoint),
            ask_every,
        })
    }

    /// Whether this is the floor.
    #[must_use]
    pub fn is_floor(&self) -> bool {
        self.spec.kind == ServerKind::Floor
    }

    /// Connects, authenticates, binds and enables session `index`.
    ///
    /// # Errors
    /// When any step fails.
    pub async fn session(&self, index: usize) -> Result<Member> {
        let (who, resource) = self.spec.credentials(index);
        let address = self.spec.address(index);
        let mut login = login(&self.endpoint, address, &who).await?;
        let jid = login.bind(resource.as_deref()).await?;
        login.enable(true).await?;
        let stream = login.stream;
        Ok(self.member(stream, jid))
    }

    /// Connects to the floor and sends `hello`.
    ///
    /// # Errors
    /// When any step fails.
    pub async fn floor_session(&self, hello: &Hello) -> Result<Member> {
        let address = self.spec.address(hello.number);
        let mut stream = Stream::connect(&self.endpoint, address).await?;
        stream.expect_elements();
        stream.send(&hello.encode())?;
        let answer = stream.next_element().await?;
        ensure!(answer.name == "ok", "the floor answered <{}/>", answer.name);
        Ok(self.member(stream, String::new()))
    }

    /// A bare TLS connection.
    ///
    /// # Errors
    /// When the handshake fails.
    pub async fn handshake(&self, index: usize) -> Result<ReadSide> {
        let tcp = TcpStream::connect(self.spec.address(index)).await?;
        let (link, mut reader) = link(tcp)?;
        let tls: Connection = self.endpoint.tls.connection("localhost")?;
        link.start_tls(tls)?;
        reader.handshake(&mut Vec::new()).await?;
        Ok(reader)
    }

    fn member(&self, stream: Stream, jid: String) -> Member {
        let handle = Handle::new(
            Arc::clone(stream.link()),
            stream.is_websocket(),
            self.ask_every,
            Counters::default(),
        );
        Member {
            stream,
            handle: Arc::new(handle),
            jid,
        }
    }

    /// Opens the sessions of `numbers`, some at a time, in their order. At the floor, `hello` gives
    /// the properties of each.
    ///
    /// # Errors
    /// When a session cannot be opened.
    pub async fn open(
        &self,
        numbers: std::ops::Range<usize>,
        concurrency: usize,
        presence: bool,
        hello: impl Fn(usize) -> Hello,
    ) -> Result<Vec<Member>> {
        let limit = Arc::new(Semaphore::new(concurrency.max(1)));
        let first = numbers.start;
        let mut found: Vec<Option<Member>> = Vec::new();
        found.resize_with(numbers.len(), || None);
        let mut tasks = JoinSet::new();
        for number in numbers {
            let hello = self.is_floor().then(|| hello(number));
            let (target, limit) = (self.clone(), Arc::clone(&limit));
            tasks.spawn(async move {
                let _permit = limit.acquire_owned().await?;
                let member = match hello {
                    Some(hello) => Box::pin(target.floor_session(&hello)).await,
                    None => Box::pin(target.session(number)).await,
                };
                member
                    .with_context(|| format!("session {number} at '{}'", target.spec.name))
                    .map(|member| (number, member))
            });
        }
        while let Some(done) = tasks.join_next().await {
            let (number, member) = done??;
            if presence && !self.is_floor() {
                member
                    .handle
                    .send(&stanza::available(member.stream.is_websocket()), None)?;
            }
            found[number - first] = Some(member);
        }
        Ok(found.into_iter().flatten().collect())
    }
}
