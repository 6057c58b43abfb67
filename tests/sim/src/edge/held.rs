//! What an edge holds for its sessions, and what is wrong with it: for the checks.

use std::collections::BTreeSet;
use std::sync::Arc;

use sestina_edge::attachment::hands::Lock as _;
use sestina_edge::attachment::state::{Link, Phase};
use sestina_edge::metrics::{Count, Level};
use sestina_router::simulation::contains;
use sestina_xmpp::stanza::Stanza;

use super::{Edge, EdgeSession};

/// Events that must not happen after a single fault.
const NEVER: [Count; 3] = [Count::NumberGap, Count::InputLost, Count::OwnerTimeout];

/// How often each of the events that must not happen had happened when that was forgiven.
pub(super) type Forgiven = [u64; NEVER.len()];

/// What the client of a session was told of its stanzas.
pub(crate) struct Told {
    pub(crate) handle: u64,
    pub(crate) session: u128,
    /// All of its stanzas up to this one are accepted.
    pub(crate) told: u64,
    /// The first of its stanzas that the edge holds.
    pub(crate) first_held: Option<u64>,
}

impl Edge {
    /// How often an event happened.
    pub(crate) fn count(&self, what: Count) -> u64 {
        self.ground.tally.get(what)
    }

    fn sessions(&self) -> Vec<Arc<EdgeSession>> {
        self.ground.attachments.all_sessions()
    }

    /// What its clients were told of their stanzas.
    pub(crate) fn told(&self) -> Vec<Told> {
        let told = |session: Arc<EdgeSession>| {
            let state = session.state.lock();
            Told {
                handle: session.handle,
                session: session.nonce,
                told: state.incoming.told,
                first_held: state.incoming.held.front().map(|held| held.n),
            }
        };
        self.sessions().into_iter().map(told).collect()
    }

    /// Whether it holds a message for a client: one whose body is `body`, or an error about it.
    pub(crate) fn holds(&self, body: &[u8], error_id: &str) -> bool {
        let is = |stanza: &Stanza| {
            contains(&stanza.payload, body) || (stanza.is_error() && stanza.id == error_id)
        };
        self.sessions().iter().any(|session| {
            let state = session.state.lock();
            let mut stanzas = state
                .outgoing
                .held
                .iter()
                .filter_map(|held| held.stanza.as_ref());
            stanzas.any(|stanza| is(stanza))
        })
    }

    /// What it still holds, though nothing is under way; `online` are the sessions that have a client.
    pub(crate) fn leftovers(&self, online: &BTreeSet<u128>) -> Vec<String> {
        let name = &self.node.name;
        let mut wrong = Vec::new();
        let sessions = self.sessions();
        for session in &sessions {
            if !online.contains(&session.nonce) {
                wrong.push(format!("{name}: {} has no client", session.jid));
            }
            let state = session.state.lock();
            let bytes = (state.incoming.held_bytes, state.outgoing.unacked_bytes);
            if bytes != (0, 0) {
                wrong.push(format!("{name}: {} counts {bytes:?} bytes", session.jid));
            }
        }
        let waits = self.ground.attachments.waits();
        if waits != 0 {
            wrong.push(format!("{name}: {waits} slots or sessions wait"));
        }
        let level = |what| self.ground.tally.level_of(what);
        let levels = (level(Level::Sessions), level(Level::Unsettled));
        if levels != (sessions.len() as i64, 0) || level(Level::UnsettledBytes) != 0 {
            wrong.push(format!(
                "{name} has {} sessions, counted as {levels:?}",
                sessions.len()
            ));
        }
        wrong
    }

    /// Forgives what has happened until now: checks judge only what happens from here on.
    pub(crate) fn forgive(&mut self) {
        self.forgiven = NEVER.map(|count| self.count(count));
    }

    /// The events that must not have happened, and what must not be under way at rest.
    pub(crate) fn unfinished(&self) -> Vec<String> {
        let name = &self.node.name;
        let mut wrong = Vec::new();
        for (count, forgiven) in NEVER.into_iter().zip(self.forgiven) {
            let times = self.count(count) - forgiven;
            if times > 0 {
                wrong.push(format!("{name}: {} happened {times} times", count.name()));
            }
        }
        for (number, cell) in self.ground.attachments.slots.iter().enumerate() {
            let slot = cell.lock();
            if !slot.pending.is_empty() {
                wrong.push(format!("{name} slot {number}: logins wait for an owner"));
            }
            for session in slot.sessions.values() {
                let at = format!("{name} session {:04x}", session.nonce & 0xffff);
                session_unfinished(session, &at, &mut wrong);
            }
        }
        wrong
    }
}

fn session_unfinished(session: &EdgeSession, at: &str, wrong: &mut Vec<String>) {
    let state = session.state.lock();
    let live = matches!(state.link, Link::Live(_));
    if !live || state.phase != Phase::Open || !state.incoming.held.is_empty() {
        wrong.push(format!(
            "{at} waits for its owner: {:?}, linked: {live}, holds {} of {} (accepted {}, settled {})",
            state.phase,
            state.incoming.held.len(),
            state.incoming.last,
            state.incoming.accepted,
            state.incoming.settled,
        ));
    }
    if !state.outgoing.held.is_empty() {
        wrong.push(format!(
            "{at}: holds {} deliveries (acked {}, released {}, last {})",
            state.outgoing.held.len(),
            state.outgoing.acked,
            state.outgoing.released,
            state.outgoing.last
        ));
    }
}
