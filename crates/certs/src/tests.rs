#![allow(clippy::unwrap_used)]

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::client::danger::ServerCertVerifier;
use rustls_pki_types::{ServerName, UnixTime};

use crate::*;

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

#[test]
fn a_node_certificate_serves_and_calls_under_its_names() {
    let dir = tempfile::tempdir().unwrap();
    let sans = ["router.example.net".to_owned(), "192.0.2.7".to_owned()];
    let files = issue(dir.path(), "router-0", Role::Router, &sans).unwrap();
    let id = load_identity(&files.cert, &files.key).unwrap();
    let roots = Arc::new(load_roots(&files.ca).unwrap());

    let server =
        rustls::client::WebPkiServerVerifier::builder_with_provider(Arc::clone(&roots), provider())
            .build()
            .unwrap();
    for name in ["router-0", "router.example.net", "192.0.2.7"] {
        let name = ServerName::try_from(name).unwrap();
        server
            .verify_server_cert(id.leaf(), &[], &name, &[], UnixTime::now())
            .unwrap();
    }
    let other = ServerName::try_from("router-1").unwrap();
    assert!(
        server
            .verify_server_cert(id.leaf(), &[], &other, &[], UnixTime::now())
            .is_err()
    );

    let client = rustls::server::WebPkiClientVerifier::builder_with_provider(roots, provider())
        .build()
        .unwrap();
    client
        .verify_client_cert(id.leaf(), &[], UnixTime::now())
        .unwrap();

    let info = describe_der(id.leaf()).unwrap();
    assert_eq!(info.roles, [Role::Router]);
    assert_eq!(info.dns_names, ["router-0", "router.example.net"]);
    assert_eq!(info.ips, ["192.0.2.7".parse::<std::net::IpAddr>().unwrap()]);
    assert!(!info.is_ca);
    let left = info.remaining(SystemTime::now()).unwrap();
    assert!(left > Duration::from_secs(364 * 86400) && left < Duration::from_secs(366 * 86400));
    assert_eq!(
        info.remaining(SystemTime::now() + Duration::from_secs(367 * 86400)),
        None
    );
}

#[test]
fn keys_are_for_their_owner_only_even_when_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let files = issue(dir.path(), "edge-0", Role::Edge, &[]).unwrap();
    let mode = |p: &std::path::Path| p.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&files.key), 0o600);
    assert_eq!(mode(&dir.path().join("ca.key")), 0o600);
    std::fs::set_permissions(&files.key, PermissionsExt::from_mode(0o644)).unwrap();
    issue(dir.path(), "edge-0", Role::Edge, &[]).unwrap();
    assert_eq!(mode(&files.key), 0o600);
}

#[test]
fn the_ca_is_made_once() {
    let dir = tempfile::tempdir().unwrap();
    let first = ensure_ca(dir.path()).unwrap().cert_pem().to_owned();
    assert_eq!(ensure_ca(dir.path()).unwrap().cert_pem(), first);
    assert!(describe(first.as_bytes()).unwrap().is_ca);
    std::fs::remove_file(dir.path().join("ca.key")).unwrap();
    let error = ensure_ca(dir.path()).unwrap_err().to_string();
    assert!(error.contains("ca.key"), "{error}");
}

#[test]
fn names_that_would_leave_the_folder_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["../evil", "a/b", "", "ca", "a..b", "-a", "a b"] {
        assert!(
            issue(dir.path(), name, Role::Edge, &[]).is_err(),
            "{name:?}"
        );
    }
    assert!(!dir.path().join("ca.pem").exists());
}

#[test]
fn errors_name_the_file_and_the_fault() {
    let dir = tempfile::tempdir().unwrap();
    let a = issue(dir.path(), "a", Role::Edge, &[]).unwrap();
    let b = issue(dir.path(), "b", Role::Edge, &[]).unwrap();
    let error = load_identity(&a.cert, &b.key).unwrap_err().to_string();
    assert!(
        error.contains("b.key") && error.contains("does not belong"),
        "{error}"
    );
    let error = load_identity(&a.key, &a.key).unwrap_err().to_string();
    assert!(
        error.contains("a.key") && error.contains("no certificate"),
        "{error}"
    );
    let error = load_identity(&a.cert, &a.cert).unwrap_err().to_string();
    assert!(
        error.contains("a.pem") && error.contains("no private key"),
        "{error}"
    );
    let error = load_roots(&dir.path().join("none.pem"))
        .unwrap_err()
        .to_string();
    assert!(error.contains("none.pem"), "{error}");
}

#[test]
fn a_self_signed_certificate_covers_its_domains() {
    let pem = self_signed(&["example.org".to_owned(), "*.example.org".to_owned()]).unwrap();
    let id = parse_identity("c", pem.cert_pem.as_bytes(), "k", pem.key_pem.as_bytes()).unwrap();
    id.certified_key().unwrap();
    let info = describe(pem.cert_pem.as_bytes()).unwrap();
    assert!(info.covers("example.org") && info.covers("Conference.Example.Org"));
    assert!(!info.covers("a.b.example.org") && !info.covers("example.net"));
    assert_eq!(server_end_point(id.leaf()).len(), 32);
    assert!(self_signed(&[]).is_err());
    // RFC 6125 §6.4.2: an internationalised name is covered in both of its forms.
    let pem = self_signed(&["bücher.example".to_owned()]).unwrap();
    let info = describe(pem.cert_pem.as_bytes()).unwrap();
    assert_eq!(info.dns_names[0], "xn--bcher-kva.example");
    assert!(info.covers("bücher.example") && info.covers("xn--bcher-kva.example"));
    assert!(!format!("{pem:?}").contains("PRIVATE"));
}
