#![allow(clippy::unwrap_used)]

use futures_util::{SinkExt as _, StreamExt as _};
use http::{HeaderValue, StatusCode, header};
use sestina_xmpp::stream::StreamCondition;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

use crate::listen::ListenerKind;
use crate::listen::tests::{Rig, config};
use crate::stream::write::of_broken_frame;
use crate::transport::{Chunk, CloseKind, Flush};

const HANDSHAKE: &[u8] = b"GET /xmpp-websocket HTTP/1.1\r\nHost: c.example\r\n\
    Upgrade: websocket\r\nConnection: keep-alive, Upgrade\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: chat, xmpp\r\n\r\n";

type Request = tokio_tungstenite::tungstenite::handshake::client::Request;

fn rig() -> Rig {
    let mut config = config(&[("http", ListenerKind::Http), ("https", ListenerKind::Https)]);
    config.http.trusted_proxies = "127.0.0.1".parse().unwrap();
    config.wire.message_bytes = 1000;
    Rig::start(config)
}

fn request(target: &str) -> Request {
    let mut request = format!("ws://c.example{target}")
        .into_client_request()
        .unwrap();
    let headers = request.headers_mut();
    headers.insert(
        header::SEC_WEBSOCKET_PROTOCOL,
        HeaderValue::from_static("xmpp"),
    );
    headers.insert("x_proxy_region", HeaderValue::from_static("eu-1"));
    request
}

async fn open<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    request: Request,
) -> Result<WebSocketStream<S>, Error> {
    let (socket, response) = client_async(request, stream).await?;
    assert_eq!(response.headers()[header::SEC_WEBSOCKET_PROTOCOL], "xmpp");
    Ok(socket)
}

/// Sends text and reads what comes until the server closes.
async fn plain_http(rig: &Rig, text: &str) -> String {
    let mut stream = rig.connect("http").await;
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn messages_in_both_directions_in_clear_and_under_tls() {
    let mut rig = rig();
    for name in ["http", "https"] {
        let target = "/xmpp-websocket?room=r%201&prefix=";
        let mut client: WebSocketStream<Box<dyn Duplex>> = if name == "http" {
            open(
                Box::new(rig.connect(name).await) as Box<dyn Duplex>,
                request(target),
            )
            .await
        } else {
            let stream = rig.connect_tls(name, &["h2", "http/1.1"]).await;
            open(Box::new(stream) as Box<dyn Duplex>, request(target)).await
        }
        .unwrap();
        let mut accepted = rig.next().await;
        let tls = name == "https";
        assert_eq!(accepted.transport, if tls { "wss" } else { "ws" });
        assert_eq!(
            (accepted.secure, accepted.reader.tls_info().is_some()),
            (tls, tls)
        );
        let pair = |n: &str, v: &str| (n.to_owned(), v.to_owned());
        assert_eq!(accepted.query, [pair("room", "r 1"), pair("prefix", "")]);
        assert!(accepted.headers.contains(&pair("x_proxy_region", "eu-1")));

        client.send(Message::text("<open/>")).await.unwrap();
        assert_eq!(
            accepted.reader.read().await.unwrap(),
            Chunk::Frame("<open/>")
        );
        for len in [5, 125, 126, 300, 65_535, 65_536, 200_000] {
            let element = "e".repeat(len);
            accepted
                .writer
                .append(|out| out.extend_from_slice(element.as_bytes()));
            assert_ne!(accepted.writer.flush(), Flush::Closed);
            let message = tokio::select! {
                message = client.next() => message.unwrap().unwrap(),
                chunk = accepted.reader.read() => panic!("nothing was sent: {chunk:?}"),
            };
            assert_eq!(message, Message::text(element));
        }
        client
            .send(Message::Ping("are you there".into()))
            .await
            .unwrap();
        client.send(Message::text("<after/>")).await.unwrap();
        assert_eq!(
            accepted.reader.read().await.unwrap(),
            Chunk::Frame("<after/>")
        );
        assert_eq!(
            client.next().await.unwrap().unwrap(),
            Message::Pong("are you there".into())
        );
        accepted.writer.keepalive();
        assert_eq!(
            client.next().await.unwrap().unwrap(),
            Message::Ping("".into())
        );
    }
    rig.end().await;
}

trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Duplex for T {}

#[tokio::test]
async fn what_the_client_sends_with_its_request_is_not_lost() {
    let mut rig = rig();
    let mut stream = rig.connect("http").await;
    let mut text = HANDSHAKE.to_vec();
    text.extend_from_slice(&[
        0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58,
    ]);
    stream.write_all(&text).await.unwrap();
    let mut accepted = rig.next().await;
    assert_eq!(accepted.reader.read().await.unwrap(), Chunk::Frame("Hello"));
    rig.end().await;
}

#[tokio::test]
async fn a_close_of_either_side_is_answered() {
    let mut rig = rig();
    let mut client = open(rig.connect("http").await, request("/xmpp-websocket"))
        .await
        .unwrap();
    let mut accepted = rig.next().await;
    client.close(None).await.unwrap();
    assert_eq!(accepted.reader.read().await.unwrap(), Chunk::Eof);
    assert!(matches!(
        client.next().await.unwrap().unwrap(),
        Message::Close(_)
    ));
    assert!(client.next().await.is_none());

    let mut client = open(rig.connect("http").await, request("/xmpp-websocket"))
        .await
        .unwrap();
    let accepted = rig.next().await;
    accepted
        .writer
        .append(|out| out.extend_from_slice(b"<close/>"));
    accepted.writer.close(CloseKind::WsCode(1012));
    assert_eq!(
        client.next().await.unwrap().unwrap(),
        Message::text("<close/>")
    );
    let Message::Close(Some(frame)) = client.next().await.unwrap().unwrap() else {
        panic!("a close frame with a code")
    };
    assert_eq!(frame.code, CloseCode::Restart);
    rig.end().await;
}

#[tokio::test]
async fn a_broken_client_is_told_why() {
    let mut rig = rig();
    for (message, condition, code) in [
        (
            Message::text("x".repeat(1001)),
            StreamCondition::PolicyViolation,
            CloseCode::Size,
        ),
        (
            Message::binary(b"x".to_vec()),
            StreamCondition::BadFormat,
            CloseCode::Unsupported,
        ),
    ] {
        let mut client = open(rig.connect("http").await, request("/xmpp-websocket"))
            .await
            .unwrap();
        let mut accepted = rig.next().await;
        client.send(message).await.unwrap();
        // The stream has the last word: RFC 6120 §4.9.
        let error = accepted.reader.read().await.unwrap_err();
        assert_eq!(of_broken_frame(&error).unwrap().0, condition);
        assert_eq!(accepted.reader.read().await.unwrap(), Chunk::Eof);
        accepted.reader.writer().close(CloseKind::AfterFlush);
        let Message::Close(Some(frame)) = client.next().await.unwrap().unwrap() else {
            panic!("a close frame with a code")
        };
        assert_eq!(frame.code, code);
    }
    // A frame that is none has no stream to be told of: here, one without a mask.
    let mut stream = rig.connect("http").await;
    stream.write_all(HANDSHAKE).await.unwrap();
    let mut accepted = rig.next().await;
    stream.write_all(&[0x81, 1, b'x']).await.unwrap();
    let error = accepted.reader.read().await.unwrap_err();
    assert_eq!(of_broken_frame(&error), None);
    let mut last = Vec::new();
    drop(accepted);
    stream.read_to_end(&mut last).await.unwrap();
    assert!(last.ends_with(&[0x88, 2, 3, 234]), "1002: {last:?}");
    rig.end().await;
}

#[tokio::test]
async fn requests_that_are_no_websocket() {
    let rig = rig();
    let get = |path: &str, headers: &str| {
        format!("GET {path} HTTP/1.1\r\nHost: c.example\r\nConnection: close\r\n{headers}\r\n")
    };
    let answer = plain_http(
        &rig,
        &get("/xmpp-websocket?room=x", "Origin: https://a\r\n"),
    )
    .await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(
        answer.contains("access-control-allow-origin: *"),
        "{answer}"
    );
    let answer = plain_http(&rig, &get("/tenant/xmpp-websocket", "")).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    for path in [
        "/",
        "/xmpp-websocket/more/x",
        "/a/b/xmpp-websocket",
        "/tenantxmpp-websocket",
    ] {
        let answer = plain_http(&rig, &get(path, "")).await;
        assert!(answer.starts_with("HTTP/1.1 404 "), "{path}: {answer}");
    }
    let options =
        "OPTIONS /xmpp-websocket HTTP/1.1\r\nHost: c.example\r\nConnection: close\r\n\r\n";
    let answer = plain_http(&rig, options).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(
        answer.contains("access-control-allow-methods: GET, POST"),
        "{answer}"
    );
    rig.end().await;
}

#[tokio::test]
async fn wrong_upgrades_are_refused_with_a_reason() {
    let rig = rig();
    let refused = |name: header::HeaderName, value: Option<&'static str>| {
        let mut request = request("/xmpp-websocket");
        match value {
            Some(value) => {
                request
                    .headers_mut()
                    .insert(name, HeaderValue::from_static(value));
            }
            None => {
                request.headers_mut().remove(name);
            }
        }
        let rig = &rig;
        async move {
            match client_async(request, rig.connect("http").await).await {
                Err(Error::Http(response)) => response.status(),
                other => panic!("refused by a status: {:?}", other.map(|_| ())),
            }
        }
    };
    assert_eq!(
        refused(header::SEC_WEBSOCKET_PROTOCOL, None).await,
        StatusCode::BAD_REQUEST
    );
    assert_eq!(
        refused(header::SEC_WEBSOCKET_PROTOCOL, Some("chat")).await,
        StatusCode::BAD_REQUEST
    );
    // As a proxy asks that speaks HTTP/1.0 to what is behind it (RFC 6455 §4.2.1).
    let old = "GET /xmpp-websocket HTTP/1.0\r\nHost: localhost\r\nUpgrade: websocket\r\n\
        Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: xmpp\r\n\r\n";
    let answer = plain_http(&rig, old).await;
    assert!(answer.starts_with("HTTP/1.0 400 "), "{answer}");
    assert!(answer.contains("HTTP/1.1; a proxy"), "{answer}");
    rig.end().await;
}

#[tokio::test]
async fn the_origin_can_be_restricted() {
    let mut config = config(&[("http", ListenerKind::Http)]);
    config.http.allowed_origins = vec!["https://meet.example".to_owned()];
    let mut rig = Rig::start(config);
    let from = |origin: &'static str| {
        let mut request = request("/xmpp-websocket");
        request
            .headers_mut()
            .insert(header::ORIGIN, HeaderValue::from_static(origin));
        request
    };
    match open(rig.connect("http").await, from("https://evil.example")).await {
        Err(Error::Http(response)) => assert_eq!(response.status(), StatusCode::FORBIDDEN),
        other => panic!("refused by a status: {:?}", other.map(|_| ())),
    }
    open(rig.connect("http").await, from("https://meet.example"))
        .await
        .unwrap();
    rig.next().await;
    rig.end().await;
}

#[tokio::test]
async fn a_trusted_proxy_names_client_tenant_and_tls() {
    let mut rig = rig();
    let mut request = request("/acme/xmpp-websocket?room=r");
    let headers = request.headers_mut();
    headers.insert("x-forwarded-for", HeaderValue::from_static("192.0.2.66"));
    headers.insert("x-forwarded-proto", HeaderValue::from_static("https"));
    let _client = open(rig.connect("http").await, request).await.unwrap();
    let accepted = rig.next().await;
    assert_eq!(accepted.peer.ip().to_string(), "192.0.2.66");
    assert!(accepted.secure && accepted.reader.tls_info().is_none());
    assert_eq!(accepted.query[1], ("prefix".to_owned(), "acme".to_owned()));
    rig.end().await;
}

#[tokio::test]
async fn shutdown_does_not_wait_for_idle_http_connections() {
    let rig = rig();
    let mut stream = rig.connect("http").await;
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: c.example\r\n\r\n")
        .await
        .unwrap();
    assert_eq!(stream.read_u8().await.unwrap(), b'H');
    rig.end().await;
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.unwrap();
    assert!(rest.starts_with(b"TTP/1.1 404 "));
}
