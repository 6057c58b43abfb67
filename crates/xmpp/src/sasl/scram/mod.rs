//! SCRAM (RFC 5802, RFC 7677), with and without channel binding.
//!
//! - `message`: strict parsing of attribute lists
//! - [`server`]: the server's side, one type per step
//! - [`client`]: the client's side

pub mod client;
mod message;
pub mod server;

pub use client::{ClientBinding, ScramClient};
pub use server::{NeedsKeys, NeedsProof, ScramServer};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// A fresh nonce: 144 random bits as 24 characters.
pub fn random_nonce() -> String {
    STANDARD.encode(rand::random::<[u8; 18]>())
}

#[cfg(test)]
mod tests;
