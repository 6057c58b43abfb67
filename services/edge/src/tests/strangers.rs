//! Connections that never log in, and a client that does.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sestina_xmpp::sasl::Mechanism;
use sestina_xmpp::sasl::scram::ClientBinding;
use tokio::net::{TcpSocket, TcpStream};

use super::client::Client;
use super::rig::{config, until};
use super::router::{Cluster, Connector, PASSWORD};
use crate::Edge;
use crate::listen::{ListenerConfig, ListenerKind};
use crate::metrics::{Count, Tally};
use crate::tls::tests as tls_tests;

/// A connection from `127.0.0.<last>`.
async fn connect(last: u8, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket
        .bind(SocketAddr::from(([127, 0, 0, last], 0)))
        .unwrap();
    socket.connect(to).await.unwrap()
}

struct Rig {
    edge: Edge,
    tally: Arc<Tally>,
    _folder: tempfile::TempDir,
}

impl Rig {
    /// An edge with ports for direct TLS (`tls`) and logins in clear (`plain`).
    async fn start(unauthenticated: usize) -> Rig {
        let folder = tempfile::tempdir().unwrap();
        let certs = tls_tests::store(folder.path(), &["c.example"]);
        let mut config = config("edge1");
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        config.listen.listeners = vec![
            ListenerConfig::new("tls", ListenerKind::DirectTls, vec![any]),
            ListenerConfig::new("plain", ListenerKind::StartTls, vec![any]),
        ];
        config.listen.limits.unauthenticated = unauthenticated;
        let tally = Arc::new(Tally::default());
        let connector = Arc::new(Connector(Cluster::new(1)));
        let edge = Edge::start(config, certs, connector, tally.clone()).unwrap();
        until("the edge is ready", || edge.status().ready()).await;
        Rig {
            edge,
            tally,
            _folder: folder,
        }
    }

    fn address(&self, name: &str) -> SocketAddr {
        let mut all = self.edge.addresses().iter();
        all.find(|(n, _)| **n == *name).unwrap().1
    }

    /// Logs in from an address of its own. Returns how long that took.
    async fn log_in(&self) -> (Client, Duration) {
        let began = Instant::now();
        let mut client = Client::on(connect(200, self.address("plain")).await);
        client.open("c.example").await;
        let binding = ClientBinding::Unsupported;
        assert!(
            client
                .scram(Mechanism::ScramSha256, "juliet", PASSWORD, binding)
                .await
        );
        (client, began.elapsed())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_connections_to_one_port_hold_up_no_login_on_another() {
    let rig = Rig::start(4096).await;
    let mut silent = Vec::new();
    for n in 0..1200 {
        silent.push(connect(n as u8 % 6 + 2, rig.address("tls")).await);
    }
    // Several: a listener may have had a place in hand before.
    for _ in 0..3 {
        let (_client, took) = rig.log_in().await;
        assert!(took < Duration::from_secs(5), "the login took {took:?}");
    }
    assert_eq!(rig.tally.get(Count::ConnectionShed), 0, "there was room");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_connections_beyond_the_bound_make_room_and_sessions_stay() {
    let rig = Rig::start(64).await;
    let (mut known, _) = rig.log_in().await;
    let mut silent = Vec::new();
    for port in ["tls", "plain"] {
        for n in 0..200 {
            silent.push(connect(n % 3 + 2, rig.address(port)).await);
        }
    }
    let (_client, took) = rig.log_in().await;
    assert!(took < Duration::from_secs(5), "the login took {took:?}");
    until("connections were shed", || {
        rig.tally.get(Count::ConnectionShed) >= 300
    })
    .await;
    // The session that was there before is none of them.
    known.open("c.example").await;
}
