//! What a peer may send.

/// Bounds on one top-level element. Past any of them the stream ends with `policy-violation`
/// (RFC 6120 §4.9.3.14).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a stanza, or of the stream header.
    pub bytes: usize,
    /// Elements inside each other, the stanza itself counted.
    pub depth: usize,
    /// Attributes of one element, namespace declarations counted.
    pub attributes: usize,
    /// Bytes of an element's or attribute's name.
    pub name: usize,
    /// Namespace declarations in force at one place; at most [`Limits::MAX_NAMESPACES`].
    pub namespaces: usize,
}

impl Limits {
    /// The most namespace declarations that can be in force, whatever is configured.
    pub const MAX_NAMESPACES: usize = 64;

    /// For peers that have not said who they are. RFC 6120 §13.12 forbids less than 10,000 bytes.
    pub const fn unauthenticated() -> Limits {
        Limits {
            bytes: 10_240,
            depth: 16,
            attributes: 32,
            name: 128,
            namespaces: 16,
        }
    }

    /// For elements that this cluster wrote or checked before.
    pub const fn trusted() -> Limits {
        Limits {
            bytes: 64 * 1024 * 1024,
            depth: 256,
            attributes: 512,
            name: 4096,
            namespaces: Limits::MAX_NAMESPACES,
        }
    }
}

impl Default for Limits {
    /// For authenticated clients: 256 KiB.
    fn default() -> Limits {
        Limits {
            bytes: 262_144,
            depth: 64,
            attributes: 64,
            name: 256,
            namespaces: 32,
        }
    }
}
