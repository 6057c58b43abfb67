#![allow(clippy::unwrap_used)]
use super::*;

fn error(text: &str) -> String {
    Config::from_toml(text).unwrap_err().to_string()
}

#[test]
fn combinations_that_make_no_sense_are_refused() {
    for (text, key, part) in [
        (
            "[[host]]\nanonymous = true",
            "host.domain",
            "needs a domain",
        ),
        (
            "[[host]]\ndomain = \"A.example\"",
            "host.domain",
            "lower case",
        ),
        ("[[host]]\ndomain = \"a b\"", "host.domain", "spaces"),
        (
            "[[host]]\ndomain = \"a.test:5222\"",
            "host.domain",
            "without a port",
        ),
        (
            "[[host]]\ndomain = \"a..test\"",
            "host.domain",
            "empty part",
        ),
        (
            "[[host]]\ndomain = \"a\"\n[[host]]\ndomain = \"a\"",
            "host.domain",
            "used twice",
        ),
        (
            "[[host]]\ndomain = \"a\"\n[[host]]\ndomain = \"conference.a\"",
            "host.domain",
            "used twice",
        ),
        (
            "[[host]]\ndomain = \"a\"\nmechanisms = [\"MD5\"]",
            "host.mechanisms",
            "\"MD5\"",
        ),
        (
            "[[host]]\ndomain = \"a\"\nmechanisms = []",
            "host.mechanisms",
            "nobody could log in",
        ),
        (
            "[[host]]\ndomain = \"a\"\nkey = \"k\"",
            "host.certificate",
            "together",
        ),
        (
            "[edge.tls]\ncertificate = \"c\"",
            "edge.tls.certificate",
            "together",
        ),
        (
            "[edge.limits]\nstanza = 9000",
            "edge.limits.pre_auth_stanza",
            "strangers",
        ),
        (
            "[edge.limits]\npre_auth_stanza = 9999",
            "edge.limits.pre_auth_stanza",
            "RFC 6120",
        ),
        (
            "[edge.limits]\ndepth = 0",
            "edge.limits.depth",
            "at least 1",
        ),
        ("[sm]\nmax_queue = 1", "sm.max_queue", "at least one stanza"),
        (
            "[router]\nuser_queue = 9999",
            "router.user_queue",
            "sm.max_queue",
        ),
        (
            "[router]\nslot_queue = 9999",
            "router.slot_queue",
            "router.user_queue",
        ),
        (
            "[router]\nedge_buffer = 0",
            "router.edge_buffer",
            "reach an edge",
        ),
        (
            "[router]\nsession_rooms = 0",
            "router.session_rooms",
            "enter a room",
        ),
        (
            "[storage]\nurl = \"mysql://x\"",
            "storage.url",
            "postgres://",
        ),
        (
            "[storage]\nconnections = 0",
            "storage.connections",
            "at least 1",
        ),
        (
            "[redis]\nmode = \"single\"",
            "redis.urls",
            "go with the modes",
        ),
        (
            "[redis]\nurls = [\"redis://a\"]",
            "redis.urls",
            "go with the modes",
        ),
        (
            "[redis]\nmode = \"single\"\nurls = [\"redis://:p@a\"]",
            "redis.urls",
            "password_file",
        ),
        (
            "[redis]\nmode = \"single\"\nurls = [\"tcp://a\"]",
            "redis.urls",
            "redis://",
        ),
        (
            "[redis]\nmode = \"sentinel\"\nurls = [\"redis://a\"]",
            "redis.master_name",
            "goes with mode",
        ),
        (
            "[redis]\nmode = \"cluster\"\nurls = [\"redis://a\", \"rediss://b\"]",
            "redis.urls",
            "mixes",
        ),
        (
            "[redis]\nmode = \"single\"\nurls = [\"rediss://a/#insecure\"]",
            "redis.urls",
            "always checked",
        ),
        (
            "[redis]\nmode = \"single\"\nurls = [\"redis://a\"]\ntls_ca = \"c\"",
            "redis.tls_ca",
            "only with them",
        ),
        (
            "[redis]\ntls_certificate = \"c\"\ntls_key = \"k\"",
            "redis.tls_key",
            "only with them",
        ),
        (
            "[redis]\nmode = \"single\"\nurls = [\"rediss://a\"]\ntls_certificate = \"c\"",
            "redis.tls_certificate",
            "together",
        ),
        (
            "[redis]\nmode = \"single\"\nurls = [\"rediss://a\"]\ntls_key = \"k\"",
            "redis.tls_certificate",
            "together",
        ),
        ("[cluster]\ntls_ca = \"x\"", "cluster.tls_ca", "together"),
        ("[cluster]\nlanes = 0", "cluster.lanes", "from 1 to 64"),
        (
            "[cluster]\nlease_renew = \"3s\"",
            "cluster.lease_ttl",
            "longer than",
        ),
        (
            "[cluster]\nlease_renew = \"0s\"",
            "cluster.lease_ttl",
            "longer than",
        ),
        (
            "[telemetry]\ntrace_ratio = 1.5",
            "telemetry.trace_ratio",
            "from 0 to 1",
        ),
        (
            "[telemetry]\notlp_endpoint = \"x:1\"",
            "telemetry.otlp_endpoint",
            "http://",
        ),
        (
            "[telemetry]\notlp_endpoint = \"https://x:1\"",
            "telemetry.otlp_ca",
            "goes with",
        ),
    ] {
        let error = error(text);
        let line = error
            .lines()
            .find(|line| line.starts_with(&format!("`{key}`: ")));
        assert!(
            line.is_some_and(|line| line.contains(part)),
            "{text}\n{error}"
        );
    }
}

const ROOMS: &str = "[[host]]\ndomain = \"a.example\"\n[[rooms]]\ndomain = \"lobby.a.example\"\n";

#[test]
fn services_of_rooms_that_make_no_sense_are_refused() {
    for (text, key, part) in [
        ("[[rooms]]\n", "rooms.domain", "needs a domain"),
        (
            "[[rooms]]\ndomain = \"X.a.example\"",
            "rooms.domain",
            "lower case",
        ),
        (
            "[[rooms]]\ndomain = \"a.example\"",
            "rooms.domain",
            "\"a.example\" is used twice",
        ),
        (
            "[[rooms]]\ndomain = \"lobby.a.example\"",
            "rooms.domain",
            "used twice",
        ),
        (
            "listed_by = [\"b.example\"]",
            "rooms.listed_by",
            "\"b.example\" is the domain of no `[[host]]`; did you mean \"a.example\"?",
        ),
        (
            "slots_of = \"lobby.a.example\"",
            "rooms.slots_of",
            "is this service itself; name another one",
        ),
        (
            "slots_of = \"confrence.a.example\"",
            "rooms.slots_of",
            "\"confrence.a.example\" is no service of rooms; did you mean \"conference.a.example\"?",
        ),
        // A host is no service of rooms.
        (
            "slots_of = \"a.example\"",
            "rooms.slots_of",
            "\"a.example\" is no service of rooms; did you mean \"conference.a.example\"?",
        ),
        // Chains.
        (
            "slots_of = \"b.a.example\"\n[[rooms]]\ndomain = \"b.a.example\"\n\
             slots_of = \"conference.a.example\"",
            "rooms.slots_of",
            "\"lobby.a.example\" names \"b.a.example\", which names \"conference.a.example\" \
             itself; write \"conference.a.example\" for \"lobby.a.example\" too",
        ),
        (
            "slots_of = \"conference.a.example\"\n[[rooms]]\ndomain = \"conference.a.example\"\n\
             slots_of = \"b.a.example\"\n[[rooms]]\ndomain = \"b.a.example\"",
            "rooms.slots_of",
            "write \"b.a.example\" for \"lobby.a.example\" too",
        ),
        // Cycles.
        (
            "slots_of = \"b.a.example\"\n[[rooms]]\ndomain = \"b.a.example\"\n\
             slots_of = \"lobby.a.example\"",
            "rooms.slots_of",
            "\"lobby.a.example\" names \"b.a.example\", which names \"lobby.a.example\" itself; \
             remove one of the two",
        ),
        (
            "slots_of = \"b.a.example\"\n[[rooms]]\ndomain = \"b.a.example\"\n\
             slots_of = \"c.a.example\"\n[[rooms]]\ndomain = \"c.a.example\"\n\
             slots_of = \"lobby.a.example\"",
            "rooms.slots_of",
            "\"lobby.a.example\" names \"b.a.example\", which names \"c.a.example\" itself; \
             remove one of the two",
        ),
    ] {
        let error = error(&format!("{ROOMS}{text}"));
        let mut lines = error.lines();
        let prefix = format!("`{key}`: ");
        assert!(
            lines.any(|line| line.starts_with(&prefix) && line.contains(part)),
            "{text}\n{error}"
        );
    }
}

#[test]
fn a_service_of_rooms_may_share_the_slots_of_another_one() {
    let config = |text: &str| Config::from_toml(&format!("{ROOMS}{text}")).unwrap();
    let lobby = &config("slots_of = \"conference.a.example\"").rooms[0];
    assert_eq!(lobby.slots_of.as_deref(), Some("conference.a.example"));
    // The service of a host, too.
    let two = "[[host]]\ndomain = \"v1.example\"\n[[rooms]]\ndomain = \"conference.v1.example\"\n\
               slots_of = \"conference.a.example\"";
    let two = config(two);
    let of_host = two
        .rooms
        .iter()
        .find(|rooms| rooms.domain == two.host[1].muc);
    let of_host = of_host.and_then(|rooms| rooms.slots_of.as_deref());
    assert_eq!(of_host, Some("conference.a.example"));
}

#[test]
fn redis_may_be_spoken_to_with_tls() {
    let redis = |mode: &str, more: &str| {
        let text = format!(
            "[redis]\nmode = \"{mode}\"\nurls = [\"rediss://a:6380\"]\ntls_ca = \"ca\"\n{more}"
        );
        Config::from_toml(&text).unwrap().redis
    };
    assert_eq!(redis("single", "").tls_key, None);
    let pair = "tls_certificate = \"c\"\ntls_key = \"k\"";
    for (mode, more) in [
        ("single", pair.to_owned()),
        ("sentinel", format!("{pair}\nmaster_name = \"m\"")),
        ("cluster", pair.to_owned()),
    ] {
        let redis = redis(mode, &more);
        assert_eq!(redis.tls_ca, Some("ca".into()));
        assert_eq!(redis.tls_certificate, Some("c".into()));
        assert_eq!(redis.tls_key, Some("k".into()));
    }
}

#[test]
fn all_mistakes_are_told_at_once() {
    let error = error("[cluster]\nlanes = 0\n[telemetry]\ntrace_ratio = -1.0");
    assert_eq!(error.lines().count(), 2, "{error}");
}

#[test]
fn roles_need_their_neighbours() {
    let config = Config::from_toml("").unwrap();
    config.check(Role::Serve).unwrap();
    let keys = |config: &Config, role| -> Vec<String> {
        let errors = config
            .check(role)
            .map_or_else(|errors| errors.0, |()| Vec::new());
        errors
            .into_iter()
            .map(|error| match error {
                ConfigError::Invalid { key, .. } => key,
                other => panic!("{other}"),
            })
            .collect()
    };
    assert_eq!(
        keys(&config, Role::Edge),
        ["cluster.tls_ca", "cluster.routers"]
    );
    assert_eq!(
        keys(&config, Role::Router),
        ["cluster.tls_ca", "cluster.storages", "redis.mode"]
    );
    assert_eq!(keys(&config, Role::Storage), ["cluster.tls_ca"]);
    let cluster = "[cluster]\nlisten = \"0.0.0.0:5290\"\nplaintext = true\nrouters = [\"r:1\"]\n\
                   storages = [\"s:1\"]\n[redis]\nmode = \"cluster\"\nurls = [\"redis://a\"]";
    let config = Config::from_toml(cluster).unwrap();
    for role in [Role::Edge, Role::Router, Role::Storage] {
        assert_eq!(keys(&config, role), ["cluster.advertise"]);
    }
    let config = Config::from_toml(&cluster.replace("0.0.0.0", "192.0.2.1")).unwrap();
    for role in [Role::Edge, Role::Router, Role::Storage] {
        assert!(keys(&config, role).is_empty());
    }
}

#[test]
fn the_hash_sees_hosts_rooms_and_modules_only() {
    let hash = |text: &str| Config::from_toml(text).unwrap().config_hash();
    let base = hash("");
    assert_eq!(hash("[node]\nname = \"b\"\n[router]\nworkers = 7"), base);
    assert_eq!(hash("[[host]]\ndomain = \"localhost\""), base);
    for text in [
        "[[host]]\ndomain = \"example.org\"",
        "[[host]]\ndomain = \"localhost\"\nanonymous = true",
        "[[host]]\ndomain = \"localhost\"\nmuc = \"rooms.localhost\"",
        "[[host]]\ndomain = \"localhost\"\nmechanisms = [\"PLAIN\"]",
        "[router]\narchive = false",
        "[router]\nmuc_history = 21",
        "[[rooms]]\ndomain = \"more.localhost\"",
    ] {
        assert_ne!(hash(text), base, "{text}");
    }
    let rooms = |text: &str| hash(&format!("[[rooms]]\ndomain = \"more.localhost\"\n{text}"));
    for text in [
        "listed_by = [\"localhost\"]",
        "slots_of = \"conference.localhost\"",
    ] {
        assert_ne!(rooms(text), rooms(""), "{text}");
    }
    // Processes of different builds compare this number.
    assert_eq!(base, 9_530_087_561_717_848_977);
}
