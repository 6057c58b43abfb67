//! Accepting connections: TCP with a TLS handshake, or a unix socket, handed to the HTTP/2 server
//! when it is known who is at the other end.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::identity::{PeerInfo, Proof};
use crate::io::ServerIo;
use crate::lease_connection;
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

pub(crate) type Connections = mpsc::Sender<io::Result<ServerIo>>;

/// Accepts on the runtime for leases, on which nothing is slow, and hands all but their connections to
/// the other one.
pub(crate) struct Acceptor {
    pub(crate) listener: Listener,
    pub(crate) security: Security,
    pub(crate) connections: Connections,
    /// Those for leases.
    pub(crate) lease_connections: Connections,
    /// The runtime of the others.
    pub(crate) home: Handle,
    pub(crate) stop: CancellationToken,
    pub(crate) cut: CancellationToken,
    pub(crate) tasks: TaskTracker,
}

pub(crate) async fn accept(acceptor: Acceptor) {
    let listener = match acceptor.listener.come_home() {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%error, "the listener for other processes does not work");
            return;
        }
    };
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES));
    loop {
        let permit = tokio::select! {
            () = acceptor.stop.cancelled() => return,
            Ok(permit) = Arc::clone(&handshakes).acquire_owned() => permit,
        };
        let accepted = tokio::select! {
            () = acceptor.stop.cancelled() => return,
            accepted = listener.accept() => accepted,
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
        let work = Work {
            security: acceptor.security.clone(),
            cut: acceptor.cut.clone(),
            connections: acceptor.connections.clone(),
            lease_connections: acceptor.lease_connections.clone(),
            home: acceptor.home.clone(),
            stop: acceptor.stop.clone(),
            tasks: acceptor.tasks.clone(),
            address,
        };
        acceptor.tasks.spawn(async move {
            let stop = work.stop.clone();
            tokio::select! {
                () = stop.cancelled() => {}
                () = work.begin(stream, permit) => {}
            }
        });
    }
}

/// One connection, until the server has it.
struct Work {
    security: Security,
    cut: CancellationToken,
    connections: Connections,
    lease_connections: Connections,
    home: Handle,
    stop: CancellationToken,
    tasks: TaskTracker,
    address: String,
}

impl Work {
    /// Finds out what the connection is for.
    async fn begin(self, stream: Accepted, permit: OwnedSemaphorePermit) {
        let unix = matches!(stream, Accepted::Unix(_));
        match sorted(stream).await {
            Ok((stream, true)) => self.finish(stream, true).await,
            Ok((stream, false)) => {
                let (home, tasks, stop) =
                    (self.home.clone(), self.tasks.clone(), self.stop.clone());
                let task = async move {
                    let _permit = permit;
                    tokio::select! {
                        () = stop.cancelled() => {}
                        () = self.finish(stream, false) => {}
                    }
                };
                tasks.spawn_on(task, &home);
            }
            // A load balancer looks whether the port is open.
            Err(error) if !unix && error.kind() == io::ErrorKind::UnexpectedEof => {
                tracing::debug!(address = %self.address, "a connection without a word");
            }
            Err(error) => self.failed(&error),
        }
    }

    async fn finish(&self, stream: Accepted, for_leases: bool) {
        let address = self.address.clone();
        match secure(
            stream,
            address,
            self.security.clone(),
            &self.cut,
            for_leases,
        )
        .await
        {
            Ok(io) => {
                let connections = match for_leases {
                    true => &self.lease_connections,
                    false => &self.connections,
                };
                if connections.send(Ok(io)).await.is_err() {
                    tracing::debug!(address = %self.address, "accepted while the server ended");
                }
            }
            Err(error) => self.failed(&error),
        }
    }

    fn failed(&self, error: &io::Error) {
        let error = crate::error::chain(error);
        tracing::warn!(address = %self.address, %error, "a connection of another process failed");
    }
}

/// Whether the connection is for leases, and the connection without what says so. Others are taken off
/// the runtime on which they were accepted.
async fn sorted(stream: Accepted) -> io::Result<(Accepted, bool)> {
    match stream {
        Accepted::Tcp(mut tcp) => match lease_connection::is_announced(&mut tcp).await? {
            true => Ok((Accepted::Tcp(tcp), true)),
            false => Ok((Accepted::Homeless(tcp.into_std()?), false)),
        },
        other => Ok((other, false)),
    }
}

enum Accepted {
    Tcp(TcpStream),
    /// Belongs to no runtime.
    Homeless(std::net::TcpStream),
    Unix(tokio::net::UnixStream),
}

impl Listener {
    /// Makes it belong to the runtime on which this is called.
    fn come_home(self) -> io::Result<Listener> {
        Ok(match self {
            Listener::Tcp(listener) => Listener::Tcp(TcpListener::from_std(listener.into_std()?)?),
            unix @ Listener::Unix(_) => unix,
        })
    }

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
    for_leases: bool,
) -> io::Result<ServerIo> {
    let stream = match accepted {
        Accepted::Unix(stream) => {
            return Ok(ServerIo::new(
                stream,
                PeerInfo {
                    address,
                    proof: Proof::Local,
                    for_leases,
                },
                cut,
            ));
        }
        Accepted::Tcp(stream) => stream,
        Accepted::Homeless(stream) => TcpStream::from_std(stream)?,
    };
    crate::channel::prompt(&stream)?;
    let tls = match security {
        Security::Plaintext => {
            return Ok(ServerIo::new(
                stream,
                PeerInfo {
                    address,
                    proof: Proof::Plaintext,
                    for_leases,
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
    let info = PeerInfo {
        address,
        proof,
        for_leases,
    };
    Ok(ServerIo::new(stream, info, cut))
}
