//! A lease that is renewed late, and a process that has too much to do.

use std::sync::atomic::Ordering;
use std::time::Duration;

use sestina_runtime::clock::BootInstant;

use super::client::SECURE;
use super::rig::{Rig, config, until};
use super::router::Cluster;
use crate::EdgeConfig;
use crate::config::LeaseConfig;
use crate::metrics::{Count, Level, Timing};

#[tokio::test]
async fn a_lease_renewed_before_its_end_cuts_no_session() {
    let lease = LeaseConfig {
        ttl: Duration::from_secs(20),
        every: Duration::from_millis(50),
        // Serving pauses half a second after the last renewal.
        margin: Duration::from_millis(19_500),
    };
    let config = EdgeConfig {
        lease,
        ..config("edge1")
    };
    let rig = Rig::with(Cluster::new(1), config, 1).await;
    let mut bound = rig.managed(SECURE).await;
    bound.say(&["one"]).await;
    bound.heard(&bound.router, 1, "one").await;
    bound.progress(1, 1);
    until("it is settled", || {
        rig.tally.level_of(Level::Unsettled) == 0
    })
    .await;
    let incarnation = rig.edge.shared.node().incarnation;

    rig.cluster.leases.store(false, Ordering::Relaxed);
    until("it pauses", || rig.tally.get(Count::LeasePaused) == 1).await;
    assert!(!rig.edge.status().ready(), "ready without a lease");
    bound.say(&["two"]).await;
    bound.deliver(1, "nothing is taken from a lane");
    until("the lane is given up", || {
        rig.tally.get(Count::LaneLost) > 0
    })
    .await;
    assert!(bound.router.is_quiet(), "a stanza was taken in a pause");

    rig.cluster.leases.store(true, Ordering::Relaxed);
    until("it goes on", || rig.tally.get(Count::LeaseResumed) == 1).await;
    rig.lanes_open(1).await;
    bound.heard(&bound.router, 2, "two").await;
    assert_eq!(rig.tally.get(Count::LeaseLost), 0);
    assert_eq!(rig.tally.level_of(Level::Sessions), 1);
    assert_eq!(rig.edge.shared.node().incarnation, incarnation);
    let (renewals, _) = rig.tally.timed(Timing::LeaseRenewed);
    let (left, _) = rig.tally.timed(Timing::LeaseLeft);
    assert!(renewals > left && left > 0, "{renewals} {left}");
}

#[tokio::test]
async fn logins_of_an_overloaded_process_wait_for_their_turn() {
    let rig = Rig::new(1).await;
    let pressure = &rig.edge.shared.config.around.pressure;
    rig.session().await;
    assert_eq!(rig.tally.get(Count::LoginDelayed), 0);
    pressure.note_late(Duration::from_secs(1), BootInstant::now());
    let mut client = rig.client(SECURE).await;
    client.log_in().await;
    assert_eq!(rig.tally.get(Count::LoginDelayed), 1);
    assert_eq!(rig.tally.get(Count::LoginShed), 0);
}
