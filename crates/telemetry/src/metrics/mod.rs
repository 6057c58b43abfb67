//! Every metric of the system, as a field of one struct.
//!
//! [`Metrics`] is made once per process and shared by its tiers. The path of a stanza looks up no
//! label: `metrics.stanzas[(Kind::Message, Outcome::Delivered)].inc()` is an array index and an
//! atomic addition.
//!
//! - [`kinds`]: counters, gauges, histograms
//! - [`labels`]: the label values
//! - `registry`: names and help texts, the Prometheus text form
//! - `push`: the same metrics as OpenTelemetry instruments

pub mod kinds;
pub mod labels;
pub(crate) mod push;
mod registry;

use std::sync::Arc;

pub use self::kinds::{By, By2, ByHost, Counter, Gauge, Histogram, Label};
pub use self::labels::*;
use self::registry::{Metric, Registrar};

macro_rules! metrics {
    ($($(#[doc = $doc:literal])+ $field:ident: $type:ty;)*) => {
        /// Every metric of the system. Their names in Prometheus are `sestina_` and the name of
        /// the field (counters with `_total` behind it).
        #[derive(Debug)]
        pub struct Metrics {
            $($(#[doc = $doc])+ pub $field: $type,)*
            registrar: Registrar,
        }

        impl Metrics {
            /// All at zero.
            pub fn new() -> Arc<Metrics> {
                let mut registrar = Registrar::new();
                $(let $field = <$type as Metric>::register(
                    &mut registrar,
                    stringify!($field),
                    &[$($doc),+],
                );)*
                Arc::new(Metrics { $($field,)* registrar })
            }
        }
    };
}

metrics! {
    /// Sessions that this edge holds; one that lost its socket counts until its owner has taken it
    /// over
    sessions: By<Transport, Gauge>;
    /// Connections that have not authenticated
    connections_unauthenticated: Gauge;
    /// Sessions owned by this router
    owned_sessions: Gauge;
    /// Sessions owned by this router that have no socket
    detached_sessions: Gauge;
    /// Live rooms owned by this router
    rooms: Gauge;
    /// Occupants of the rooms owned by this router
    occupants: Gauge;
    /// Stanzas by kind and by outcome
    stanzas: By2<Kind, Outcome, Counter>;
    /// Bytes of stanzas at this edge's sockets, before TLS
    bytes: By<Direction, Counter>;
    /// From a stanza's arrival at its sender's edge to its last byte written to a socket here,
    /// without the time on the wire between processes
    stanza_latency_seconds: Histogram;
    /// From a stanza's arrival at the edge to the owner's `accepted`
    accept_seconds: Histogram;
    /// From a stanza's arrival at the edge to the owner's `settled`
    settle_seconds: Histogram;
    /// Items that wait in a queue
    queue_items: By<Queue, Gauge>;
    /// Bytes that wait in a queue
    queue_bytes: By<Queue, Gauge>;
    /// Times that a queue was full
    queue_full: By<Queue, Counter>;
    /// Sessions resumed (XEP-0198)
    resumptions: Counter;
    /// Resumptions that failed
    resumption_failures: By<ResumeFailure, Counter>;
    /// From asking the owner to resume to its answer
    resume_seconds: Histogram;
    /// Events of this process's lease
    lease_events: By2<Authority, LeaseEvent, Counter>;
    /// Whether this process's lease is fresh (1) or not (0)
    lease_fresh: By<Authority, Gauge>;
    /// How much later than planned this process began to renew its lease
    lease_late_seconds: Histogram;
    /// How long a renewal of this process's lease took, until the answer or the time-out
    lease_renew_seconds: Histogram;
    /// How long this process could have served at the end of a renewal, had the renewal failed
    lease_left_seconds: Histogram;
    /// How late a timer of this process fires
    timer_late_seconds: Histogram;
    /// Whether this process is overloaded (1) and delays new work, or not (0)
    overloaded: Gauge;
    /// New work that was delayed, or refused for now, because the process was overloaded
    shed: By<Shed, Counter>;
    /// Slots owned by this router
    slots_owned: Gauge;
    /// Version of the slot table that this process knows
    slot_table_version: Gauge;
    /// New timelines of the slot table, each because the database had lost commits
    slot_table_timelines: Counter;
    /// Events of slots
    slot_events: By<SlotEvent, Counter>;
    /// How long steps in the life of a slot take
    slot_seconds: By<SlotStep, Histogram>;
    /// How long the stores take to answer
    store_seconds: By<StoreOp, Histogram>;
    /// Operations of the stores that failed
    store_errors: By<StoreOp, Counter>;
    /// Stanzas that an edge sent again to a new owner
    replays: Counter;
    /// Replayed stanzas that were dropped because their effect was there already
    replay_drops: By<Keyed, Counter>;
    /// Room events sent again by a new owner
    event_log_replays: Counter;
    /// Rooms rebuilt from the state of their sessions, because no other copy was left
    rebuilt_rooms: Counter;
    /// Room events sent while the state store was unavailable
    uncommitted_room_events: Counter;
    /// Commits to the state store, each at most `redis.commit_bytes` long
    replica_commits: Counter;
    /// Bytes of these commits
    replica_commit_bytes: Counter;
    /// Slots that are rewritten because the state store has lost writes
    rewriting_slots: Gauge;
    /// What was promised and lost: must stay 0
    lost: By<Lost, Counter>;
    /// Frames and writes refused because they were out of date
    fenced: By<Fence, Counter>;
    /// Authentications that succeeded
    auth_successes: Counter;
    /// Authentications that failed
    auth_failures: By<AuthFailure, Counter>;
    /// Streams that this server ended with an error
    stream_errors: By<StreamError, Counter>;
    /// How long the certificate of a host is still valid; negative since it expired, 0 if it does not
    /// cover the host's name or is not valid yet
    certificate_seconds_left: ByHost;
    /// TLS handshakes with clients
    tls_handshakes: By<Handshake, Counter>;
    /// Open lanes, counted at each end that is in this process
    lanes: By<Lane, Gauge>;
    /// Lanes opened
    lanes_opened: By<Lane, Counter>;
    /// Lanes closed
    lanes_closed: By<Lane, Counter>;
    /// Sockets closed because the client did not answer a keepalive
    silent_sockets: Counter;
    /// Version of the protocol between tiers that the cluster speaks, as this router knows it
    protocol_version: Gauge;
    /// Frames of unknown kinds, which a later version sends; they were ignored
    unknown_frames: By<Lane, Counter>;
    /// Limits that clients exceeded
    limits: By<Limit, Counter>;
    /// Whether the cluster is redundant, so that the next fault may come (1), or not (0)
    redundant: Gauge;
    /// Processes of the cluster with other hosts, services or modules than this one: must be 0
    config_mismatches: Gauge;
    /// Pairs of a process and a router that it cannot reach, for longer than a lease: must be 0
    unreached: Gauge;
}

#[cfg(test)]
#[path = "metrics_tests.rs"]
mod tests;
