//! The label values: closed sets, so that input from outside cannot create an unbounded number of
//! series.

use super::kinds::Label;

macro_rules! labels {
    ($(
        $(#[doc = $about:literal])*
        pub enum $name:ident($key:literal) {
            $($(#[doc = $doc:literal])* $variant:ident = $text:literal,)*
        }
    )*) => {$(
        $(#[doc = $about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name {
            $($(#[doc = $doc])* $variant,)*
        }

        impl Label for $name {
            const KEY: &'static str = $key;
            const ALL: &'static [$name] = &[$($name::$variant,)*];

            fn index(self) -> usize {
                self as usize
            }

            fn as_str(self) -> &'static str {
                match self {
                    $($name::$variant => $text,)*
                }
            }
        }
    )*};
}

labels! {
    /// How a session reached the edge.
    pub enum Transport("transport") {
        /// TCP, with or without TLS.
        Tcp = "tcp",
        /// WebSocket (RFC 7395).
        WebSocket = "websocket",
    }

    /// Kind of a stanza.
    pub enum Kind("kind") {
        /// Message.
        Message = "message",
        /// Presence.
        Presence = "presence",
        /// IQ.
        Iq = "iq",
    }

    /// The outcome of a stanza.
    pub enum Outcome("outcome") {
        /// Numbered by its owner.
        Accepted = "accepted",
        /// Appended to a recipient's queue.
        Delivered = "delivered",
        /// Kept in the offline store.
        Stored = "stored",
        /// Answered with an error.
        Bounced = "bounced",
        /// Settled.
        Settled = "settled",
    }

    /// Direction of bytes at the edge.
    pub enum Direction("direction") {
        /// From clients.
        In = "in",
        /// To clients.
        Out = "out",
    }

    /// New work that an overloaded process delays.
    pub enum Shed("work") {
        /// Connections of clients that were accepted late.
        Connection = "connection",
        /// Logins that waited for their turn.
        Login = "login",
        /// Logins that were refused for now, because their turn did not come in time.
        LoginRefused = "login_refused",
        /// Large answers that were begun late.
        Answer = "answer",
    }

    /// A bounded queue.
    pub enum Queue("queue") {
        /// Output at the edge that waits for sockets.
        Socket = "socket",
        /// Input at the edge that its owner has not settled.
        Unsettled = "unsettled",
        /// The stanzas that all sessions of an edge hold together.
        Edge = "edge",
        /// Lanes between edges and routers.
        Lane = "lane",
        /// Lanes between routers.
        PeerLane = "peer_lane",
        /// The workers' input.
        Worker = "worker",
        /// Stanzas kept for clients that have not acknowledged them.
        Session = "session",
        /// The same of all sessions of one user.
        User = "user",
        /// The same of all sessions of one slot.
        Slot = "slot",
        /// Archive rows that wait for storage.
        Archive = "archive",
        /// Changes that wait for the state store.
        StateStore = "state_store",
    }

    /// Why a resumption failed.
    pub enum ResumeFailure("reason") {
        /// No such session, or it timed out.
        NotFound = "not_found",
        /// The id is not authentic, or of another user.
        Forged = "forged",
        /// The client acknowledged more than it was sent.
        BadCount = "bad_count",
        /// The owner could not be reached in time.
        OwnerUnavailable = "owner_away",
    }

    /// A lease authority.
    pub enum Authority("authority") {
        /// Redis (or memory).
        Redis = "redis",
        /// Storage.
        Storage = "storage",
    }

    /// An event of this process's lease.
    pub enum LeaseEvent("event") {
        /// Renewed.
        Renewed = "renewed",
        /// A renewal failed: the authority is unavailable.
        Unavailable = "away",
        /// Ended by the authority: marked by a claimer, or held by another incarnation.
        Lost = "lost",
        /// Serving stopped because no lease is fresh.
        Stopped = "stopped",
        /// Serving resumed.
        Resumed = "resumed",
    }

    /// An event of a slot.
    pub enum SlotEvent("event") {
        /// In service at this process, claimed from an owner that was dead or had released it.
        TakenOver = "taken_over",
        /// Released by this process to its next owner.
        Released = "released",
        /// A hand-over failed; the old owner resumed the slot.
        Thawed = "thawed",
        /// Input was redirected because the edge's map was stale.
        Redirected = "redirected",
        /// Given up because a higher epoch is known.
        Fenced = "fenced",
    }

    /// A timed step in the life of a slot.
    pub enum SlotStep("step") {
        /// Old owner: from quiescing until all accepted stanzas are settled.
        Settle = "settle",
        /// Old owner: until the state store has the attached sessions too.
        Spill = "spill",
        /// Old owner: until the table names the new owner.
        Release = "release",
        /// New owner: from learning of the slot until it serves.
        TakeOver = "take_over",
    }

    /// An operation of a store.
    pub enum StoreOp("op") {
        /// Reads or changes accounts.
        Account = "account",
        /// Appends to archives.
        ArchiveAppend = "archive_append",
        /// Reads archives.
        ArchiveQuery = "archive_query",
        /// Appends offline messages.
        OfflineAppend = "offline_append",
        /// Reads or removes offline messages.
        OfflineRead = "offline_read",
        /// Reads or writes data of entities.
        EntityData = "entity_data",
        /// Renews or ends a lease in the database.
        Lease = "lease",
        /// Reads the slot table.
        SlotTable = "slot_table",
        /// Claims slots, or asserts that they are owned.
        SlotClaim = "slot_claim",
        /// Prunes.
        Maintain = "maintain",
        /// Writes to the state store.
        StateStoreApply = "state_store_apply",
        /// Loads from the state store.
        ReplicaLoad = "state_store_load",
        /// Anything else.
        Other = "other",
    }

    /// The process whose dedup table had the key of a replayed stanza.
    pub enum Keyed("place") {
        /// The session's owner, by the stanza's number.
        Session = "session",
        /// The owner of the user or room that the stanza is for.
        Recipient = "recipient",
    }

    /// The kind of loss.
    pub enum Lost("what") {
        /// A stanza that was accepted from a client.
        Input = "input",
        /// A row of an archive.
        ArchiveRow = "archive_row",
        /// A row of the offline store.
        OfflineRow = "offline_row",
        /// A session.
        Session = "session",
    }

    /// Why a frame or write was refused.
    pub enum Fence("fence") {
        /// It carried an older epoch of its slot.
        Epoch = "epoch",
        /// It carried an older generation of its session.
        Generation = "generation",
        /// It was not newer than the last write to its slot of the state store.
        Write = "write",
    }

    /// Why authentication failed.
    pub enum AuthFailure("reason") {
        /// Wrong password, proof or certificate, or no such user (these look alike on purpose).
        NotAuthorized = "not_authorized",
        /// The mechanism is not offered.
        Mechanism = "mechanism",
        /// The exchange was malformed or aborted.
        Malformed = "malformed",
        /// The account is disabled.
        Disabled = "disabled",
        /// TLS is needed first.
        EncryptionRequired = "encryption_required",
        /// Accounts could not be read.
        Temporary = "temporary",
        /// It took too long.
        Timeout = "timeout",
    }

    /// The result of a TLS handshake.
    pub enum Handshake("result") {
        /// Successful, with a full handshake.
        Full = "full",
        /// Successful, resumed.
        Resumed = "resumed",
        /// Failed.
        Failed = "failed",
    }

    /// The two ends of a lane.
    pub enum Lane("lane") {
        /// Between an edge and a router.
        EdgeRouter = "edge_router",
        /// Between two routers.
        Peer = "peer",
    }

    /// A stream error (RFC 6120 §4.9.3) that this server sent.
    pub enum StreamError("condition") {
        /// XML that cannot be processed.
        BadFormat = "bad-format",
        /// A namespace prefix that is not supported.
        BadNamespacePrefix = "bad-namespace-prefix",
        /// Another connection took the session or its resource.
        Conflict = "conflict",
        /// The login took too long, or the client did not answer.
        ConnectionTimeout = "connection-timeout",
        /// The host is not served here.
        HostUnknown = "host-unknown",
        /// An invalid address.
        ImproperAddressing = "improper-addressing",
        /// A `from` that is not the client's.
        InvalidFrom = "invalid-from",
        /// An unknown namespace of the stream.
        InvalidNamespace = "invalid-namespace",
        /// A stanza before the login, or an administrator's order.
        NotAuthorized = "not-authorized",
        /// XML that is not well-formed.
        NotWellFormed = "not-well-formed",
        /// A limit (size, depth, attributes, attempts) was exceeded, or an element is not allowed
        /// here.
        PolicyViolation = "policy-violation",
        /// The session could not be restored.
        Reset = "reset",
        /// No owner took over, or the client did not read.
        ResourceConstraint = "resource-constraint",
        /// DTDs, comments, processing instructions, entities.
        RestrictedXml = "restricted-xml",
        /// This process ends.
        SystemShutdown = "system-shutdown",
        /// Another condition, such as an impossible `h` (XEP-0198).
        UndefinedCondition = "undefined-condition",
        /// Not UTF-8.
        UnsupportedEncoding = "unsupported-encoding",
        /// An unknown element.
        UnsupportedStanzaType = "unsupported-stanza-type",
        /// A version of XMPP that is not supported.
        UnsupportedVersion = "unsupported-version",
        /// Any other condition.
        Other = "other",
    }

    /// A limit that a client exceeded; those of XML end the stream with `policy-violation`.
    pub enum Limit("limit") {
        /// Connections of one address, or all.
        Connections = "connections",
        /// Connections that had not authenticated: closed, to make room for new ones.
        Unauthenticated = "unauthenticated",
        /// Bytes per second (the socket was not read for a while).
        Rate = "rate",
        /// Size of an output queue.
        OutputQueue = "output_queue",
        /// Rooms of one session.
        SessionRooms = "session_rooms",
        /// Requests that wait for the data of one user.
        DataRequests = "data_requests",
    }
}

impl StreamError {
    /// The condition of that name; [`StreamError::Other`] if there is none.
    pub fn named(name: &str) -> StreamError {
        let all = StreamError::ALL.iter().copied();
        let mut same = all.filter(|condition| condition.as_str() == name);
        same.next().unwrap_or(StreamError::Other)
    }
}
