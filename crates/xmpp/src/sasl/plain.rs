//! PLAIN (RFC 4616 §2): `[authzid] NUL authcid NUL passwd`.

use std::fmt;

use zeroize::Zeroizing;

use super::SaslFailure;

/// The content of a PLAIN message.
pub struct Plain {
    /// The identity to act as, if the client names one.
    pub authzid: Option<String>,
    /// The user name (the localpart, not prepared yet).
    pub username: String,
    /// The password, wiped when dropped.
    pub password: Zeroizing<String>,
}

impl fmt::Debug for Plain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plain")
            .field("authzid", &self.authzid)
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

/// Reads a PLAIN message.
pub fn parse(message: &[u8]) -> Result<Plain, SaslFailure> {
    let text = std::str::from_utf8(message).map_err(|_| SaslFailure::MalformedRequest)?;
    let mut parts = text.split('\0');
    let (Some(authzid), Some(username), Some(password), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(SaslFailure::MalformedRequest);
    };
    if username.is_empty() || password.is_empty() {
        return Err(SaslFailure::MalformedRequest);
    }
    Ok(Plain {
        authzid: (!authzid.is_empty()).then(|| authzid.to_owned()),
        username: username.to_owned(),
        password: Zeroizing::new(password.to_owned()),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    /// RFC 4616 §4.
    #[test]
    fn examples() {
        let plain = parse(b"\0tim\0tanstaaftanstaaf").unwrap();
        assert_eq!(
            (plain.authzid.as_deref(), &plain.username[..]),
            (None, "tim")
        );
        assert_eq!(&plain.password[..], "tanstaaftanstaaf");
        let plain = parse(b"Ursel\0Kurt\0xipj3plmq").unwrap();
        assert_eq!(
            (plain.authzid.as_deref(), &plain.username[..]),
            (Some("Ursel"), "Kurt")
        );
    }

    #[test]
    fn refuses() {
        for bad in [
            &b""[..],
            b"\0",
            b"a\0b",
            b"\0\0p",
            b"\0u\0",
            b"\0u\0p\0",
            b"\0u\0\xff",
        ] {
            assert_eq!(
                parse(bad).unwrap_err(),
                SaslFailure::MalformedRequest,
                "{bad:?}"
            );
        }
    }

    #[test]
    fn debug_hides_the_password() {
        let shown = format!("{:?}", parse(b"\0tim\0secret").unwrap());
        assert!(shown.contains("tim") && !shown.contains("secret"));
    }
}
