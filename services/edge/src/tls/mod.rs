//! TLS for clients: certificates by host name, reloaded when their files change.
//!
//! - [`CertStore`]: loads, watches, keeps the last good set
//! - [`CertSet`]: one loaded set; picks a certificate by the name the client asks for
//! - [`HostValidity`]: whether a host's certificate does for it
//! - [`Acceptor`]: what a listener needs to answer one handshake
//! - [`TicketKeys`]: seals tickets with the keys that all edges share
//! - [`Pace`]: how many handshakes are worked on at one time

mod acceptor;
mod pace;
mod set;
mod store;
mod tickets;
mod validity;

pub use acceptor::{Acceptor, Purpose, TlsVersions};
pub use pace::Pace;
pub use set::CertSet;
pub use store::{CertFiles, CertStore, CheckProblem, StoreError, TlsConfig, check};
pub use tickets::{KeyError, TicketKeys};
pub use validity::{HostValidity, Problem};

#[cfg(test)]
pub(crate) mod tests;
