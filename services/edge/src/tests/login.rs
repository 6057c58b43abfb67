//! From the first byte to bind.

use std::sync::Arc;

use sestina_xmpp::sasl::scram::ClientBinding;
use sestina_xmpp::sasl::{BindingType, ChannelBinding, Mechanism};

use super::client::{Client, SECURE, WEBSOCKET, Way, connect_raw, initiating};
use super::rig::Rig;
use super::router::{PASSWORD, next_frame};
use crate::metrics::Count;
use crate::stream::{Names, initiate};
use crate::tls::{Acceptor, Purpose, tests as tls_tests};

const PLAIN_LISTENER: Way = Way {
    secure: false,
    websocket: false,
    query: &[],
    plain_listener: true,
    small_buffers: false,
};

#[tokio::test]
async fn starttls_is_required_and_scram_is_bound_to_it() {
    let rig = Rig::new(1).await;
    let folder = tempfile::tempdir().unwrap();
    let store = tls_tests::store(folder.path(), &["c.example"]);
    let mut clients = Vec::new();
    for kind in BindingType::ALL {
        let (stream, mut accepted) = connect_raw(Way::default()).await;
        accepted.start_tls = Some(Acceptor::new(Arc::clone(&store), Purpose::StartTls));
        rig.edge.accept(accepted);
        let connector = tls_tests::connector(folder.path(), "c.example");
        let names = Names {
            local: "",
            peer: "c.example",
        };
        let (end, offer) = initiate(initiating(stream), names, &connector)
            .await
            .unwrap();
        assert_eq!(offer.starttls, None);
        assert_eq!(
            offer.mechanisms.first().map(String::as_str),
            Some("SCRAM-SHA-256-PLUS")
        );
        assert!(offer.mechanisms.iter().any(|name| name == "PLAIN"));
        assert!(!offer.mechanisms.iter().any(|name| name == "ANONYMOUS"));
        assert_eq!(
            offer.channel_bindings,
            ["tls-exporter", "tls-server-end-point"]
        );
        let tls = end.tls_info().unwrap();
        let data = match kind {
            BindingType::TlsExporter => tls.exporter.unwrap().to_vec(),
            BindingType::TlsServerEndPoint => tls.server_end_point.clone(),
        };
        let mut client = Client::after(end);
        let wrong = ClientBinding::Bound(ChannelBinding {
            kind,
            data: vec![7; 32],
        });
        assert!(
            !client
                .scram(Mechanism::ScramSha256Plus, "juliet", PASSWORD, wrong)
                .await
        );
        client.until("</failure>").await;
        let right = ClientBinding::Bound(ChannelBinding { kind, data });
        assert!(
            client
                .scram(Mechanism::ScramSha256Plus, "juliet", PASSWORD, right)
                .await
        );
        client.open("c.example").await;
        client.bind("").await;
        let router = rig.cluster.router(0);
        let (slot, epoch, bind) = next_frame!(router, Bind);
        assert_eq!(
            (bind.transport.as_str(), bind.remote.as_str()),
            ("tls", "127.0.0.1")
        );
        router.bound("edge1", slot, epoch, &bind);
        let answer = client.until("</iq>").await;
        assert!(
            answer.contains("<jid>juliet@c.example/made</jid>"),
            "{answer}"
        );
        clients.push(client);
    }
}

#[tokio::test]
async fn scram_in_clear_where_the_listener_allows_it() {
    let rig = Rig::new(1).await;
    for mechanism in [Mechanism::ScramSha1, Mechanism::ScramSha256] {
        let mut client = rig.client(PLAIN_LISTENER).await;
        let features = client.open("c.example").await;
        assert!(
            features.contains(&format!("<mechanism>{mechanism}</mechanism>")),
            "{features}"
        );
        assert!(
            !features.contains("PLAIN") && !features.contains("-PLUS"),
            "{features}"
        );
        let binding = ClientBinding::Unsupported;
        assert!(client.scram(mechanism, "juliet", PASSWORD, binding).await);
        client.open("c.example").await;
    }
    let mut client = rig.client(PLAIN_LISTENER).await;
    client.open("c.example").await;
    client.plain("juliet", PASSWORD).await;
    client.until("encryption-required").await;

    let mut client = rig.client(Way::default()).await;
    let features = client.open("c.example").await;
    assert!(!features.contains("mechanism"), "{features}");
}

#[tokio::test]
async fn wrong_passwords_and_unknown_users_look_alike_and_are_few() {
    let rig = Rig::new(1).await;
    let mut client = rig.client(SECURE).await;
    client.open("c.example").await;
    client.plain("juliet", "guess").await;
    let known = client.until("</failure>").await;
    client.plain("nobody", "guess").await;
    assert_eq!(client.until("</failure>").await, known);
    assert!(known.contains("not-authorized"), "{known}");
    // That an account is disabled is said only to a client that knows its password.
    client.plain("tybalt", "guess").await;
    assert_eq!(client.until("</failure>").await, known);
    let end = client.rest().await;
    assert!(
        end.contains("policy-violation") && end.contains("</stream:stream>"),
        "{end}"
    );
    assert_eq!(rig.tally.get(Count::LoginFailed), 3);

    let mut client = rig.client(SECURE).await;
    client.open("c.example").await;
    client.plain("tybalt", PASSWORD).await;
    client.until("account-disabled").await;
    client.plain("juliet", PASSWORD).await;
    client.open("c.example").await;
}

// RFC 6120 §6.4.3: a client that sends no initial response is asked for one, with an empty
// challenge.
#[tokio::test]
async fn a_first_message_can_follow_an_empty_challenge() {
    let rig = Rig::new(1).await;
    let mut client = rig.client(SECURE).await;
    client.open("c.example").await;
    client
        .send("<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'/>")
        .await;
    client
        .until("<challenge xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>")
        .await;
    let message = sestina_xmpp::sasl::wire::encode(format!("\0juliet\0{PASSWORD}").as_bytes());
    client
        .send(&format!(
            "<response xmlns='urn:ietf:params:xml:ns:xmpp-sasl'>{message}</response>"
        ))
        .await;
    client.until("<success ").await;
}

#[tokio::test]
async fn stream_errors_before_a_session() {
    let rig = Rig::new(1).await;
    for (way, host, sent, condition) in [
        (SECURE, "d.example", "", "<host-unknown "),
        (SECURE, "c.example", "<message/>", "<not-authorized "),
        (
            SECURE,
            "c.example",
            "<presence to='a@@b'/>",
            "<not-authorized ",
        ),
        (
            SECURE,
            "c.example",
            "<what xmlns='urn:x'/>",
            "<unsupported-stanza-type ",
        ),
        (SECURE, "c.example", "<!-- no -->", "<restricted-xml "),
        (SECURE, "c.example", "<a></b>", "<not-well-formed "),
        (
            WEBSOCKET,
            "c.example",
            "<message xmlns='jabber:client'/>",
            "<not-authorized ",
        ),
    ] {
        let mut client = rig.client(way).await;
        let header = if way.websocket {
            format!("<open xmlns='urn:ietf:params:xml:ns:xmpp-framing' to='{host}' version='1.0'/>")
        } else {
            format!(
                "<stream:stream xmlns='jabber:client' \
                 xmlns:stream='http://etherx.jabber.org/streams' to='{host}' version='1.0'>"
            )
        };
        client.send(&header).await;
        if !sent.is_empty() {
            client.send(sent).await;
        }
        let end = client.rest().await;
        let start = if way.websocket { "<open " } else { "<?xml " };
        assert!(end.starts_with(start), "{end}");
        assert!(end.contains(condition), "{condition}: {end}");
        let close = if way.websocket {
            "<close "
        } else {
            "</stream:stream>"
        };
        assert!(end.contains(close), "{end}");
    }
}

#[tokio::test]
async fn second_login_and_stanzas_before_bind_end_the_stream() {
    let rig = Rig::new(1).await;
    for (sent, condition) in [
        (
            "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>AA==</auth>",
            "<policy-violation ",
        ),
        ("<message/>", "<not-authorized "),
    ] {
        let mut client = rig.client(SECURE).await;
        client.log_in().await;
        client.send("<enable xmlns='urn:xmpp:sm:3'/>").await;
        client.until("<unexpected-request ").await;
        client.send(sent).await;
        let end = client.rest().await;
        assert!(end.contains(condition), "{end}");
    }
}

#[tokio::test]
async fn limits_before_login_are_far_below_those_after() {
    let rig = Rig::new(1).await;
    let big = format!("<x xmlns='urn:x'>{}</x>", "y".repeat(20_000));
    let mut client = rig.client(SECURE).await;
    client.open("c.example").await;
    client.send(&big).await;
    let end = client.rest().await;
    assert!(end.contains("<policy-violation "), "{end}");
    let mut bound = rig.session().await;
    let big = format!(
        "<message id='big'><body>{}</body></message>",
        "y".repeat(20_000)
    );
    bound.client.send(&big).await;
    bound.heard(&bound.router, 1, "big").await;
}

#[tokio::test]
async fn a_refused_bind_may_be_tried_again() {
    let rig = Rig::new(1).await;
    let mut client = rig.client(SECURE).await;
    client.log_in().await;
    client.bind("balcony").await;
    let router = rig.cluster.router(0);
    let (slot, epoch, bind) = next_frame!(router, Bind);
    let refused = sestina_proto::Refused {
        handle: bind.handle,
        condition: "conflict".to_owned(),
        ..Default::default()
    };
    router.send(
        "edge1",
        slot,
        epoch,
        sestina_proto::to_edge::Body::Refused(refused),
    );
    let answer = client.until("</iq>").await;
    assert!(
        answer.contains("type='error'") && answer.contains("<conflict "),
        "{answer}"
    );
    client.bind("garden").await;
    let (_, _, again) = next_frame!(router, Bind);
    assert_ne!(again.handle, bind.handle);
    assert_eq!(again.resource, "garden");
}

#[tokio::test]
async fn a_login_has_its_time() {
    let mut config = super::rig::config("edge1");
    config.login.time = std::time::Duration::from_millis(50);
    let rig = Rig::with(super::router::Cluster::new(1), config, 1).await;
    let mut client = rig.client(SECURE).await;
    client.open("c.example").await;
    let end = client.rest().await;
    assert!(
        end.contains("<connection-timeout ") && end.ends_with("</stream:stream>"),
        "{end}"
    );
}

#[tokio::test]
async fn a_client_that_leaves_before_bind_leaves_nothing() {
    let rig = Rig::new(1).await;
    let client = rig.client(SECURE).await;
    super::rig::until("connected", || {
        rig.tally.level_of(crate::metrics::Level::Sockets) == 1
    })
    .await;
    drop(client);
    super::rig::until("gone", || {
        rig.tally.level_of(crate::metrics::Level::Sockets) == 0
    })
    .await;
}

/// XEP-0198 §3: a client that enables stream management too early is refused, and its login goes
/// on.
#[tokio::test]
async fn stream_management_before_sasl_is_refused_and_the_login_goes_on() {
    let rig = Rig::new(1).await;
    let folder = tempfile::tempdir().unwrap();
    let store = tls_tests::store(folder.path(), &["c.example"]);
    for starttls in [true, false] {
        let (stream, mut accepted) = connect_raw(PLAIN_LISTENER).await;
        accepted.start_tls = starttls.then(|| Acceptor::new(Arc::clone(&store), Purpose::StartTls));
        rig.edge.accept(accepted);
        let mut client = Client::on(stream);
        let features = client.open("c.example").await;
        assert_eq!(features.contains("<starttls "), starttls, "{features}");
        for early in [
            "<enable xmlns='urn:xmpp:sm:3'/>",
            "<resume xmlns='urn:xmpp:sm:3' previd='x' h='0'/>",
            "<r xmlns='urn:xmpp:sm:3'/>",
        ] {
            client.send(early).await;
            let failed = client.until("</failed>").await;
            assert!(
                failed.contains("<failed xmlns='urn:xmpp:sm:3'><unexpected-request "),
                "{early}: {failed}"
            );
        }
        let (mechanism, binding) = (Mechanism::ScramSha256, ClientBinding::Unsupported);
        assert!(client.scram(mechanism, "juliet", PASSWORD, binding).await);
    }
}

/// RFC 6120 §4.7.2: the answer to a header with `from` has that address, as a bare JID, in `to`;
/// the answer to a header without it has no `to`.
#[tokio::test]
async fn the_answer_to_a_header_is_to_whom_the_header_is_from() {
    let rig = Rig::new(1).await;
    for (from, to) in [
        (
            " from='Juliet@c.example/balcony'",
            Some(" to='juliet@c.example'"),
        ),
        ("", None),
    ] {
        for way in [SECURE, WEBSOCKET] {
            let mut client = rig.client(way).await;
            let name = if way.websocket {
                "open xmlns='urn:ietf:params:xml:ns:xmpp-framing'"
            } else {
                "stream:stream xmlns='jabber:client' \
                 xmlns:stream='http://etherx.jabber.org/streams'"
            };
            let end = if way.websocket { "/" } else { "" };
            let header = format!("<{name}{from} to='c.example' version='1.0'{end}>");
            client.send(&header).await;
            let answer = client.until("<stream:features").await;
            match to {
                Some(to) => assert!(answer.contains(to), "{answer}"),
                None => assert!(!answer.contains(" to="), "{answer}"),
            }
        }
    }
}
