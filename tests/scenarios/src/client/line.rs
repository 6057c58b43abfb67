//! The connection of a client.

use std::sync::Arc;

use anyhow::{Context, Result, bail};
use futures_util::{SinkExt, StreamExt};
use rustls_pki_types::ServerName;
use sestina_xmpp::ns;
use sestina_xmpp::sasl::channel_binding::{EXPORTER_LABEL, EXPORTER_LEN};
use sestina_xmpp::sasl::{BindingType, ChannelBinding};
use sestina_xmpp::xml::{Element, Limits, StreamEvent, StreamParser, WsParser};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::{ClientRequestBuilder, Message};

use super::{Entrance, Heard, Transport};

enum Socket {
    /// The connection was cut.
    Cut,
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    Web(Box<WebSocketStream<TlsStream<TcpStream>>>),
}

enum Parser {
    Stream(Box<StreamParser>),
    WebSocket(Box<WsParser>),
}

pub(super) struct Line {
    socket: Socket,
    parser: Parser,
    binding: Option<ChannelBinding>,
    entrance: Entrance,
}

/// An event below the level of sessions.
pub(super) enum Event {
    Opened,
    Heard(Heard),
    /// `<r/>`
    Asked,
    /// `<a/>`
    Acknowledged(u32),
}

impl Line {
    /// Connects; `query` is the query of a WebSocket's address.
    pub(super) async fn connect(
        entrance: &Entrance,
        transport: Transport,
        host: &str,
        query: &str,
    ) -> Result<Line> {
        let at = match transport {
            Transport::StartTls => entrance.address.start_tls,
            Transport::Tls => entrance.address.tls,
            Transport::WebSocket => entrance.address.websocket,
        };
        let tcp = TcpStream::connect(at).await?;
        tcp.set_nodelay(true)?;
        let mut line = Line {
            socket: Socket::Plain(tcp),
            parser: Parser::Stream(Box::new(StreamParser::new(Limits::trusted()))),
            binding: None,
            entrance: entrance.clone(),
        };
        if transport != Transport::StartTls {
            line.start_tls(host).await?;
        }
        if transport == Transport::WebSocket {
            line.upgrade(host, query).await?;
        }
        Ok(line)
    }

    pub(super) fn is_plain(&self) -> bool {
        matches!(self.socket, Socket::Plain(_))
    }

    pub(super) fn is_websocket(&self) -> bool {
        matches!(self.parser, Parser::WebSocket(_))
    }

    pub(super) fn binding(&self) -> Option<ChannelBinding> {
        self.binding.clone()
    }

    pub(super) async fn start_tls(&mut self, host: &str) -> Result<()> {
        let Socket::Plain(tcp) = std::mem::replace(&mut self.socket, Socket::Cut) else {
            bail!("TLS is started on a plain connection");
        };
        let connector = TlsConnector::from(Arc::clone(&self.entrance.tls));
        // The certificate does not cover hosts that are not served.
        let known = ServerName::try_from(crate::sandbox::HOST)?;
        let name = ServerName::try_from(host.to_owned()).unwrap_or(known.clone());
        let name = match host {
            crate::sandbox::HOST | crate::sandbox::ANONYMOUS => name,
            _ => known,
        };
        let tls = connector.connect(name.to_owned(), tcp).await?;
        let data = tls.get_ref().1.export_keying_material(
            vec![0; EXPORTER_LEN],
            EXPORTER_LABEL,
            Some(&[]),
        )?;
        self.binding = Some(ChannelBinding {
            kind: BindingType::TlsExporter,
            data,
        });
        self.socket = Socket::Tls(Box::new(tls));
        if let Parser::Stream(parser) = &mut self.parser {
            parser.reset_for_tls();
        }
        Ok(())
    }

    async fn upgrade(&mut self, host: &str, query: &str) -> Result<()> {
        let Socket::Tls(tls) = std::mem::replace(&mut self.socket, Socket::Cut) else {
            bail!("a WebSocket needs TLS here");
        };
        let mut uri = format!("wss://{host}/xmpp-websocket");
        if !query.is_empty() {
            uri = format!("{uri}?{query}");
        }
        let request = ClientRequestBuilder::new(uri.parse()?).with_sub_protocol("xmpp");
        let (socket, _) = tokio_tungstenite::client_async(request, *tls).await?;
        self.socket = Socket::Web(Box::new(socket));
        self.parser = Parser::WebSocket(Box::new(WsParser::new(Limits::trusted())));
        Ok(())
    }

    /// Expects a new stream.
    pub(super) fn reset(&mut self) {
        match &mut self.parser {
            Parser::Stream(parser) => parser.reset(),
            Parser::WebSocket(parser) => parser.reset(),
        }
    }

    pub(super) async fn write(&mut self, text: &str) -> Result<()> {
        match &mut self.socket {
            Socket::Cut => bail!("the connection is cut"),
            Socket::Plain(socket) => socket.write_all(text.as_bytes()).await?,
            Socket::Tls(socket) => {
                socket.write_all(text.as_bytes()).await?;
                socket.flush().await?;
            }
            Socket::Web(socket) => socket.send(Message::text(text)).await?,
        }
        Ok(())
    }

    /// Breaks the connection without closing the stream.
    pub(super) fn cut(&mut self) {
        self.socket = Socket::Cut;
    }

    /// The next event. No event is lost when the future is dropped.
    pub(super) async fn read(&mut self) -> Result<Event> {
        loop {
            if let Parser::Stream(parser) = &mut self.parser
                && let Some(event) = parser
                    .next()
                    .map_err(|fault| anyhow::anyhow!("the server's stream is broken: {fault:?}"))?
            {
                if let Some(event) = event_of(event)? {
                    return Ok(event);
                }
                continue;
            }
            let mut buffer = vec![0; 16 << 10];
            let read = match &mut self.socket {
                Socket::Cut => return Ok(Event::Heard(Heard::Ended)),
                Socket::Plain(socket) => socket.read(&mut buffer).await,
                Socket::Tls(socket) => socket.read(&mut buffer).await,
                Socket::Web(socket) => match socket.next().await {
                    Some(Ok(Message::Text(text))) => {
                        let Parser::WebSocket(parser) = &mut self.parser else {
                            bail!("a WebSocket without its parser");
                        };
                        let event = parser.frame(text.as_bytes()).map_err(|fault| {
                            anyhow::anyhow!("the server's message is broken: {fault:?}: {text}")
                        })?;
                        match event_of(event)? {
                            Some(event) => return Ok(event),
                            None => continue,
                        }
                    }
                    Some(Ok(Message::Close(_))) | None => Ok(0),
                    Some(Ok(_)) => continue,
                    Some(Err(_)) => Ok(0),
                },
            };
            match (read, &mut self.parser) {
                (Ok(0) | Err(_), _) => {
                    self.socket = Socket::Cut;
                    return Ok(Event::Heard(Heard::Ended));
                }
                (Ok(length), Parser::Stream(parser)) => {
                    parser.push(buffer.get(..length).context("read says so")?);
                }
                (Ok(_), Parser::WebSocket(_)) => {}
            }
        }
    }
}

fn event_of(event: StreamEvent) -> Result<Option<Event>> {
    Ok(Some(match event {
        StreamEvent::Open(_) => Event::Opened,
        // Errors come from the address that a client wrote, even an invalid one.
        StreamEvent::Stanza(stanza) | StreamEvent::BadStanza { stanza, .. } => {
            let mut text = Vec::new();
            stanza.write_to(&mut text, None, true);
            Event::Heard(Heard::Element(Element::parse(&text)?))
        }
        StreamEvent::Nonza(element) => Event::Heard(Heard::Element(element)),
        StreamEvent::SmRequest => Event::Asked,
        StreamEvent::SmAck(h) => Event::Acknowledged(h),
        StreamEvent::Whitespace => return Ok(None),
        StreamEvent::Close => Event::Heard(Heard::Closed),
    }))
}

/// The opening tag of a stream.
pub(super) fn header(websocket: bool, host: &str) -> String {
    if websocket {
        format!("<open xmlns='{}' to='{host}' version='1.0'/>", ns::FRAMING)
    } else {
        format!(
            "<?xml version='1.0'?><stream:stream xmlns='{}' xmlns:stream='{}' to='{host}' version='1.0'>",
            ns::CLIENT,
            ns::STREAM
        )
    }
}

/// The closing tag of a stream.
pub(super) fn footer(websocket: bool) -> String {
    if websocket {
        format!("<close xmlns='{}'/>", ns::FRAMING)
    } else {
        "</stream:stream>".to_owned()
    }
}
