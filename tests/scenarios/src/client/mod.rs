//! An XMPP client that sends exactly what a test tells it to, and logs the whole conversation.
//!
//! - `line`: the connection, a TCP stream or a WebSocket, under TLS
//! - `login`: from the connection to a session, and the resumption of one (XEP-0198)
//! - `talk`: sending and receiving of a session

mod line;
mod login;
mod talk;

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use rustls::ClientConfig;
use sestina_xmpp::xml::Element;

use self::line::Line;
pub use self::login::Login;
use crate::sandbox::{EdgeAddress, Sandbox};

/// How long a client waits for an expected stanza.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// The entrance to the server: an edge and the trusted certificate.
#[derive(Clone)]
pub struct Entrance {
    /// The edge.
    pub address: EdgeAddress,
    tls: Arc<ClientConfig>,
}

impl Entrance {
    /// The entrance at these addresses; `certificate` is the one to trust, in PEM.
    pub fn new(address: EdgeAddress, certificate: &str) -> Result<Entrance> {
        let roots = sestina_certs::parse_roots("sandbox", certificate.as_bytes())?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Entrance {
            address,
            tls: Arc::new(tls),
        })
    }
}

impl Sandbox {
    /// The entrance through the edge of that number, modulo their count.
    pub fn entrance(&self, edge: usize) -> Result<Entrance> {
        Entrance::new(self.edge(edge), self.certificate())
    }
}

/// The transport of a client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Transport {
    /// TCP, then STARTTLS.
    StartTls,
    /// TCP under TLS.
    #[default]
    Tls,
    /// WebSocket under TLS.
    WebSocket,
}

/// XEP-0198, the client's side.
#[derive(Clone, Debug, Default)]
struct Management {
    /// Empty if the session cannot be resumed.
    id: String,
    received: u32,
    /// Stanzas that the server has not acknowledged, with their numbers.
    unacked: std::collections::VecDeque<(u32, String)>,
    sent: u32,
}

/// An event from the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// A stanza, or another element.
    Element(Element),
    /// The server closed its stream.
    Closed,
    /// The connection ended.
    Ended,
}

/// See the module.
pub struct Client {
    name: String,
    line: Line,
    host: String,
    /// Full JID, once bound.
    jid: String,
    management: Option<Management>,
    /// Whether `<r/>` is answered automatically.
    answers: bool,
    /// An `<r/>` is not answered yet.
    asked: bool,
    log: Vec<String>,
    began: Instant,
}

impl Client {
    /// Its full JID; empty before it is bound.
    pub fn jid(&self) -> &str {
        &self.jid
    }

    /// Its name in errors.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The whole conversation, in order.
    pub fn transcript(&self) -> String {
        self.log.join("\n")
    }

    fn note(&mut self, direction: &str, text: &str) {
        let at = self.began.elapsed().as_millis();
        self.log
            .push(format!("{at:>6} ms {} {direction} {text}", self.name));
    }

    /// An error with the conversation so far.
    pub fn failure(&self, what: &str) -> anyhow::Error {
        anyhow!("{}: {what}\n{}", self.name, self.transcript())
    }
}

/// The XML text of an element.
pub fn written(element: &Element) -> String {
    String::from_utf8_lossy(&element.to_bytes(sestina_xmpp::ns::CLIENT)).into_owned()
}
