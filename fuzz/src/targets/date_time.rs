//! Moments (XEP-0082): a parsed moment is the same after it is written and parsed again.

use sestina_xmpp::ext::datetime::{MAX_MS, MIN_MS, format, parse};

/// See the module.
pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    // An offset can lead to a year that cannot be written.
    if let Some(ms) = parse(text) {
        let written = ms.clamp(MIN_MS, MAX_MS);
        assert_eq!(parse(&format(ms)), Some(written));
    }
    if let Some(bytes) = data.first_chunk::<8>() {
        let ms = i64::from_le_bytes(*bytes);
        assert_eq!(parse(&format(ms)), Some(ms.clamp(MIN_MS, MAX_MS)));
    }
}
