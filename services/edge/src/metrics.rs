//! What the edge counts. The binary connects this to its telemetry; the edge itself knows no
//! exporter, and tests read the numbers with [`Tally`].

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

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
        /// A slow reader was cut off.
        SlowReader = "slow_reader",
        /// A socket was lost with the stream open.
        SocketLost = "socket_lost",
        /// A frame of an older epoch was refused.
        RefusedEpoch = "refused_epoch",
        /// A frame for another generation was refused.
        RefusedGeneration = "refused_generation",
        /// A delivery did not continue the session's numbers.
        NumberGap = "number_gap",
        /// A delivery was there already.
        Repeated = "repeated",
        /// The owner redirected a frame.
        Redirected = "redirected",
        /// A session was closed because no owner took its stanzas in time.
        OwnerTimeout = "owner_timeout",
        /// An epoch was installed on a slot.
        EpochInstalled = "epoch_installed",
        /// A session was not known to the new owner of its slot.
        NotRestored = "not_restored",
        /// A lane was opened.
        LaneOpened = "lane_opened",
        /// A lane was lost.
        LaneLost = "lane_lost",
        /// The lease was renewed.
        LeaseRenewed = "lease_renewed",
        /// The lease ran out and all sockets were cut.
        LeaseLost = "lease_lost",
    }
}

named! {
    /// Things there are.
    Level {
        /// Sockets in any phase.
        Sockets = "sockets",
        /// Sessions in the table, those without a socket included.
        Sessions = "sessions",
        /// Lanes that are open.
        Lanes = "lanes",
    }
}

named! {
    /// Durations.
    Timing {
        /// From the read of a stanza to the owner's "accepted".
        Accepted = "accepted",
        /// From the start of a connection to the end of its login.
        Login = "login",
        /// From `bind` or `resume` to the owner's answer.
        OwnerAnswer = "owner_answer",
    }
}

/// Where the numbers go. Called on hot paths: must neither block nor allocate.
pub trait EdgeMetrics: Send + Sync + 'static {
    /// `what` happened `by` times.
    fn count(&self, what: Count, by: u64);
    /// The level of `what` changed by `change`.
    fn level(&self, what: Level, change: i64);
    /// `what` took this long.
    fn timing(&self, what: Timing, took: Duration);
}

/// Plain counters in memory.
#[derive(Debug)]
pub struct Tally {
    counts: Vec<AtomicU64>,
    levels: Vec<AtomicI64>,
}

impl Default for Tally {
    fn default() -> Tally {
        Tally {
            counts: Count::ALL.iter().map(|_| AtomicU64::new(0)).collect(),
            levels: Level::ALL.iter().map(|_| AtomicI64::new(0)).collect(),
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
}

impl EdgeMetrics for Tally {
    fn count(&self, what: Count, by: u64) {
        self.counts[what as usize].fetch_add(by, Relaxed);
    }

    fn level(&self, what: Level, change: i64) {
        self.levels[what as usize].fetch_add(change, Relaxed);
    }

    fn timing(&self, _what: Timing, _took: Duration) {}
}
