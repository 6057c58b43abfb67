//! The implemented parts of each specification, and the tests that prove them: the tables of
//! docs/xeps.md.

mod proofs;

use proofs::{PROOFS, TRANSCRIPTS};

/// The part of the server that implements a specification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Where {
    /// The edge: streams, TLS, authentication.
    Edge,
    /// A module of the router; the name is that of its file.
    Module(&'static str),
    /// The router itself.
    Router,
    /// Edge and router together.
    Both,
}

/// One line of the table.
struct Line {
    spec: &'static str,
    version: &'static str,
    title: &'static str,
    place: Where,
    note: &'static str,
}

const fn line(
    spec: &'static str,
    version: &'static str,
    title: &'static str,
    place: Where,
    note: &'static str,
) -> Line {
    Line {
        spec,
        version,
        title,
        place,
        note,
    }
}

/// All implemented specifications, including those that modules list.
const LINES: &[Line] = &[
    line(
        "RFC 3921",
        "2004",
        "XMPP: Instant Messaging and Presence (2004)",
        Where::Module("session"),
        "session establishment (§3) alone, as a no-op for old clients",
    ),
    line(
        "RFC 4013",
        "2005",
        "SASLprep",
        Where::Edge,
        "passwords; characters that Unicode 3.2 does not know are taken as they are",
    ),
    line(
        "RFC 5802",
        "2010",
        "SCRAM-SHA-1",
        Where::Edge,
        "with and without channel binding",
    ),
    line(
        "RFC 6120",
        "2011",
        "XMPP: Core",
        Where::Both,
        "streams between clients and the server; not between servers",
    ),
    line(
        "RFC 6121",
        "2011",
        "XMPP: Instant Messaging and Presence",
        Where::Router,
        "delivery (§8) and directed presence; rosters are empty, and subscriptions (§3) are refused",
    ),
    line(
        "RFC 7395",
        "2014",
        "XMPP over WebSocket",
        Where::Edge,
        "at `/xmpp-websocket`",
    ),
    line(
        "RFC 7622",
        "2015",
        "XMPP Address Format",
        Where::Both,
        "domains (§3.2) in Unicode and in ASCII form, resources (§3.4); localparts are nodeprep's \
         (RFC 6122, Unicode 3.2), as on the servers that are deployed",
    ),
    line(
        "RFC 7677",
        "2015",
        "SCRAM-SHA-256",
        Where::Edge,
        "with and without channel binding",
    ),
    line(
        "RFC 8265",
        "2017",
        "PRECIS: Usernames and Passwords",
        Where::Both,
        "OpaqueString (§4.2), for resources: with sequences of emoji, and visible characters that \
         RFC 5892 §2.6 restricts",
    ),
    line(
        "RFC 8266",
        "2017",
        "PRECIS: Nicknames",
        Where::Router,
        "comparison (§2.4) in rooms; nicks are kept as they are sent",
    ),
    line(
        "RFC 9266",
        "2022",
        "Channel Bindings for TLS 1.3",
        Where::Edge,
        "`tls-exporter`, with TLS 1.3 and not over WebSocket",
    ),
    line(
        "XEP-0004",
        "2.13.2",
        "Data Forms",
        Where::Router,
        "in archive queries",
    ),
    line(
        "XEP-0030",
        "2.5.0",
        "Service Discovery",
        Where::Module("disco"),
        "hosts, accounts, the group chat service and rooms",
    ),
    line(
        "XEP-0045",
        "1.35.5",
        "Multi-User Chat",
        Where::Module("muc"),
        "bare rooms: join, presence, messages, private messages, subject, history, \
         invitations, leave, and taking a new room back; no affiliations, configuration or moderation yet",
    ),
    line(
        "XEP-0054",
        "1.3.0",
        "vcard-temp",
        Where::Module("vcard"),
        "of users; in rooms an occupant's client answers for itself",
    ),
    line(
        "XEP-0059",
        "1.0.1",
        "Result Set Management",
        Where::Module("mam"),
        "for archives",
    ),
    line(
        "XEP-0082",
        "1.1.1",
        "XMPP Date and Time Profiles",
        Where::Router,
        "",
    ),
    line(
        "XEP-0092",
        "1.1",
        "Software Version",
        Where::Module("version"),
        "of the server and of its room service; the operating system is not told",
    ),
    line(
        "XEP-0160",
        "1.0.1",
        "Best Practices for Handling Offline Messages",
        Where::Module("offline"),
        "",
    ),
    line(
        "XEP-0175",
        "1.2",
        "Best Practices for Use of SASL ANONYMOUS",
        Where::Edge,
        "on hosts that are configured so",
    ),
    line(
        "XEP-0191",
        "1.3",
        "Blocking Command",
        Where::Module("blocking"),
        "users, domains and occupants of rooms; the list has at most 64 KiB (`modules.blocking.max_list_bytes`). While it \
         cannot be read after a login, because storage is unavailable, messages and requests of others are refused; \
         there are no subscriptions whose presence would end",
    ),
    line(
        "XEP-0198",
        "1.6.3",
        "Stream Management",
        Where::Both,
        "acknowledgements, and resumption on any edge",
    ),
    line("XEP-0199", "2.0.1", "XMPP Ping", Where::Module("ping"), ""),
    line(
        "XEP-0203",
        "2.0",
        "Delayed Delivery",
        Where::Module("delay"),
        "offline messages, stanzas that waited for a resumption, and the history of rooms; forged \
         delays are taken out",
    ),
    line(
        "XEP-0280",
        "1.0.1",
        "Message Carbons",
        Where::Module("carbons"),
        "",
    ),
    line(
        "XEP-0297",
        "1.0",
        "Stanza Forwarding",
        Where::Router,
        "in archives and carbons",
    ),
    line(
        "XEP-0313",
        "1.1.3",
        "Message Archive Management",
        Where::Module("mam"),
        "archives of users; none of rooms, no preferences yet",
    ),
    line(
        "XEP-0334",
        "1.0.0",
        "Message Processing Hints",
        Where::Router,
        "heeded by archive, carbons and offline storage",
    ),
    line(
        "XEP-0359",
        "0.7.0",
        "Unique and Stable Stanza IDs",
        Where::Module("stanza_id"),
        "",
    ),
    line(
        "XEP-0368",
        "1.1.0",
        "SRV records for XMPP over TLS",
        Where::Edge,
        "TLS from the first byte, with ALPN",
    ),
    line(
        "XEP-0410",
        "1.1.0",
        "MUC Self-Ping (Schrödinger's Chat)",
        Where::Module("muc"),
        "answered by the room",
    ),
    line(
        "XEP-0440",
        "1.0.0",
        "SASL Channel-Binding Type Capability",
        Where::Edge,
        "`tls-exporter` and `tls-server-end-point`, with TLS 1.3 and not over WebSocket",
    ),
];

const HEAD: &str = "\
# Specifications

This page is generated by `cargo xtask docs` from the tables in `xtask/src/xeps`; tests compare
them with the lists of the modules, and check that the named tests exist. Versions are those that
were read while writing the code.

Not here, and not announced to clients: PubSub and PEP, file upload, push, streams to other servers
and components, rosters and subscriptions, account registration by clients.

| specification | version | title | where | scope |
|---|---|---|---|---|
";

/// The page.
pub(crate) fn page() -> String {
    let mut page = HEAD.to_owned();
    for line in LINES {
        let place = match line.place {
            Where::Edge => "edge".to_owned(),
            Where::Router => "router".to_owned(),
            Where::Both => "edge and router".to_owned(),
            Where::Module(name) => format!("router, module `{name}`"),
        };
        let spec = match line.spec.split_once([' ', '-']) {
            Some(("RFC", number)) => {
                format!(
                    "[{}](https://www.rfc-editor.org/rfc/rfc{number})",
                    line.spec
                )
            }
            Some((_, number)) => {
                format!(
                    "[{}](https://xmpp.org/extensions/xep-{number}.html)",
                    line.spec
                )
            }
            None => line.spec.to_owned(),
        };
        let note = if line.note.is_empty() {
            "all"
        } else {
            line.note
        };
        page.push_str(&format!(
            "| {spec} | {} | {} | {place} | {note} |\n",
            line.version, line.title
        ));
    }
    page.push_str(PROVED);
    for proof in PROOFS {
        let test = match proof.test.split_once("::") {
            Some((path, name)) => format!("[`{name}`](../{path})"),
            None => format!("[`{}`](../{TRANSCRIPTS}/{})", proof.test, proof.test),
        };
        page.push_str(&format!(
            "| {} | {} | {test} |\n",
            proof.spec, proof.section
        ));
    }
    page
}

const PROVED: &str = "
## Proved by

A transcript (`.scs`) reads like a conversation and is run in three topologies: one process, one
process through the wire format, and three tiers on Redis and PostgreSQL.

| specification | section | test |
|---|---|---|
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_listed_is_proved_by_a_test_that_exists() {
        assert!(PROOFS.is_sorted_by_key(|proof| proof.spec));
        for line in LINES {
            let proved = PROOFS.iter().any(|proof| proof.spec == line.spec);
            assert!(proved, "no test is named for {}", line.spec);
        }
        for proof in PROOFS {
            let listed = LINES.iter().any(|line| line.spec == proof.spec);
            assert!(listed, "{} is proved and not listed", proof.spec);
            let (path, name) = match proof.test.split_once("::") {
                Some((path, name)) => (path.to_owned(), Some(name)),
                None => (format!("{TRANSCRIPTS}/{}", proof.test), None),
            };
            let text = std::fs::read_to_string(crate::repo::root().join(&path));
            let text = text.unwrap_or_else(|error| panic!("{path}: {error}"));
            match name {
                Some(name) => {
                    let test = format!("fn {name}(");
                    assert!(text.contains(&test), "{path} has no test {name}");
                }
                // A transcript must name its specification.
                None => assert!(
                    text.contains(proof.spec),
                    "{path} does not name {}",
                    proof.spec
                ),
            }
        }
    }

    #[test]
    fn the_table_is_sorted_and_holds_what_modules_say_of_themselves() {
        assert!(LINES.is_sorted_by_key(|line| line.spec));
        for module in sestina_router::modules::MODULES {
            let meta = module.meta();
            for (spec, version) in meta.specs {
                let listed = LINES.iter().any(|line| {
                    line.spec == *spec
                        && line.version == *version
                        && line.place == Where::Module(meta.name)
                });
                let name = meta.name;
                assert!(
                    listed,
                    "module {name} implements {spec} {version}, which is not listed so"
                );
            }
        }
        for line in LINES {
            let Where::Module(name) = line.place else {
                continue;
            };
            let told = sestina_router::modules::MODULES.iter().any(|module| {
                let meta = module.meta();
                meta.name == name && meta.specs.contains(&(line.spec, line.version))
            });
            assert!(
                told,
                "no module {name} says that it implements {}",
                line.spec
            );
        }
    }
}
