//! Who calls, and who may call what.

use std::sync::Arc;

use sestina_certs::{CertInfo, Role};
use tonic::service::Interceptor;
use tonic::{Request, Status};

/// The other end of a connection, found in the extensions of its requests.
#[derive(Clone, Debug)]
pub struct PeerInfo {
    /// Its address, for logs.
    pub address: String,
    /// What proves who it is.
    pub proof: Proof,
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

/// Lets only callers with one of the roles through.
#[derive(Clone, Copy, Debug)]
pub struct RequireRole(pub &'static [Role]);

impl Interceptor for RequireRole {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        let Some(peer) = request.extensions().get::<PeerInfo>() else {
            return Err(Status::unauthenticated(
                "the connection does not say who calls",
            ));
        };
        match &peer.proof {
            Proof::Plaintext => Ok(request),
            Proof::Local if self.0.contains(&Role::Admin) => Ok(request),
            Proof::Local => Err(Status::permission_denied("not offered on the unix socket")),
            Proof::Certificate(info) if self.0.iter().any(|r| info.roles.contains(r)) => {
                Ok(request)
            }
            Proof::Certificate(info) => {
                let wanted = self
                    .0
                    .iter()
                    .map(|r| r.uri())
                    .collect::<Vec<_>>()
                    .join(" or ");
                tracing::warn!(peer = %peer.address, subject = %info.subject, %wanted,
                    "refused a call: the certificate lacks the role");
                Err(Status::permission_denied(format!(
                    "the certificate of {} lacks the role: its URI names must hold {wanted}",
                    info.subject
                )))
            }
        }
    }
}
