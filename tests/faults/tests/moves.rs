//! Slots that change their owner: how long they are out of service, and how soon a router that was
//! killed has its share again.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use sestina_faults::client::Client;
use sestina_faults::cluster::{At, Size};
use sestina_faults::crowd;
use sestina_faults::deeds;
use sestina_faults::wait::until;
use sestina_faults::world::World;

/// The interval between two requests of each client.
const EVERY: Duration = Duration::from_millis(50);
/// How long after the term of its lease the slots of a router may be out of service. The budget is
/// a second for both; the machines of tests are slow, and builds are not optimised.
const SERVED: Duration = Duration::from_secs(4);
/// How long Redis hangs while slots move.
const HANG: Duration = Duration::from_secs(10);
/// How long a slot that was just moving may be out of service: the router waits a second for an
/// answer of Redis, and two for a change of the table.
const SILENT: Duration = Duration::from_secs(5);
/// How soon a restarted router must have its share.
const SHARE: Duration = Duration::from_secs(15);
/// How long the number of its slots, and the state of the cluster, may stay the same meanwhile.
const STEP: Duration = Duration::from_secs(5);
/// How long any operation may take.
const LIMIT: Duration = Duration::from_secs(25);

/// Times are measured, so the tests run one after the other.
static TURN: parking_lot::Mutex<()> = parking_lot::Mutex::new(());

async fn ask(world: &World, number: usize, command: &str) -> Result<Value> {
    world
        .cluster
        .lock()
        .await
        .process(At::router(number))
        .ask(command, "")
        .await
}

/// How many slots that router has in the table.
async fn owned(world: &World, asked: usize, name: &str) -> Result<u64> {
    let mut cluster = world.cluster.lock().await;
    cluster.owned(At::router(asked), name).await
}

/// Pings the server and sends messages to another group, until `stop`.
async fn talk(client: &Client, to: String, stop: &AtomicBool) {
    let mut number = 0;
    while !stop.load(Ordering::Acquire) {
        number += 1;
        let ping = format!("<iq type='get' id='m{number}'><ping xmlns='urn:xmpp:ping'/></iq>");
        client.send(ping).ok();
        client
            .send(format!(
                "<message type='chat' to='{to}' id='c{number}'><body>{number}</body></message>"
            ))
            .ok();
        tokio::time::sleep(EVERY).await;
    }
}

/// The longest time in which a client received no stanza of that name.
fn silence(client: &Client, name: &str, from: Instant, to: Instant) -> Duration {
    let mut last = from;
    let mut longest = Duration::ZERO;
    for heard in client.log(0) {
        if heard.element.name != name || heard.at < from || heard.at > to {
            continue;
        }
        longest = longest.max(heard.at - last);
        last = heard.at;
    }
    longest.max(to - last)
}

fn silences(world: &World, from: Instant, to: Instant) -> String {
    let mut text = String::new();
    for name in ["iq", "message"] {
        let mut all: Vec<Duration> = world
            .members()
            .into_iter()
            .map(|who| silence(world.client(who), name, from, to))
            .collect();
        all.sort();
        text += &format!(
            "{name} median {:.2?} longest {:.2?}; ",
            all[all.len() / 2],
            all[all.len() - 1]
        );
    }
    text
}

async fn measure(world: &World, victim: usize) -> Result<()> {
    let (other, name) = ((victim + 1) % 3, format!("router-{}", victim + 1));
    let began = Instant::now();
    world
        .cluster
        .lock()
        .await
        .process(At::router(victim))
        .kill();
    until(
        "its slots have other owners",
        LIMIT,
        async || match owned(world, other, &name).await {
            Ok(0) => Ok(()),
            seen => Err(format!("{seen:?}")),
        },
    )
    .await?;
    let claimed = began.elapsed();
    until("all slots are served", LIMIT, async || {
        match ask(world, other, "status").await {
            Ok(status) => {
                let routers = status["routers"].as_array().cloned().unwrap_or_default();
                let served: u64 = routers
                    .iter()
                    .filter_map(|r| r["counts"]["slots"].as_u64())
                    .sum();
                if served == 4096 {
                    Ok(())
                } else {
                    Err(format!("{served}"))
                }
            }
            Err(error) => Err(error.to_string()),
        }
    })
    .await?;
    let served = began.elapsed();
    let lease = world.cluster.lock().await.size.lease;
    ensure!(
        served < lease + SERVED,
        "{name} was killed, and its slots served again after {served:.2?}"
    );
    println!(
        "{name} killed: claimed after {claimed:.2?}, served after {served:.2?}; silences: {}",
        silences(world, began, Instant::now())
    );
    let again = Instant::now();
    world
        .cluster
        .lock()
        .await
        .process(At::router(victim))
        .start_again()?;
    let mut ready = None;
    let mut first = None;
    // Each state of the cluster that differs from the previous one, with its time.
    let mut steps: Vec<(Duration, String)> = Vec::new();
    until("it has its share", LIMIT, async || {
        let status = ask(world, victim, "status")
            .await
            .map_err(|e| e.to_string())?;
        ready.get_or_insert_with(|| again.elapsed());
        let owned = owned(world, other, &name)
            .await
            .map_err(|e| e.to_string())?;
        if owned > 0 {
            first.get_or_insert_with(|| again.elapsed());
        }
        let redundant = status["redundant"] == true;
        if redundant && owned > 1000 {
            Ok(())
        } else {
            let step = format!("{owned} slots, missing {}", status["missing"]);
            if steps.last().is_none_or(|(_, last)| *last != step) {
                steps.push((again.elapsed(), step.clone()));
            }
            Err(format!("{step}, {}", status["processes"]))
        }
    })
    .await?;
    let share = again.elapsed();
    let times = steps.iter().map(|(at, _)| *at);
    let ends = times.clone().skip(1).chain([share]);
    let longest = times.zip(ends).map(|(from, to)| to - from).max();
    ensure!(
        share < SHARE && longest < Some(STEP),
        "{name} came back, and had its share after {share:.2?}: it answered after {ready:.2?}, had its \
         first slots after {first:.2?}; {steps:.2?}"
    );
    println!(
        "{name} again: answers after {:.2?}, first slots after {:.2?}, its share and redundant after {share:.2?}; silences: {}",
        ready.unwrap_or_default(),
        first.unwrap_or_default(),
        silences(world, again, Instant::now())
    );
    Ok(())
}

/// Works with a cluster while all its clients talk; no client may be disconnected.
fn while_all_talk(work: impl AsyncFnOnce(&World) -> Result<()>) {
    let _turn = TURN.lock();
    crowd::run(async {
        let world = World::start(Size::default()).await.unwrap();
        let stop = AtomicBool::new(false);
        let pairs = crowd::neighbours(&world).into_iter();
        let talking = pairs.map(|(client, to)| talk(client, to, &stop)).collect();
        let done = crowd::while_they_talk(&stop, talking, work(&world)).await;
        if done.is_err() {
            println!("{}", world.cluster.lock().await.keep_logs());
        }
        done.unwrap();
        for client in world.clients() {
            client.acknowledged(LIMIT).await.unwrap();
            client.kept_its_connection().unwrap();
        }
    });
}

#[test]
fn a_router_that_comes_back_has_its_share_soon() {
    while_all_talk(async |world| {
        let times: usize = std::env::var("SESTINA_MOVES")
            .ok()
            .and_then(|t| t.parse().ok())
            .unwrap_or(1);
        for victim in 0..times {
            measure(world, victim % 3).await.context("moves")?;
        }
        Ok(())
    });
}

/// Redis stops answering while a router hands its slots over. The slots that are just moving are
/// served again before Redis is back, and the others move afterwards.
#[test]
fn redis_hangs_while_slots_move() {
    while_all_talk(async |world| {
        unread_while_moving(world).await?;
        hang_while_moving(world).await
    });
}

/// The new owners cannot load the slots from the state store: the old owner sends them the state.
async fn unread_while_moving(world: &World) -> Result<()> {
    for number in [1, 2] {
        world
            .arm(At::router(number), "state_store.load=error")
            .await?;
    }
    let began = Instant::now();
    let mut cluster = world.cluster.lock().await;
    cluster.process(At::router(0)).drain();
    cluster.process(At::router(0)).ended(LIMIT).await?;
    drop(cluster);
    for client in world.clients() {
        deeds::ping(client).await?;
    }
    let ended = Instant::now();
    println!("unread: silences: {}", silences(world, began, ended));
    not_silent(world, began, ended)?;
    let mut cluster = world.cluster.lock().await;
    for number in [1, 2] {
        cluster
            .disarm(At::router(number), "state_store.load")
            .await?;
    }
    cluster.process(At::router(0)).start_again()?;
    cluster.redundant(2 * LIMIT).await
}

fn not_silent(world: &World, from: Instant, to: Instant) -> Result<()> {
    for who in world.members() {
        let client = world.client(who);
        for name in ["iq", "message"] {
            let silence = silence(client, name, from, to);
            ensure!(
                silence < SILENT,
                "{}: no {name} for {silence:.2?}",
                client.name
            );
        }
    }
    Ok(())
}

async fn hang_while_moving(world: &World) -> Result<()> {
    let all = owned(world, 1, "router-1").await?;
    let began = Instant::now();
    world.cluster.lock().await.process(At::router(0)).drain();
    until("slots move", LIMIT, async || {
        match owned(world, 1, "router-1").await {
            Ok(left) if left < all => Ok(()),
            seen => Err(format!("{seen:?}")),
        }
    })
    .await?;
    world.cluster.lock().await.redis.lock().suspend()?;
    // The fault itself, longer than a slot may be out of service.
    tokio::time::sleep(HANG).await;
    let hung = Instant::now();
    world.cluster.lock().await.redis.lock().resume();
    let left = owned(world, 1, "router-1").await?;
    println!(
        "{left} of {all} slots left when Redis hung; silences: {}",
        silences(world, began, hung)
    );
    world
        .cluster
        .lock()
        .await
        .process(At::router(0))
        .ended(LIMIT)
        .await?;
    not_silent(world, began, hung)
}

/// No other router could take the slots of the only one: it ends at once, and its sessions wait at
/// their edges for the next router.
#[test]
fn the_last_router_does_not_wait() {
    let _turn = TURN.lock();
    crowd::run(async {
        let size = Size {
            routers: 1,
            ..Size::default()
        };
        let world = World::start(size).await.unwrap();
        let began = Instant::now();
        let mut cluster = world.cluster.lock().await;
        let last = cluster.process(At::router(0));
        last.drain();
        // With another router it would have half a minute to hand its slots over.
        last.ended(Duration::from_secs(15)).await.unwrap();
        println!("the only router left after {:.2?}", began.elapsed());
        last.start_again().unwrap();
        drop(cluster);
        for client in world.clients() {
            deeds::ping(client).await.unwrap();
            client.kept_its_connection().unwrap();
        }
    });
}
