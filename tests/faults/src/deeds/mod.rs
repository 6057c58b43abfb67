//! The actions of clients while a fault strikes. Each action arms the fail point just before it
//! begins, and checks that all its stanzas came: once, and in order.
//!
//! - `talk`: chat, carbons, offline messages, the archive
//! - `ask`: IQs between clients and to the server
//! - `meet`: presence and rooms
//! - `move_`: sessions that change edges, and slots that change routers

mod ask;
pub(crate) mod meet;
mod move_;
mod talk;

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::client::{Client, Heard, message_ids};
use crate::cluster::At;
use crate::world::{LIMIT, Part, Who, World};

pub use talk::{archives_agree, ping};

/// An action of clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Deed {
    /// Messages from session to session, both ways.
    Chat,
    /// Messages that another session of the user gets as copies.
    Carbon,
    /// Messages to a user who is offline and logs in later.
    Offline,
    /// Reading the client's own archive.
    Archive,
    /// IQs of type set, between clients and to the server.
    IqSet,
    /// The answers to IQs.
    IqResult,
    /// Presence, broadcast and directed.
    Presence,
    /// Messages in rooms.
    RoomMessage,
    /// Joining a room, and leaving it.
    Join,
    /// Losing the connection, and resuming on another edge.
    Resume,
    /// The victim is asked to drain, and hands its slots over.
    Leave,
    /// Another router is asked to drain, and the victim takes its slots over.
    Take,
}

/// The actions that every fault is tried with, then those that are needed to reach further points.
pub const DEEDS: [Deed; 12] = [
    Deed::Chat,
    Deed::Carbon,
    Deed::Offline,
    Deed::Archive,
    Deed::IqSet,
    Deed::IqResult,
    Deed::Presence,
    Deed::RoomMessage,
    Deed::Join,
    Deed::Resume,
    Deed::Leave,
    Deed::Take,
];

impl Deed {
    /// Its name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Deed::Chat => "chat",
            Deed::Carbon => "carbon",
            Deed::Offline => "offline",
            Deed::Archive => "archive",
            Deed::IqSet => "iq-set",
            Deed::IqResult => "iq-result",
            Deed::Presence => "presence",
            Deed::RoomMessage => "room-message",
            Deed::Join => "join",
            Deed::Resume => "resume",
            Deed::Leave => "leave",
            Deed::Take => "take",
        }
    }
}

impl fmt::Display for Deed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The two groups of an action, and the process that is struck.
#[derive(Clone, Debug)]
pub struct Scene {
    /// The process that is struck, if any.
    pub victim: At,
    /// Group of the victim.
    pub me: usize,
    /// Another group.
    pub you: usize,
    /// A tag for names that occur once in a run.
    pub tag: String,
}

impl Scene {
    /// Both groups, each once as the first.
    fn both(&self) -> [(usize, usize); 2] {
        [(self.me, self.you), (self.you, self.me)]
    }
}

/// The effect of an armed point that is only counted.
pub const COUNT: &str = "pause:0";
/// The pause between two checks of the counts.
const LOOK: Duration = Duration::from_millis(10);

/// Arms a point at a moment that the action chooses. It arms nothing for an action that only
/// accompanies another.
pub struct Gate<'a> {
    /// The world whose processes are armed.
    pub world: &'a World,
    /// The process, the point and the effect.
    pub arms: Vec<(At, String, String)>,
}

impl Gate<'_> {
    async fn open(&self) -> Result<()> {
        let mut lists: BTreeMap<At, Vec<String>> = BTreeMap::new();
        for (at, point, action) in &self.arms {
            lists
                .entry(*at)
                .or_default()
                .push(format!("{point}={action}"));
        }
        for (at, list) in lists {
            self.world.arm(at, &list.join(";")).await?;
        }
        Ok(())
    }

    /// If a point is only counted, waits until it was reached. Does nothing if another point is
    /// armed, which may prevent it.
    async fn counted(&self, point: &str) -> Result<()> {
        let here = |(_, name, action): &&(At, String, String)| name == point && action == COUNT;
        let Some((at, ..)) = self.arms.iter().find(here) else {
            return Ok(());
        };
        let reached = async {
            loop {
                let hits = self.world.cluster.lock().await.hits(*at).await?;
                if hits.iter().any(|(name, count)| name == point && *count > 0) {
                    return Ok(());
                }
                tokio::time::sleep(LOOK).await;
            }
        };
        let limit = tokio::time::timeout(LIMIT, reached).await;
        limit.with_context(|| format!("{point} was not reached"))?
    }
}

/// Two sessions that talked, and the tag of their messages: their archives are compared once the
/// cluster is redundant.
pub type Talked = (Who, Who, String);

/// Performs an action.
pub async fn run(world: &World, deed: Deed, scene: &Scene, gate: &Gate<'_>) -> Result<Vec<Talked>> {
    match deed {
        Deed::Chat => talk::chat(world, scene, gate).await,
        Deed::Carbon => talk::carbon(world, scene, gate).await,
        Deed::Offline => talk::offline(world, scene, gate).await,
        Deed::Archive => talk::archive(world, scene, gate).await,
        Deed::IqSet => ask::ask(world, scene, gate, ask::Strike::Question).await,
        Deed::IqResult => ask::ask(world, scene, gate, ask::Strike::Answer).await,
        Deed::Presence => meet::presence(world, scene, gate).await,
        Deed::RoomMessage => meet::room_message(world, scene, gate).await,
        Deed::Join => meet::join(world, scene, gate).await,
        Deed::Resume => move_::resume(world, scene, gate).await,
        Deed::Leave => move_::hand_over(world, scene, gate, scene.victim.number).await,
        Deed::Take => {
            let routers = world.groups();
            let leaver = (scene.victim.number + 1) % routers;
            move_::hand_over(world, scene, gate, leaver).await
        }
    }
}

/// Performs these actions without a fault, between the same groups as if the first router were the
/// victim.
pub async fn go_on(world: &World, deeds: &[Deed], tag: &str) -> Result<()> {
    let victim = At::router(0);
    let (me, you) = world.scene(victim);
    let quiet = Gate {
        world,
        arms: Vec::new(),
    };
    for deed in deeds.iter().copied() {
        let scene = Scene {
            victim,
            me,
            you,
            tag: format!("{tag}-{deed}"),
        };
        run(world, deed, &scene, &quiet)
            .await
            .with_context(|| format!("{deed}, {tag}"))?;
    }
    Ok(())
}

/// The messages of sessions that take no part in the action.
pub async fn accompany(world: &World, scene: &Scene) -> Result<Vec<Talked>> {
    let gate = Gate {
        world,
        arms: Vec::new(),
    };
    let others = Scene {
        tag: format!("{}-also", scene.tag),
        ..scene.clone()
    };
    let (chat, rooms, asks) = tokio::join!(
        talk::chat_between(world, &others, &gate, Part::Other),
        meet::room_message(world, &others, &gate),
        ask::between(world, &others, &gate, Part::Other),
    );
    rooms?;
    asks?;
    chat
}

/// The elements with that name.
fn named<'a>(log: &'a [Heard], name: &'a str) -> impl Iterator<Item = &'a Heard> {
    log.iter().filter(move |heard| heard.element.name == name)
}

/// The ids of plain messages (no copies, no archive) that begin with that tag, in order.
fn plain_ids(log: &[Heard], tag: &str, kind: &str) -> Vec<String> {
    message_ids(log, tag, |heard| {
        let element = &heard.element;
        element.attr("type").unwrap_or("normal") == kind
            && element.child("body", "jabber:client").is_some()
    })
}

/// Waits until at least the expected number was found, then compares.
async fn expect(
    client: &Client,
    what: &str,
    from: usize,
    expected: &[String],
    find: impl Fn(&[Heard]) -> Vec<String>,
) -> Result<()> {
    let waited = client
        .hears(what, from, LIMIT, |log| {
            let found = find(log);
            (found.len() >= expected.len()).then_some(found)
        })
        .await;
    let found = match waited {
        Ok(found) => found,
        Err(error) => {
            let found = find(&client.log(from));
            return Err(error.context(format!("{what}: expected {expected:?}, found {found:?}")));
        }
    };
    anyhow::ensure!(
        found == expected,
        "{}: {what}: expected {expected:?}, found {found:?}",
        client.name
    );
    Ok(())
}
