//! ANONYMOUS (RFC 4505, XEP-0175): the message is at most a trace, which proves nothing.

use super::SaslFailure;

/// The most characters of a trace (RFC 4505 §2).
const MAX_TRACE: usize = 255;

/// Parses the client's message: the trace, if there is one. XEP-0175 §4 tells servers not to rely
/// on it, and it must not be logged as if it were true.
pub fn parse(message: &[u8]) -> Result<Option<&str>, SaslFailure> {
    let trace = std::str::from_utf8(message).map_err(|_| SaslFailure::MalformedRequest)?;
    if trace.chars().count() > MAX_TRACE || trace.chars().any(char::is_control) {
        return Err(SaslFailure::MalformedRequest);
    }
    Ok((!trace.is_empty()).then_some(trace))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traces() {
        assert_eq!(parse(b""), Ok(None));
        assert_eq!(parse(b"sirhc"), Ok(Some("sirhc")));
        assert_eq!(
            parse("ü".repeat(255).as_bytes()).map(|t| t.is_some()),
            Ok(true)
        );
        assert_eq!(
            parse("ü".repeat(256).as_bytes()),
            Err(SaslFailure::MalformedRequest)
        );
        assert_eq!(parse(b"\xff"), Err(SaslFailure::MalformedRequest));
        assert_eq!(parse(b"a\0b"), Err(SaslFailure::MalformedRequest));
    }
}
