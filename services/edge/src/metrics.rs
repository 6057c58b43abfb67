//! What the edge counts. The binary connects this to its telemetry; the edge itself knows no
//! exporter, and tests read the numbers with [`Tally`].

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use sestina_xmpp::sasl::SaslFailure;
use sestina_xmpp::stream::StreamCondition;

macro_rules! named {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(usize)]
        pub enum $name { $($(#[$vdoc])* $variant,)* }

        impl $name {
            /// All of them, in order.
            pub const ALL: &'static [$name] = &[$($name::$variant,)*];

            /// The name used in metrics.
            pub fn name(self) -> &'static str {
                match self { $($name::$variant => $text,)* }
            }
        }
    };
}

named! {
    /// Things that happen.
    Count {
        /// A connection was accepted by a listener.
        Connections = "connections",
        /// A connection beyond a limit was refused.
        ConnectionRefused = "connection_refused",
        /// A connection that had not authenticated was ended to make room for another.
        ConnectionShed = "connection_shed",
        /// A TLS handshake was completed.
        TlsFull = "tls_full",
        /// A TLS session was resumed.
        TlsResumed = "tls_resumed",
        /// A TLS handshake (or what comes before it) failed or took too long.
        TlsFailed = "tls_failed",
        /// A login succeeded.
        LoginOk = "login_ok",
        /// A login failed (wrong credentials or a broken exchange).
        LoginFailed = "login_failed",
        /// A session was bound.
        Bound = "bound",
        /// A session was resumed on this edge.
        Resumed = "resumed",
        /// A bind or a resumption was refused by the owner.
        Refused = "refused",
        /// A stanza was read from a client.
        StanzaIn = "stanza_in",
        /// A stanza was put on a client's stream.
        StanzaOut = "stanza_out",
        /// The stream ended with a stream error of ours.
        StreamError = "stream_error",
        /// A client was paused because its unsettled stanzas reached the bound.
        PausedByBound = "paused_by_bound",
        /// A client was paused by the rate limit.
        PausedByRate = "paused_by_rate",
        /// Bytes read from sockets, after decryption.
        BytesIn = "bytes_in",
        /// Bytes given to sockets, before encryption.
        BytesOut = "bytes_out",
        /// A slow reader was cut off.
        SlowReader = "slow_reader",
        /// A session lost its socket because all sessions together held too much, and it held most.
        GaveWay = "gave_way",
        /// A socket was lost with the stream open.
        SocketLost = "socket_lost",
        /// A silent client did not answer; its socket counts as lost.
        Unanswered = "unanswered",
        /// A frame of an older epoch was refused.
        RefusedEpoch = "refused_epoch",
        /// A frame for another generation was refused.
        RefusedGeneration = "refused_generation",
        /// A frame of a kind that this program does not know was ignored.
        UnknownFrame = "unknown_frame",
        /// A delivery did not continue the session's numbers.
        NumberGap = "number_gap",
        /// A delivery was there already.
        Repeated = "repeated",
        /// The owner redirected a frame.
        Redirected = "redirected",
        /// A session was closed because no owner took its stanzas in time.
        OwnerTimeout = "owner_timeout",
        /// A stanza was given up unsettled although the client had been told that it was accepted.
        InputLost = "input_lost",
        /// An epoch was installed on a slot.
        EpochInstalled = "epoch_installed",
        /// A session was not known to the new owner of its slot.
        NotRestored = "not_restored",
        /// A stanza was sent again to a new owner.
        Replayed = "replayed",
        /// The id of a resumption is not authentic, or of another user.
        ResumeForged = "resume_forged",
        /// No owner answered a resumption in time.
        ResumeUnanswered = "resume_unanswered",
        /// A lane was opened.
        LaneOpened = "lane_opened",
        /// A lane was lost.
        LaneLost = "lane_lost",
        /// Redis renewed the lease.
        RedisRenewed = "redis_renewed",
        /// Redis did not answer whether it renews.
        RedisUnavailable = "redis_away",
        /// Storage renewed the lease.
        StorageRenewed = "storage_renewed",
        /// Storage did not answer whether it renews.
        StorageUnavailable = "storage_away",
        /// The lease was not renewed in time: nothing is written until it is, or has run out.
        LeasePaused = "lease_paused",
        /// It was renewed before it had run out.
        LeaseResumed = "lease_resumed",
        /// The lease ran out and all sockets were cut.
        LeaseLost = "lease_lost",
        /// A connection was accepted later, because this process is overloaded.
        AcceptDelayed = "accept_delayed",
        /// A login waited for its turn, because this process is overloaded.
        LoginDelayed = "login_delayed",
        /// A login was refused for now, because its turn did not come.
        LoginShed = "login_shed",
    }
}

impl Count {
    /// A TLS handshake that went well.
    pub fn tls(resumed: bool) -> Count {
        if resumed {
            Count::TlsResumed
        } else {
            Count::TlsFull
        }
    }
}

named! {
    /// Things there are.
    Level {
        /// Sockets in any phase.
        Sockets = "sockets",
        /// Of these, not bound.
        Logins = "logins",
        /// Sessions in the table, those without a socket included.
        Sessions = "sessions",
        /// Of these, by WebSocket.
        WebSocketSessions = "websocket_sessions",
        /// Stanzas of clients that are not settled.
        Unsettled = "unsettled",
        /// Their bytes.
        UnsettledBytes = "unsettled_bytes",
        /// Stanzas that sockets did not take yet.
        Waiting = "waiting",
        /// Bytes that sockets did not take yet.
        WaitingBytes = "waiting_bytes",
        /// Lanes that are open.
        Lanes = "lanes",
        /// Bytes that all sessions hold together.
        HeldBytes = "held_bytes",
    }
}

named! {
    /// Durations.
    Timing {
        /// From the read of a stanza to the owner's "accepted".
        Accepted = "accepted",
        /// From the read of a stanza to the owner's "settled".
        Settled = "settled",
        /// From the read of a stanza at its sender's edge to the last byte of it written here,
        /// without the time on the way between processes.
        Latency = "latency",
        /// From the start of a connection to the end of its login.
        Login = "login",
        /// From `bind` to the owner's answer.
        OwnerAnswer = "owner_answer",
        /// From `resume` to the owner's answer.
        Resumed = "resumed",
        /// From when the lease was to be renewed to when that began.
        LeaseLate = "lease_late",
        /// From the beginning of a renewal to its answer.
        LeaseRenewed = "lease_renewed",
        /// How long serving could have gone on at the end of a renewal, had it failed.
        LeaseLeft = "lease_left",
    }
}

/// Where the numbers go. Called on hot paths: must neither block nor allocate.
pub trait EdgeMetrics: Send + Sync + 'static {
    /// `what` happened `by` times.
    fn count(&self, what: Count, by: u64);
    /// The level of `what` changed by `change`.
    fn level(&self, what: Level, change: i64);
    /// A login failed.
    fn login_failed(&self, _why: SaslFailure) {
        self.count(Count::LoginFailed, 1);
    }
    /// A login was not finished in time.
    fn login_late(&self) {
        self.count(Count::LoginFailed, 1);
    }
    /// A stream ended with this error of ours.
    fn stream_error(&self, _condition: StreamCondition) {
        self.count(Count::StreamError, 1);
    }
    /// The certificate of this host is valid for this many more seconds.
    fn certificate(&self, _host: &str, _seconds_left: i64) {}
    /// `what` took this long.
    fn timing(&self, what: Timing, took: Duration);
}

/// Plain counters in memory.
#[derive(Debug)]
pub struct Tally {
    counts: Vec<AtomicU64>,
    levels: Vec<AtomicI64>,
    timings: Vec<(AtomicU64, AtomicU64)>,
}

impl Default for Tally {
    fn default() -> Tally {
        Tally {
            counts: Count::ALL.iter().map(|_| AtomicU64::new(0)).collect(),
            levels: Level::ALL.iter().map(|_| AtomicI64::new(0)).collect(),
            timings: Timing::ALL.iter().map(|_| Default::default()).collect(),
        }
    }
}

impl Tally {
    /// How often `what` happened.
    pub fn get(&self, what: Count) -> u64 {
        self.counts[what as usize].load(Relaxed)
    }

    /// How many there are.
    pub fn level_of(&self, what: Level) -> i64 {
        self.levels[what as usize].load(Relaxed)
    }

    /// How often `what` was timed, and the sum.
    pub fn timed(&self, what: Timing) -> (u64, Duration) {
        let (count, nanos) = &self.timings[what as usize];
        (
            count.load(Relaxed),
            Duration::from_nanos(nanos.load(Relaxed)),
        )
    }
}

impl EdgeMetrics for Tally {
    fn count(&self, what: Count, by: u64) {
        self.counts[what as usize].fetch_add(by, Relaxed);
    }

    fn level(&self, what: Level, change: i64) {
        self.levels[what as usize].fetch_add(change, Relaxed);
    }

    fn timing(&self, what: Timing, took: Duration) {
        let (count, nanos) = &self.timings[what as usize];
        count.fetch_add(1, Relaxed);
        nanos.fetch_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), Relaxed);
    }
}
