//! Rooms change while Redis is unavailable, and then their owner dies: the new owner finds outdated
//! state in Redis, or none. It learns from edges and routers which sessions are in. No client
//! believes to be an occupant of a room that does not know it, and no client is shown an occupant
//! that has left.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sestina_faults::client::{Client, Heard, message_ids};
use sestina_faults::cluster::{At, Size};
use sestina_faults::crowd::run;
use sestina_faults::deeds;
use sestina_faults::world::{LIMIT, Part, Who, World};

/// The owner of the first room.
const ROUTER: At = At::router(0);

/// How long to wait for a message that is lost, once the room is served again.
const MISSED: Duration = Duration::from_secs(10);

/// The fault of Redis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unavailable {
    /// No router reaches it; afterwards it has its data.
    Unreachable,
    /// It dies with all its data.
    Dead,
}

/// The occupants of a room, with their status texts.
type Roster = BTreeMap<String, String>;

/// The occupants of a room, by the presences that a client got.
fn shown(log: &[Heard], room: &str) -> Roster {
    let mut roster = Roster::new();
    let presences = log.iter().filter(|heard| heard.element.name == "presence");
    for presence in presences.map(|heard| &heard.element) {
        let from = presence.attr("from").unwrap_or_default();
        let Some((_, nick)) = from.split_once('/').filter(|(bare, _)| *bare == room) else {
            continue;
        };
        let status = presence.child("status", "jabber:client");
        match presence.attr("type") {
            None => {
                let text = status.map(|status| status.text()).unwrap_or_default();
                roster.insert(nick.to_owned(), text);
            }
            Some("unavailable") => {
                roster.remove(nick);
            }
            Some(_) => {}
        }
    }
    roster
}

/// Messages of a room with that prefix, in order.
fn said(log: &[Heard], room: &str, prefix: &str) -> Vec<String> {
    message_ids(log, prefix, |heard| {
        heard.element.attr("type") == Some("groupchat") && heard.sender() == room
    })
}

/// Sends a presence to a room, and waits until it comes back from the room.
async fn present(client: &Client, room: &str, nick: &str, status: &str) -> Result<()> {
    let from = client.heard();
    let muc = "<x xmlns='http://jabber.org/protocol/muc'/>";
    client.send(format!(
        "<presence to='{room}/{nick}'>{muc}<status>{status}</status></presence>"
    ))?;
    let has = |log: &[Heard]| {
        let shown = shown(log, room);
        shown
            .get(nick)
            .is_some_and(|text| text == status)
            .then_some(())
    };
    let own = client.hears("its own presence in a room", from, LIMIT, has);
    own.await.map(drop)
}

/// Leaves a room, and waits until the room confirms it.
async fn leave(client: &Client, room: &str) -> Result<()> {
    let from = client.heard();
    let own = format!("{room}/{}", client.user());
    client.send(format!("<presence type='unavailable' to='{own}'/>"))?;
    gone(client, from, &own).await
}

/// Waits until a client gets the unavailable presence of an occupant.
async fn gone(client: &Client, from: usize, occupant: &str) -> Result<()> {
    let is = |heard: &&Heard| {
        let element = &heard.element;
        element.name == "presence"
            && element.attr("from") == Some(occupant)
            && element.attr("type") == Some("unavailable")
    };
    let left = |log: &[Heard]| log.iter().find(is).map(drop);
    client.hears("that it has left", from, LIMIT, left).await
}

/// The clients that are in the room after all changes, and those that have left.
struct Changed<'a> {
    inside: Vec<&'a Client>,
    outside: Vec<&'a Client>,
    roster: Roster,
}

/// Changes the first room in every way. Each change is made by two clients: one whose session has
/// the same owner as the room, and one whose session has another owner.
async fn change<'a>(world: &'a World, room: &str) -> Result<Changed<'a>> {
    let client = |group, part| world.client(Who { group, part });
    let nick = |client: &Client| client.user().to_owned();
    let mut roster = Roster::new();
    for group in [0, 1] {
        let guest = client(group, Part::Guest);
        present(guest, room, guest.user(), "entered").await?;
        roster.insert(nick(guest), "entered".to_owned());
        leave(client(group, Part::Other), room).await?;
    }
    present(
        client(0, Part::One),
        room,
        client(0, Part::One).user(),
        "changed",
    )
    .await?;
    roster.insert(nick(client(0, Part::One)), "changed".to_owned());
    present(client(1, Part::One), room, "renamed", "renamed").await?;
    roster.insert("renamed".to_owned(), "renamed".to_owned());
    roster.insert(nick(client(2, Part::One)), String::new());
    // This session ends.
    let (ends, sees) = (client(2, Part::Other), client(2, Part::One));
    let from = sees.heard();
    ends.close().await?;
    gone(sees, from, &format!("{room}/{}", ends.user())).await?;
    let inside = vec![
        client(2, Part::One),
        client(0, Part::One),
        client(1, Part::One),
        client(0, Part::Guest),
        client(1, Part::Guest),
    ];
    for client in &inside {
        client.acknowledged(LIMIT).await?;
    }
    let outside = vec![client(0, Part::Other), client(1, Part::Other)];
    Ok(Changed {
        inside,
        outside,
        roster,
    })
}

/// Every occupant sends a message, and all of them get all messages in one order. `limit` bounds
/// the wait for messages that are lost without a guard; the room is served again before it begins.
async fn all_are_heard(changed: &Changed<'_>, room: &str, limit: Duration) -> Result<()> {
    let heard = |client: &Client| said(&client.log(0), room, "after-");
    let first = changed.inside.first().context("the room has occupants")?;
    say(first, room, &format!("after-0-{}", first.user()))?;
    let served = |log: &[Heard]| said(log, room, "after-0").first().map(drop);
    first
        .hears("the room to be served", 0, LIMIT, served)
        .await?;
    for client in &changed.inside {
        say(client, room, &format!("after-1-{}", client.user()))?;
    }
    let count = changed.inside.len() + 1;
    for client in &changed.inside {
        let all = |log: &[Heard]| (said(log, room, "after-").len() >= count).then_some(());
        let what = "what all occupants say";
        let waited = client.hears(what, 0, limit, all).await;
        waited.with_context(|| format!("{} heard {:?}", client.name, heard(client)))?;
    }
    let order = heard(first);
    for client in &changed.inside {
        let heard = heard(client);
        let name = &client.name;
        ensure!(heard == order, "{name} heard {heard:?}, others {order:?}");
    }
    Ok(())
}

fn say(client: &Client, room: &str, id: &str) -> Result<()> {
    client.send(format!(
        "<message type='groupchat' to='{room}' id='{id}'><body>hello</body></message>"
    ))
}

/// No client that has left gets new messages. (Redis did not know that it had left, and the new
/// owner has found out by now, as all occupants have seen. Earlier messages may still have come to
/// the client.)
async fn others_hear_nothing(changed: &Changed<'_>, room: &str) -> Result<()> {
    let first = changed.inside.first().context("the room has occupants")?;
    say(first, room, "last-1")?;
    for client in &changed.inside {
        let all = |log: &[Heard]| said(log, room, "last-").first().map(drop);
        client.hears("the last message", 0, LIMIT, all).await?;
    }
    for client in &changed.outside {
        deeds::ping(client).await?;
        let (heard, name) = (said(&client.log(0), room, "last-"), &client.name);
        ensure!(heard.is_empty(), "{name} is out and heard {heard:?}");
        let shown = shown(&client.log(0), room);
        let own = shown.contains_key(client.user());
        ensure!(!own, "{name} is shown itself in a room that it has left");
    }
    Ok(())
}

/// Every occupant, and one that joins now, is shown exactly the occupants.
async fn all_are_shown(world: &World, changed: &Changed<'_>, room: &str) -> Result<()> {
    let newcomer = world.client(Who {
        group: 2,
        part: Part::Guest,
    });
    present(newcomer, room, newcomer.user(), "new").await?;
    let mut expected = changed.roster.clone();
    expected.insert(newcomer.user().to_owned(), "new".to_owned());
    for client in changed.inside.iter().copied().chain([newcomer]) {
        let same = |log: &[Heard]| (shown(log, room) == expected).then_some(());
        let waited = client.hears("the right occupants", 0, LIMIT, same).await;
        waited.with_context(|| {
            let shown = shown(&client.log(0), room);
            format!("{} is shown {shown:?} instead of {expected:?}", client.name)
        })?;
    }
    Ok(())
}

/// A room changes while Redis is unavailable, and its owner dies before Redis is back.
async fn owner_dies_after_unseen_changes(
    mutations: &str,
    away: Unavailable,
    limit: Duration,
) -> Result<()> {
    let world = World::start(Size {
        link: away == Unavailable::Unreachable,
        mutations: mutations.to_owned(),
        ..Size::default()
    })
    .await?;
    let room = world.room(0);
    let (link, redis) = {
        let cluster = world.cluster.lock().await;
        (cluster.link.clone(), cluster.redis.clone())
    };
    match &link {
        Some(link) => link.cut(),
        None => redis.lock().kill9()?,
    }
    let changed = change(&world, &room)
        .await
        .context("while Redis is unavailable")?;
    world.cluster.lock().await.process(ROUTER).kill();
    match &link {
        Some(link) => link.heal(),
        None => tokio::task::spawn_blocking(move || redis.lock().restart()).await??,
    }
    world.cluster.lock().await.process(ROUTER).start_again()?;
    all_are_heard(&changed, &room, limit).await?;
    all_are_shown(&world, &changed, &room).await?;
    others_hear_nothing(&changed, &room).await?;
    world.cluster.lock().await.redundant(2 * LIMIT).await?;
    for client in changed.inside.iter().chain(&changed.outside) {
        client.kept_its_connection()?;
        client.kept_its_session()?;
    }
    Ok(())
}

#[test]
fn a_room_that_changed_while_redis_was_unreachable_outlives_its_owner() {
    run(owner_dies_after_unseen_changes(
        "",
        Unavailable::Unreachable,
        LIMIT,
    ))
    .unwrap();
}

#[test]
fn a_room_that_changed_while_redis_was_dead_outlives_its_owner() {
    run(owner_dies_after_unseen_changes(
        "",
        Unavailable::Dead,
        LIMIT,
    ))
    .unwrap();
}

#[test]
fn what_sessions_tell_of_rooms_is_missed() {
    let test = owner_dies_after_unseen_changes("room-members", Unavailable::Unreachable, MISSED);
    let error = format!("{:#}", run(test).unwrap_err());
    assert!(error.contains("what all occupants say"), "{error}");
}
