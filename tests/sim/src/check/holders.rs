//! A stanza that is acknowledged is held twice from that moment on.
//!
//! - When a stanza is settled, its receiver has it, or a store has it, or two processes hold it.
//! - When a client is told that a stanza is accepted, both its edge and the owner of its session hold the
//!   stanza.
//!
//! A stanza may be lost if its session is over before the client got the acknowledgement of the stanza.
//!
//! Only stanzas are judged that were sent after the last process died and after a store lost something
//! the last time: such an event may leave one holder of an earlier stanza. Runs with faults of
//! the network are not judged, because there a process may still run and hold a stanza after it has lost
//! its right to it.

use sestina_router::simulation::Worker;

use super::super::client::{Client, What, number_in};
use super::super::host::Host;
use super::super::world::{Sent, World};
use super::bare;

fn body_of(number: u64) -> Vec<u8> {
    format!("<body>m{number}</body>").into_bytes()
}

impl World {
    /// How often a process or store lost what it held.
    pub(in super::super) fn losses(&self) -> u64 {
        self.deaths + self.state_store.losses + self.storage.commits.losses
    }

    /// Called after each turn of a worker: judges the stanzas that were settled in that turn.
    pub(in super::super) fn look_at_settled(&mut self, host: usize, worker: usize) {
        if self.leases.is_some() {
            return;
        }
        let incarnation = self.hosts[host].incarnation();
        let Some(worker) = self.hosts[host].workers.get(worker) else {
            return;
        };
        let settled: Vec<(u128, u64)> = worker.settled().collect();
        for (session, settled) in settled {
            let before = self.settled.insert((incarnation, session), settled);
            // When this owner sees the session for the first time, an earlier owner has settled these.
            for n in before.unwrap_or(settled) + 1..=settled {
                if let Some(number) = self.numbers.get(&(session, n)).copied() {
                    self.look_at_holders(number);
                }
            }
        }
    }

    /// Judges a message that is settled.
    fn look_at_holders(&mut self, number: u64) {
        let Some(sent) = self.sent.get(&number) else {
            return;
        };
        // The router may have answered the message with an error, which a client that is gone cannot receive.
        let over = self.clients[sent.from].session_no != sent.session;
        let unheard = over && !sent.accepted;
        if sent.losses != self.losses() || unheard || self.is_taken(number, sent) {
            return;
        }
        let names = self.holders(number);
        // While a slot is handed over, its former owner still has a copy, which is not counted here.
        let on_its_way = self.state_store.holds(&body_of(number)) && self.is_giving_away();
        if names.len() + usize::from(on_its_way) < 2 {
            let text = format!("m{number} {sent:?} is settled, and held by {names:?} only");
            self.trouble.push(text);
        }
    }

    /// Whether a client has received the message, or the offline store has it, or a room that goes on
    /// without the state store has told it to occupants of whom none is left.
    fn is_taken(&self, number: u64, sent: &Sent) -> bool {
        let got = |client: &Client| client.got.contains(&number);
        let inside =
            |client: &Client| client.is_online() && client.login.rooms.contains_key(&sent.to);
        if sent.what == What::Groupchat && self.state_store.away && !self.clients.iter().any(inside)
        {
            return true;
        }
        let stored = || {
            let mut rows = self.storage.offline_all(bare(&sent.to));
            rows.any(|row| number_in(row.stanza.as_ref()) == Some(number))
        };
        self.clients.iter().any(got) || (sent.what.is_for_user() && stored())
    }

    /// Whether there is a slot that no router serves.
    fn is_giving_away(&self) -> bool {
        let served = |slot: &u16| {
            let mut workers = self.running_workers();
            workers.any(|worker| worker.serves(*slot))
        };
        !self.slots.iter().all(served)
    }

    /// The processes and stores that hold a message.
    fn holders(&self, number: u64) -> Vec<String> {
        let body = body_of(number);
        let id = format!("m{number}");
        let mut names = Vec::new();
        for host in self.hosts.iter().filter(|host| host.is_alive()) {
            let holds = |worker: &Worker| worker.holds(&body, &id);
            if host.workers.iter().any(holds) || host.stores(number) {
                names.push(host.node.name.clone());
            }
        }
        for edge in self.edges.iter().filter(|edge| edge.alive) {
            if edge.holds(&body, &id) {
                names.push(edge.node.name.clone());
            }
        }
        if names.len() < 2 && self.state_store.holds(&body) {
            names.push("the state store".to_owned());
        }
        names
    }

    /// Called after an edge has taken frames: judges the stanzas whose acceptance it has told clients.
    pub(in super::super) fn look_at_told(&mut self, edge: usize) {
        if self.leases.is_some() {
            return;
        }
        // A router that was replaced while it was suspended goes on for a moment. What it has accepted is lost with
        // it, as with a router that died, but it is not counted as dead yet.
        let replaced = |host: &Host| host.acts() && !host.is_alive();
        let replaced = self.hosts.iter().any(replaced);
        let incarnation = self.edges[edge].incarnation();
        for told in self.edges[edge].told() {
            let before = self.told.insert((incarnation, told.handle), told.told);
            for n in before.unwrap_or(told.told) + 1..=told.told {
                let Some(number) = self.numbers.get(&(told.session, n)) else {
                    continue;
                };
                let lost = self.sent.get(number).map(|sent| sent.losses) != Some(self.losses());
                let mut settled = self.settled.iter();
                if settled.any(|((_, session), up_to)| *session == told.session && *up_to >= n) {
                    continue;
                }
                let at_edge = told.first_held.is_some_and(|first| first <= n);
                let owners = self.hosts.iter().filter(|host| host.is_alive());
                let mut accepted = owners.flat_map(|h| &h.workers);
                let at_owner = accepted.any(|w| w.accepted(told.session).is_some_and(|a| a >= n));
                if !(lost || at_edge && (at_owner || replaced)) {
                    self.trouble.push(format!(
                        "m{number}: acknowledged, at its edge: {at_edge}, at its owner: {at_owner}"
                    ));
                }
            }
        }
    }
}
