//! The proof that a process is the incarnation that it says it is.
//!
//! A tier may share one certificate, so the certificate alone does not tell one process from
//! another. Each incarnation makes a secret; the first lease request of (name, incarnation) leaves
//! its hash with both lease authorities, and from then on renewing, ending or speaking as that
//! incarnation needs the secret.

use std::fmt;

use bytes::Bytes;
use sestina_proto as proto;
use sha2::{Digest, Sha256};

/// Shorter ones could be guessed.
const SHORTEST: usize = 16;

/// The secret of an incarnation.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Bytes);

impl Secret {
    /// A new one.
    pub fn random() -> Secret {
        Secret(Bytes::copy_from_slice(&rand::random::<[u8; 32]>()))
    }

    /// As it came with a request.
    pub fn from_wire(secret: Bytes) -> Secret {
        Secret(secret)
    }

    /// For a request.
    pub fn to_wire(&self) -> Bytes {
        self.0.clone()
    }

    /// The hash that authorities keep; none of a secret that is missing or too short to be one.
    pub fn proof(&self) -> Option<[u8; 32]> {
        let mut hash = Sha256::new();
        hash.update(b"sestina incarnation\0");
        hash.update(&self.0);
        (self.0.len() >= SHORTEST).then(|| hash.finalize().into())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // It must not reach a log.
        f.write_str("Secret")
    }
}

/// A process, with what proves that it is this incarnation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The process.
    pub node: proto::Node,
    /// Its incarnation's secret.
    pub secret: Secret,
}

impl Holder {
    /// A new incarnation of that process.
    pub fn new(node: proto::Node) -> Holder {
        Holder {
            node,
            secret: Secret::random(),
        }
    }
}

/// The answer of an authority about a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proved {
    /// It is the incarnation's.
    Yes,
    /// The incarnation has left the hash of another one.
    No,
    /// That incarnation has left none here (yet).
    Unknown,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_shows_itself_to_no_log_and_counts_only_when_long_enough() {
        let secret = Secret::random();
        assert_eq!(format!("{secret:?}"), "Secret");
        assert_eq!(secret.proof(), Secret::from_wire(secret.to_wire()).proof());
        assert_ne!(secret.proof(), Secret::random().proof());
        assert_eq!(Secret::from_wire(Bytes::new()).proof(), None);
        assert_eq!(
            Secret::from_wire(Bytes::from_static(b"short")).proof(),
            None
        );
    }
}
