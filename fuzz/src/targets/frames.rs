//! Frames between tiers: a decoded frame is the same after it is encoded and decoded again, and its
//! stanza can be read with any index.
//!
//! The first byte names the kind of message.

use prost::Message;
use sestina_proto as proto;
use sestina_xmpp::stanza::Stanza;

/// See the module.
pub fn run(data: &[u8]) {
    let Some((kind, data)) = data.split_first() else {
        return;
    };
    match kind % 8 {
        0 => twice::<proto::ToRouterBatch>(data),
        1 => twice::<proto::ToEdgeBatch>(data),
        2 => twice::<proto::PeerBatch>(data),
        3 => twice::<proto::SessionState>(data),
        4 => twice::<proto::RoomState>(data),
        5 => twice::<proto::RoomLoggedEvent>(data),
        6 => twice::<proto::AdminRequest>(data),
        _ => stanza(data),
    }
}

fn twice<M: Message + Default>(data: &[u8]) {
    if let Ok(message) = M::decode(data) {
        let bytes = message.encode_to_vec();
        let again = M::decode(bytes.as_slice()).expect("an encoded frame can be decoded");
        // Not `==`: NaN does not equal itself.
        assert_eq!(again.encode_to_vec(), bytes);
    }
}

fn stanza(data: &[u8]) {
    let Ok(message) = proto::Stanza::decode(data) else {
        return;
    };
    let stanza = Stanza::from(message);
    for child in stanza.children() {
        let _element = sestina_xmpp::xml::Element::parse(child.xml);
    }
    let mut out = Vec::new();
    stanza.write_to(&mut out, None, true);
}
