//! The fail points: to add one, add its name here and mark its place with `failpoint!`.

/// Every point: its name, and its place in the code. A name that is not in the list can neither be
/// hit (it does not compile) nor be armed.
pub const NAMES: &[(&str, &str)] = &[
    (
        "edge.received",
        "a stanza has been parsed, nothing of it has left for the owner",
    ),
    (
        "edge.sent",
        "a stanza has left for the owner, which has not accepted it",
    ),
    (
        "edge.accepted",
        "the owner has accepted, no <a/> has left for the client",
    ),
    (
        "edge.acked",
        "an <a/> has been written to the client's socket",
    ),
    (
        "edge.delivering",
        "a batch has come from the owner, nothing is on a socket",
    ),
    (
        "edge.delivered",
        "a batch is on its sockets, the lane has not acknowledged it",
    ),
    (
        "edge.resuming",
        "a resumption has been asked of the owner, no answer has come",
    ),
    (
        "edge.replaying",
        "the edge is replaying stanzas that are not settled to a new owner",
    ),
    (
        "edge.session_left",
        "the owner has reported that a session has left this socket; error: the report is lost",
    ),
    ("edge.lane_opened", "a lane to a router has been welcomed"),
    (
        "edge.lease_renew",
        "before each renewal of the edge's lease; error: it is not renewed",
    ),
    (
        "router.received",
        "a stanza has come, the owner has not numbered it",
    ),
    (
        "router.accepted",
        "a stanza is numbered, `accepted` has not left for the edge",
    ),
    (
        "router.executed",
        "the effects of a stanza have begun, none is settled",
    ),
    (
        "router.settled",
        "a stanza is settled, the edge has not been told",
    ),
    (
        "router.room_event",
        "a room event exists, the state store does not hold it",
    ),
    (
        "router.room_committed",
        "the state store holds a room event, no frame of it has left",
    ),
    (
        "router.room_sent",
        "the first frame of a room event has left, others have not",
    ),
    (
        "router.resume_raised",
        "a resume has raised the generation, `h` has not been read",
    ),
    (
        "router.detached",
        "a session has lost its socket, the state store does not hold its queue",
    ),
    (
        "router.detached_stored",
        "the state store holds a detached session's queue",
    ),
    ("router.quiesce", "a slot has been quiesced for hand-over"),
    (
        "router.flushed",
        "a quiesced slot has been flushed, it is not released",
    ),
    (
        "router.released",
        "a slot has been released, no router has claimed it",
    ),
    (
        "router.claim_marked",
        "an ended lease is marked, the slot table is unchanged",
    ),
    (
        "router.claimed",
        "the slot table names the new owner, no epoch has been installed",
    ),
    (
        "router.installed",
        "the new owner's epoch is installed, nothing has been restored",
    ),
    (
        "router.restored",
        "a slot has been restored, its event log has not been re-sent",
    ),
    (
        "router.lease_renew",
        "before each renewal of the router's lease; error: it is not renewed",
    ),
    (
        "router.archive_flush",
        "before a batch of archive rows is sent to storage",
    ),
    (
        "router.archived",
        "storage has committed a batch of archive rows, it is not settled",
    ),
    (
        "router.peer_send",
        "before a frame leaves for another router; error: the lane closes",
    ),
    (
        "router.lane_send",
        "before a batch leaves for an edge; error: the lane closes",
    ),
    (
        "router.message_sent",
        "before a slot message leaves for the owner of its addressee's slot",
    ),
    (
        "router.message_received",
        "a slot message has come in order, nothing is done with it",
    ),
    (
        "router.message_complete",
        "all parts of a slot message are done, its origin has not been told",
    ),
    (
        "router.message_done",
        "the end of a slot message has come back to its origin",
    ),
    (
        "router.data_put",
        "data of a user is to be written, storage has not been asked",
    ),
    (
        "router.data_stored",
        "storage has committed data of a user, its client has no answer",
    ),
    (
        "router.iq_handled",
        "a module has answered an IQ, the answer is not queued",
    ),
    (
        "router.replica_commit",
        "before a slot's changes leave for the state store",
    ),
    (
        "router.replica_committed",
        "the state store holds a slot's changes, no process has been told",
    ),
    (
        "router.room_input",
        "a stanza has come to its room's owner, the room has not seen it",
    ),
    (
        "router.room_received",
        "a room event has come to an owner of its receivers' sessions",
    ),
    (
        "router.room_acked",
        "a session owner's acknowledgement of a room event has come",
    ),
    (
        "router.session_ended",
        "a session has ended, no contact and no room has been told",
    ),
    (
        "state_store.apply",
        "before a change of the state store; error: it is unavailable",
    ),
    (
        "state_store.applied",
        "the state store has changed, the owner has not been told",
    ),
    (
        "state_store.load",
        "before a slot's replica is loaded; error: it is unavailable",
    ),
    (
        "storage.write",
        "inside a write's transaction, before it commits; error: it is unavailable",
    ),
    (
        "storage.written",
        "a write has committed, the caller has not been told",
    ),
    (
        "storage.claim",
        "inside the claim's transaction, before it commits",
    ),
    (
        "storage.claimed",
        "the claim has committed, the claimer has not been told",
    ),
    ("storage.read", "before a read; error: it is unavailable"),
];
