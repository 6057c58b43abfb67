#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::*;
use crate::metrics::{Count, Tally};
use crate::tls::tests as tls_tests;
use crate::transport::Chunk;

/// Running listeners, and what they accepted.
pub(crate) struct Rig {
    pub(crate) listeners: Listeners,
    tally: Arc<Tally>,
    pub(crate) accepted: mpsc::Receiver<Accepted>,
    folder: TempDir,
}

impl Rig {
    pub(crate) fn start(config: ListenConfig) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let certs = tls_tests::store(folder.path(), &["c.example"]);
        let tally = Arc::new(Tally::default());
        let (sender, accepted) = mpsc::channel(100);
        let on_accept: OnAccept = Arc::new(move |accepted| {
            assert!(sender.try_send(accepted).is_ok());
        });
        let listeners = Listeners::start(config, certs, on_accept, tally.clone()).unwrap();
        Self {
            listeners,
            tally,
            accepted,
            folder,
        }
    }

    pub(crate) fn address(&self, name: &str) -> SocketAddr {
        self.listeners
            .addresses()
            .iter()
            .find(|(n, _)| **n == *name)
            .unwrap()
            .1
    }

    pub(crate) async fn connect(&self, name: &str) -> TcpStream {
        TcpStream::connect(self.address(name)).await.unwrap()
    }

    pub(crate) async fn connect_tls(&self, name: &str, alpn: &[&str]) -> TlsStream<TcpStream> {
        let mut config = tls_tests::client(self.folder.path(), &[&rustls::version::TLS13]);
        config.alpn_protocols = alpn.iter().map(|p| p.as_bytes().to_vec()).collect();
        let domain = "c.example".try_into().unwrap();
        let stream = self.connect(name).await;
        TlsConnector::from(Arc::new(config))
            .connect(domain, stream)
            .await
            .unwrap()
    }

    pub(crate) async fn next(&mut self) -> Accepted {
        tokio::time::timeout(Duration::from_secs(60), self.accepted.recv())
            .await
            .unwrap()
            .unwrap()
    }

    pub(crate) async fn end(self) {
        self.listeners
            .shutdown(Duration::from_secs(30))
            .await
            .unwrap();
    }
}

pub(crate) fn config(kinds: &[(&str, ListenerKind)]) -> ListenConfig {
    let any = "127.0.0.1:0".parse().unwrap();
    ListenConfig {
        listeners: kinds
            .iter()
            .map(|&(name, kind)| ListenerConfig::new(name, kind, vec![any]))
            .collect(),
        ..ListenConfig::default()
    }
}

/// The server closes without a word, in order or by a reset.
async fn is_closed(mut stream: TcpStream) {
    assert!(matches!(stream.read(&mut [0; 1]).await, Ok(0) | Err(_)));
}

#[tokio::test]
async fn plain_and_direct_tls() {
    let mut rig = Rig::start(config(&[
        ("c2s", ListenerKind::StartTls),
        ("c2s-tls", ListenerKind::DirectTls),
    ]));
    let mut client = rig.connect("c2s").await;
    let mut accepted = rig.next().await;
    assert_eq!((accepted.transport, accepted.secure), ("tcp", false));
    assert_eq!(accepted.peer, client.local_addr().unwrap());
    assert_eq!(accepted.local_port, rig.address("c2s").port());
    assert_eq!(&*accepted.listener, "c2s");
    client.write_all(b"<stream>").await.unwrap();
    assert_eq!(
        accepted.reader.read().await.unwrap(),
        Chunk::Bytes(b"<stream>")
    );
    assert!(accepted.start_tls.is_some());

    let client = rig.connect_tls("c2s-tls", &["xmpp-client"]).await;
    assert_eq!(
        client.get_ref().1.alpn_protocol(),
        Some(&b"xmpp-client"[..])
    );
    let accepted = rig.next().await;
    assert_eq!((accepted.transport, accepted.secure), ("tls", true));
    assert_eq!(
        accepted.reader.tls_info().unwrap().sni.as_deref(),
        Some("c.example")
    );
    assert_eq!(rig.tally.get(Count::TlsFull), 1);
    rig.end().await;
}

#[tokio::test]
async fn each_address_has_its_share_until_it_gives_back() {
    let mut config = config(&[("c2s", ListenerKind::StartTls)]);
    config.limits.per_address = 2;
    let mut rig = Rig::start(config);
    let (_first, _second) = (rig.connect("c2s").await, rig.connect("c2s").await);
    let (first, _held) = (rig.next().await, rig.next().await);
    is_closed(rig.connect("c2s").await).await;
    assert_eq!(rig.tally.get(Count::ConnectionRefused), 1);
    assert_eq!(rig.listeners.limits().connections(), 2);
    drop(first);
    let _third = rig.connect("c2s").await;
    rig.next().await;
    rig.end().await;
}

#[tokio::test]
async fn a_handshake_that_does_not_come_ends_the_connection() {
    let mut config = config(&[("c2s-tls", ListenerKind::DirectTls)]);
    config.limits.handshake_time = Duration::from_millis(20);
    let rig = Rig::start(config);
    is_closed(rig.connect("c2s-tls").await).await;
    let tally = Arc::clone(&rig.tally);
    let limits = Arc::clone(rig.listeners.limits());
    rig.end().await;
    assert_eq!(tally.get(Count::TlsFailed), 1);
    assert_eq!(limits.connections(), 0);
}

/// A connection from another address of this machine.
async fn connect_from(from: [u8; 4], to: SocketAddr) -> TcpStream {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(from.into(), 0)).unwrap();
    socket.connect(to).await.unwrap()
}

#[tokio::test]
async fn strangers_who_say_nothing_make_room_on_every_listener() {
    let hello = &b"\x16\x03\x01"[..];
    for (kind, halves) in [
        (ListenerKind::DirectTls, [b"", hello]),
        (ListenerKind::Http, [b"", b"GET /"]),
        (ListenerKind::Https, [b"", hello]),
    ] {
        for half in halves {
            let mut config = config(&[("flooded", kind), ("c2s", ListenerKind::StartTls)]);
            config.limits.unauthenticated = 20;
            let mut rig = Rig::start(config);
            let mut flood = Vec::new();
            for _ in 0..20 {
                let mut stream = rig.connect("flooded").await;
                stream.write_all(half).await.unwrap();
                flood.push(stream);
            }
            let newcomer = connect_from([127, 0, 0, 2], rig.address("c2s")).await;
            let accepted = rig.next().await;
            assert_eq!(accepted.peer, newcomer.local_addr().unwrap());
            assert!(rig.listeners.limits().unauthenticated() <= 20);
            is_closed(flood.swap_remove(0)).await;
            drop(flood);
            rig.end().await;
        }
    }
}

#[tokio::test]
async fn behind_a_proxy_the_bounds_are_those_of_the_client() {
    let mut config = config(&[("c2s", ListenerKind::StartTls)]);
    config.listeners[0].proxy_protocol_from = "127.0.0.0/8".parse().unwrap();
    config.limits.unauthenticated_per_address = 2;
    let mut rig = Rig::start(config);
    let mut held = Vec::new();
    for client in [1, 1, 2, 2, 3] {
        let mut stream = rig.connect("c2s").await;
        let header = format!("PROXY TCP4 192.0.2.{client} 198.51.100.2 777 5222\r\n");
        stream.write_all(header.as_bytes()).await.unwrap();
        held.push((stream, rig.next().await));
    }
    let mut third = rig.connect("c2s").await;
    third
        .write_all(b"PROXY TCP4 192.0.2.1 198.51.100.2 778 5222\r\n")
        .await
        .unwrap();
    is_closed(third).await;
    assert_eq!(rig.tally.get(Count::ConnectionRefused), 1);
    rig.end().await;
}

#[tokio::test]
async fn the_proxy_header_names_the_client() {
    let mut config = config(&[
        ("c2s", ListenerKind::StartTls),
        ("tls", ListenerKind::DirectTls),
    ]);
    for listener in &mut config.listeners {
        listener.proxy_protocol_from = "127.0.0.0/8".parse().unwrap();
    }
    config.limits.per_address = 1;
    let mut rig = Rig::start(config);
    let mut client = rig.connect("c2s").await;
    client
        .write_all(b"PROXY TCP4 192.0.2.1 198.51.100.2 777 5222\r\n<stream>")
        .await
        .unwrap();
    let mut first = rig.next().await;
    assert_eq!(first.peer, "192.0.2.1:777".parse().unwrap());
    assert_eq!(
        first.reader.read().await.unwrap(),
        Chunk::Bytes(b"<stream>")
    );
    // Limits count clients, not the proxy.
    let mut other = rig.connect("c2s").await;
    other
        .write_all(b"PROXY TCP4 192.0.2.2 198.51.100.2 777 5222\r\n")
        .await
        .unwrap();
    let second = rig.next().await;
    assert_eq!(second.peer, "192.0.2.2:777".parse().unwrap());
    let mut again = rig.connect("c2s").await;
    again
        .write_all(b"PROXY TCP4 192.0.2.1 198.51.100.2 778 5222\r\n")
        .await
        .unwrap();
    is_closed(again).await;
    let mut none = rig.connect("c2s").await;
    none.write_all(b"<?xml version='1.0'?><stream:stream>")
        .await
        .unwrap();
    is_closed(none).await;
    rig.end().await;
}

#[tokio::test]
async fn a_proxy_header_of_version_2_before_tls() {
    let mut config = config(&[("tls", ListenerKind::DirectTls)]);
    config.listeners[0].proxy_protocol_from = "127.0.0.1".parse().unwrap();
    let mut rig = Rig::start(config);
    let mut stream = rig.connect("tls").await;
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
    header.extend_from_slice(&[192, 0, 2, 9, 198, 51, 100, 2, 0, 80, 0, 81]);
    stream.write_all(&header).await.unwrap();
    let tls = tls_tests::client(rig.folder.path(), &[&rustls::version::TLS12]);
    let _client = TlsConnector::from(Arc::new(tls))
        .connect("c.example".try_into().unwrap(), stream)
        .await
        .unwrap();
    let accepted = rig.next().await;
    assert_eq!(accepted.peer, "192.0.2.9:80".parse().unwrap());
    rig.end().await;
}

#[tokio::test]
async fn the_header_of_a_stranger_is_not_believed() {
    let mut config = config(&[("c2s", ListenerKind::StartTls)]);
    config.listeners[0].proxy_protocol_from = "192.0.2.0/24".parse().unwrap();
    let mut rig = Rig::start(config);
    let mut stranger = rig.connect("c2s").await;
    let own = stranger.local_addr().unwrap();
    let header = b"PROXY TCP4 192.0.2.1 198.51.100.2 777 5222\r\n";
    stranger.write_all(header).await.unwrap();
    let mut accepted = rig.next().await;
    assert_eq!(accepted.peer, own);
    // It is left to the stream's parser, which refuses it.
    assert_eq!(accepted.reader.read().await.unwrap(), Chunk::Bytes(header));
    rig.end().await;
}

#[tokio::test]
async fn a_taken_port_is_named_with_advice() {
    let rig = Rig::start(config(&[("c2s", ListenerKind::StartTls)]));
    let taken = rig.address("c2s");
    let folder = tempfile::tempdir().unwrap();
    let certs = tls_tests::store(folder.path(), &["c.example"]);
    let listener = ListenerConfig::new("other", ListenerKind::StartTls, vec![taken]);
    let config = ListenConfig {
        listeners: vec![listener],
        ..ListenConfig::default()
    };
    let error = Listeners::start(config, certs, Arc::new(|_| {}), Arc::new(Tally::default()))
        .err()
        .unwrap();
    let text = error.to_string();
    assert!(
        text.contains(&taken.to_string()) && text.contains("`edge.other`"),
        "{text}"
    );
    assert!(text.contains("another process uses this port"), "{text}");
    rig.end().await;
}

#[tokio::test]
async fn ipv4_and_ipv6_on_one_port() {
    let probe = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = probe.local_addr().unwrap().port();
    drop(probe);
    let mut config = config(&[("c2s", ListenerKind::StartTls)]);
    config.listeners[0].addresses = vec![
        SocketAddr::new([0, 0, 0, 0].into(), port),
        SocketAddr::new([0u16; 8].into(), port),
    ];
    let mut rig = Rig::start(config);
    for address in ["127.0.0.1", "::1"] {
        let client = TcpStream::connect((address, port)).await.unwrap();
        assert_eq!(rig.next().await.peer, client.local_addr().unwrap());
    }
    rig.end().await;
}

#[tokio::test]
async fn ipv6_alone_takes_ipv4_clients_under_their_own_address() {
    let mut config = config(&[("c2s", ListenerKind::StartTls)]);
    config.listeners[0].addresses = vec!["[::]:0".parse().unwrap()];
    let mut rig = Rig::start(config);
    let port = rig.address("c2s").port();
    let client = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    assert_eq!(rig.next().await.peer, client.local_addr().unwrap());
    rig.end().await;
}

#[tokio::test]
async fn after_stop_no_one_comes_in_and_those_inside_stay() {
    let mut rig = Rig::start(config(&[("c2s", ListenerKind::StartTls)]));
    let mut client = rig.connect("c2s").await;
    let mut inside = rig.next().await;
    let address = rig.address("c2s");
    rig.listeners
        .shutdown(Duration::from_secs(30))
        .await
        .unwrap();
    assert!(TcpStream::connect(address).await.is_err());
    client.write_all(b"still here").await.unwrap();
    assert_eq!(
        inside.reader.read().await.unwrap(),
        Chunk::Bytes(b"still here")
    );
}
