//! Faults in a given order: each is an interleaving that once showed a defect.

use super::faults::Fault;
use super::talk;
use super::world::{RESUMABLE, World};

/// How long a script waits for something, in simulated milliseconds.
const PATIENCE: u64 = 20_000;

impl World {
    /// Goes on until a condition is true; an error says what it has waited for in vain.
    fn until(&mut self, what: &str, so: impl Fn(&World) -> bool) -> Result<(), String> {
        let missing = |world: &World| (!so(world)).then(|| format!("in vain: {what}"));
        self.run_until(PATIENCE, missing)
    }

    /// The router that owns a slot.
    fn owner(&self, slot: u16) -> Option<usize> {
        let running = |h: &usize| self.hosts[*h].is_running();
        let owns = |h: &usize| self.hosts[*h].workers.iter().any(|w| w.serves(slot));
        (0..self.hosts.len()).filter(running).find(owns)
    }

    /// Whether a slot has an owner which says that nothing of the slot would be lost with it.
    fn is_redundant(&self, slot: u16) -> bool {
        self.owner(slot).is_some_and(|host| {
            let mut workers = self.hosts[host].workers.iter();
            workers.any(|w| w.is_redundant(slot))
        })
    }
}

/// An older write to the state store arrives after a newer one, and then the owner dies.
///
/// The owner of a detached session writes the session's queue to the state store, and gets no answer. It
/// writes the queue again, with more messages in it, and that is acknowledged. Now the first write arrives.
/// Returns what is wrong at rest.
///
/// # Errors
///
/// What the script has waited for in vain.
pub fn an_older_write_comes_last(seed: u64) -> Result<Vec<String>, String> {
    const CLIENT: usize = 3;
    let mut world = World::at_rest(seed);
    world.round(&[]);
    if !world.clients[CLIENT].is_online() || !world.clients[5].is_online() {
        return Err("the clients are not there".to_owned());
    }
    let slot = world.clients[CLIENT].slot;
    world.state_store.hold_next = true;
    world.cut_client(CLIENT, 3000);
    world.until("the first write", |w| w.state_store.on_their_way() > 0)?;
    for _ in 0..5 {
        talk::say_to(&mut world, 5, CLIENT);
    }
    talk::acknowledge_all(&mut world);
    world.until("the messages", |w| w.clients[5].login.sent.is_empty())?;
    world.until("redundant", |w| w.is_redundant(slot))?;
    world.state_store.let_go();
    world.until("the older write", |w| w.state_store.on_their_way() == 0)?;
    let owner = world.owner(slot).ok_or("no owner")?;
    world.kill_host(owner);
    world.heal();
    Ok(world.come_to_rest())
}

/// Slots are handed over to other routers, and then the database loses the commits of that. All slots stay
/// served, more slots move, and a router dies. Returns what is wrong at rest.
///
/// # Errors
///
/// What the script has waited for in vain.
pub fn a_database_loses_commits(seed: u64) -> Result<Vec<String>, String> {
    let mut world = World::at_rest(seed);
    let mut wrong = world.round(&[]);
    talk::acknowledge_all(&mut world);
    world.rest(400, 20_000);
    let before = world.storage.map.version;
    for slot in world.slots.clone() {
        world.order_hand_over_of(slot);
    }
    world.until("moves", |w| w.storage.map.version > before)?;
    let served = |w: &World| w.slots.iter().all(|slot| w.owner(*slot).is_some());
    world.until("new owners", served)?;
    world.storage.lose_commits_since(before);
    if world.storage.map.version != before {
        return Err("too much was committed since".to_owned());
    }
    world.until("a new timeline", |w| w.storage.map.timeline == 2)?;
    wrong.extend(world.round(&[]));
    for host in world.running_hosts() {
        if host.timeline != 2 {
            wrong.push(format!(
                "{} is on timeline {}",
                host.node.name, host.timeline
            ));
        }
    }
    wrong.extend(world.round(&[Fault::HandOver]));
    wrong.extend(world.round(&[Fault::KillRouter]));
    Ok(wrong)
}

/// A room changes while the state store is unavailable, and then the owner of the room dies.
///
/// Nothing that is written to the state store meanwhile arrives. Clients enter the room, one leaves it, one
/// takes another nick, and one changes its presence. With even seeds one of them loses its connection
/// before the owner dies, and resumes its session later. Returns what is wrong at rest.
///
/// # Errors
///
/// What the script has waited for in vain.
pub fn a_room_changes_while_the_store_is_away(seed: u64) -> Result<Vec<String>, String> {
    const SLOT: u16 = 5;
    let mut world = World::at_rest(seed);
    let room = world.rooms[1].clone();
    let inside = |world: &World, who: &[usize]| {
        who.iter()
            .all(|c| world.clients[*c].login.rooms.get(&room) == Some(&true))
    };
    let heard = |w: &World| w.clients.iter().all(|c| c.login.sent.is_empty());
    for client in [0, 3, 5] {
        talk::enter(&mut world, client, &room);
    }
    world.until("the first occupants", |w| inside(w, &[0, 3, 5]))?;
    world.until("redundant", |w| w.is_redundant(SLOT))?;
    world.state_store.away = true;
    world.state_store.cut_off = true;
    talk::leave(&mut world, 0, &room);
    for client in [2, 4] {
        talk::enter(&mut world, client, &room);
    }
    talk::change(&mut world, 3, room.clone(), true);
    talk::change(&mut world, 5, room.clone(), false);
    world.until("those who entered", |w| inside(w, &[2, 4]))?;
    talk::acknowledge_all(&mut world);
    world.until("all to be heard", heard)?;
    if seed.is_multiple_of(2) {
        world.cut_client(4, 1500);
    }
    let owner = world.owner(SLOT).ok_or("no owner")?;
    world.kill_host(owner);
    world.orphans.clear();
    world.heal();
    let mut wrong = world.come_to_rest();
    wrong.extend(world.round(&[]));
    Ok(wrong)
}

/// Each edge has opened each of its lanes twice, and the opening that it gave up reaches the router last.
/// Then all clients talk. Returns what is wrong at rest.
#[must_use]
pub fn an_opening_of_a_lane_arrives_late(seed: u64) -> Vec<String> {
    let mut world = World::at_rest(seed);
    let mut wrong = world.round(&[]);
    for edge in 0..world.edges.len() {
        for lane in world.edges[edge].open_lanes() {
            world.accept_late(edge, lane);
        }
    }
    wrong.extend(world.round(&[]));
    wrong
}

/// A session is in a room and has no connection. Its time for a resumption is over, so its owner ends the session. The
/// router of the room removes the session from the room, and at that moment the owner of the session dies. Then the
/// client tries to resume the session. Returns what is wrong at rest.
///
/// # Errors
///
/// What the script has waited for in vain.
pub fn an_owner_dies_as_it_ends_a_session(seed: u64) -> Result<Vec<String>, String> {
    let mut world = World::at_rest(seed);
    let room_slots = [3, 5];
    let apart = |client: &usize, room: usize| {
        world.owner(world.clients[*client].slot) != world.owner(room_slots[room])
    };
    let clients = 0..world.clients.len();
    let (room, client) = (0..room_slots.len())
        .flat_map(|room| clients.clone().map(move |client| (room, client)))
        .filter(|(_, client)| world.clients[*client].is_online())
        .find(|(room, client)| apart(client, *room))
        .ok_or("one router owns all")?;
    let (slot, room) = (world.clients[client].slot, world.rooms[room].clone());
    let occupants = |world: &World| {
        let running = world.running_hosts();
        let workers = running.flat_map(|host| host.workers.iter());
        let inside = workers.flat_map(|worker| worker.inside());
        inside.filter(|inside| inside.0 == room).count()
    };
    talk::enter(&mut world, client, &room);
    world.until("the occupant", |w| {
        w.clients[client].login.rooms.get(&room) == Some(&true)
    })?;
    talk::acknowledge_all(&mut world);
    world.until("redundant", |w| w.is_redundant(slot))?;
    // The edge may notice it some time later.
    world.cut_client(client, RESUMABLE + 2000);
    let before = occupants(&world);
    world.until("the end", |w| occupants(w) < before)?;
    let owner = world.owner(slot).ok_or("no owner")?;
    world.kill_host(owner);
    let mut wrong = world.come_to_rest();
    wrong.extend(world.round(&[]));
    Ok(wrong)
}
