//! What is written beside stanzas, as the sessions need it.

use std::io;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sestina_xmpp::sasl::{BindingType, Mechanism, SaslFailure};
use sestina_xmpp::stream::features::StartTls;
use sestina_xmpp::stream::{Features, Framing, Header, StreamCondition, negotiation};

pub(crate) use sestina_xmpp::stream::error::write_error;
pub(crate) use sestina_xmpp::stream::header::write_close;
pub(crate) use sestina_xmpp::stream::negotiation::{
    write_challenge, write_tls_proceed as write_proceed,
};
pub(crate) use sestina_xmpp::stream::sm::write_failed;

use super::stream_end::Role;
use crate::transport::websocket::WsError;

/// Our stream header. The receiving entity gives the stream an id that cannot be guessed (RFC 6120
/// §4.7.3); its `to` is what the client calls itself, empty if it does not say (§4.7.2).
pub(crate) fn write_header(out: &mut Vec<u8>, framing: Framing, role: Role, from: &str, to: &str) {
    let id = match role {
        Role::Receiving => URL_SAFE_NO_PAD.encode(rand::random::<[u8; 15]>()),
        Role::Initiating => String::new(),
    };
    Header {
        from,
        to,
        id: &id,
        lang: "en",
    }
    .write_to(out, framing);
}

/// The initiating entity's request for TLS (RFC 6120 §5.4.2.1).
pub(crate) fn write_starttls(out: &mut Vec<u8>) {
    out.extend_from_slice(b"<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>");
}

/// What is offered before SASL. `starttls`: whether it is required.
pub(crate) fn write_login_features(
    out: &mut Vec<u8>,
    framing: Framing,
    starttls: Option<bool>,
    mechanisms: &[Mechanism],
    bindings: &[BindingType],
) {
    let mechanisms: Vec<&str> = mechanisms.iter().map(|m| m.name()).collect();
    let bindings: Vec<&str> = bindings.iter().map(|b| b.name()).collect();
    let starttls = starttls.map(|required| {
        if required {
            StartTls::Required
        } else {
            StartTls::Optional
        }
    });
    Features {
        starttls,
        mechanisms: &mechanisms,
        channel_bindings: &bindings,
        ..Features::default()
    }
    .write_to(out, framing);
}

/// What is offered after SASL.
pub(crate) fn write_session_features(out: &mut Vec<u8>, framing: Framing) {
    Features {
        bind: true,
        session: true,
        sm: true,
        ..Features::default()
    }
    .write_to(out, framing);
}

/// What a stream is told before it ends, when a WebSocket cannot be read on because its client
/// broke a rule of XMPP rather than one of WebSockets. The session is over then: a client that
/// resumed it would send the same again.
pub(crate) fn of_broken_frame(error: &io::Error) -> Option<(StreamCondition, &'static str)> {
    match error.get_ref()?.downcast_ref()? {
        WsError::Protocol(_) => None,
        WsError::Binary => Some((StreamCondition::BadFormat, "a message must be text")),
        WsError::Utf8 => Some((
            StreamCondition::UnsupportedEncoding,
            "the encoding must be utf-8",
        )),
        WsError::TooBig(_) => Some((StreamCondition::PolicyViolation, "the stanza is too long")),
    }
}

/// The end of a failed attempt.
pub(crate) fn write_sasl_failure(out: &mut Vec<u8>, failure: SaslFailure) {
    negotiation::write_failure(out, failure, "");
}

/// The end of SASL, with what the mechanism still has to say.
pub(crate) fn write_success(out: &mut Vec<u8>, last: &[u8]) {
    negotiation::write_success(out, (!last.is_empty()).then_some(last));
}
