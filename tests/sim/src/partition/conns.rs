//! Connections whose ends are separated by a cut: what passes, and when an end gives up.

use super::{Cut, Place};
use crate::net::Conn;
use crate::world::World;

/// An end gives up a connection when nothing has come for a time between these two, in simulated
/// milliseconds. (The server sends a ping every eighth of the time that a lease lasts, and waits for the
/// answer.)
pub(super) const SILENCE: (u64, u64) = (120, 360);

/// What passes through a connection now: to the acceptor (`up`) and to the opener (`down`).
pub(crate) struct Flow {
    pub(crate) up: bool,
    pub(crate) down: bool,
    /// The opener can learn that the connection is over: news of it passes, or nothing has come for too
    /// long.
    pub(crate) opener_hears: bool,
    /// The same for the acceptor.
    pub(crate) acceptor_hears: bool,
    /// Ends, the opener first, that give up a connection which is not broken.
    pub(crate) gives_up: [bool; 2],
}

impl Cut {
    /// Whether it is between the ends of a connection.
    pub(super) fn is_on(&self, conn: &Conn) -> bool {
        let (opener, acceptor) = conn.ends();
        let ends = [Place::Process(opener), Place::Process(acceptor)];
        ends.contains(&self.from) && ends.contains(&self.to)
    }
}

impl World {
    /// Whether the network lets through what is sent to the acceptor of a connection, and to the opener.
    fn ways(&self, conn: &Conn) -> (bool, bool) {
        let (opener, acceptor) = conn.ends();
        let (opener, acceptor) = (Place::Process(opener), Place::Process(acceptor));
        (self.passes(opener, acceptor), self.passes(acceptor, opener))
    }

    /// What passes through a connection now.
    pub(crate) fn flow(&self, conn: &Conn) -> Flow {
        let (up, down) = self.ways(conn);
        let silent = |end: usize| conn.gives_up.is_some_and(|at| at[end] <= self.now);
        let gives_up = |end: usize| silent(end) && !conn.broken && !conn.left[end];
        Flow {
            up: up && !conn.left[1],
            down: down && !conn.left[0],
            opener_hears: down || silent(0),
            acceptor_hears: up || silent(1),
            gives_up: [gives_up(0), gives_up(1)],
        }
    }

    /// One end gives up a connection. The other end learns of that when the network lets it through, or
    /// gives up the connection as well.
    pub(crate) fn give_up(&mut self, id: u64, end: usize) {
        self.note(|| format!("!! end {end} of connection {id} gives it up"));
        if let Some(conn) = self.net.lock().conns.get_mut(&id) {
            conn.left[end] = true;
        }
        match end {
            0 => self.tell_opener(id),
            _ => self.tell_acceptor(id),
        }
        self.end_conns();
    }

    /// Connections that one end has given up break when the other end can learn of that. Frames that come
    /// for an end which has given up are lost.
    pub(super) fn end_conns(&self) {
        for conn in self.net.lock().conns.values_mut() {
            let (up, down) = self.ways(conn);
            let [opener_left, acceptor_left] = conn.left;
            conn.broken |= (opener_left && (up || acceptor_left)) || (acceptor_left && down);
            if conn.left[1] {
                conn.up.clear();
                conn.peer.clear();
            }
            if conn.left[0] {
                conn.down.clear();
            }
        }
    }
}
