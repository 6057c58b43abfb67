#![allow(clippy::unwrap_used)]
use std::fs;
use std::time::Duration;

use super::*;

fn env(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs
        .iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
        .collect()
}

fn load(text: &str, pairs: &[(&str, &str)], overrides: &[&str]) -> Result<Config, String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sestina.toml");
    fs::write(&path, text).unwrap();
    let overrides: Vec<String> = overrides.iter().map(|text| (*text).to_owned()).collect();
    Config::load(&[], Some(&path), env(pairs), &overrides).map_err(|errors| {
        errors
            .to_string()
            .replace(&dir.path().display().to_string(), "DIR")
    })
}

/// RFC 7622 §3.2.1: both forms of a domain are the same domain.
#[test]
fn internationalised_domains_have_one_form() {
    let read = |text: &str| load(text, &[], &[]);
    let ascii =
        "[[host]]\ndomain = \"xn--bcher-kva.example\"\nmuc = \"rooms.xn--bcher-kva.example\"";
    let host = &read(ascii).unwrap().host[0];
    assert_eq!(host.domain, "bücher.example");
    assert_eq!(host.muc_domain(), "rooms.bücher.example");
    let twice =
        "[[host]]\ndomain = \"xn--bcher-kva.example\"\n[[host]]\ndomain = \"bücher.example\"";
    assert!(read(twice).is_err());
    let rooms = "[[host]]\ndomain = \"bücher.example\"\n[[rooms]]\ndomain = \"lobby.xn--bcher-kva.example\"\n\
                 listed_by = [\"xn--bcher-kva.example\"]\nslots_of = \"conference.xn--bcher-kva.example\"";
    let rooms = &read(rooms).unwrap().rooms[0];
    assert_eq!(rooms.domain, "lobby.bücher.example");
    assert_eq!(rooms.listed_by, ["bücher.example"]);
    assert_eq!(rooms.slots_of.as_deref(), Some("conference.bücher.example"));
}

#[test]
fn nothing_at_all_is_a_working_configuration() {
    let config = Config::load(&[], None, env(&[]), &[]).unwrap();
    assert_eq!(config.host[0].domain, "localhost");
    assert_eq!(config.host[0].muc, "conference.localhost");
    assert!(!config.node.name.is_empty());
    assert!(config.router.workers > 0);
    assert_eq!(
        config.admin.socket.as_deref(),
        Some(Path::new("sestina-data/admin.sock"))
    );
    assert_eq!(
        config.storage_url().expose(),
        "sqlite:sestina-data/sestina.db"
    );
    assert_eq!(config.cluster.advertise.as_deref(), Some("127.0.0.1:5290"));
}

#[test]
fn the_environment_wins_over_the_file_and_flags_over_both() {
    let file = "[edge.limits]\ndepth = 10\nattributes = 11\nauth_attempts = 12\n";
    let pairs = [
        ("SESTINA__EDGE__LIMITS__DEPTH", "20"),
        ("SESTINA__EDGE__LIMITS__ATTRIBUTES", "21"),
        ("SESTINA_FAILPOINTS", "not ours"),
        ("PATH", "/bin"),
    ];
    let config = load(file, &pairs, &["edge.limits.depth=30"]).unwrap();
    let limits = config.edge.limits;
    assert_eq!(
        (limits.depth, limits.attributes, limits.auth_attempts),
        (30, 21, 12)
    );
}

#[test]
fn values_outside_the_file_need_no_quotes() {
    let pairs = [
        ("SESTINA__SM__RESUME_TIMEOUT", "5m"),
        ("SESTINA__EDGE__C2S", "127.0.0.1:1, [::1]:2"),
        ("SESTINA__EDGE__HTTP", ""),
        ("SESTINA__CLUSTER__ROUTERS", "[\"a:1\", \"b:2\"]"),
        ("SESTINA__NODE__NAME", "1234"),
        ("SESTINA__ROUTER__ARCHIVE", "false"),
        ("SESTINA__REDIS__PASSWORD", "\"quoted\""),
        ("SESTINA__EDGE__LIMITS__STANZA", "512KiB"),
    ];
    let config = load("", &pairs, &[]).unwrap();
    assert_eq!(*config.sm.resume_timeout, Duration::from_secs(300));
    assert_eq!(
        config.edge.c2s,
        ["127.0.0.1:1".parse().unwrap(), "[::1]:2".parse().unwrap()]
    );
    assert!(config.edge.http.is_empty());
    assert_eq!(config.cluster.routers, ["a:1", "b:2"]);
    assert_eq!(config.node.name, "1234");
    assert!(!config.router.archive);
    assert_eq!(config.redis.password.unwrap().expose(), "\"quoted\"");
    assert_eq!(*config.edge.limits.stanza, 512 << 10);
}

#[test]
fn hosts_can_be_changed_and_added_by_number() {
    let file = "[[host]]\ndomain = \"a.example\"\n[[host]]\ndomain = \"b.example\"\n";
    let pairs = [
        ("SESTINA__HOST__2__DOMAIN", "c.example"),
        ("SESTINA__HOST__2__ANONYMOUS", "true"),
    ];
    let config = load(file, &pairs, &["host.0.muc=rooms.a.example"]).unwrap();
    let hosts: Vec<(&str, &str, bool)> = config
        .host
        .iter()
        .map(|host| (host.domain.as_str(), host.muc.as_str(), host.anonymous))
        .collect();
    assert_eq!(
        hosts,
        [
            ("a.example", "rooms.a.example", false),
            ("b.example", "conference.b.example", false),
            ("c.example", "conference.c.example", true),
        ]
    );
    let error = load(file, &[("SESTINA__HOST__7__DOMAIN", "x")], &[]).unwrap_err();
    assert!(
        error.contains("say which, from `host.0` to `host.2`"),
        "{error}"
    );
}

#[test]
fn an_unknown_key_names_the_nearest_known_one() {
    for (text, key, nearest) in [
        (
            "[edge.limits]\ndeepth = 1",
            "edge.limits.deepth",
            "edge.limits.depth",
        ),
        ("[edge.limts]\ndepth = 1", "edge.limts", "edge.limits"),
        ("[ege]\n", "ege", "edge"),
        ("[egde]\n", "egde", "edge"),
        ("edge_c2s = []", "edge_c2s", "edge.c2s"),
        (
            "[edge]\ncertificate = \"x\"",
            "edge.certificate",
            "edge.tls.certificate",
        ),
        ("[[host]]\ndomian = \"x\"", "host.domian", "host.domain"),
        (
            "resume_timeout = \"3s\"",
            "resume_timeout",
            "sm.resume_timeout",
        ),
        ("[router]\narchiv = true", "router.archiv", "router.archive"),
    ] {
        let error = load(text, &[], &[]).unwrap_err();
        let expected = format!("DIR/sestina.toml: unknown key `{key}`; did you mean `{nearest}`?");
        assert_eq!(error, expected);
    }
    let error = load("", &[("SESTINA__NODE__NAMES", "x")], &["node.nam=x"]).unwrap_err();
    assert_eq!(
        error,
        "environment variable SESTINA__NODE__NAMES: unknown key `node.names`; \
         did you mean `node.name`?\n\
         command line: unknown key `node.nam`; did you mean `node.name`?"
    );
}

#[test]
fn a_variable_with_single_underscores_is_refused_by_its_right_name() {
    for (name, right) in [
        ("SESTINA_EDGE_C2S", "SESTINA__EDGE__C2S"),
        (
            "SESTINA_EDGE_LIMITS_AUTH_TIMEOUT",
            "SESTINA__EDGE__LIMITS__AUTH_TIMEOUT",
        ),
        ("SESTINA_HOST_0_DOMAIN", "SESTINA__HOST__0__DOMAIN"),
    ] {
        let error = load("", &[(name, "x")], &[]).unwrap_err();
        assert!(
            error.contains(&format!("environment variable {name} is not read")),
            "{error}"
        );
        assert!(error.contains(&format!("did you mean {right}")), "{error}");
    }
    // Variables that Sestina uses for other purposes, and those that Kubernetes sets for a service
    // named sestina-edge.
    for name in [
        "SESTINA_CONFIG",
        "SESTINA_EDGE_SERVICE_HOST",
        "SESTINA_EDGE_PORT_5222_TCP",
    ] {
        assert!(load("", &[(name, "x")], &[]).is_ok(), "{name}");
    }
}

#[test]
fn a_wrong_type_names_the_key() {
    for (text, expected) in [
        (
            "[edge.limits]\ndepth = \"x\"",
            "`edge.limits.depth`: found string \"x\", expected a whole number",
        ),
        (
            "[edge.limits]\ndepth = -1",
            "`edge.limits.depth`: found integer `-1`, expected a whole number",
        ),
        (
            "[sm]\nresume_timeout = 5",
            "`sm.resume_timeout`: \"5\" is no duration",
        ),
        (
            "[sm]\nresume_timeout = true",
            "expected a duration such as \"30s\"",
        ),
        (
            "[edge]\nc2s = [\"x\"]",
            "`edge.c2s`: is no address with a port",
        ),
        (
            "[redis]\nmode = \"solo\"",
            "`redis.mode`: unknown variant `solo`, expected one of",
        ),
        ("edge = 3", "`edge`: write a section `[edge]`"),
        (
            "[host]\ndomain = \"x\"",
            "`host`: write one block `[[host]]` for each",
        ),
    ] {
        let error = load(text, &[], &[]).unwrap_err();
        assert!(error.starts_with("DIR/sestina.toml: `"), "{error}");
        assert!(error.contains(expected), "{error}");
    }
    let error = load("", &[("SESTINA__ROUTER__ARCHIVE", "yes")], &["edge=1"]).unwrap_err();
    assert!(
        error.contains("SESTINA__ROUTER__ARCHIVE: `router.archive`: found string"),
        "{error}"
    );
    assert!(
        error.contains("command line: `edge`: is a section"),
        "{error}"
    );
}

#[test]
fn errors_do_not_quote_secrets() {
    let error = load("[redis]\npassword = 123456", &[], &[]).unwrap_err();
    assert!(
        error.contains("`redis.password`: expected a string"),
        "{error}"
    );
    assert!(!error.contains("123456"), "{error}");
    let error = load("[redis]\npassword = hunter2\n", &[], &[]).unwrap_err();
    assert!(error.contains("is not valid TOML: line 2"), "{error}");
    assert!(!error.contains("hunter2"), "{error}");
}

#[test]
fn a_missing_file_is_named() {
    let path = Path::new("/nonexistent/sestina.toml");
    let error = Config::load(&[], Some(path), env(&[]), &[])
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("cannot read /nonexistent/sestina.toml: "),
        "{error}"
    );
}

#[test]
fn an_override_without_a_value_is_refused() {
    let error = load("", &[], &["node.name"]).unwrap_err();
    assert_eq!(
        error,
        "the override \"node.name\" is not of the form key=value"
    );
}

#[test]
fn secrets_come_from_files() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("password");
    fs::write(&file, "hunter2\n").unwrap();
    let text = format!("[redis]\npassword_file = {file:?}\n");
    let config = load(&text, &[], &[]).unwrap();
    assert_eq!(config.redis.password.as_ref().unwrap().expose(), "hunter2");
    let error = load(&format!("{text}password = \"x\""), &[], &[]).unwrap_err();
    assert!(
        error.contains("both `redis.password` and `redis.password_file` are set"),
        "{error}"
    );
    fs::write(&file, "\n").unwrap();
    let error = load(&text, &[], &[]).unwrap_err();
    assert!(error.contains("is empty"), "{error}");
    let error = load(&text.replace("/password", "/nothing"), &[], &[]).unwrap_err();
    assert!(error.contains("cannot read"), "{error}");
}
