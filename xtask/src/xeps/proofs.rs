//! The tests that prove sections: transcripts of `tests/scenarios/transcripts`, each run in three
//! topologies, and tests by file and name.

/// One section, and a test of it.
pub(super) struct Proof {
    pub(super) spec: &'static str,
    pub(super) section: &'static str,
    /// `<name>.scs`, or `<path>::<function>`.
    pub(super) test: &'static str,
}

const fn proof(spec: &'static str, section: &'static str, test: &'static str) -> Proof {
    Proof {
        spec,
        section,
        test,
    }
}

/// The folder of the transcripts.
pub(super) const TRANSCRIPTS: &str = "tests/scenarios/transcripts";

/// All proofs, in the order of the specifications.
#[rustfmt::skip]
pub(super) const PROOFS: &[Proof] = &[
    proof("RFC 3921", "§3 session establishment", "iq.scs"),
    proof("RFC 4013", "§2 passwords", "crates/xmpp/src/sasl/saslprep.rs::examples"),
    proof("RFC 5802", "§5 the exchange, §6 channel binding", "services/edge/src/tests/login.rs::starttls_is_required_and_scram_is_bound_to_it"),
    proof("RFC 5802", "§5.1 unknown users", "services/edge/src/tests/login.rs::wrong_passwords_and_unknown_users_look_alike_and_are_few"),
    proof("RFC 6120", "§4.7 stream headers", "crates/xmpp/tests/streams.rs::a_session_of_a_client"),
    proof("RFC 6120", "§4.7.2 the header of the answer names the client", "services/edge/src/tests/login.rs::the_answer_to_a_header_is_to_whom_the_header_is_from"),
    proof("RFC 6120", "§4.9.3 stream errors", "stream-errors.scs"),
    proof("RFC 6120", "§4.9.3 stream errors before a session", "services/edge/src/tests/login.rs::stream_errors_before_a_session"),
    proof("RFC 6120", "§5 STARTTLS", "services/edge/src/transport/tests.rs::clear_bytes_before_the_handshake_are_not_taken_for_protected_ones"),
    proof("RFC 6120", "§6 SASL", "login.scs"),
    proof("RFC 6120", "§7.7.2.2 conflict of resources", "conflict.scs"),
    proof("RFC 6120", "§8.1.2.1 the sender's address", "services/edge/src/tests/flow.rs::forged_senders_and_bad_addresses"),
    proof("RFC 6120", "§8.3, §10.4 errors for stanzas that cannot be delivered", "errors.scs"),
    proof("RFC 6120", "§8.3.1 errors come from the address as it was written", "errors.scs"),
    proof("RFC 6120", "§11.7 white space before a restart", "crates/xmpp/tests/streams.rs::white_space_before_a_restart_is_not_part_of_the_new_stream"),
    proof("RFC 6120", "§11 refused XML", "crates/xmpp/tests/hostile.rs::bodies_that_are_refused"),
    proof("RFC 6121", "§2.1.4 reading the roster, which is empty", "roster.scs"),
    proof("RFC 6121", "§3 subscriptions, which are refused", "presence.scs"),
    proof("RFC 6121", "§4.2.2, §4.4.2, §4.5.2 own presence, §4.6 directed presence", "presence.scs"),
    proof("RFC 6121", "§8.5.1 no such user", "errors.scs"),
    proof("RFC 6121", "§8.5.2 messages to a bare JID", "chat-bare-jid.scs"),
    proof("RFC 6121", "§8.5.2.1.1 priorities and errors, §8.5.3.2.1 no such resource", "priorities.scs"),
    proof("RFC 6121", "§8.5.3.1 messages to a full JID", "chat-full-jid.scs"),
    proof("RFC 6121", "§8.5.3.1 IQs to a full JID", "iq.scs"),
    proof("RFC 7395", "§3 framing and streams", "login.scs"),
    proof("RFC 7395", "§3.3 messages that are no stream", "crates/xmpp/tests/hostile.rs::websocket_messages_that_are_refused"),
    proof("RFC 7395", "§3.6 closing", "services/edge/src/http/tests.rs::a_close_of_either_side_is_answered"),
    proof("RFC 7622", "§3.2 domains, §3.4 resources, §3.5 examples", "crates/xmpp/src/jid_tests.rs::examples_of_rfc_7622"),
    proof("RFC 7622", "§3.4 resources and nicknames", "names.scs"),
    proof("RFC 7677", "§3 SCRAM-SHA-256", "services/edge/src/tests/login.rs::starttls_is_required_and_scram_is_bound_to_it"),
    proof("RFC 8265", "§4.2 OpaqueString", "crates/xmpp/src/precis.rs::opaque_strings_that_stay_as_they_are"),
    proof("RFC 8266", "§2.4 comparing nicknames", "names.scs"),
    proof("RFC 9266", "§2 tls-exporter", "services/edge/src/transport/tests.rs::tls_of_both_versions_with_equal_channel_bindings"),
    proof("XEP-0004", "§3 forms that are submitted", "crates/xmpp/src/ext/dataform.rs::submission"),
    proof("XEP-0030", "§3 information, §4 items", "disco.scs"),
    proof("XEP-0030", "§8 no items of other accounts", "disco.scs"),
    proof("XEP-0045", "§7.1 to §7.17 as an occupant", "room.scs"),
    proof("XEP-0045", "§7.2 refusals at the door", "room-errors.scs"),
    proof("XEP-0045", "§6.6 discovery of an occupant, §7.2.18 presence of a user who is no occupant", "room-errors.scs"),
    proof("XEP-0045", "§7.2.2, §7.6 a nick that the room spells differently", "names.scs"),
    proof("XEP-0045", "§7.2.8 sessions that share a nick", "room-sessions.scs"),
    proof("XEP-0045", "§7.2.14 history", "room-history.scs"),
    proof("XEP-0045", "§7.8.2 invitations that the room passes on, and their refusals", "room-invite.scs"),
    proof("XEP-0045", "§10.1.1, §10.1.2 a new room that has no options", "room-owner.scs"),
    proof("XEP-0054", "§3 own and other users' vCards, §4 discovery", "vcard.scs"),
    proof("XEP-0054", "§3 what is kept", "crates/xmpp/src/ext/vcard.rs::a_vcard_is_read_as_it_was_written"),
    proof("XEP-0059", "§2 pages forwards and backwards, counts", "mam.scs"),
    proof("XEP-0082", "§3 formats", "crates/xmpp/src/ext/datetime.rs::examples"),
    proof("XEP-0092", "§3 name and version, §4 discovery, §5 no operating system", "version.scs"),
    proof("XEP-0160", "§3 which messages are stored, and for which users", "offline.scs"),
    proof("XEP-0160", "§3 a full store", "never-taken.scs"),
    proof("XEP-0175", "§2 guests", "anonymous.scs"),
    proof("XEP-0191", "§3 blocking, unblocking and what follows, §5 own sessions, §6 addresses", "blocking.scs"),
    proof("XEP-0191", "§6 addresses match in four ways", "crates/xmpp/src/ext/blocking.rs::addresses_match_in_four_ways"),
    proof("XEP-0198", "§3 before its time", "services/edge/src/tests/login.rs::stream_management_before_sasl_is_refused_and_the_login_goes_on"),
    proof("XEP-0198", "§3 more than once", "services/edge/src/tests/flow.rs::enables_in_one_write_are_answered_in_order"),
    proof("XEP-0198", "§4 acknowledgements", "services/edge/src/tests/flow.rs::requests_are_answered_at_once_and_again_when_more_is_accepted"),
    proof("XEP-0198", "§5 resumption", "resume.scs"),
    proof("XEP-0198", "§5 resumption that is refused", "resume-refused.scs"),
    proof("XEP-0198", "§5 stanzas that a session left unacknowledged at its end", "never-taken.scs"),
    proof("XEP-0198", "§6 an impossible count", "services/edge/src/tests/flow.rs::an_impossible_h_ends_the_stream"),
    proof("XEP-0199", "§4 pings", "ping.scs"),
    proof("XEP-0203", "§3 the time of stanzas that are delivered late", "offline.scs"),
    proof("XEP-0203", "§3 the time of stanzas that waited for a resumption", "resume.scs"),
    proof("XEP-0203", "§4 forged delays", "room-forged.scs"),
    proof("XEP-0280", "§5 to §9 copies", "carbons.scs"),
    proof("XEP-0280", "§7, §8 one copy of a message to oneself", "carbons.scs"),
    proof("XEP-0297", "§3 forwarded stanzas", "crates/xmpp/src/ext/forward.rs::both_ways"),
    proof("XEP-0313", "§3 ids, §4 queries", "mam.scs"),
    proof("XEP-0334", "§4 hints", "offline.scs"),
    proof("XEP-0334", "§4 hints, in archives", "crates/xmpp/src/ext/archive_rules.rs::hints"),
    proof("XEP-0359", "§3, §5 ids that are stable, and forged ones", "crates/xmpp/src/ext/stanza_id.rs::forged_ids_go"),
    proof("XEP-0359", "§3 forged ids in rooms and private messages", "room-forged.scs"),
    proof("XEP-0359", "§3 the archive has the id that was delivered", "mam.scs"),
    proof("XEP-0368", "§2 TLS from the first byte, ALPN", "services/edge/src/tls/tests.rs::only_the_listeners_own_protocol_is_negotiated"),
    proof("XEP-0410", "§3 whether a session is in a room", "room-self-ping.scs"),
    proof("XEP-0440", "§3 types that are offered", "crates/xmpp/src/stream/tests.rs::features_are_all_there"),
];
