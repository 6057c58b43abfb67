//! Tests notice when a guard is missing: with the guard switched off, the faults against which it
//! protects break a promise. With all guards on, the same faults break none.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use sestina_api::store::Stores;
use sestina_cluster::slots::slot_of_bare;
use sestina_faults::cluster::{At, Size};
use sestina_faults::crowd::run;
use sestina_faults::deeds::{self, Deed};
use sestina_faults::fault::{self, Blow, Fault, Outcome};
use sestina_faults::matrix::tier_of;
use sestina_faults::world::{LIMIT, Part, Who, World};
use sestina_proto as proto;

/// A fault against which a guard protects.
fn fault(blow: Blow, point: &str, deed: Deed) -> Fault {
    let victim = At {
        tier: tier_of(point),
        number: 0,
    };
    Fault {
        point: point.to_owned(),
        deed,
        blow,
        victim,
    }
}

/// The broken promise, if there is one.
async fn broken(mutation: &str, faults: &[Fault]) -> Result<Option<String>> {
    let size = Size {
        mutations: mutation.to_owned(),
        ..Size::default()
    };
    let world = World::start(size).await?;
    for (number, fault) in faults.iter().enumerate() {
        // The victims take turns, because a restarted router gets its slots only after a while.
        let mut fault = fault.clone();
        fault.victim.number = number;
        match fault::run(&world, &fault, &format!("x{number}")).await {
            Ok(Outcome::Held(_)) => {}
            Ok(Outcome::NotReached) => anyhow::bail!("{fault}: not reached"),
            Err(error) => return Ok(Some(format!("{fault}: {error:#}"))),
        }
    }
    Ok(None)
}

/// The faults hold with all guards, and one of them breaks a promise without this one.
fn is_missed(mutation: &str, faults: &[Fault]) {
    run(async {
        let guarded = broken("", faults).await?;
        ensure!(guarded.is_none(), "with all guards on: {guarded:?}");
        let found = broken(mutation, faults).await?;
        println!("without {mutation}: {found:?}");
        ensure!(found.is_some(), "no test misses the guard {mutation}");
        Ok(())
    })
    .unwrap();
}

#[test]
fn the_tail_of_a_room_is_missed() {
    is_missed(
        "event-log",
        &[fault(
            Blow::Kill,
            "router.room_committed",
            Deed::RoomMessage,
        )],
    );
}

#[test]
fn dropping_by_key_is_missed() {
    is_missed(
        "dedupe",
        &[
            fault(Blow::Kill, "router.message_done", Deed::Chat),
            fault(Blow::Kill, "router.settled", Deed::Chat),
        ],
    );
}

/// Whether a late write of a router that was replaced takes effect.
async fn late_write_counts(mutation: &str) -> Result<bool> {
    let size = Size {
        mutations: mutation.to_owned(),
        ..Size::default()
    };
    let world = World::start(size).await?;
    let replaced = fault(Blow::Suspend, "router.message_received", Deed::Chat);
    let outcome = fault::run(&world, &replaced, "late").await?;
    ensure!(outcome != Outcome::NotReached, "{replaced}: not reached");
    let user = world
        .client(Who {
            group: 0,
            part: Part::One,
        })
        .bare();
    let slot = slot_of_bare(&user);
    let stores = world.cluster.lock().await.stores()?;
    let table = stores
        .slot_table(proto::SlotTableRequest::default())
        .await?;
    let epochs = table.map.unwrap_or_default().epochs;
    let epoch = epochs.get(usize::from(slot)).copied().unwrap_or(0);
    ensure!(epoch > 1, "slot {slot} has not changed hands");
    let row = proto::ArchiveRow {
        fence: Some(proto::Fence {
            slot: u32::from(slot),
            epoch: epoch - 1,
        }),
        archive: user,
        epoch: epoch - 1,
        counter: 1 << 40,
        stanza_id: vec![7; 16].into(),
        at_ms: 1,
        with_bare: "late@example.org".to_owned(),
        stanza: Some(proto::Stanza::default()),
        ..proto::ArchiveRow::default()
    };
    let reply = stores
        .archive_append(proto::ArchiveAppendRequest { rows: vec![row] })
        .await?;
    Ok(!reply.fenced_slots.contains(&u32::from(slot)))
}

#[test]
fn epochs_are_missed() {
    run(async {
        ensure!(
            !late_write_counts("").await?,
            "a write of an older epoch counts"
        );
        ensure!(
            late_write_counts("epoch").await?,
            "no test misses the guard epoch"
        );
        Ok(())
    })
    .unwrap();
}

/// How long all promises must hold with all guards on: many times as long as a frame takes.
const AFTERWARDS: Duration = Duration::from_secs(1);

/// A session is resumed on another edge, and the older edge does not learn of it before its own
/// connection to the client ends. So it reports, late, that the session has lost its socket.
/// Returns the connection that breaks because of that within `limit`, if one does.
async fn late_close(mutation: &str, limit: Duration) -> Result<Option<String>> {
    let size = Size {
        mutations: mutation.to_owned(),
        ..Size::default()
    };
    let world = World::start(size).await?;
    let who = Who {
        group: 0,
        part: Part::One,
    };
    let (client, old) = (world.client(who), world.home(who));
    let older = At::edge(old);
    let point = "edge.session_left";
    world.arm(older, &format!("{point}=error")).await?;
    let new = (old + 1) % world.ports().len();
    client.roam(new)?;
    client.arrived(new, LIMIT).await?;
    let end = Instant::now() + limit;
    while Instant::now() < end {
        deeds::ping(client).await?;
        if let Some(broken) = client.broken().first() {
            return Ok(Some(broken.how.clone()));
        }
    }
    let hits = world.cluster.lock().await.hits(older).await?;
    let missed = hits.iter().any(|(name, hits)| name == point && *hits > 0);
    ensure!(missed, "the older edge was not told anything");
    Ok(None)
}

#[test]
fn generations_are_missed() {
    run(async {
        let broken = late_close("", AFTERWARDS).await?;
        ensure!(broken.is_none(), "with all guards on: {broken:?}");
        let broken = late_close("generation", LIMIT).await?;
        println!("without generation: {broken:?}");
        ensure!(broken.is_some(), "no test misses the guard generation");
        Ok(())
    })
    .unwrap();
}

/// How many slots each router owns, by name and incarnation.
async fn owners(world: &World) -> Result<Vec<(String, String, u64)>> {
    let slots = world.cluster.lock().await.slot_table().await?;
    let routers = slots["routers"].as_array().cloned().unwrap_or_default();
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    Ok(routers
        .iter()
        .map(|r| {
            (
                text(&r["name"]),
                text(&r["incarnation"]),
                r["slots"].as_u64().unwrap_or(0),
            )
        })
        .collect())
}

/// Redis loses the lease of one router, and storage has it: no slot moves.
async fn forgotten_by_redis(mutation: &str, limit: Duration) -> Result<bool> {
    let size = Size {
        mutations: mutation.to_owned(),
        ..Size::default()
    };
    let world = World::start(size).await?;
    let before = owners(&world).await?;
    let port = world.cluster.lock().await.redis.lock().port()?;
    let end = Instant::now() + limit;
    while Instant::now() < end {
        // The lease is deleted a few times per second, so almost every round of the planner misses
        // it.
        tokio::task::spawn_blocking(move || {
            // The key begins with the cluster's id.
            let delete = "for _, key in ipairs(redis.call('KEYS', '*{lease}:h:router-3')) do \
                          redis.call('DEL', key) end return 1";
            sestina_testkit::command(port, &["EVAL", delete, "0"])
        })
        .await??;
        tokio::time::sleep(Duration::from_millis(20)).await;
        if owners(&world).await.is_ok_and(|now| now != before) {
            return Ok(true);
        }
    }
    Ok(false)
}

#[test]
fn the_second_authority_is_missed() {
    run(async {
        ensure!(
            !forgotten_by_redis("", Duration::from_secs(4)).await?,
            "slots moved although storage knew their owners"
        );
        ensure!(
            forgotten_by_redis("two-authorities", Duration::from_secs(20)).await?,
            "no test misses the guard two-authorities"
        );
        Ok(())
    })
    .unwrap();
}
