//! An XML stream: RFC 6120 over TCP, RFC 7395 over WebSocket.

use std::ops::Range;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail, ensure};
use tokio::net::TcpStream;

use super::endpoint::{Endpoint, Transport};
use crate::net::link::{Link, ReadSide, link};
use crate::net::ws;
use crate::xml::split::{Item, Splitter};
use crate::xml::tree::{Element, escape, tag_attributes};

/// Namespace of stream features and errors.
pub const STREAMS: &str = "http://etherx.jabber.org/streams";
const TLS: &str = "urn:ietf:params:xml:ns:xmpp-tls";
const CLIENT: &str = "jabber:client";

/// The reading side of a stream; writing goes through [`Stream::link`] or a handle.
#[derive(Debug)]
pub struct Stream {
    reader: ReadSide,
    /// XML not yet consumed.
    buffer: Vec<u8>,
    splitter: Splitter,
    websocket: Option<WebSocket>,
    domain: String,
}

#[derive(Debug, Default)]
struct WebSocket {
    raw: Vec<u8>,
    decoder: ws::Decoder,
}

impl Stream {
    /// Connects to `address`, secures the connection and stops before the first stream header
    /// (that of the encrypted stream).
    ///
    /// # Errors
    /// When any step fails.
    pub async fn connect(endpoint: &Endpoint, address: &str) -> Result<Self> {
        let tcp = TcpStream::connect(address)
            .await
            .with_context(|| format!("cannot connect to {address}"))?;
        let (_, reader) = link(tcp)?;
        let mut stream = Self {
            reader,
            buffer: Vec::new(),
            splitter: Splitter::stream(),
            websocket: None,
            domain: endpoint.domain.clone(),
        };
        match endpoint.transport {
            Transport::Tcp => {}
            Transport::DirectTls => stream.secure(endpoint).await?,
            Transport::Starttls => {
                stream.start_tls().await?;
                stream.secure(endpoint).await?;
            }
            Transport::Wss | Transport::Ws => {
                if endpoint.transport == Transport::Wss {
                    stream.secure(endpoint).await?;
                }
                stream.upgrade(endpoint, address).await?;
            }
        }
        Ok(stream)
    }

    async fn secure(&mut self, endpoint: &Endpoint) -> Result<()> {
        self.link()
            .start_tls(endpoint.tls.connection(&endpoint.domain)?)?;
        self.reader
            .handshake(&mut self.buffer)
            .await
            .context("the TLS handshake failed")
    }

    async fn start_tls(&mut self) -> Result<()> {
        let features = self.open().await?;
        ensure!(
            features.child("starttls", TLS).is_some(),
            "the server does not offer STARTTLS"
        );
        self.send(format!("<starttls xmlns='{TLS}'/>").as_bytes())?;
        let answer = self.next_element().await?;
        ensure!(
            answer.is("proceed", TLS),
            "the server refused STARTTLS: <{}/>",
            answer.name
        );
        self.buffer.clear();
        Ok(())
    }

    async fn upgrade(&mut self, endpoint: &Endpoint, address: &str) -> Result<()> {
        let port = address.rsplit_once(':').map_or("", |(_, port)| port);
        let host = format!("{}:{port}", endpoint.domain);
        let key = ws::key();
        self.link()
            .send(ws::request(&host, &endpoint.path, &key).as_bytes())?;
        let mut raw = Vec::new();
        loop {
            if let Some(length) = ws::check_response(&raw, &key)? {
                raw.drain(..length);
                break;
            }
            ensure!(
                self.reader.read(&mut raw).await? > 0,
                "no answer to the WebSocket request"
            );
        }
        self.websocket = Some(WebSocket {
            raw,
            decoder: ws::Decoder::default(),
        });
        Ok(())
    }

    /// The writing side.
    #[must_use]
    pub fn link(&self) -> &Arc<Link> {
        self.reader.link()
    }

    /// Whether elements are WebSocket messages.
    #[must_use]
    pub fn is_websocket(&self) -> bool {
        self.websocket.is_some()
    }

    /// Sends one element (one message on WebSocket).
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn send(&self, element: &[u8]) -> Result<()> {
        if self.is_websocket() {
            let mut framed = Vec::with_capacity(element.len() + 14);
            ws::text(element, &mut framed);
            self.link().send(&framed)?;
        } else {
            self.link().send(element)?;
        }
        Ok(())
    }

    /// Expects elements without a stream around them from now on (the floor).
    pub fn expect_elements(&mut self) {
        self.splitter = Splitter::elements();
    }

    /// Opens (or, after SASL, re-opens) the stream and returns the server's features.
    ///
    /// # Errors
    /// When the server answers with an error or something else.
    pub async fn open(&mut self) -> Result<Element> {
        let domain = escape(&self.domain);
        if self.is_websocket() {
            self.splitter = Splitter::elements();
            self.buffer.clear();
            self.send(
                format!(
                    "<open xmlns='urn:ietf:params:xml:ns:xmpp-framing' to='{domain}' \
                     version='1.0'/>"
                )
                .as_bytes(),
            )?;
            let open = self.next_element().await?;
            ensure!(
                open.name == "open",
                "expected <open/>, got <{}/>",
                open.name
            );
        } else {
            self.splitter = Splitter::stream();
            self.buffer.clear();
            self.send(
                format!(
                    "<?xml version='1.0'?><stream:stream xmlns='{CLIENT}' \
                     xmlns:stream='{STREAMS}' to='{domain}' version='1.0'>"
                )
                .as_bytes(),
            )?;
            loop {
                match self.take()? {
                    Some(Item::Open(range)) => {
                        tag_attributes(self.bytes(&range)).context("a broken stream header")?;
                        break;
                    }
                    Some(_) => bail!("the server did not open its stream"),
                    None => ensure!(self.fill().await?, "the server closed before its stream"),
                }
            }
        }
        let features = self.next_element().await?;
        ensure!(
            features.is("features", STREAMS),
            "expected features, got <{}/>",
            features.name
        );
        Ok(features)
    }

    /// Waits for bytes; false at the end of the connection. No bytes are lost when the future is
    /// dropped.
    ///
    /// # Errors
    /// When the connection breaks.
    pub async fn fill(&mut self) -> Result<bool> {
        self.compact();
        let Some(websocket) = &mut self.websocket else {
            return Ok(self.reader.read(&mut self.buffer).await? > 0);
        };
        let before = self.buffer.len();
        loop {
            let mut at = 0;
            let step = loop {
                let step = websocket
                    .decoder
                    .step(&websocket.raw, &mut at, &mut self.buffer)?;
                match step {
                    ws::Step::Progress => {}
                    ws::Step::Answer(pong) => self.reader.link().send(&pong)?,
                    step => break step,
                }
            };
            websocket.raw.drain(..at);
            if self.buffer.len() > before {
                return Ok(true);
            }
            if matches!(step, ws::Step::Closed(_))
                || self.reader.read(&mut websocket.raw).await? == 0
            {
                return Ok(false);
            }
        }
    }

    fn compact(&mut self) {
        let keep = self.splitter.keep_from();
        if keep > 0 {
            self.buffer.drain(..keep);
            self.splitter.removed(keep);
        }
        if self.buffer.is_empty() && self.buffer.capacity() > 4096 {
            self.buffer = Vec::new();
        }
    }

    /// The next item among the bytes read so far.
    ///
    /// # Errors
    /// When the bytes are no XML stream.
    pub fn take(&mut self) -> Result<Option<Item>> {
        self.splitter.next(&self.buffer)
    }

    /// The bytes of the item taken last; valid until the next [`Stream::fill`].
    #[must_use]
    pub fn bytes(&self, range: &Range<usize>) -> &[u8] {
        &self.buffer[range.clone()]
    }

    /// The next whole element, parsed.
    ///
    /// # Errors
    /// At the end of the stream, at a stream error, at malformed XML.
    pub async fn next_element(&mut self) -> Result<Element> {
        loop {
            match self.take()? {
                Some(Item::Element(range)) => {
                    let element = Element::parse(self.bytes(&range), CLIENT)?;
                    if element.is("error", STREAMS) {
                        bail!("the server ended the stream: {}", condition(&element));
                    }
                    return Ok(element);
                }
                Some(Item::Close) => bail!("the server closed the stream"),
                Some(Item::Open(_)) => bail!("the server opened its stream twice"),
                None => ensure!(self.fill().await?, "the connection was closed"),
            }
        }
    }
}

/// The name of an error's condition, and its text.
#[must_use]
pub fn condition(error: &Element) -> String {
    let mut children = error.children.iter();
    let condition = children.clone().find(|child| child.name != "text");
    let name = condition.map_or("no condition", |child| child.name.as_str());
    match children.find(|child| child.name == "text") {
        Some(text) => format!("{name} ({})", text.text),
        None => name.to_owned(),
    }
}
