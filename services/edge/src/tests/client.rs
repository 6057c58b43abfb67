//! A client that writes and reads text.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures_util::{SinkExt, StreamExt};
use sestina_xmpp::sasl::Mechanism;
use sestina_xmpp::sasl::scram::{ClientBinding, ScramClient, random_nonce};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::listen::Accepted;
use crate::stream::{Role as StreamRole, StreamEnd};
use crate::transport::{Chunk, Wire, WireLimits};

pub(super) trait Socket: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Socket for T {}

enum Line {
    Stream(Box<dyn Socket>),
    Initiating(Box<StreamEnd>),
    WebSocket(Box<WebSocketStream<TcpStream>>),
}

/// One end of a connection to an edge.
pub(super) struct Client {
    line: Line,
    seen: String,
}

/// How it comes to the edge.
#[derive(Clone, Copy, Default)]
pub(super) struct Way {
    /// As if under TLS that ended at a trusted proxy.
    pub(super) secure: bool,
    pub(super) websocket: bool,
    /// Query parameters.
    pub(super) query: &'static [(&'static str, &'static str)],
    /// On the listener that allows logins in clear.
    pub(super) plain_listener: bool,
    /// The kernel holds little of what the client does not read.
    pub(super) small_buffers: bool,
}

pub(super) const SECURE: Way = Way {
    secure: true,
    websocket: false,
    query: &[],
    plain_listener: false,
    small_buffers: false,
};

/// A WebSocket under TLS.
pub(super) const WEBSOCKET: Way = Way {
    websocket: true,
    ..SECURE
};

/// Our initiating end of a connection.
pub(super) fn initiating(stream: TcpStream) -> StreamEnd {
    let (reader, _) = Wire::plain(stream, WireLimits::default()).split();
    let limits = super::rig::config("client").before_login;
    StreamEnd::new(StreamRole::Initiating, reader, limits)
}

/// A connection as a listener would hand it over, and its client.
pub(super) async fn connect(way: Way) -> (Accepted, Client) {
    let (client, accepted) = connect_raw(way).await;
    let line = if way.websocket {
        let stream = WebSocketStream::from_raw_socket(client, Role::Client, None).await;
        Line::WebSocket(Box::new(stream))
    } else {
        Line::Stream(Box::new(client))
    };
    (
        accepted,
        Client {
            line,
            seen: String::new(),
        },
    )
}

/// The same before anything is spoken.
pub(super) async fn connect_raw(way: Way) -> (TcpStream, Accepted) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let socket = TcpSocket::new_v4().unwrap();
    if way.small_buffers {
        socket.set_recv_buffer_size(8192).unwrap();
    }
    let client = socket.connect(listener.local_addr().unwrap());
    let (client, server) = tokio::join!(client, listener.accept());
    let (server, peer) = server.unwrap();
    if way.small_buffers {
        rustix::net::sockopt::set_socket_send_buffer_size(&server, 8192).unwrap();
    }
    let mut wire = Wire::plain(server, WireLimits::default());
    if way.websocket {
        wire = wire.into_websocket(Vec::new());
    }
    let (reader, writer) = wire.split();
    let accepted = Accepted {
        reader,
        writer,
        peer,
        transport: if way.websocket { "ws" } else { "tcp" },
        query: way
            .query
            .iter()
            .map(|(n, v)| ((*n).to_owned(), (*v).to_owned()))
            .collect(),
        headers: Vec::new(),
        secure: way.secure,
        local_port: 0,
        listener: Arc::from(if way.plain_listener { "plain" } else { "other" }),
        start_tls: None,
    };
    (client.unwrap(), accepted)
}

impl Client {
    /// A client on a stream that is set up.
    pub(super) fn on(stream: impl Socket + 'static) -> Client {
        Client {
            line: Line::Stream(Box::new(stream)),
            seen: String::new(),
        }
    }

    /// A client that goes on where our initiating end has left off.
    pub(super) fn after(end: StreamEnd) -> Client {
        Client {
            line: Line::Initiating(Box::new(end)),
            seen: String::new(),
        }
    }

    pub(super) async fn send(&mut self, text: &str) {
        match &mut self.line {
            Line::Initiating(end) => end.write(|out| out.extend_from_slice(text.as_bytes())),
            Line::Stream(stream) => stream.write_all(text.as_bytes()).await.unwrap(),
            Line::WebSocket(stream) => stream.send(Message::text(text)).await.unwrap(),
        }
    }

    /// Reads until that text has come, and returns everything up to its end.
    pub(super) async fn until(&mut self, text: &str) -> String {
        loop {
            if let Some(at) = self.seen.find(text) {
                let rest = self.seen.split_off(at + text.len());
                return std::mem::replace(&mut self.seen, rest);
            }
            let more = tokio::time::timeout(Duration::from_secs(10), self.read()).await;
            match more {
                Err(_) => panic!("waited for {text:?} and have {:?}", self.seen),
                Ok(false) => panic!("ended before {text:?}; have {:?}", self.seen),
                Ok(true) => {}
            }
        }
    }

    /// Reads to the end of the connection, and returns everything.
    pub(super) async fn rest(&mut self) -> String {
        let all = async { while self.read().await {} };
        tokio::time::timeout(Duration::from_secs(10), all)
            .await
            .expect("the connection ends");
        std::mem::take(&mut self.seen)
    }

    async fn read(&mut self) -> bool {
        match &mut self.line {
            Line::Initiating(end) => match end.reader.read().await {
                Ok(Chunk::Bytes(bytes)) => {
                    self.seen.push_str(std::str::from_utf8(bytes).unwrap());
                    true
                }
                _ => false,
            },
            Line::Stream(stream) => {
                let mut buffer = vec![0; 16384];
                match stream.read(&mut buffer).await {
                    Ok(0) | Err(_) => false,
                    Ok(n) => {
                        self.seen
                            .push_str(std::str::from_utf8(&buffer[..n]).unwrap());
                        true
                    }
                }
            }
            Line::WebSocket(stream) => match stream.next().await {
                Some(Ok(Message::Text(text))) => {
                    self.seen.push_str(&text);
                    self.seen.push('\n');
                    true
                }
                Some(Ok(Message::Close(frame))) => {
                    let code = frame.map_or(0, |f| u16::from(f.code));
                    self.seen.push_str(&format!("[close {code}]"));
                    true
                }
                Some(Ok(_)) => true,
                _ => false,
            },
        }
    }

    /// Opens a stream and returns the features.
    pub(super) async fn open(&mut self, host: &str) -> String {
        let header = match &self.line {
            Line::Stream(_) | Line::Initiating(_) => format!(
                "<?xml version='1.0'?><stream:stream xmlns='jabber:client' \
                 xmlns:stream='http://etherx.jabber.org/streams' to='{host}' version='1.0'>"
            ),
            Line::WebSocket(_) => format!(
                "<open xmlns='urn:ietf:params:xml:ns:xmpp-framing' to='{host}' version='1.0'/>"
            ),
        };
        self.send(&header).await;
        self.until("</stream:features>").await
    }

    /// PLAIN; the answer.
    pub(super) async fn plain(&mut self, user: &str, password: &str) -> String {
        let message = STANDARD.encode(format!("\0{user}\0{password}"));
        self.send(&format!(
            "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>{message}</auth>"
        ))
        .await;
        self.sasl_answer().await
    }

    async fn sasl_answer(&mut self) -> String {
        self.until("urn:ietf:params:xml:ns:xmpp-sasl'").await;
        self.until(">").await
    }

    /// SCRAM; true if it succeeded and the server proved itself.
    pub(super) async fn scram(
        &mut self,
        mechanism: Mechanism,
        user: &str,
        password: &str,
        binding: ClientBinding,
    ) -> bool {
        let hash = mechanism.hash().unwrap();
        let client = ScramClient::new(hash, user, password, None, binding, &random_nonce());
        let first = STANDARD.encode(client.client_first());
        self.send(&format!(
            "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='{mechanism}'>{first}</auth>"
        ))
        .await;
        let Some(challenge) = self.sasl_text("challenge").await else {
            return false;
        };
        let (response, verifier) = client.server_first(&challenge).unwrap();
        let response = STANDARD.encode(response);
        self.send(&format!(
            "<response xmlns='urn:ietf:params:xml:ns:xmpp-sasl'>{response}</response>"
        ))
        .await;
        let Some(last) = self.sasl_text("success").await else {
            return false;
        };
        verifier.server_final(&last).unwrap();
        true
    }

    async fn sasl_text(&mut self, name: &str) -> Option<Vec<u8>> {
        let start = self.until("urn:ietf:params:xml:ns:xmpp-sasl'>").await;
        if !start.contains(&format!("<{name} ")) {
            assert!(start.contains("<failure "), "{start}");
            return None;
        }
        let text = self.until("<").await;
        self.until(">").await;
        Some(STANDARD.decode(text.trim_end_matches('<')).unwrap())
    }

    /// From the first byte to the features after SASL.
    pub(super) async fn log_in(&mut self) {
        self.open("c.example").await;
        let answer = self.plain("juliet", super::router::PASSWORD).await;
        assert_eq!(answer, "/>");
        let features = self.open("c.example").await;
        assert!(features.contains("urn:xmpp:sm:3"), "{features}");
    }

    /// Asks for a resource.
    pub(super) async fn bind(&mut self, resource: &str) {
        self.send(&format!(
            "<iq xmlns='jabber:client' type='set' id='b1'>\
             <bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'>\
             <resource>{resource}</resource></bind></iq>"
        ))
        .await;
    }
}
