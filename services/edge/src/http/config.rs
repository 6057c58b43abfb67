//! What the HTTP listeners answer. Plain values: the configuration is mapped onto them.

use std::time::Duration;

use crate::listen::Networks;

/// What the HTTP listeners answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpConfig {
    /// Path of the WebSocket. It also answers below one leading segment
    /// (`/tenant/xmpp-websocket`), which is then the query parameter `prefix`.
    pub websocket_path: String,
    /// Proxies whose `X-Forwarded-For` and `X-Forwarded-Proto` are believed.
    pub trusted_proxies: Networks,
    /// Origins of web pages that may connect (`https://meet.example`). Empty: all may.
    pub allowed_origins: Vec<String>,
    /// Take requests in clear for secure, because a proxy in front speaks TLS but does not say so.
    pub consider_secure: bool,
    /// Request headers that are handed on with a WebSocket, in lower case.
    pub keep_headers: Vec<String>,
    /// Time for the head of a request, and between requests on one connection.
    pub header_time: Duration,
    /// Time between two pieces of the body of a request.
    pub body_time: Duration,
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self {
            websocket_path: "/xmpp-websocket".to_owned(),
            trusted_proxies: Networks::default(),
            allowed_origins: Vec::new(),
            consider_secure: false,
            keep_headers: ["authorization", "host", "user-agent", "x_proxy_region"]
                .map(str::to_owned)
                .to_vec(),
            header_time: Duration::from_secs(30),
            body_time: Duration::from_secs(30),
        }
    }
}
