//! The suite of all lease authorities.

use std::time::Duration;

use sestina_api::identity::{Holder, Proved, Secret};
use sestina_api::lease::{LeaseAuthority, Renewal};
use sestina_proto as proto;
use tokio::time::sleep;

pub(crate) const TTL: Duration = Duration::from_secs(60);

pub(crate) fn node(name: &str, incarnation: u64) -> proto::Node {
    let role = proto::NodeRole::Router.into();
    let address = format!("{name}.example:5280");
    proto::Node {
        name: name.into(),
        incarnation,
        role,
        address,
        draining: false,
        ..proto::Node::default()
    }
}

/// A process with its secret: the same one at each call for an incarnation.
pub(crate) fn held(node: &proto::Node) -> Holder {
    let secret = format!("{} {} and no other", node.name, node.incarnation);
    Holder {
        node: node.clone(),
        secret: Secret::from_wire(secret.into()),
    }
}

pub(crate) async fn fresh(leases: &dyn LeaseAuthority) -> Vec<proto::Node> {
    let mut nodes: Vec<_> = leases
        .fresh()
        .await
        .unwrap()
        .into_iter()
        .map(|(n, _)| n)
        .collect();
    nodes.sort_by(|a, b| a.name.cmp(&b.name));
    nodes
}

pub(crate) async fn lease_suite(leases: &dyn LeaseAuthority) {
    let (a, a2, b) = (node("a", 1), node("a", 2), node("b", u64::MAX));
    assert_eq!(fresh(leases).await, []);
    assert_eq!(
        leases.renew(&held(&a), TTL).await.unwrap(),
        Renewal::Renewed
    );
    assert_eq!(
        leases.renew(&held(&a), TTL).await.unwrap(),
        Renewal::Renewed
    );
    assert_eq!(leases.renew(&held(&a2), TTL).await.unwrap(), Renewal::Lost);
    assert_eq!(
        leases.renew(&held(&b), TTL).await.unwrap(),
        Renewal::Renewed
    );
    assert_eq!(fresh(leases).await, [a.clone(), b.clone()]);
    for (_, remaining) in leases.fresh().await.unwrap() {
        assert!(
            remaining <= TTL && remaining > TTL - Duration::from_secs(30),
            "{remaining:?}"
        );
    }

    // Changes of the node are sent with its renewals.
    let draining = proto::Node {
        draining: true,
        ..b.clone()
    };
    leases.renew(&held(&draining), TTL).await.unwrap();
    assert_eq!(fresh(leases).await, [a.clone(), draining.clone()]);

    // A fresh lease cannot be marked; an ended one can, and is never renewed again.
    assert!(!leases.mark_ended(&a).await.unwrap());
    assert_eq!(
        leases
            .renew(&held(&a), Duration::from_millis(1))
            .await
            .unwrap(),
        Renewal::Renewed
    );
    while fresh(leases).await.contains(&a) {
        sleep(Duration::from_millis(1)).await;
    }
    assert!(leases.mark_ended(&a).await.unwrap());
    assert_eq!(leases.renew(&held(&a), TTL).await.unwrap(), Renewal::Lost);
    assert_eq!(fresh(leases).await, std::slice::from_ref(&draining));
    leases.unmark(&a).await.unwrap();
    assert_eq!(
        leases.renew(&held(&a), TTL).await.unwrap(),
        Renewal::Renewed
    );

    // After a release the next incarnation may take the lease, and a late renewal is refused.
    leases.release(&held(&a2)).await.unwrap();
    assert_eq!(
        fresh(leases).await.len(),
        2,
        "another incarnation's release ended the lease"
    );
    leases.release(&held(&a)).await.unwrap();
    assert_eq!(leases.renew(&held(&a), TTL).await.unwrap(), Renewal::Lost);
    let a3 = node("a", 3);
    assert_eq!(
        leases.renew(&held(&a3), TTL).await.unwrap(),
        Renewal::Renewed
    );
    assert!(
        leases.mark_ended(&a).await.unwrap(),
        "the former incarnation has ended"
    );
    assert_eq!(
        leases.renew(&held(&a3), TTL).await.unwrap(),
        Renewal::Renewed,
        "its mark hit another"
    );
    assert_eq!(fresh(leases).await, [a3, draining]);

    secrets(leases).await;
}

/// The first request of an incarnation stores the hash of its secret; requests without the secret
/// are refused.
async fn secrets(leases: &dyn LeaseAuthority) {
    let c = held(&node("c", 5));
    let thief = Holder::new(c.node.clone());
    assert_eq!(leases.prove(&c).await.unwrap(), Proved::Unknown);
    assert_eq!(leases.renew(&c, TTL).await.unwrap(), Renewal::Renewed);
    assert_eq!(leases.prove(&c).await.unwrap(), Proved::Yes);
    assert_eq!(leases.prove(&thief).await.unwrap(), Proved::No);
    assert_eq!(
        leases
            .renew(&thief, Duration::from_millis(1))
            .await
            .unwrap(),
        Renewal::WrongSecret
    );
    assert!(leases.release(&thief).await.is_err());
    assert!(
        fresh(leases).await.contains(&c.node),
        "a thief ended a lease"
    );
    let silent = Holder {
        secret: Secret::from_wire(Default::default()),
        ..c.clone()
    };
    assert_ne!(leases.renew(&silent, TTL).await, Ok(Renewal::Renewed));
    leases.release(&c).await.unwrap();
    assert_eq!(leases.prove(&c).await.unwrap(), Proved::Yes);
    assert_eq!(
        leases.renew(&thief, TTL).await.unwrap(),
        Renewal::WrongSecret,
        "the secret of an incarnation that has ended was replaced"
    );
}
