//! The envelope: attributes of the stanza element, payload bytes, and an index of the children.

use bytes::Bytes;

/// The three kinds of stanzas (RFC 6120 §8.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// `<message/>`
    Message,
    /// `<presence/>`
    Presence,
    /// `<iq/>`
    Iq,
}

impl Kind {
    /// The element's local name.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Message => "message",
            Kind::Presence => "presence",
            Kind::Iq => "iq",
        }
    }
}

/// A stanza: parsed envelope, unparsed payload. Empty strings mean "attribute absent".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stanza {
    /// Message, presence or IQ.
    pub kind: Kind,
    /// The `type` attribute.
    pub type_: String,
    /// The `id` attribute, unescaped.
    pub id: String,
    /// Normalised JID, or empty.
    pub from: String,
    /// Normalised JID, or empty.
    pub to: String,
    /// The `to` address as its sender wrote it, if that was another spelling; otherwise empty.
    /// Answers come from it (RFC 6120 §8.3.1), so that the sender recognises them.
    pub written_to: String,
    /// `xml:lang` in force for the stanza.
    pub lang: String,
    /// Other attributes, serialised, each with a leading space, with declarations of the prefixes
    /// that they use.
    pub attrs: String,
    /// The child nodes. Each child element declares every prefix it uses, and its own default
    /// namespace unless that is `jabber:client`.
    pub payload: Bytes,
    /// Six numbers for each child element: start, end, start of local name, its length, start of
    /// the namespace as written, its length. Offsets into `payload`. A namespace of length 0 is
    /// `jabber:client` if its start is 0, and no namespace (`xmlns=''`) otherwise.
    pub index: Vec<u32>,
}

/// One child element of a stanza, borrowed from its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Child<'a> {
    /// Namespace; `jabber:client` if the payload declares no other, empty for `xmlns=''`.
    pub ns: &'a str,
    /// Local name.
    pub name: &'a str,
    /// The whole element, from `<` to the last `>`.
    pub xml: &'a [u8],
    /// Offset of the element in the payload.
    pub start: usize,
}

/// Iterator over the child elements, see [`Stanza::children`].
#[derive(Clone, Debug)]
pub struct Children<'a> {
    payload: &'a [u8],
    index: &'a [u32],
}

impl<'a> Iterator for Children<'a> {
    type Item = Child<'a>;

    fn next(&mut self) -> Option<Child<'a>> {
        let (entry, rest) = self.index.split_first_chunk::<6>()?;
        self.index = rest;
        let [start, end, name_at, name_len, ns_at, ns_len] = entry.map(|n| n as usize);
        let text = |at: usize, len: usize| {
            self.payload
                .get(at..at + len)
                .and_then(|b| std::str::from_utf8(b).ok())
                .unwrap_or("")
        };
        Some(Child {
            ns: if ns_at == 0 {
                crate::ns::CLIENT
            } else {
                text(ns_at, ns_len)
            },
            name: text(name_at, name_len),
            xml: self.payload.get(start..end).unwrap_or(&[]),
            start,
        })
    }
}

impl Stanza {
    /// An empty stanza of that kind.
    pub fn new(kind: Kind) -> Stanza {
        Stanza {
            kind,
            type_: String::new(),
            id: String::new(),
            from: String::new(),
            to: String::new(),
            written_to: String::new(),
            lang: String::new(),
            attrs: String::new(),
            payload: Bytes::new(),
            index: Vec::new(),
        }
    }

    /// The child elements in order.
    pub fn children(&self) -> Children<'_> {
        Children {
            payload: &self.payload,
            index: &self.index,
        }
    }

    /// The first child element with this namespace and name.
    pub fn child(&self, ns: &str, name: &str) -> Option<Child<'_>> {
        self.children().find(|c| c.name == name && c.ns == ns)
    }

    /// Whether it is an error stanza (`type='error'`).
    pub fn is_error(&self) -> bool {
        self.type_ == "error"
    }

    /// Bytes it occupies in memory, for queue bounds.
    pub fn weight(&self) -> usize {
        size_of::<Stanza>()
            + self.type_.len()
            + self.id.len()
            + self.from.len()
            + self.to.len()
            + self.written_to.len()
            + self.lang.len()
            + self.attrs.len()
            + self.payload.len()
            + self.index.len() * 4
    }
}
