//! `/metrics`, `/health` and `/ready`.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use sestina_runtime::spawn::Tasks;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::metrics::Metrics;

/// Most scrapers at a time; a further one waits to be accepted.
const CONNECTIONS: usize = 32;
/// Longest time for a request to arrive, and for a connection without one.
const HEADERS: Duration = Duration::from_secs(10);

/// Whether this process can work; if not, the reason.
pub type Ready = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// Answers on all addresses until the group ends; returns the bound addresses (for port 0 the
/// system chooses the port).
pub async fn serve(
    tasks: &Tasks,
    addresses: &[SocketAddr],
    metrics: Arc<Metrics>,
    ready: Ready,
) -> io::Result<Vec<SocketAddr>> {
    let mut bound = Vec::new();
    for address in addresses {
        let listener = TcpListener::bind(address).await.map_err(|error| {
            let hint = "change telemetry.prometheus";
            io::Error::new(
                error.kind(),
                format!("cannot listen on {address}: {error}; {hint}"),
            )
        })?;
        bound.push(listener.local_addr()?);
        let (group, page) = (
            tasks.clone(),
            Page {
                metrics: metrics.clone(),
                ready: ready.clone(),
            },
        );
        tasks.spawn("metrics listener", accept(group, listener, page));
    }
    Ok(bound)
}

#[derive(Clone)]
struct Page {
    metrics: Arc<Metrics>,
    ready: Ready,
}

async fn accept(tasks: Tasks, listener: TcpListener, page: Page) {
    let token = tasks.token();
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(slot) = slots.clone().acquire_owned().await else {
            return;
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = token.cancelled() => return,
        };
        match accepted {
            Ok((stream, _)) => {
                let (page, token) = (page.clone(), token.clone());
                tasks.spawn("metrics connection", async move {
                    tokio::select! {
                        () = connection(stream, page) => {}
                        () = token.cancelled() => {}
                    }
                    drop(slot);
                });
            }
            Err(error) => {
                // The process probably has no free file descriptors: a retry at once would spin.
                tracing::warn!(%error, "a connection for metrics could not be accepted");
                tokio::select! {
                    () = tokio::time::sleep(Duration::from_millis(200)) => {}
                    () = token.cancelled() => return,
                }
            }
        }
    }
}

async fn connection(stream: TcpStream, page: Page) {
    let service = service_fn(move |request: Request<Incoming>| {
        let page = page.clone();
        async move {
            let response = page.answer(request.method(), request.uri().path()).await;
            Ok::<_, Infallible>(response)
        }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a connection for metrics ended early");
    }
}

impl Page {
    /// Whether the process is ready. The check may read a disk, which may hang.
    async fn look(&self) -> Result<(), String> {
        let ready = self.ready.clone();
        let looked = tokio::task::spawn_blocking(move || ready()).await;
        looked.unwrap_or_else(|_| Err("it is ending".to_owned()))
    }

    async fn answer(&self, method: &Method, path: &str) -> Response<Full<Bytes>> {
        const TEXT: &str = "text/plain; charset=utf-8";
        const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
        if method != Method::GET && method != Method::HEAD {
            return respond(
                StatusCode::METHOD_NOT_ALLOWED,
                TEXT,
                "only GET\n".to_owned(),
            );
        }
        match path {
            "/metrics" => respond(StatusCode::OK, OPEN_METRICS, self.metrics.encode()),
            "/health" => respond(StatusCode::OK, TEXT, "alive\n".to_owned()),
            "/ready" => match self.look().await {
                Ok(()) => respond(StatusCode::OK, TEXT, "ready\n".to_owned()),
                Err(reason) => respond(
                    StatusCode::SERVICE_UNAVAILABLE,
                    TEXT,
                    format!("not ready: {reason}\n"),
                ),
            },
            _ => {
                let known = "known: /metrics, /health, /ready\n".to_owned();
                respond(StatusCode::NOT_FOUND, TEXT, known)
            }
        }
    }
}

fn respond(status: StatusCode, kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::atomic::{AtomicBool, Ordering};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn get(address: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let text = format!("{request} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn tells_metrics_health_and_readiness_and_ends_with_its_group() {
        let tasks = Tasks::new("test");
        let is_ready = Arc::new(AtomicBool::new(false));
        let flag = is_ready.clone();
        let ready: Ready = Arc::new(move || {
            if flag.load(Ordering::Relaxed) {
                Ok(())
            } else {
                Err("no lease".to_owned())
            }
        });
        let metrics = Metrics::new();
        // An address that only this test uses: no other process takes its port once it is free.
        let own = ["127.83.69.83:0".parse().unwrap()];
        let bound = serve(&tasks, &own, metrics.clone(), ready).await.unwrap()[0];
        metrics.rooms.set(41);
        let answer = get(bound, "GET /metrics").await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        assert!(answer.contains("\nsestina_rooms 41\n"), "{answer}");
        assert!(
            answer.contains("application/openmetrics-text; version=1.0.0"),
            "{answer}"
        );
        assert!(get(bound, "GET /health").await.ends_with("\r\n\r\nalive\n"));
        let answer = get(bound, "GET /ready").await;
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        assert!(answer.ends_with("not ready: no lease\n"), "{answer}");
        is_ready.store(true, Ordering::Relaxed);
        assert!(get(bound, "GET /ready").await.starts_with("HTTP/1.1 200 "));
        assert!(get(bound, "GET /").await.starts_with("HTTP/1.1 404 "));
        assert!(get(bound, "POST /ready").await.starts_with("HTTP/1.1 405 "));
        let open = TcpStream::connect(bound).await.unwrap();
        tasks.join(Duration::from_secs(5)).await.unwrap();
        drop(open);
        // A child process that another test is starting has a copy of the socket until it runs its
        // program.
        let began = std::time::Instant::now();
        while TcpStream::connect(bound).await.is_ok() {
            assert!(began.elapsed() < Duration::from_secs(10), "still served");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test]
    async fn an_address_in_use_is_named() {
        let tasks = Tasks::new("test");
        let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = taken.local_addr().unwrap();
        let ready: Ready = Arc::new(|| Ok(()));
        let error = serve(&tasks, &[address], Metrics::new(), ready)
            .await
            .unwrap_err();
        assert!(error.to_string().contains(&address.to_string()), "{error}");
    }
}
