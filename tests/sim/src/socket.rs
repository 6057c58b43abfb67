//! A socket: what an edge writes waits in a queue, then in the network, then the client has it.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use sestina_edge::attachment::hands::{Say, Socket, Waiter};
use sestina_edge::transport::{CloseKind, Flush, Passage};
use sestina_proto as proto;
use sestina_xmpp::ext::sm::SmId;
use sestina_xmpp::stanza::Stanza;
use sestina_xmpp::stream::Framing;

use super::client::{FromServer, ToServer};
use super::edge::{EdgeSession, Ground};
use super::world::SM_KEY;

/// One connection of a client.
pub(super) struct Sock {
    pub(super) client: usize,
    pub(super) edge: usize,
    pub(super) pipe: Arc<Pipe>,
    pub(super) up: VecDeque<ToServer>,
    pub(super) edge_told: bool,
    pub(super) client_told: bool,
}

/// What the edge's end of a connection is.
#[derive(Clone)]
pub(super) enum End {
    /// Nothing was asked for.
    New,
    /// Slot and handle of a bind or a resumption.
    Asking(u16, u64),
    /// A session.
    Session(Arc<EdgeSession>),
}

/// The writing half.
pub(super) struct Pipe {
    /// Queued, and not given to the network.
    queue: RefCell<VecDeque<Queued>>,
    queued_bytes: Cell<usize>,
    limit: Cell<usize>,
    /// In the network.
    pub(super) down: RefCell<VecDeque<FromServer>>,
    /// So many elements are in the network at once.
    window: Cell<usize>,
    /// Nothing more is written; what is in the network is read.
    open: Cell<bool>,
    /// It ends when the queue is empty.
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

    /// Bytes of the client came.
    pub(super) fn hear(&self, now: Instant) {
        self.heard.set(now);
    }

    /// The connection is gone: what was queued is lost.
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
        _passage: Passage,
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
