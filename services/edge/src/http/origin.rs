//! The client of a request, and the page that makes it: forwarded addresses, origins, CORS headers.

use std::net::{IpAddr, SocketAddr};

use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_MAX_AGE, HeaderMap, HeaderValue, ORIGIN, VARY,
};

use super::HttpConfig;

const FORWARDED_FOR: &str = "x-forwarded-for";
const FORWARDED_PROTO: &str = "x-forwarded-proto";

/// The client's address. Each trusted proxy appends who came to it, so the last address that is
/// not a trusted proxy's own is the first that nobody could invent.
pub(super) fn client(config: &HttpConfig, peer: SocketAddr, headers: &HeaderMap) -> SocketAddr {
    if !config.trusted_proxies.contains(peer.ip()) {
        return peer;
    }
    let lines: Vec<&str> = headers
        .get_all(FORWARDED_FOR)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .collect();
    let mut first = peer;
    for text in lines.iter().rev().flat_map(|line| line.rsplit(',')) {
        let Some(ip) = address(text.trim()) else {
            return first;
        };
        first = SocketAddr::new(ip, 0);
        if !config.trusted_proxies.contains(ip) {
            break;
        }
    }
    first
}

/// Whether the connection is encrypted.
pub(super) fn secure(
    config: &HttpConfig,
    tls: bool,
    peer: SocketAddr,
    headers: &HeaderMap,
) -> bool {
    let by_proxy = config.trusted_proxies.contains(peer.ip())
        && headers
            .get(FORWARDED_PROTO)
            .is_some_and(|proto| proto.as_bytes().eq_ignore_ascii_case(b"https"));
    tls || by_proxy || config.consider_secure
}

/// Whether a page of this origin may connect. Clients that are no browser name none.
pub(super) fn allowed(config: &HttpConfig, headers: &HeaderMap) -> bool {
    let Some(origin) = headers.get(ORIGIN) else {
        return true;
    };
    config.allowed_origins.is_empty()
        || config
            .allowed_origins
            .iter()
            .any(|allowed| allowed.as_bytes().eq_ignore_ascii_case(origin.as_bytes()))
}

/// Lets pages of allowed origins read the answer.
pub(super) fn add_cors(config: &HttpConfig, request: &HeaderMap, response: &mut HeaderMap) {
    let origin = if config.allowed_origins.is_empty() {
        HeaderValue::from_static("*")
    } else {
        response.append(VARY, HeaderValue::from_static("origin"));
        match request.get(ORIGIN) {
            Some(origin) if allowed(config, request) => origin.clone(),
            _ => return,
        }
    };
    for (name, value) in [
        (ACCESS_CONTROL_ALLOW_ORIGIN, origin),
        (
            ACCESS_CONTROL_ALLOW_METHODS,
            HeaderValue::from_static("GET, POST, PUT, OPTIONS, HEAD"),
        ),
        (
            ACCESS_CONTROL_ALLOW_HEADERS,
            HeaderValue::from_static("authorization, content-type"),
        ),
        (ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("7200")),
    ] {
        // A service that has said it better keeps its own.
        response.entry(name).or_insert(value);
    }
}

/// An address as proxies write it: alone, with a port, in brackets.
fn address(text: &str) -> Option<IpAddr> {
    let ip = text
        .parse::<IpAddr>()
        .ok()
        .or_else(|| text.parse::<SocketAddr>().ok().map(|address| address.ip()))
        .or_else(|| text.strip_prefix('[')?.strip_suffix(']')?.parse().ok())?;
    Some(ip.to_canonical())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn config() -> HttpConfig {
        HttpConfig {
            trusted_proxies: "10.0.0.0/8".parse().unwrap(),
            allowed_origins: vec!["https://meet.example".to_owned()],
            ..HttpConfig::default()
        }
    }

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(*name, value.parse().unwrap());
        }
        map
    }

    fn seen(peer: &str, forwarded: &[&str]) -> String {
        let pairs: Vec<_> = forwarded
            .iter()
            .map(|value| (FORWARDED_FOR, *value))
            .collect();
        let peer = SocketAddr::new(peer.parse().unwrap(), 999);
        client(&config(), peer, &headers(&pairs)).ip().to_string()
    }

    #[test]
    fn only_trusted_proxies_are_believed() {
        assert_eq!(seen("203.0.113.9", &["192.0.2.1"]), "203.0.113.9");
        assert_eq!(seen("10.0.0.1", &["192.0.2.1"]), "192.0.2.1");
        // What the client itself wrote stands before what the proxy appended.
        assert_eq!(
            seen("10.0.0.1", &["198.51.100.7, 192.0.2.1, 10.0.0.2"]),
            "192.0.2.1"
        );
        assert_eq!(
            seen("10.0.0.1", &["198.51.100.7", "192.0.2.1"]),
            "192.0.2.1"
        );
        assert_eq!(seen("10.0.0.1", &["10.0.0.3, 10.0.0.2"]), "10.0.0.3");
        assert_eq!(seen("10.0.0.1", &["192.0.2.1, unknown"]), "10.0.0.1");
        assert_eq!(seen("10.0.0.1", &["[2001:db8::1]:80"]), "2001:db8::1");
        assert_eq!(seen("10.0.0.1", &[]), "10.0.0.1");
    }

    #[test]
    fn a_trusted_proxy_vouches_for_tls() {
        let (near, far) = (
            "10.0.0.1:1".parse().unwrap(),
            "203.0.113.9:1".parse().unwrap(),
        );
        let https = headers(&[(FORWARDED_PROTO, "https")]);
        assert!(secure(&config(), false, near, &https));
        assert!(!secure(&config(), false, far, &https));
        assert!(!secure(
            &config(),
            false,
            near,
            &headers(&[(FORWARDED_PROTO, "http")])
        ));
        assert!(secure(&config(), true, far, &HeaderMap::new()));
        let considered = HttpConfig {
            consider_secure: true,
            ..config()
        };
        assert!(secure(&considered, false, far, &HeaderMap::new()));
    }

    #[test]
    fn origins() {
        let good = headers(&[("origin", "https://meet.example")]);
        let bad = headers(&[("origin", "https://evil.example")]);
        assert!(allowed(&config(), &good) && !allowed(&config(), &bad));
        assert!(allowed(&config(), &HeaderMap::new()));
        assert!(allowed(&HttpConfig::default(), &bad));
        let mut answer = HeaderMap::new();
        add_cors(&config(), &bad, &mut answer);
        assert!(!answer.contains_key(ACCESS_CONTROL_ALLOW_ORIGIN));
        add_cors(&config(), &good, &mut answer);
        assert_eq!(answer[ACCESS_CONTROL_ALLOW_ORIGIN], "https://meet.example");
        let mut answer = HeaderMap::new();
        add_cors(&HttpConfig::default(), &bad, &mut answer);
        assert_eq!(answer[ACCESS_CONTROL_ALLOW_ORIGIN], "*");
    }
}
