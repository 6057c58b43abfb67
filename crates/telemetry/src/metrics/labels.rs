//! The label values: closed sets, so that input from outside cannot create series without end.

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

    /// What became of a stanza.
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

    /// New work that an overloaded process lets wait.
    pub enum Shed("work") {
        /// Connections of clients that were accepted later.
        Connection = "connection",
        /// Logins that waited for their turn.
        Login = "login",
        /// Logins that were refused for now, because their turn did not come.
        LoginRefused = "login_refused",
        /// Large answers that were begun later.
        Answer = "answer",
    }

    /// A bounded queue.
    pub enum Queue("queue") {
        /// What waits for sockets at the edge.
        Socket = "socket",
        /// Input at the edge that its owner has not settled.
        Unsettled = "unsettled",
        /// What all sessions of an edge hold together.
        Edge = "edge",
        /// Lanes between edges and routers.
        Lane = "lane",
        /// Lanes between routers.
        PeerLane = "peer_lane",
        /// The workers' input.
        Worker = "worker",
        /// What is kept for clients that have not acknowledged it.
        Session = "session",
        /// The same of all sessions of one user.
        User = "user",
        /// The same of all sessions of one slot.
        Slot = "slot",
        /// Archive rows that wait for storage.
        Archive = "archive",
        /// Changes that wait for the shadow store.
        Shadow = "shadow",
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
        OwnerAway = "owner_away",
    }

    /// The authority that says that a lease is held.
    pub enum Authority("authority") {
        /// Redis (or memory).
        Redis = "redis",
        /// Storage.
        Storage = "storage",
    }

    /// What happened to this process's lease.
    pub enum LeaseEvent("event") {
        /// Renewed.
        Renewed = "renewed",
        /// A renewal failed: the authority is away.
        Away = "away",
        /// Taken away: marked by a claimer, or held by another incarnation.
        Lost = "lost",
        /// Serving stopped because no lease is fresh.
        Stopped = "stopped",
        /// Serving began again.
        Resumed = "resumed",
    }

    /// What happened to a slot.
    pub enum SlotEvent("event") {
        /// In service at this process, claimed from a holder that was gone or had released it.
        TakenOver = "taken_over",
        /// Released by this process, for another that takes it.
        Released = "released",
        /// A hand-over failed; the slot thawed at the old owner.
        Thawed = "thawed",
        /// Input was redirected because the edge's map was stale.
        Redirected = "redirected",
        /// Given up because a higher epoch is known.
        Fenced = "fenced",
    }

    /// A step in the life of a slot that takes time.
    pub enum SlotStep("step") {
        /// Old owner: from freeze until all that was accepted is settled.
        Settle = "settle",
        /// Old owner: until the shadow has the attached sessions as well.
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
        /// Stores the outcome of an IQ set.
        Outcome = "outcome",
        /// Renews or ends a lease in PostgreSQL.
        Lease = "lease",
        /// Reads the slot table.
        SlotTable = "slot_table",
        /// Claims slots, or asserts that they are owned.
        SlotClaim = "slot_claim",
        /// Prunes.
        Maintain = "maintain",
        /// Writes to the shadow store.
        ShadowApply = "shadow_apply",
        /// Loads from the shadow store.
        ShadowLoad = "shadow_load",
        /// Anything else.
        Other = "other",
    }

    /// Where a replayed effect met its key.
    pub enum Keyed("place") {
        /// The owner's own numbers.
        Session = "session",
        /// The owner of the user or room that it is for.
        Recipient = "recipient",
    }

    /// What was lost.
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

    /// How a TLS handshake ended.
    pub enum Handshake("result") {
        /// Well, with a full handshake.
        Full = "full",
        /// Well, resumed.
        Resumed = "resumed",
        /// Not.
        Failed = "failed",
    }

    /// What is at the other end of a lane.
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
        /// A prefix that is not understood.
        BadNamespacePrefix = "bad-namespace-prefix",
        /// Another connection took the session or its resource.
        Conflict = "conflict",
        /// The login took too long, or the client was silent.
        ConnectionTimeout = "connection-timeout",
        /// No such host here.
        HostUnknown = "host-unknown",
        /// An address that is not one.
        ImproperAddressing = "improper-addressing",
        /// A `from` that is not the client's.
        InvalidFrom = "invalid-from",
        /// A namespace of streams that is not known.
        InvalidNamespace = "invalid-namespace",
        /// A stanza before the login, or an administrator's order.
        NotAuthorized = "not-authorized",
        /// Not well-formed.
        NotWellFormed = "not-well-formed",
        /// A limit (size, depth, attributes, tries), or something out of place.
        PolicyViolation = "policy-violation",
        /// The session could not be restored.
        Reset = "reset",
        /// No owner took over, or the client did not read.
        ResourceConstraint = "resource-constraint",
        /// DTDs, comments, processing instructions, entities.
        RestrictedXml = "restricted-xml",
        /// This process ends.
        SystemShutdown = "system-shutdown",
        /// An impossible `h` (XEP-0198), among others.
        UndefinedCondition = "undefined-condition",
        /// Not UTF-8.
        UnsupportedEncoding = "unsupported-encoding",
        /// An element that is not known.
        UnsupportedStanzaType = "unsupported-stanza-type",
        /// A version of XMPP that is not spoken here.
        UnsupportedVersion = "unsupported-version",
        /// Any other.
        Other = "other",
    }

    /// A limit that a client passed; those of XML end the stream with `policy-violation`.
    pub enum Limit("limit") {
        /// Connections, of one address or of all.
        Connections = "connections",
        /// Connections that had not authenticated: ended, to make room for new ones.
        Unauthenticated = "unauthenticated",
        /// Bytes per second (the socket was not read for a while).
        Rate = "rate",
        /// Size of an output queue.
        OutputQueue = "output_queue",
        /// Rooms of one session.
        SessionRooms = "session_rooms",
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
