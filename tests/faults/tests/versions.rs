//! Versions side by side: the processes of a cluster are replaced, one after the other, by
//! processes of the next version, which send fields and frames that this version does not know.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use sestina_faults::client::{Client, Heard};
use sestina_faults::cluster::{At, Size};
use sestina_faults::crowd;
use sestina_faults::deeds::{self, Deed};
use sestina_faults::process::Tier;
use sestina_faults::wait::until;
use sestina_faults::world::{LIMIT, Who, World};
use sestina_proto::versions::{ENV, NEWEST, OLDEST, Range};

/// The interval between two messages of each client.
const EVERY: Duration = Duration::from_millis(60);

const TIERS: [Tier; 3] = [Tier::Storage, Tier::Router, Tier::Edge];

/// Stops a process in order and starts it with another version; empty: with this one.
async fn restart(world: &World, at: At, version: &str) -> Result<()> {
    let mut cluster = world.cluster.lock().await;
    let process = cluster.process(at);
    process.drain();
    process.ended(2 * LIMIT).await?;
    process.set(ENV, version);
    process.start_again()
}

/// The same, and waits until the cluster is redundant.
async fn replace(world: &World, at: At, version: &str) -> Result<()> {
    let began = Instant::now();
    restart(world, at, version).await?;
    let redundant = world.cluster.lock().await.redundant(2 * LIMIT).await;
    redundant.with_context(|| format!("{at:?} is of the version {version:?}"))?;
    println!("{at:?} is {version:?} after {:.2?}", began.elapsed());
    Ok(())
}

/// The version that the cluster speaks, as each process reports it.
async fn speaks(world: &World) -> Result<Vec<(At, u64)>> {
    let mut cluster = world.cluster.lock().await;
    let mut all = Vec::new();
    for at in cluster.all() {
        let status = cluster.process(at).ask("status", "").await?;
        all.push((at, status["speaks"].as_u64().unwrap_or_default()));
    }
    Ok(all)
}

async fn all_speak(world: &World, version: u32) -> Result<()> {
    let what = format!("the cluster speaks version {version}");
    until(&what, LIMIT, async || {
        let said = speaks(world).await.map_err(|error| error.to_string())?;
        match said.iter().all(|(_, said)| *said == u64::from(version)) {
            true => Ok(()),
            false => Err(format!("{said:?}")),
        }
    })
    .await
}

/// A process that does not speak this version is refused, and logs the reason; the others go on.
async fn stays_out(world: &World, at: At) -> Result<()> {
    restart(world, at, "next-only").await?;
    let theirs = format!("version {} of the protocol", NEWEST + 1);
    let ours = Range {
        oldest: OLDEST,
        newest: NEWEST,
    };
    let ours = format!("version {ours}");
    let names_both = |text: &str| text.contains(&theirs) && text.contains(&ours);
    until("it says why it is refused", LIMIT, async || {
        let mut cluster = world.cluster.lock().await;
        let status = cluster.process(at).ask("status", "").await;
        let said = match status {
            Ok(status) if status["ready"] == true => return Err("it is ready".to_owned()),
            Ok(status) => status["reason"].as_str().unwrap_or_default().to_owned(),
            // A router process that has not started its router.
            Err(error) => error.to_string(),
        };
        match names_both(&said) {
            true => Ok(()),
            false => Err(said),
        }
    })
    .await?;
    let log = fs::read_to_string(world.cluster.lock().await.process(at).log())?;
    let told = log
        .lines()
        .filter(|line| (line.contains("ERROR") || line.contains("WARN")) && names_both(line));
    let told = told.count();
    ensure!((1..=6).contains(&told), "its log says so {told} times");
    deeds::go_on(world, &[Deed::Chat], &format!("beside-{at:?}")).await
}

/// Sends messages to another client, and in the room, until `stop`; returns their number.
async fn talk(client: &Client, to: &str, room: &str, stop: &AtomicBool) -> usize {
    let mut number = 0;
    while !stop.load(Ordering::Acquire) {
        number += 1;
        for (kind, to) in [("chat", to), ("groupchat", room)] {
            let id = format!("{kind}-{}-{number}", client.name);
            let body = format!("<body>{number}</body>");
            client
                .send(format!(
                    "<message type='{kind}' to='{to}' id='{id}'>{body}</message>"
                ))
                .unwrap();
        }
        tokio::time::sleep(EVERY).await;
    }
    number
}

/// The numbers of a client's messages that were received, in order.
fn heard(log: &[Heard], kind: &str, name: &str) -> Vec<usize> {
    let tag = format!("{kind}-{name}-");
    let ids = log
        .iter()
        .filter(|heard| heard.element.name == "message" && heard.element.attr("type") == Some(kind))
        .filter_map(|heard| heard.element.attr("id"));
    ids.filter_map(|id| id.strip_prefix(&tag)?.parse().ok())
        .collect()
}

/// Each listener has received all messages of a client: once, and in order.
async fn nothing_is_lost(world: &World, said: &[(Who, Who, usize)]) -> Result<()> {
    for (talker, listener, count) in said {
        let name = &world.client(*talker).name;
        let all: Vec<usize> = (1..=*count).collect();
        let mut wanted = vec![("chat", *listener)];
        wanted.extend(world.members().into_iter().map(|who| ("groupchat", who)));
        for (kind, who) in wanted {
            let client = world.client(who);
            let what = format!("{count} {kind} messages of {name}");
            let enough = |log: &[Heard]| {
                let found = heard(log, kind, name);
                (found.len() >= all.len()).then_some(found)
            };
            let found = client.hears(&what, 0, LIMIT, enough).await;
            let found = found.unwrap_or_else(|_| heard(&client.log(0), kind, name));
            ensure!(
                found == all,
                "{} heard {} of {what}; the first that is not in order: {:?}",
                client.name,
                found.len(),
                found.iter().zip(&all).find(|(found, said)| found != said)
            );
        }
    }
    Ok(())
}

/// How many frames of unknown kinds an old process has got.
async fn unknown(world: &World, at: At) -> Result<f64> {
    let cluster = world.cluster.lock().await;
    cluster.metric(at, "sestina_unknown_frames_total").await
}

async fn upgrade(world: &World) -> Result<()> {
    all_speak(world, NEWEST).await?;
    for tier in TIERS {
        replace(world, At { tier, number: 0 }, "next").await?;
    }
    let everything = [
        Deed::Chat,
        Deed::Offline,
        Deed::RoomMessage,
        Deed::Join,
        Deed::Resume,
    ];
    deeds::go_on(world, &everything, "mixed").await?;
    // The old edge has lanes to the new router, and the old router to the new edge and router.
    for tier in [Tier::Router, Tier::Edge] {
        let counted = unknown(world, At { tier, number: 1 }).await?;
        println!("{tier:?}: {counted} frames of unknown kinds");
        ensure!(counted > 0.0, "the old {tier:?} got nothing unknown");
    }
    for (at, said) in speaks(world).await? {
        ensure!(
            said == u64::from(NEWEST),
            "{at:?} says {said} among old processes"
        );
    }
    let status: Value = world
        .cluster
        .lock()
        .await
        .process(At::router(0))
        .ask("status", "")
        .await?;
    let told = [&status["processes"], &status["storages"]].map(|list| {
        let list = list.as_array().cloned().unwrap_or_default();
        let new = |process: &&Value| process["newest"] == NEWEST + 1;
        (list.len(), list.iter().filter(new).count())
    });
    ensure!(
        told == [(5, 2), (2, 1)],
        "the status does not tell: {status}"
    );
    for tier in TIERS {
        stays_out(world, At { tier, number: 1 }).await?;
        replace(world, At { tier, number: 1 }, "next").await?;
    }
    for (at, said) in speaks(world).await? {
        ensure!(
            said == u64::from(NEWEST),
            "{at:?} says {said} beside an old router"
        );
    }
    replace(world, At::router(2), "next").await?;
    all_speak(world, NEWEST + 1).await?;
    deeds::go_on(world, &everything, "new").await?;
    // A process that is downgraded to this version works with the others, and the cluster speaks
    // this version.
    replace(world, At::router(1), "").await?;
    all_speak(world, NEWEST).await?;
    deeds::go_on(world, &[Deed::Chat, Deed::RoomMessage], "back").await
}

#[test]
fn a_cluster_is_upgraded_process_by_process_while_all_talk() {
    crowd::run(async {
        let size = Size {
            edges: 2,
            ..Size::default()
        };
        let world = World::start(size).await.unwrap();
        let stop = AtomicBool::new(false);
        let room = world.room(0);
        let members = world.members();
        let pairs = members.iter().map(|who| {
            let listener = Who {
                group: (who.group + 1) % world.groups(),
                part: who.part,
            };
            (*who, listener)
        });
        let pairs: Vec<(Who, Who)> = pairs.collect();
        let said = parking_lot::Mutex::new(Vec::new());
        let talking = pairs.iter().map(async |(who, listener)| {
            let to = world.client(*listener).jid();
            let count = talk(world.client(*who), &to, &room, &stop).await;
            said.lock().push((*who, *listener, count));
        });
        let done = crowd::while_they_talk(&stop, talking.collect(), upgrade(&world)).await;
        let done = match done {
            Ok(()) => nothing_is_lost(&world, &said.into_inner()).await,
            failed => failed,
        };
        if done.is_err() {
            println!("{}", world.cluster.lock().await.keep_logs());
        }
        done.unwrap();
        for client in world.clients() {
            client.acknowledged(LIMIT).await.unwrap();
            client.kept_its_session().unwrap();
        }
    });
}
