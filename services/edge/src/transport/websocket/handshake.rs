//! The answer to a client's `Sec-WebSocket-Key` (RFC 6455 §4.2.2).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha1::{Digest as _, Sha1};

/// The fixed suffix of RFC 6455 §1.3.
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// The value of `Sec-WebSocket-Accept`, or nothing if the key is not 16 bytes in base64.
pub fn accept_key(key: &[u8]) -> Option<String> {
    let nonce = STANDARD.decode(key).ok()?;
    (nonce.len() == 16).then(|| {
        let digest = Sha1::new().chain_update(key).chain_update(GUID).finalize();
        STANDARD.encode(digest)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_the_rfc() {
        assert_eq!(
            accept_key(b"dGhlIHNhbXBsZSBub25jZQ==").as_deref(),
            Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")
        );
    }

    #[test]
    fn a_key_of_another_length_is_refused() {
        assert_eq!(accept_key(b"c2hvcnQ="), None);
        assert_eq!(accept_key(b"***"), None);
    }
}
