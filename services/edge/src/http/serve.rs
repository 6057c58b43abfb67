//! One HTTP connection, until it ends or becomes a WebSocket.

use std::convert::Infallible;
use std::future::{Future as _, poll_fn};
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use sestina_runtime::CancellationToken;
use tokio::io::{AsyncRead, AsyncWrite};

use super::config::HttpConfig;
use super::query::parse_query;
use super::upgrade::{self, NotUpgraded};
use super::{origin, upgrade::is_asked_for};

/// Bounds of the head of a request.
const HEAD_BYTES: usize = 32 << 10;
const HEADERS: usize = 64;

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpClient {
    /// The client's address; port 0 when a proxy named it.
    pub peer: SocketAddr,
    /// Nobody on the way can read.
    pub secure: bool,
    /// The port that the client came to.
    pub local_port: u16,
    /// Query parameters, in order.
    pub query: Vec<(String, String)>,
}

/// Answers what is not the WebSocket's path: BOSH, uploads, host-meta, …
#[async_trait::async_trait]
pub trait HttpService: Send + Sync {
    /// Answers one request. CORS headers are added to the answer afterwards.
    async fn call(&self, request: Request<Incoming>, client: HttpClient) -> Response<Full<Bytes>>;
}

/// What the HTTP listeners serve.
pub struct HttpSite {
    config: HttpConfig,
    service: Option<Arc<dyn HttpService>>,
}

/// A connection's last request, which made it a WebSocket.
pub struct Upgrade {
    /// Who asked.
    pub client: HttpClient,
    /// The headers that are kept.
    pub headers: Vec<(String, String)>,
    /// Bytes that followed the request.
    pub early: Vec<u8>,
}

/// One connection, as its requests see it.
struct Connection<'a> {
    site: &'a HttpSite,
    peer: SocketAddr,
    local: SocketAddr,
    tls: bool,
    upgrade: Mutex<Option<Upgrade>>,
}

impl HttpSite {
    /// A site with the WebSocket and, on all other paths, `service`.
    pub fn new(config: HttpConfig, service: Option<Arc<dyn HttpService>>) -> Self {
        Self { config, service }
    }

    /// Whether forwarded addresses are believed from this peer.
    pub(crate) fn trusts(&self, peer: IpAddr) -> bool {
        self.config.trusted_proxies.contains(peer)
    }

    /// Time for the head of a request.
    pub(crate) fn header_time(&self) -> Duration {
        self.config.header_time
    }

    /// Serves requests. Gives the stream back if it has become a WebSocket. After `end` it
    /// finishes the request in hand and closes.
    pub(crate) async fn serve<S>(
        &self,
        stream: S,
        peer: SocketAddr,
        local: SocketAddr,
        tls: bool,
        end: &CancellationToken,
    ) -> Option<(S, Upgrade)>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let connection = Connection {
            site: self,
            peer,
            local,
            tls,
            upgrade: Mutex::new(None),
        };
        let service = service_fn(|request| {
            let answer = connection.answer(request);
            Box::pin(async move { Ok::<_, Infallible>(answer.await) })
        });
        let mut http = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.config.header_time)
            .max_buf_size(HEAD_BYTES)
            .max_headers(HEADERS)
            .serve_connection(TokioIo::new(stream), service);
        let mut end = pin!(end.cancelled());
        let mut ending = false;
        let result = poll_fn(|cx| {
            if !ending && end.as_mut().poll(cx).is_ready() {
                ending = true;
                Pin::new(&mut http).graceful_shutdown();
            }
            Poll::Ready(ready!(http.poll_without_shutdown(cx)))
        })
        .await;
        if let Err(error) = result {
            tracing::debug!(%error, %peer, "http connection ended");
            return None;
        }
        let parts = http.into_parts();
        let mut stream = parts.io.into_inner();
        let upgrade = connection.upgrade.lock().take();
        match upgrade {
            Some(mut upgrade) => {
                upgrade.early = parts.read_buf.to_vec();
                Some((stream, upgrade))
            }
            None => {
                let closed = tokio::io::AsyncWriteExt::shutdown(&mut stream).await;
                if let Err(error) = closed {
                    tracing::trace!(%error, %peer, "http connection was closed by the client");
                }
                None
            }
        }
    }
}

impl Connection<'_> {
    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let config = &self.site.config;
        let asked = request.headers().clone();
        let mut client = HttpClient {
            peer: origin::client(config, self.peer, &asked),
            secure: origin::secure(config, self.tls, self.peer, &asked),
            local_port: self.local.port(),
            query: request.uri().query().map(parse_query).unwrap_or_default(),
        };
        let mut response = match websocket_path(&config.websocket_path, request.uri().path()) {
            Some(tenant) => {
                // A proxy that maps tenants itself has said `prefix` already.
                if let Some(tenant) = tenant
                    && !client.query.iter().any(|(name, _)| name == "prefix")
                {
                    client.query.push(("prefix".to_owned(), tenant.to_owned()));
                }
                self.websocket(&request, client)
            }
            None if request.method() == Method::OPTIONS => text(StatusCode::OK, ""),
            None => match &self.site.service {
                Some(service) => service.call(request, client).await,
                None => text(StatusCode::NOT_FOUND, "nothing is served here\n"),
            },
        };
        origin::add_cors(config, &asked, response.headers_mut());
        response
    }

    fn websocket(&self, request: &Request<Incoming>, client: HttpClient) -> Response<Full<Bytes>> {
        let (method, headers) = (request.method(), request.headers());
        if !is_asked_for(headers) {
            // Web clients ask this to keep their connection, proxies to see that we live.
            return match *method {
                Method::GET | Method::HEAD => text(
                    StatusCode::OK,
                    "XMPP over WebSocket (RFC 7395) is served here\n",
                ),
                Method::OPTIONS => text(StatusCode::OK, ""),
                _ => refusal(NotUpgraded::Method),
            };
        }
        if !origin::allowed(&self.site.config, headers) {
            return refusal(NotUpgraded::Origin);
        }
        match upgrade::answer(method, request.version(), headers) {
            Ok(response) => {
                let headers = kept(&self.site.config.keep_headers, headers);
                *self.upgrade.lock() = Some(Upgrade {
                    client,
                    headers,
                    early: Vec::new(),
                });
                response
            }
            Err(error) => refusal(error),
        }
    }
}

/// Whether `path` is the WebSocket's, and under which tenant.
fn websocket_path<'a>(own: &str, path: &'a str) -> Option<Option<&'a str>> {
    let before = path.strip_suffix('/').unwrap_or(path).strip_suffix(own)?;
    match before.strip_prefix('/') {
        None if before.is_empty() => Some(None),
        Some(tenant) if !tenant.is_empty() && !tenant.contains('/') => Some(Some(tenant)),
        _ => None,
    }
}

fn kept(names: &[String], headers: &header::HeaderMap) -> Vec<(String, String)> {
    names
        .iter()
        .filter_map(|name| {
            let value = headers.get(name.as_str())?.to_str().ok()?;
            Some((name.clone(), value.to_owned()))
        })
        .collect()
}

fn refusal(error: NotUpgraded) -> Response<Full<Bytes>> {
    let mut response = text(error.status(), &format!("{error}\n"));
    let headers = response.headers_mut();
    match error {
        NotUpgraded::Version => {
            headers.insert(
                header::SEC_WEBSOCKET_VERSION,
                header::HeaderValue::from_static("13"),
            );
        }
        NotUpgraded::Method => {
            headers.insert(
                header::ALLOW,
                header::HeaderValue::from_static("GET, HEAD, OPTIONS"),
            );
        }
        NotUpgraded::Http | NotUpgraded::Key | NotUpgraded::Protocol | NotUpgraded::Origin => {}
    }
    response
}

fn text(status: StatusCode, text: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::copy_from_slice(text.as_bytes())));
    *response.status_mut() = status;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    response
}
