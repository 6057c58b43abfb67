#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::ServerName;
use rustls::pki_types::pem::PemObject as _;
use rustls::{
    ClientConfig, ClientConnection, Connection, RootCertStore, ServerConnection,
    SupportedProtocolVersion,
};
use sestina_certs::{self_signed, server_end_point};

use super::*;

/// A store with a self-signed certificate for these domains.
pub(crate) fn store(folder: &Path, domains: &[&str]) -> Arc<CertStore> {
    CertStore::open(&TlsConfig {
        domains: domains.iter().map(|&domain| domain.to_owned()).collect(),
        data_dir: folder.to_owned(),
        ..TlsConfig::default()
    })
    .unwrap()
}

/// A client that trusts the store's self-signed certificate and nothing else.
pub(crate) fn client(
    folder: &Path,
    versions: &[&'static SupportedProtocolVersion],
) -> ClientConfig {
    trusting(&[&folder.join("tls/self-signed.crt")], versions)
}

fn trusting(certs: &[&Path], versions: &[&'static SupportedProtocolVersion]) -> ClientConfig {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots(certs))
        .with_no_client_auth()
}

pub(super) fn roots(certs: &[&Path]) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    for cert in certs {
        roots.add(leaf(cert)).unwrap();
    }
    roots
}

/// A connector to that domain which trusts the store's self-signed certificate and nothing else.
pub(crate) fn connector(folder: &Path, domain: &str) -> Connector {
    let roots = roots(&[&folder.join("tls/self-signed.crt")]);
    let config = client_config(roots, TlsVersions::default(), Purpose::StartTls).unwrap();
    Connector::new(&config, domain, &HandshakeLimiter::new(4)).unwrap()
}

fn with_files(certificates: Vec<CertFiles>) -> TlsConfig {
    TlsConfig {
        certificates,
        ..TlsConfig::default()
    }
}

/// A store with the certificates in these files.
pub(super) fn serving(certificates: Vec<CertFiles>) -> Arc<CertStore> {
    CertStore::open(&with_files(certificates)).unwrap()
}

pub(super) fn write_pair(folder: &Path, name: &str, domains: &[&str]) -> CertFiles {
    let domains: Vec<String> = domains.iter().map(|&domain| domain.to_owned()).collect();
    let files = CertFiles {
        option: format!("`{name}`"),
        hosts: Vec::new(),
        cert: folder.join(format!("{name}.crt")),
        key: folder.join(format!("{name}.key")),
    };
    self_signed(&domains)
        .unwrap()
        .write(&files.cert, &files.key)
        .unwrap();
    files
}

pub(super) fn leaf(cert: &Path) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(cert).unwrap()
}

/// A handshake in memory. Returns the certificate that the client was shown, what the server
/// binds to, and whether the session was resumed.
fn handshake(
    store: &Arc<CertStore>,
    config: &Arc<ClientConfig>,
    name: &str,
) -> Result<(CertificateDer<'static>, Vec<u8>, bool), rustls::Error> {
    let (mut server, set) = begin(store, Purpose::StartTls);
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut client = ClientConnection::new(Arc::clone(config), name).unwrap();
    shake(&mut client, &mut server)?;
    let shown = client.peer_certificates().unwrap()[0].clone().into_owned();
    let resumed = client.handshake_kind() == Some(rustls::HandshakeKind::Resumed);
    Ok((shown, set.server_end_point(server.server_name()), resumed))
}

/// The server's part of a handshake.
pub(super) fn begin(store: &Arc<CertStore>, purpose: Purpose) -> (ServerConnection, Arc<CertSet>) {
    match Acceptor::new(Arc::clone(store), purpose).begin().unwrap() {
        Begun {
            tls: Connection::Server(server),
            shown: Some(set),
        } => (server, set),
        _ => panic!("an acceptor is the server, and shows a certificate"),
    }
}

/// A handshake to its end.
pub(super) fn shake(
    client: &mut ClientConnection,
    server: &mut ServerConnection,
) -> Result<(), rustls::Error> {
    while client.is_handshaking() || server.is_handshaking() || server.wants_write() {
        let mut wire = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut wire).unwrap();
        }
        server.read_tls(&mut wire.as_slice()).unwrap();
        server.process_new_packets()?;
        let mut wire = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut wire).unwrap();
        }
        client.read_tls(&mut wire.as_slice()).unwrap();
        client.process_new_packets()?;
    }
    Ok(())
}

const ALL: [&SupportedProtocolVersion; 2] = [&rustls::version::TLS12, &rustls::version::TLS13];

#[test]
fn a_self_signed_certificate_is_made_once() {
    let folder = tempfile::tempdir().unwrap();
    let first = store(folder.path(), &["a.example", "b.example"]);
    let names: Vec<_> = first
        .current()
        .certificates()
        .flat_map(|info| info.dns_names.clone())
        .collect();
    assert_eq!(names, ["a.example", "b.example"]);
    let again = store(folder.path(), &["a.example"]);
    let end_points = [&first, &again].map(|s| s.current().server_end_point(None));
    assert_eq!(end_points[0], end_points[1]);
    assert_eq!(end_points[0].len(), 32);
}

#[test]
fn an_internationalised_host_has_a_self_signed_certificate() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path(), &["bücher.example"]);
    let config = Arc::new(client(folder.path(), &ALL));
    let shown = handshake(&store, &config, "xn--bcher-kva.example");
    assert!(shown.is_ok(), "{:?}", shown.err());
}

#[test]
fn the_name_decides_and_the_first_is_the_default() {
    let folder = tempfile::tempdir().unwrap();
    let one = write_pair(folder.path(), "one", &["one.example"]);
    let mut two = write_pair(folder.path(), "two", &["two.example", "*.wild.example"]);
    two.hosts = vec!["three.example".to_owned(), "bücher.example".to_owned()];
    let (one_cert, two_cert) = (leaf(&one.cert), leaf(&two.cert));
    let config = trusting(&[&one.cert, &two.cert], &ALL);
    let config = Arc::new(config);
    let store = serving(vec![one, two]);
    for (name, cert) in [
        ("one.example", &one_cert),
        ("two.example", &two_cert),
        ("x.wild.example", &two_cert),
    ] {
        let (shown, end_point, _) = handshake(&store, &config, name).unwrap();
        assert_eq!(shown, *cert, "{name}");
        assert_eq!(end_point, server_end_point(cert));
    }
    let set = store.current();
    assert_eq!(
        set.server_end_point(Some("three.example")),
        server_end_point(&two_cert)
    );
    // TLS names an internationalised host by its A-label (RFC 6125 §6.4.2).
    assert_eq!(
        set.server_end_point(Some("xn--bcher-kva.example")),
        server_end_point(&two_cert)
    );
    assert_eq!(
        set.server_end_point(Some("a.b.wild.example")),
        server_end_point(&one_cert)
    );
    assert_eq!(set.server_end_point(None), server_end_point(&one_cert));
}

#[test]
fn sessions_resume_until_the_certificates_change() {
    let folder = tempfile::tempdir().unwrap();
    let files = write_pair(folder.path(), "c", &["c.example"]);
    let store = serving(vec![files.clone()]);
    for version in ALL {
        let other = write_pair(folder.path(), "other", &["c.example"]);
        let config = Arc::new(trusting(&[&files.cert, &other.cert], &[version]));
        let resumed = || handshake(&store, &config, "c.example").unwrap().2;
        assert!(!resumed());
        assert!(resumed(), "{version:?}");
        store.reload().unwrap();
        assert!(resumed(), "{version:?}: the same certificate");
        std::fs::copy(&other.cert, &files.cert).unwrap();
        std::fs::copy(&other.key, &files.key).unwrap();
        store.reload().unwrap();
        assert!(!resumed(), "{version:?}: another certificate");
    }
}

#[test]
fn a_session_is_resumed_on_another_edge_after_its_key_was_rotated() {
    let folder = tempfile::tempdir().unwrap();
    let files = write_pair(folder.path(), "c", &["c.example"]);
    let edges = [(); 2].map(|()| serving(vec![files.clone()]));
    let install = |edge: usize, numbers: &[u8]| {
        let bytes: Vec<[u8; 32]> = numbers.iter().map(|number| [*number; 32]).collect();
        let keys = numbers
            .iter()
            .zip(&bytes)
            .map(|(n, key)| (u64::from(*n), &key[..]));
        let period = Duration::from_secs(3600);
        edges[edge].tickets().install(keys, period).unwrap();
    };
    for version in ALL {
        let client = Arc::new(trusting(&[&files.cert], &[version]));
        install(0, &[1, 2]);
        install(1, &[1, 2]);
        assert!(!handshake(&edges[0], &client, "c.example").unwrap().2);
        install(1, &[1, 2, 3]);
        let resumed = handshake(&edges[1], &client, "c.example").unwrap().2;
        assert!(resumed, "{version:?}: with the key before");
        // The first edge has not been told yet, and knows that key all the same.
        let resumed = handshake(&edges[0], &client, "c.example").unwrap().2;
        assert!(resumed, "{version:?}: with the next key");
        install(1, &[4, 5, 6]);
        let resumed = handshake(&edges[1], &client, "c.example").unwrap().2;
        assert!(!resumed, "{version:?}: the key is gone");
    }
}

#[test]
fn changed_files_are_noticed_and_broken_ones_are_not_used() {
    let folder = tempfile::tempdir().unwrap();
    let files = write_pair(folder.path(), "c", &["c.example"]);
    let store = serving(vec![files.clone()]);
    let before = store.current().server_end_point(None);
    assert!(!store.reload_if_changed());
    // A key of another certificate, as between the two steps of a renewal.
    let other = write_pair(folder.path(), "other", &["c.example"]);
    std::fs::copy(&other.key, &files.key).unwrap();
    touch(&files.key, 10);
    assert!(!store.reload_if_changed());
    assert_eq!(store.current().server_end_point(None), before);
    std::fs::write(&files.cert, "not a certificate").unwrap();
    assert!(!store.reload_if_changed());
    assert_eq!(store.current().server_end_point(None), before);
    std::fs::copy(&other.cert, &files.cert).unwrap();
    touch(&files.cert, 20);
    assert!(store.reload_if_changed());
    assert_eq!(
        store.current().server_end_point(None),
        server_end_point(&leaf(&other.cert))
    );
    assert_ne!(store.current().server_end_point(None), before);
    std::fs::remove_file(&files.key).unwrap();
    assert!(!store.reload_if_changed());
    assert!(store.reload().unwrap_err().to_string().contains("c.key"));
}

#[test]
fn a_broken_certificate_does_not_keep_another_host_from_its_new_one() {
    let folder = tempfile::tempdir().unwrap();
    let one = write_pair(folder.path(), "one", &["one.example"]);
    let two = write_pair(folder.path(), "two", &["two.example"]);
    let store = serving(vec![one.clone(), two.clone()]);
    let before = store.current().server_end_point(Some("one.example"));
    std::fs::write(&one.cert, "not a certificate").unwrap();
    let renewed = write_pair(folder.path(), "renewed", &["two.example"]);
    std::fs::copy(&renewed.key, &two.key).unwrap();
    std::fs::copy(&renewed.cert, &two.cert).unwrap();
    touch(&two.cert, 10);
    assert!(store.reload_if_changed());
    let set = store.current();
    assert_eq!(
        set.server_end_point(Some("two.example")),
        server_end_point(&leaf(&renewed.cert))
    );
    assert_eq!(set.server_end_point(Some("one.example")), before);
    assert!(!store.reload_if_changed(), "nothing changed since");
    let error = store.reload().unwrap_err().to_string();
    assert!(error.contains("one.crt"), "{error}");
}

#[test]
fn a_start_with_one_broken_certificate_serves_the_others() {
    let folder = tempfile::tempdir().unwrap();
    let mut one = write_pair(folder.path(), "one", &["one.example"]);
    let two = write_pair(folder.path(), "two", &["two.example"]);
    one.key = two.key.clone();
    let store = serving(vec![one.clone(), two.clone()]);
    let wanted = server_end_point(&leaf(&two.cert));
    assert_eq!(
        store.current().server_end_point(Some("two.example")),
        wanted
    );
    let error = CertStore::open(&with_files(vec![one])).err().unwrap();
    assert!(error.to_string().contains("does not belong"), "{error}");
}

#[test]
fn a_certificate_that_does_not_do_for_its_host_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let files = write_pair(folder.path(), "c", &["c.example"]);
    let config = TlsConfig {
        certificates: vec![files],
        domains: vec!["c.example".to_owned()],
        ..TlsConfig::default()
    };
    let days = |days: i64| days * 24 * 3600;
    let now = sestina_runtime::clock::wall_ms() / 1000;
    assert_eq!(check(&config, now), []);
    let only = |now| {
        let mut problems = check(&config, now);
        assert_eq!(problems.len(), 1, "{problems:?}");
        problems.remove(0).text
    };
    let expired = only(now + days(100 * 365));
    assert!(
        expired.contains("host c.example: the certificate expired"),
        "{expired}"
    );
    assert!(only(now - days(30)).contains("is not valid yet"));
    let other = TlsConfig {
        domains: vec!["d.example".to_owned()],
        ..config.clone()
    };
    let wrong = check(&other, now);
    assert!(wrong[0].fatal, "{wrong:?}");
    assert!(
        wrong[0].text.contains("other names (c.example)"),
        "{wrong:?}"
    );
    let set = CertStore::open(&config).unwrap().current();
    let validity = set.validity(&config.domains, now);
    assert!(validity[0].seconds_left > 0 && validity[0].problem.is_none());
    let ended = set.validity(&config.domains, now + days(100 * 365));
    assert!(ended[0].seconds_left < 0);
    let soon = now + validity[0].seconds_left - 3600;
    assert!(only(soon).contains("expires in 0 days"));
    assert!(!check(&config, soon)[0].fatal);
}

#[tokio::test]
async fn the_watch_warns_of_an_unfit_certificate_and_measures() {
    let lines = sestina_telemetry::testing::Lines::start();
    let folder = tempfile::tempdir().unwrap();
    let files = write_pair(folder.path(), "c", &["c.example"]);
    let store = CertStore::open(&TlsConfig {
        certificates: vec![files],
        domains: vec!["c.example".to_owned(), "d.example".to_owned()],
        ..TlsConfig::default()
    })
    .unwrap();
    let (stop, seen) = (tokio_util::sync::CancellationToken::new(), Arc::default());
    stop.cancel();
    store
        .watch(Arc::new(Certificates(Arc::clone(&seen))), stop)
        .await;
    let warned = lines.with("the certificate is for other names");
    assert!(
        warned.len() == 1 && warned[0].contains("d.example"),
        "{warned:?}"
    );
    let seen = seen.lock();
    assert!(seen[0].0 == "c.example" && seen[0].1 > 0, "{seen:?}");
    assert_eq!(seen[1], ("d.example".to_owned(), 0));
}

struct Certificates(Arc<parking_lot::Mutex<Vec<(String, i64)>>>);

impl crate::metrics::EdgeMetrics for Certificates {
    fn count(&self, _: crate::metrics::Count, _: u64) {}
    fn level(&self, _: crate::metrics::Level, _: i64) {}
    fn timing(&self, _: crate::metrics::Timing, _: Duration) {}
    fn certificate(&self, host: &str, seconds_left: i64) {
        self.0.lock().push((host.to_owned(), seconds_left));
    }
}

/// Two writes may fall into one tick of the file system's clock.
fn touch(path: &Path, seconds: u64) {
    let file = std::fs::File::options().write(true).open(path).unwrap();
    let time = file.metadata().unwrap().modified().unwrap();
    file.set_modified(time + Duration::from_secs(seconds))
        .unwrap();
}

#[tokio::test]
async fn the_watch_loads_new_certificates_and_ends() {
    let folder = tempfile::tempdir().unwrap();
    let files = write_pair(folder.path(), "c", &["c.example"]);
    let store = CertStore::open(&TlsConfig {
        certificates: vec![files.clone()],
        reload_interval: Duration::from_millis(1),
        ..TlsConfig::default()
    })
    .unwrap();
    let other = write_pair(folder.path(), "other", &["c.example"]);
    std::fs::copy(&other.key, &files.key).unwrap();
    std::fs::copy(&other.cert, &files.cert).unwrap();
    touch(&files.cert, 10);
    let wanted = server_end_point(&leaf(&other.cert));
    let stop = tokio_util::sync::CancellationToken::new();
    let metrics = Arc::new(crate::metrics::Tally::default());
    let watch = Arc::clone(&store).watch(metrics, stop.clone());
    let seen = async {
        while store.current().server_end_point(None) != wanted {
            tokio::task::yield_now().await;
        }
        stop.cancel();
    };
    let both = async { tokio::join!(watch, seen) };
    tokio::time::timeout(Duration::from_secs(60), both)
        .await
        .unwrap();
}

#[test]
fn only_the_listeners_own_protocol_is_negotiated() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path(), &["a.example"]);
    let set = store.current();
    assert!(set.config_for(Purpose::StartTls).alpn_protocols.is_empty());
    assert_eq!(
        set.config_for(Purpose::DirectTls).alpn_protocols,
        [b"xmpp-client"]
    );
    assert_eq!(set.config_for(Purpose::Https).alpn_protocols, [b"http/1.1"]);
}

#[test]
fn the_server_chooses_the_cipher_suite() {
    use rustls::CipherSuite::*;
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path(), &["c.example"]);
    for (version, wanted) in [
        (&rustls::version::TLS13, TLS13_AES_128_GCM_SHA256),
        (
            &rustls::version::TLS12,
            TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        ),
    ] {
        let config = Arc::new(client(folder.path(), &[version]));
        let (mut server, _) = begin(&store, Purpose::StartTls);
        let name = ServerName::try_from("c.example").unwrap();
        let mut client = ClientConnection::new(config, name).unwrap();
        let mut wire = Vec::new();
        client.write_tls(&mut wire).unwrap();
        server.read_tls(&mut wire.as_slice()).unwrap();
        server.process_new_packets().unwrap();
        let chosen = server.negotiated_cipher_suite().unwrap().suite();
        assert_eq!(chosen, wanted);
    }
}

#[test]
fn tls_1_2_can_be_turned_off() {
    let folder = tempfile::tempdir().unwrap();
    let files = write_pair(folder.path(), "c", &["c.example"]);
    let store = CertStore::open(&TlsConfig {
        certificates: vec![files.clone()],
        versions: TlsVersions::Only13,
        ..TlsConfig::default()
    })
    .unwrap();
    let old = Arc::new(trusting(&[&files.cert], &[&rustls::version::TLS12]));
    assert!(handshake(&store, &old, "c.example").is_err());
    let new = Arc::new(trusting(&[&files.cert], &[&rustls::version::TLS13]));
    assert!(handshake(&store, &new, "c.example").is_ok());
}
