//! Clients that log in without an account.

use sestina_cluster::slots::slot_of_bare;

use super::client::{WEBSOCKET, Way};
use super::rig::Rig;
use super::router::next_frame;

#[tokio::test]
async fn anonymous_users_of_a_room_are_named_in_its_slot() {
    let rig = Rig::new(1).await;
    let way = Way {
        query: &[("room", "Standup"), ("prefix", "acme")],
        ..WEBSOCKET
    };
    let mut client = rig.client(way).await;
    let features = client.open("meet.example").await;
    assert!(
        features.starts_with("<open xmlns='urn:ietf:params:xml:ns:xmpp-framing'"),
        "{features}"
    );
    assert!(
        features.contains("<mechanism>ANONYMOUS</mechanism>"),
        "{features}"
    );
    assert!(!features.contains("PLAIN"), "{features}");
    assert!(!features.contains("channel-binding"), "{features}");
    client
        .send("<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='ANONYMOUS'/>")
        .await;
    // XEP-0175 §2: there is nothing to ask for.
    client
        .until("<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>")
        .await;
    client.open("meet.example").await;
    client.bind("").await;
    let router = rig.cluster.router(0);
    let (slot, epoch, bind) = next_frame!(router, Bind);
    assert_eq!(slot, slot_of_bare("[acme]standup@conference.meet.example"));
    assert_eq!(slot_of_bare(&bind.bare), slot);
    assert!(bind.anonymous && bind.transport == "websocket");
    assert_eq!(bind.query["room"], "Standup");
    router.bound("edge1", slot, epoch, &bind);
    let answer = client.until("</iq>").await;
    assert!(answer.contains("<iq xmlns='jabber:client'"), "{answer}");
    client
        .send("<close xmlns='urn:ietf:params:xml:ns:xmpp-framing'/>")
        .await;
    let end = client.rest().await;
    assert!(
        end.contains("<close xmlns='urn:ietf:params:xml:ns:xmpp-framing'/>"),
        "{end}"
    );
    assert!(next_frame!(router, Close).2.clean);
}

#[tokio::test]
async fn an_anonymous_client_that_comes_back_has_its_old_name() {
    let rig = Rig::new(1).await;
    let router = rig.cluster.router(0);
    let bare = format!(
        "{}@meet.example",
        sestina_cluster::slots::name_in_slot(99, 5)
    );
    let id = sestina_xmpp::ext::sm::SmId {
        slot: 99,
        nonce: 3,
        bare: bare.clone(),
    };
    let previd: &'static str = id.encode(super::router::SM_KEY).leak();
    let query: &'static [(&str, &str)] = vec![("previd", previd)].leak();
    let mut client = rig.client(Way { query, ..WEBSOCKET }).await;
    client.open("meet.example").await;
    client
        .send("<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='ANONYMOUS'>=</auth>")
        .await;
    client.until("<success ").await;
    client.open("meet.example").await;
    client
        .send(&format!(
            "<resume xmlns='urn:xmpp:sm:3' previd='{previd}' h='0'/>"
        ))
        .await;
    let (slot, _, resume) = next_frame!(router, Resume);
    assert_eq!((slot, resume.bare, resume.session_lo), (99, bare, 3));
}
