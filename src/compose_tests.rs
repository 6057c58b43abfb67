#![allow(clippy::unwrap_used)]

use super::*;

fn config(text: &str) -> Config {
    Config::read(&sestina_router::modules::declared(), text).unwrap()
}

const HOSTS: &str = "
[[host]]
domain = \"a.example\"
[[host]]
domain = \"anonymous.example\"
anonymous = true
muc = \"rooms.example\"
";

#[test]
fn hosts_reach_both_tiers() {
    let config = config(HOSTS);
    let router = router(&config, false);
    assert!(
        router.services.has_accounts("a.example")
            && !router.services.has_accounts("anonymous.example")
    );
    assert!(
        router.services.is_rooms("conference.a.example")
            && router.services.is_rooms("rooms.example")
    );
    let edge = edge(&config, "e").unwrap();
    assert_eq!(edge.hosts[0].mechanisms.len(), 5);
    assert!(!edge.hosts[0].anonymous);
    assert!(edge.hosts[1].anonymous && edge.hosts[1].mechanisms.is_empty());
    assert_eq!(edge.hosts[1].muc_domains, ["rooms.example"]);
    assert_eq!(edge.config_hash, router.config_hash);
}

#[test]
fn edge_and_router_have_the_same_slots() {
    let rooms = "[[rooms]]\ndomain = \"lobby.a.example\"\nslots_of = \"conference.a.example\"\n\
                 listed_by = [\"a.example\"]\n[[rooms]]\ndomain = \"rooms.example\"\n\
                 slots_of = \"conference.a.example\"";
    let config = config(&format!("{HOSTS}{rooms}"));
    let (edge, router) = (edge(&config, "e").unwrap(), router(&config, false));
    assert_eq!(&edge.slots, router.services.hasher());
    let slot = |bare: &str| edge.slots.slot_of_bare(bare);
    let target = slot("x@conference.a.example");
    assert_eq!(slot("x@lobby.a.example"), target);
    assert_eq!(slot("x@rooms.example"), target);
    assert_ne!(slot("x@a.example"), target);
    assert_ne!(slot("x@anonymous.example"), target);
    let listed = router.services.listed_by("a.example");
    let listed: Vec<&str> = listed.into_iter().map(|(domain, _)| domain).collect();
    assert_eq!(listed, ["conference.a.example", "lobby.a.example"]);
    let listed = router.services.listed_by("anonymous.example");
    assert_eq!(listed.len(), 1, "{listed:?}");
}

#[test]
fn what_both_tiers_must_agree_on_agrees() {
    let config = config("[edge.limits]\noutput_queue = \"8MiB\"");
    let (edge, router) = (edge(&config, "e").unwrap(), router(&config, false));
    assert_eq!(edge.session_credit, 2 << 20);
    assert_eq!(edge.session_credit, router.limits.session_credit_bytes);
}

#[test]
fn alone_means_acknowledging_what_is_settled() {
    let config = config("");
    let alone = router(&config, true);
    assert!(alone.ack_settled && !alone.state_store);
    let one_of_many = router(&config, false);
    assert!(!one_of_many.ack_settled && one_of_many.state_store);
}

#[test]
fn options_reach_the_edge() {
    let config = config(
        "[edge]\nc2s = []\nc2s_plaintext = [\"127.0.0.1:0\"]\nproxy_protocol = [\"10.0.0.0/8\"]\n\
         trusted_proxies = [\"192.0.2.7\"]\n\
         [edge.limits]\nstanza = 20000\npre_auth_stanza = 10000\ndepth = 9\nrate = 0\n\
         connections_per_address = 0\nconnection_rate = 0\nauth_timeout = \"7s\"\n\
         [node]\ndrain_timeout = \"4s\"",
    );
    let edge = edge(&config, "e").unwrap();
    let names: Vec<_> = edge
        .listen
        .listeners
        .iter()
        .map(|l| l.name.as_str())
        .collect();
    assert_eq!(names, ["c2s_tls", "c2s_plaintext", "http", "https"]);
    assert!(
        edge.listen.listeners[0]
            .proxy_protocol_from
            .contains([10, 1, 1, 1].into())
    );
    assert!(
        edge.listen
            .http
            .trusted_proxies
            .contains([192, 0, 2, 7].into())
    );
    assert_eq!(
        (edge.after_login.xml.bytes, edge.before_login.xml.bytes),
        (20_000, 10_000)
    );
    assert_eq!(
        (
            edge.after_login.xml.depth,
            edge.after_login.bytes_per_second
        ),
        (9, 0)
    );
    assert_eq!(edge.listen.limits.per_address, usize::MAX);
    assert_eq!(edge.listen.limits.unauthenticated_per_address, usize::MAX);
    assert_eq!(edge.listen.limits.unauthenticated, 4096);
    assert_eq!(edge.listen.limits.rate_per_second, f64::MAX);
    assert_eq!(edge.login.time, Duration::from_secs(7));
    assert!(edge.drain.over + edge.drain.wait <= Duration::from_secs(4));
}

#[test]
fn redis_and_storage_are_mapped() {
    assert!(redis(&config("")).unwrap().is_none());
    let config = config(
        "[redis]\nmode = \"sentinel\"\nurls = [\"redis://s\"]\nmaster_name = \"m\"\n\
         password = \"p\"\nresponse_timeout = \"2s\"\n[storage]\nconnections = 3",
    );
    let redis = redis(&config).unwrap().unwrap();
    assert_eq!(redis.tls, None);
    assert_eq!(
        redis.mode,
        sestina_state::RedisMode::Sentinel {
            master_name: "m".into()
        }
    );
    assert_eq!(redis.password.as_deref(), Some("p"));
    assert!(redis.lease_timeout < Duration::from_secs(1));
    let storage = storage(&config);
    assert_eq!(storage.pool_size, 3);
    assert_eq!(storage.url, "sqlite:sestina-data/sestina.db");
}

#[test]
fn certificates_for_redis_are_read_and_checked() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let (ca, _) = sestina_certs::TrialCa::create("authority").unwrap();
    let issued = ca.issue("router", CertRole::Router, &[]).unwrap();
    let other = ca.issue("other", CertRole::Router, &[]).unwrap();
    let ca_file = write("ca.pem", ca.cert_pem());
    let certificate = write("c.pem", &issued.cert_pem);
    let key = write("c.key", &issued.key_pem);
    let other_key = write("other.key", &other.key_pem);
    let empty = write("empty", "");
    let missing = folder.path().join("missing");
    let read = |ca: &Path, certificate: &Path, key: &Path| {
        redis(&config(&format!(
            "[redis]\nmode = \"single\"\nurls = [\"rediss://a\"]\ntls_ca = {ca:?}\n\
             tls_certificate = {certificate:?}\ntls_key = {key:?}"
        )))
    };
    let tls = read(&ca_file, &certificate, &key).unwrap().unwrap().tls;
    let tls = tls.unwrap();
    assert_eq!(tls.ca.as_deref(), Some(ca.cert_pem().as_bytes()));
    assert_eq!(tls.identity.unwrap().key, issued.key_pem.as_bytes());
    for (files, named, fault) in [
        ((&missing, &certificate, &key), "missing", "`redis.tls_ca`"),
        ((&empty, &certificate, &key), "empty", "no certificate"),
        ((&ca_file, &missing, &key), "missing", "cannot read"),
        ((&ca_file, &certificate, &missing), "missing", "cannot read"),
        ((&ca_file, &certificate, &empty), "empty", "no private key"),
        (
            (&ca_file, &certificate, &other_key),
            "other.key",
            "does not belong",
        ),
    ] {
        let error = format!("{:#}", read(files.0, files.1, files.2).unwrap_err());
        assert!(error.contains(named) && error.contains(fault), "{error}");
    }
}

#[test]
fn certificates_of_hosts_are_used_beside_the_common_one() {
    let none = client_tls(&config(HOSTS));
    assert!(none.certificates.is_empty());
    assert_eq!(none.domains, ["a.example", "anonymous.example"]);
    let some = client_tls(&config(
        "[edge.tls]\ncertificate = \"c\"\nkey = \"k\"\n[[host]]\ndomain = \"a.example\"\n\
         certificate = \"ac\"\nkey = \"ak\"",
    ));
    assert_eq!(some.certificates.len(), 2);
    assert_eq!(
        some.certificates[1].hosts,
        ["a.example", "conference.a.example"]
    );
}

#[test]
fn incarnations_differ() {
    let new = || node("n", proto::NodeRole::Router, "a:1").incarnation;
    assert_ne!(new(), new());
}

#[test]
fn modules_reach_the_router_for_each_domain() {
    let text = format!("{HOSTS}[host.modules]\ndisabled = [\"blocking\"]");
    let modules = router(&config(&text), false).modules;
    assert!(modules["a.example"].has("blocking"));
    assert!(!modules["anonymous.example"].has("blocking"));
    assert!(!modules["rooms.example"].has("blocking"));
}

#[test]
fn an_option_that_switches_off_a_feature_switches_off_its_module() {
    let text = "[router]\narchive = false\ncarbons = false\n[[host]]\ndomain = \"a.example\"\n\
                [host.modules]\ndisabled = []";
    let modules = router(&config(text), false).modules;
    let at = &modules["a.example"];
    assert!(!at.has("mam") && !at.has("carbons") && at.has("offline"));
    assert_eq!(pipelines(&config(text)).groups().len(), 1);
}
