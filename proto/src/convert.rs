//! Stanzas: moves between `sestina_xmpp::stanza::Stanza` and the wire form, no copies.

use sestina_xmpp::stanza::{Kind, Stanza};

use crate::StanzaKind;

impl From<Stanza> for crate::Stanza {
    fn from(s: Stanza) -> crate::Stanza {
        crate::Stanza {
            kind: match s.kind {
                Kind::Message => StanzaKind::Message,
                Kind::Presence => StanzaKind::Presence,
                Kind::Iq => StanzaKind::Iq,
            }
            .into(),
            r#type: s.type_,
            id: s.id,
            from: s.from,
            to: s.to,
            written_to: s.written_to,
            lang: s.lang,
            attrs: s.attrs,
            payload: s.payload,
            index: s.index,
        }
    }
}

impl crate::Stanza {
    /// Whether its kind is one that this version knows.
    pub fn is_known(&self) -> bool {
        StanzaKind::try_from(self.kind).is_ok()
    }
}

impl From<crate::Stanza> for Stanza {
    /// A kind that this version does not know becomes a message with nothing in it; where an answer is
    /// expected, it is refused before (see [`crate::Stanza::is_known`]).
    fn from(mut s: crate::Stanza) -> Stanza {
        if !s.is_known() {
            s.payload.clear();
            s.index.clear();
        }
        Stanza {
            kind: match s.kind() {
                StanzaKind::Presence => Kind::Presence,
                StanzaKind::Iq => Kind::Iq,
                StanzaKind::Message | StanzaKind::Unspecified => Kind::Message,
            },
            type_: s.r#type,
            id: s.id,
            from: s.from,
            to: s.to,
            written_to: s.written_to,
            lang: s.lang,
            attrs: s.attrs,
            payload: s.payload,
            index: s.index,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stanza_of_an_unknown_kind_has_nothing_in_it() {
        let later = crate::Stanza {
            kind: 77,
            id: "1".to_owned(),
            payload: "<body>not a message</body>".into(),
            index: vec![0, 26, 1, 4, 0, 0],
            ..crate::Stanza::default()
        };
        assert!(!later.is_known());
        let stanza = Stanza::from(later);
        assert_eq!((stanza.kind, stanza.id.as_str()), (Kind::Message, "1"));
        assert!(stanza.payload.is_empty() && stanza.index.is_empty());
        let known = crate::Stanza {
            kind: StanzaKind::Iq.into(),
            ..crate::Stanza::default()
        };
        assert!(known.is_known());
    }
}
