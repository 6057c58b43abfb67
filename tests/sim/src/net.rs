//! The network: connections that keep the order of frames, delay them for any time, and break.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;
use sestina_api::link::{BULK, EdgeLane, Unsent};
use sestina_api::peer::PeerSink;
use sestina_proto as proto;

use super::rng::Rng;

/// The processes that a connection joins, by incarnation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ends {
    /// A lane of an edge to a router.
    Edge { edge: u64, router: u64, lane: u32 },
    /// A lane that one router opened to another: frames flow to `to`.
    Peer { from: u64, to: u64 },
}

/// The bound of each direction of a lane, in bytes: as in the server, it takes one more frame while fewer
/// bytes wait. Small, so that it is met.
const LANE_BYTES: usize = 600;
/// What counts as [`BULK`] here, in bytes.
const BULK_BYTES: usize = 256;

/// The bytes that wait in a direction of a lane.
fn waiting<M: prost::Message>(queue: &VecDeque<M>) -> usize {
    queue.iter().map(prost::Message::encoded_len).sum()
}

/// The bytes that wait, scaled so that they can be compared with [`BULK`].
pub(super) fn in_bulks<M: prost::Message>(queue: &VecDeque<M>) -> usize {
    waiting(queue) * (BULK / BULK_BYTES)
}

/// Puts a frame into a direction of a lane, unless that is full.
pub(super) fn offer<M: prost::Message>(queue: &mut VecDeque<M>, item: M) -> Result<(), Unsent<M>> {
    if waiting(queue) >= LANE_BYTES {
        return Err(Unsent::full(item));
    }
    queue.push_back(item);
    Ok(())
}

/// One connection.
#[derive(Debug)]
pub(super) struct Conn {
    pub(super) ends: Ends,
    pub(super) up: VecDeque<proto::ToRouter>,
    pub(super) down: VecDeque<proto::ToEdgeBatch>,
    pub(super) peer: VecDeque<proto::PeerFrame>,
    /// It takes nothing more; what is in its queues still arrives.
    pub(super) broken: bool,
    /// The process that opened it knows that it is over.
    pub(super) opener_told: bool,
    /// The router that accepted it knows that it is over.
    pub(super) acceptor_told: bool,
    /// The network is cut between its ends: when each of them gives it up, because nothing comes any more.
    /// The end that opened it is the first.
    pub(super) gives_up: Option<[u64; 2]>,
    /// Which ends have given it up, without the other's knowledge: what comes for them is lost.
    pub(super) left: [bool; 2],
}

impl Conn {
    /// The process that opened it, and the one that accepted it.
    pub(super) fn ends(&self) -> (u64, u64) {
        match self.ends {
            Ends::Edge { edge, router, .. } => (edge, router),
            Ends::Peer { from, to } => (from, to),
        }
    }
}

/// All connections.
#[derive(Debug, Default)]
pub(super) struct Net {
    pub(super) conns: BTreeMap<u64, Conn>,
    last: u64,
}

pub(super) type SharedNet = Arc<Mutex<Net>>;

impl Net {
    /// Opens a connection; returns its number.
    pub(super) fn open(&mut self, ends: Ends) -> u64 {
        self.last += 1;
        let conn = Conn {
            ends,
            up: VecDeque::new(),
            down: VecDeque::new(),
            peer: VecDeque::new(),
            broken: false,
            opener_told: false,
            acceptor_told: false,
            gives_up: None,
            left: [false; 2],
        };
        self.conns.insert(self.last, conn);
        self.last
    }

    /// Opens a connection that is over already, which the process that accepts it does not know yet.
    pub(super) fn open_late(&mut self, ends: Ends) -> u64 {
        let id = self.open(ends);
        if let Some(conn) = self.conns.get_mut(&id) {
            conn.broken = true;
            conn.opener_told = true;
        }
        id
    }

    /// Breaks a connection: the first part of what is under way still arrives, the rest is lost.
    pub(super) fn break_it(&mut self, id: u64, rng: &mut Rng) {
        if let Some(conn) = self.conns.get_mut(&id)
            && !conn.broken
        {
            conn.broken = true;
            let up = rng.below(conn.up.len() as u64 + 1) as usize;
            conn.up.truncate(up);
            let down = rng.below(conn.down.len() as u64 + 1) as usize;
            conn.down.truncate(down);
            let peer = rng.below(conn.peer.len() as u64 + 1) as usize;
            conn.peer.truncate(peer);
        }
    }

    /// Breaks the connections of a process that has died: the first part of what it had sent may still
    /// arrive, what was sent to it is lost.
    pub(super) fn kill(&mut self, incarnation: u64, rng: &mut Rng) {
        let ids: Vec<u64> = self.conns.keys().copied().collect();
        for id in ids {
            let (opener, acceptor) = self.conns[&id].ends();
            if opener != incarnation && acceptor != incarnation {
                continue;
            }
            self.break_it(id, rng);
            let Some(conn) = self.conns.get_mut(&id) else {
                continue;
            };
            if acceptor == incarnation {
                conn.up.clear();
                conn.peer.clear();
                conn.acceptor_told = true;
            } else {
                conn.down.clear();
                conn.opener_told = true;
            }
        }
    }

    /// Removes connections that are over for both ends.
    pub(super) fn sweep(&mut self) {
        self.conns.retain(|_, c| {
            !(c.broken
                && c.opener_told
                && c.acceptor_told
                && c.up.is_empty()
                && c.down.is_empty()
                && c.peer.is_empty())
        });
    }
}

/// A router's end of a connection.
pub(super) struct End {
    pub(super) conn: u64,
    pub(super) net: SharedNet,
}

impl End {
    /// Sends something on the connection, if it is not over.
    fn with<T>(
        &self,
        item: T,
        send: impl FnOnce(&mut Conn, T) -> Result<(), Unsent<T>>,
    ) -> Result<(), Unsent<T>> {
        let mut net = self.net.lock();
        match net.conns.get_mut(&self.conn) {
            Some(conn) if !conn.broken => send(conn, item),
            _ => Err(Unsent::Closed),
        }
    }

    fn end(&self) {
        if let Some(conn) = self.net.lock().conns.get_mut(&self.conn) {
            conn.broken = true;
        }
    }
}

impl EdgeLane for End {
    fn send(&self, batch: proto::ToEdgeBatch) -> Result<(), Unsent<proto::ToEdgeBatch>> {
        self.with(batch, |conn, batch| offer(&mut conn.down, batch))
    }

    fn close(&self) {
        self.end();
    }
}

impl PeerSink for End {
    fn send(&self, frame: proto::PeerFrame) -> Result<(), Unsent<proto::PeerFrame>> {
        self.with(frame, |conn, frame| offer(&mut conn.peer, frame))
    }

    fn waiting(&self) -> usize {
        let net = self.net.lock();
        net.conns.get(&self.conn).map_or(0, |c| in_bulks(&c.peer))
    }

    fn close(&self) {
        self.end();
    }
}
