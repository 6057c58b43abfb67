//! A connection during its login: one event at a time, answers written at once.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sestina_xmpp::ns;
use sestina_xmpp::sasl::{BindingType, ChannelBinding};
use sestina_xmpp::stream::{Framing, StreamCondition};
use sestina_xmpp::xml::{Limits, StreamEvent, StreamFault, StreamParser, WsParser};

use crate::limits::ByteBucket;
use crate::listen::Accepted;
use crate::session::stream as write;
use crate::shared::Shared;
use crate::tls::Acceptor;
use crate::transport::{Chunk, CloseKind, TlsInfo, WireReader, WireWriter};

/// How a login ends without a session.
#[derive(Debug)]
pub(crate) enum End {
    /// The socket is gone.
    Lost,
    /// The client closed its stream.
    Closed,
    /// The stream ends with an error.
    Fault(StreamCondition, &'static str),
}

impl From<StreamFault> for End {
    fn from(fault: StreamFault) -> End {
        End::Fault(fault.condition, fault.text)
    }
}

/// The parser of either framing.
pub(crate) enum Parser {
    /// RFC 6120: a stream cut anywhere.
    Stream(StreamParser),
    /// RFC 7395: an element in each message.
    WebSocket(WsParser),
}

impl Parser {
    /// Changes the limits, for what is not read yet.
    pub(crate) fn set_limits(&mut self, limits: Limits) {
        match self {
            Parser::Stream(parser) => parser.set_limits(limits),
            Parser::WebSocket(parser) => parser.set_limits(limits),
        }
    }

    /// Expects a new stream.
    pub(crate) fn reset(&mut self) {
        match self {
            Parser::Stream(parser) => parser.reset(),
            Parser::WebSocket(parser) => parser.reset(),
        }
    }

    /// The next event of what was read.
    pub(crate) fn buffered(&mut self) -> Result<Option<StreamEvent>, StreamFault> {
        match self {
            Parser::Stream(parser) => parser.next(),
            Parser::WebSocket(_) => Ok(None),
        }
    }

    /// Takes what was read.
    pub(crate) fn push(&mut self, chunk: &Chunk<'_>) -> Result<Option<StreamEvent>, StreamFault> {
        match (self, chunk) {
            (Parser::Stream(parser), Chunk::Bytes(bytes)) => {
                parser.push(bytes);
                parser.next()
            }
            (Parser::WebSocket(parser), Chunk::Frame(text)) => {
                parser.frame(text.as_bytes()).map(Some)
            }
            _ => Ok(None),
        }
    }
}

/// Bytes of a chunk.
pub(crate) fn length(chunk: &Chunk<'_>) -> usize {
    match chunk {
        Chunk::Bytes(bytes) => bytes.len(),
        Chunk::Frame(text) => text.len(),
        Chunk::Eof => 0,
    }
}

/// The connection.
pub(crate) struct Connection {
    pub(crate) reader: WireReader,
    pub(crate) writer: Arc<WireWriter>,
    pub(crate) parser: Parser,
    pub(crate) framing: Framing,
    pub(crate) bucket: ByteBucket,
    pub(crate) peer: SocketAddr,
    pub(crate) transport: &'static str,
    pub(crate) query: Vec<(String, String)>,
    pub(crate) secure: bool,
    pub(crate) plaintext_allowed: bool,
    pub(crate) start_tls: Option<Acceptor>,
    /// The first element of SASL, where STARTTLS was possible and not used.
    pub(crate) first: Option<StreamEvent>,
    /// Our header of the present stream was sent.
    pub(crate) opened: bool,
}

impl Connection {
    /// A connection as a listener hands it over.
    pub(crate) fn new(shared: &Shared, accepted: Accepted) -> Connection {
        let config = &shared.config;
        let limits = config.before_login;
        let (framing, parser) = if accepted.reader.is_websocket() {
            (
                Framing::WebSocket,
                Parser::WebSocket(WsParser::new(limits.xml)),
            )
        } else {
            (Framing::Tcp, Parser::Stream(StreamParser::new(limits.xml)))
        };
        let transport = match accepted.transport {
            "ws" => "websocket",
            "wss" => "websocket-tls",
            other => other,
        };
        let plaintext_allowed = config
            .plaintext_listeners
            .iter()
            .any(|n| **n == *accepted.listener);
        let mut connection = Connection {
            reader: accepted.reader,
            writer: accepted.writer,
            parser,
            framing,
            bucket: ByteBucket::new(limits.bytes_per_second, limits.burst_bytes, Instant::now()),
            peer: accepted.peer,
            transport,
            query: accepted.query,
            secure: accepted.secure,
            plaintext_allowed,
            start_tls: accepted.start_tls,
            first: None,
            opened: false,
        };
        connection.reader.set_message_limit(limits.xml.bytes);
        connection.writer.set_queue_limit(config.login_queue_bytes);
        connection
    }

    /// The client is known: the wider limits apply from the next stream on.
    pub(crate) fn authenticated(&mut self, shared: &Shared) {
        self.reader.authenticated();
        let limits = shared.config.after_login;
        self.parser.set_limits(limits.xml);
        self.parser.reset();
        self.opened = false;
        self.reader.set_message_limit(limits.xml.bytes);
        self.bucket
            .set_limit(limits.bytes_per_second, limits.burst_bytes, Instant::now());
    }

    /// The value of a query parameter of the WebSocket's address.
    pub(crate) fn query(&self, name: &str) -> Option<&str> {
        self.query
            .iter()
            .find(|(n, v)| n == name && !v.is_empty())
            .map(|(_, v)| v.as_str())
    }

    /// Whether there is something to bind a login to: nothing before TLS 1.3, and no WebSocket. Who
    /// offers binding in TLS 1.2 must know `tls-unique` (RFC 5802 §6.1), which the TLS library does
    /// not give; clients that know nothing else would choose it and fail. Browsers tell nothing of
    /// the TLS below a WebSocket, and their libraries choose -PLUS all the same.
    pub(crate) fn can_bind(&self) -> bool {
        self.to_bind().is_some()
    }

    fn to_bind(&self) -> Option<(&TlsInfo, [u8; 32])> {
        let info = self.reader.tls_info();
        let info = info.filter(|_| self.framing != Framing::WebSocket)?;
        Some((info, info.exporter?))
    }

    /// What this connection can be bound by.
    pub(crate) fn bindings(&self) -> Vec<ChannelBinding> {
        let Some((info, exporter)) = self.to_bind() else {
            return Vec::new();
        };
        let mut bindings = vec![ChannelBinding {
            kind: BindingType::TlsExporter,
            data: exporter.to_vec(),
        }];
        if !info.server_end_point.is_empty() {
            bindings.push(ChannelBinding {
                kind: BindingType::TlsServerEndPoint,
                data: info.server_end_point.clone(),
            });
        }
        bindings
    }

    /// Queues one element and sends it.
    pub(crate) fn write(&self, fill: impl FnOnce(&mut Vec<u8>)) {
        let _ = self.writer.send(None, fill);
    }

    /// The next event; white space is skipped.
    pub(crate) async fn next(&mut self) -> Result<StreamEvent, End> {
        loop {
            match self.parser.buffered()? {
                Some(StreamEvent::Whitespace) => continue,
                Some(event) => return Ok(event),
                None => {}
            }
            let read = self.reader.read().await;
            let chunk = read.map_err(|error| match write::of_broken_frame(&error) {
                Some((condition, text)) => End::Fault(condition, text),
                None => End::Lost,
            })?;
            if chunk == Chunk::Eof {
                return Err(End::Lost);
            }
            let pause = self.bucket.take(Instant::now(), length(&chunk));
            let event = self.parser.push(&chunk)?;
            if let Some(pause) = pause {
                tokio::time::sleep(pause).await;
            }
            match event {
                Some(StreamEvent::Whitespace) | None => {}
                Some(event) => return Ok(event),
            }
        }
    }

    /// The next event before the client is known. Stream management comes after that: it is refused,
    /// which is no reason to end the stream (XEP-0198 §3).
    pub(crate) async fn next_of_login(&mut self) -> Result<StreamEvent, End> {
        loop {
            let event = self.next().await?;
            let early = match &event {
                StreamEvent::Nonza(element) => element.ns == ns::SM,
                other => matches!(other, StreamEvent::SmRequest | StreamEvent::SmAck(_)),
            };
            if !early {
                return Ok(event);
            }
            self.write(|out| write::write_failed(out, "unexpected-request", None));
        }
    }

    /// Ends the connection: with what the client must be told, in order.
    pub(crate) async fn end(self, shared: &Shared, end: End) {
        // At shutdown only what the client needs to read its last words.
        let patience = Duration::from_millis(if shared.stop.is_cancelled() {
            200
        } else {
            5000
        });
        let framing = self.framing;
        match end {
            End::Lost => return self.writer.close(CloseKind::Abort),
            End::Closed => {}
            End::Fault(condition, text) => {
                if !self.opened {
                    // RFC 6120 §4.9.1.2: an error needs a stream to be on.
                    let host = shared.default_host();
                    self.writer
                        .append(|out| write::write_header(out, framing, host, ""));
                }
                shared.metrics.stream_error(condition);
                self.writer
                    .append(|out| write::write_error(out, framing, condition, text));
            }
        }
        self.writer.append(|out| write::write_close(out, framing));
        self.reader.finish(patience).await;
    }
}
