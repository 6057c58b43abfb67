//! Handshakes between a connector and an acceptor, in memory.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::{CertificateError, ClientConnection, Connection, ProtocolVersion, RootCertStore};

use super::tests::{begin, leaf, roots, serving, shake, write_pair};
use super::*;

/// A connector to that domain.
fn connector(
    roots: RootCertStore,
    versions: TlsVersions,
    purpose: Purpose,
    domain: &str,
) -> Connector {
    let config = client_config(roots, versions, purpose).unwrap();
    Connector::new(&config, domain, &HandshakeLimiter::new(1)).unwrap()
}

/// Both ends after a handshake, or why the connector refused.
fn connect(
    store: &Arc<CertStore>,
    connector: &Connector,
) -> Result<ClientConnection, rustls::Error> {
    let (mut server, _) = begin(store, Purpose::DirectTls);
    let Begun {
        tls: Connection::Client(mut client),
        shown: None,
    } = connector.begin()?
    else {
        panic!("a connector is the client, and shows no certificate");
    };
    shake(&mut client, &mut server)?;
    Ok(client)
}

fn refusal(result: Result<ClientConnection, rustls::Error>) -> CertificateError {
    match result {
        Err(rustls::Error::InvalidCertificate(error)) => error,
        other => panic!("the certificate is refused: {:?}", other.map(|_| ())),
    }
}

#[test]
fn a_connector_accepts_a_certificate_of_its_domain_and_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let names = ["a.example", "*.wild.example", "bücher.example"];
    let files = write_pair(folder.path(), "a", &names);
    let trusted = || roots(&[&files.cert]);
    let store = serving(vec![files.clone()]);
    for domain in ["a.example", "b.wild.example", "bücher.example"] {
        let connector = connector(trusted(), TlsVersions::From12, Purpose::StartTls, domain);
        let client = connect(&store, &connector).unwrap();
        let shown: &[CertificateDer<'_>] = client.peer_certificates().unwrap();
        assert_eq!(shown, [leaf(&files.cert)], "{domain}");
        assert_eq!(client.protocol_version(), Some(ProtocolVersion::TLSv1_3));
        assert_eq!(client.alpn_protocol(), None, "STARTTLS has no ALPN");
    }
    for domain in ["b.example", "example", "x.b.wild.example"] {
        let connector = connector(trusted(), TlsVersions::From12, Purpose::StartTls, domain);
        let error = refusal(connect(&store, &connector));
        assert!(
            matches!(error, CertificateError::NotValidForNameContext { .. }),
            "{domain}: {error:?}"
        );
    }
}

#[test]
fn a_connector_trusts_its_authorities_alone() {
    let folder = tempfile::tempdir().unwrap();
    let shown = write_pair(folder.path(), "shown", &["a.example"]);
    let other = write_pair(folder.path(), "other", &["a.example"]);
    let store = serving(vec![shown]);
    let connector = connector(
        roots(&[&other.cert]),
        TlsVersions::From12,
        Purpose::StartTls,
        "a.example",
    );
    let error = refusal(connect(&store, &connector));
    assert!(
        matches!(
            error,
            CertificateError::UnknownIssuer | CertificateError::BadSignature
        ),
        "{error:?}"
    );
}

#[test]
fn direct_tls_names_its_protocol() {
    let folder = tempfile::tempdir().unwrap();
    let files = write_pair(folder.path(), "a", &["a.example"]);
    let store = serving(vec![files.clone()]);
    let connector = connector(
        roots(&[&files.cert]),
        TlsVersions::Only13,
        Purpose::DirectTls,
        "a.example",
    );
    let client = connect(&store, &connector).unwrap();
    assert_eq!(client.alpn_protocol(), Some(&b"xmpp-client"[..]));
}

#[test]
fn a_domain_that_tls_cannot_name_has_no_connector() {
    let folder = tempfile::tempdir().unwrap();
    let files = write_pair(folder.path(), "a", &["a.example"]);
    let config = client_config(
        roots(&[&files.cert]),
        TlsVersions::From12,
        Purpose::StartTls,
    )
    .unwrap();
    let connector = Connector::new(&config, "no domain", &HandshakeLimiter::new(1));
    assert!(connector.is_err());
}
