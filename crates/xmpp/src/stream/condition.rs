//! Stream error conditions, RFC 6120 §4.9.3.

macro_rules! conditions {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// The reason why a stream ends (RFC 6120 §4.9.3).
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum StreamCondition {
            $($(#[$doc])* $variant,)*
        }

        impl StreamCondition {
            /// Every condition, in the order of the RFC.
            pub const ALL: &'static [StreamCondition] = &[$(StreamCondition::$variant,)*];

            /// The element's name.
            pub fn name(self) -> &'static str {
                match self {
                    $(StreamCondition::$variant => $name,)*
                }
            }

            /// The condition with this element name.
            pub fn parse(name: &str) -> Option<StreamCondition> {
                match name {
                    $($name => Some(StreamCondition::$variant),)*
                    _ => None,
                }
            }
        }
    };
}

conditions! {
    /// XML that cannot be processed.
    BadFormat = "bad-format",
    /// An unsupported prefix, or none where one is needed.
    BadNamespacePrefix = "bad-namespace-prefix",
    /// A new stream replaces this one.
    Conflict = "conflict",
    /// The peer does not answer.
    ConnectionTimeout = "connection-timeout",
    /// The host is no longer served here.
    HostGone = "host-gone",
    /// The host is not served here.
    HostUnknown = "host-unknown",
    /// A `to` or `from` that is missing or violates the rules for addresses.
    ImproperAddressing = "improper-addressing",
    /// An internal error.
    InternalServerError = "internal-server-error",
    /// The `from` is not one that the peer may use.
    InvalidFrom = "invalid-from",
    /// The stream namespace or the content namespace is not supported.
    InvalidNamespace = "invalid-namespace",
    /// Invalid by the schema, if the entity validates.
    InvalidXml = "invalid-xml",
    /// Data before authentication, or another action that is not authorised.
    NotAuthorized = "not-authorized",
    /// Violates XML or Namespaces in XML.
    NotWellFormed = "not-well-formed",
    /// A local rule was violated (including limits of size and depth).
    PolicyViolation = "policy-violation",
    /// A required remote entity cannot be connected.
    RemoteConnectionFailed = "remote-connection-failed",
    /// New features need a new stream.
    Reset = "reset",
    /// No resources for the stream.
    ResourceConstraint = "resource-constraint",
    /// A comment, processing instruction, DTD or entity (RFC 6120 §11.1).
    RestrictedXml = "restricted-xml",
    /// The peer should connect elsewhere.
    SeeOtherHost = "see-other-host",
    /// The server is being shut down.
    SystemShutdown = "system-shutdown",
    /// None of the others; with an application-specific condition.
    UndefinedCondition = "undefined-condition",
    /// Not UTF-8.
    UnsupportedEncoding = "unsupported-encoding",
    /// A mandatory-to-negotiate feature is not supported.
    UnsupportedFeature = "unsupported-feature",
    /// A first-level child that is not supported.
    UnsupportedStanzaType = "unsupported-stanza-type",
    /// A version of XMPP that is not supported.
    UnsupportedVersion = "unsupported-version",
}
