//! What an edge's end of a session acts through: lanes, sockets, locks, the time. The edge
//! implements it with real ones, the simulation with its network.

use std::ops::DerefMut;
use std::sync::Arc;
use std::time::Instant;

use sestina_proto as proto;
use sestina_xmpp::jid::Jid;
use sestina_xmpp::stanza::Stanza;
use sestina_xmpp::stream::{Framing, StreamCondition};

use super::Attachments;
use super::state::Session;
use crate::metrics::EdgeMetrics;
use crate::transport::{CloseKind, Flush, TraceContext};

/// Exclusive access to what several threads share. One thread alone needs no lock.
pub trait Lock<T> {
    /// The access, until it is dropped.
    type Guard<'a>: DerefMut<Target = T>
    where
        Self: 'a;

    /// Puts a value under a lock.
    fn new(value: T) -> Self;

    /// Waits for the access.
    fn lock(&self) -> Self::Guard<'_>;
}

/// The access to a value under the lock of such hands.
pub type Guard<'a, H, T> = <<H as Hands>::Lock<T> as Lock<T>>::Guard<'a>;

impl<T> Lock<T> for parking_lot::Mutex<T> {
    type Guard<'a>
        = parking_lot::MutexGuard<'a, T>
    where
        T: 'a;

    fn new(value: T) -> Self {
        parking_lot::Mutex::new(value)
    }

    #[inline]
    fn lock(&self) -> Self::Guard<'_> {
        parking_lot::Mutex::lock(self)
    }
}

/// See the module.
pub trait Hands: Sized + 'static {
    /// How what is shared is locked. Order of locks: slot, rooms; slot, session, socket.
    type Lock<T: 'static>: Lock<T>;
    /// The writing half of a socket.
    type Socket: Socket;
    /// The router that owns a slot: a set of lanes to it.
    type Route: Clone;
    /// One opening of one lane. What was sent into an opening that is over is sent again.
    type Lane: Clone;
    /// The login that waits for an owner's answer.
    type Waiter: Waiter<Self>;
    /// The reader of a socket that is paused.
    type Reader: Reader;

    /// What this edge holds.
    fn attachments(&self) -> &Attachments<Self>;

    /// Limits of sessions.
    fn limits(&self) -> &Limits;

    /// The time.
    fn now(&self) -> Instant;

    /// The time of day, in milliseconds since 1970.
    fn wall_ms(&self) -> i64;

    /// Where numbers go.
    fn metrics(&self) -> &dyn EdgeMetrics;

    /// The slot of a room.
    fn slot_of_room(&self, room: &Jid) -> u16;

    /// The open lane of a slot to a router.
    fn lane(&self, route: &Self::Route, slot: u16) -> Option<Self::Lane>;

    /// Sends a frame into an opening of a lane.
    fn send(&self, lane: &Self::Lane, frame: proto::ToRouter) -> Sent;

    /// Bytes that wait on an opening of a lane.
    fn waiting(&self, lane: &Self::Lane) -> usize;

    /// Whether two routes lead to the same incarnation of a router.
    fn is_same(&self, a: &Self::Route, b: &Self::Route) -> bool;

    /// Whether a route leads to that process.
    fn leads_to(&self, route: &Self::Route, node: &proto::Node) -> bool;

    /// The name of a router, for the log.
    fn name<'a>(&self, route: &'a Self::Route) -> &'a str;

    /// A router sent a slot map.
    fn learn(&self, map: proto::SlotMap);
}

/// Bounds and waits of sessions; the options of the same names say what they are.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct Limits {
    pub unsettled_bytes: usize,
    pub session_credit: usize,
    pub ask_stanzas: u64,
    pub ask_after: std::time::Duration,
    pub keepalive_after: std::time::Duration,
    pub keepalive_answer: std::time::Duration,
    pub owner_deadline: std::time::Duration,
    /// Bytes of one part of an answer about members of rooms.
    pub members_part: usize,
    /// Bytes of one part of a report to a new owner.
    pub report_part: usize,
}

/// What became of a frame.
#[derive(Debug)]
#[must_use = "a frame that a full lane refused has to be sent again"]
pub enum Sent {
    /// It is on its way, in order.
    Yes,
    /// Too much waits already; the lane goes on. Only frames that
    /// [may be refused](proto::ToRouter::is_refusable).
    Full(Box<proto::ToRouter>),
    /// The opening is over: all that matters is sent again on the next one.
    Over,
}

/// Something that is written beside stanzas for clients.
#[derive(Clone, Copy, Debug)]
pub enum Say<'a> {
    /// RFC 6120 §7.6: the result of a bind.
    Bound {
        /// The id of the client's IQ.
        id: &'a str,
        /// The full JID.
        jid: &'a str,
    },
    /// XEP-0198 §5.
    Resumed {
        /// The id that the client gave.
        previd: &'a str,
        /// The client's count.
        h: u32,
    },
    /// XEP-0198 §3.
    Enabled {
        /// With this the session can be resumed.
        id: Option<&'a str>,
        /// For how long, in seconds.
        max_s: u32,
    },
    /// XEP-0198: a request cannot be served.
    Failed(&'a str),
    /// `<a/>` with this count.
    Ack(u32),
    /// `<r/>`.
    Request,
    /// XEP-0198 §4: the client acknowledges more than it was sent, and the stream ends.
    CountTooHigh {
        /// The client's count.
        h: u32,
        /// Ours.
        sent: u32,
    },
    /// A stream error.
    Error(StreamCondition, &'a str),
    /// The end of the stream.
    Close,
}

/// The writing half of a socket: elements are queued, and leave with a flush.
pub trait Socket {
    /// Queues one element. False if nothing was queued: the connection is over, or its queue
    /// would exceed its limit, which ends it.
    fn say(&self, framing: Framing, what: Say<'_>) -> bool;

    /// Queues a stanza for that address; `number` ascends, and is known by
    /// [`Socket::written`] once the socket has taken all of it.
    fn deliver(
        &self,
        framing: Framing,
        number: u64,
        trace_context: TraceContext,
        stanza: &Stanza,
        to: &str,
    ) -> bool;

    /// Gives what is queued to the socket, without waiting for it.
    fn flush(&self) -> Flush;

    /// Ends the connection.
    fn close(&self, kind: CloseKind);

    /// The highest number that the socket has taken.
    fn written(&self) -> u64;

    /// Whether the queue met its limit.
    fn overflowed(&self) -> bool;

    /// When the client was heard last.
    fn heard_at(&self) -> Instant;

    /// Whether it is a WebSocket, which can be pinged.
    fn is_websocket(&self) -> bool;

    /// Sends a ping.
    fn keepalive(&self) -> Flush;

    /// Bounds what may be queued, in bytes.
    fn set_queue_limit(&self, bytes: usize);
}

/// A login that waits for the answer to its bind or resumption. False: it waits no more.
pub trait Waiter<H: Hands> {
    /// There is a session, and the client has been told.
    fn session(self, session: &Arc<Session<H>>) -> bool;

    /// The owner refused; the client has not been told.
    fn refused(self, refused: proto::Refused) -> bool;
}

/// A reader that was paused because too much is unsettled.
pub trait Reader: Default {
    /// It looks again.
    fn wake(&self);
}
