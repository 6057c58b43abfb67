//! The simulation goes on step by step: each is one of the acts that are possible then.

use sestina_edge::attachment::hands::Hands as _;

use super::acts::Act;
use super::jobs::perform;
use super::state_store::Fate;
use super::talk;
use super::world::World;

/// If no act was possible for so many simulated milliseconds, none becomes possible by itself.
const IDLE: u64 = 20_000;

impl World {
    /// Goes on until so many acts have happened, or none is possible any more (because no edge lives, say).
    pub(super) fn run(&mut self, acts: u64) {
        let mut left = acts;
        let mut acted = self.now;
        while left > 0 && self.now < acted + IDLE {
            if self.step_and_talk() {
                left -= 1;
                acted = self.now;
            }
        }
    }

    /// Goes on for so many steps, while no client sends anything on its own.
    pub(super) fn run_some(&mut self, steps: u64) {
        for _ in 0..steps {
            self.step();
        }
    }

    /// Goes on until nothing is missing any more, or says what is missing after so many simulated
    /// milliseconds.
    pub(super) fn run_until<M>(
        &mut self,
        limit: u64,
        missing: impl Fn(&World) -> Option<M>,
    ) -> Result<(), M> {
        let end = self.now + limit;
        while let Some(missing) = missing(self) {
            if self.now > end {
                return Err(missing);
            }
            self.step_and_talk();
        }
        Ok(())
    }

    /// Goes on until a time that is far away. Now and then, when what is under way has arrived, the clock
    /// leaps, by less than `leap` simulated milliseconds.
    pub(super) fn pass_time(&mut self, until: u64, leap: u64) {
        while self.now < until {
            let acts = 10 + self.rng.below(40);
            self.run(acts);
            // Otherwise the leap alone would make things late.
            self.run_some(60);
            self.now += self.rng.below(leap);
        }
    }

    /// Goes on until nothing has happened for `quiet` simulated milliseconds; false if that takes more
    /// than `limit` steps.
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

    /// One step; false if no act was possible. Afterwards a client may send something.
    fn step_and_talk(&mut self) -> bool {
        let acted = self.step();
        if self.talking && self.rng.one_in(4) {
            talk::talk(self);
        }
        acted
    }

    /// One step; false if no act was possible, and only time has passed.
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

    /// Edges and routers do what is due by their clocks.
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

    /// One turn of a worker; the checks look at what it has done.
    fn turn(&mut self, host: usize, worker: usize, count: usize) {
        self.hosts[host].turn(worker, count, self.now);
        if self.hosts[host].is_running() {
            self.note_moved(host, worker);
            self.look_at_settled(host, worker);
            self.look_at_bounds(host, worker);
        }
    }

    /// Does an act; false if it does not count as something that happens.
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
                let (storage, state_store) = (&mut self.storage, &mut self.state_store);
                perform(&job, &asker, self.now, storage, state_store, Fate::Answered);
            }
            Act::LateWrite(index) => {
                let text = self.state_store.arrive(index);
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
                let mut net = self.net.lock();
                host.keepers.retain(|router, keeper| {
                    let stays = fresh.contains_key(router);
                    if !stays
                        && let Some(conn) = keeper.conn
                        && let Some(conn) = net.conns.get_mut(&conn)
                    {
                        conn.broken = true;
                        conn.opener_told = true;
                    }
                    stays
                });
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
}
