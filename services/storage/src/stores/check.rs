//! What a request must satisfy before it meets SQL.

use prost::Message;
use sestina_api::store::StoreError;
use sestina_proto as proto;

/// The last millisecond of the year 9999: later times have no month to file them under.
const LAST_MS: i64 = 253_402_300_799_999;

/// A string that both databases can hold: PostgreSQL has no NUL.
pub(crate) fn checked(text: &str) -> Result<&str, StoreError> {
    if text.contains('\0') {
        return Err(StoreError::Invalid("a string contains U+0000".to_owned()));
    }
    Ok(text)
}

/// The host of a user's bare JID.
pub(crate) fn host_of(bare: &str) -> Result<&str, StoreError> {
    match bare.split_once('@') {
        Some((local, host)) if !local.is_empty() && !host.is_empty() => Ok(host),
        _ => Err(StoreError::Invalid(format!(
            "{bare:?} is not the bare JID of a user"
        ))),
    }
}

/// An idempotency key in 28 bytes, in order of origin and number.
pub(crate) fn key_bytes(key: Option<&proto::Key>) -> Result<Vec<u8>, StoreError> {
    let key = key.ok_or_else(|| StoreError::Invalid("the request carries no key".to_owned()))?;
    let mut bytes = Vec::with_capacity(28);
    bytes.extend_from_slice(&key.origin_hi.to_be_bytes());
    bytes.extend_from_slice(&key.origin_lo.to_be_bytes());
    bytes.extend_from_slice(&key.n.to_be_bytes());
    bytes.extend_from_slice(&key.purpose.to_be_bytes());
    Ok(bytes)
}

/// The key that [`key_bytes`] stored.
pub(crate) fn key_of(bytes: &[u8]) -> Option<proto::Key> {
    let number = |at: usize| Some(u64::from_be_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
    let purpose = u32::from_be_bytes(bytes.get(24..28)?.try_into().ok()?);
    Some(proto::Key {
        origin_hi: number(0)?,
        origin_lo: number(8)?,
        n: number(16)?,
        purpose,
        ..proto::Key::default()
    })
}

/// A number that the database compares: it must not turn negative.
pub(crate) fn number(value: u64) -> Result<i64, StoreError> {
    i64::try_from(value).map_err(|_| StoreError::Invalid(format!("{value} is out of range")))
}

/// A time that can be stored.
pub(crate) fn instant(at_ms: i64) -> Result<i64, StoreError> {
    if (0..=LAST_MS).contains(&at_ms) {
        Ok(at_ms)
    } else {
        Err(StoreError::Invalid(format!(
            "{at_ms} ms is not a time between 1970 and 9999"
        )))
    }
}

/// A stanza as it is stored.
pub(crate) fn stanza_bytes(stanza: Option<&proto::Stanza>) -> Result<Vec<u8>, StoreError> {
    match stanza {
        Some(stanza) => Ok(stanza.encode_to_vec()),
        None => Err(StoreError::Invalid("the row carries no stanza".to_owned())),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn keys_survive_the_table() {
        let key = proto::Key {
            origin_hi: u64::MAX,
            origin_lo: 7,
            n: 1 << 40,
            purpose: 0x305,
            ..proto::Key::default()
        };
        let bytes = key_bytes(Some(&key)).unwrap();
        assert_eq!(bytes.len(), 28);
        assert_eq!(key_of(&bytes), Some(key));
        assert_eq!(key_of(&bytes[1..]), None);
        assert!(key_bytes(None).is_err());
    }

    #[test]
    fn nonsense_is_refused() {
        assert!(checked("a\0b").is_err() && checked("a b").is_ok());
        assert_eq!(host_of("a@b.c"), Ok("b.c"));
        assert!(host_of("b.c").is_err() && host_of("@b").is_err() && host_of("a@").is_err());
        assert!(number(1 << 63).is_err());
        assert!(instant(-1).is_err() && instant(LAST_MS + 1).is_err() && instant(0).is_ok());
    }
}
