//! Base64 of SASL messages in XMPP (RFC 6120 §6.4.2): `=` alone is an empty message, and an empty
//! element is no message.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::SaslFailure;

/// Decodes the text of `<auth/>`: `None` if it holds no initial response.
pub fn decode_initial(text: &str) -> Result<Option<Vec<u8>>, SaslFailure> {
    match text {
        "" => Ok(None),
        "=" => Ok(Some(Vec::new())),
        _ => STANDARD
            .decode(text)
            .map(Some)
            .map_err(|_| SaslFailure::IncorrectEncoding),
    }
}

/// Decodes the text of `<response/>`, `<challenge/>` or `<success/>`.
pub fn decode(text: &str) -> Result<Vec<u8>, SaslFailure> {
    Ok(decode_initial(text)?.unwrap_or_default())
}

/// Encodes a message; an empty one becomes `=`.
pub fn encode(message: &[u8]) -> String {
    if message.is_empty() {
        "=".to_owned()
    } else {
        STANDARD.encode(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_and_an_empty_message_differ() {
        assert_eq!(decode_initial(""), Ok(None));
        assert_eq!(decode_initial("="), Ok(Some(Vec::new())));
        assert_eq!(decode(""), Ok(Vec::new()));
        assert_eq!(encode(b""), "=");
        assert_eq!(decode(&encode(b"")), Ok(Vec::new()));
    }

    #[test]
    fn strict() {
        assert_eq!(
            decode("AGp1bGlldAByMG0zMG15cjBtMzA="),
            Ok(b"\0juliet\0r0m30myr0m30".to_vec())
        );
        for bad in [
            "AGp1b GlldA==",
            "AGp1bGlldA",
            "A",
            "==",
            "=AAA",
            "AB==",
            "\nAAAA",
            "AA-_",
        ] {
            assert_eq!(decode(bad), Err(SaslFailure::IncorrectEncoding), "{bad:?}");
        }
    }
}
