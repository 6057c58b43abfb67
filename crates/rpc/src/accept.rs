//! Accepting connections: TCP with a TLS handshake, or a unix socket, handed to the HTTP/2 server
//! when it is known who is at the other end.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::identity::{PeerInfo, Proof};
use crate::io::ServerIo;
use crate::{RpcError, Security};

/// Time for a TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Handshakes at once; more wait in the kernel's accept queue.
const HANDSHAKES: usize = 128;

pub(crate) async fn bind_unix(path: &Path) -> Result<UnixListener, RpcError> {
    use std::os::unix::fs::PermissionsExt;
    if tokio::net::UnixStream::connect(path).await.is_ok() {
        return Err(RpcError::SocketTaken(path.to_owned()));
    }
    // Bound under another name and renamed when its mode is set: at no moment can anyone else
    // open the path.
    let mut temp = path.as_os_str().to_owned();
    temp.push(format!(".{}", std::process::id()));
    let temp = PathBuf::from(temp);
    let bind = || -> io::Result<UnixListener> {
        match std::fs::remove_file(&temp) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let listener = UnixListener::bind(&temp)?;
        std::fs::set_permissions(&temp, PermissionsExt::from_mode(0o600))?;
        std::fs::rename(&temp, path)?;
        Ok(listener)
    };
    bind().map_err(|source| RpcError::Socket {
        path: path.to_owned(),
        source,
    })
}

pub(crate) enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

pub(crate) struct Acceptor {
    pub(crate) listener: Listener,
    pub(crate) security: Security,
    pub(crate) connections: mpsc::Sender<io::Result<ServerIo>>,
    pub(crate) stop: CancellationToken,
    pub(crate) cut: CancellationToken,
    pub(crate) tasks: TaskTracker,
}

pub(crate) async fn accept(acceptor: Acceptor) {
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES));
    loop {
        let permit = tokio::select! {
            () = acceptor.stop.cancelled() => return,
            permit = Arc::clone(&handshakes).acquire_owned() => permit,
        };
        let accepted = tokio::select! {
            () = acceptor.stop.cancelled() => return,
            accepted = acceptor.listener.accept() => accepted,
        };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file descriptors, most likely: the next try at once would fail as well.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::select! {
                    () = acceptor.stop.cancelled() => return,
                    () = tokio::time::sleep(Duration::from_millis(100)) => continue,
                }
            }
        };
        let security = acceptor.security.clone();
        let (connections, cut) = (acceptor.connections.clone(), acceptor.cut.clone());
        let stop = acceptor.stop.clone();
        acceptor.tasks.spawn(async move {
            let _permit = permit;
            let ready = async {
                match secure(stream, address.clone(), security, &cut).await {
                    Ok(io) => {
                        if connections.send(Ok(io)).await.is_err() {
                            tracing::debug!(%address, "accepted while the server ended");
                        }
                    }
                    Err(error) => {
                        tracing::warn!(%address, error = %crate::error::chain(&error), "TLS handshake failed");
                    }
                }
            };
            tokio::select! {
                () = stop.cancelled() => {}
                () = ready => {}
            }
        });
    }
}

enum Accepted {
    Tcp(TcpStream),
    Unix(tokio::net::UnixStream),
}

impl Listener {
    async fn accept(&self) -> io::Result<(Accepted, String)> {
        match self {
            Listener::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                Ok((Accepted::Tcp(stream), address.to_string()))
            }
            Listener::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                Ok((Accepted::Unix(stream), "unix socket".to_owned()))
            }
        }
    }
}

async fn secure(
    accepted: Accepted,
    address: String,
    security: Security,
    cut: &CancellationToken,
) -> io::Result<ServerIo> {
    let stream = match accepted {
        Accepted::Unix(stream) => {
            return Ok(ServerIo::new(
                stream,
                PeerInfo {
                    address,
                    proof: Proof::Local,
                },
                cut,
            ));
        }
        Accepted::Tcp(stream) => stream,
    };
    crate::channel::prompt(&stream)?;
    let tls = match security {
        Security::Plaintext => {
            return Ok(ServerIo::new(
                stream,
                PeerInfo {
                    address,
                    proof: Proof::Plaintext,
                },
                cut,
            ));
        }
        Security::Mutual(tls) => TlsAcceptor::from(tls.server_config()),
    };
    let stream = tokio::time::timeout(HANDSHAKE_TIMEOUT, tls.accept(stream))
        .await
        .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "the handshake took too long"))??;
    let info = stream
        .get_ref()
        .1
        .peer_certificates()
        .and_then(|chain| chain.first())
        .ok_or_else(|| io::Error::other("the peer showed no certificate"))
        .and_then(|leaf| sestina_certs::describe_der(leaf).map_err(io::Error::other))?;
    let proof = Proof::Certificate(Arc::new(info));
    Ok(ServerIo::new(stream, PeerInfo { address, proof }, cut))
}
