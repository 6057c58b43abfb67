//! Connections for leases only.
//!
//! All of a process's services share one port, and who accepts a connection must know before the first
//! request on which runtime it is to be served: renewals are served by the lease thread, which nothing
//! else may keep busy. So a connection for leases begins, before TLS, with [`PREAMBLE`]. It proves
//! nothing, and allows less: only the methods that concern leases may be called on it.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// What such a connection begins with. TLS begins with 0x16, HTTP/2 with `PRI`.
const PREAMBLE: &[u8] = b"sestina-leases\n";
/// Time for the first bytes of a connection.
const FIRST: Duration = Duration::from_secs(5);

/// The methods that may be called on it.
const METHODS: &[&str] = &[
    "sestina.v1.EdgeLink/RenewLease",
    "sestina.v1.Storage/LeaseRenew",
    "sestina.v1.Storage/LeaseEnd",
    "sestina.v1.Storage/LeaseProve",
];

/// Whether a method (`package.Service/Method`) concerns leases.
pub(crate) fn may_call(method: &str) -> bool {
    METHODS.contains(&method)
}

/// Says that this connection is for leases.
pub(crate) async fn announce(tcp: &mut TcpStream) -> io::Result<()> {
    tcp.write_all(PREAMBLE).await
}

/// Whether a connection that was accepted is for leases; takes the preamble off it.
pub(crate) async fn is_announced(tcp: &mut TcpStream) -> io::Result<bool> {
    let looked = timeout(FIRST, async {
        let mut first = [0];
        if tcp.peek(&mut first).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if first[0] != PREAMBLE[0] {
            return Ok(false);
        }
        let mut all = [0; PREAMBLE.len()];
        tcp.read_exact(&mut all).await?;
        match all == *PREAMBLE {
            true => Ok(true),
            false => Err(io::Error::other("the connection begins with unknown bytes")),
        }
    });
    looked
        .await
        .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "nothing came on the connection"))?
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let to = listener.local_addr().unwrap();
        let (client, accepted) = tokio::join!(TcpStream::connect(to), listener.accept());
        (client.unwrap(), accepted.unwrap().0)
    }

    #[tokio::test]
    async fn connections_for_leases_are_told_from_others() {
        let (mut client, mut server) = pair().await;
        announce(&mut client).await.unwrap();
        client.write_all(b"PRI").await.unwrap();
        assert!(is_announced(&mut server).await.unwrap());
        let mut rest = [0; 3];
        server.read_exact(&mut rest).await.unwrap();
        assert_eq!(&rest, b"PRI", "what follows belongs to the protocol");

        let (mut client, mut server) = pair().await;
        client.write_all(b"PRI").await.unwrap();
        assert!(!is_announced(&mut server).await.unwrap());
        server.read_exact(&mut rest).await.unwrap();
        assert_eq!(&rest, b"PRI", "nothing is taken off another connection");

        let (mut client, mut server) = pair().await;
        client.write_all(b"sestina-other!\n").await.unwrap();
        assert!(is_announced(&mut server).await.is_err());
        let (client, mut server) = pair().await;
        drop(client);
        assert!(is_announced(&mut server).await.is_err());
    }

    #[test]
    fn every_method_for_leases_is_a_method() {
        for method in METHODS {
            assert!(
                crate::access::METHODS.iter().any(|row| row.name == *method),
                "{method}"
            );
        }
        assert!(!may_call("sestina.v1.Storage/ArchiveQuery"));
    }
}
