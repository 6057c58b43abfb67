//! Ids of resumable sessions: only ids made with the key are accepted, and they decode to the
//! original.

use sestina_xmpp::ext::sm::SmId;

const KEY: &[u8] = b"a key of this cluster";

/// See the module.
pub fn run(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data)
        && let Some(id) = SmId::decode(text, KEY)
    {
        assert_eq!(id.encode(KEY), text, "an id has one form");
        assert!(SmId::decode(text, b"another key").is_none());
    }
    // A valid id, with one bit changed at a place that the input gives.
    let (Some(&[slot, at, bit]), rest) = (data.first_chunk::<3>(), data.get(3..).unwrap_or(&[]))
    else {
        return;
    };
    let Ok(bare) = std::str::from_utf8(rest) else {
        return;
    };
    if bare.is_empty() {
        return;
    }
    let id = SmId {
        slot: u16::from(slot),
        nonce: u128::from(at),
        bare: bare.to_owned(),
    };
    let text = id.encode(KEY);
    assert_eq!(SmId::decode(&text, KEY), Some(id));
    let mut bytes = text.into_bytes();
    let at = usize::from(at) % bytes.len();
    bytes[at] ^= 1 << (bit % 7);
    let forged = String::from_utf8(bytes).expect("seven bits are ascii");
    assert_eq!(SmId::decode(&forged, KEY), None, "a changed id is refused");
}
