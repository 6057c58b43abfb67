//! One connection from its first byte until it is handed on.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::{Connection, HandshakeKind};
use sestina_runtime::CancellationToken;
use sestina_runtime::spawn::Tasks;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use super::config::ListenerKind;
use super::networks::Networks;
use super::proxy_protocol::{self, Origin, ProxyError, Step};
use crate::http::{HttpSite, Upgrade, Upgraded};
use crate::limits::{ConnLimits, ConnPermit, Refused};
use crate::metrics::{Count, EdgeMetrics};
use crate::tls::{Acceptor, Purpose, TlsRole as _};
use crate::transport::{TlsError, TlsInfo, Wire, WireLimits, WireReader, WireWriter};

/// A connection that is ready for XMPP.
pub struct Accepted {
    /// The half for the connection's task.
    pub reader: WireReader,
    /// The shared half.
    pub writer: Arc<WireWriter>,
    /// The client, as far as trusted proxies told.
    pub peer: SocketAddr,
    /// `tcp`, `tls`, `ws` or `wss`.
    pub transport: &'static str,
    /// Query parameters of a WebSocket's address, in order.
    pub query: Vec<(String, String)>,
    /// Request headers that the site keeps, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The connection is encrypted: with TLS here, or at a trusted proxy.
    pub secure: bool,
    /// The port that the client came to.
    pub local_port: u16,
    /// Name of the listener.
    pub listener: Arc<str>,
    /// What starts TLS on a connection in clear.
    pub start_tls: Option<Acceptor>,
}

/// Takes over connections. Must not block: it starts the connection's task.
pub type OnAccept = Arc<dyn Fn(Accepted) + Send + Sync>;

/// Why a connection was not handed on.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failed {
    #[error(transparent)]
    Refused(#[from] Refused),
    #[error(transparent)]
    Proxy(#[from] ProxyError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("handshakes took too long")]
    Late,
    #[error("the place of this connection was needed for a new one")]
    Shed,
}

/// What all listeners share.
pub(super) struct Shared {
    pub(super) limits: Arc<ConnLimits>,
    pub(super) wire: WireLimits,
    pub(super) site: Arc<HttpSite>,
    pub(super) on_accept: OnAccept,
    pub(super) tasks: Tasks,
    pub(super) metrics: Arc<dyn EdgeMetrics>,
}

/// One bound address.
pub(super) struct Port {
    pub(super) name: Arc<str>,
    pub(super) kind: ListenerKind,
    pub(super) proxies: Networks,
    pub(super) acceptor: Acceptor,
    pub(super) local: SocketAddr,
}

/// All handshakes of one connection, and for HTTP its requests until it becomes a WebSocket.
pub(super) async fn connection(
    shared: &Shared,
    port: &Port,
    mut stream: TcpStream,
    peer: SocketAddr,
    mut permit: ConnPermit,
    end: &CancellationToken,
) -> Result<(), Failed> {
    let until = tokio::time::Instant::now() + shared.limits.config().handshake_time;
    stream.set_nodelay(true)?;
    let mut client = peer;
    if port.proxies.contains(peer.ip()) {
        let read = read_proxy_header(&mut stream);
        let origin = tokio::time::timeout_at(until, read)
            .await
            .map_err(|_| Failed::Late)??;
        if let Origin::Client(address) = origin {
            client = canonical(address);
            if !(port.is_http() && shared.site.trusts(client.ip())) {
                permit.name(client.ip(), Instant::now())?;
            }
        }
    }
    match port.kind {
        ListenerKind::StartTls => {
            let (mut reader, writer) = Wire::plain(stream, shared.wire).split();
            reader.hold(permit);
            let mut accepted = port.accepted(reader, writer, client, "tcp", false);
            accepted.start_tls = Some(port.acceptor.clone());
            shared.hand_on(accepted);
        }
        ListenerKind::DirectTls => {
            let (mut reader, writer) = Wire::plain(stream, shared.wire).split();
            reader.hold(permit);
            let handshake = reader.start_tls(&port.acceptor);
            tokio::time::timeout_at(until, handshake)
                .await
                .map_err(|_| Failed::Late)??;
            let resumed = reader.tls_info().is_some_and(|info| info.resumed);
            shared.metrics.count(Count::tls(resumed), 1);
            shared.hand_on(port.accepted(reader, writer, client, "tls", true));
        }
        ListenerKind::Http => {
            if !first_byte(&stream, shared.site.header_time(), end).await? {
                return Ok(());
            }
            permit.heard();
            let upgraded = shared
                .site
                .serve(stream, client, port.local, false, end)
                .await;
            if let Some(Upgraded {
                stream,
                upgrade,
                early,
            }) = upgraded
            {
                let wire = Wire::plain(stream, shared.wire).into_websocket(early);
                shared.hand_on_websocket(port, wire, upgrade, permit)?;
            }
        }
        ListenerKind::Https => {
            if !first_byte(&stream, shared.limits.config().handshake_time, end).await? {
                return Ok(());
            }
            permit.heard();
            let certs = port.acceptor.current();
            let acceptor = TlsAcceptor::from(Arc::clone(certs.config_for(Purpose::Https)));
            let handshake = port
                .acceptor
                .handshake_limiter()
                .run(acceptor.accept(stream));
            let stream = tokio::select! {
                () = end.cancelled() => return Ok(()),
                stream = tokio::time::timeout_at(until, handshake) => {
                    stream.map_err(|_| Failed::Late)??
                }
            };
            let resumed = stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed);
            shared.metrics.count(Count::tls(resumed), 1);
            let upgraded = shared
                .site
                .serve(stream, client, port.local, true, end)
                .await;
            if let Some(Upgraded {
                stream,
                upgrade,
                early,
            }) = upgraded
            {
                let (stream, tls) = stream.into_inner();
                let tls = Connection::Server(tls);
                let info = TlsInfo::of(&tls, Some(&*certs)).map_err(TlsError::from)?;
                let wire = Wire::secured(stream, tls, info, shared.wire).into_websocket(early);
                shared.hand_on_websocket(port, wire, upgrade, permit)?;
            }
        }
    }
    Ok(())
}

impl Shared {
    /// Counts a connection; for its address, too, when no proxy stands in between.
    pub(super) fn admit(&self, port: &Port, peer: SocketAddr) -> Result<ConnPermit, Failed> {
        let now = Instant::now();
        let mut permit = self.limits.admit(now)?;
        let proxied =
            port.proxies.contains(peer.ip()) || (port.is_http() && self.site.trusts(peer.ip()));
        if !proxied {
            permit.name(peer.ip(), now)?;
        }
        Ok(permit)
    }

    pub(super) fn refuse(&self, port: &Port, peer: SocketAddr, error: &Failed) {
        let what = match error {
            Failed::Refused(_) => Count::ConnectionRefused,
            Failed::Shed => Count::ConnectionShed,
            _ => Count::TlsFailed,
        };
        self.metrics.count(what, 1);
        tracing::debug!(%error, listener = %port.name, %peer, "connection is not served");
    }

    fn hand_on(&self, accepted: Accepted) {
        (self.on_accept)(accepted);
    }

    fn hand_on_websocket(
        &self,
        port: &Port,
        wire: Wire,
        upgrade: Upgrade,
        mut permit: ConnPermit,
    ) -> Result<(), Failed> {
        permit.name(upgrade.client.peer.ip(), Instant::now())?;
        let (mut reader, writer) = wire.split();
        reader.hold(permit);
        let transport = if reader.tls_info().is_some() {
            "wss"
        } else {
            "ws"
        };
        let client = upgrade.client;
        let mut accepted = port.accepted(reader, writer, client.peer, transport, client.secure);
        accepted.query = client.query;
        accepted.headers = upgrade.headers;
        self.hand_on(accepted);
        Ok(())
    }
}

impl Port {
    fn accepted(
        &self,
        reader: WireReader,
        writer: Arc<WireWriter>,
        peer: SocketAddr,
        transport: &'static str,
        secure: bool,
    ) -> Accepted {
        Accepted {
            reader,
            writer,
            peer,
            transport,
            query: Vec::new(),
            headers: Vec::new(),
            secure,
            local_port: self.local.port(),
            listener: Arc::clone(&self.name),
            start_tls: None,
        }
    }
}

/// Waits until the client has sent something: a connection that stays silent costs no buffer.
/// False if it takes too long, or the listener is closed meanwhile.
async fn first_byte(
    stream: &TcpStream,
    limit: Duration,
    end: &CancellationToken,
) -> Result<bool, Failed> {
    tokio::select! {
        () = end.cancelled() => Ok(false),
        () = tokio::time::sleep(limit) => Ok(false),
        ready = stream.readable() => Ok(ready.map(|()| true)?),
    }
}

async fn read_proxy_header(stream: &mut TcpStream) -> Result<Origin, Failed> {
    let mut header = Vec::new();
    loop {
        match proxy_protocol::parse(&header)? {
            Step::Done(origin) => return Ok(origin),
            Step::Read(n) => {
                let start = header.len();
                header.resize(start + n, 0);
                stream.read_exact(&mut header[start..]).await?;
            }
        }
    }
}

/// IPv4 clients of an IPv6 socket are IPv4 clients.
pub(super) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
