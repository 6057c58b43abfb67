//! The identity of a caller.

use std::sync::Arc;

use sestina_certs::CertInfo;

/// The other end of a connection, found in the extensions of its requests.
#[derive(Clone, Debug)]
pub struct PeerInfo {
    /// Its address, for logs.
    pub address: String,
    /// What proves who it is.
    pub proof: Proof,
    /// The connection is for leases, and for nothing else.
    pub for_leases: bool,
}

/// What proves who the other end is.
#[derive(Clone, Debug)]
pub enum Proof {
    /// Nothing: a listener that the configuration opened without TLS.
    Plaintext,
    /// It could open this process's unix socket, which only its own user can.
    Local,
    /// A certificate of the cluster's CA.
    Certificate(Arc<CertInfo>),
}
