//! The stream of a client, from its first byte to its session: headers, features and STARTTLS (RFC
//! 6120 §4 and §5, RFC 7395 §3), then SASL and bind.

use std::sync::Arc;
use std::time::Instant;

use sestina_xmpp::jid::Jid;
use sestina_xmpp::ns;
use sestina_xmpp::sasl::{BindingType, Mechanism};
use sestina_xmpp::stream::StreamCondition;
use sestina_xmpp::xml::{StreamEvent, StreamHeader};

use super::connection::Connection;
use super::stream_end::End;
use super::{bind, sasl, starttls, write};
use crate::config::HostConfig;
use crate::metrics::{Count, Timing};
use crate::session::Session;
use crate::shared::Shared;

/// Takes a new connection to a session.
pub(crate) async fn run(
    shared: &Arc<Shared>,
    connection: &mut Connection,
) -> Result<Arc<Session>, End> {
    let began = Instant::now();
    let host = negotiate(shared, connection).await?;
    let user = sasl::authenticate(shared, connection, &host).await?;
    shared.metrics.count(Count::LoginOk, 1);
    connection.authenticated(shared);
    reopen(shared, connection, &host).await?;
    let session = bind::run(shared, connection, &host, &user).await?;
    shared.metrics.timing(Timing::Login, began.elapsed());
    Ok(session)
}

/// From the first byte to the offer of SASL. TLS is started on the way where it is needed.
async fn negotiate(
    shared: &Arc<Shared>,
    connection: &mut Connection,
) -> Result<Arc<HostConfig>, End> {
    loop {
        let host = open(shared, connection).await?;
        let may_start_tls = connection.start_tls.is_some() && !connection.secure;
        let mechanisms = offered(connection, &host);
        let bindings: Vec<BindingType> = match mechanisms.iter().any(|m| m.is_plus()) {
            true => connection.bindings().iter().map(|b| b.kind).collect(),
            false => Vec::new(),
        };
        let required = may_start_tls && !connection.plaintext_allowed;
        let framing = connection.stream.framing;
        connection.stream.write(|out| {
            let starttls = may_start_tls.then_some(required);
            write::write_login_features(out, framing, starttls, &mechanisms, &bindings);
        });
        if !may_start_tls || !start_tls(shared, connection).await? {
            return Ok(host);
        }
    }
}

/// The stream that follows SASL: the same host, and other features.
async fn reopen(
    shared: &Arc<Shared>,
    connection: &mut Connection,
    host: &Arc<HostConfig>,
) -> Result<(), End> {
    let again = open(shared, connection).await?;
    if again.domain != host.domain {
        return Err(End::Fault(
            StreamCondition::NotAuthorized,
            "the stream is for another host than the login was",
        ));
    }
    let framing = connection.stream.framing;
    connection
        .stream
        .write(|out| write::write_session_features(out, framing));
    Ok(())
}

/// The mechanisms for this connection, in the order of the configuration.
pub(crate) fn offered(connection: &Connection, host: &HostConfig) -> Vec<Mechanism> {
    if !connection.secure && !connection.plaintext_allowed {
        return Vec::new();
    }
    let bound = connection.can_bind();
    let anonymous = host.anonymous.then_some(Mechanism::Anonymous);
    let configured = host.mechanisms.iter().copied();
    configured
        .filter(|mechanism| match mechanism {
            Mechanism::Anonymous => false,
            Mechanism::Plain => connection.secure,
            mechanism => bound || !mechanism.is_plus(),
        })
        .chain(anonymous)
        .collect()
}

/// Reads the client's header, and answers it.
async fn open(shared: &Arc<Shared>, connection: &mut Connection) -> Result<Arc<HostConfig>, End> {
    let header = connection.stream.read_header().await?;
    let host = host_of(shared, &header);
    let from = host
        .as_ref()
        .map_or(shared.default_host(), |host| host.domain.as_str());
    let to = Jid::from_wire(&header.from);
    connection.stream.write_header(from, to.bare_str());
    host.ok_or(End::Fault(
        StreamCondition::HostUnknown,
        "this host is not served here",
    ))
}

fn host_of(shared: &Shared, header: &StreamHeader) -> Option<Arc<HostConfig>> {
    shared.hosts.get(&header.to).cloned()
}

/// RFC 6120 §5. True if the stream begins again under TLS; false if the client went on to SASL,
/// whose first element stays unread.
async fn start_tls(shared: &Shared, connection: &mut Connection) -> Result<bool, End> {
    let Some(acceptor) = connection.start_tls.clone() else {
        return Ok(false);
    };
    let event = connection.next_of_login().await?;
    let StreamEvent::Nonza(element) = &event else {
        return Err(unexpected(&event));
    };
    if !element.is("starttls", ns::TLS) {
        if element.ns == ns::SASL && connection.plaintext_allowed {
            connection.first = Some(event);
            return Ok(false);
        }
        let text = "tls must be started first";
        return Err(End::Fault(StreamCondition::PolicyViolation, text));
    }
    if let Err(error) = starttls::proceed(&mut connection.stream, &acceptor).await {
        shared.metrics.count(Count::TlsFailed, 1);
        tracing::debug!(%error, peer = %connection.peer, "starttls failed");
        return Err(End::Lost);
    }
    if let Some(info) = connection.stream.tls_info() {
        shared.metrics.count(Count::tls(info.resumed), 1);
    }
    connection.secure = true;
    connection.transport = "tls";
    Ok(true)
}

/// The end that something out of place brings before the client is known.
pub(crate) fn unexpected(event: &StreamEvent) -> End {
    match event {
        StreamEvent::Close => End::Closed,
        // RFC 6120 §4.9.1.1: the client's last word.
        StreamEvent::Nonza(element) if element.is("error", ns::STREAM) => End::Closed,
        StreamEvent::Stanza(_)
        | StreamEvent::BadStanza { .. }
        | StreamEvent::SmRequest
        | StreamEvent::SmAck(_) => End::Fault(
            StreamCondition::NotAuthorized,
            "log in before anything else",
        ),
        StreamEvent::Nonza(element) if element.ns == ns::SASL || element.ns == ns::TLS => {
            End::Fault(
                StreamCondition::PolicyViolation,
                "this is not possible at this point",
            )
        }
        StreamEvent::Nonza(_) => End::Fault(
            StreamCondition::UnsupportedStanzaType,
            "this element is not known here",
        ),
        StreamEvent::Open(_) | StreamEvent::Whitespace => {
            End::Fault(StreamCondition::BadFormat, "the stream is open already")
        }
    }
}
