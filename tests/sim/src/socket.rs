//! The socket between an edge and a client. What the edge writes waits in a queue at the edge, then in the
//! network, until the client reads it.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use sestina_edge::attachment::hands::{Say, Socket, Waiter};
use sestina_edge::transport::{CloseKind, Flush, TraceContext};
use sestina_proto as proto;
use sestina_xmpp::ext::sm::SmId;
use sestina_xmpp::stanza::Stanza;
use sestina_xmpp::stream::Framing;

use super::edge::{EdgeSession, Ground};
use super::elements::{FromServer, ToServer};
use super::world::SM_KEY;

/// One connection of a client.
pub(super) struct Sock {
    pub(super) client: usize,
    pub(super) edge: usize,
    pub(super) pipe: Arc<Pipe>,
    /// What the client has written and the edge has not read.
    pub(super) up: VecDeque<ToServer>,
    /// The edge knows that the socket is closed.
    pub(super) edge_told: bool,
    /// The client knows that the socket is closed.
    pub(super) client_told: bool,
}

/// The state of a socket at the edge.
#[derive(Clone)]
pub(super) enum End {
    /// The client has not asked for anything yet.
    New,
    /// A bind or a resumption waits for its answer: slot and handle.
    Asking(u16, u64),
    /// It belongs to a session.
    Session(Arc<EdgeSession>),
}

/// The half of a socket that the edge writes to.
pub(super) struct Pipe {
    /// What waits at the edge.
    queue: RefCell<VecDeque<Queued>>,
    queued_bytes: Cell<usize>,
    limit: Cell<usize>,
    /// What is in the network.
    pub(super) down: RefCell<VecDeque<FromServer>>,
    /// How many elements may be in the network at once.
    window: Cell<usize>,
    /// If not, nothing more is written, but the client still reads what is in the network.
    open: Cell<bool>,
    /// It is closed when the queue is empty.
    ending: Cell<bool>,
    overflowed: Cell<bool>,
    written: Cell<u64>,
    heard: Cell<Instant>,
    pub(super) end: RefCell<End>,
}

struct Queued {
    number: u64,
    bytes: usize,
    what: FromServer,
}

impl Pipe {
    pub(super) fn new(now: Instant, window: usize) -> Arc<Pipe> {
        #[allow(clippy::arc_with_non_send_sync)]
        Arc::new(Pipe {
            queue: RefCell::default(),
            queued_bytes: Cell::new(0),
            limit: Cell::new(usize::MAX),
            down: RefCell::default(),
            window: Cell::new(window),
            open: Cell::new(true),
            ending: Cell::new(false),
            overflowed: Cell::new(false),
            written: Cell::new(0),
            heard: Cell::new(now),
            end: RefCell::new(End::New),
        })
    }

    pub(super) fn is_open(&self) -> bool {
        self.open.get()
    }

    /// Notes that something has come from the client.
    pub(super) fn hear(&self, now: Instant) {
        self.heard.set(now);
    }

    /// Closes the socket: what waits at the edge is lost.
    pub(super) fn cut(&self) {
        self.open.set(false);
        self.queue.borrow_mut().clear();
        self.queued_bytes.set(0);
    }

    /// The client reads one element, which makes room for others.
    pub(super) fn read(&self) -> Option<FromServer> {
        let read = self.down.borrow_mut().pop_front();
        self.push();
        read
    }

    /// Puts an element into the queue; false if the socket takes no more.
    fn append(&self, number: u64, bytes: usize, what: FromServer) -> bool {
        if !self.open.get() || self.ending.get() {
            return false;
        }
        if self.queued_bytes.get() + bytes > self.limit.get() {
            self.overflowed.set(true);
            self.cut();
            return false;
        }
        self.queued_bytes.set(self.queued_bytes.get() + bytes);
        self.queue.borrow_mut().push_back(Queued {
            number,
            bytes,
            what,
        });
        true
    }

    /// Moves elements from the queue into the network, as far as there is room.
    fn push(&self) {
        let mut queue = self.queue.borrow_mut();
        let mut down = self.down.borrow_mut();
        while down.len() < self.window.get()
            && let Some(next) = queue.pop_front()
        {
            self.queued_bytes.set(self.queued_bytes.get() - next.bytes);
            self.written.set(self.written.get().max(next.number));
            down.push_back(next.what);
        }
        if queue.is_empty() && self.ending.get() {
            self.open.set(false);
        }
    }
}

impl Socket for Pipe {
    fn say(&self, _framing: Framing, what: Say<'_>) -> bool {
        let what = match what {
            Say::Bound { .. } => FromServer::Bound,
            Say::Resumed { h, .. } => FromServer::Resumed { h: h.into() },
            Say::Enabled { id, .. } => {
                let session = id.and_then(|id| SmId::decode(id, SM_KEY));
                FromServer::Enabled {
                    session: session.map_or(0, |id| id.nonce),
                }
            }
            Say::Failed(condition) => FromServer::Error(condition.to_owned()),
            Say::Ack(h) => FromServer::Ack(h.into()),
            Say::Request => FromServer::Request,
            Say::CountTooHigh { h, sent } => FromServer::Error(format!("{h} of {sent}")),
            Say::Error(condition, _) => FromServer::Error(condition.name().to_owned()),
            Say::Close => return self.open.get(),
        };
        self.append(0, 64, what)
    }

    fn deliver(
        &self,
        _framing: Framing,
        number: u64,
        _trace_context: TraceContext,
        stanza: &Stanza,
        _to: &str,
    ) -> bool {
        let what = FromServer::Stanza(proto::Stanza::from(stanza.clone()));
        self.append(number, stanza.weight(), what)
    }

    fn flush(&self) -> Flush {
        if !self.open.get() {
            return Flush::Closed;
        }
        self.push();
        match (self.open.get(), self.queue.borrow().is_empty()) {
            (false, _) => Flush::Closed,
            (true, true) => Flush::Done,
            (true, false) => Flush::Blocked,
        }
    }

    fn close(&self, kind: CloseKind) {
        if kind == CloseKind::Abort {
            self.cut();
        } else if self.open.get() {
            self.ending.set(true);
            self.push();
        }
    }

    fn written(&self) -> u64 {
        self.written.get()
    }

    fn overflowed(&self) -> bool {
        self.overflowed.get()
    }

    fn heard_at(&self) -> Instant {
        self.heard.get()
    }

    fn is_websocket(&self) -> bool {
        false
    }

    fn keepalive(&self) -> Flush {
        Flush::Done
    }

    fn set_queue_limit(&self, bytes: usize) {
        self.limit.set(bytes);
    }
}

/// A login that waits for the answer to its bind or resumption.
pub(super) struct Login(Arc<Pipe>);

impl Login {
    pub(super) fn new(pipe: &Arc<Pipe>, slot: u16, handle: u64) -> Login {
        *pipe.end.borrow_mut() = End::Asking(slot, handle);
        Login(pipe.clone())
    }
}

impl Waiter<Ground> for Login {
    fn session(self, session: &Arc<EdgeSession>) -> bool {
        *self.0.end.borrow_mut() = End::Session(session.clone());
        true
    }

    fn refused(self, refused: proto::Refused) -> bool {
        *self.0.end.borrow_mut() = End::New;
        self.0.append(0, 0, FromServer::Refused(refused.condition));
        self.0.close(CloseKind::AfterFlush);
        true
    }
}
