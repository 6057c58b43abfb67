//! The request that turns a connection into a WebSocket (RFC 6455 §4.2, RFC 7395 §3.1).

use http::header::{
    CONNECTION, HeaderMap, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{Method, Response, StatusCode, Version};

use crate::transport::websocket::accept_key;

/// Why a request cannot become a WebSocket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NotUpgraded {
    #[error("websocket requests use GET")]
    Method,
    /// RFC 6455 §4.2.1. What comes so is mostly from a proxy.
    #[error("websocket requests use HTTP/1.1; a proxy in front of this server has to, too")]
    Http,
    #[error("this server speaks version 13 of websocket")]
    Version,
    #[error("the header Sec-WebSocket-Key is missing or wrong")]
    Key,
    #[error("the subprotocol xmpp is required (RFC 7395)")]
    Protocol,
    #[error("pages of this origin may not connect")]
    Origin,
}

impl NotUpgraded {
    pub(super) fn status(self) -> StatusCode {
        match self {
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::Version => StatusCode::UPGRADE_REQUIRED,
            Self::Http | Self::Key | Self::Protocol => StatusCode::BAD_REQUEST,
            Self::Origin => StatusCode::FORBIDDEN,
        }
    }
}

/// Whether the client asks for a WebSocket at all.
pub(super) fn is_asked_for(headers: &HeaderMap) -> bool {
    has_token(headers, &UPGRADE, "websocket")
}

/// Checks the request and builds the answer with which HTTP ends.
pub(super) fn answer<B: Default>(
    method: &Method,
    version: Version,
    headers: &HeaderMap,
) -> Result<Response<B>, NotUpgraded> {
    if method != Method::GET {
        return Err(NotUpgraded::Method);
    }
    if version < Version::HTTP_11 {
        return Err(NotUpgraded::Http);
    }
    if headers
        .get(SEC_WEBSOCKET_VERSION)
        .is_none_or(|version| version != "13")
    {
        return Err(NotUpgraded::Version);
    }
    if !has_token(headers, &CONNECTION, "upgrade") {
        return Err(NotUpgraded::Key);
    }
    let accept = headers
        .get(SEC_WEBSOCKET_KEY)
        .and_then(|key| accept_key(key.as_bytes()))
        .and_then(|accept| HeaderValue::try_from(accept).ok())
        .ok_or(NotUpgraded::Key)?;
    if !has_token(headers, &SEC_WEBSOCKET_PROTOCOL, "xmpp") {
        return Err(NotUpgraded::Protocol);
    }
    let mut response = Response::new(B::default());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let head = response.headers_mut();
    head.insert(UPGRADE, HeaderValue::from_static("websocket"));
    head.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    head.insert(SEC_WEBSOCKET_ACCEPT, accept);
    head.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static("xmpp"));
    Ok(response)
}

fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|value| value.trim().eq_ignore_ascii_case(token))
}
