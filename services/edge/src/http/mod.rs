//! HTTP for clients: one site, on which host, path and method of a request lead to a service.
//!
//! - [`services`]: the table of all services; the first is the [`websocket`] (RFC 6455, RFC 7395)
//! - [`Route`]: a row of it, and how a request finds one
//! - [`HttpSite`]: answers requests; `serve`: on one connection
//! - [`RequestBody`], [`ResponseBody`]: bodies that stream
//! - [`origin`]: the client behind a proxy, and pages that may connect
//! - [`upgrade`]: the check of a WebSocket's request

mod body;
mod config;
mod origin;
mod query;
mod route;
mod serve;
mod services;
mod site;
mod upgrade;
mod websocket;

#[cfg(test)]
mod route_tests;
#[cfg(test)]
mod site_tests;
#[cfg(test)]
mod tests;

pub use body::{BodyError, RequestBody, ResponseBody};
pub use config::HttpConfig;
pub use query::parse_query;
pub use route::{Host, Route};
pub(crate) use serve::Upgraded;
pub use site::{HttpClient, HttpService, HttpSite};
pub(crate) use websocket::Upgrade;
