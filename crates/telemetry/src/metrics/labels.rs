//! The label values: closed sets, so that nobody outside can make series without end.

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
        /// BOSH (XEP-0124, XEP-0206).
        Bosh = "bosh",
        /// Component (XEP-0114).
        Component = "component",
        /// Another server.
        S2s = "s2s",
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
        /// Dropped because the protocol says so (blocked, no recipient for a presence, …).
        Ignored = "ignored",
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

    /// A bounded queue.
    pub enum Queue("queue") {
        /// What waits for sockets at the edge.
        Socket = "socket",
        /// Input at the edge that its owner has not settled.
        Unsettled = "unsettled",
        /// Lanes between edges and routers.
        Lane = "lane",
        /// Lanes between routers.
        PeerLane = "peer_lane",
        /// The workers' input.
        Worker = "worker",
        /// What is kept for clients that have not acknowledged it.
        Session = "session",
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
        /// The session had been closed because its queue was full.
        Overflow = "overflow",
        /// Edge and owner died together.
        BeyondOneFault = "beyond_one_fault",
    }

    /// Who says that a lease is held.
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
        /// From freeze to thaw at the new owner.
        Move = "move",
        /// From noticing the end of a lease to serving.
        TakeOver = "take_over",
        /// Installing the epoch everywhere.
        Install = "install",
        /// Restoring from the shadow store.
        Restore = "restore",
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
        /// Reads or changes a roster.
        Roster = "roster",
        /// Reads or changes rooms.
        Room = "room",
        /// Reads or changes nodes (PubSub, PEP).
        Node = "node",
        /// Renews or ends a lease in PostgreSQL.
        Lease = "lease",
        /// Reads the slot table.
        SlotTable = "slot_table",
        /// Claims slots.
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
        /// A recipient's queue.
        Recipient = "recipient",
        /// A room.
        Room = "room",
        /// An archive.
        Archive = "archive",
        /// The offline store.
        Offline = "offline",
        /// A stored IQ outcome.
        Outcome = "outcome",
    }

    /// What was lost.
    pub enum Lost("what") {
        /// A stanza that was accepted from a client.
        Input = "input",
        /// A stanza that was to be delivered.
        Delivery = "delivery",
        /// A row of an archive.
        ArchiveRow = "archive_row",
        /// A row of the offline store.
        OfflineRow = "offline_row",
        /// An event of a room.
        RoomEvent = "room_event",
        /// State of a room.
        Room = "room",
        /// A session.
        Session = "session",
    }

    /// Why a frame or write was refused.
    pub enum Fence("fence") {
        /// It carried an older epoch of its slot.
        Epoch = "epoch",
        /// It carried an older generation of its session.
        Generation = "generation",
        /// It was based on another version than the stored one.
        Version = "version",
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
        /// Channel binding did not match.
        ChannelBinding = "channel_binding",
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

    /// A limit that a client passed.
    pub enum Limit("limit") {
        /// Size of a stanza.
        StanzaSize = "stanza_size",
        /// Depth or number of attributes.
        Structure = "structure",
        /// Connections from one address.
        Connections = "connections",
        /// Bytes per second (the socket was not read for a while).
        Rate = "rate",
        /// Size of an output queue.
        OutputQueue = "output_queue",
    }
}
