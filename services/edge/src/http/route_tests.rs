//! The routing table.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use http::header::HOST;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version};

use super::body::{RequestBody, ResponseBody, text};
use super::route::{Found, Host, Route, Table, host_of};
use super::site::{HttpClient, HttpService};

struct Silent;

#[async_trait::async_trait]
impl HttpService for Silent {
    async fn call(&self, _: Request<RequestBody>, _: HttpClient) -> Response<ResponseBody> {
        text(StatusCode::OK, "")
    }
}

fn route(host: Host, paths: &[&str], methods: &[Method]) -> Route {
    Route {
        host,
        paths: paths.iter().map(|&path| path.to_owned()).collect(),
        methods: methods.to_vec(),
        body_bytes: 0,
        service: Arc::new(Silent),
    }
}

fn table() -> Table {
    let upload = || Host::name("Upload.example");
    Table::new(vec![
        route(
            Host::Any,
            &["/ws", "/{tenant}/ws"],
            &[Method::GET, Method::HEAD],
        ),
        route(upload(), &["/files/{slot}/{name}"], &[Method::PUT]),
        route(upload(), &["/files/{slot}/{name}"], &[Method::GET]),
        route(Host::name("bücher.example"), &["/ws"], &[Method::POST]),
    ])
}

/// What is found, in words.
fn find(host: Option<&str>, path: &str, method: Method) -> String {
    match table().find(host, path, &method) {
        Found::Route(route, values) => {
            assert!(route.methods.contains(&method));
            let values: Vec<String> = values
                .into_iter()
                .map(|(name, value)| format!(" {name}={value}"))
                .collect();
            format!("{}{}", route.paths[0], values.concat())
        }
        Found::Method(allow) => format!("405 {}", allow.to_str().unwrap()),
        Found::Misdirected => "421".to_owned(),
        Found::Nothing => "404".to_owned(),
    }
}

#[test]
fn host_path_and_method_lead_to_a_route() {
    let upload = Some("upload.example");
    for (host, path, method, expected) in [
        (None, "/ws", Method::GET, "/ws"),
        (Some("any.example"), "/ws", Method::HEAD, "/ws"),
        (upload, "/ws", Method::GET, "/ws"),
        (upload, "/acme/ws", Method::GET, "/ws tenant=acme"),
        (None, "/ws", Method::POST, "405 GET, HEAD, OPTIONS"),
        (None, "/ws", Method::OPTIONS, "405 GET, HEAD, OPTIONS"),
        (None, "/ws/", Method::GET, "404"),
        (None, "//ws", Method::GET, "404"),
        (None, "/a/b/ws", Method::GET, "404"),
        (None, "/aws", Method::GET, "404"),
        (None, "", Method::CONNECT, "404"),
        (None, "*", Method::OPTIONS, "404"),
        (
            upload,
            "/files/1/a.png",
            Method::PUT,
            "/files/{slot}/{name} slot=1 name=a.png",
        ),
        (
            upload,
            "/files/1/a.png",
            Method::GET,
            "/files/{slot}/{name} slot=1 name=a.png",
        ),
        (
            upload,
            "/files/1/a.png",
            Method::DELETE,
            "405 PUT, GET, OPTIONS",
        ),
        (upload, "/files/1", Method::GET, "404"),
        (upload, "/files/1/", Method::GET, "404"),
    ] {
        let found = find(host, path, method.clone());
        assert_eq!(found, expected, "{host:?} {method} {path}");
    }
}

#[test]
fn a_named_host_goes_before_every_host() {
    let host = Some("xn--bcher-kva.example");
    assert_eq!(find(host, "/ws", Method::POST), "/ws");
    assert_eq!(find(host, "/ws", Method::GET), "405 POST, OPTIONS");
    assert_eq!(find(host, "/acme/ws", Method::GET), "/ws tenant=acme");
}

#[test]
fn a_path_of_another_host_is_misdirected_unless_this_host_is_known() {
    let path = "/files/1/a.png";
    assert_eq!(find(Some("other.example"), path, Method::GET), "421");
    assert_eq!(find(None, path, Method::GET), "421");
    let known = Some("xn--bcher-kva.example");
    assert_eq!(find(known, path, Method::GET), "404");
}

#[test]
fn a_request_names_its_host_once() {
    let host = |target: &str, version, fields: &[&'static str]| {
        let mut headers = HeaderMap::new();
        for &field in fields {
            headers.append(HOST, HeaderValue::from_static(field));
        }
        host_of(&target.parse().unwrap(), version, &headers)
    };
    let new = Version::HTTP_11;
    for (field, expected) in [
        ("C.Example", "c.example"),
        ("c.example:5280", "c.example"),
        ("c.example.", "c.example"),
        ("name_of_an_upstream", "name_of_an_upstream"),
        ("[2001:db8::1]:5280", "[2001:db8::1]"),
    ] {
        assert_eq!(host("/ws", new, &[field]), Ok(Some(expected.to_owned())));
    }
    assert_eq!(host("/ws", new, &[""]), Ok(None), "RFC 9112 §3.2");
    assert_eq!(host("/ws", Version::HTTP_10, &[]), Ok(None));
    let absolute = host("http://d.example/ws", new, &["c.example"]);
    assert_eq!(absolute, Ok(Some("d.example".to_owned())));
    for fields in [
        &[][..],
        &["c.example", "c.example"],
        &["c.example/ws"],
        &["c example"],
        &["user@c.example"],
    ] {
        assert!(host("/ws", new, fields).is_err(), "{fields:?}");
    }
}
