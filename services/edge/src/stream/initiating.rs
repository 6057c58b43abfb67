//! The initiating role: a stream to a server, up to its offer of SASL under TLS (RFC 6120 §4.3, §5).
//! This process does not dial yet, so only tests come this way.

use std::time::Duration;

use sestina_xmpp::ns;
use sestina_xmpp::stream::StreamCondition;
use sestina_xmpp::xml::StreamEvent;

use super::features::Offer;
use super::starttls;
use super::stream_end::{End, StreamEnd};
use crate::tls::Connector;
use crate::transport::TlsError;

/// How long the peer has to end its side of a stream that led to nothing.
const LAST_WORD: Duration = Duration::from_secs(5);

/// The entities of a stream, as its initiating end names them. Both are normalised.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Names<'a> {
    /// What this end calls itself; empty: it does not say (RFC 6120 §4.7.1).
    pub local: &'a str,
    /// The domain that the stream is to.
    pub peer: &'a str,
}

/// Why there is no stream to the peer.
#[derive(Debug, thiserror::Error)]
pub enum InitiateError {
    /// The connection ended.
    #[error("the connection was lost")]
    Lost,
    /// The peer closed the stream.
    #[error("the peer closed the stream")]
    Closed,
    /// The peer ended the stream with an error.
    #[error("the peer ended the stream: {}", .0.name())]
    Refused(StreamCondition),
    /// Nothing is sent in clear.
    #[error("the peer does not offer tls")]
    NoTls,
    /// The peer answered `<failure/>` (RFC 6120 §5.4.2.2).
    #[error("the peer refused to start tls")]
    TlsRefused,
    /// The handshake failed, or the certificate is not one of the peer.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The peer broke the protocol, and was told so.
    #[error("the peer broke the protocol: {1}")]
    Fault(StreamCondition, &'static str),
}

impl From<End> for InitiateError {
    fn from(end: End) -> InitiateError {
        match end {
            End::Lost => InitiateError::Lost,
            End::Closed => InitiateError::Closed,
            End::Fault(condition, text) => InitiateError::Fault(condition, text),
        }
    }
}

/// Takes a new connection to what the peer offers under TLS, which is started if it has not been. If
/// that fails the stream is ended in order.
pub async fn initiate(
    mut stream: StreamEnd,
    names: Names<'_>,
    connector: &Connector,
) -> Result<(StreamEnd, Offer), InitiateError> {
    let error = match secured(&mut stream, names, connector).await {
        Ok(offer) => return Ok((stream, offer)),
        Err(error) => error,
    };
    let end = match &error {
        InitiateError::Lost | InitiateError::Tls(_) => End::Lost,
        InitiateError::Fault(condition, text) => End::Fault(*condition, text),
        _ => End::Closed,
    };
    stream.finish(end, names.local, LAST_WORD).await;
    Err(error)
}

async fn secured(
    stream: &mut StreamEnd,
    names: Names<'_>,
    connector: &Connector,
) -> Result<Offer, InitiateError> {
    let offer = open(stream, names).await?;
    if stream.tls_info().is_some() {
        return Ok(offer);
    }
    if offer.starttls.is_none() {
        return Err(InitiateError::NoTls);
    }
    starttls::request(stream, connector).await?;
    open(stream, names).await
}

/// Opens a stream, or the one that follows TLS or SASL, and reads what is offered on it.
pub(crate) async fn open(stream: &mut StreamEnd, names: Names<'_>) -> Result<Offer, InitiateError> {
    stream.write_header(names.local, names.peer);
    let header = stream.read_header().await?;
    // An error comes first: on a stream that is for another host it says so.
    let event = stream.next().await?;
    let StreamEvent::Nonza(element) = &event else {
        return Err(unexpected(&event));
    };
    let offer = Offer::read(element).ok_or_else(|| unexpected(&event))?;
    if header.from != names.peer {
        let text = "this stream was to be for another host";
        return Err(InitiateError::Fault(StreamCondition::InvalidFrom, text));
    }
    if header.id.is_empty() {
        let text = "the header of the receiving entity must have an id";
        return Err(InitiateError::Fault(StreamCondition::BadFormat, text));
    }
    Ok(offer)
}

/// What an event means that is out of place on the initiating side.
pub(super) fn unexpected(event: &StreamEvent) -> InitiateError {
    match event {
        StreamEvent::Close => InitiateError::Closed,
        StreamEvent::Nonza(element) if element.is("error", ns::STREAM) => {
            let mut conditions = element.children().filter(|e| e.ns == ns::STREAM_ERRORS);
            let condition = conditions.find_map(|e| StreamCondition::parse(&e.name));
            InitiateError::Refused(condition.unwrap_or(StreamCondition::UndefinedCondition))
        }
        _ => InitiateError::Fault(
            StreamCondition::PolicyViolation,
            "this is not possible at this point",
        ),
    }
}
