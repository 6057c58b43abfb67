//! XEP-0334 v1.0.0: Message Processing Hints.

use crate::ns;
use crate::stanza::{Kind, Stanza};

/// The hints in a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hints {
    /// Not for archives (§4.1).
    pub no_permanent_store: bool,
    /// Neither for archives nor for the offline store (§4.2).
    pub no_store: bool,
    /// Not for other addresses, such as carbons (§4.3).
    pub no_copy: bool,
    /// To be stored although the rules exclude it (§4.4).
    pub store: bool,
}

impl Hints {
    /// Parses the hints. Those in an error are ignored (§5): it may echo the message that it
    /// answers.
    pub fn of(stanza: &Stanza) -> Hints {
        let mut hints = Hints::default();
        if stanza.kind != Kind::Message || stanza.is_error() {
            return hints;
        }
        for child in stanza.children().filter(|child| child.ns == ns::HINTS) {
            match child.name {
                "no-permanent-store" | "no-permanent-storage" => hints.no_permanent_store = true,
                "no-store" | "no-storage" => hints.no_store = true,
                "no-copy" => hints.no_copy = true,
                "store" => hints.store = true,
                _ => {}
            }
        }
        hints
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::stanza;
    use super::*;

    fn of(xml: &str) -> Hints {
        Hints::of(&stanza(xml))
    }

    /// §3.1 and §5.
    #[test]
    fn examples() {
        let hints = "<no-copy xmlns='urn:xmpp:hints'/><no-store xmlns='urn:xmpp:hints'/>";
        let both = Hints {
            no_copy: true,
            no_store: true,
            ..Hints::default()
        };
        assert_eq!(
            of(&format!("<message><body>V unir</body>{hints}</message>")),
            both
        );
        assert_eq!(
            of(&format!("<message type='error'>{hints}</message>")),
            Hints::default()
        );
        assert_eq!(
            of(&format!("<presence>{hints}</presence>")),
            Hints::default()
        );
        assert_eq!(
            of("<message><store xmlns='urn:x'/></message>"),
            Hints::default()
        );
        let store = Hints {
            store: true,
            ..Hints::default()
        };
        assert_eq!(
            of("<message><store xmlns='urn:xmpp:hints'/></message>"),
            store
        );
        let lasting = Hints {
            no_permanent_store: true,
            ..Hints::default()
        };
        let xml = "<message><no-permanent-store xmlns='urn:xmpp:hints'/></message>";
        assert_eq!(of(xml), lasting);
    }
}
