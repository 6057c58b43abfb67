//! A TCP relay whose connections can be cut, so that a client loses its connection without a
//! reason.

use anyhow::Result;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// See the module.
pub(crate) struct Relay {
    address: String,
    cut: watch::Sender<u64>,
}

impl Relay {
    /// Listens on a free port and forwards every connection to `target`.
    pub(crate) async fn start(target: &str) -> Result<Relay> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?.to_string();
        let (cut, mut cuts) = watch::channel(0);
        let target = target.to_owned();
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let Ok(mut far) = TcpStream::connect(&target).await else {
                    continue;
                };
                cuts.mark_unchanged();
                let mut cuts = cuts.clone();
                tokio::spawn(async move {
                    tokio::select! {
                        // The clients handle the end of a connection.
                        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                        _ = cuts.changed() => {}
                    }
                });
            }
        });
        Ok(Relay { address, cut })
    }

    /// The address on which it listens.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Closes all connections.
    pub(crate) fn cut(&self) {
        self.cut.send_modify(|count| *count += 1);
    }
}
