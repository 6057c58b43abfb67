//! Which slots to claim and to move: a pure function of the table, the live processes, and which of
//! them reach which router.
//!
//! The same table and members give the same plan, so planning is repeated until the table shows
//! that the plan was carried out. An order that was lost or failed is repeated that way.

use sestina_proto as proto;

use crate::reach::Reach;
use crate::rendezvous;
use crate::slot_map::{SlotTable, same};
use crate::slots::SLOTS;

/// How many slots may move at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlanLimits {
    /// The most slots of live owners that move at one time. Slots without a live owner are claimed
    /// all at once.
    pub max_moves: usize,
    /// No slot moves for balance while each router is within this many percent of an even share; 0
    /// moves every slot to its rendezvous owner.
    pub hysteresis_percent: usize,
}

impl Default for PlanLimits {
    fn default() -> PlanLimits {
        PlanLimits {
            max_moves: 256,
            hysteresis_percent: 10,
        }
    }
}

/// A slot whose owner is dead (or that has none), and the router that should get it.
#[derive(Clone, Debug, PartialEq)]
pub struct Claim {
    /// Which slot.
    pub slot: u16,
    /// The dead owner, if there was one.
    pub from: Option<proto::Node>,
    /// The router that gets it.
    pub to: proto::Node,
}

/// A slot that its live owner is asked to hand over.
#[derive(Clone, Debug, PartialEq)]
pub struct Move {
    /// Which slot.
    pub slot: u16,
    /// Its live owner.
    pub from: proto::Node,
    /// The router that gets it.
    pub to: proto::Node,
}

/// The next claims and moves.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// Slots to claim, all at once.
    pub claims: Vec<Claim>,
    /// Slots to hand over, limited in number.
    pub moves: Vec<Move>,
}

/// Plans one round. `live` are the routers whose lease is fresh, each with its draining flag; the
/// flags in the table's own list do not count. Slots with a live owner move only to routers that
/// all others `reach`; the others go to the routers that most processes reach.
pub fn plan(table: &SlotTable, live: &[proto::Node], reach: &Reach, limits: PlanLimits) -> Plan {
    let mut live: Vec<&proto::Node> = live.iter().collect();
    live.sort_by(|a, b| (&a.name, a.incarnation).cmp(&(&b.name, b.incarnation)));
    live.dedup_by(|a, b| same(a, b));
    let staying: Vec<&proto::Node> = live.iter().copied().filter(|node| !node.draining).collect();
    // A draining owner is better than none.
    let members = if staying.is_empty() { &live } else { &staying };
    let heirs = Heirs::new(reach.most(members));
    if heirs.nodes.is_empty() {
        return Plan::default();
    }
    let open = Heirs::new(reach.open(table, &staying));
    let homes = Heirs::new(members.clone());

    let mut plan = Plan::default();
    let mut state = Balance::new(members.len());
    let mut leaving = Vec::new();
    let mut misplaced = Vec::new();
    for slot in 0..SLOTS as u16 {
        let Some(home) = rendezvous::owner(slot, &homes.names) else {
            continue;
        };
        state.ideal[home] += 1;
        let owner = table.owner(slot);
        match owner.and_then(|owner| live.iter().find(|node| same(node, owner)).copied()) {
            None => {
                let Some(to) = heirs.of(slot) else { continue };
                plan.claims.push(Claim {
                    slot,
                    from: owner.cloned(),
                    to: to.clone(),
                });
                state.add(members, to);
            }
            Some(owner) => match homes.place(owner) {
                Some(at) => {
                    state.count[at] += 1;
                    if at != home && open.place(members[home]).is_some() {
                        misplaced.push((slot, at, home));
                    }
                }
                None => leaving.push((slot, owner)),
            },
        }
    }
    for (slot, from) in leaving.into_iter().take(limits.max_moves) {
        let Some(to) = open.of(slot) else { break };
        plan.moves.push(Move {
            slot,
            from: from.clone(),
            to: to.clone(),
        });
        state.add(members, to);
    }
    let slack = SLOTS * limits.hysteresis_percent / 100 / members.len();
    for (slot, from, to) in misplaced {
        if plan.moves.len() >= limits.max_moves || (slack > 0 && state.within(slack)) {
            break;
        }
        // A move helps if it takes from a router with too many slots or gives to one with too few.
        let helps = state.count[from] > state.ideal[from] || state.count[to] < state.ideal[to];
        if helps || slack == 0 {
            state.count[from] -= 1;
            state.count[to] += 1;
            plan.moves.push(Move {
                slot,
                from: members[from].clone(),
                to: members[to].clone(),
            });
        }
    }
    plan
}

/// Routers among which slots are divided.
struct Heirs<'a> {
    nodes: Vec<&'a proto::Node>,
    names: Vec<&'a str>,
}

impl<'a> Heirs<'a> {
    fn new(nodes: Vec<&'a proto::Node>) -> Heirs<'a> {
        let names = nodes.iter().map(|node| node.name.as_str()).collect();
        Heirs { nodes, names }
    }

    /// The one of them that should own the slot.
    fn of(&self, slot: u16) -> Option<&'a proto::Node> {
        rendezvous::owner(slot, &self.names).map(|at| self.nodes[at])
    }

    fn place(&self, node: &proto::Node) -> Option<usize> {
        self.nodes.iter().position(|other| same(other, node))
    }
}

/// How many slots each router has, and how many it should have.
struct Balance {
    count: Vec<usize>,
    ideal: Vec<usize>,
}

impl Balance {
    fn new(routers: usize) -> Balance {
        Balance {
            count: vec![0; routers],
            ideal: vec![0; routers],
        }
    }

    fn add(&mut self, members: &[&proto::Node], to: &proto::Node) {
        if let Some(at) = members.iter().position(|member| same(member, to)) {
            self.count[at] += 1;
        }
    }

    fn within(&self, slack: usize) -> bool {
        self.count
            .iter()
            .zip(&self.ideal)
            .all(|(count, ideal)| count.abs_diff(*ideal) <= slack)
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "reach_tests.rs"]
mod reach_tests;
