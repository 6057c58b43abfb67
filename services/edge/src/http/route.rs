//! The table of the site: host, path and method of a request lead to a service.

use std::sync::Arc;

use http::uri::Authority;
use http::{HeaderMap, HeaderValue, Method, Uri, Version, header};
use sestina_certs::ascii_name;

use super::site::HttpService;

/// The hosts that a route is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// Every host, and requests that name none.
    Any,
    /// This host.
    Name(String),
}

impl Host {
    /// A host by its name, in Unicode or as A-labels.
    pub fn name(name: &str) -> Host {
        Host::Name(ascii_name(name).to_ascii_lowercase())
    }
}

/// One row of the table.
pub struct Route {
    /// The hosts that it is for. One of a named host goes before one of every host.
    pub host: Host,
    /// Paths. A segment in braces (`/{tenant}/xmpp-websocket`) stands for any that is not empty.
    pub paths: Vec<String>,
    /// Methods that the service takes. The site answers OPTIONS by itself.
    pub methods: Vec<Method>,
    /// Most bytes of a request's body.
    pub body_bytes: u64,
    /// What answers.
    pub service: Arc<dyn HttpService>,
}

/// What stands in a path for the names in braces.
pub(super) type PathValues = Vec<(String, String)>;

/// Where a request leads.
pub(super) enum Found<'a> {
    /// To a service.
    Route(&'a Route, PathValues),
    /// There are services at this path, but not for this method; those that there are (RFC 9110 §10.2.1).
    Method(HeaderValue),
    /// Other hosts have this path, and this one is not served at all (RFC 9110 §15.5.20).
    Misdirected,
    /// To nothing.
    Nothing,
}

/// All routes of the site.
pub(super) struct Table(Vec<Route>);

impl Table {
    pub(super) fn new(routes: Vec<Route>) -> Table {
        Table(routes)
    }

    /// Looks for the service of a request. `host` is in lower case.
    pub(super) fn find(&self, host: Option<&str>, path: &str, method: &Method) -> Found<'_> {
        let at_path: Vec<_> = self
            .0
            .iter()
            .filter_map(|route| Some((route, route.values(path)?)))
            .collect();
        let own =
            |route: &Route| matches!(&route.host, Host::Name(name) if Some(name.as_str()) == host);
        let named = at_path.iter().any(|(route, _)| own(route));
        let elsewhere = !at_path.is_empty();
        let mut here = at_path
            .into_iter()
            .filter(|(route, _)| {
                if named {
                    own(route)
                } else {
                    route.host == Host::Any
                }
            })
            .peekable();
        if here.peek().is_none() {
            return match elsewhere && !self.0.iter().any(own) {
                true => Found::Misdirected,
                false => Found::Nothing,
            };
        }
        let mut allowed = Vec::new();
        for (route, values) in here {
            if route.methods.contains(method) {
                return Found::Route(route, values);
            }
            allowed.extend(&route.methods);
        }
        Found::Method(allow(&allowed))
    }
}

impl Route {
    /// The values of the names in the first pattern that this path is like.
    fn values(&self, path: &str) -> Option<PathValues> {
        self.paths.iter().find_map(|pattern| values(pattern, path))
    }
}

fn values(pattern: &str, path: &str) -> Option<PathValues> {
    let (mut pattern, mut path) = (pattern.split('/'), path.split('/'));
    let mut values = Vec::new();
    loop {
        let (expected, segment) = match (pattern.next(), path.next()) {
            (None, None) => return Some(values),
            (Some(expected), Some(segment)) => (expected, segment),
            _ => return None,
        };
        let name = expected.strip_prefix('{').and_then(|e| e.strip_suffix('}'));
        match name {
            Some(name) if !segment.is_empty() => {
                values.push((name.to_owned(), segment.to_owned()));
            }
            None if expected == segment => {}
            _ => return None,
        }
    }
}

/// The value of `Allow`.
fn allow(methods: &[&Method]) -> HeaderValue {
    let names: Vec<&str> = methods.iter().map(|method| method.as_str()).collect();
    let text = format!("{}, {}", names.join(", "), Method::OPTIONS);
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("OPTIONS"))
}

/// Why a request names no host as it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a request must name its host, once (RFC 9112 section 3.2)")]
pub(super) struct BadHost;

/// The host that a request is for, in lower case and without its port; none if it names none, which
/// HTTP/1.0 allows.
pub(super) fn host_of(
    uri: &Uri,
    version: Version,
    headers: &HeaderMap,
) -> Result<Option<String>, BadHost> {
    let mut named = headers.get_all(header::HOST).iter();
    let field = named.next();
    if named.next().is_some() || (field.is_none() && version >= Version::HTTP_11) {
        return Err(BadHost);
    }
    let field = match field.map(HeaderValue::as_bytes) {
        None | Some(b"") => None,
        Some(value) => Some(Authority::try_from(value).map_err(|_| BadHost)?),
    };
    // What the target names goes before the field (RFC 9112 §3.2.2).
    let Some(authority) = uri.authority().or(field.as_ref()) else {
        return Ok(None);
    };
    if authority.as_str().contains('@') {
        return Err(BadHost);
    }
    let host = authority.host();
    Ok(Some(
        host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase(),
    ))
}
