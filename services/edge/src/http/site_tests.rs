//! The site with services of the test, over connections in memory.
#![allow(clippy::unwrap_used)]

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use sestina_runtime::CancellationToken;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

use super::body::{BodyError, RequestBody, ResponseBody, text};
use super::config::HttpConfig;
use super::route::{Host, Route};
use super::site::{HttpClient, HttpService, HttpSite};

/// Bytes that a connection holds in each direction.
const CONNECTION: usize = 16 << 10;

/// Sends the body of the request back, as it comes.
struct Echo;

#[async_trait::async_trait]
impl HttpService for Echo {
    async fn call(&self, request: Request<RequestBody>, _: HttpClient) -> Response<ResponseBody> {
        Response::new(request.into_body().map_err(Into::into).boxed_unsync())
    }
}

/// Reads the whole body, and says how long it was.
#[derive(Default)]
struct Measure {
    calls: AtomicUsize,
}

#[async_trait::async_trait]
impl HttpService for Measure {
    async fn call(&self, request: Request<RequestBody>, _: HttpClient) -> Response<ResponseBody> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        match request.into_body().collect().await {
            Ok(body) => text(StatusCode::OK, &body.to_bytes().len().to_string()),
            Err(BodyError::TooLong) => text(StatusCode::PAYLOAD_TOO_LARGE, "read in part"),
            Err(BodyError::TooSlow) => text(StatusCode::REQUEST_TIMEOUT, "waited in vain"),
            Err(BodyError::Broken(error)) => text(StatusCode::BAD_REQUEST, &error.to_string()),
        }
    }
}

fn put(path: &str, body_bytes: u64, service: Arc<dyn HttpService>) -> Route {
    Route {
        host: Host::name("c.example"),
        paths: vec![path.to_owned()],
        methods: vec![Method::PUT],
        body_bytes,
        service,
    }
}

/// The client's end of a connection to a site with these routes.
fn connect(config: HttpConfig, routes: Vec<Route>) -> DuplexStream {
    let site = HttpSite::of(Arc::new(config), routes);
    let (near, far) = duplex(CONNECTION);
    tokio::spawn(async move {
        let any = "192.0.2.1:9".parse().unwrap();
        let end = CancellationToken::new();
        let upgraded = site.serve(far, any, any, false, &end).await;
        assert!(upgraded.is_none(), "no service of the test is a websocket");
    });
    near
}

/// What is answered to this text until the connection ends.
async fn ask(stream: &mut DuplexStream, request: &str) -> String {
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn a_request_that_leads_to_no_service_gets_a_status() {
    for (line, host, expected) in [
        ("PUT /files", "Host: c.example\r\n", "200 OK"),
        ("PUT /files", "Host: C.EXAMPLE:5280\r\n", "200 OK"),
        ("PUT /other", "Host: c.example\r\n", "404 Not Found"),
        (
            "GET /files",
            "Host: c.example\r\n",
            "405 Method Not Allowed",
        ),
        ("OPTIONS /files", "Host: c.example\r\n", "200 OK"),
        ("OPTIONS /other", "Host: c.example\r\n", "404 Not Found"),
        (
            "PUT /files",
            "Host: d.example\r\n",
            "421 Misdirected Request",
        ),
        ("PUT /other", "Host: d.example\r\n", "404 Not Found"),
        ("PUT /files", "", "400 Bad Request"),
        (
            "PUT /files",
            "Host: c.example\r\nHost: d.example\r\n",
            "400 Bad Request",
        ),
    ] {
        let routes = vec![put("/files", 0, Arc::new(Echo))];
        let mut stream = connect(HttpConfig::default(), routes);
        let request = format!("{line} HTTP/1.1\r\n{host}Connection: close\r\n\r\n");
        let answer = ask(&mut stream, &request).await;
        let status = format!("HTTP/1.1 {expected}\r\n");
        assert!(answer.starts_with(&status), "{request}: {answer}");
        let allow = expected.starts_with("405") || line == "OPTIONS /files";
        assert_eq!(
            answer.contains("allow: PUT, OPTIONS\r\n"),
            allow,
            "{request}: {answer}"
        );
        assert!(
            answer.contains("access-control-allow-origin: *\r\n"),
            "{answer}"
        );
    }
}

/// What a future gives, if it ends before all tasks have nothing left to do.
async fn unless_stuck<T>(future: impl Future<Output = std::io::Result<T>>) -> Option<T> {
    let mut future = pin!(future);
    for _ in 0..1000 {
        if let Poll::Ready(result) = futures_util::poll!(&mut future) {
            return Some(result.unwrap());
        }
        tokio::task::yield_now().await;
    }
    None
}

async fn read_head(stream: &mut DuplexStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

#[tokio::test]
async fn bodies_stream_through_a_service_no_faster_than_the_client_reads() {
    let body: Vec<u8> = (0..8 << 20).map(|n: u32| (n % 251) as u8).collect();
    let routes = vec![put("/echo", body.len() as u64, Arc::new(Echo))];
    let mut stream = connect(HttpConfig::default(), routes);
    let head = format!(
        "PUT /echo HTTP/1.1\r\nHost: c.example\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut sent = 0;
    while let Some(n) = unless_stuck(stream.write(&body[sent..])).await {
        sent += n;
    }
    // What the connection holds in both directions, and hyper's buffers.
    assert!(
        sent <= 8 * CONNECTION,
        "{sent} bytes were taken and not read"
    );
    let head = read_head(&mut stream).await;
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    let (mut read, mut write) = tokio::io::split(stream);
    let mut echoed = vec![0; body.len()];
    let (written, echo) =
        tokio::join!(write.write_all(&body[sent..]), read.read_exact(&mut echoed));
    written.unwrap();
    echo.unwrap();
    assert!(echoed == body, "the bytes are the same, in order");
}

#[tokio::test]
async fn a_body_longer_than_its_route_allows_is_refused() {
    let service = Arc::new(Measure::default());
    let put = |fields: &str, body: &str| {
        let request = format!(
            "PUT /files HTTP/1.1\r\nHost: c.example\r\nConnection: close\r\n{fields}\r\n{body}"
        );
        let routes = vec![put("/files", 10, service.clone())];
        let mut stream = connect(HttpConfig::default(), routes);
        async move { ask(&mut stream, &request).await }
    };
    let answer = put("Content-Length: 10\r\n", "0123456789").await;
    assert!(answer.ends_with("\r\n\r\n10"), "{answer}");
    let chunked = "Transfer-Encoding: chunked\r\n";
    let answer = put(chunked, "5\r\n01234\r\n5\r\n56789\r\n0\r\n\r\n").await;
    assert!(answer.ends_with("\r\n\r\n10"), "{answer}");
    let answer = put(chunked, "5\r\n01234\r\n6\r\n567890\r\n0\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    assert!(answer.ends_with("read in part"), "{answer}");
    assert_eq!(service.calls.load(Ordering::Relaxed), 3);
    let answer = put("Content-Length: 11\r\n", "").await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    let calls = service.calls.load(Ordering::Relaxed);
    assert_eq!(calls, 3, "a length that is told is refused at once");
}

#[tokio::test]
async fn a_body_that_stops_is_given_up() {
    let config = HttpConfig {
        body_time: Duration::from_millis(20),
        ..HttpConfig::default()
    };
    let routes = vec![put("/files", 10, Arc::new(Measure::default()))];
    let mut stream = connect(config, routes);
    let request = "PUT /files HTTP/1.1\r\nHost: c.example\r\nContent-Length: 10\r\n\r\n01234";
    let answer = ask(&mut stream, request).await;
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert!(answer.ends_with("waited in vain"), "{answer}");
}

#[tokio::test]
async fn a_head_is_bounded_in_fields_bytes_and_time() {
    let request = |fields: String| {
        format!("PUT /files HTTP/1.1\r\nHost: c.example\r\nConnection: close\r\n{fields}\r\n")
    };
    let routes = || vec![put("/files", 0, Arc::new(Echo))];
    for (fields, expected) in [
        ("X: y\r\n".repeat(62), "200 OK"),
        ("X: y\r\n".repeat(63), "431 Request Header Fields Too Large"),
        (format!("X: {}\r\n", "y".repeat(30 << 10)), "200 OK"),
        (
            format!("X: {}\r\n", "y".repeat(33 << 10)),
            "431 Request Header Fields Too Large",
        ),
    ] {
        let mut stream = connect(HttpConfig::default(), routes());
        let request = request(fields);
        let (mut read, mut write) = tokio::io::split(&mut stream);
        let mut answer = String::new();
        // The connection may end before it has taken all of the request.
        let (_, answered) = tokio::join!(
            write.write_all(request.as_bytes()),
            read.read_to_string(&mut answer)
        );
        answered.unwrap();
        let status = format!("HTTP/1.1 {expected}\r\n");
        assert!(
            answer.starts_with(&status),
            "{} bytes: {answer}",
            request.len()
        );
    }
    let config = HttpConfig {
        header_time: Duration::from_millis(20),
        ..HttpConfig::default()
    };
    let mut stream = connect(config, routes());
    let answer = ask(&mut stream, "PUT /files HTTP/1.1\r\nHost: c.example\r\n").await;
    assert!(!answer.contains(" 200 "), "{answer}");
}
