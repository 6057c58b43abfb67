//! The connections of the floor and the two ways of writing to them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::hello::{Hello, Role, frame};
use crate::net::link::Link;

/// The floor asks at once after a pause, as the server does.
const ASK_AFTER: Duration = Duration::from_millis(500);
const REQUEST: &[u8] = b"<r xmlns='urn:xmpp:sm:3'/>";

/// The way in which deliveries are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Mode {
    /// One record and one write per delivery.
    Plain,
    /// One record and one write for all deliveries of one turn to a socket.
    Coalescing,
}

/// One connection after its hello.
#[derive(Debug)]
pub struct Peer {
    link: Arc<Link>,
    /// The delivery, and the delivery followed by a request.
    frames: [Vec<u8>; 2],
    ask_every: u32,
    out: Mutex<Out>,
}

#[derive(Debug, Default)]
struct Out {
    since_request: u32,
    requested_at: Option<Instant>,
    pending: Vec<u8>,
}

/// All connections, by group and number.
#[derive(Debug)]
pub struct Peers {
    mode: Mode,
    groups: Mutex<HashMap<u64, Vec<Option<Arc<Peer>>>>>,
    dirty: Mutex<Vec<Arc<Peer>>>,
    turn: Notify,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Peers {
    /// No connections yet.
    #[must_use]
    pub fn new(mode: Mode) -> Arc<Self> {
        Arc::new(Self {
            mode,
            groups: Mutex::default(),
            dirty: Mutex::default(),
            turn: Notify::new(),
        })
    }

    /// Adds a connection. The largest group is bounded by the descriptors of the process, but a
    /// number comes from the client: absurd ones are refused.
    #[must_use]
    pub fn add(&self, hello: &Hello, link: &Arc<Link>) -> bool {
        if hello.number > 1_000_000 || hello.outgoing > 1_000_000 {
            return false;
        }
        if hello.role == Role::Idle {
            return true;
        }
        let plain = frame(hello.outgoing);
        let asking = [plain.as_slice(), REQUEST].concat();
        let peer = Peer {
            link: Arc::clone(link),
            frames: [plain, asking],
            ask_every: hello.ask_every,
            out: Mutex::default(),
        };
        let mut groups = lock(&self.groups);
        let group = groups.entry(hello.group).or_default();
        if group.len() <= hello.number {
            group.resize(hello.number + 1, None);
        }
        group[hello.number] = Some(Arc::new(peer));
        true
    }

    /// Removes a connection that ended.
    pub fn remove(&self, hello: &Hello) {
        let mut groups = lock(&self.groups);
        if let Some(group) = groups.get_mut(&hello.group) {
            if let Some(peer) = group.get_mut(hello.number) {
                *peer = None;
            }
            if group.iter().all(Option::is_none) {
                groups.remove(&hello.group);
            }
        }
    }

    /// Delivers one message of the connection that said `hello`.
    pub fn deliver(&self, hello: &Hello) {
        let groups = lock(&self.groups);
        let Some(group) = groups.get(&hello.group) else {
            return;
        };
        // Read once for all receivers, since reading the clock is no part of a delivery.
        let now = Instant::now();
        match hello.role {
            Role::Peer(number) => {
                if let Some(Some(peer)) = group.get(number) {
                    self.write(peer, now);
                }
            }
            Role::Everyone => group
                .iter()
                .flatten()
                .for_each(|peer| self.write(peer, now)),
            Role::Idle => {}
        }
    }

    fn write(&self, peer: &Arc<Peer>, now: Instant) {
        let mut out = lock(&peer.out);
        out.since_request += 1;
        let paused = out.requested_at.is_none_or(|at| now - at >= ASK_AFTER);
        let asks = peer.ask_every > 0 && (paused || out.since_request >= peer.ask_every);
        if asks {
            out.since_request = 0;
            out.requested_at = Some(now);
        }
        let frame = &peer.frames[usize::from(asks)];
        match self.mode {
            // A peer that is gone is removed by its own task.
            Mode::Plain => drop(peer.link.send(frame)),
            Mode::Coalescing => {
                if out.pending.is_empty() {
                    lock(&self.dirty).push(Arc::clone(peer));
                    self.turn.notify_one();
                }
                out.pending.extend_from_slice(frame);
            }
        }
    }

    /// Writes the waiting deliveries, once per turn of the runtime: this task runs after those that
    /// were ready before it was woken.
    pub async fn flush_turns(&self) {
        loop {
            self.turn.notified().await;
            let dirty = std::mem::take(&mut *lock(&self.dirty));
            for peer in dirty {
                let mut out = lock(&peer.out);
                let sent = peer.link.send(&out.pending);
                out.pending.clear();
                drop(sent);
            }
        }
    }
}
