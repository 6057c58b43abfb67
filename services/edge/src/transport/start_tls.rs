//! The TLS handshake on a connection that is already split, and what it agreed on.

use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll, ready};

use rustls::{Connection, HandshakeKind, ProtocolVersion};

use super::reader::WireReader;
use super::socket::NonBlocking;
use super::writer::CloseKind;
use crate::tls::{CertSet, TlsRole};

/// What a TLS handshake agreed on, as channel binding and logs need it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsInfo {
    /// `TLSv1.2` or `TLSv1.3`.
    pub protocol: &'static str,
    /// Name of the cipher suite in the IANA registry.
    pub cipher: String,
    /// `tls-exporter` channel binding (RFC 9266); none in TLS 1.2, where it would not be unique
    /// without the extended master secret (§3).
    pub exporter: Option<[u8; 32]>,
    /// `tls-server-end-point` channel binding (RFC 5929 §4).
    pub server_end_point: Vec<u8>,
    /// Host name that the client asked for; none if this process is the client.
    pub sni: Option<String>,
    /// The client resumed an earlier TLS session.
    pub resumed: bool,
}

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The connection speaks TLS, or is a WebSocket, already.
    #[error("tls cannot be started on this connection")]
    NotPlain,
    /// No certificate and no protocol in common, or a broken message.
    #[error("tls handshake failed: {0}")]
    Handshake(#[from] rustls::Error),
    /// The connection ended first.
    #[error("connection ended during the tls handshake: {0}")]
    Io(#[from] io::Error),
}

impl TlsInfo {
    /// Reads it from a connection whose handshake is complete. `shown` holds the certificates of this
    /// process, if it is the server.
    pub fn of(tls: &Connection, shown: Option<&CertSet>) -> Result<Self, rustls::Error> {
        let protocol = match tls.protocol_version() {
            Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
            Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
            _ => return Err(rustls::Error::HandshakeNotComplete),
        };
        let suite = tls
            .negotiated_cipher_suite()
            .ok_or(rustls::Error::HandshakeNotComplete)?;
        let export = || tls.export_keying_material([0; 32], b"EXPORTER-Channel-Binding", Some(b""));
        let is_13 = tls.protocol_version() == Some(ProtocolVersion::TLSv1_3);
        let sni = match tls {
            Connection::Server(server) => server.server_name().map(str::to_owned),
            Connection::Client(_) => None,
        };
        let server_end_point = match (shown, tls.peer_certificates()) {
            (Some(set), _) => set.server_end_point(sni.as_deref()),
            (None, Some([certificate, ..])) => sestina_certs::server_end_point(certificate),
            (None, _) => Vec::new(),
        };
        Ok(Self {
            protocol,
            cipher: iana_name(&format!("{:?}", suite.suite())),
            exporter: is_13.then(export).transpose()?,
            server_end_point,
            sni,
            resumed: tls.handshake_kind() == Some(HandshakeKind::Resumed),
        })
    }
}

/// rustls marks the suites of TLS 1.3; the registry does not.
fn iana_name(rustls_name: &str) -> String {
    rustls_name.replacen("TLS13_", "TLS_", 1)
}

impl WireReader {
    /// Starts TLS in place, in either role. What is queued (`<proceed/>`) is sent in clear first.
    ///
    /// Bytes that the peer sent in clear before the handshake are dropped: they would otherwise
    /// be taken for something said under TLS. The caller must drop what its parser holds, too.
    pub async fn start_tls(&mut self, role: &impl TlsRole) -> Result<(), TlsError> {
        if self.is_websocket() || self.writer.state.lock().tls.is_some() {
            return Err(TlsError::NotPlain);
        }
        self.discard_input();
        poll_fn(|cx| self.poll_flushed(cx)).await?;
        let begun = role.begin()?;
        self.writer.state.lock().secure(Box::new(begun.tls));
        let handshake = poll_fn(|cx| self.poll_handshake(cx));
        match role.handshake_limiter().run(handshake).await {
            Ok(()) => {}
            Err(error) => {
                self.writer.close(CloseKind::Abort);
                return Err(error);
            }
        }
        let state = self.writer.state.lock();
        let tls = state.tls.as_ref().ok_or(TlsError::NotPlain)?;
        let info = TlsInfo::of(tls, begun.shown.as_deref())?;
        drop(state);
        self.info = Some(Box::new(info));
        Ok(())
    }

    fn poll_handshake(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), TlsError>> {
        loop {
            self.poll_progress(cx)?;
            {
                let state = self.writer.state.lock();
                let tls = state.tls.as_ref().ok_or(TlsError::NotPlain)?;
                if !tls.is_handshaking() && !tls.wants_write() {
                    return Poll::Ready(Ok(()));
                }
            }
            ready!(self.writer.stream.poll_read_ready(cx))?;
            match self.read_socket() {
                Ok(()) if self.at_eof() => {
                    return Poll::Ready(Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()));
                }
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(refine(error))),
            }
        }
    }

    /// Gives a TLS alert its last chance to reach the peer.
    pub(super) fn send_alert(&self) {
        let mut state = self.writer.state.lock();
        if let Some(tls) = &mut state.tls
            && let Err(error) = tls.write_tls(&mut NonBlocking(&self.writer.stream))
        {
            tracing::trace!(%error, "tls alert was not sent");
        }
    }
}

fn refine(error: io::Error) -> TlsError {
    match error.downcast::<rustls::Error>() {
        Ok(error) => TlsError::Handshake(error),
        Err(error) => TlsError::Io(error),
    }
}
