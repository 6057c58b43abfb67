//! The whole server with Redis Sentinel, and with a Redis Cluster: Redis servers die while clients
//! talk, and routers die before and after. Another test kills Redis and a router at the same time.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use anyhow::{Context, Result, ensure};
use sestina_faults::client::Client;
use sestina_faults::cluster::{At, Size};
use sestina_faults::crowd::run;
use sestina_faults::deeds::{self, Deed};
use sestina_faults::fault::{self, Blow, Fault, Outcome};
use sestina_faults::redis::Mode;
use sestina_faults::world::{LIMIT, World};

/// A router dies while clients talk in rooms, and all promises are checked.
async fn router_dies(world: &World, number: usize, point: &str, deed: Deed) -> Result<()> {
    let fault = Fault {
        point: point.to_owned(),
        deed,
        blow: Blow::Kill,
        victim: At::router(number),
    };
    let outcome = fault::run(world, &fault, &format!("r{number}"))
        .await
        .with_context(|| fault.to_string())?;
    ensure!(outcome != Outcome::NotReached, "{fault}: not reached");
    println!("{fault}: {outcome:?}");
    Ok(())
}

/// Clients chat, talk in rooms, join and leave; each stanza comes once and in order.
async fn people_go_on(world: &World, tag: &str) -> Result<()> {
    let all = [Deed::Chat, Deed::RoomMessage, Deed::Join, Deed::Resume];
    deeds::go_on(world, &all, tag).await
}

async fn lives_through(mode: Mode) -> Result<()> {
    let world = World::start(Size {
        redis: mode,
        ..Size::default()
    })
    .await?;
    router_dies(&world, 0, "router.room_committed", Deed::RoomMessage).await?;
    world.cluster.lock().await.redundant(LIMIT).await?;
    let redis = world.cluster.lock().await.redis.clone();
    redis.lock().kill9()?;
    people_go_on(&world, "while it is unavailable").await?;
    tokio::task::spawn_blocking(move || redis.lock().restart()).await??;
    let redundant = world.cluster.lock().await.redundant(LIMIT).await;
    redundant.context("with Redis again")?;
    people_go_on(&world, "with Redis again").await?;
    router_dies(&world, 1, "router.settled", Deed::Chat).await
}

/// More than one fault: Redis dies with all its data, and at the same time the owner of rooms dies.
/// The rooms go on with the same occupants.
async fn rooms_outlive_both() -> Result<()> {
    let world = World::start(Size::default()).await?;
    people_go_on(&world, "before").await?;
    for client in world.clients() {
        client.acknowledged(LIMIT).await?;
    }
    let redis = {
        let mut cluster = world.cluster.lock().await;
        cluster.redis.lock().kill9()?;
        let victim = At::router(0);
        cluster.process(victim).kill();
        cluster.process(victim).start_again()?;
        cluster.redis.clone()
    };
    tokio::task::spawn_blocking(move || redis.lock().restart()).await??;
    let redundant = world.cluster.lock().await.redundant(2 * LIMIT).await;
    redundant.context("with Redis and a router again")?;
    people_go_on(&world, "after").await?;
    world.clients().try_for_each(Client::kept_its_connection)
}

#[test]
fn sentinels_replace_a_master_that_died() {
    run(lives_through(Mode::Sentinel)).unwrap();
}

#[test]
fn one_of_three_masters_dies_and_comes_back_empty() {
    run(lives_through(Mode::Cluster)).unwrap();
}

#[test]
fn rooms_outlive_redis_and_their_owner() {
    run(rooms_outlive_both()).unwrap();
}
