//! Keys of TLS tickets, as routers tell them.

use sestina_proto as proto;
use sestina_proto::to_edge::Body as ToEdge;

use super::rig::{Rig, until};

fn keys(numbers: &[u8]) -> ToEdge {
    let key = |number: &u8| proto::TicketKey {
        number: u64::from(*number),
        key: vec![*number; 32].into(),
    };
    ToEdge::TicketKeys(proto::TicketKeys {
        keys: numbers.iter().map(key).collect(),
        period_s: 60,
    })
}

#[tokio::test]
async fn keys_of_the_cluster_replace_those_that_an_edge_has() {
    let rig = Rig::new(1).await;
    let known = || format!("{:?}", rig.edge.shared.tickets);
    assert_eq!(known(), "[0]", "its own, before a router has told any");
    let router = rig.cluster.router(0);
    router.send("edge1", 0, 0, keys(&[1, 2]));
    until("the first keys are taken", || known() == "[1, 2]").await;
    router.send("edge1", 0, 0, keys(&[9]));
    router.send("edge1", 0, 0, keys(&[2, 3, 4]));
    until("the next keys are taken", || known() == "[2, 3, 4]").await;
}
