//! Processes that must take no part in a cluster: a router that no other process reaches, and the
//! processes of another cluster on the same Redis.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::Value;
use sestina_faults::client::Client;
use sestina_faults::cluster::{At, Cluster, Size};
use sestina_faults::crowd::run;
use sestina_faults::deeds::{self, Deed};
use sestina_faults::wait::until;
use sestina_faults::world::{LIMIT, World};

/// Longer than a move of slots waits for any process.
const WATCHED: Duration = Duration::from_secs(14);

async fn people_go_on(world: &World, tag: &str) -> Result<()> {
    deeds::go_on(world, &[Deed::Chat, Deed::RoomMessage, Deed::Join], tag).await
}

/// Waits until that router owns no slot in the table of the first one.
async fn has_lost_all(cluster: &mut Cluster, name: &str) -> Result<()> {
    until("its slots have other owners", LIMIT, async || match cluster
        .owned(At::router(0), name)
        .await
    {
        Ok(0) => Ok(()),
        seen => Err(format!("{seen:?}")),
    })
    .await
}

/// A restarted router publishes an address at which no process listens. It gets no slot while the
/// test watches; an error in the log names it and the processes that do not reach it; and all
/// clients go on. With the right address it gets its share again.
async fn an_unreachable_router_gets_nothing() -> Result<()> {
    let world = World::start(Size::default()).await?;
    let mut cluster = world.cluster.lock().await;
    cluster.process(At::router(2)).kill();
    has_lost_all(&mut cluster, "router-3").await?;
    let listens = "[cluster]\n";
    // No process listens on port 1 (tcpmux, an obsolete service).
    let wrong = format!("{listens}advertise = \"127.0.0.1:1\"\n");
    cluster.reconfigure(At::router(2), |text| text.replace(listens, &wrong))?;
    cluster.process(At::router(2)).start_again()?;
    drop(cluster);
    let logs = async || -> Result<String> {
        let mut cluster = world.cluster.lock().await;
        let mut all = String::new();
        for number in 0..3 {
            all += &fs::read_to_string(cluster.process(At::router(number)).log())?;
        }
        Ok(all)
    };
    until("the planner names the router", LIMIT, async || {
        let logs = logs().await.map_err(|error| error.to_string())?;
        let named = logs.lines().any(|line| {
            line.contains("ERROR") && line.contains("router-3") && line.contains("127.0.0.1:1")
        });
        if named {
            Ok(())
        } else {
            Err("no such line".to_owned())
        }
    })
    .await?;
    let since = Instant::now();
    let mut round = 0;
    while since.elapsed() < WATCHED {
        round += 1;
        people_go_on(&world, &format!("unreached-{round}")).await?;
        let slots = world
            .cluster
            .lock()
            .await
            .owned(At::router(0), "router-3")
            .await?;
        ensure!(slots == 0, "it was given {slots} slots");
    }
    println!("{round} rounds");
    let mut cluster = world.cluster.lock().await;
    cluster.reconfigure(At::router(2), |text| text.replace(&wrong, listens))?;
    cluster.process(At::router(2)).kill();
    cluster.process(At::router(2)).start_again()?;
    cluster.redundant(2 * LIMIT).await?;
    ensure!(cluster.owned(At::router(0), "router-3").await? > 1000);
    drop(cluster);
    people_go_on(&world, "again").await?;
    world.clients().try_for_each(Client::kept_its_connection)
}

/// Two clusters whose processes have the same names use one Redis: neither takes slots of the
/// other.
async fn two_clusters_share_a_redis() -> Result<()> {
    let world = World::start(Size::default()).await?;
    let size = Size {
        edges: 1,
        routers: 2,
        storages: 1,
        ..Size::default()
    };
    let mut other = world.cluster.lock().await.start_beside(size).await?;
    let since = Instant::now();
    let mut round = 0;
    while since.elapsed() < WATCHED {
        round += 1;
        people_go_on(&world, &format!("shared-{round}")).await?;
        for (cluster, count) in [(&mut *world.cluster.lock().await, 3), (&mut other, 2)] {
            let status: Value = cluster.process(At::router(0)).ask("status", "").await?;
            let routers = status["routers"].as_array().map_or(0, Vec::len);
            ensure!(
                routers == count && status["redundant"] == true,
                "{count} routers are to be redundant: {status}"
            );
        }
    }
    // The death of a process in one cluster does not affect the other.
    other.process(At::router(1)).kill();
    has_lost_all(&mut other, "router-2").await?;
    let mut cluster = world.cluster.lock().await;
    ensure!(cluster.owned(At::router(0), "router-2").await? > 1000);
    cluster.redundant(LIMIT).await?;
    drop(cluster);
    people_go_on(&world, "after").await?;
    world.clients().try_for_each(Client::kept_its_connection)
}

#[test]
fn a_router_that_no_process_reaches_is_given_no_slot() {
    run(an_unreachable_router_gets_nothing()).unwrap();
}

#[test]
fn clusters_that_share_a_redis_leave_each_other_alone() {
    run(two_clusters_share_a_redis()).unwrap();
}
