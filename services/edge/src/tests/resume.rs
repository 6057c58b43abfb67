//! XEP-0198 §5.

use sestina_proto as proto;
use sestina_proto::to_edge::Body as ToEdge;
use sestina_xmpp::ext::sm::SmId;

use super::client::SECURE;
use super::rig::{Rig, config};
use super::router::{Cluster, SM_KEY, next_frame};

fn id(slot: u16, bare: &str) -> String {
    SmId {
        slot,
        nonce: 77,
        bare: bare.to_owned(),
    }
    .encode(SM_KEY)
}

#[tokio::test]
async fn a_session_goes_on_at_another_edge() {
    let cluster = Cluster::new(1);
    let one = Rig::with(cluster.clone(), config("edge1"), 1).await;
    let two = Rig::with(cluster, config("edge2"), 1).await;
    let bound = one.managed(SECURE).await;
    let router = bound.router.clone();
    drop(bound.client);
    let (_, _, close) = next_frame!(router, Close);
    assert!(!close.clean);

    let mut client = two.client(SECURE).await;
    client.log_in().await;
    let previd = id(bound.slot, "juliet@c.example");
    client
        .send(&format!(
            "<resume xmlns='urn:xmpp:sm:3' previd='{previd}' h='4'/>"
        ))
        .await;
    let (slot, epoch, resume) = next_frame!(router, Resume);
    assert_eq!((slot, resume.session_lo, resume.h), (bound.slot, 77, 4));
    let resumed = proto::Resumed {
        handle: resume.handle,
        generation: 2,
        jid: "juliet@c.example/balcony".to_owned(),
        session_lo: 77,
        accepted: 12,
        settled: 11,
        in_base: 2,
        out_base: 1,
        acked: 5,
        ..proto::Resumed::default()
    };
    let mut again = super::rig::Bound {
        client,
        router: router.clone(),
        edge: "edge2".to_owned(),
        slot,
        epoch,
        handle: resume.handle,
        generation: 2,
    };
    // The answer and the first delivery come in one batch, and leave in that order.
    let bodies = vec![ToEdge::Resumed(resumed), again.delivery(6, "missed")];
    router.batch("edge2", slot, epoch, bodies);
    let text = again.client.until("</message>").await;
    assert!(
        text.starts_with(&format!(
            "<resumed xmlns='urn:xmpp:sm:3' previd='{previd}' h='10'/><message"
        )),
        "{text}"
    );
    assert!(text.contains("to='juliet@c.example/balcony'"), "{text}");
    again.say(&["next"]).await;
    again.heard(&router, 13, "next").await;
    again.client.send("<a xmlns='urn:xmpp:sm:3' h='5'/>").await;
    assert_eq!(router.acked().await.number, 6);
}

#[tokio::test]
async fn what_cannot_be_resumed_may_be_bound() {
    let rig = Rig::new(1).await;
    let router = rig.cluster.router(0);
    let mut client = rig.client(SECURE).await;
    client.log_in().await;
    let slot = sestina_cluster::slots::slot_of_bare("juliet@c.example");
    let mut forged = id(slot, "juliet@c.example");
    forged.replace_range(0..1, if forged.starts_with('A') { "B" } else { "A" });
    for previd in [forged, "nonsense".to_owned(), id(slot, "romeo@c.example")] {
        client
            .send(&format!(
                "<resume xmlns='urn:xmpp:sm:3' previd='{previd}' h='0'/>"
            ))
            .await;
        let failed = client.until("</failed>").await;
        assert!(failed.contains("<item-not-found "), "{failed}");
    }
    assert!(router.is_quiet());
    let previd = id(slot, "juliet@c.example");
    client
        .send(&format!(
            "<resume xmlns='urn:xmpp:sm:3' previd='{previd}' h='0'/>"
        ))
        .await;
    let (_, epoch, resume) = next_frame!(router, Resume);
    let refused = proto::Refused {
        handle: resume.handle,
        condition: "item-not-found".to_owned(),
        text: String::new(),
        h: Some(9),
    };
    router.send("edge1", slot, epoch, ToEdge::Refused(refused));
    let failed = client.until("</failed>").await;
    assert!(
        failed.starts_with("<failed xmlns='urn:xmpp:sm:3' h='9'>"),
        "{failed}"
    );
    client.bind("balcony").await;
    let (_, _, bind) = next_frame!(router, Bind);
    router.bound("edge1", slot, epoch, &bind);
    client.until("</iq>").await;
}

#[tokio::test]
async fn an_answer_for_a_client_that_left_is_taken_back() {
    let rig = Rig::new(1).await;
    let router = rig.cluster.router(0);
    let mut client = rig.client(SECURE).await;
    client.log_in().await;
    client.bind("balcony").await;
    let (slot, epoch, bind) = next_frame!(router, Bind);
    drop(client);
    router.bound("edge1", slot, epoch, &bind);
    let (_, _, close) = next_frame!(router, Close);
    assert_eq!((close.handle, close.clean), (bind.handle, false));
}
