//! One step of the world: an act, and frames that come where they were sent.

use sestina_edge::attachment::hands::Hands as _;
use sestina_proto as proto;
use sestina_proto::to_edge::Body as Down;

use super::acts::Act;
use super::host::{self, Keeper};
use super::net::{Conn, Ends};
use super::state_store::Fate;
use super::trace;
use super::world::*;
use sestina_router::simulation::Input;
use sestina_router::simulation::{LaneRef, PeerRef};

/// Longer than anything waits that still comes by itself.
const IDLE: u64 = 20_000;

impl World {
    /// Runs steps until so many acts happened, or nothing is left to do (no edge lives, say).
    pub(super) fn run(&mut self, acts: u64) {
        let mut left = acts;
        let mut acted = self.now;
        while left > 0 && self.now < acted + IDLE {
            if self.step() {
                left -= 1;
                acted = self.now;
            }
            if self.talking && self.rng.one_in(4) {
                super::talk::talk(self);
            }
        }
    }

    /// Runs until nothing happens any more; says whether it came to that.
    pub(super) fn rest(&mut self, quiet: u64, limit: u64) -> bool {
        let end = self.steps + limit;
        self.last_act = self.now;
        while self.now < self.last_act + quiet {
            self.step();
            if self.steps.is_multiple_of(16) {
                self.look_at_service();
            }
            if self.steps > end {
                return false;
            }
        }
        true
    }

    /// One step; false if there was nothing to do but to wait.
    pub(super) fn step(&mut self) -> bool {
        self.steps += 1;
        self.wake();
        self.keep_leases();
        self.ticks();
        let acts = self.acts();
        let Some(act) = self.rng.pick(&acts).copied() else {
            self.now += 5 + self.rng.below(15);
            return false;
        };
        if self.rng.one_in(2) {
            self.now += self.rng.below(3);
        }
        if self.act(act) {
            self.last_act = self.now;
        }
        if self.steps.is_multiple_of(64) {
            self.net.lock().sweep();
        }
        true
    }

    pub(super) fn ticks(&mut self) {
        if self.now >= self.edge_tick {
            self.edge_tick = self.now + 50;
            for edge in self.edges.iter().filter(|e| e.alive) {
                if self.serves(edge.incarnation()) {
                    edge.tick(self.now);
                }
            }
        }
        for host in 0..self.hosts.len() {
            let now = self.now;
            if self.works(&self.hosts[host]) && self.hosts[host].tick_due(now) {
                for worker in 0..self.hosts[host].workers.len() {
                    self.turn(host, worker, 0);
                }
            }
        }
    }

    /// One turn of a worker, and a look at what it has done.
    fn turn(&mut self, host: usize, worker: usize, count: usize) {
        self.hosts[host].turn(worker, count, self.now);
        if self.hosts[host].is_running() {
            self.look_at_settled(host, worker);
            self.look_at_bounds(host, worker);
        }
    }

    /// Does it; false if it does not count as something happening.
    pub(super) fn act(&mut self, act: Act) -> bool {
        match act {
            Act::Up(conn) => self.up(conn),
            Act::Down(conn) => self.down(conn),
            Act::Peer(conn) => self.peer(conn),
            Act::TellOpener(conn) => self.tell_opener(conn),
            Act::TellAcceptor(conn) => self.tell_acceptor(conn),
            Act::GiveUp(conn, end) => self.give_up(conn, end),
            Act::Installed(host) => {
                self.tell_installed(host);
                return false;
            }
            Act::Turn(host, worker) => {
                let count = 1 + self.rng.below(6) as usize;
                self.turn(host, worker, count);
            }
            Act::Job(host, job) => return self.job(host, job),
            Act::Orphan(index) => {
                let (job, asker) = self.orphans.swap_remove(index);
                let (storage, shadow) = (&mut self.storage, &mut self.shadow);
                host::perform(&job, &asker, self.now, storage, shadow, Fate::Answered);
            }
            Act::LateWrite(index) => {
                let text = self.shadow.arrive(index);
                self.note(|| text);
            }
            Act::Watch(host) => {
                if self.hosts[host].has_to_assert() {
                    self.hosts[host].assert(&mut self.storage, self.now);
                }
                let fresh = self.fresh();
                self.hosts[host].watch(&fresh);
                self.publish(host);
            }
            Act::ReadTable(host) => self.hosts[host].offer(&self.storage.map),
            Act::Refresh(host) => {
                let fresh = self.fresh();
                let host = &mut self.hosts[host];
                host.refresh(&fresh);
                let gone: Vec<u64> = host
                    .keepers
                    .keys()
                    .filter(|i| !fresh.contains_key(i))
                    .copied()
                    .collect();
                for incarnation in gone {
                    if let Some(conn) = host.keepers.remove(&incarnation).and_then(|k| k.conn)
                        && let Some(conn) = self.net.lock().conns.get_mut(&conn)
                    {
                        conn.broken = true;
                        conn.opener_told = true;
                    }
                }
            }
            Act::Plan => self.plan(),
            Act::Claim(index) => self.claim(index),
            Act::PeerOpen(host, to) => self.open_peer(host, to),
            Act::LaneOpen(edge, lane) => self.open_lane(edge, lane),
            Act::EdgeLearn(edge, host) => {
                let table = self.hosts[host].table.clone();
                let ground = self.edges[edge].at(self.now);
                ground.learn(table.as_proto().clone());
            }
            Act::SockUp(sock) => self.sock_up(sock),
            Act::SockDown(sock) => self.sock_down(sock),
            Act::SockTold(sock) => self.sock_told(sock),
            Act::SockGone(sock) => self.sock_gone(sock),
            Act::Connect(client) => self.connect(client),
            Act::Late(host) => self.lose_lease(host),
            Act::Report(position) => {
                self.storage.report(position);
                let timeline = self.storage.map.timeline;
                self.note(|| format!("== timeline {timeline}"));
            }
        }
        true
    }

    /// What is next on one way of a connection, and between whom.
    fn taken<T>(&self, id: u64, next: impl FnOnce(&mut Conn) -> Option<T>) -> Option<(Ends, T)> {
        let mut net = self.net.lock();
        let conn = net.conns.get_mut(&id)?;
        next(conn).map(|taken| (conn.ends, taken))
    }

    pub(super) fn up(&mut self, id: u64) {
        let taken = self.taken(id, |conn| conn.up.pop_front());
        let Some((Ends::Edge { edge, router, lane }, frame)) = taken else {
            return;
        };
        self.note(|| format!("e{edge}->r{router} {}", trace::up(&frame)));
        let alive = self.edge_index(edge).is_some_and(|e| self.edges[e].alive);
        if let Some(proto::to_router::Body::Resume(resume)) = &frame.body
            && !alive
        {
            let session = sestina_api::key::join(resume.session_hi, resume.session_lo);
            self.late_resumes.insert(session);
        }
        if let Some(host) = self.host_index(router) {
            self.hosts[host].edge_frame(LaneRef { edge, lane }, frame);
        }
    }

    pub(super) fn down(&mut self, id: u64) {
        let taken = self.taken(id, |conn| conn.down.pop_front());
        let Some((Ends::Edge { edge, router, .. }, batch)) = taken else {
            return;
        };
        self.note(|| format!("r{router}->e{edge} {}", trace::down(&batch)));
        if !self.serves(edge) {
            // Its lease is about to end: it takes nothing, and has it sent again.
            return self.give_up(id, 0);
        }
        if let Some(index) = self.edge_index(edge) {
            self.edges[index].take_batch(self.now, id, batch);
            self.look_at_told(index);
        }
    }

    pub(super) fn peer(&mut self, id: u64) {
        let taken = self.taken(id, |conn| conn.peer.pop_front());
        let Some((Ends::Peer { from, to }, frame)) = taken else {
            return;
        };
        self.note(|| format!("r{from}->r{to} {}", trace::peer(&frame)));
        if let Some(host) = self.host_index(to) {
            self.hosts[host].dispatch(PeerRef(from), frame);
        }
    }

    pub(super) fn tell_opener(&mut self, id: u64) {
        let Some(ends) = self.net.lock().conns.get_mut(&id).map(|c| {
            c.opener_told = true;
            c.ends
        }) else {
            return;
        };
        match ends {
            Ends::Edge { edge, .. } => {
                if let Some(index) = self.edge_index(edge) {
                    self.edges[index].lane_ended(id, self.now);
                }
            }
            Ends::Peer { from, to } => {
                let Some(host) = self.host_index(from) else {
                    return;
                };
                let host = &mut self.hosts[host];
                if let Some(keeper) = host.keepers.get_mut(&to).filter(|k| k.conn == Some(id)) {
                    *keeper = Keeper {
                        conn: None,
                        retry_at: self.now + 20,
                    };
                    host.push_all(|| Input::PeerLaneClosed { peer: PeerRef(to) });
                }
            }
        }
    }

    pub(super) fn tell_acceptor(&mut self, id: u64) {
        let Some(ends) = self.net.lock().conns.get_mut(&id).map(|c| {
            c.acceptor_told = true;
            c.ends
        }) else {
            return;
        };
        if let Ends::Edge { edge, router, lane } = ends
            && let Some(host) = self.host_index(router)
        {
            let lane = LaneRef { edge, lane };
            self.hosts[host].push_all(|| Input::EdgeLaneClosed { lane, instance: id });
        }
    }
}

pub(super) fn process_frame(body: Down) -> proto::ToEdge {
    proto::ToEdge {
        slot: 0,
        epoch: 0,
        body: Some(body),
    }
}
