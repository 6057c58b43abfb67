//! Our initiating end against our receiving end, and against peers that break the protocol.

use std::sync::Arc;

use rustls::CertificateError;
use sestina_xmpp::stream::StreamCondition;
use sestina_xmpp::stream::features::StartTls;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::client::{Client, Way, connect_raw, initiating};
use super::rig::{Rig, until};
use crate::listen::Accepted;
use crate::metrics::Count;
use crate::stream::initiating::open;
use crate::stream::{InitiateError, Names, Offer, initiate, starttls};
use crate::tls::{Acceptor, CertStore, Purpose, tests as tls_tests};
use crate::transport::TlsError;

const NAMES: Names<'static> = Names {
    local: "juliet@c.example",
    peer: "c.example",
};

/// Our header, in the words of a peer that is scripted.
const HEADER: &str = "<?xml version='1.0'?><stream:stream xmlns='jabber:client' \
    xmlns:stream='http://etherx.jabber.org/streams' version='1.0' from='c.example' id='1'>";

const STARTTLS: &str =
    "<stream:features><starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/></stream:features>";

fn certificates() -> (TempDir, Arc<CertStore>) {
    let folder = tempfile::tempdir().unwrap();
    let store = tls_tests::store(folder.path(), &["c.example"]);
    (folder, store)
}

/// A connection to an edge that offers STARTTLS.
async fn connect(store: &Arc<CertStore>) -> (TcpStream, Accepted) {
    let (stream, mut accepted) = connect_raw(Way::default()).await;
    accepted.start_tls = Some(Acceptor::new(Arc::clone(store), Purpose::StartTls));
    (stream, accepted)
}

async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap());
    let (near, far) = tokio::join!(near, listener.accept());
    (near.unwrap(), far.unwrap().0)
}

#[tokio::test]
async fn both_roles_open_start_tls_and_open_again() {
    let rig = Rig::new(1).await;
    let (folder, store) = certificates();
    let (stream, accepted) = connect(&store).await;
    rig.edge.accept(accepted);
    let mut end = initiating(stream);
    let in_clear = open(&mut end, NAMES).await.unwrap();
    let required = Offer {
        starttls: Some(StartTls::Required),
        ..Offer::default()
    };
    assert_eq!(
        in_clear, required,
        "tls is required, and nothing else offered"
    );
    assert!(end.tls_info().is_none());
    let connector = tls_tests::connector(folder.path(), "c.example");
    starttls::request(&mut end, &connector).await.unwrap();
    let info = end.tls_info().unwrap();
    assert_eq!((info.protocol, info.sni.as_deref()), ("TLSv1.3", None));
    let under_tls = open(&mut end, NAMES).await.unwrap();
    assert_eq!(under_tls.starttls, None);
    assert!(under_tls.mechanisms.iter().any(|name| name == "PLAIN"));
    assert!(!under_tls.bind && !under_tls.sm, "before the login");
    assert_eq!(rig.tally.get(Count::TlsFull), 1);
}

#[tokio::test]
async fn a_stream_under_tls_asks_for_no_more_of_it() {
    let rig = Rig::new(1).await;
    let (folder, store) = certificates();
    let (stream, mut accepted) = connect_raw(Way::default()).await;
    let acceptor = Acceptor::new(store, Purpose::StartTls);
    let connector = tls_tests::connector(folder.path(), "c.example");
    let mut end = initiating(stream);
    let (near, far) = tokio::join!(
        end.start_tls(&connector),
        accepted.reader.start_tls(&acceptor)
    );
    near.unwrap();
    far.unwrap();
    accepted.secure = true;
    rig.edge.accept(accepted);
    let (_end, offer) = initiate(end, NAMES, &connector).await.unwrap();
    assert_eq!(offer.mechanisms[0], "SCRAM-SHA-256-PLUS");
}

#[tokio::test]
async fn a_certificate_of_another_name_ends_the_connection() {
    let rig = Rig::new(1).await;
    let (folder, store) = certificates();
    let (stream, accepted) = connect(&store).await;
    rig.edge.accept(accepted);
    let connector = tls_tests::connector(folder.path(), "d.example");
    let error = initiate(initiating(stream), NAMES, &connector).await.err();
    let Some(InitiateError::Tls(TlsError::Handshake(rustls::Error::InvalidCertificate(error)))) =
        error
    else {
        panic!("the certificate is refused: {error:?}");
    };
    assert!(
        matches!(error, CertificateError::NotValidForNameContext { .. }),
        "{error:?}"
    );
    until("the receiving end was told", || {
        rig.tally.get(Count::TlsFailed) == 1
    })
    .await;
}

#[tokio::test]
async fn a_host_that_is_not_served_is_refused_by_a_stream_error() {
    let rig = Rig::new(1).await;
    let (folder, store) = certificates();
    let (stream, accepted) = connect(&store).await;
    rig.edge.accept(accepted);
    let names = Names {
        peer: "d.example",
        ..NAMES
    };
    let connector = tls_tests::connector(folder.path(), "d.example");
    let error = initiate(initiating(stream), names, &connector).await.err();
    assert!(
        matches!(
            error,
            Some(InitiateError::Refused(StreamCondition::HostUnknown))
        ),
        "{error:?}"
    );
}

/// What a peer answers to our header, what its second answer is if it gets so far, the error, and the
/// last words of our end.
type Case = (
    String,
    &'static str,
    fn(&InitiateError) -> bool,
    &'static str,
);

#[tokio::test]
async fn a_negotiation_that_fails_ends_the_stream_in_order() {
    let (folder, _store) = certificates();
    let connector = tls_tests::connector(folder.path(), "c.example");
    let cases: [Case; 7] = [
        (
            format!("{HEADER}<stream:features/>"),
            "",
            |error| matches!(error, InitiateError::NoTls),
            "version='1.0' from='juliet@c.example' to='c.example' xml:lang='en'></stream:stream>",
        ),
        (
            format!("{HEADER}{STARTTLS}"),
            "<failure xmlns='urn:ietf:params:xml:ns:xmpp-tls'/></stream:stream>",
            |error| matches!(error, InitiateError::TlsRefused),
            "<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/></stream:stream>",
        ),
        (
            format!("{HEADER}{STARTTLS}"),
            "<stream:error><policy-violation xmlns='urn:ietf:params:xml:ns:xmpp-streams'/>\
             </stream:error></stream:stream>",
            |error| {
                matches!(
                    error,
                    InitiateError::Refused(StreamCondition::PolicyViolation)
                )
            },
            "</stream:stream>",
        ),
        (
            format!("{HEADER}</stream:stream>"),
            "",
            |error| matches!(error, InitiateError::Closed),
            "</stream:stream>",
        ),
        (
            format!("{HEADER}<message/>"),
            "",
            |error| {
                matches!(
                    error,
                    InitiateError::Fault(StreamCondition::PolicyViolation, _)
                )
            },
            "</stream:error></stream:stream>",
        ),
        (
            HEADER.replace("c.example", "d.example") + STARTTLS,
            "",
            |error| matches!(error, InitiateError::Fault(StreamCondition::InvalidFrom, _)),
            "</stream:error></stream:stream>",
        ),
        (
            HEADER.replace(" id='1'", "") + STARTTLS,
            "",
            |error| matches!(error, InitiateError::Fault(StreamCondition::BadFormat, _)),
            "</stream:error></stream:stream>",
        ),
    ];
    for (first, second, expected, last) in cases {
        let (near, far) = pair().await;
        let peer = async {
            let mut peer = Client::on(far);
            let mut heard = peer.until("xml:lang='en'>").await;
            peer.send(&first).await;
            if !second.is_empty() {
                heard += &peer.until("xmpp-tls'/>").await;
                peer.send(second).await;
            }
            heard + &peer.until("</stream:stream>").await
        };
        let (error, heard) = tokio::join!(initiate(initiating(near), NAMES, &connector), peer);
        let error = error.err().unwrap();
        assert!(expected(&error), "{first}: {error:?}");
        assert!(heard.ends_with(last), "{first}: {heard}");
    }
}

async fn hear(stream: &mut (impl AsyncReadExt + Unpin), text: &str) {
    let mut heard = Vec::new();
    while !heard.ends_with(text.as_bytes()) {
        heard.push(stream.read_u8().await.unwrap());
    }
}

/// RFC 6120 §5.4.3.3: a man in the middle may write behind `<proceed/>` what would be read as said
/// under TLS.
#[tokio::test]
async fn clear_bytes_behind_proceed_are_not_taken_for_protected_ones() {
    let (folder, store) = certificates();
    let connector = tls_tests::connector(folder.path(), "c.example");
    let (near, mut far) = pair().await;
    let features = |mechanism: &str| {
        format!(
            "{HEADER}<stream:features><mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'>\
             <mechanism>{mechanism}</mechanism></mechanisms></stream:features>"
        )
    };
    let peer = async {
        hear(&mut far, "xml:lang='en'>").await;
        far.write_all(format!("{HEADER}{STARTTLS}").as_bytes())
            .await
            .unwrap();
        hear(&mut far, "xmpp-tls'/>").await;
        let proceed = "<proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>";
        let injected = format!("{proceed}{}", features("INJECTED"));
        far.write_all(injected.as_bytes()).await.unwrap();
        let config = Arc::clone(store.current().config_for(Purpose::StartTls));
        let mut far = TlsAcceptor::from(config).accept(far).await.unwrap();
        hear(&mut far, "xml:lang='en'>").await;
        far.write_all(features("EXTERNAL").as_bytes())
            .await
            .unwrap();
        far
    };
    let (near, _far) = tokio::join!(initiate(initiating(near), NAMES, &connector), peer);
    assert_eq!(near.unwrap().1.mechanisms, ["EXTERNAL"]);
}
