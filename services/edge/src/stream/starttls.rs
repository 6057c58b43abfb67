//! STARTTLS (RFC 6120 §5.4) in both roles. What bytes the peer sent in clear behind its last element
//! are forgotten by either.

use sestina_xmpp::ns;
use sestina_xmpp::xml::StreamEvent;

use super::initiating::{InitiateError, unexpected};
use super::stream_end::StreamEnd;
use super::write;
use crate::tls::{Acceptor, Connector};
use crate::transport::TlsError;

/// The receiving entity has read `<starttls/>`, and goes on.
pub(super) async fn proceed(stream: &mut StreamEnd, acceptor: &Acceptor) -> Result<(), TlsError> {
    stream.write(write::write_proceed);
    stream.start_tls(acceptor).await
}

/// The initiating entity has read that STARTTLS is offered, and asks for it.
pub(crate) async fn request(
    stream: &mut StreamEnd,
    connector: &Connector,
) -> Result<(), InitiateError> {
    stream.write(write::write_starttls);
    match stream.next().await? {
        StreamEvent::Nonza(element) if element.is("proceed", ns::TLS) => {
            Ok(stream.start_tls(connector).await?)
        }
        StreamEvent::Nonza(element) if element.is("failure", ns::TLS) => {
            Err(InitiateError::TlsRefused)
        }
        other => Err(unexpected(&other)),
    }
}
