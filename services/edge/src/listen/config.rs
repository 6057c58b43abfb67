//! What to listen on. Plain values: the configuration is mapped onto them.

use std::net::SocketAddr;
use std::sync::Arc;

use sestina_runtime::pressure::Pressure;

use super::networks::Networks;
use crate::http::HttpConfig;
use crate::limits::ConnLimitsConfig;
use crate::transport::WireLimits;

/// What is spoken on a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListenerKind {
    /// XMPP in clear, with TLS to be started (5222).
    StartTls,
    /// XMPP under TLS from the first byte, XEP-0368 (5223).
    DirectTls,
    /// HTTP in clear, behind a proxy (5280).
    Http,
    /// HTTP under TLS (5281).
    Https,
}

/// One listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerConfig {
    /// For logs and metrics.
    pub name: String,
    /// Addresses to bind.
    pub addresses: Vec<SocketAddr>,
    /// What is spoken there.
    pub kind: ListenerKind,
    /// Load balancers that write a PROXY header. If there is one, all connections must come from
    /// them and have that header.
    pub proxy_protocol_from: Networks,
    /// Connections that the kernel holds until they are accepted.
    pub backlog: u32,
}

impl ListenerConfig {
    /// A listener without a PROXY header and with the usual backlog.
    pub fn new(name: &str, kind: ListenerKind, addresses: Vec<SocketAddr>) -> Self {
        Self {
            name: name.to_owned(),
            addresses,
            kind,
            proxy_protocol_from: Networks::default(),
            backlog: 4096,
        }
    }
}

/// All listeners and what they share.
#[derive(Clone, Debug, Default)]
pub struct ListenConfig {
    /// The listeners.
    pub listeners: Vec<ListenerConfig>,
    /// Bounds on connections.
    pub limits: ConnLimitsConfig,
    /// Bounds of each connection before it has authenticated.
    pub wire: WireLimits,
    /// What the HTTP listeners answer.
    pub http: HttpConfig,
    /// While it is high, connections are accepted one after the other.
    pub pressure: Arc<Pressure>,
}
