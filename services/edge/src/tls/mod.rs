//! TLS for clients: certificates by host name, reloaded when their files change.
//!
//! - [`CertStore`]: loads, watches, keeps the last good set
//! - [`CertSet`]: one loaded set; picks a certificate by the name the client asks for
//! - [`Acceptor`]: what a listener needs to answer one handshake
//! - [`Pace`]: how many handshakes are worked on at one time

mod acceptor;
mod pace;
mod set;
mod store;

pub use acceptor::{Acceptor, Purpose, TlsVersions};
pub use pace::Pace;
pub use set::CertSet;
pub use store::{CertFiles, CertStore, StoreError, TlsConfig};

#[cfg(test)]
pub(crate) mod tests;
