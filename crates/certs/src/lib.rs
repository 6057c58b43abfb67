//! Certificates: a private CA for mutual TLS between tiers, self-signed certificates for a first
//! start, loading and checking of PEM files, and the hash that SCRAM binds to.
//!
//! - [`role`]: the tiers that a certificate allows its holder to be in
//! - [`ca`]: creating a CA and issuing node certificates
//! - [`load`]: PEM files to rustls types
//! - [`inspect`]: the content of a certificate, and its end
//! - [`binding`]: the channel binding tls-server-end-point (RFC 5929)

pub mod binding;
pub mod ca;
mod error;
pub mod inspect;
pub mod load;
pub mod role;

pub use binding::server_end_point;
pub use ca::{CertifiedKeyPem, IssuedFiles, TrialCa, ensure_ca, issue, self_signed};
pub use error::CertError;
pub use inspect::{CertInfo, ascii_name, describe, describe_der};
pub use load::{Identity, load_identity, load_roots, parse_identity, parse_roots};
pub use role::Role;

#[cfg(test)]
mod tests;
