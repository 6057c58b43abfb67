//! The administrator's commands: one service over gRPC with an admin certificate, and over a unix
//! socket that only the server's own user can open.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use hyper_util::rt::TokioIo;
use sestina_api::admin::{AdminError, AdminHandler};
use sestina_certs::Role;
use sestina_proto as proto;
use sestina_proto::admin_client::AdminClient as Client;
use tokio::net::UnixStream;
use tonic::codegen::Service;
use tonic::codegen::http::Uri;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status};
use tracing::Instrument;

use crate::channel::{Dialer, tuned};
use crate::identity::{PeerInfo, Proof};
use crate::target::Target;
use crate::{MAX_MESSAGE, status};

/// Commands may wait for a hand-over or walk over all rooms.
const TIMEOUT: Duration = Duration::from_secs(120);

/// Implements the service `Admin` over a handler.
pub(crate) struct AdminService {
    handler: Arc<dyn AdminHandler>,
    /// What a caller without the administrator's role may ask.
    others: &'static [&'static str],
}

impl AdminService {
    pub(crate) fn new(
        handler: Arc<dyn AdminHandler>,
        others: &'static [&'static str],
    ) -> AdminService {
        AdminService { handler, others }
    }

    /// The listener has checked that the caller has one of the roles at all.
    fn check(&self, peer: Option<&PeerInfo>, command: &str) -> Result<(), Status> {
        match peer.map(|peer| &peer.proof) {
            Some(Proof::Certificate(info))
                if !info.roles.contains(&Role::Admin) && !self.others.contains(&command) =>
            {
                tracing::warn!(subject = %info.subject, command,
                    "refused a command: the certificate lacks the administrator's role");
                Err(Status::permission_denied(format!(
                    "{command} needs a certificate with the URI name {}",
                    Role::Admin.uri()
                )))
            }
            _ => Ok(()),
        }
    }
}

#[tonic::async_trait]
impl proto::admin_server::Admin for AdminService {
    async fn call(
        &self,
        request: Request<proto::AdminRequest>,
    ) -> Result<Response<proto::AdminReply>, Status> {
        let span = crate::trace::server_span(request.metadata(), "admin");
        self.check(
            request.extensions().get::<PeerInfo>(),
            &request.get_ref().command,
        )?;
        let proto::AdminRequest { command, json } = request.into_inner();
        let result = self.handler.call(&command, &json).instrument(span).await;
        Ok(Response::new(match result {
            Ok(json) => proto::AdminReply {
                json,
                ..Default::default()
            },
            Err(error) => proto::AdminReply {
                json: String::new(),
                // An empty code would read as success.
                error_code: if error.code.is_empty() {
                    "internal".to_owned()
                } else {
                    error.code
                },
                error_text: error.text,
            },
        }))
    }
}

/// Calls commands of another process.
pub struct AdminClient {
    peer: String,
    channel: Channel,
}

impl AdminClient {
    /// Over the cluster's listener; the dialler's certificate must have the role `admin`.
    pub fn connect(dialer: &Arc<Dialer>, target: &Target) -> Result<AdminClient, AdminError> {
        let channel = dialer
            .channel(target)
            .map_err(|e| AdminError::new("away", e.to_string()))?;
        Ok(AdminClient {
            peer: target.authority(),
            channel,
        })
    }

    /// Over the unix socket of a process on this machine.
    pub fn unix(path: &Path) -> AdminClient {
        let endpoint = tuned(Endpoint::from_static("http://localhost"));
        let channel = endpoint.connect_with_connector_lazy(UnixConnector(path.to_owned()));
        AdminClient {
            peer: path.display().to_string(),
            channel,
        }
    }
}

#[async_trait]
impl AdminHandler for AdminClient {
    async fn call(&self, command: &str, json: &str) -> Result<String, AdminError> {
        let mut client = Client::new(self.channel.clone())
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE);
        let message = proto::AdminRequest {
            command: command.to_owned(),
            json: json.to_owned(),
        };
        let call = client.call(crate::lane_client::request(message, TIMEOUT));
        let away = |reason: String| {
            AdminError::new("away", format!("{} did not answer: {reason}", self.peer))
        };
        let reply = match tokio::time::timeout(TIMEOUT, call).await {
            Ok(Ok(reply)) => reply.into_inner(),
            Ok(Err(status)) => match status.code() {
                tonic::Code::PermissionDenied | tonic::Code::Unauthenticated => {
                    return Err(AdminError::new("forbidden", status::describe(&status)));
                }
                _ => return Err(away(status::describe(&status))),
            },
            Err(_) => return Err(away(format!("nothing came within {TIMEOUT:?}"))),
        };
        if reply.error_code.is_empty() {
            Ok(reply.json)
        } else {
            Err(AdminError::new(reply.error_code, reply.error_text))
        }
    }
}

#[derive(Clone)]
struct UnixConnector(PathBuf);

impl Service<Uri> for UnixConnector {
    type Response = TokioIo<UnixStream>;
    type Error = std::io::Error;
    type Future =
        std::pin::Pin<Box<dyn Future<Output = Result<Self::Response, std::io::Error>> + Send>>;

    fn poll_ready(
        &mut self,
        _cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), std::io::Error>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, _uri: Uri) -> Self::Future {
        let path = self.0.clone();
        Box::pin(async move { UnixStream::connect(path).await.map(TokioIo::new) })
    }
}
