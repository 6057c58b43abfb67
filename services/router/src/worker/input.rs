//! The inputs of a worker.

use std::sync::Arc;

use sestina_api::key::IdempotencyKey;
use sestina_api::link::EdgeLane;
use sestina_api::peer::PeerSink;
use sestina_api::state_store::{Found, Listing, Loaded, Stamp, StateStoreError};
use sestina_cluster::slot_map::SlotTable;
use sestina_proto as proto;
use tokio::sync::oneshot;

use super::core::{LaneRef, OfflineRead, PeerRef};
use super::data::DataReply;
use super::operations::OperationId;
use super::pages::ArchiveQuery;

/// One thing that happened.
#[allow(missing_docs)]
pub enum Input {
    /// An edge opened a lane.
    EdgeLane {
        lane: LaneRef,
        instance: u64,
        lanes: u32,
        sink: Arc<dyn EdgeLane>,
    },
    /// That lane ended.
    EdgeLaneClosed { lane: LaneRef, instance: u64 },
    /// A frame of an edge.
    Edge {
        lane: LaneRef,
        frame: proto::ToRouter,
    },
    /// This router opened a lane to another.
    PeerLane {
        node: proto::Node,
        sink: Arc<dyn PeerSink>,
    },
    /// Our lane to that router ended.
    PeerLaneClosed { peer: PeerRef },
    /// A worker of that router has (anew) a lane to answer on: answers before that may be lost.
    PeerReturned { peer: PeerRef },
    /// A frame of a router.
    Peer {
        from: PeerRef,
        frame: proto::PeerFrame,
    },
    /// A newer slot table.
    Table(Arc<SlotTable>),
    /// The table gives this process a slot; `live` are all edges and routers with a fresh lease.
    Take {
        slot: u16,
        epoch: u64,
        live: Arc<[proto::Node]>,
    },
    /// The table gives a slot of this process to another.
    Lose { slot: u16, epoch: u64 },
    /// A process is gone for good: its lease has ended.
    NodeGone { incarnation: u64 },
    /// By their leases: processes, by incarnation, and the table whose epochs each has installed.
    Installed {
        installed: Arc<[(u64, proto::Position)]>,
    },
    /// A job ended.
    Done(JobDone),
    /// An administrator's question.
    Command(Command),
}

/// What storage knows of a user.
#[derive(Debug)]
pub struct Known {
    /// The account exists.
    pub exists: bool,
    /// Keys of offline messages among those that were asked about.
    pub stored: Vec<IdempotencyKey>,
    /// The data of modules that was asked for, as far as the user has it.
    pub data: Vec<proto::EntityDataItem>,
}

/// How a job ended.
#[derive(Debug)]
#[allow(missing_docs)]
pub enum JobDone {
    /// The rows are committed, but for those that are `fenced`: the table has another epoch of their
    /// slot. `slots` are slot and epoch of each row.
    Archive {
        slots: Vec<(u16, u64)>,
        operations: Vec<OperationId>,
        fenced: Vec<(proto::ArchiveRow, OperationId)>,
    },
    /// The same for offline rows; `full` are refused because their user has too many.
    Offline {
        slots: Vec<(u16, u64)>,
        operations: Vec<OperationId>,
        fenced: Vec<(proto::OfflineRow, OperationId)>,
        full: Vec<(OperationId, proto::Stanza)>,
    },
    UserKnown {
        slot: u16,
        bare: String,
        known: Result<Known, ()>,
    },
    OfflineList {
        read: OfflineRead,
        page: Result<proto::OfflineListReply, ()>,
    },
    OfflineRemoved {
        slot: u16,
        session: u128,
        request: proto::OfflineRemoveRequest,
        /// Nothing was done: the table has another epoch.
        fenced: bool,
    },
    ArchiveQuery {
        query: Box<ArchiveQuery>,
        page: Result<proto::ArchiveQueryReply, ()>,
    },
    /// An error says why storage did not answer.
    Residents {
        slot: u16,
        epoch: u64,
        question: u64,
        user: String,
        items: Result<Vec<proto::EntityDataItem>, String>,
    },
    /// An error says why storage did not do it, or is not known to have done it.
    EntityData {
        slot: u16,
        epoch: u64,
        entity: String,
        reply: Result<DataReply, String>,
    },
    ReplicaCommitted {
        slot: u16,
        at: Stamp,
        result: Result<Found, StateStoreError>,
    },
    ReplicaListed {
        slot: u16,
        at: Stamp,
        result: Result<Listing, StateStoreError>,
    },
    ReplicaLoaded {
        slot: u16,
        epoch: u64,
        result: Result<Loaded, StateStoreError>,
    },
    /// The keys that were asked for are there, as far as they could be had.
    Keys,
    /// The table was changed (true), or the hand-over failed.
    Released { slot: u16, epoch: u64, done: bool },
    /// Storage was asked for a higher epoch of a slot; the table tells what came of it.
    Raised { slot: u16 },
}

/// A question of an administrator to a worker.
#[allow(missing_docs)]
pub enum Command {
    /// The sessions of this worker.
    Sessions {
        answer: oneshot::Sender<Vec<crate::admin::SessionInfo>>,
    },
    /// Ends a session (full JID) or all of a user (bare JID); tells how many.
    Close {
        jid: String,
        answer: oneshot::Sender<usize>,
    },
    /// Counts for the status page.
    Counts {
        answer: oneshot::Sender<crate::admin::Counts>,
    },
    /// The replicas with which a next process goes on with the sessions and rooms of these slots.
    Replicas {
        slots: std::ops::Range<u16>,
        answer: oneshot::Sender<Vec<crate::admin::Replica>>,
    },
    /// The slots that this worker owns, each with its epoch.
    Held {
        answer: oneshot::Sender<Vec<(u16, u64)>>,
    },
    /// Hands all slots over that it can (drain); answered when none is left or quiescing.
    HandOver { slots: Vec<u16>, to: proto::Node },
}
