//! Namespace declarations in force.

use super::Limits;
use super::XmlError;
use super::escape::unescape_attr;
use crate::ns;

/// The meaning of a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ns {
    /// No namespace.
    None,
    /// The `xml` prefix.
    Xml,
    /// A declaration, by its place in the scope.
    Bound(usize),
}

impl Ns {
    /// The declaration's bit in a mask of declarations.
    pub(crate) fn bit(self) -> u64 {
        match self {
            Ns::Bound(at) => 1 << at,
            Ns::None | Ns::Xml => 0,
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Binding {
    start: usize,
    prefix: usize,
    uri: usize,
}

/// A stack of declarations. Prefixes and names are stored one after the other in one buffer, so a
/// declaration costs no allocation.
#[derive(Clone, Debug, Default)]
pub(crate) struct Scope {
    text: String,
    bindings: Vec<Binding>,
}

impl Scope {
    /// How many declarations there are.
    pub(crate) fn len(&self) -> usize {
        self.bindings.len()
    }

    /// Drops all declarations after the first `len`.
    pub(crate) fn truncate(&mut self, len: usize) {
        if let Some(binding) = self.bindings.get(len) {
            self.text.truncate(binding.start);
            self.bindings.truncate(len);
        }
    }

    /// Adds a declaration from a checked attribute, with an empty prefix for the default namespace.
    /// Refuses declarations that Namespaces in XML §3 and §5 forbid, and names longer than
    /// [`Limits::NAMESPACE_BYTES`].
    pub(crate) fn declare_raw(&mut self, prefix: &[u8], raw: &[u8]) -> Result<(), XmlError> {
        const ENCODING: &str = "the stream is not utf-8";
        let prefix = std::str::from_utf8(prefix).map_err(|_| XmlError::encoding(ENCODING))?;
        let raw = std::str::from_utf8(raw).map_err(|_| XmlError::encoding(ENCODING))?;
        let uri = unescape_attr(raw);
        // The value is bounded and not its spelling, which differs after the name is written again.
        if uri.len() > Limits::NAMESPACE_BYTES {
            return Err(XmlError::limit("the name of a namespace is too long"));
        }
        match prefix {
            "xml" if uri == ns::XML => return Ok(()),
            "xml" => return Err(XmlError::syntax("the prefix xml cannot be bound anew")),
            "xmlns" => return Err(XmlError::syntax("the prefix xmlns cannot be declared")),
            _ if uri == ns::XML || uri == ns::XMLNS => {
                return Err(XmlError::syntax("a reserved namespace cannot be bound"));
            }
            _ if uri.is_empty() && !prefix.is_empty() => {
                return Err(XmlError::syntax("a prefix cannot be undeclared"));
            }
            _ => {}
        }
        self.declare(prefix, &uri);
        Ok(())
    }

    /// Adds a declaration that is known to be valid.
    pub(crate) fn declare(&mut self, prefix: &str, uri: &str) {
        let start = self.text.len();
        self.text.push_str(prefix);
        self.text.push_str(uri);
        self.bindings.push(Binding {
            start,
            prefix: prefix.len(),
            uri: uri.len(),
        });
    }

    /// The namespace of an element without a prefix.
    pub(crate) fn default_ns(&self) -> Ns {
        match self
            .bindings
            .iter()
            .rposition(|binding| binding.prefix == 0)
        {
            Some(at) => Ns::Bound(at),
            None => Ns::None,
        }
    }

    /// The namespace of a prefix, if it is declared.
    pub(crate) fn resolve(&self, prefix: &[u8]) -> Option<Ns> {
        if prefix == b"xml" {
            return Some(Ns::Xml);
        }
        let text = self.text.as_bytes();
        let at = self.bindings.iter().rposition(|binding| {
            binding.prefix == prefix.len()
                && &text[binding.start..binding.start + binding.prefix] == prefix
        })?;
        Some(Ns::Bound(at))
    }

    /// The prefix of a declaration.
    pub(crate) fn prefix(&self, at: usize) -> &str {
        let binding = self.bindings[at];
        &self.text[binding.start..binding.start + binding.prefix]
    }

    /// The name of the namespace.
    pub(crate) fn uri(&self, ns: Ns) -> &str {
        match ns {
            Ns::None => "",
            Ns::Xml => ns::XML,
            Ns::Bound(at) => {
                let binding = self.bindings[at];
                let start = binding.start + binding.prefix;
                &self.text[start..start + binding.uri]
            }
        }
    }
}
