//! The state that all sessions of a run share: the notes, the counters, the mode.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use tokio::sync::watch;

use super::config::Config;
use super::history::{Delivery, History, Kind, MessageId, Sent};
use super::summary::{Window, WindowReport};
use crate::client::endpoint::{Endpoint, TrustOptions};

/// Messages under way when a session broke were sent at most this long before.
pub(super) const ABSENCE_MARGIN_US: u64 = 10_000_000;

/// The mode of all sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// The sessions do not send for now.
    Paused,
    /// The sessions send.
    Sending,
    /// The run is over: the sessions do not send any more.
    Stopped,
}

/// Receives events.
pub type Emit = Box<dyn Fn(&Value) + Send + Sync>;

/// The shared part of a run.
pub struct World {
    /// The configuration.
    pub config: Config,
    /// The server.
    pub endpoint: Endpoint,
    /// Distinguishes the messages of this run from those of earlier runs in the archives.
    pub run: String,
    started: Instant,
    mode: watch::Sender<Mode>,
    emit: Emit,
    log: Option<Mutex<BufWriter<File>>>,
    state: Mutex<State>,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) history: History,
    pub(super) kinds: Vec<Kind>,
    /// The conversation of each session.
    pub(super) places: Vec<Option<usize>>,
    pub(super) connected: Vec<bool>,
    /// The last edge of each session, by its number in the configuration.
    pub(super) edges: Vec<usize>,
    /// Sessions that were on an edge when it was touched, in this window.
    pub(super) struck: Vec<bool>,
    pub(super) ready: Vec<bool>,
    pub(super) rooms_open: HashSet<usize>,
    pub(super) touched: HashSet<String>,
    pub(super) total: Window,
    pub(super) current: Window,
    pub(super) finished: Vec<WindowReport>,
    /// Messages that were sent and not acknowledged, of sessions that still expect that.
    pub(super) unacked: Vec<std::collections::BTreeSet<u32>>,
    /// Deliveries still expected.
    pub(super) outstanding: i64,
    pub(super) last_delivery: u64,
    pub(super) bounces: BTreeMap<String, u64>,
    pub(super) refusals: BTreeMap<String, u64>,
    pub(super) leaves_seen: u64,
    pub(super) evictions: u64,
    pub(super) archive_reads: u64,
    pub(super) archive_read_failures: BTreeMap<String, u64>,
}

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("World")
            .field("run", &self.run)
            .finish_non_exhaustive()
    }
}

impl World {
    /// Prepares a run.
    ///
    /// # Errors
    /// When the configuration, the certificates or the log file are unusable.
    pub fn new(config: Config, emit: Emit) -> Result<Arc<Self>> {
        config.check()?;
        let trust = TrustOptions {
            ca: config.ca.clone(),
            insecure: config.insecure,
        }
        .load()?;
        let endpoint = Endpoint::new(&config.domain, config.transport, &trust)?;
        let log = match &config.log {
            Some(path) => {
                let file = File::create(path)
                    .with_context(|| format!("cannot write the log {}", path.display()))?;
                Some(Mutex::new(BufWriter::new(file)))
            }
            None => None,
        };
        let conversations = config.conversations();
        let sessions = config.sessions;
        let mut kinds = vec![Kind::Pair; sessions];
        let mut places = vec![None; sessions];
        for (number, conversation) in conversations.iter().enumerate() {
            for member in &conversation.members {
                kinds[*member] = conversation.kind;
                places[*member] = Some(number);
            }
        }
        let state = State {
            history: History::new(sessions, conversations),
            kinds,
            places,
            connected: vec![false; sessions],
            edges: vec![0; sessions],
            struck: vec![false; sessions],
            ready: vec![false; sessions],
            rooms_open: HashSet::new(),
            touched: HashSet::new(),
            total: Window::new("total", 0, sessions),
            current: Window::new("start", 0, sessions),
            finished: Vec::new(),
            unacked: vec![std::collections::BTreeSet::new(); sessions],
            outstanding: 0,
            last_delivery: 0,
            bounces: BTreeMap::new(),
            refusals: BTreeMap::new(),
            leaves_seen: 0,
            evictions: 0,
            archive_reads: 0,
            archive_read_failures: BTreeMap::new(),
        };
        Ok(Arc::new(Self {
            run: format!("{:08x}", rand::random::<u32>()),
            config,
            endpoint,
            started: Instant::now(),
            mode: watch::Sender::new(Mode::Paused),
            emit,
            log,
            state: Mutex::new(state),
        }))
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Microseconds since the start.
    #[must_use]
    pub fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// The mode, to be watched.
    #[must_use]
    pub fn mode(&self) -> watch::Receiver<Mode> {
        self.mode.subscribe()
    }

    /// Changes the mode.
    pub fn set_mode(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }

    /// Writes an event to the driver and to the log.
    pub fn event(&self, event: &Value) {
        (self.emit)(event);
        self.note(event);
    }

    /// Writes an event to the log only.
    pub(super) fn note(&self, event: &Value) {
        let Some(log) = &self.log else { return };
        let mut event = event.clone();
        event["at_us"] = json!(self.now());
        let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
        // A full disk must not end a run; the report does not depend on the log.
        drop(writeln!(log, "{event}"));
    }

    /// Writes the buffered lines of the log.
    pub fn flush_log(&self) {
        if let Some(log) = &self.log {
            drop(log.lock().unwrap_or_else(PoisonError::into_inner).flush());
        }
    }

    /// The conversation of a session; `None` for one that was left over.
    #[must_use]
    pub fn conversation(&self, session: usize) -> Option<(usize, Kind, Vec<usize>)> {
        let state = self.state();
        let number = state.places.get(session).copied().flatten()?;
        let conversation = &state.history.conversations[number];
        Some((number, conversation.kind, conversation.members.clone()))
    }

    /// Notes that a message is about to be sent; returns its count.
    pub fn sending(&self, session: usize) -> u32 {
        let at = self.now();
        let n = {
            let mut state = self.state();
            let n = state.history.sent[session].len() as u32;
            state.history.sent[session].push(Sent {
                at,
                ..Sent::default()
            });
            state.unacked[session].insert(n);
            state.outstanding += state.receivers(session);
            n
        };
        self.note(&json!({"event": "sent", "session": session, "n": n}));
        n
    }

    /// Notes that the server acknowledged messages of a session.
    pub fn acked(&self, session: usize, tags: &[u32]) {
        if tags.is_empty() {
            return;
        }
        let now = self.now();
        let mut guard = self.state();
        let state = &mut *guard;
        for tag in tags {
            state.unacked[session].remove(tag);
            if let Some(sent) = state.history.sent[session].get_mut(*tag as usize)
                && sent.acked.is_none()
            {
                sent.acked = Some(now);
                let wait = now - sent.at;
                for window in [&mut state.total, &mut state.current] {
                    window.worst_ack[session] = window.worst_ack[session].max(wait);
                }
            }
        }
        drop(guard);
        self.note(&json!({"event": "acked", "session": session, "n": tags}));
    }

    /// Notes that a message of this run arrived at a session.
    pub fn delivered(&self, session: usize, id: MessageId, stanza_id: Option<Box<str>>) {
        let now = self.now();
        let event = json!({"event": "delivered", "session": session, "sender": id.sender,
            "n": id.n, "stanza_id": stanza_id});
        let mut guard = self.state();
        let state = &mut *guard;
        state.outstanding -= 1;
        state.last_delivery = now;
        if let Some(sent) = state.history.message(id) {
            let latency = now.saturating_sub(sent.at);
            let apart = !state.touched.is_empty()
                && !state.struck[session]
                && !state.struck[id.sender as usize];
            for window in [&mut state.total, &mut state.current] {
                window.latency.record(Duration::from_micros(latency));
                window.worst[session] = window.worst[session].max(latency);
                if apart {
                    window.others.record(Duration::from_micros(latency));
                }
            }
        }
        state.history.delivered[session].push(Delivery {
            id,
            at: now,
            stanza_id,
        });
        let reflected = state.kinds[session] == Kind::Room && id.sender as usize == session;
        drop(guard);
        self.note(&event);
        if reflected {
            self.acked(session, &[id.n]);
        }
    }

    /// Notes that a message came back with an error.
    pub fn bounced(&self, id: MessageId, condition: &str) {
        let mut state = self.state();
        let receivers = state.receivers(id.sender as usize);
        let sent = state.history.sent.get_mut(id.sender as usize);
        let Some(sent) = sent.and_then(|sent| sent.get_mut(id.n as usize)) else {
            return;
        };
        if !sent.bounced {
            sent.bounced = true;
            state.outstanding -= receivers;
        }
        *state.bounces.entry(condition.to_owned()).or_default() += 1;
        drop(state);
        self.event(&json!({"event": "bounced", "session": id.sender, "n": id.n,
            "condition": condition}));
    }

    /// Notes that the driver disturbs an edge from now on, or no more.
    pub fn touch(&self, edge: &str, touched: bool) {
        let mut state = self.state();
        if touched {
            let state = &mut *state;
            for (on, struck) in state.edges.iter().zip(&mut state.struck) {
                *struck |= self.config.edges[*on] == edge;
            }
            state.current.struck = state.struck.iter().filter(|struck| **struck).count();
            state.touched.insert(edge.to_owned());
        } else {
            state.touched.remove(edge);
        }
    }

    /// Ends the current window and begins the next; returns the figures of the one that ended.
    pub fn mark(&self, label: &str) -> WindowReport {
        let now = self.now();
        let mut state = self.state();
        let next = Window::new(label, now, self.config.sessions);
        state.struck.fill(false);
        let report = std::mem::replace(&mut state.current, next).report(now);
        state.finished.push(report.clone());
        report
    }

    /// The state of the run for the driver.
    #[must_use]
    pub fn status(&self) -> Value {
        let now = self.now();
        let state = self.state();
        let oldest = state
            .unacked
            .iter()
            .enumerate()
            .filter_map(|(session, open)| {
                let first = *open.first()?;
                Some(state.history.sent[session].get(first as usize)?.at)
            });
        json!({
            "event": "status",
            "at_ms": now / 1000,
            "sessions": self.config.sessions,
            "connected": state.connected.iter().filter(|connected| **connected).count(),
            "ready": state.ready.iter().filter(|ready| **ready).count(),
            "unacked": state.unacked.iter().map(std::collections::BTreeSet::len).sum::<usize>(),
            "oldest_unacked_ms": oldest.min().map_or(0, |at| (now - at) / 1000),
            "undelivered": state.outstanding,
            "last_delivery_ms_ago": now.saturating_sub(state.last_delivery) / 1000,
            "window": state.current.report(now),
        })
    }

    /// Whether all sessions are connected, and all their messages acknowledged and delivered.
    #[must_use]
    pub fn settled(&self) -> bool {
        let state = self.state();
        let quiet = self.now().saturating_sub(state.last_delivery) > 5_000_000;
        state
            .connected
            .iter()
            .zip(&state.kinds)
            .all(|(connected, _)| *connected)
            && state
                .unacked
                .iter()
                .all(std::collections::BTreeSet::is_empty)
            && (state.outstanding == 0 || quiet)
    }

    /// Gives access to the notes.
    pub fn history<T>(&self, look: impl FnOnce(&mut History) -> T) -> T {
        look(&mut self.state().history)
    }

    /// All figures except the checker's.
    #[must_use]
    pub fn figures(&self) -> Value {
        let now = self.now();
        let state = self.state();
        json!({
            "seed": self.config.seed,
            "run": self.run,
            "total": state.total.report(now),
            "windows": state.finished.iter().cloned().chain([state.current.report(now)])
                .collect::<Vec<_>>(),
            "bounces": state.bounces,
            "refusals": state.refusals,
            "leaves_seen": state.leaves_seen,
            "evictions": state.evictions,
            "archive_reads": state.archive_reads,
            "archive_read_failures": state.archive_read_failures,
            "connected": state.connected.iter().filter(|connected| **connected).count(),
            "unacked": state.unacked.iter().map(std::collections::BTreeSet::len).sum::<usize>(),
        })
    }
}

impl State {
    /// How many sessions get a message of `sender`.
    pub(super) fn receivers(&self, sender: usize) -> i64 {
        let place = self.places.get(sender).copied().flatten();
        match place.map(|number| &self.history.conversations[number]) {
            Some(c) if c.kind == Kind::Room => c.members.len() as i64,
            Some(_) => 1,
            None => 0,
        }
    }
}
