//! The limits of XML from a peer.

/// Bounds of one top-level element. If one is exceeded, the stream ends with `policy-violation`
/// (RFC 6120 §4.9.3.14).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a stanza, or of the stream header.
    pub bytes: usize,
    /// Nested elements, including the stanza itself.
    pub depth: usize,
    /// Attributes of one element, including namespace declarations.
    pub attributes: usize,
    /// Bytes of an element's or attribute's name.
    pub name: usize,
    /// Namespace declarations in force at one place; at most [`Limits::MAX_NAMESPACES`].
    pub namespaces: usize,
}

impl Limits {
    /// The most namespace declarations that can be in force; the configuration cannot raise it.
    pub const MAX_NAMESPACES: usize = 64;

    /// Bytes of a namespace, without the escapes of XML. Each element of a tree has a copy of its own, and so has each child of a stanza whose prefix
    /// is declared outside it: a long name would cost a multiple of the stanza. The configuration cannot raise it.
    pub const NAMESPACE_BYTES: usize = 256;

    /// For unauthenticated peers. RFC 6120 §13.12 forbids less than 10,000 bytes.
    pub const fn unauthenticated() -> Limits {
        Limits {
            bytes: 10_240,
            depth: 16,
            attributes: 32,
            name: 128,
            namespaces: 16,
        }
    }

    /// For elements that this cluster wrote or has checked.
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

#[cfg(test)]
mod tests {
    use super::Limits;
    use crate::stream::StreamCondition;
    use crate::xml::Element;

    #[test]
    fn a_namespace_of_more_bytes_than_the_bound_is_refused() {
        for declaration in ["xmlns", "xmlns:p"] {
            let of = |bytes: usize| {
                let name = "n".repeat(bytes);
                Element::parse(format!("<a {declaration}='{name}'/>").as_bytes())
            };
            assert!(of(Limits::NAMESPACE_BYTES).is_ok());
            let error = of(Limits::NAMESPACE_BYTES + 1).map(drop).unwrap_err();
            assert_eq!(error.condition, StreamCondition::PolicyViolation);
        }
    }

    #[test]
    fn a_namespace_of_escaped_characters_can_be_read_after_it_is_written_again() {
        for name in [
            "'\"".repeat(Limits::NAMESPACE_BYTES / 2),
            "&gt;".repeat(Limits::NAMESPACE_BYTES),
        ] {
            let name = name.replace('\'', "&apos;");
            let read =
                Element::parse(format!("<a xmlns='{name}'/>").as_bytes()).expect("it is short");
            let again = Element::parse(&read.to_bytes("jabber:client"));
            assert_eq!(again.as_ref(), Ok(&read));
        }
    }
}
