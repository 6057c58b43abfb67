//! The services of the site. Each is registered here, and nowhere else.

use std::sync::Arc;

use http::Method;

use super::config::HttpConfig;
use super::route::{Host, Route};
use super::websocket::WebSocket;

/// All routes.
pub(super) fn table(config: &Arc<HttpConfig>) -> Vec<Route> {
    let websocket = &config.websocket_path;
    vec![
        // XMPP over WebSocket, for all hosts: the stream's header names the one that is meant.
        Route {
            host: Host::Any,
            paths: vec![
                websocket.clone(),
                format!("{websocket}/"),
                format!("/{{tenant}}{websocket}"),
                format!("/{{tenant}}{websocket}/"),
            ],
            methods: vec![Method::GET, Method::HEAD],
            body_bytes: 0,
            service: Arc::new(WebSocket::new(config)),
        },
    ]
}
