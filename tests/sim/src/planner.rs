//! Slots whose owner has lost its lease are given to other routers.
//!
//! Runs with leases do that step by step, as the server does. A planner reads the slot table and the
//! leases, has the state store mark the leases of dead owners as ended, and sends a claim, which arrives at
//! storage some time later. By then the planner may be dead, another router may be the planner, the owner
//! may have renewed its lease, and the table may have changed. Which moves storage makes then, the code of
//! storage itself decides ([`moved`]).
//!
//! In other runs one change of the table does it all ([`World::plan`]).

use std::collections::BTreeSet;

use sestina_cluster::reach::Reach;
use sestina_cluster::slots::slot_of_bare;
use sestina_proto as proto;
use sestina_storage::simulation::{Holder, moved};

use super::host::Host;
use super::lease::STORAGE;
use super::partition::Place;
use super::stores::{Storage, owner_in};
use super::world::{LEASE, World};

/// How long a planner's own lease lasts, and how long it waits for the answer to a claim, in simulated
/// milliseconds.
const TERM: u64 = LEASE * 3 / 4;

/// A claim on its way to storage.
#[derive(Debug)]
pub(super) struct Claim {
    planner: proto::Node,
    sent_at: u64,
    known: proto::Position,
    moves: Vec<proto::SlotMove>,
}

/// The planner's lease, and the claims under way.
#[derive(Debug, Default)]
pub(super) struct Planning {
    /// The router that plans, and until when it may by the clock of storage.
    holder: (u64, u64),
    claims: Vec<Claim>,
}

impl Planning {
    /// Shortens the planner's lease to end at this time at the latest.
    pub(super) fn end_by(&mut self, until: u64) {
        self.holder.1 = until.min(self.holder.1);
    }
}

impl Storage {
    /// The epoch of a user's or room's slot.
    pub(super) fn epoch_of(&self, bare: &str) -> u64 {
        self.map.epochs[usize::from(slot_of_bare(bare))]
    }

    /// The owner of a slot, and its epoch.
    fn row(&self, slot: u16) -> (Holder, u64) {
        let owner = self.owner(slot);
        let holder = owner.map(|node| (node.name.clone(), node.incarnation));
        (
            holder.unwrap_or_default(),
            self.map.epochs[usize::from(slot)],
        )
    }

    /// Makes those of the moves that are allowed, in one commit; returns them.
    pub(super) fn make_moves(
        &mut self,
        moves: &[proto::SlotMove],
        fresh: &BTreeSet<Holder>,
        known: proto::Position,
    ) -> Vec<proto::SlotMove> {
        let mut map = self.map.clone();
        let mut made = Vec::new();
        if !self.may_move(known) {
            return made;
        }
        for step in moves {
            let (holder, epoch) = self.row(step.slot as u16);
            let Some((holder, epoch)) = moved(step, (&holder, epoch), fresh) else {
                continue;
            };
            let is = |node: &proto::Node| (&node.name, node.incarnation) == (&holder.0, holder.1);
            let place = map.routers.iter().position(is);
            let place = place.or_else(|| {
                map.routers.push(step.to.clone()?);
                Some(map.routers.len() - 1)
            });
            let slot = step.slot as usize;
            map.owners[slot] = place.map_or(0, |place| place as u32 + 1);
            map.epochs[slot] = epoch;
            made.push(step.clone());
        }
        if !made.is_empty() {
            self.change(|now| *now = map);
        }
        made
    }
}

impl World {
    /// The one of these routers that may plan: the holder of the planner's lease, or the first if that
    /// lease has ended.
    pub(super) fn planner_of(&self, able: &[usize]) -> Option<usize> {
        let Some(leases) = &self.leases else {
            return able.first().copied();
        };
        let (holder, until) = leases.planning.holder;
        let ended = leases.clock(STORAGE, self.now) >= until;
        let mut able = able.iter().copied();
        able.find(|host| ended || self.hosts[*host].incarnation() == holder)
    }

    /// A router plans. Without leases, one change of the table gives all slots of routers whose leases have
    /// ended to others.
    pub(super) fn plan(&mut self) {
        let fresh = self.fresh();
        let running: Vec<u64> = self.running_hosts().map(Host::incarnation).collect();
        let Some(planner) = self.planner() else {
            return;
        };
        if self.leases.is_some() {
            return self.plan_round(planner);
        }
        let known = self.hosts[planner].table.clone();
        let old = self.storage.map.clone();
        let mut map = old.clone();
        map.routers.retain(|r| fresh.contains_key(&r.incarnation));
        for slot in self.slots.clone() {
            let above = self.state_store.epoch(slot).max(known.epoch(slot));
            let owner = owner_in(&old, slot).map(|owner| owner.incarnation);
            let stays = owner.filter(|o| fresh.contains_key(o));
            let slot = usize::from(slot);
            let next = stays.or_else(|| {
                map.epochs[slot] = map.epochs[slot].max(above) + 1;
                self.rng.pick(&running).copied()
            });
            let index = map.routers.iter().position(|r| Some(r.incarnation) == next);
            map.owners[slot] = index.map_or(0, |i| i as u32 + 1);
        }
        self.storage.change(|now| *now = map);
        for router in old.routers {
            if !fresh.contains_key(&router.incarnation) {
                self.ended.insert(router.incarnation);
            }
        }
        self.note(|| "== slots move to others".to_owned());
    }

    /// Whether a planner has something to claim, and does not wait for the answer to another claim.
    pub(super) fn has_to_claim(&self, host: usize) -> bool {
        let Some(leases) = &self.leases else {
            return true;
        };
        let me = self.hosts[host].incarnation();
        let mine =
            |claim: &Claim| claim.planner.incarnation == me && self.now < claim.sent_at + TERM;
        let waits = leases.planning.claims.iter().any(mine);
        let dead = |slot: &u16| !leases.is_fresh(self.storage.row(*slot).0.1, self.now);
        !waits && self.slots.iter().any(dead)
    }

    /// The claims that can arrive now, even if their planners do not wait for an answer any more.
    pub(super) fn claims_on_their_way(&self) -> Vec<usize> {
        let claims = self.leases.iter().flat_map(|l| l.planning.claims.iter());
        let arrives =
            |claim: &Claim| !self.is_unavailable(claim.planner.incarnation, Place::Storage);
        let claims = claims.enumerate();
        claims
            .filter(|(_, claim)| arrives(claim))
            .map(|(index, _)| index)
            .collect()
    }

    /// A router plans, and sends its claim to storage.
    pub(super) fn plan_round(&mut self, host: usize) {
        let me = self.hosts[host].node.clone();
        self.hosts[host].offer(&self.storage.map);
        let table = self.hosts[host].table.clone();
        let told = self.told().unwrap_or_default();
        let reach = Reach::of(&told);
        let routers = told
            .iter()
            .filter(|node| node.role() == proto::NodeRole::Router);
        let heirs = reach.most(&routers.collect::<Vec<_>>());
        let heirs: Vec<proto::Node> = heirs.into_iter().cloned().collect();
        let Some(leases) = &mut self.leases else {
            return;
        };
        let now = self.now;
        leases.planning.holder = (me.incarnation, leases.clock(STORAGE, now) + TERM);
        leases.unmark_living(now);
        let mut moves = Vec::new();
        for slot in &self.slots {
            let owner = table.owner(*slot);
            let alive = owner.is_some_and(|owner| leases.is_fresh(owner.incarnation, now));
            let marked = |owner: &proto::Node| leases.mark(owner.incarnation, now);
            if alive || !owner.is_none_or(marked) {
                continue;
            }
            let known = self.state_store.epoch(*slot).max(table.epoch(*slot));
            moves.push(proto::SlotMove {
                slot: u32::from(*slot),
                from_name: owner.map(|owner| owner.name.clone()).unwrap_or_default(),
                from_incarnation: owner.map_or(0, |owner| owner.incarnation),
                from_epoch: table.epoch(*slot),
                to: self.rng.pick(&heirs).cloned(),
                min_epoch: 1 + known,
                released: false,
            });
        }
        if moves.iter().any(|step| step.to.is_none()) || moves.is_empty() {
            return;
        }
        leases.planning.claims.push(Claim {
            planner: me.clone(),
            sent_at: now,
            known: table.position(),
            moves,
        });
        self.note(|| format!("== {} claims slots of the dead", me.name));
    }

    /// A claim arrives at storage, and its answer at the planner.
    pub(super) fn claim(&mut self, index: usize) {
        let Some(leases) = &mut self.leases else {
            return;
        };
        let claim = leases.planning.claims.swap_remove(index);
        let me = claim.planner.incarnation;
        let clock = leases.clock(STORAGE, self.now);
        let (holder, until) = leases.planning.holder;
        let mut made = Vec::new();
        if holder == me || clock >= until {
            leases.planning.holder = (me, clock + TERM);
            let fresh = leases.fresh_with(STORAGE, self.now);
            made = self.storage.make_moves(&claim.moves, &fresh, claim.known);
        }
        for step in made.iter().filter(|step| step.from_incarnation != 0) {
            leases.end(step.from_incarnation);
        }
        let slots: Vec<(u32, u64)> = made.iter().map(|s| (s.slot, s.from_incarnation)).collect();
        self.note(|| format!("== claimed by {}: {slots:?}", claim.planner.name));
        if self.passes(Place::Storage, Place::Process(me))
            && let Some(host) = self.host_index(me)
        {
            self.hosts[host].offer(&self.storage.map);
        }
    }
}
