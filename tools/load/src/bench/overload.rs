//! More load than a server can handle: pairs write faster than it delivers, or it gets a part of a
//! core.
//!
//! First a closed loop measures the server's capacity. Then messages are offered at a fixed rate. A
//! session whose connection takes no more bytes skips its turn, like a client that waits for its
//! socket; a skipped message counts as offered and not as sent. The figures are how many messages
//! arrive, how late, how many sessions are disconnected, and whether all sent messages arrive in
//! the end.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::time::{sleep, sleep_until};

use super::leases;
use super::open::Target;
use super::outcome::{Latency, Outcome, Overload, Start};
use super::spec::{OverloadSpec, Timing};
use super::traffic::{Readers, body, floor_delivery, floor_stanza, pair_stanzas};
use crate::client::handle::Handle;
use crate::floor::hello::{Hello, Role};
use crate::measure::histogram::Histogram;
use crate::measure::process::{own, usage};

const CONCURRENCY: usize = 16;
/// The period in which a process that is limited to a part of a core runs once.
const PERIOD: Duration = Duration::from_millis(100);
/// How long sent messages may take to arrive after the last one.
const DRAIN: Duration = Duration::from_secs(60);

/// Session 2p writes to session 2p + 1 and back.
struct Pairs {
    handles: Vec<Arc<Handle>>,
    stanzas: Vec<Vec<u8>>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The times at which the messages under way to each session were sent; order is kept within a
    /// pair.
    sent: Vec<VecDeque<Instant>>,
    turn: usize,
    /// A delivery allows the next message.
    closed_loop: bool,
    offered: u64,
    skipped: u64,
    delivered: u64,
    latency: Histogram,
}

impl Pairs {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the next session write, unless its connection takes no more.
    fn offer(&self) {
        let mut state = self.state();
        let from = state.turn;
        state.turn = (from + 1) % self.handles.len();
        state.offered += 1;
        if self.handles[from].link().is_blocked() {
            state.skipped += 1;
            return;
        }
        state.sent[from ^ 1].push_back(Instant::now());
        drop(state);
        // A connection that has ended is counted by its reading task.
        drop(self.handles[from].send(&self.stanzas[from], None));
    }

    fn delivered(&self, index: usize) -> Result<()> {
        let mut state = self.state();
        let sent = state.sent[index].pop_front();
        let sent = sent.context("a message came that no session sent")?;
        state.delivered += 1;
        state.latency.record(sent.elapsed());
        let more = state.closed_loop;
        drop(state);
        if more {
            self.offer();
        }
        Ok(())
    }

    fn outstanding(&self) -> u64 {
        self.state().sent.iter().map(|sent| sent.len() as u64).sum()
    }
}

/// Measures one server.
///
/// # Errors
/// When sessions cannot be opened or no message arrives. A session that is disconnected later is
/// counted.
pub async fn overload(target: &Target, timing: &Timing, spec: &OverloadSpec) -> Result<Outcome> {
    ensure!(spec.pairs > 0, "overload needs at least one pair");
    ensure!(spec.times > 0.0, "overload needs a rate above nothing");
    let (pairs, readers) = open(target, timing, spec).await?;
    let capacity = capacity(&pairs, &readers, timing, spec).await?;
    let held = (spec.part > 1).then(|| hold(&target.spec.pids, spec.part));
    let rate = capacity * spec.times / f64::from(spec.part.max(1));
    let lost_before = leases::lost(&target.spec.leases).await;
    {
        let mut state = pairs.state();
        (state.offered, state.skipped, state.delivered) = (0, 0, 0);
        state.latency = Histogram::default();
    }
    let start = now(target)?;
    let begin = Instant::now();
    let end_at = begin + Duration::from_secs_f64(spec.seconds);
    let mut number = 0u64;
    while Instant::now() < end_at {
        let due = begin + Duration::from_secs_f64(number as f64 / rate);
        sleep_until(due.min(end_at).into()).await;
        pairs.offer();
        number += 1;
    }
    let wall_s = begin.elapsed().as_secs_f64();
    let end = now(target);
    let (latency, offered, skipped, delivered) = {
        let mut state = pairs.state();
        let latency = std::mem::take(&mut state.latency);
        (latency, state.offered, state.skipped, state.delivered)
    };
    // The throttle ends before the wait for the remaining messages.
    drop(held);
    let deadline = Instant::now() + DRAIN;
    while pairs.outstanding() > 0 && Instant::now() < deadline {
        sleep(Duration::from_millis(20)).await;
    }
    let lost_after = leases::lost(&target.spec.leases).await;
    let found = Overload {
        capacity_per_second: capacity,
        offered_per_second: offered as f64 / wall_s,
        skipped_per_second: skipped as f64 / wall_s,
        cut: readers.failed(),
        missing: pairs.outstanding(),
        leases_lost: lost_before.zip(lost_after).map(|(b, a)| a - b),
    };
    let why = readers.check().err();
    readers.close().await;
    // A server that has ended has no processor time to read; the disconnects of its clients say
    // more.
    let end = end.unwrap_or_else(|_| start.clone());
    ensure!(
        delivered > 0,
        "nothing was delivered within {} s: {why:?}",
        spec.seconds
    );
    let mut outcome = start.outcome(&end, "message", delivered, wall_s);
    outcome.latency = Latency::from(&latency);
    outcome.overload = Some(found);
    Ok(outcome)
}

fn now(target: &Target) -> Result<Start> {
    Ok(Start {
        usage: usage(&target.spec.pids)?,
        own: own()?,
    })
}

async fn open(
    target: &Target,
    timing: &Timing,
    spec: &OverloadSpec,
) -> Result<(Arc<Pairs>, Readers)> {
    let sessions = spec.pairs * 2;
    let group = rand::random();
    let text = body(spec.body);
    let incoming = floor_stanza(&text).len();
    let hello = |number: usize| Hello {
        group,
        role: Role::Peer(number ^ 1),
        number,
        incoming,
        outgoing: floor_delivery(0, spec.body),
        ask_every: timing.floor_ask_every,
    };
    let members = target.open(0..sessions, CONCURRENCY, true, hello).await?;
    let stanzas = pair_stanzas(target, &members, &text)?;
    let handles = members.iter().map(|m| Arc::clone(&m.handle)).collect();
    let state = State {
        sent: vec![VecDeque::new(); sessions],
        ..State::default()
    };
    let pairs = Arc::new(Pairs {
        handles,
        stanzas,
        state: Mutex::new(state),
    });
    let mut readers = Readers::default();
    for (index, member) in members.into_iter().enumerate() {
        let pairs = Arc::clone(&pairs);
        readers.add(member.stream, member.handle, move |_| {
            pairs.delivered(index)
        });
    }
    Ok((pairs, readers))
}

/// Deliveries a second in a closed loop, with a message under way in each pair.
async fn capacity(
    pairs: &Pairs,
    readers: &Readers,
    timing: &Timing,
    spec: &OverloadSpec,
) -> Result<f64> {
    pairs.state().closed_loop = true;
    for _ in 0..spec.pairs {
        pairs.offer();
    }
    sleep(Duration::from_secs_f64(timing.warmup_s)).await;
    let (before, begin) = (pairs.state().delivered, Instant::now());
    sleep(Duration::from_secs_f64(timing.duration_s)).await;
    let delivered = pairs.state().delivered - before;
    let per_second = delivered as f64 / begin.elapsed().as_secs_f64();
    pairs.state().closed_loop = false;
    readers.check()?;
    ensure!(delivered > 0, "nothing was delivered in a closed loop");
    let deadline = Instant::now() + DRAIN;
    while pairs.outstanding() > 0 {
        ensure!(Instant::now() < deadline, "not all messages came");
        sleep(Duration::from_millis(5)).await;
    }
    Ok(per_second)
}

/// Limits processes to a part of a core until it is dropped: they are stopped and continued many
/// times a second. A limit of the kernel would do the same, but not every machine permits one.
struct Held {
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

fn hold(pids: &crate::measure::process::Groups, part: u32) -> Held {
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let server = pids.get("server").into_iter().flatten();
    let pids: Vec<Pid> = server
        .filter_map(|pid| i32::try_from(*pid).ok().map(Pid::from_raw))
        .collect();
    let runs = PERIOD / part;
    let thread = thread::spawn(move || {
        // Fails only for a process that has ended, which its clients report.
        let all = |signal| {
            for pid in &pids {
                kill(*pid, signal).ok();
            }
        };
        while !stopped.load(Ordering::Acquire) {
            all(Signal::SIGSTOP);
            thread::sleep(PERIOD - runs);
            all(Signal::SIGCONT);
            thread::sleep(runs);
        }
    });
    Held {
        stop,
        thread: Some(thread),
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            // The thread does nothing that could panic.
            drop(thread.join());
        }
    }
}
