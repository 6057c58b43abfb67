//! The fail points: to add one, add its name here and mark its place with `failpoint!`.

/// Every point: its name, and where in the code it stands. A name that is not here cannot be hit
/// (it does not compile) nor armed.
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
        "the edge is replaying to a new owner what is not settled",
    ),
    (
        "edge.session_left",
        "the owner has said that a session is not on this socket any more; error: it was not heard",
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
        "the effects of a stanza are started, none is settled",
    ),
    (
        "router.settled",
        "a stanza is settled, the edge has not been told",
    ),
    (
        "router.room_event",
        "a room event exists, the shadow does not hold it",
    ),
    (
        "router.room_committed",
        "the shadow holds a room event, no frame of it has left",
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
        "a session has lost its socket, the shadow does not hold its queue",
    ),
    (
        "router.detached_stored",
        "the shadow holds a detached session's queue",
    ),
    ("router.freeze", "a slot has been frozen for hand-over"),
    (
        "router.flushed",
        "a frozen slot has been flushed, it is not released",
    ),
    (
        "router.released",
        "a slot has been released, no one has claimed it",
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
        "a slot has been restored, its tail has not been re-sent",
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
        "router.effect_sent",
        "before an effect leaves for the owner of its addressee's slot",
    ),
    (
        "router.effect_received",
        "an effect has come in order, nothing is done with it",
    ),
    (
        "router.effect_complete",
        "all parts of an effect are done, its origin has not been told",
    ),
    (
        "router.effect_done",
        "the end of an effect has come back to its origin",
    ),
    (
        "router.iq_handled",
        "a module has answered an IQ, the answer is not queued",
    ),
    (
        "router.shadow_commit",
        "before a slot's changes leave for the shadow",
    ),
    (
        "router.shadow_committed",
        "the shadow holds a slot's changes, nobody has been told",
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
        "a session has ended, nobody has been told",
    ),
    (
        "shadow.apply",
        "before a change of the shadow store; error: it is away",
    ),
    (
        "shadow.applied",
        "the shadow store has changed, the owner has not been told",
    ),
    (
        "shadow.load",
        "before a slot's shadow is loaded; error: it is away",
    ),
    (
        "storage.write",
        "inside a write's transaction, before it commits; error: it is away",
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
    ("storage.read", "before a read; error: it is away"),
];
