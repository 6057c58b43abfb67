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

impl From<crate::Stanza> for Stanza {
    /// A kind this version does not know becomes a message without payload only if the peer is
    /// broken; lanes refuse unknown protocol versions before.
    fn from(s: crate::Stanza) -> Stanza {
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
