//! What clients do on their own: they send messages, presences and questions, enter and leave rooms, and
//! come and go.

use sestina_xmpp::ns;
use sestina_xmpp::stanza::{Kind, Stanza};
use sestina_xmpp::xml::Element;

use super::blocks;
use super::cards;
use super::check::bare;
use super::client::{self, Client, Mode, What};
use super::elements::ToServer;
use super::world::{DOMAIN, MUC, Sent, World};

/// The clients that come and go. One is the only client of its user, the other one of two.
pub(super) const FLAKY: [usize; 2] = [6, 7];
/// A client waits if more of its stanzas than these are not acknowledged.
const UNHEARD: usize = 60;
/// Messages in a row for a user that may be unavailable.
const FLOOD: u64 = 24;

/// One of the clients does something.
pub(super) fn talk(world: &mut World) {
    let index = world.rng.below(world.clients.len() as u64) as usize;
    if FLAKY.contains(&index) && world.rng.one_in(8) {
        return come_and_go(world, index);
    }
    if world.rng.one_in(200) {
        return flood(world, index);
    }
    if !world.clients[index].is_online() || world.clients[index].login.sent.len() > UNHEARD {
        return;
    }
    match world.rng.below(100) {
        0..=37 => say(world, index),
        38..=61 => say_in_room(world, index),
        62..=71 => join_or_leave(world, index),
        72..=81 => ask(world, index),
        82..=85 => {
            let mut presence = Stanza::new(Kind::Presence);
            let show: &[u8] = match world.clients[index].login.sent_count % 2 {
                0 => b"<show>away</show>",
                _ => b"<show>chat</show>",
            };
            presence.push_raw(show, "show", ns::CLIENT);
            world.clients[index].send(&mut world.socks, presence);
        }
        86..=93 => world.clients[index].acknowledge(&mut world.socks),
        94..=95 => change_in_room(world, index),
        97..=98 => invite(world, index),
        96 => {
            let pause = world.rng.below(150);
            world.cut_client(index, pause);
        }
        _ => {}
    }
}

/// A client sends many messages at once to one that may be unavailable.
fn flood(world: &mut World, from: usize) {
    let to = *world.rng.pick(&FLAKY).unwrap_or(&0);
    if from == to || !world.clients[from].is_online() {
        return;
    }
    let address = world.clients[to].bare.clone();
    for _ in 0..FLOOD {
        let to = address.clone();
        send_numbered(world, from, What::Message, to, Vec::new(), Vec::new());
    }
}

/// A client logs in, logs out, or loses its connection for longer than its session lasts.
fn come_and_go(world: &mut World, index: usize) {
    let pause = world.rng.below(100);
    let choice = world.rng.below(3);
    let client = &mut world.clients[index];
    match client.mode {
        Mode::Offline => client.wanted = true,
        Mode::Online if client.login.resumable => {
            client.wanted = choice != 1;
            if choice == 0 {
                // Longer than the server waits for a resumption.
                world.cut_client(index, 6000 + pause);
                world.clients[index].login.settled_in = false;
            } else {
                client.write(&mut world.socks, ToServer::Close);
                client.sock = None;
                client.mode = Mode::Offline;
                client.forget();
                world.note(|| format!("c{index} logs out"));
            }
        }
        _ => {}
    }
}

/// Whether a session must receive what is sent to it now.
fn stays(client: &Client) -> bool {
    client.login.settled_in && !FLAKY.contains(&client.index)
}

/// A client sends a message to another, chosen by the seed.
fn say(world: &mut World, from: usize) {
    let to = world.rng.below(world.clients.len() as u64) as usize;
    if to != from {
        say_to(world, from, to);
    }
}

/// A client sends a message to another.
pub(super) fn say_to(world: &mut World, from: usize, to: usize) {
    // Each pair always uses the same form of address, because order is promised for one address.
    let bare = (from + to).is_multiple_of(2);
    let target = &world.clients[to];
    let address = if bare {
        target.bare.clone()
    } else {
        target.full.clone()
    };
    let same_user = |c: &&Client| c.bare == target.bare && stays(c);
    let cover: Vec<(usize, u32)> = world
        .clients
        .iter()
        .filter(same_user)
        .filter(|c| bare || c.index == to)
        .map(|c| (c.index, c.session_no))
        .collect();
    let copies = |c: &&Client| {
        let received = !bare && c.bare == target.bare && c.index != to && stays(target);
        let sent = c.bare == world.clients[from].bare && c.index != from;
        stays(c)
            && c.login.carbons_settled
            && (received || sent)
            && c.bare != world.clients[from].bare
            || (stays(c) && c.login.carbons_settled && sent && target.bare != c.bare)
    };
    let carbons = world
        .clients
        .iter()
        .filter(copies)
        .map(|c| (c.index, c.session_no))
        .collect();
    send_numbered(world, from, What::Message, address, cover, carbons);
}

/// A client invites another user to a room that it is in. Rooms pass on invitations by another way than users write to
/// each other, so the two have no order.
fn invite(world: &mut World, from: usize) {
    let to = world.rng.below(world.clients.len() as u64) as usize;
    let joined: Vec<String> = world.clients[from].login.rooms_inside().cloned().collect();
    let Some(room) = world.rng.pick(&joined).cloned() else {
        return;
    };
    let user = world.clients[to].bare.clone();
    if user == world.clients[from].bare {
        return;
    }
    let invited = world.clients.iter().filter(|c| c.bare == user && stays(c));
    let cover = invited.map(|c| (c.index, c.session_no)).collect();
    let number = world.next_number();
    let stanza = client::invite(&room, &user, number);
    send_as(
        world,
        from,
        (number, What::Invite),
        stanza,
        user,
        cover,
        Vec::new(),
    );
}

/// A client sends a message to one of the rooms that it is in.
fn say_in_room(world: &mut World, from: usize) {
    let joined: Vec<String> = world.clients[from].login.rooms_inside().cloned().collect();
    if let Some(room) = world.rng.pick(&joined).cloned() {
        say_to_room(world, from, &room);
    }
}

/// A client sends a message to a room that it is in.
pub(super) fn say_to_room(world: &mut World, from: usize, room: &str) {
    let cover = world
        .clients
        .iter()
        .filter(|c| stays(c) && c.login.rooms_settled.contains(room))
        .map(|c| (c.index, c.session_no))
        .collect();
    let room = room.to_owned();
    send_numbered(world, from, What::Groupchat, room, cover, Vec::new());
}

/// Sends a message, and notes which sessions must receive it (`cover`) or a carbon of it.
fn send_numbered(
    world: &mut World,
    from: usize,
    what: What,
    to: String,
    cover: Vec<(usize, u32)>,
    carbons: Vec<(usize, u32)>,
) {
    let number = world.next_number();
    let type_ = if what == What::Groupchat {
        "groupchat"
    } else {
        "chat"
    };
    let stanza = client::message(&to, type_, number);
    send_as(world, from, (number, what), stanza, to, cover, carbons);
}

/// The same for a stanza that is there already.
fn send_as(
    world: &mut World,
    from: usize,
    (number, what): (u64, What),
    stanza: Stanza,
    to: String,
    cover: Vec<(usize, u32)>,
    carbons: Vec<(usize, u32)>,
) {
    let losses = world.losses();
    let epoch = world.storage.epoch_of(bare(&to));
    let client = &mut world.clients[from];
    client.send(&mut world.socks, stanza);
    let sent = Sent {
        from,
        session: client.session_no,
        what,
        to,
        cover,
        carbons,
        count: client.login.sent_count,
        accepted: false,
        losses,
        epoch,
    };
    let place = (client.session, client.login.sent_count);
    let text = format!(
        "c{from} says m{number} to {} ({what:?}), cover {:?}",
        sent.to, sent.cover
    );
    world.note(|| text);
    world.sent.insert(number, sent);
    world.numbers.insert(place, number);
}

/// A client enters one of the rooms, or leaves it.
fn join_or_leave(world: &mut World, index: usize) {
    let Some(room) = world.rng.pick(&world.rooms).cloned() else {
        return;
    };
    let leaves = world.rng.one_in(4);
    match world.clients[index].login.rooms.get(&room).copied() {
        None => enter(world, index, &room),
        Some(true) if leaves => leave(world, index, &room),
        Some(_) => {}
    }
}

/// A client enters a room.
pub(super) fn enter(world: &mut World, index: usize, room: &str) {
    let client = &mut world.clients[index];
    // Sessions of one user share a nick.
    let address = client.address_in(room);
    client.login.leaving.remove(room);
    client.login.rooms.insert(room.to_owned(), false);
    client.send(&mut world.socks, client::room_presence(&address, ""));
    world.note(|| format!("c{index} enters {address}"));
}

/// A client that is in a room leaves it.
pub(super) fn leave(world: &mut World, index: usize, room: &str) {
    let client = &mut world.clients[index];
    let address = client.address_in(room);
    client.login.rooms.remove(room);
    client.login.rooms_settled.remove(room);
    client.login.leaving.insert(room.to_owned());
    client.send(
        &mut world.socks,
        client::room_presence(&address, "unavailable"),
    );
    // Messages that it has not received yet may arrive at the room after it has left.
    let got = |number: &u64| {
        let mut log = client.log.iter();
        log.any(|r| r.what == What::Groupchat && r.number == *number)
    };
    let said = world.sent.iter_mut().filter(|(_, sent)| sent.to == room);
    for (_, sent) in said.filter(|(number, _)| !got(number)) {
        sent.cover.retain(|(who, _)| *who != index);
    }
    world.note(|| format!("c{index} leaves {address}"));
}

/// A client changes its presence in one of its rooms, or its nick too.
fn change_in_room(world: &mut World, index: usize) {
    let rooms: Vec<String> = world.clients[index].login.rooms_inside().cloned().collect();
    let Some(room) = world.rng.pick(&rooms).cloned() else {
        return;
    };
    let renames = world.rng.one_in(2);
    change(world, index, room, renames);
}

/// A client that is in a room changes its presence there; if it `renames`, its nick too.
pub(super) fn change(world: &mut World, index: usize, room: String, renames: bool) {
    let number = world.next_number();
    let client = &mut world.clients[index];
    if renames {
        let nick = client.login.nicks.entry(room.clone()).or_default();
        *nick = (*nick + 1) % 3;
    }
    let mut presence = Stanza::new(Kind::Presence);
    presence.to = client.address_in(&room);
    let status = format!("<status>{number}</status>");
    presence.push_raw(status.as_bytes(), "status", ns::CLIENT);
    world.note(|| format!("c{index} is now {} with status {number}", presence.to));
    world.clients[index].send(&mut world.socks, presence);
}

/// A client sends an IQ: a ping, a question to its own account, its vCard, or a change of what it blocks.
fn ask(world: &mut World, index: usize) {
    let number = world.next_number();
    let other = world.rng.below(world.clients.len() as u64) as usize;
    let full = world.clients[other].full.clone();
    let sure = other == index || stays(&world.clients[other]);
    let ping = Element::new("ping", ns::PING);
    let client = &world.clients[index];
    let own_room = client.login.rooms_inside().next();
    let own = own_room.map(|room| client.address_in(room));
    let choice = world.rng.below(8);
    if choice == 7 || cards::is_refused(world, index) {
        return cards::publish(world, index, number);
    }
    if choice == 6 {
        return blocks::change(world, index, number);
    }
    let carbons = Element::new("enable", ns::CARBONS);
    let query = Element::new("query", ns::MAM).with_attr("queryid", number.to_string());
    let (stanza, sure) = match (choice, own) {
        (0, _) => (client::iq(DOMAIN, "get", number, &ping), true),
        (1, _) => (client::iq(MUC, "get", number, &ping), true),
        (2, Some(own)) => (client::iq(&own, "get", number, &ping), true),
        (3, _) => (client::iq("", "set", number, &carbons), true),
        (4, _) => (client::iq("", "set", number, &query), true),
        _ => (client::iq(&full, "get", number, &ping), sure),
    };
    let asked = (other, world.clients[other].session_no);
    let client = &mut world.clients[index];
    client.login.carbons |= choice == 3;
    client.login.asking.insert(number, sure);
    if stanza.to == full {
        client.login.asked.insert(number, asked);
    }
    client.send(&mut world.socks, stanza);
    world.note(|| format!("c{index} asks i{number} ({choice}, {full})"));
}

/// All clients acknowledge what they have received, and ask the server to do the same.
pub(super) fn acknowledge_all(world: &mut World) {
    for client in world.clients.iter().filter(|c| c.is_online()) {
        client.acknowledge(&mut world.socks);
    }
}

/// All clients send the server an IQ. An owner that died may have sent the end of a session that goes on: the keys of
/// that end have the number of the session's next stanza, and receivers keep them until that stanza is settled.
pub(super) fn ask_all(world: &mut World) {
    for index in 0..world.clients.len() {
        if world.clients[index].is_online() {
            let number = world.next_number();
            let ping = client::iq(DOMAIN, "get", number, &Element::new("ping", ns::PING));
            let client = &mut world.clients[index];
            client.login.asking.insert(number, true);
            client.send(&mut world.socks, ping);
        }
    }
}

/// The cluster is at rest: from now on, sessions that are available must receive everything.
pub(super) fn settle_in(world: &mut World) {
    world.round_from = world.last_number + 1;
    for client in &mut world.clients {
        if client.is_online() && client.login.available {
            let login = &mut client.login;
            login.settled_in = true;
            login.carbons_settled = login.carbons;
            login.rooms_settled = login.rooms_inside().cloned().collect();
        }
    }
}
