//! One fault: at one point, during one action, in one process.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use sestina_runtime::failpoint::NAMES;

use crate::client::Heard;
use crate::cluster::At;
use crate::deeds::meet::is_history;
use crate::deeds::{self, Deed, Gate, Scene, Talked};
use crate::matrix::tier_of;
use crate::process::{Seen, Tier};
use crate::world::{LIMIT, World};

/// The kind of fault at the point.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Blow {
    /// Sudden death.
    Kill,
    /// Suspended, and resumed after others have taken its slots.
    Suspend,
    /// Suspended, and resumed while its lease is still fresh.
    Doze,
}

impl Blow {
    /// The action of the fail point: at the first hit.
    pub fn action(self) -> &'static str {
        match self {
            Blow::Kill => "1*kill",
            Blow::Suspend | Blow::Doze => "1*suspend",
        }
    }
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Fault {
    /// The point.
    pub point: String,
    /// The action of the clients.
    pub deed: Deed,
    /// The kind of fault.
    pub blow: Blow,
    /// The process that is struck.
    pub victim: At,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verb = match self.blow {
            Blow::Kill => "kill",
            Blow::Suspend => "suspend",
            Blow::Doze => "briefly suspend",
        };
        let (tier, number) = (self.victim.tier.command(), self.victim.number + 1);
        write!(
            f,
            "{verb} {tier}-{number} at {} during {}",
            self.point, self.deed
        )
    }
}

/// The result of a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The fault struck, and all promises held. The time until all messages had come.
    Held(Duration),
    /// The point was not reached.
    NotReached,
}

/// How long after an action its point may still be reached.
const AFTERWARDS: Duration = Duration::from_millis(500);

/// Waits for the fault. None if the action was done without it.
async fn struck(world: &World, victim: At, done: &AtomicBool) -> Result<Option<(Seen, Instant)>> {
    let mut until = None;
    loop {
        let seen = world.cluster.lock().await.process(victim).seen()?;
        match seen {
            Seen::Killed | Seen::Suspended => return Ok(Some((seen, Instant::now()))),
            // The process has drained as it was asked to.
            Seen::Ended => return Ok(None),
            Seen::Running => {}
        }
        if done.load(Ordering::Acquire) {
            let until = *until.get_or_insert_with(|| Instant::now() + AFTERWARDS);
            if Instant::now() > until {
                return Ok(None);
            }
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Moves the clients of a suspended edge, which hear nothing, to other edges.
async fn leave_edge(world: &World, edge: usize) -> Result<()> {
    tokio::time::sleep(Duration::from_millis(300)).await;
    let edges = world.ports().len();
    for client in world.clients() {
        if client.edge() == Some(edge) {
            client.go((edge + 1) % edges)?;
        }
    }
    Ok(())
}

/// Strikes, and checks everything that is promised for one fault.
pub async fn run(world: &World, fault: &Fault, tag: &str) -> Result<Outcome> {
    world.cluster.lock().await.redundant(LIMIT).await?;
    world.go_home().await.context("before the fault")?;
    let (me, you) = world.scene(fault.victim);
    let scene = Scene {
        victim: fault.victim,
        me,
        you,
        tag: tag.to_owned(),
    };
    let broken: Vec<usize> = world
        .clients()
        .map(|client| client.broken().len())
        .collect();
    let gate = Gate {
        world,
        arms: vec![(
            fault.victim,
            fault.point.clone(),
            fault.blow.action().to_owned(),
        )],
    };
    let done = AtomicBool::new(false);
    let deed = async {
        let talked = deeds::run(world, fault.deed, &scene, &gate).await;
        done.store(true, Ordering::Release);
        talked
    };
    let (talked, struck) = tokio::join!(deed, meanwhile(world, fault, &scene, &done));
    let struck = struck.context("among the sessions that were not struck")?;
    let mut talked = talked.context("the deed itself")?;
    let Some((at, also)) = struck else {
        let running = world.cluster.lock().await.process(fault.victim).seen()? == Seen::Running;
        if running {
            world
                .cluster
                .lock()
                .await
                .disarm(fault.victim, &fault.point)
                .await?;
        }
        return Ok(Outcome::NotReached);
    };
    let took = at.elapsed();
    talked.extend(also);
    recover(world, fault, at).await?;
    check(world, fault, &broken, &talked).await?;
    Ok(Outcome::Held(took))
}

/// Checks the other sessions once the fault has struck.
async fn meanwhile(
    world: &World,
    fault: &Fault,
    scene: &Scene,
    done: &AtomicBool,
) -> Result<Option<(Instant, Vec<Talked>)>> {
    let Some((seen, at)) = struck(world, fault.victim, done).await? else {
        return Ok(None);
    };
    let leaving = async {
        if seen == Seen::Suspended && fault.victim.tier == Tier::Edge {
            leave_edge(world, fault.victim.number).await?;
        }
        anyhow::Ok(())
    };
    let dozing = async {
        if fault.blow == Blow::Doze {
            let lease = world.cluster.lock().await.size.lease;
            tokio::time::sleep_until((at + lease * 2 / 5).into()).await;
            world.cluster.lock().await.process(fault.victim).wake();
        }
    };
    let (left, (), also) = tokio::join!(leaving, dozing, deeds::accompany(world, scene));
    left?;
    Ok(Some((at, also?)))
}

/// Restarts a killed process, resumes a suspended one (past its lease), and waits until the cluster
/// is redundant.
async fn recover(world: &World, fault: &Fault, at: Instant) -> Result<()> {
    let mut cluster = world.cluster.lock().await;
    match fault.blow {
        Blow::Kill => cluster.process(fault.victim).start_again()?,
        Blow::Suspend => {
            let past = at + cluster.size.lease + Duration::from_millis(1500);
            tokio::time::sleep_until(past.into()).await;
            cluster.process(fault.victim).wake();
        }
        // It was resumed while others went on.
        Blow::Doze => {}
    }
    cluster.redundant(LIMIT).await.context("after the fault")
}

async fn check(world: &World, fault: &Fault, broken: &[usize], talked: &[Talked]) -> Result<()> {
    for (client, before) in world.clients().zip(broken) {
        client.kept_its_session()?;
        for broken in client.broken().iter().skip(*before) {
            let touched = fault.victim.tier == Tier::Edge && fault.victim.number == broken.edge;
            ensure!(
                touched,
                "{} was disconnected from edge-{}, which was not touched: {}",
                client.name,
                broken.edge + 1,
                broken.how
            );
        }
    }
    for client in world.clients() {
        deeds::ping(client).await.context("after the fault")?;
    }
    for (a, b, tag) in talked {
        deeds::archives_agree(world, *a, *b, tag).await?;
    }
    for client in world.clients() {
        let twice = doubled(&client.log(0), &client.bare());
        ensure!(
            twice.is_empty(),
            "{} heard more than once: {twice:?}",
            client.name
        );
    }
    Ok(())
}

/// Stanzas that came more than once although they were sent once. A session that is resumed under a new owner may have
/// its last presence told once more to the other sessions of its user, which is `own`: the owner before may have told
/// its end.
fn doubled(log: &[Heard], own: &str) -> Vec<String> {
    let mut seen = BTreeSet::new();
    let mut twice = Vec::new();
    let mut last: BTreeMap<String, String> = BTreeMap::new();
    for heard in log {
        let Some(key) = key(heard) else {
            continue;
        };
        let from = heard.element.attr("from").unwrap_or_default();
        let again = heard.element.name == "presence"
            && from.split('/').next() == Some(own)
            && last.insert(from.to_owned(), key.clone()).as_ref() == Some(&key);
        if !seen.insert(key.clone()) && !again {
            twice.push(key);
        }
    }
    twice
}

/// The key of a stanza; none for a stanza that may come again (from an archive, or a room's
/// history).
fn key(heard: &Heard) -> Option<String> {
    let element = &heard.element;
    let from = element.attr("from").unwrap_or_default();
    let kind = element.attr("type").unwrap_or_default();
    match element.name.as_str() {
        "message" => {
            let carbons = "urn:xmpp:carbons:2";
            for direction in ["sent", "received"] {
                if let Some(copy) = element.child(direction, carbons) {
                    let message = copy.child("forwarded", "urn:xmpp:forward:0")?;
                    let id = message.child("message", "jabber:client")?.attr("id")?;
                    return Some(format!("{direction} copy of {id}"));
                }
            }
            let history = kind == "groupchat" && is_history(element);
            let id = element.attr("id").filter(|_| !history)?;
            Some(format!("message {kind} {id} from {from}"))
        }
        "iq" => Some(format!("iq {kind} {} from {from}", element.attr("id")?)),
        "presence" => {
            let status = element.child("status", "jabber:client")?.text();
            // A guest's presence is sent again to sessions that join later.
            Some(format!("presence {kind} {status:?} from {from}"))
        }
        _ => None,
    }
}

/// The points that an action reaches without a fault.
pub async fn reached(world: &World, deed: Deed, tag: &str) -> Result<BTreeSet<String>> {
    let mut reached = BTreeSet::new();
    if matches!(deed, Deed::Leave | Deed::Take) {
        return Ok(reached);
    }
    // The tier of the victim decides which group acts; each tier is measured on its own.
    for tier in [Tier::Edge, Tier::Router, Tier::Storage] {
        let storages = world.cluster.lock().await.count(Tier::Storage);
        // Any storage process may get the call.
        let numbers = if tier == Tier::Storage {
            0..storages
        } else {
            0..1
        };
        let watched: Vec<At> = numbers.map(|number| At { tier, number }).collect();
        let victim = At { tier, number: 0 };
        let (me, you) = world.scene(victim);
        let scene = Scene {
            victim,
            me,
            you,
            tag: format!("{tag}-{}", tier.command()),
        };
        world.cluster.lock().await.redundant(LIMIT).await?;
        world.go_home().await?;
        // Each hit is counted and has no other effect.
        let points: Vec<&str> = NAMES
            .iter()
            .map(|(point, _)| *point)
            .filter(|point| tier_of(point) == tier)
            .collect();
        let arms = watched
            .iter()
            .flat_map(|at| {
                points
                    .iter()
                    .map(|p| (*at, (*p).to_owned(), deeds::COUNT.to_owned()))
            })
            .collect();
        let gate = Gate { world, arms };
        deeds::run(world, deed, &scene, &gate)
            .await
            .with_context(|| format!("{deed}"))?;
        tokio::time::sleep(AFTERWARDS).await;
        let mut cluster = world.cluster.lock().await;
        for at in watched {
            let hits = cluster.hits(at).await?;
            reached.extend(
                hits.into_iter()
                    .filter(|(_, count)| *count > 0)
                    .map(|(p, _)| p),
            );
            for point in &points {
                cluster.disarm(at, point).await?;
            }
        }
    }
    Ok(reached)
}
