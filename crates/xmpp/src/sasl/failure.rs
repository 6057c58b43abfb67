//! SASL failure conditions (RFC 6120 §6.5).

use std::fmt;

macro_rules! conditions {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// The reason for failed authentication, as the client gets it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
        pub enum SaslFailure {
            $($(#[$doc])* $variant,)*
        }

        impl SaslFailure {
            /// All conditions.
            pub const ALL: &'static [SaslFailure] = &[$(SaslFailure::$variant,)*];

            /// The name of the condition element.
            pub fn name(self) -> &'static str {
                match self {
                    $(SaslFailure::$variant => $name,)*
                }
            }

            /// The condition with this element name.
            pub fn parse(name: &str) -> Option<SaslFailure> {
                match name {
                    $($name => Some(SaslFailure::$variant),)*
                    _ => None,
                }
            }
        }
    };
}

conditions! {
    /// The client aborted (§6.5.1).
    Aborted = "aborted",
    /// The account must not log in at present (§6.5.2).
    AccountDisabled = "account-disabled",
    /// The credentials have expired (§6.5.3).
    CredentialsExpired = "credentials-expired",
    /// The mechanism needs TLS first (§6.5.4).
    EncryptionRequired = "encryption-required",
    /// Not base64 by RFC 4648 §4 (§6.5.5).
    IncorrectEncoding = "incorrect-encoding",
    /// The authorization identity is invalid or not the user's own (§6.5.6).
    InvalidAuthzid = "invalid-authzid",
    /// The mechanism was not offered (§6.5.7).
    InvalidMechanism = "invalid-mechanism",
    /// The message does not follow the mechanism's syntax (§6.5.8).
    MalformedRequest = "malformed-request",
    /// The mechanism is weaker than the policy for this account (§6.5.9).
    MechanismTooWeak = "mechanism-too-weak",
    /// Wrong credentials, or no such user: the same for both (§6.5.10).
    NotAuthorized = "not-authorized",
    /// The server cannot authenticate at present (§6.5.11).
    TemporaryAuthFailure = "temporary-auth-failure",
}

impl fmt::Display for SaslFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_both_ways() {
        assert_eq!(SaslFailure::ALL.len(), 11);
        for condition in SaslFailure::ALL {
            assert_eq!(SaslFailure::parse(condition.name()), Some(*condition));
        }
        assert_eq!(SaslFailure::parse("bad-auth"), None);
        assert_eq!(SaslFailure::NotAuthorized.to_string(), "not-authorized");
    }
}
