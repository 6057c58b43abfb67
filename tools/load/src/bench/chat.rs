//! Pairs of sessions that write to each other.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use anyhow::{Context as _, Result};

use super::open::Target;
use super::outcome::Outcome;
use super::spec::{ChatSpec, Timing};
use super::traffic::{
    Meter, Open, Readers, Traffic, body, floor_delivery, floor_stanza, pair_stanzas, run,
};
use crate::client::handle::Handle;
use crate::floor::hello::{Hello, Role};

const CONCURRENCY: usize = 16;

/// Session 2p writes to session 2p + 1 and back.
struct Chat {
    handles: Vec<Arc<Handle>>,
    stanzas: Vec<Vec<u8>>,
    per_pair: bool,
    state: Mutex<State>,
}

struct State {
    /// The times at which the messages under way to each session were sent. Order is kept within a
    /// pair, so a message needs no time stamp.
    sent: Vec<VecDeque<Instant>>,
    turn: usize,
    closed_loop: bool,
    outstanding: u64,
    meter: Meter,
}

/// Measures chat at one server.
///
/// # Errors
/// When sessions cannot be opened, break, or messages do not arrive.
pub async fn chat(target: &Target, timing: &Timing, spec: &ChatSpec) -> Result<Outcome> {
    anyhow::ensure!(spec.pairs > 0, "chat needs at least one pair");
    let sessions = spec.pairs * 2;
    let group = rand::random();
    let text = body(spec.body);
    let incoming = floor_stanza(&text).len();
    let outgoing = floor_delivery(spec.floor_bytes, spec.body);
    let hello = |number: usize| Hello {
        group,
        role: if number < sessions {
            Role::Peer(number ^ 1)
        } else {
            Role::Idle
        },
        number,
        incoming,
        outgoing,
        ask_every: timing.floor_ask_every,
    };
    let members = target.open(0..sessions, CONCURRENCY, true, hello).await?;
    let online = sessions..sessions + spec.background;
    let background = target.open(online, CONCURRENCY, true, hello).await?;

    let stanzas = pair_stanzas(target, &members, &text)?;
    let traffic = Arc::new(Chat {
        handles: members
            .iter()
            .map(|member| Arc::clone(&member.handle))
            .collect(),
        stanzas,
        per_pair: spec.per_pair,
        state: Mutex::new(State {
            sent: vec![VecDeque::new(); sessions],
            turn: 0,
            closed_loop: spec.rate.is_none(),
            outstanding: 0,
            meter: Meter::default(),
        }),
    });
    let mut readers = Readers::default();
    for (index, member) in members.into_iter().enumerate() {
        let traffic = Arc::clone(&traffic);
        readers.add(member.stream, member.handle, move |n| {
            traffic.delivered(index, n)
        });
    }
    readers.add_idle(background);
    let open = match spec.rate {
        Some(rate) => Open::Rate(rate),
        None => Open::Closed {
            in_flight: if spec.per_pair {
                spec.in_flight * spec.pairs
            } else {
                spec.in_flight
            },
        },
    };
    run(&target.spec, timing, readers, traffic, "message", open).await
}

impl Chat {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn send(&self, mut state: MutexGuard<'_, State>, from: usize) -> Result<()> {
        state.sent[from ^ 1].push_back(Instant::now());
        state.outstanding += 1;
        drop(state);
        Ok(self.handles[from].send(&self.stanzas[from], None)?)
    }
}

impl State {
    /// All pairs in turn, first in one direction and then in the other.
    fn next_sender(&mut self) -> usize {
        let sessions = self.sent.len();
        let turn = self.turn;
        self.turn = (turn + 1) % sessions;
        let pairs = sessions / 2;
        2 * (turn % pairs) + turn / pairs
    }
}

impl Traffic for Chat {
    fn delivered(&self, index: usize, bytes: usize) -> Result<()> {
        let mut state = self.state();
        let sent = state.sent[index]
            .pop_front()
            .context("a message came that no session sent")?;
        state.outstanding -= 1;
        state.meter.record(sent.elapsed(), bytes);
        if !state.closed_loop {
            return Ok(());
        }
        let from = if self.per_pair {
            index
        } else {
            state.next_sender()
        };
        self.send(state, from)
    }

    fn send_one(&self) -> Result<()> {
        let mut state = self.state();
        let from = state.next_sender();
        self.send(state, from)
    }

    fn meter<T>(&self, look: impl FnOnce(&mut Meter) -> T) -> T {
        look(&mut self.state().meter)
    }

    fn stop(&self) {
        self.state().closed_loop = false;
    }

    fn outstanding(&self) -> u64 {
        self.state().outstanding
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn senders_take_turns_over_all_sessions() {
        let mut state = State {
            sent: vec![VecDeque::new(); 6],
            turn: 0,
            closed_loop: true,
            outstanding: 0,
            meter: Meter::default(),
        };
        let turns: Vec<_> = (0..7).map(|_| state.next_sender()).collect();
        assert_eq!(turns, [0, 2, 4, 1, 3, 5, 0]);
    }
}
