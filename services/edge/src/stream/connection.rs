//! The connection of a client during its login.

use std::net::SocketAddr;
use std::time::Duration;

use sestina_xmpp::ns;
use sestina_xmpp::sasl::{BindingType, ChannelBinding};
use sestina_xmpp::stream::Framing;
use sestina_xmpp::xml::StreamEvent;

use super::stream_end::{End, Role, StreamEnd};
use super::write;
use crate::listen::Accepted;
use crate::shared::Shared;
use crate::tls::Acceptor;
use crate::transport::TlsInfo;

/// The connection.
pub(crate) struct Connection {
    pub(crate) stream: StreamEnd,
    pub(crate) peer: SocketAddr,
    pub(crate) transport: &'static str,
    pub(crate) query: Vec<(String, String)>,
    pub(crate) secure: bool,
    pub(crate) plaintext_allowed: bool,
    pub(crate) start_tls: Option<Acceptor>,
    /// The first element of SASL, where STARTTLS was possible and not used.
    pub(crate) first: Option<StreamEvent>,
}

impl Connection {
    /// A connection as a listener hands it over.
    pub(crate) fn new(shared: &Shared, accepted: Accepted) -> Connection {
        let config = &shared.config;
        let transport = match accepted.transport {
            "ws" => "websocket",
            "wss" => "websocket-tls",
            other => other,
        };
        let plaintext_allowed = config
            .plaintext_listeners
            .iter()
            .any(|n| **n == *accepted.listener);
        let stream = StreamEnd::new(Role::Receiving, accepted.reader, config.before_login);
        stream.writer.set_queue_limit(config.login.queue_bytes);
        Connection {
            stream,
            peer: accepted.peer,
            transport,
            query: accepted.query,
            secure: accepted.secure,
            plaintext_allowed,
            start_tls: accepted.start_tls,
            first: None,
        }
    }

    /// The client is known: the wider limits apply from the next stream on.
    pub(crate) fn authenticated(&mut self, shared: &Shared) {
        self.stream.reader.authenticated();
        self.stream.restart(shared.config.after_login);
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
        let info = self.stream.tls_info();
        let info = info.filter(|_| self.stream.framing != Framing::WebSocket)?;
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

    /// The next event before the client is known. Stream management comes after that: it is refused,
    /// which is no reason to end the stream (XEP-0198 §3).
    pub(crate) async fn next_of_login(&mut self) -> Result<StreamEvent, End> {
        loop {
            let event = self.stream.next().await?;
            let early = match &event {
                StreamEvent::Nonza(element) => element.ns == ns::SM,
                other => matches!(other, StreamEvent::SmRequest | StreamEvent::SmAck(_)),
            };
            if !early {
                return Ok(event);
            }
            self.stream
                .write(|out| write::write_failed(out, "unexpected-request", None));
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
        if let End::Fault(condition, _) = end {
            shared.metrics.stream_error(condition);
        }
        self.stream
            .finish(end, shared.default_host(), patience)
            .await;
    }
}
