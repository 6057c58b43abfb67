//! Namespaces, each named once.

/// RFC 6120 client content.
pub const CLIENT: &str = "jabber:client";
/// RFC 6120 streams.
pub const STREAM: &str = "http://etherx.jabber.org/streams";
/// RFC 6120 §4.9.3 stream error conditions.
pub const STREAM_ERRORS: &str = "urn:ietf:params:xml:ns:xmpp-streams";
/// RFC 6120 §8.3.3 stanza error conditions.
pub const STANZA_ERRORS: &str = "urn:ietf:params:xml:ns:xmpp-stanzas";
/// RFC 6120 §5 STARTTLS.
pub const TLS: &str = "urn:ietf:params:xml:ns:xmpp-tls";
/// RFC 6120 §6 SASL.
pub const SASL: &str = "urn:ietf:params:xml:ns:xmpp-sasl";
/// RFC 6120 §7 resource binding.
pub const BIND: &str = "urn:ietf:params:xml:ns:xmpp-bind";
/// RFC 3921 session establishment (a no-op since RFC 6121).
pub const SESSION: &str = "urn:ietf:params:xml:ns:xmpp-session";
/// RFC 7395 WebSocket framing.
pub const FRAMING: &str = "urn:ietf:params:xml:ns:xmpp-framing";
/// The `xml` prefix.
pub const XML: &str = "http://www.w3.org/XML/1998/namespace";
/// The `xmlns` prefix.
pub const XMLNS: &str = "http://www.w3.org/2000/xmlns/";
/// XEP-0440 SASL channel-binding type capability.
pub const SASL_CB: &str = "urn:xmpp:sasl-cb:0";
/// XEP-0198 stream management.
pub const SM: &str = "urn:xmpp:sm:3";
/// XEP-0054 vCards.
pub const VCARD: &str = "vcard-temp";
/// XEP-0191 blocking command.
pub const BLOCKING: &str = "urn:xmpp:blocking";
/// XEP-0191 the condition of errors that name a blocked address.
pub const BLOCKING_ERRORS: &str = "urn:xmpp:blocking:errors";
/// XEP-0092 software version.
pub const VERSION: &str = "jabber:iq:version";
/// XEP-0199 ping.
pub const PING: &str = "urn:xmpp:ping";
/// XEP-0030 service discovery, information.
pub const DISCO_INFO: &str = "http://jabber.org/protocol/disco#info";
/// XEP-0030 service discovery, items.
pub const DISCO_ITEMS: &str = "http://jabber.org/protocol/disco#items";
/// XEP-0004 data forms.
pub const DATA_FORM: &str = "jabber:x:data";
/// XEP-0313 message archive management.
pub const MAM: &str = "urn:xmpp:mam:2";
/// XEP-0059 result set management.
pub const RSM: &str = "http://jabber.org/protocol/rsm";
/// XEP-0297 stanza forwarding.
pub const FORWARD: &str = "urn:xmpp:forward:0";
/// XEP-0203 delayed delivery.
pub const DELAY: &str = "urn:xmpp:delay";
/// XEP-0359 unique and stable stanza ids.
pub const STANZA_ID: &str = "urn:xmpp:sid:0";
/// XEP-0421 ids of occupants.
pub const OCCUPANT_ID: &str = "urn:xmpp:occupant-id:0";
/// XEP-0091, which XEP-0203 replaced.
pub const LEGACY_DELAY: &str = "jabber:x:delay";
/// XEP-0280 message carbons.
pub const CARBONS: &str = "urn:xmpp:carbons:2";
/// XEP-0280 recommended rules feature.
pub const CARBONS_RULES: &str = "urn:xmpp:carbons:rules:0";
/// XEP-0334 message processing hints.
pub const HINTS: &str = "urn:xmpp:hints";
/// XEP-0085 chat states.
pub const CHAT_STATES: &str = "http://jabber.org/protocol/chatstates";
/// XEP-0184 message receipts.
pub const RECEIPTS: &str = "urn:xmpp:receipts";
/// XEP-0333 displayed markers.
pub const MARKERS: &str = "urn:xmpp:chat-markers:0";
/// XEP-0045 multi-user chat.
pub const MUC: &str = "http://jabber.org/protocol/muc";
/// XEP-0045 information of a room for its users.
pub const MUC_USER: &str = "http://jabber.org/protocol/muc#user";
/// XEP-0045 forms and requests of a room's owner.
pub const MUC_OWNER: &str = "http://jabber.org/protocol/muc#owner";
/// XEP-0249 direct invitations.
pub const MUC_DIRECT_INVITE: &str = "jabber:x:conference";
/// XEP-0160 offline storage feature.
pub const OFFLINE: &str = "msgoffline";
/// RFC 6121 §2 roster.
pub const IQ_ROSTER: &str = "jabber:iq:roster";
