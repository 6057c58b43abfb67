//! HTTP for clients: the way to a WebSocket (RFC 6455, RFC 7395), and a door for other services.

mod config;
mod origin;
mod query;
mod serve;
mod upgrade;

#[cfg(test)]
mod tests;

pub use config::HttpConfig;
pub use query::parse_query;
pub use serve::{HttpClient, HttpService, HttpSite, Upgrade};
