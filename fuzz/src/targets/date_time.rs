//! Moments (XEP-0082): one that was read is the same when it is written and read again.

use sestina_xmpp::ext::datetime::{MAX_MS, MIN_MS, format, parse};

/// See the module.
pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    // An offset can lead out of the years that can be written.
    if let Some(ms) = parse(text) {
        let written = ms.clamp(MIN_MS, MAX_MS);
        assert_eq!(parse(&format(ms)), Some(written));
    }
    if let Some(bytes) = data.first_chunk::<8>() {
        let ms = i64::from_le_bytes(*bytes);
        assert_eq!(parse(&format(ms)), Some(ms.clamp(MIN_MS, MAX_MS)));
    }
}
