//! What all sessions of an edge hold together has a bound.

use sestina_proto as proto;
use sestina_proto::to_edge::Body as ToEdge;

use super::client::SECURE;
use super::rig::{Rig, config, until};
use super::router::{Cluster, next_frame};
use crate::EdgeConfig;
use crate::metrics::{Count, Level};

const BOUND: usize = 1 << 20;

async fn rig(held_bytes: usize) -> Rig {
    let config = EdgeConfig {
        held_bytes,
        ..config("edge1")
    };
    Rig::with(Cluster::new(1), config, 1).await
}

#[tokio::test]
async fn the_session_that_holds_most_gives_way_and_logins_wait_until_it_is_gone() {
    let rig = rig(BOUND).await;
    let (much, mut little) = (rig.managed(SECURE).await, rig.managed(SECURE).await);
    little.deliver(1, &"x".repeat(30_000));
    let large = "x".repeat(60_000);
    for number in 1..=20 {
        much.deliver(number, &large);
    }
    until("a session gives way", || rig.tally.get(Count::GaveWay) == 1).await;
    let (_, _, close) = next_frame!(much.router, Close);
    assert_eq!((close.handle, close.clean), (much.handle, false));
    assert!(rig.tally.level_of(Level::HeldBytes) > BOUND as i64);

    // Its owner has not taken it yet: nothing was gained.
    let mut client = rig.client(SECURE).await;
    let login = tokio::spawn(async move { client.log_in().await });
    until("the login waits", || {
        rig.tally.get(Count::LoginDelayed) == 1
    })
    .await;
    assert!(!login.is_finished(), "it did not wait");
    much.frame(ToEdge::Detached(proto::Detached {
        handle: much.handle,
        generation: 1,
    }));
    login.await.unwrap();
    assert_eq!(rig.tally.get(Count::LoginShed), 0);

    // The other was not touched.
    assert_eq!(rig.tally.get(Count::GaveWay), 1);
    little.say(&["one"]).await;
    little.heard(&little.router, 1, "one").await;
    let held = rig.tally.level_of(Level::HeldBytes);
    assert!((30_000..60_000).contains(&held), "{held} bytes are held");
}

#[tokio::test]
async fn sessions_that_hold_little_never_give_way() {
    let rig = rig(10_000).await;
    let mut bound = rig.managed(SECURE).await;
    bound.deliver(1, &"x".repeat(30_000));
    until("too much is held", || {
        rig.edge.shared.attachments.held.is_full()
    })
    .await;
    // What was full at one tick has been looked at in the same one.
    bound.say(&["one"]).await;
    bound.heard(&bound.router, 1, "one").await;
    assert_eq!(rig.tally.get(Count::GaveWay), 0);
    bound.client.send("<a xmlns='urn:xmpp:sm:3' h='1'/>").await;
    bound.frame(ToEdge::Progress(proto::Progress {
        items: vec![bound.item(1, 1, 1)],
    }));
    until("there is room", || {
        !rig.edge.shared.attachments.held.is_full()
    })
    .await;
}
