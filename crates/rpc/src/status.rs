//! Errors to gRPC status and back.
//!
//! A store's own errors carry a mark in metadata: without it a status was made by the transport,
//! whose codes mean something else (a reset connection may read `Internal`, and that must not be
//! taken for a database that refused).

use sestina_api::link::LinkError;
use sestina_api::store::StoreError;
use tonic::metadata::MetadataValue;
use tonic::{Code, Status};

const MARK: &str = "sestina-store-error";

/// A store's error for the wire.
pub fn from_store(error: StoreError) -> Status {
    let (code, text) = match error {
        StoreError::Unavailable(text) => (Code::Unavailable, text),
        StoreError::Exists(text) => (Code::AlreadyExists, text),
        StoreError::NotFound(text) => (Code::NotFound, text),
        StoreError::Invalid(text) => (Code::InvalidArgument, text),
        StoreError::Internal(text) => (Code::Internal, text),
    };
    let mut status = Status::new(code, text);
    status
        .metadata_mut()
        .insert(MARK, MetadataValue::from_static("1"));
    status
}

/// Whether the store itself answered, not the transport.
pub fn is_from_store(status: &Status) -> bool {
    status.metadata().contains_key(MARK)
}

/// What a status from storage means.
pub fn to_store(status: &Status) -> StoreError {
    let text = status.message().to_owned();
    if is_from_store(status) {
        return match status.code() {
            Code::AlreadyExists => StoreError::Exists(text),
            Code::NotFound => StoreError::NotFound(text),
            Code::InvalidArgument => StoreError::Invalid(text),
            Code::Internal => StoreError::Internal(text),
            _ => StoreError::Unavailable(text),
        };
    }
    if crate::versions::is_refusal(status) {
        // Another replica, or this one once it is upgraded, may speak a version in common.
        return StoreError::Unavailable(describe(status));
    }
    match status.code() {
        // The peer is there and will say the same again.
        Code::Unimplemented
        | Code::PermissionDenied
        | Code::Unauthenticated
        | Code::FailedPrecondition => StoreError::Internal(describe(status)),
        Code::OutOfRange | Code::InvalidArgument => StoreError::Invalid(describe(status)),
        _ => StoreError::Unavailable(describe(status)),
    }
}

/// A router's refusal for the wire.
pub fn from_link(error: LinkError) -> Status {
    match error {
        LinkError::Unavailable { reason, .. } => Status::unavailable(reason),
        LinkError::Refused { reason, .. } => Status::failed_precondition(reason),
    }
}

/// What a status from `peer` means.
pub fn to_link(peer: &str, status: &Status) -> LinkError {
    let peer = peer.to_owned();
    let reason = describe(status);
    match status.code() {
        Code::FailedPrecondition
        | Code::PermissionDenied
        | Code::Unauthenticated
        | Code::InvalidArgument
        | Code::Unimplemented => LinkError::Refused { peer, reason },
        _ if tls_refusal(status) => LinkError::Refused { peer, reason },
        _ => LinkError::Unavailable { peer, reason },
    }
}

/// The message of a status with the causes below it.
pub(crate) fn describe(status: &Status) -> String {
    let mut text = status.message().to_owned();
    if let Some(cause) = std::error::Error::source(status) {
        let cause = crate::error::chain(cause);
        if !cause.is_empty() && !text.contains(&cause) {
            text = if text.is_empty() {
                cause
            } else {
                format!("{text}: {cause}")
            };
        }
    }
    if text.is_empty() {
        status.code().description().to_owned()
    } else {
        crate::error::advised(text)
    }
}

/// Whether TLS is what failed: a certificate that one of the two sides does not accept.
pub(crate) fn tls_refusal(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        // An I/O error hides what it wraps from source().
        let inner = error
            .downcast_ref::<std::io::Error>()
            .and_then(|io| io.get_ref())
            .map_or(error, |e| e as &(dyn std::error::Error + 'static));
        match inner.downcast_ref::<rustls::Error>() {
            Some(rustls::Error::InvalidCertificate(_) | rustls::Error::AlertReceived(_)) => {
                return true;
            }
            _ => {
                next = if std::ptr::addr_eq(inner, error) {
                    error.source()
                } else {
                    Some(inner)
                }
            }
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn store_errors_survive_the_wire() {
        for error in [
            StoreError::Unavailable("database".to_owned()),
            StoreError::Exists("a@b".to_owned()),
            StoreError::NotFound("a@b — größer".to_owned()),
            StoreError::Invalid("limit".to_owned()),
            StoreError::Internal("constraint".to_owned()),
        ] {
            let headers = from_store(error.clone())
                .into_http::<()>()
                .headers()
                .clone();
            let status = Status::from_header_map(&headers);
            assert_eq!(status.as_ref().map(to_store), Some(error));
        }
    }

    #[test]
    fn a_transport_failure_is_never_taken_for_the_stores_word() {
        for code in [
            Code::Internal,
            Code::Unknown,
            Code::Cancelled,
            Code::NotFound,
        ] {
            let error = to_store(&Status::new(code, "h2 protocol error"));
            assert!(
                matches!(error, StoreError::Unavailable(_)),
                "{code:?}: {error:?}"
            );
        }
        let error = to_store(&Status::permission_denied("no role"));
        assert!(matches!(error, StoreError::Internal(_)));
    }

    #[test]
    fn refusals_of_a_router_stay_refusals() {
        let refused = LinkError::Refused {
            peer: "r".to_owned(),
            reason: "version 9".to_owned(),
        };
        assert_eq!(to_link("r", &from_link(refused.clone())), refused);
        let away = LinkError::Unavailable {
            peer: "r".to_owned(),
            reason: "no lease".to_owned(),
        };
        assert_eq!(to_link("r", &from_link(away.clone())), away);
    }

    #[test]
    fn an_alert_deep_inside_is_found() {
        let alert = rustls::Error::AlertReceived(rustls::AlertDescription::UnknownCA);
        let io = std::io::Error::other(std::io::Error::other(alert));
        assert!(tls_refusal(&Status::from_error(Box::new(io))));
        let plain = std::io::Error::other("reset");
        assert!(!tls_refusal(&Status::from_error(Box::new(plain))));
    }
}
