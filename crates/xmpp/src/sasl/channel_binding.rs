//! Types of TLS channel binding. The TLS connection provides the data.
//!
//! `tls-unique` (RFC 5929 §3) is left out: TLS 1.3 has none, and in TLS 1.2 it is only safe with
//! the extended master secret.

/// The label of the TLS exporter for `tls-exporter` (RFC 9266 §2).
pub const EXPORTER_LABEL: &[u8] = b"EXPORTER-Channel-Binding";

/// How many bytes are exported for `tls-exporter`; the context is empty (RFC 9266 §2).
pub const EXPORTER_LEN: usize = 32;

/// A type of channel binding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum BindingType {
    /// Keying material exported from the TLS session (RFC 9266).
    TlsExporter,
    /// The hash of the server's certificate (RFC 5929 §4).
    TlsServerEndPoint,
}

impl BindingType {
    /// All types, the strongest first.
    pub const ALL: [BindingType; 2] = [BindingType::TlsExporter, BindingType::TlsServerEndPoint];

    /// The registered name, as in a gs2 header and in XEP-0440.
    pub fn name(self) -> &'static str {
        match self {
            BindingType::TlsExporter => "tls-exporter",
            BindingType::TlsServerEndPoint => "tls-server-end-point",
        }
    }

    /// The type of that name.
    pub fn parse(name: &str) -> Option<BindingType> {
        BindingType::ALL.into_iter().find(|t| t.name() == name)
    }
}

/// One binding of a TLS connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChannelBinding {
    /// Its type.
    pub kind: BindingType,
    /// The bytes that both ends know.
    pub data: Vec<u8>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_both_ways() {
        for kind in BindingType::ALL {
            assert_eq!(BindingType::parse(kind.name()), Some(kind));
        }
        assert_eq!(BindingType::parse("tls-unique"), None);
    }
}
