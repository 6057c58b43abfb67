//! The site: every request is answered by the service that its host, path and method lead to.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;

use super::body::{RequestBody, ResponseBody, text};
use super::config::HttpConfig;
use super::origin;
use super::query::parse_query;
use super::route::{Found, Route, Table, host_of};
use super::services;

/// The client of a request, and what it named in the address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpClient {
    /// The client's address; port 0 when a proxy named it.
    pub peer: SocketAddr,
    /// The connection is encrypted.
    pub secure: bool,
    /// The port that the client came to.
    pub local_port: u16,
    /// What stands in the path for the names in the route's pattern.
    pub path: Vec<(String, String)>,
    /// Query parameters, in order.
    pub query: Vec<(String, String)>,
}

/// Answers the requests of a route.
#[async_trait::async_trait]
pub trait HttpService: Send + Sync {
    /// Answers one request. Both bodies may stream, and the answer may begin before the request has
    /// ended. CORS headers are added to the answer afterwards.
    async fn call(
        &self,
        request: Request<RequestBody>,
        client: HttpClient,
    ) -> Response<ResponseBody>;
}

/// What the HTTP listeners serve.
pub struct HttpSite {
    config: Arc<HttpConfig>,
    table: Table,
}

/// The ends of a connection.
pub(super) struct Ends {
    pub(super) peer: SocketAddr,
    pub(super) local: SocketAddr,
    pub(super) tls: bool,
}

impl HttpSite {
    /// The site with all services.
    pub fn new(config: HttpConfig) -> Self {
        let config = Arc::new(config);
        let routes = services::table(&config);
        Self::of(config, routes)
    }

    /// A site with these routes.
    pub(super) fn of(config: Arc<HttpConfig>, routes: Vec<Route>) -> Self {
        Self {
            config,
            table: Table::new(routes),
        }
    }

    /// Whether forwarded addresses are believed from this peer.
    pub(crate) fn trusts(&self, peer: IpAddr) -> bool {
        self.config.trusted_proxies.contains(peer)
    }

    /// Time for the head of a request.
    pub(crate) fn header_time(&self) -> Duration {
        self.config.header_time
    }

    /// Answers one request.
    pub(super) async fn answer(
        &self,
        request: Request<Incoming>,
        ends: &Ends,
    ) -> Response<ResponseBody> {
        let asked = request.headers().clone();
        let mut response = self.route(request, ends).await;
        origin::add_cors(&self.config, &asked, response.headers_mut());
        response
    }

    async fn route(&self, request: Request<Incoming>, ends: &Ends) -> Response<ResponseBody> {
        let (method, uri) = (request.method(), request.uri());
        let host = match host_of(uri, request.version(), request.headers()) {
            Ok(host) => host,
            Err(error) => return text(StatusCode::BAD_REQUEST, &format!("{error}\n")),
        };
        match self.table.find(host.as_deref(), uri.path(), method) {
            Found::Route(route, values) => self.call(route, values, request, ends).await,
            Found::Method(allowed) => {
                let mut response = match *method {
                    Method::OPTIONS => text(StatusCode::OK, ""),
                    _ => text(
                        StatusCode::METHOD_NOT_ALLOWED,
                        "this method is not served here\n",
                    ),
                };
                response.headers_mut().insert(header::ALLOW, allowed);
                response
            }
            Found::Misdirected => text(
                StatusCode::MISDIRECTED_REQUEST,
                "this host is not served here\n",
            ),
            Found::Nothing => text(StatusCode::NOT_FOUND, "nothing is served here\n"),
        }
    }

    async fn call(
        &self,
        route: &Route,
        path: Vec<(String, String)>,
        request: Request<Incoming>,
        ends: &Ends,
    ) -> Response<ResponseBody> {
        let config = &self.config;
        let client = HttpClient {
            peer: origin::client(config, ends.peer, request.headers()),
            secure: origin::secure(config, ends.tls, ends.peer, request.headers()),
            local_port: ends.local.port(),
            path,
            query: request.uri().query().map(parse_query).unwrap_or_default(),
        };
        let (head, pieces) = request.into_parts();
        match RequestBody::new(pieces, route.body_bytes, config.body_time) {
            Some(body) => {
                let request = Request::from_parts(head, body);
                route.service.call(request, client).await
            }
            None => text(
                StatusCode::PAYLOAD_TOO_LARGE,
                "the body of the request is too long\n",
            ),
        }
    }
}
