//! The faults that a seed chooses from: one is as likely as often as it is listed.

use super::Fault;
use crate::lease::LeaseFault;
use crate::partition::Partition;

/// The first faults of two of the lists.
const COMMON: [Fault; 11] = [
    Fault::None,
    Fault::KillRouter,
    Fault::KillRouter,
    Fault::KillRouter,
    Fault::KillEdge,
    Fault::KillEdge,
    Fault::EdgeLane,
    Fault::PeerLane,
    Fault::AllLanes,
    Fault::StateStoreUnavailable,
    Fault::StateStoreLongUnavailable,
];

/// For runs without faults of the network.
const OTHERS: [Fault; 14] = [
    Fault::StateStoreFlushed,
    Fault::StateStoreFlaky,
    Fault::StateStoreFlaky,
    Fault::StateStoreFailOver,
    Fault::StateStoreFailOver,
    Fault::MoveAndFailOver,
    Fault::MoveAndFailOver,
    Fault::StorageUnavailable,
    Fault::Pause,
    Fault::Suspend,
    Fault::Suspend,
    Fault::HandOver,
    Fault::CommitsLost,
    Fault::CommitsLost,
];

/// For runs with faults of the network, among them those that end leases.
const NETWORK: [Fault; 29] = [
    Fault::None,
    Fault::KillRouter,
    Fault::KillEdge,
    Fault::Suspend,
    Fault::Pause,
    Fault::StateStoreUnavailable,
    Fault::StorageUnavailable,
    Fault::HandOver,
    Fault::CommitsLost,
    Fault::Partition(Partition::Routers),
    Fault::Partition(Partition::Routers),
    Fault::Partition(Partition::EdgeRouter),
    Fault::Partition(Partition::EdgeRouter),
    Fault::Partition(Partition::RouterStorage),
    Fault::Partition(Partition::RouterStateStore),
    Fault::Partition(Partition::RouterStores),
    Fault::Partition(Partition::RouterStores),
    Fault::Partition(Partition::RouterUnreached),
    Fault::Partition(Partition::RouterAlone),
    Fault::Partition(Partition::EdgeAlone),
    Fault::Partition(Partition::Storage),
    Fault::Partition(Partition::StateStore),
    Fault::Lease(LeaseFault::RestartRouter),
    Fault::Lease(LeaseFault::RestartRouter),
    Fault::Lease(LeaseFault::RestartEdge),
    Fault::Lease(LeaseFault::Clock),
    Fault::Lease(LeaseFault::Clock),
    Fault::Lease(LeaseFault::WallClock),
    Fault::UnknownFrames,
];

/// For the fault before a death that comes as soon as the cluster says that it is fully redundant.
/// Left out are losses of a store that the server notices only when it asks the store the next time.
const BEFORE_A_DEATH: [Fault; 8] = [
    Fault::StateStoreFlaky,
    Fault::StorageUnavailable,
    Fault::Suspend,
    Fault::HandOver,
    Fault::Lease(LeaseFault::RestartRouter),
    Fault::Lease(LeaseFault::RestartEdge),
    Fault::Partition(Partition::Routers),
    Fault::Partition(Partition::EdgeRouter),
];

/// The faults of a run, with or without those of the network.
pub(crate) fn of_run(network: bool) -> Vec<Fault> {
    if network {
        NETWORK.to_vec()
    } else {
        [&COMMON[..], &OTHERS].concat()
    }
}

/// The faults before a death that comes as soon as the cluster is fully redundant again.
pub(crate) fn before_a_death() -> Vec<Fault> {
    [&COMMON[..], &BEFORE_A_DEATH].concat()
}
