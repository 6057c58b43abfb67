//! The service that turns a connection into a WebSocket (RFC 6455, RFC 7395).

use std::sync::Arc;

use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};

use super::body::{RequestBody, ResponseBody, text};
use super::config::HttpConfig;
use super::site::{HttpClient, HttpService};
use super::upgrade::{self, NotUpgraded};
use super::{origin, upgrade::is_asked_for};

/// A connection's last request, which made it a WebSocket. The answer to that request carries it as an
/// extension.
#[derive(Clone, Debug)]
pub(crate) struct Upgrade {
    /// The client.
    pub(crate) client: HttpClient,
    /// The headers that are kept.
    pub(crate) headers: Vec<(String, String)>,
}

/// The service.
pub(super) struct WebSocket {
    config: Arc<HttpConfig>,
}

impl WebSocket {
    pub(super) fn new(config: &Arc<HttpConfig>) -> WebSocket {
        WebSocket {
            config: Arc::clone(config),
        }
    }
}

#[async_trait::async_trait]
impl HttpService for WebSocket {
    async fn call(
        &self,
        request: Request<RequestBody>,
        mut client: HttpClient,
    ) -> Response<ResponseBody> {
        let headers = request.headers();
        if !is_asked_for(headers) {
            // Web clients ask this to keep their connection, proxies to see that we live.
            let page = "XMPP over WebSocket (RFC 7395) is served here\n";
            return text(StatusCode::OK, page);
        }
        if !origin::allowed(&self.config, headers) {
            return refusal(NotUpgraded::Origin);
        }
        match upgrade::answer(request.method(), request.version(), headers) {
            Ok(mut response) => {
                name_tenant(&mut client);
                response.extensions_mut().insert(Upgrade {
                    client,
                    headers: kept(&self.config.keep_headers, headers),
                });
                response
            }
            Err(error) => refusal(error),
        }
    }
}

/// A tenant in the path is the query parameter `prefix`. A proxy that maps tenants itself has said that
/// already.
fn name_tenant(client: &mut HttpClient) {
    let said = client.query.iter().any(|(name, _)| name == "prefix");
    if let Some((_, tenant)) = client.path.pop()
        && !said
    {
        client.query.push(("prefix".to_owned(), tenant));
    }
}

fn kept(names: &[String], headers: &HeaderMap) -> Vec<(String, String)> {
    names
        .iter()
        .filter_map(|name| {
            let value = headers.get(name.as_str())?.to_str().ok()?;
            Some((name.clone(), value.to_owned()))
        })
        .collect()
}

fn refusal(error: NotUpgraded) -> Response<ResponseBody> {
    let mut response = text(error.status(), &format!("{error}\n"));
    let field = match error {
        NotUpgraded::Version => (header::SEC_WEBSOCKET_VERSION, "13"),
        NotUpgraded::Method => (header::ALLOW, "GET, HEAD, OPTIONS"),
        NotUpgraded::Http | NotUpgraded::Key | NotUpgraded::Protocol | NotUpgraded::Origin => {
            return response;
        }
    };
    let (name, value) = field;
    response
        .headers_mut()
        .insert(name, HeaderValue::from_static(value));
    response
}
