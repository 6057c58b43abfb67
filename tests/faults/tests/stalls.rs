//! Processes that are stopped for a while, again and again, or get a tenth of a core: no connection
//! is closed, and no slot moves.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sestina_faults::alone::Alone;
use sestina_faults::client::Client;
use sestina_faults::cluster::Size;
use sestina_faults::crowd;
use sestina_faults::throttle::Throttle;
use sestina_faults::world::World;

/// Longer than an edge may serve after a renewal, less the time between two renewals. So an edge
/// that is stopped just before a renewal finds that its lease was not renewed in time, and must
/// renew it before it ends.
const STALL: Duration = Duration::from_millis(2500);
/// The pause between two stalls of one process.
const BETWEEN: Duration = Duration::from_millis(1700);
/// A process gets this fraction (1/n) of a core.
const PART: u32 = 10;
/// The interval between two messages of each client.
const EVERY: Duration = Duration::from_millis(500);
/// How long any operation may take.
const LIMIT: Duration = Duration::from_secs(60);

/// Times are measured, so the tests run one after the other.
static TURN: parking_lot::Mutex<()> = parking_lot::Mutex::new(());

fn number(variable: &str, usual: u64) -> u64 {
    let set = std::env::var(variable).ok();
    set.and_then(|text| text.parse().ok()).unwrap_or(usual)
}

/// How often each process is stopped.
fn rounds() -> u64 {
    number("SESTINA_STALLS", 2)
}

/// How long processes get a tenth of a core.
fn throttled() -> Duration {
    Duration::from_secs(number("SESTINA_THROTTLE_SECONDS", 15))
}

/// A cluster with default settings.
fn size() -> Size {
    Size {
        edges: 2,
        routers: 2,
        storages: 1,
        lease: Duration::from_secs(4),
        ..Size::default()
    }
}

/// Sends messages to another client, until `stop`.
async fn talk(client: &Client, to: String, stop: &AtomicBool) {
    let mut number = 0;
    while !stop.load(Ordering::Acquire) {
        number += 1;
        let message = format!(
            "<message type='chat' to='{to}' id='c{number}'><body>{number}</body></message>"
        );
        client.send(message).unwrap();
        tokio::time::sleep(EVERY).await;
    }
}

/// The owners of slots, with their epochs.
async fn table(world: &World) -> Result<String> {
    let slots = world.cluster.lock().await.slot_table().await?;
    Ok(slots["ranges"].to_string())
}

fn run(test: impl Future<Output = Result<()>>) {
    let _turn = TURN.lock();
    crowd::run(test).unwrap();
}

/// Works with a cluster in which all clients talk: afterwards each connection is still open, all
/// stanzas are acknowledged, and each slot is where it was.
async fn nothing_is_cut(work: impl AsyncFnOnce(&World) -> Result<()>) -> Result<()> {
    let world = World::start(size()).await?;
    let before = table(&world).await?;
    let stop = AtomicBool::new(false);
    let pairs = crowd::neighbours(&world).into_iter();
    let talking = pairs.map(|(client, to)| talk(client, to, &stop)).collect();
    let done = crowd::while_they_talk(&stop, talking, work(&world)).await;
    let checked = async {
        done?;
        for client in world.clients() {
            client.acknowledged(LIMIT).await?;
            client.kept_its_connection()?;
        }
        ensure!(table(&world).await? == before, "slots have moved");
        told_nothing(&world, "ran out").await
    };
    let checked = checked.await;
    if checked.is_err() {
        println!("{}", world.cluster.lock().await.keep_logs());
    }
    checked
}

/// Checks that no process has these words in its log.
async fn told_nothing(world: &World, words: &str) -> Result<()> {
    let mut cluster = world.cluster.lock().await;
    for at in cluster.all() {
        let process = cluster.process(at);
        let log = fs::read_to_string(process.log())?;
        let line = log.lines().find(|line| line.contains(words));
        ensure!(line.is_none(), "{}: {line:?}", process.name);
    }
    Ok(())
}

#[test]
fn processes_that_stand_still_again_and_again_disconnect_no_client() {
    run(nothing_is_cut(async |world| {
        let all = world.cluster.lock().await.all();
        for at in all {
            for _ in 0..rounds() {
                world.cluster.lock().await.process(at).suspend();
                // The fault itself.
                tokio::time::sleep(STALL).await;
                world.cluster.lock().await.process(at).wake();
                tokio::time::sleep(BETWEEN).await;
            }
        }
        Ok(())
    }));
}

#[test]
fn leases_hold_with_a_tenth_of_a_core_for_each_process() {
    run(nothing_is_cut(async |world| {
        let mut throttles = Vec::new();
        {
            let mut cluster = world.cluster.lock().await;
            for at in cluster.all() {
                let pid = cluster.process(at).pid().context("it has an id")?;
                throttles.push(Throttle::to_one(PART, pid));
            }
        }
        // The fault itself.
        tokio::time::sleep(throttled()).await;
        // Each drop waits for its thread.
        tokio::task::spawn_blocking(move || drop(throttles)).await?;
        Ok(())
    }));
}

#[test]
fn one_process_with_a_tenth_of_a_core_disconnects_no_client() {
    run(async {
        let mut one = Alone::start().await?;
        let names: Vec<String> = (0..8).map(|n| format!("user{n}")).collect();
        one.add_users(&names).await?;
        let mut clients = Vec::new();
        for name in &names {
            let client = Client::login(name, "one", 0, &[one.port]).await?;
            client.send("<presence/>")?;
            client.acknowledged(LIMIT).await?;
            clients.push(client);
        }
        let stop = AtomicBool::new(false);
        let talking = clients.iter().enumerate().map(|(n, client)| {
            let to = &clients[(n + 1) % clients.len()];
            talk(client, to.jid(), &stop)
        });
        let talking = talking.collect();
        let pid = one.process.pid().context("it has an id")?;
        let working = async {
            let throttle = Throttle::to_one(PART, pid);
            // The fault itself, and then a pause that is longer than any lease of a cluster.
            tokio::time::sleep(throttled()).await;
            tokio::task::spawn_blocking(move || drop(throttle)).await?;
            one.process.suspend();
            tokio::time::sleep(STALL * 3).await;
            one.process.wake();
            anyhow::Ok(())
        };
        let done = crowd::while_they_talk(&stop, talking, working).await;
        let checked = async {
            done?;
            for client in &clients {
                client.acknowledged(LIMIT).await?;
                client.kept_its_connection()?;
            }
            Ok(())
        };
        let checked = checked.await;
        if checked.is_err() {
            println!("{}", one.keep_log());
        }
        checked
    });
}
