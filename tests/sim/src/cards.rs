//! vCards that clients publish (XEP-0054): data of users that storage keeps, written with the answer.
//!
//! Each vCard has the number of its request. A write takes effect before its answer, or never: storage must not have
//! an older vCard than the last one that was published and answered.

use std::collections::BTreeMap;

use sestina_xmpp::xml::Element;

use super::client::{self, What};
use super::stores::Storage;
use super::world::World;

const VCARD: &str = "vcard-temp";

/// The request of a client that publishes a vCard.
#[derive(Debug)]
pub(super) struct Card {
    user: String,
    /// The step at which it was sent.
    sent: u64,
}

/// A client publishes the vCard with this number.
pub(super) fn publish(world: &mut World, index: usize, number: u64) {
    let name = Element::new("FN", VCARD).with_text(number.to_string());
    let vcard = Element::new("vCard", VCARD).with_child(name);
    let sent = world.steps;
    let client = &mut world.clients[index];
    let user = client.bare.clone();
    client.login.asking.insert(number, true);
    client.send(&mut world.socks, client::iq("", "set", number, &vcard));
    world.cards.insert(number, Card { user, sent });
    world.note(|| format!("c{index} publishes vCard {number}"));
}

/// Whether the last vCard of a client's user was refused: the client tries again.
pub(super) fn is_refused(world: &World, index: usize) -> bool {
    let client = &world.clients[index];
    let mut cards = world.cards.iter().rev();
    let last = cards.find(|(_, card)| card.user == client.bare);
    last.is_some_and(|(number, _)| client.refused.contains(number))
}

/// The number of the vCard that storage has of a user.
fn stored(storage: &Storage, user: &str) -> Option<u64> {
    let place = (user.to_owned(), "vcard".to_owned());
    let vcard = Element::parse(storage.data.get(&place)?).ok()?;
    vcard.child("FN", VCARD)?.text().parse().ok()
}

/// When each request was answered, and whether its vCard was stored.
fn answers(world: &World) -> BTreeMap<u64, (u64, bool)> {
    let clients = world.clients.iter();
    let logs = clients.flat_map(|c| c.log.iter().map(move |r| (c, r)));
    let replies =
        logs.filter(|(_, r)| r.what == What::Reply && world.cards.contains_key(&r.number));
    replies
        .map(|(c, r)| (r.number, (r.when.step, !c.refused.contains(&r.number))))
        .collect()
}

/// Storage has the last vCard of each user that was answered, or one that was published after it was sent.
pub(super) fn check(world: &World, wrong: &mut Vec<String>) {
    let answers = answers(world);
    let answered = |number: &u64| answers.get(number).copied();
    for (last, card) in &world.cards {
        let lost = &world.storage.commits.data;
        if lost.contains(&card.user) || !matches!(answered(last), Some((_, true))) {
            continue;
        }
        let has = stored(&world.storage, &card.user);
        let ended_before =
            |number: u64| answered(&number).is_some_and(|(step, _)| step < card.sent);
        if has.is_none_or(ended_before) {
            wrong.push(format!(
                "storage has vCard {has:?} of {}, and {last} was stored later",
                card.user
            ));
        }
    }
}
