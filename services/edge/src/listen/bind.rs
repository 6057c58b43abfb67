//! Binding of ports, with errors that say what to do.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket};

use super::config::ListenerConfig;

/// Why a listener could not be started.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The address cannot be bound.
    #[error("cannot listen on {address} (`edge.{listener}`): {source}; {advice}")]
    Bind {
        /// Name of the listener.
        listener: String,
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
        /// What to do.
        advice: &'static str,
    },
    /// A listener without addresses would never be noticed.
    #[error("listener {0} has no address, give it one or remove it")]
    NoAddress(String),
}

/// Binds all addresses of one listener. `all` are the addresses of all listeners.
pub(super) fn bind(
    config: &ListenerConfig,
    all: &[SocketAddr],
) -> Result<Vec<TcpListener>, ListenError> {
    if config.addresses.is_empty() {
        return Err(ListenError::NoAddress(config.name.clone()));
    }
    config
        .addresses
        .iter()
        .map(|&address| {
            listen(address, beside_ipv4(address, all), config.backlog).map_err(|source| {
                ListenError::Bind {
                    listener: config.name.clone(),
                    address,
                    advice: advice(&source),
                    source,
                }
            })
        })
        .collect()
}

/// `[::]` takes IPv4 clients as well, unless that port is bound for IPv4 by itself.
fn beside_ipv4(address: SocketAddr, all: &[SocketAddr]) -> bool {
    address.is_ipv6()
        && all
            .iter()
            .any(|other| other.is_ipv4() && other.port() == address.port())
}

fn listen(address: SocketAddr, only_ipv6: bool, backlog: u32) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => {
            let socket = TcpSocket::new_v6()?;
            rustix::net::sockopt::set_ipv6_v6only(&socket, only_ipv6)?;
            socket
        }
    };
    // A restart must not wait for old connections to leave TIME_WAIT.
    socket.set_reuseaddr(true)?;
    probe(&socket)?;
    socket.bind(address)?;
    socket.listen(backlog)
}

/// Peers that vanished without a word are found by the kernel's probes, two minutes after the last
/// byte. Accepted sockets inherit this.
fn probe(socket: &TcpSocket) -> io::Result<()> {
    use rustix::net::sockopt;
    sockopt::set_socket_keepalive(socket, true)?;
    sockopt::set_tcp_keepidle(socket, Duration::from_secs(60))?;
    sockopt::set_tcp_keepintvl(socket, Duration::from_secs(20))?;
    sockopt::set_tcp_keepcnt(socket, 3)?;
    Ok(())
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "another process uses this port: stop it, or choose another port"
        }
        io::ErrorKind::PermissionDenied => {
            "ports below 1024 need the capability CAP_NET_BIND_SERVICE: grant it, or choose \
             another port"
        }
        io::ErrorKind::AddrNotAvailable => {
            "no interface of this machine has this address: correct it, or use 0.0.0.0 or [::]"
        }
        _ => "check the address and the limits of the process",
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn accepted_sockets_are_probed_by_the_kernel() {
        use rustix::net::sockopt;
        let listener = listen("127.0.0.1:0".parse().unwrap(), false, 8).unwrap();
        let address = listener.local_addr().unwrap();
        let (_client, accepted) =
            tokio::join!(tokio::net::TcpStream::connect(address), listener.accept());
        let (socket, _) = accepted.unwrap();
        assert!(sockopt::socket_keepalive(&socket).unwrap());
        assert_eq!(
            sockopt::tcp_keepidle(&socket).unwrap(),
            Duration::from_secs(60)
        );
        assert_eq!(
            sockopt::tcp_keepintvl(&socket).unwrap(),
            Duration::from_secs(20)
        );
        assert_eq!(sockopt::tcp_keepcnt(&socket).unwrap(), 3);
    }
}
