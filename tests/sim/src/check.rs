//! What must be true when all faults are over and nothing is under way.
//!
//! - [`offline`]: messages from the offline store come in order
//! - [`holders`]: two processes or stores hold each message that is acknowledged
//! - [`losses`]: losses are counted
//! - [`bounds`]: memory stays within its bounds, and is freed
//! - [`rest`]: after a fault all slots and clients are served again soon
//! - [`presence`]: each client knows which contacts and occupants are available
//! - [`rooms`]: all occupants of a room receive all of its messages, in one order

mod bounds;
mod holders;
mod losses;
mod offline;
mod presence;
mod rest;
mod rooms;

pub(super) use losses::{GivenUp, given_up, silent};
pub(super) use presence::Misjudged;

use std::collections::{BTreeMap, BTreeSet};

use sestina_proto as proto;

use super::client::{Came, Client, Mode, Received, What, number_in};
use super::state_store::Fields;
use super::world::{Sent, World};
use sestina_router::simulation::Worker;

/// Returns everything that is wrong.
pub(super) fn check(world: &World) -> Vec<String> {
    let mut wrong = world.trouble.clone();
    routers(world, &mut wrong);
    edges(world, &mut wrong);
    state_store(world, &mut wrong);
    clients(world, &mut wrong);
    messages(world, &mut wrong);
    orders(world, &mut wrong);
    offline::check(world, &mut wrong);
    wrong.extend(presence::wrong(world).into_iter().map(|(_, text)| text));
    rooms::check(world, &mut wrong);
    losses::check(world, &mut wrong);
    bounds::check(world, &mut wrong);
    super::places::check(world, &mut wrong);
    super::cards::check(world, &mut wrong);
    super::blocks::check(world, &mut wrong);
    if world.config.modules.values().all(|at| at.has("mam")) {
        archives(world, &mut wrong);
    }
    wrong
}

fn routers(world: &World, wrong: &mut Vec<String>) {
    for host in world.running_hosts() {
        let owns = |slot: u16| {
            let owner = world.storage.owner(slot);
            owner.is_some_and(|owner| owner.incarnation == host.incarnation())
        };
        for worker in &host.workers {
            wrong.extend(worker.unfinished(&host.node.name, owns));
        }
    }
}

fn edges(world: &World, wrong: &mut Vec<String>) {
    for edge in world.edges.iter().filter(|e| e.alive) {
        wrong.extend(edge.unfinished());
    }
}

fn state_store(world: &World, wrong: &mut Vec<String>) {
    let mut alive = BTreeSet::new();
    for (slot, object, lives) in world.running_workers().flat_map(Worker::rooms_stored) {
        different(
            &object,
            &lives,
            world.state_store.fields(slot, &object),
            wrong,
        );
        alive.insert(object);
    }
    for object in world.state_store.objects() {
        if !alive.contains(&object) {
            wrong.push(format!("the state store still has {object}"));
        }
    }
}

/// Compares an object of the state store with the room that it is the copy of.
fn different(object: &str, lives: &Fields, stored: Option<&Fields>, wrong: &mut Vec<String>) {
    let Some(stored) = stored else {
        return wrong.push(format!("the state store does not have {object}"));
    };
    let fields: BTreeSet<&String> = lives.keys().chain(stored.keys()).collect();
    let mut others = fields
        .into_iter()
        .filter(|f| lives.get(*f) != stored.get(*f));
    if let Some(first) = others.next() {
        wrong.push(format!(
            "the state store has another {first} of {object} (and {} fields more)",
            others.count()
        ));
    }
}

fn clients(world: &World, wrong: &mut Vec<String>) {
    for client in &world.clients {
        let at = format!("c{} ({})", client.index, client.full);
        if client.wanted && !client.is_online() {
            wrong.push(format!("{at} is {:?}", client.mode));
        }
        if !client.wanted && client.mode != Mode::Offline {
            wrong.push(format!("{at} is {:?}", client.mode));
        }
        // Offline messages that the database has forgotten to be delivered come with the next login.
        let lost = &world.storage.commits.delivered;
        let judged = |row: &&proto::OfflineRow| {
            number_in(row.stanza.as_ref())
                .is_some_and(|number| number >= world.judged_from && !lost.contains(&number))
        };
        let stored = world.storage.offline_all(&client.bare);
        let left = stored.filter(judged);
        let left: Vec<_> = left
            .filter_map(|row| number_in(row.stanza.as_ref()))
            .collect();
        if client.is_online() && client.login.available && !left.is_empty() {
            wrong.push(format!("{at}: messages {left:?} are left in its store"));
        }
        if !client.login.sent.is_empty() {
            wrong.push(format!(
                "{at}: {} of its stanzas are not acknowledged",
                client.login.sent.len()
            ));
        }
        if let Some((number, _)) = client.login.asking.iter().find(|(_, sure)| **sure) {
            wrong.push(format!("{at}: i{number} has no answer"));
        }
        for (room, _) in client.login.rooms.iter().filter(|(_, inside)| !**inside) {
            wrong.push(format!("{at}: its entering {room} has no answer"));
        }
        for page in &client.pages {
            let text = page.wrong();
            wrong.extend(text.map(|text| format!("{at}: a page of its archive {text}")));
        }
        let mut seen = BTreeSet::new();
        for got in &client.log {
            // A client that enters a room again receives its history again.
            let history = got.came == Came::History;
            let again = got.number >= world.judged_from
                && !seen.insert((got.session, got.what, got.number));
            let stored_again = world.storage.commits.delivered.contains(&got.number);
            if again && !history && !stored_again {
                wrong.push(format!("{at}: got {:?} {} twice", got.what, got.number));
            }
        }
    }
}

/// What a session received of a message.
fn got(
    world: &World,
    who: (usize, u32),
    what: What,
    number: u64,
) -> impl Iterator<Item = &Received> {
    let log = &world.clients[who.0].log;
    log.iter()
        .filter(move |r| r.session == who.1 && r.what == what && r.number == number)
}

/// Whether the sender was told by an error that the message was not delivered.
fn bounced(world: &World, number: u64, sent: &Sent) -> bool {
    let from = (sent.from, sent.session);
    got(world, from, What::Error, number).next().is_some()
}

/// Whether a session still exists.
fn exists(world: &World, who: (usize, u32)) -> bool {
    let client = &world.clients[who.0];
    client.session_no == who.1 && client.is_online()
}

fn messages(world: &World, wrong: &mut Vec<String>) {
    for (number, sent) in world.sent.range(world.judged_from..) {
        let bounced = bounced(world, *number, sent);
        // A message that only the offline store had is lost when the database loses its row.
        if !sent.accepted || bounced || world.storage.commits.stored.contains(number) {
            continue;
        }
        for who in sent.cover.iter().filter(|who| exists(world, **who)) {
            if got(world, *who, sent.what, *number).next().is_none() {
                wrong.push(format!("m{number} {sent:?} did not reach c{}", who.0));
            }
        }
        for who in sent.carbons.iter().filter(|who| exists(world, **who)) {
            let copies = got(world, *who, What::CarbonSent, *number).count()
                + got(world, *who, What::CarbonReceived, *number).count();
            if copies != 1 {
                wrong.push(format!(
                    "m{number} {sent:?}: c{} got {copies} carbons",
                    who.0
                ));
            }
        }
        if sent.what.is_for_user() && !arrived(world, *number, sent) {
            wrong.push(format!("m{number} {sent:?} is lost"));
        }
    }
}

/// Whether a message came neither from the offline store nor from the history of a room.
fn is_direct(received: &Received) -> bool {
    matches!(received.came, Came::Live | Came::Late)
}

/// What clients wrongly believe of others.
pub(super) fn misjudged(world: &World) -> BTreeSet<Misjudged> {
    let all = presence::misjudged(world).into_iter();
    all.map(|(misjudged, _)| misjudged).collect()
}

pub(super) fn bare(jid: &str) -> &str {
    jid.split('/').next().unwrap_or(jid)
}

/// Whether a session of the user received a message or its carbon, or the offline store has it.
fn arrived(world: &World, number: u64, sent: &Sent) -> bool {
    let user = bare(&sent.to);
    let live = world.clients.iter().filter(|c| c.bare == user).any(|c| {
        c.log
            .iter()
            .any(|r| (r.what.is_for_user() || r.what == What::CarbonReceived) && r.number == number)
    });
    live || world
        .storage
        .offline_all(user)
        .any(|r| number_in(r.stanza.as_ref()) == Some(number))
}

fn orders(world: &World, wrong: &mut Vec<String>) {
    for client in &world.clients {
        // From one session to one address, directly or through one room: in the order in which it was sent.
        // Messages from storage have an order of their own: see `offline`.
        let mut last: BTreeMap<(u32, usize, u32, &str, &str), u64> = BTreeMap::new();
        let judged = |r: &&Received| is_direct(r) && r.number >= world.judged_from;
        for r in client.log.iter().filter(judged) {
            let Some(sent) = world.sent.get(&r.number) else {
                continue;
            };
            if r.what != sent.what {
                continue;
            }
            let place = last
                .entry((r.session, sent.from, sent.session, &r.from, &sent.to))
                .or_default();
            if r.number < *place {
                wrong.push(format!(
                    "c{} got m{} after m{place}",
                    client.index, r.number
                ));
            }
            *place = r.number.max(*place);
        }
    }
    for room in &world.rooms {
        let said = |c: usize| -> Vec<u64> {
            let log = world.clients[c].log.iter();
            log.filter(|r| r.what == What::Groupchat && is_direct(r) && bare(&r.from) == room)
                .map(|r| r.number)
                .filter(|number| *number >= world.judged_from)
                .collect()
        };
        let all: Vec<Vec<u64>> = (0..world.clients.len()).map(said).collect();
        for (a, of_a) in all.iter().enumerate() {
            for (b, of_b) in all.iter().enumerate().skip(a + 1) {
                let in_a: Vec<&u64> = of_a.iter().filter(|n| of_b.contains(n)).collect();
                let in_b: Vec<&u64> = of_b.iter().filter(|n| of_a.contains(n)).collect();
                if in_a != in_b {
                    wrong.push(format!("{room}: c{a} got {in_a:?}, c{b} got {in_b:?}"));
                }
            }
        }
    }
}

fn archives(world: &World, wrong: &mut Vec<String>) {
    let mut numbers: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    for (archive, rows) in &world.storage.archives {
        let held = rows
            .iter()
            .filter_map(|r| number_in(r.row.stanza.as_ref()))
            .collect();
        numbers.insert(archive, held);
    }
    for (number, sent) in world.sent.range(world.judged_from..) {
        if !sent.what.is_for_user() || !sent.accepted || bounced(world, *number, sent) {
            continue;
        }
        for user in [world.clients[sent.from].bare.as_str(), bare(&sent.to)] {
            let own = bare(&sent.to) == world.clients[sent.from].bare;
            let times = numbers
                .get(user)
                .map_or(0, |n| n.iter().filter(|n| *n == number).count());
            let lost = times == 0 && world.storage.commits.archived.contains(number);
            if times != 1 && !(own && times > 0) && !lost {
                wrong.push(format!(
                    "m{number} {sent:?}: {times} times in the archive of {user}"
                ));
            }
        }
    }
    for client in &world.clients {
        archive_order(world, client, wrong);
    }
    for archive in world.storage.archives.keys() {
        sending_order(world, archive, wrong);
    }
}

/// An archive has what one session sent to one address in the order in which it was sent.
fn sending_order(world: &World, archive: &str, wrong: &mut Vec<String>) {
    let mut last: BTreeMap<(usize, u32, &str), u64> = BTreeMap::new();
    let rows = world.storage.archives.get(archive).into_iter().flatten();
    let numbers = rows.filter_map(|row| number_in(row.row.stanza.as_ref()));
    let lost = &world.storage.commits.archived;
    for number in numbers.filter(|n| *n >= world.judged_from && !lost.contains(n)) {
        let Some(sent) = world.sent.get(&number).filter(|s| s.what == What::Message) else {
            continue;
        };
        // What a user sends to itself has two rows.
        if bare(&sent.to) == world.clients[sent.from].bare {
            continue;
        }
        let before = last.entry((sent.from, sent.session, &sent.to)).or_default();
        if number < *before {
            wrong.push(format!(
                "{archive}: the archive has m{before} before m{number}"
            ));
        }
        *before = number.max(*before);
    }
}

/// The archive has the messages that a session received live in the order in which it received them.
fn archive_order(world: &World, client: &Client, wrong: &mut Vec<String>) {
    let Some(rows) = world.storage.archives.get(&client.bare) else {
        return;
    };
    let place: BTreeMap<String, usize> = rows
        .iter()
        .enumerate()
        .map(|(at, row)| (sestina_router::simulation::id_text(&row.id), at))
        .collect();
    // Where one session of a user had got a message and another is given it after a takeover, they may
    // get it in different places: the archive can have only one of these.
    let came_again = |number: u64| {
        let given = world.given.get(&(client.bare.clone(), number));
        let sent = world.sent.get(&number).map_or(0, |sent| sent.epoch);
        let (mut sessions, mut late) = (BTreeSet::new(), false);
        for (session, epoch) in given.into_iter().flatten() {
            sessions.insert(session);
            late |= *epoch > sent;
        }
        late && sessions.len() > 1
    };
    let mut last: BTreeMap<u32, (usize, u64)> = BTreeMap::new();
    let live = client.log.iter();
    let judged = |r: &&Received| r.came == Came::Live && r.number >= world.judged_from;
    for r in live.filter(|r| r.what == What::Message).filter(judged) {
        if bare(&r.from) == client.bare {
            // The place of its row is when it was sent, not when it came here.
            continue;
        }
        if world.storage.commits.archived.contains(&r.number) {
            continue;
        }
        if came_again(r.number) {
            continue;
        }
        let Some(at) = place.get(&r.stanza_id) else {
            wrong.push(format!(
                "c{}: m{} has id {}, not in the archive",
                client.index, r.number, r.stanza_id
            ));
            continue;
        };
        let before = last.entry(r.session).or_insert((0, 0));
        if *at >= before.0 {
            *before = (*at, r.number);
        } else {
            wrong.push(format!(
                "c{}: the archive has m{} before m{}, which came first",
                client.index, r.number, before.1
            ));
        }
    }
}
