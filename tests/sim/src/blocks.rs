//! Addresses that clients block (XEP-0191): data of users that routers keep in memory and in the records of sessions.
//! All sessions of a user must have what storage has. The addresses are of no client, so that all messages arrive.

use sestina_router::simulation::Worker;
use sestina_xmpp::ns;
use sestina_xmpp::xml::Element;

use super::client;
use super::world::World;

/// A client reads its user's list, blocks an address, or unblocks all.
pub(super) fn change(world: &mut World, index: usize, number: u64) {
    let (type_, request) = match number % 6 {
        0 => ("set", Element::new("unblock", ns::BLOCKING)),
        1 => ("get", Element::new("blocklist", ns::BLOCKING)),
        _ => {
            let address = format!("n{number}@blocked.example");
            let item = Element::new("item", ns::BLOCKING).with_attr("jid", address);
            ("set", Element::new("block", ns::BLOCKING).with_child(item))
        }
    };
    let client = &mut world.clients[index];
    client.login.asking.insert(number, true);
    client.send(&mut world.socks, client::iq("", type_, number, &request));
    world.note(|| format!("c{index} asks i{number}: {}", request.name));
}

/// Each session whose router knows the list of its user has the list of storage.
pub(super) fn check(world: &World, wrong: &mut Vec<String>) {
    for (session, user, items) in world.running_workers().flat_map(Worker::residents) {
        if world.storage.commits.data.contains(&user) {
            continue;
        }
        let stored = world.storage.data.get(&(user, "blocking".to_owned()));
        let known = items.iter().find(|item| item.name == "blocking");
        let known = known.map(|item| &item.value);
        if known != stored.filter(|value| !value.is_empty()) {
            wrong.push(format!(
                "{session} blocks {known:?}, and storage has {stored:?}"
            ));
        }
    }
}
