#![allow(clippy::unwrap_used)]

use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use rustls::SupportedProtocolVersion;
use rustls::pki_types::ServerName;
use rustls::version::{TLS12, TLS13};
use sestina_certs::server_end_point;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_rustls::client::TlsStream;

use super::*;
use crate::tls::{Acceptor, Purpose, tests as tls_tests};

/// Two ends of a connection whose kernel buffers are small, so that it can be filled.
async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(8192).unwrap();
    let client = socket.connect(listener.local_addr().unwrap());
    let (client, server) = tokio::join!(client, listener.accept());
    let server = server.unwrap().0;
    rustix::net::sockopt::set_socket_send_buffer_size(&server, 8192).unwrap();
    server.set_nodelay(true).unwrap();
    (client.unwrap(), server)
}

struct Tls {
    folder: TempDir,
    acceptor: Acceptor,
}

impl Tls {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = tls_tests::store(folder.path(), &["c.example"]);
        Self {
            acceptor: Acceptor::new(store, Purpose::DirectTls),
            folder,
        }
    }

    async fn connect(
        &self,
        client: TcpStream,
        version: &'static SupportedProtocolVersion,
    ) -> TlsStream<TcpStream> {
        let config = tls_tests::client(self.folder.path(), &[version]);
        let name = ServerName::try_from("c.example").unwrap();
        tokio_rustls::TlsConnector::from(Arc::new(config))
            .connect(name, client)
            .await
            .unwrap()
    }

    /// A connection under TLS 1.3, with tickets already read by the client.
    async fn established(&self, limits: WireLimits) -> (TlsStream<TcpStream>, WireReader) {
        let (client, server) = pair().await;
        let (mut reader, writer) = Wire::plain(server, limits).split();
        let (client, started) = tokio::join!(
            self.connect(client, &TLS13),
            reader.start_tls(&self.acceptor)
        );
        started.unwrap();
        let mut client = client;
        writer.send(None, |out| out.push(b'!'));
        assert_eq!(client.read_u8().await.unwrap(), b'!');
        (client, reader)
    }
}

fn bytes(chunk: Chunk<'_>) -> Vec<u8> {
    match chunk {
        Chunk::Bytes(bytes) => bytes.to_vec(),
        other => panic!("expected bytes, got {other:?}"),
    }
}

#[tokio::test]
async fn tls_of_both_versions_with_equal_channel_bindings() {
    // RFC 9266 §3: no exporter in TLS 1.2, where it may not be unique.
    let tls = Tls::new();
    for (version, name) in [(&TLS12, "TLSv1.2"), (&TLS13, "TLSv1.3")] {
        let (client, server) = pair().await;
        let (mut reader, writer) = Wire::plain(server, WireLimits::default()).split();
        assert!(reader.tls_info().is_none());
        let (mut client, started) = tokio::join!(
            tls.connect(client, version),
            reader.start_tls(&tls.acceptor)
        );
        started.unwrap();
        let session = client.get_ref().1;
        let exporter = session
            .export_keying_material([0; 32], b"EXPORTER-Channel-Binding", Some(b""))
            .unwrap();
        let info = reader.tls_info().unwrap().clone();
        assert_eq!(info.exporter, (name == "TLSv1.3").then_some(exporter));
        assert_eq!(
            info.server_end_point,
            server_end_point(&session.peer_certificates().unwrap()[0])
        );
        assert_eq!(
            (info.protocol, info.sni.as_deref()),
            (name, Some("c.example"))
        );
        assert!(
            info.cipher.starts_with("TLS_") && !info.cipher.contains("13_"),
            "{}",
            info.cipher
        );

        client.write_all(b"ping").await.unwrap();
        assert_eq!(bytes(reader.read().await.unwrap()), b"ping");
        assert_eq!(
            writer.send(Some(1), |out| out.extend_from_slice(b"pong")),
            Flush::Done
        );
        assert_eq!(writer.written(), 1);
        let mut answer = [0; 4];
        client.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"pong");
        client.shutdown().await.unwrap();
        assert_eq!(reader.read().await.unwrap(), Chunk::Eof);
    }
}

#[tokio::test]
async fn clear_bytes_before_the_handshake_are_not_taken_for_protected_ones() {
    let tls = Tls::new();
    let (mut client, server) = pair().await;
    let (mut reader, writer) = Wire::plain(server, WireLimits::default()).split();
    client
        .write_all(b"<starttls/><iq id='injected'/>")
        .await
        .unwrap();
    assert!(bytes(reader.read().await.unwrap()).starts_with(b"<starttls/>"));
    writer.append(|out| out.extend_from_slice(b"<proceed/>"));
    let connect = async {
        let mut proceed = [0; 10];
        client.read_exact(&mut proceed).await.unwrap();
        assert_eq!(&proceed, b"<proceed/>");
        // What the client says first travels with the end of its handshake.
        let config = Arc::new(tls_tests::client(tls.folder.path(), &[&TLS13]));
        let name = ServerName::try_from("c.example").unwrap();
        let mut session = rustls::ClientConnection::new(config, name).unwrap();
        session.writer().write_all(b"<protected/>").unwrap();
        let mut client = client.into_std().unwrap();
        let shake = move || {
            client.set_nonblocking(false).unwrap();
            session.complete_io(&mut client).unwrap();
            client
        };
        tokio::task::spawn_blocking(shake).await.unwrap()
    };
    let (_client, started) = tokio::join!(connect, reader.start_tls(&tls.acceptor));
    started.unwrap();
    let first = tokio::time::timeout(Duration::from_secs(60), reader.read())
        .await
        .unwrap();
    assert_eq!(bytes(first.unwrap()), b"<protected/>");
    assert!(matches!(
        reader.start_tls(&tls.acceptor).await,
        Err(TlsError::NotPlain)
    ));
}

#[tokio::test]
async fn clear_bytes_in_place_of_a_handshake_fail_it() {
    let tls = Tls::new();
    let (mut client, server) = pair().await;
    let (mut reader, writer) = Wire::plain(server, WireLimits::default()).split();
    client.write_all(b"<iq id='injected'/>").await.unwrap();
    let started = reader.start_tls(&tls.acceptor).await;
    assert!(
        matches!(started, Err(TlsError::Handshake(_))),
        "{started:?}"
    );
    assert!(writer.is_closed());
    assert_eq!(reader.read().await.unwrap(), Chunk::Eof);
}

/// Fills a connection, then lets the client read: all arrives, in order, by the reader alone.
async fn fill_then_drain<C: tokio::io::AsyncRead + Unpin>(mut client: C, mut reader: WireReader) {
    let writer = Arc::clone(reader.writer());
    writer.set_queue_limit(64 << 20);
    let element = |n: u64| format!("<message id='{n}'>{}</message>", "x".repeat(1000));
    let mut expected = String::new();
    let mut last = 0;
    let mut blocked = 0;
    // Some blocks in a row: later ones come on top of a queue.
    while blocked < 50 {
        last += 1;
        expected.push_str(&element(last));
        let flush = writer.send(Some(last), |out| {
            out.extend_from_slice(element(last).as_bytes())
        });
        match flush {
            Flush::Blocked => blocked += 1,
            Flush::Done => {}
            Flush::Closed => panic!("closed"),
        }
    }
    assert!(writer.queued_bytes() > 0);
    assert!(writer.written() < last);
    let mut received = vec![0; expected.len()];
    tokio::select! {
        read = client.read_exact(&mut received) => { read.unwrap(); }
        chunk = reader.read() => panic!("nothing was sent to the server: {chunk:?}"),
    }
    assert!(received == expected.as_bytes());
    assert_eq!((writer.written(), writer.queued_bytes()), (last, 0));
    assert_eq!(writer.flush(), Flush::Done);
}

#[tokio::test]
async fn a_slow_reader_gets_all_later_in_clear() {
    let (client, server) = pair().await;
    let (reader, _) = Wire::plain(server, WireLimits::default()).split();
    fill_then_drain(client, reader).await;
}

#[tokio::test]
async fn a_slow_reader_gets_all_later_under_tls() {
    let (client, reader) = Tls::new().established(WireLimits::default()).await;
    fill_then_drain(client, reader).await;
}

#[tokio::test]
async fn a_blocked_write_of_another_thread_wakes_the_parked_reader() {
    let (mut client, mut reader) = Tls::new().established(WireLimits::default()).await;
    let writer = Arc::clone(reader.writer());
    writer.set_queue_limit(64 << 20);
    let task = tokio::spawn(async move { reader.drive().await });
    let total = 8 << 20;
    let thread = std::thread::spawn({
        let writer = Arc::clone(&writer);
        move || {
            writer.append(|out| out.resize(out.len() + total, b'z'));
            writer.flush()
        }
    });
    let mut received = vec![0; total];
    let all = client.read_exact(&mut received);
    tokio::time::timeout(Duration::from_secs(60), all)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(thread.join().unwrap(), Flush::Blocked);
    assert!(received.iter().all(|&b| b == b'z'));
    writer.close(CloseKind::AfterFlush);
    assert_eq!(client.read(&mut [0; 8]).await.unwrap(), 0);
    task.await.unwrap().unwrap();
}

/// Reads TLS records off the socket itself until `plain` bytes of content must have come.
async fn record_lengths(stream: &mut TcpStream, plain: usize) -> Vec<usize> {
    let mut lengths = Vec::new();
    let mut content = 0;
    while content < plain {
        let mut head = [0; 5];
        stream.read_exact(&mut head).await.unwrap();
        assert_eq!(head[0], 23);
        let len = usize::from(u16::from_be_bytes([head[3], head[4]]));
        let mut body = vec![0; len];
        stream.read_exact(&mut body).await.unwrap();
        // TLS 1.3: the type and the tag are in it.
        content += len - 17;
        lengths.push(len - 17);
    }
    lengths
}

#[tokio::test]
async fn thousands_of_elements_share_few_records() {
    let (client, mut reader) = Tls::new().established(WireLimits::default()).await;
    let (mut stream, _session) = client.into_inner();
    let writer = Arc::clone(reader.writer());
    for number in 1..=3000 {
        assert!(writer.append_numbered(number, |out| out.extend_from_slice(&[b'e'; 100])));
    }
    assert_eq!(writer.queued_bytes(), 300_000);
    assert_ne!(writer.flush(), Flush::Closed);
    let lengths = tokio::select! {
        lengths = record_lengths(&mut stream, 300_000) => lengths,
        chunk = reader.read() => panic!("nothing was sent to the server: {chunk:?}"),
    };
    assert_eq!(lengths.len(), 300_000usize.div_ceil(16_384));
    assert_eq!(writer.written(), 3000);
    // And what is sent alone leaves alone, at once.
    assert_eq!(
        writer.send(None, |out| out.extend_from_slice(b"alone")),
        Flush::Done
    );
    assert_eq!(record_lengths(&mut stream, 5).await, [5]);
}

#[tokio::test]
async fn what_waits_behind_a_full_socket_is_coalesced() {
    let (client, mut reader) = Tls::new().established(WireLimits::default()).await;
    let (mut stream, _session) = client.into_inner();
    let writer = Arc::clone(reader.writer());
    writer.set_queue_limit(64 << 20);
    let mut sent = 0;
    while writer.send(None, |out| out.extend_from_slice(&[b'f'; 4000])) != Flush::Blocked {
        sent += 4000;
    }
    sent += 4000;
    for _ in 0..1000 {
        assert_eq!(
            writer.send(None, |out| out.extend_from_slice(&[b'w'; 50])),
            Flush::Blocked
        );
    }
    let lengths = tokio::select! {
        lengths = record_lengths(&mut stream, sent + 50_000) => lengths,
        chunk = reader.read() => panic!("nothing was sent to the server: {chunk:?}"),
    };
    let direct = lengths.iter().filter(|&&len| len == 4000).count();
    assert_eq!(lengths.len() - direct, 50_000usize.div_ceil(16_384));
}

#[tokio::test]
async fn a_queue_beyond_its_limit_closes_the_connection() {
    let limits = WireLimits {
        queue_bytes: 1000,
        ..WireLimits::default()
    };
    let (mut client, server) = pair().await;
    let (mut reader, writer) = Wire::plain(server, limits).split();
    assert!(writer.append(|out| out.extend_from_slice(&[b'a'; 900])));
    assert!(!writer.overflowed());
    assert!(!writer.append(|out| out.extend_from_slice(&[b'b'; 101])));
    assert!(writer.overflowed() && writer.is_closed());
    assert_eq!(writer.flush(), Flush::Closed);
    assert_eq!(writer.queued_bytes(), 0);
    assert!(!writer.append(|out| out.push(b'c')));
    assert_eq!(reader.read().await.unwrap(), Chunk::Eof);
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).await.unwrap();
    assert!(rest.is_empty());
}

#[tokio::test]
async fn an_idle_connection_holds_no_buffers() {
    let (mut client, mut reader) = Tls::new().established(WireLimits::default()).await;
    client.write_all(&[b'i'; 10_000]).await.unwrap();
    let mut got = 0;
    while got < 10_000 {
        got += bytes(reader.read().await.unwrap()).len();
    }
    reader
        .writer()
        .send(Some(1), |out| out.extend_from_slice(&[b'o'; 10_000]));
    client.read_exact(&mut [0; 10_000]).await.unwrap();
    {
        let read = reader.read();
        tokio::pin!(read);
        assert!(futures_util::poll!(&mut read).is_pending());
    }
    assert_eq!(reader.inbox_capacity(), 0);
    assert_eq!(reader.writer().state.lock().outbox.capacity(), 0);
}

#[tokio::test]
async fn each_way_to_close_says_what_it_should() {
    let tls = Tls::new();
    for (kind, clean) in [(CloseKind::AfterFlush, true), (CloseKind::Fin, false)] {
        let (mut client, mut reader) = tls.established(WireLimits::default()).await;
        let writer = Arc::clone(reader.writer());
        writer.append(|out| out.extend_from_slice(b"last"));
        writer.close(kind);
        assert!(!writer.append(|out| out.push(b'x')));
        assert_eq!(writer.flush(), Flush::Closed);
        let mut last = [0; 4];
        client.read_exact(&mut last).await.unwrap();
        assert_eq!(&last, b"last");
        let end = client.read(&mut last).await;
        assert_eq!(end.is_ok(), clean, "{kind:?}: {end:?}");
        assert_eq!(reader.read().await.unwrap(), Chunk::Eof);
    }
    let (mut client, mut reader) = tls.established(WireLimits::default()).await;
    reader.writer().append(|out| out.extend_from_slice(b"lost"));
    reader.writer().close(CloseKind::Abort);
    assert!(client.read(&mut [0; 4]).await.is_err());
    assert_eq!(reader.read().await.unwrap(), Chunk::Eof);
}

#[tokio::test]
async fn the_last_words_survive_unread_input() {
    let (mut client, server) = pair().await;
    let (reader, writer) = Wire::plain(server, WireLimits::default()).split();
    client
        .write_all(b"much that nobody will read")
        .await
        .unwrap();
    writer.append(|out| out.extend_from_slice(b"</stream:stream>"));
    let talk = async {
        let mut words = Vec::new();
        client.write_all(b" and more").await.unwrap();
        client.read_to_end(&mut words).await.unwrap();
        client.shutdown().await.unwrap();
        words
    };
    let (words, ()) = tokio::join!(talk, reader.finish(Duration::from_secs(30)));
    assert_eq!(words, b"</stream:stream>");
}

#[tokio::test]
async fn dropping_the_reader_ends_the_connection_for_writers() {
    let (mut client, server) = pair().await;
    let (reader, writer) = Wire::plain(server, WireLimits::default()).split();
    drop(reader);
    assert_eq!(writer.send(None, |out| out.push(b'x')), Flush::Closed);
    assert_eq!(client.read(&mut [0; 4]).await.unwrap(), 0);
}

#[tokio::test]
async fn a_dropped_read_loses_nothing() {
    let (mut client, mut reader) = Tls::new().established(WireLimits::default()).await;
    for step in 0..100u8 {
        {
            let read = reader.read();
            tokio::pin!(read);
            assert!(futures_util::poll!(&mut read).is_pending());
        }
        client.write_all(&[step; 3]).await.unwrap();
        assert_eq!(bytes(reader.read().await.unwrap()), [step; 3]);
    }
}
