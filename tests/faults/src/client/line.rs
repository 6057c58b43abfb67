//! A connection, up to SASL.

use anyhow::{Context, Result, anyhow, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sestina_xmpp::ns;
use sestina_xmpp::sasl::Hash;
use sestina_xmpp::sasl::scram::{ClientBinding, ScramClient, random_nonce};
use sestina_xmpp::xml::{Element, Limits, StreamEvent, StreamParser};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::settings::HOST;

/// An event on the connection.
pub(super) enum Event {
    Element(Element),
    Asked,
    Acknowledged(u32),
}

pub(super) struct Line {
    socket: TcpStream,
    parser: StreamParser,
}

impl Line {
    /// A connection to that port, authenticated, with an open stream.
    pub(super) async fn open(port: u16, user: &str) -> Result<Line> {
        let socket = TcpStream::connect(("127.0.0.1", port)).await?;
        socket.set_nodelay(true)?;
        let mut line = Line {
            socket,
            parser: StreamParser::new(Limits::trusted()),
        };
        line.header().await?;
        line.authenticate(user).await?;
        line.parser.reset();
        line.header().await?;
        Ok(line)
    }

    async fn header(&mut self) -> Result<()> {
        let (client, stream) = (ns::CLIENT, ns::STREAM);
        self.write(&format!(
            "<?xml version='1.0'?><stream:stream xmlns='{client}' xmlns:stream='{stream}' \
             to='{HOST}' version='1.0'>"
        ))
        .await?;
        let features = self.element().await?;
        if features.is("features", ns::STREAM) {
            Ok(())
        } else {
            bail!("expected features, got {}", text(&features))
        }
    }

    async fn authenticate(&mut self, user: &str) -> Result<()> {
        let scram = ScramClient::new(
            Hash::Sha1,
            user,
            user,
            None,
            ClientBinding::Unsupported,
            &random_nonce(),
        );
        let (xmlns, first) = (ns::SASL, STANDARD.encode(scram.client_first()));
        self.write(&format!(
            "<auth xmlns='{xmlns}' mechanism='SCRAM-SHA-1'>{first}</auth>"
        ))
        .await?;
        let challenge = self.sasl("challenge").await?;
        let (response, verifier) = scram
            .server_first(&challenge)
            .map_err(|error| anyhow!("the challenge is wrong: {error}"))?;
        let response = STANDARD.encode(response);
        self.write(&format!("<response xmlns='{xmlns}'>{response}</response>"))
            .await?;
        let last = self.sasl("success").await?;
        verifier
            .server_final(&last)
            .map_err(|error| anyhow!("the server does not prove itself: {error}"))
    }

    async fn sasl(&mut self, name: &str) -> Result<Vec<u8>> {
        let answer = self.element().await?;
        if !answer.is(name, ns::SASL) {
            bail!("expected <{name}/> of SASL, got {}", text(&answer));
        }
        STANDARD
            .decode(answer.text().trim())
            .context("SASL is base64")
    }

    pub(super) async fn write(&mut self, text: &str) -> Result<()> {
        Ok(self.socket.write_all(text.as_bytes()).await?)
    }

    /// The next element; acknowledgements before the session is bound are ignored.
    pub(super) async fn element(&mut self) -> Result<Element> {
        loop {
            if let Event::Element(element) = self.read().await? {
                return Ok(element);
            }
        }
    }

    /// The next event. No event is lost when the future is dropped.
    pub(super) async fn read(&mut self) -> Result<Event> {
        loop {
            let event = self
                .parser
                .next()
                .map_err(|fault| anyhow!("the stream is broken: {fault:?}"))?;
            match event {
                Some(StreamEvent::Stanza(stanza)) => {
                    let mut bytes = Vec::new();
                    stanza.write_to(&mut bytes, None, true);
                    return Ok(Event::Element(Element::parse(&bytes)?));
                }
                Some(StreamEvent::BadStanza { stanza, condition }) => {
                    bail!("a stanza with a bad address ({condition:?}): {stanza:?}")
                }
                Some(StreamEvent::Nonza(element)) => return Ok(Event::Element(element)),
                Some(StreamEvent::SmRequest) => return Ok(Event::Asked),
                Some(StreamEvent::SmAck(h)) => return Ok(Event::Acknowledged(h)),
                Some(StreamEvent::Close) => bail!("the server closed its stream"),
                Some(StreamEvent::Open(_) | StreamEvent::Whitespace) => {}
                None => {
                    let mut buffer = [0; 16 << 10];
                    let length = self.socket.read(&mut buffer).await?;
                    if length == 0 {
                        bail!("the connection ended");
                    }
                    self.parser.push(&buffer[..length]);
                }
            }
        }
    }
}

/// The XML text of an element.
pub(super) fn text(element: &Element) -> String {
    String::from_utf8_lossy(&element.to_bytes(ns::CLIENT)).into_owned()
}
