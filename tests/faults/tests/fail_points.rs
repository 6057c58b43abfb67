//! Faults at every point in the life of a stanza, on real processes.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use sestina_faults::cluster::Size;
use sestina_faults::crowd;
use sestina_faults::deeds::DEEDS;
use sestina_faults::fault::{self, Fault, Outcome};
use sestina_faults::matrix::{self, Reached};
use sestina_faults::process::Tier;
use sestina_faults::world::World;

const PROMISED: &str = include_str!("../reached.txt");

/// The remaining faults are not tried after this many failures.
const ENOUGH: usize = 12;

fn count(size: &Size) -> impl Fn(Tier) -> usize {
    let (edges, routers, storages) = (size.edges, size.routers, size.storages);
    move |tier| match tier {
        Tier::Edge => edges,
        Tier::Router => routers,
        Tier::Storage => storages,
    }
}

/// Measures which action reaches which point. If an action fails without a fault, the test fails at
/// once.
async fn measure(mut world: World) -> Result<(World, Reached)> {
    let mut reached = Reached::new();
    let mut broken = Vec::new();
    for (number, deed) in DEEDS.into_iter().enumerate() {
        let began = Instant::now();
        match fault::reached(&world, deed, &format!("m{number}")).await {
            Ok(points) => {
                for point in points {
                    reached.entry(point).or_default().insert(deed);
                }
                println!(
                    "{deed}: {:.1} s without a fault",
                    began.elapsed().as_secs_f32()
                );
            }
            Err(error) => {
                let mut cluster = world.cluster.lock().await;
                let (logs, size) = (cluster.keep_logs(), cluster.size.clone());
                drop(cluster);
                println!("{deed}: BROKEN without a fault: {error:#} ({logs})");
                broken.push(format!("{deed}: {error:#}"));
                drop(world);
                world = World::start(size).await.context("starting anew")?;
            }
        }
    }
    println!("{}", matrix::written(&reached));
    ensure!(
        broken.is_empty(),
        "broken without any fault:\n{}",
        broken.join("\n")
    );
    Ok((world, reached))
}

/// A test cannot choose which storage process gets a call: if the victim got none, the next one is
/// struck.
async fn strike_one(world: &World, fault: &Fault, number: usize) -> Result<Outcome> {
    let storages = match fault.victim.tier {
        Tier::Storage => world.cluster.lock().await.count(Tier::Storage),
        _ => 1,
    };
    let mut fault = fault.clone();
    for attempt in 0..storages {
        let outcome = fault::run(world, &fault, &format!("f{number}-{attempt}")).await?;
        if outcome != Outcome::NotReached {
            return Ok(outcome);
        }
        fault.victim.number = (fault.victim.number + 1) % storages;
    }
    Ok(Outcome::NotReached)
}

/// Runs all faults; a broken promise is noted, and the remaining faults run with a new cluster.
async fn strike(mut world: World, reached: &Reached, full: bool) -> Result<()> {
    let size = world.cluster.lock().await.size.clone();
    let only = std::env::var("SESTINA_FAULTS_ONLY").unwrap_or_default();
    let mut faults = matrix::faults(reached, full, count(&size));
    faults.retain(|fault| fault.to_string().contains(&only));
    if only.is_empty() && std::env::var(matrix::VARIABLE).is_err() {
        // Together with all other tests, a third of the matrix runs; `SESTINA_FAULTS=matrix` runs
        // the matrix, and `SESTINA_FAULTS=full` every point with every action.
        let mut number = 0;
        faults.retain(|_| {
            number += 1;
            number % 3 == 1
        });
    }
    let (mut broken, mut not_reached) = (Vec::new(), Vec::new());
    let mut stalls: Vec<Duration> = Vec::new();
    let all = faults.len();
    for (number, fault) in faults.iter().enumerate() {
        let began = Instant::now();
        match strike_one(&world, fault, number).await {
            Ok(Outcome::Held(stall)) => {
                let seconds = began.elapsed().as_secs_f32();
                println!(
                    "{}/{all} {fault}: held, {stall:.2?} until all stanzas had come, {seconds:.1} s",
                    number + 1
                );
                stalls.push(stall);
            }
            Ok(Outcome::NotReached) => {
                println!("{}/{all} {fault}: not reached", number + 1);
                not_reached.push(fault.to_string());
            }
            Err(error) => {
                let logs = world.cluster.lock().await.keep_logs();
                println!("{}/{all} {fault}: BROKEN: {error:#} ({logs})", number + 1);
                broken.push(format!("{fault}: {error:#}"));
                if broken.len() >= ENOUGH {
                    break;
                }
                drop(world);
                world = World::start(size.clone()).await.context("starting anew")?;
            }
        }
    }
    stalls.sort();
    if let (Some(median), Some(longest)) = (stalls.get(stalls.len() / 2), stalls.last()) {
        println!(
            "{} faults held; stalls: median {median:.2?}, longest {longest:.2?}",
            stalls.len()
        );
    }
    println!("not reached: {not_reached:?}");
    // A point that is reached without a fault, and not when it is armed, hides a gap.
    assert!(
        not_reached.len() * 10 <= all,
        "too many faults did not strike: {not_reached:#?}"
    );
    assert!(
        broken.is_empty(),
        "{} promises were broken:\n{}",
        broken.len(),
        broken.join("\n")
    );
    Ok(())
}

#[test]
fn what_was_acknowledged_survives_every_fault() {
    let full = std::env::var(matrix::VARIABLE).is_ok_and(|value| value == "full");
    crowd::run(async {
        let world = World::start(Size::default()).await.unwrap();
        let promised = matrix::read(PROMISED).unwrap();
        let (world, measured) = match std::env::var("SESTINA_FAULTS_ONLY") {
            Ok(_) => (world, promised.clone()),
            Err(_) => measure(world).await.unwrap(),
        };
        let missing = matrix::missing(&promised, &measured);
        assert!(
            missing.is_empty(),
            "points that are not reached any more: {missing:#?}\nnow:\n{}",
            matrix::written(&measured)
        );
        let chosen = if full { &measured } else { &promised };
        let chosen = if promised.is_empty() {
            &measured
        } else {
            chosen
        };
        strike(world, chosen, full).await.unwrap();
    });
}
