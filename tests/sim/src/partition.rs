//! What the network does not let through: partitions, in one direction or in both.
//!
//! What is sent into a cut waits, as TCP sends it again and again: it arrives when the cut is mended,
//! unless one end has given the connection up before. Each end does that by itself, when pings and
//! their answers have not come for a while; until then it sends into a lane that nobody reads.

use std::collections::BTreeSet;

use super::faults::Fault;
use super::host::{Asker, Host, perform};
use super::lease::LeaseFault;
use super::net::Conn;
use super::state_store::Fate;
use super::world::World;
use sestina_router::simulation::{Job, JobDone};

/// A part of the cluster that others reach through the network. Edges ask storage and the state store
/// through routers only, so there is no way between them that could be cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// An edge or a router, by its incarnation.
    Process(u64),
    Storage,
    Shadow,
}

/// Nothing arrives at one place that another sends to it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cut {
    from: Place,
    to: Place,
    since: u64,
    until: u64,
}

/// Between whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Partition {
    /// Two routers.
    Routers,
    /// An edge and a router.
    EdgeRouter,
    RouterStorage,
    RouterShadow,
    /// A router and both that know of its lease, which ends if this lasts.
    RouterStores,
    /// A router and all edges and routers: it cannot be reached, and has its lease.
    RouterUnreached,
    /// A router and everything.
    RouterAlone,
    /// An edge and all routers: its lease ends if this lasts.
    EdgeAlone,
    /// All routers and storage.
    Storage,
    /// All routers and the state store.
    Shadow,
}

impl Partition {
    /// Whether a router may be without the state store and lose its lease at the same time. That is more
    /// than one fault: rooms go on without the state store, and what they say then is known to no
    /// other process that would own them next.
    pub(super) fn is_double(self) -> bool {
        matches!(self, Partition::RouterStores | Partition::RouterAlone)
    }
}

/// Faults of the network, with those that bring leases to an end.
pub(super) const NETWORK: [Fault; 29] = [
    Fault::None,
    Fault::KillRouter,
    Fault::KillEdge,
    Fault::Suspend,
    Fault::Pause,
    Fault::ShadowAway,
    Fault::StorageAway,
    Fault::HandOver,
    Fault::CommitsLost,
    Fault::Partition(Partition::Routers),
    Fault::Partition(Partition::Routers),
    Fault::Partition(Partition::EdgeRouter),
    Fault::Partition(Partition::EdgeRouter),
    Fault::Partition(Partition::RouterStorage),
    Fault::Partition(Partition::RouterShadow),
    Fault::Partition(Partition::RouterStores),
    Fault::Partition(Partition::RouterStores),
    Fault::Partition(Partition::RouterUnreached),
    Fault::Partition(Partition::RouterAlone),
    Fault::Partition(Partition::EdgeAlone),
    Fault::Partition(Partition::Storage),
    Fault::Partition(Partition::Shadow),
    Fault::Lease(LeaseFault::RestartRouter),
    Fault::Lease(LeaseFault::RestartRouter),
    Fault::Lease(LeaseFault::RestartEdge),
    Fault::Lease(LeaseFault::Clock),
    Fault::Lease(LeaseFault::Clock),
    Fault::Lease(LeaseFault::WallClock),
    Fault::UnknownFrames,
];

/// An end gives a connection up when it has heard nothing for as long as from the first to the second
/// (a ping every eighth of the time that a lease lasts in the server, and the answer to it).
const SILENCE: (u64, u64) = (120, 360);

/// What passes through a connection now.
pub(super) struct Flow {
    pub(super) up: bool,
    pub(super) down: bool,
    /// The end of a broken connection is heard of, or it has been silent for too long.
    pub(super) opener_hears: bool,
    pub(super) acceptor_hears: bool,
    /// Ends, the opener first, that give up a connection which is not broken.
    pub(super) gives_up: [bool; 2],
}

impl World {
    /// Whether what is sent from one place to the other arrives.
    pub(super) fn passes(&self, from: Place, to: Place) -> bool {
        let mut cuts = self.cuts.iter();
        // Where no answer comes, the connection is given up, and another cannot be opened: no question
        // arrives any more either.
        let asks = matches!(to, Place::Storage | Place::Shadow);
        let is_given_up = |cut: &Cut| asks && cut.since + SILENCE.1 <= self.now;
        let stops = |cut: &Cut| match (cut.from, cut.to) {
            way if way == (from, to) => true,
            way if way == (to, from) => is_given_up(cut),
            _ => false,
        };
        !cuts.any(stops)
    }

    /// Whether a process gets answers from another place.
    pub(super) fn answers(&self, process: u64, place: Place) -> bool {
        let process = Place::Process(process);
        self.passes(process, place) && self.passes(place, process)
    }

    fn is_there(&self, store: Place) -> bool {
        match store {
            Place::Storage => !self.storage.away,
            Place::Shadow => !self.shadow.away,
            Place::Process(_) => true,
        }
    }

    /// Whether what a process asks a store does not arrive.
    pub(super) fn is_away(&self, process: u64, store: Place) -> bool {
        !self.is_there(store) || !self.passes(Place::Process(process), store)
    }

    /// Whether a process gets no answer from a store.
    pub(super) fn gives_nothing(&self, process: u64, store: Place) -> bool {
        !self.is_there(store) || !self.answers(process, store)
    }

    pub(super) fn flow(&self, conn: &Conn) -> Flow {
        let (opener, acceptor) = conn.ends();
        let (opener, acceptor) = (Place::Process(opener), Place::Process(acceptor));
        let (up, down) = (self.passes(opener, acceptor), self.passes(acceptor, opener));
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

    /// One end of a connection is over; the other learns of it when something comes through again, or
    /// gives it up as well.
    pub(super) fn give_up(&mut self, id: u64, end: usize) {
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

    /// Connections that one end has given up are over for the other when it can hear so, and what
    /// comes for an end that is gone is lost.
    fn end_conns(&self) {
        for conn in self.net.lock().conns.values_mut() {
            let (opener, acceptor) = conn.ends();
            let (opener, acceptor) = (Place::Process(opener), Place::Process(acceptor));
            let (up, down) = (self.passes(opener, acceptor), self.passes(acceptor, opener));
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

    /// Cuts the network between two places.
    fn cut(&mut self, from: Place, to: Place, until: u64) {
        self.note(|| format!("!! nothing comes from {from:?} to {to:?} until {until}"));
        let since = self.now;
        self.cuts.push(Cut {
            from,
            to,
            since,
            until,
        });
        for conn in self.net.lock().conns.values_mut() {
            let (opener, acceptor) = conn.ends();
            let ends = [Place::Process(opener), Place::Process(acceptor)];
            if ends.contains(&from) && ends.contains(&to) && conn.gives_up.is_none() {
                let mut at = || self.now + SILENCE.0 + self.rng.below(SILENCE.1 - SILENCE.0);
                conn.gives_up = Some([at(), at()]);
            }
        }
    }

    /// Mends what was cut for long enough.
    pub(super) fn mend_cuts(&mut self) {
        let now = self.now;
        if self.cuts.extract_if(.., |cut| cut.until <= now).count() == 0 {
            return;
        }
        self.note(|| "== the network is mended".to_owned());
        let cuts = std::mem::take(&mut self.cuts);
        for conn in self.net.lock().conns.values_mut() {
            let (opener, acceptor) = conn.ends();
            let ends = [Place::Process(opener), Place::Process(acceptor)];
            let mut still = cuts.iter();
            if !still.any(|cut| ends.contains(&cut.from) && ends.contains(&cut.to)) {
                conn.gives_up = None;
            }
        }
        self.cuts = cuts;
        self.end_conns();
    }

    /// Mends everything.
    pub(super) fn mend_network(&mut self) {
        for cut in &mut self.cuts {
            cut.until = self.now;
        }
        self.mend_cuts();
    }

    /// Does one partition, and most often waits until it is over.
    pub(super) fn partition(&mut self, which: Partition) {
        let lasts = match self.rng.below(3) {
            // Nobody gives up a connection.
            0 => 10 + self.rng.below(SILENCE.0),
            // About as long as a lease.
            1 => 200 + self.rng.below(600),
            _ => 1000 + self.rng.below(5000),
        };
        let until = self.now + lasts;
        let (there, back) = match self.rng.below(4) {
            0 => (true, false),
            1 => (false, true),
            _ => (true, true),
        };
        for (from, to) in self.between(which) {
            if there {
                self.cut(from, to, until);
            }
            if back {
                self.cut(to, from, until);
            }
        }
        if self.rng.one_in(4) {
            return;
        }
        while self.now < until {
            let acts = 10 + self.rng.below(40);
            self.run(acts);
            // As in a long outage of the state store: what is on its way arrives, time passes in leaps.
            self.run_some(60);
            self.now += self.rng.below(50);
        }
    }

    fn between(&mut self, which: Partition) -> Vec<(Place, Place)> {
        let routers: Vec<u64> = self
            .hosts
            .iter()
            .filter(|h| h.acts())
            .map(Host::incarnation)
            .collect();
        let edges = self.edges.iter().filter(|e| e.alive);
        let edges: Vec<u64> = edges.map(super::edge::Edge::incarnation).collect();
        let router = self.rng.pick(&routers).copied().unwrap_or(0);
        let edge = self.rng.pick(&edges).copied().unwrap_or(0);
        let others: Vec<u64> = routers.iter().copied().filter(|r| *r != router).collect();
        let of = |from: &[u64], to: Place| -> Vec<(Place, Place)> {
            from.iter()
                .map(|from| (Place::Process(*from), to))
                .collect()
        };
        let stores = [Place::Storage, Place::Shadow];
        let mut pairs = Vec::new();
        match which {
            Partition::Routers => {
                let other = self.rng.pick(&others).copied().unwrap_or(0);
                pairs = of(&[other], Place::Process(router));
            }
            Partition::EdgeRouter => pairs = of(&[edge], Place::Process(router)),
            Partition::RouterStorage => pairs = of(&[router], Place::Storage),
            Partition::RouterShadow => pairs = of(&[router], Place::Shadow),
            Partition::EdgeAlone => pairs = of(&routers, Place::Process(edge)),
            Partition::Storage => pairs = of(&routers, Place::Storage),
            Partition::Shadow => pairs = of(&routers, Place::Shadow),
            Partition::RouterStores | Partition::RouterUnreached | Partition::RouterAlone => {
                if which != Partition::RouterUnreached {
                    pairs.extend(stores.iter().flat_map(|store| of(&[router], *store)));
                }
                if which != Partition::RouterStores {
                    pairs.extend(of(&others, Place::Process(router)));
                    pairs.extend(of(&edges, Place::Process(router)));
                }
            }
        }
        pairs
    }

    /// Requests of dead processes that arrive.
    pub(super) fn orphans_on_their_way(&self) -> impl Iterator<Item = usize> {
        let arrives = |asker: &Asker| {
            let from = Place::Process(asker.node.incarnation);
            self.passes(from, Place::Storage) && self.passes(from, Place::Shadow)
        };
        let orphans = self.orphans.iter().enumerate();
        orphans
            .filter(move |(_, (_, asker))| arrives(asker))
            .map(|(index, _)| index)
    }

    /// Does a job of a router at the stores, as far as the network lets it; `None` if the router has to
    /// ask again.
    pub(super) fn through_network(&mut self, job: &Job, asker: &Asker) -> Option<JobDone> {
        let me = Place::Process(asker.node.incarnation);
        let of_shadow = matches!(job, Job::Shadow { .. } | Job::ShadowList { .. });
        let store = if of_shadow {
            Place::Shadow
        } else {
            Place::Storage
        };
        let (there, back) = (self.passes(me, store), self.passes(store, me));
        let fate = if of_shadow {
            self.fate_of_write(me, there, back)
        } else {
            Fate::Answered
        };
        let moves = matches!(job, Job::Release { .. } | Job::Raise { .. });
        // What changes something is done though the answer does not come; who has asked for it asks
        // again. What is only asked for comes to nothing, like everything that does not arrive.
        let writes = matches!(
            job,
            Job::Archive { .. } | Job::Offline { .. } | Job::OfflineRemove { .. }
        );
        let lost = !of_shadow && (!there || (!back && !writes && !moves));
        // Epochs are asked of the state store before a slot is given away.
        let lost = lost || (moves && self.gives_nothing(asker.node.incarnation, Place::Shadow));
        if lost
            && let Job::Release { slot, epoch, to } = job
            && self.rng.one_in(2)
        {
            // It comes when nobody waits for it any more.
            let (slot, epoch, to) = (*slot, *epoch, to.clone());
            let job = Job::Release { slot, epoch, to };
            self.orphans.push((job, asker.clone()));
        }
        let away = self.storage.away;
        self.storage.away |= lost;
        let (storage, shadow) = (&mut self.storage, &mut self.shadow);
        let done = perform(job, asker, self.now, storage, shadow, fate);
        self.storage.away = away;
        match done? {
            JobDone::Released { slot, epoch, .. } if !back => Some(JobDone::Released {
                slot,
                epoch,
                done: false,
            }),
            _ if writes && !back => None,
            done => Some(done),
        }
    }

    /// What becomes of a write to the state store.
    fn fate_of_write(&mut self, me: Place, there: bool, back: bool) -> Fate {
        if there && back {
            return self.shadow.fate(&mut self.rng);
        }
        if there {
            return Fate::Unanswered;
        }
        let cut = self
            .cuts
            .iter()
            .filter(|cut| (cut.from, cut.to) == (me, Place::Shadow));
        let until = cut.map(|cut| cut.until).max().unwrap_or(self.now);
        match self.rng.below(2) {
            0 => Fate::Lost,
            _ => Fate::Late {
                wait: until.saturating_sub(self.now) + self.rng.below(600),
                twice: false,
            },
        }
    }

    /// Routers that a process has lanes to.
    pub(super) fn reached(&self, process: u64) -> Vec<u64> {
        let net = self.net.lock();
        let mut reached = BTreeSet::new();
        if let Some(edge) = self.edge_index(process) {
            reached.extend(self.edges[edge].reached());
        }
        if let Some(host) = self.host_index(process) {
            let keepers = self.hosts[host].keepers.iter();
            let open = |conn: &u64| net.conns.get(conn).is_some_and(|conn| !conn.broken);
            let open = keepers.filter(|(_, k)| k.conn.as_ref().is_some_and(open));
            reached.extend(open.map(|(router, _)| *router));
        }
        reached.into_iter().collect()
    }
}
