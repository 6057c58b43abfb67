//! Partitions: ways through the network that are cut, in one direction or in both.
//!
//! Frames that are sent into a cut wait, because TCP sends them again and again. They arrive when the cut
//! is mended, unless one end has given up the connection before. Each end does so by itself, when pings or
//! their answers have not come for a while. Until then it goes on sending.
//!
//! - [`conns`]: the connections whose ends are separated

mod conns;

use super::edge::Edge;
use super::host::Host;
use super::world::World;
use conns::SILENCE;

/// A place in the network. Edges reach storage and the state store through routers only, so no cut is
/// between an edge and a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// An edge or a router, by its incarnation.
    Process(u64),
    Storage,
    StateStore,
}

/// A cut: nothing that is sent from one place to the other arrives.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cut {
    from: Place,
    to: Place,
    since: u64,
    until: u64,
}

/// The places that a partition separates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Partition {
    /// Two routers.
    Routers,
    /// An edge and a router.
    EdgeRouter,
    /// A router and storage.
    RouterStorage,
    /// A router and the state store.
    RouterStateStore,
    /// A router and both stores, which keep its lease: that ends if this lasts.
    RouterStores,
    /// A router and all other processes: no process reaches it, but it keeps its lease.
    RouterUnreached,
    /// A router and all other processes and stores.
    RouterAlone,
    /// An edge and all routers: its lease ends if this lasts.
    EdgeAlone,
    /// All routers and storage.
    Storage,
    /// All routers and the state store.
    StateStore,
}

impl Partition {
    /// Whether a router may be cut off from the state store and lose its lease at the same time. That is
    /// more than one fault: its rooms go on without the state store, so their next owner does not know what
    /// they have sent meanwhile.
    pub(super) fn is_double(self) -> bool {
        matches!(self, Partition::RouterStores | Partition::RouterAlone)
    }
}

impl World {
    /// Whether anything that is sent from one place to the other arrives.
    pub(super) fn passes(&self, from: Place, to: Place) -> bool {
        let mut cuts = self.cuts.iter();
        // If the answers of a store do not come, the process gives up its connection after a while, and
        // cannot open another: then its requests do not arrive either.
        let asks = matches!(to, Place::Storage | Place::StateStore);
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

    /// Whether a store answers at all.
    fn is_there(&self, store: Place) -> bool {
        match store {
            Place::Storage => !self.storage.away,
            Place::StateStore => !self.state_store.away,
            Place::Process(_) => true,
        }
    }

    /// Whether requests of a process to a store do not arrive.
    pub(super) fn is_unavailable(&self, process: u64, store: Place) -> bool {
        !self.is_there(store) || !self.passes(Place::Process(process), store)
    }

    /// Whether a process gets no answer from a store.
    pub(super) fn gives_nothing(&self, process: u64, store: Place) -> bool {
        !self.is_there(store) || !self.answers(process, store)
    }

    /// Cuts the way from one place to the other.
    fn cut(&mut self, from: Place, to: Place, until: u64) {
        self.note(|| format!("!! nothing comes from {from:?} to {to:?} until {until}"));
        let since = self.now;
        let cut = Cut {
            from,
            to,
            since,
            until,
        };
        self.cuts.push(cut);
        for conn in self.net.lock().conns.values_mut() {
            if cut.is_on(conn) && conn.gives_up.is_none() {
                let mut at = || self.now + SILENCE.0 + self.rng.below(SILENCE.1 - SILENCE.0);
                conn.gives_up = Some([at(), at()]);
            }
        }
    }

    /// Mends the cuts whose time is over.
    pub(super) fn mend_cuts(&mut self) {
        let now = self.now;
        if self.cuts.extract_if(.., |cut| cut.until <= now).count() == 0 {
            return;
        }
        self.note(|| "== the network is mended".to_owned());
        let cuts = std::mem::take(&mut self.cuts);
        for conn in self.net.lock().conns.values_mut() {
            if !cuts.iter().any(|cut| cut.is_on(conn)) {
                conn.gives_up = None;
            }
        }
        self.cuts = cuts;
        self.end_conns();
    }

    /// Mends all cuts.
    pub(super) fn mend_network(&mut self) {
        for cut in &mut self.cuts {
            cut.until = self.now;
        }
        self.mend_cuts();
    }

    /// Does one partition, and most often waits until it is over.
    pub(super) fn partition(&mut self, which: Partition) {
        let lasts = match self.rng.below(3) {
            // Too short for any end to give up a connection.
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
        self.pass_time(until, 50);
    }

    /// The pairs of places that a partition separates; the seed chooses the processes.
    fn between(&mut self, which: Partition) -> Vec<(Place, Place)> {
        let routers: Vec<u64> = self
            .hosts
            .iter()
            .filter(|h| h.acts())
            .map(Host::incarnation)
            .collect();
        let edges = self.edges.iter().filter(|e| e.alive);
        let edges: Vec<u64> = edges.map(Edge::incarnation).collect();
        let router = self.rng.pick(&routers).copied().unwrap_or(0);
        let edge = self.rng.pick(&edges).copied().unwrap_or(0);
        let others: Vec<u64> = routers.iter().copied().filter(|r| *r != router).collect();
        let of = |from: &[u64], to: Place| -> Vec<(Place, Place)> {
            from.iter()
                .map(|from| (Place::Process(*from), to))
                .collect()
        };
        let stores = [Place::Storage, Place::StateStore];
        let mut pairs = Vec::new();
        match which {
            Partition::Routers => {
                let other = self.rng.pick(&others).copied().unwrap_or(0);
                pairs = of(&[other], Place::Process(router));
            }
            Partition::EdgeRouter => pairs = of(&[edge], Place::Process(router)),
            Partition::RouterStorage => pairs = of(&[router], Place::Storage),
            Partition::RouterStateStore => pairs = of(&[router], Place::StateStore),
            Partition::EdgeAlone => pairs = of(&routers, Place::Process(edge)),
            Partition::Storage => pairs = of(&routers, Place::Storage),
            Partition::StateStore => pairs = of(&routers, Place::StateStore),
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

    /// When the last cut between two places is to be mended.
    pub(super) fn cut_until(&self, from: Place, to: Place) -> Option<u64> {
        let cuts = self
            .cuts
            .iter()
            .filter(|cut| (cut.from, cut.to) == (from, to));
        cuts.map(|cut| cut.until).max()
    }
}
