//! TLS in both roles: as the server, certificates by host name, reloaded when their files change; as
//! the client, the check of the server's name.
//!
//! - [`CertStore`]: loads, watches, keeps the last good set
//! - [`CertSet`]: one loaded set; picks a certificate by the name the client asks for
//! - [`HostValidity`]: whether a host's certificate does for it
//! - [`TlsRole`]: a role in handshakes: [`Acceptor`], what a listener needs to answer one, and
//!   [`Connector`], what an outgoing connection needs to begin one
//! - [`Purpose`], [`TlsVersions`]: what both roles share
//! - [`TicketKeys`]: seals tickets with the keys that all edges share
//! - [`HandshakeLimiter`]: how many handshakes are worked on at one time

mod acceptor;
mod connector;
mod handshake_limiter;
mod protocol;
mod role;
mod set;
mod store;
mod tickets;
mod validity;

pub use acceptor::Acceptor;
pub use connector::{Connector, client_config};
pub use handshake_limiter::HandshakeLimiter;
pub use protocol::{Purpose, TlsVersions};
pub use role::{Begun, TlsRole};
pub use set::CertSet;
pub use store::{CertFiles, CertStore, CheckProblem, StoreError, TlsConfig, check};
pub use tickets::{KeyError, TicketKeys};
pub use validity::{HostValidity, Problem};

#[cfg(test)]
mod connector_tests;
#[cfg(test)]
pub(crate) mod tests;
