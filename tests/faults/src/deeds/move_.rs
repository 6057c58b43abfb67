//! Sessions that change edges, and slots that change routers.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::{Gate, Scene, Talked, expect, plain_ids, talk};
use crate::cluster::At;
use crate::process::Seen;
use crate::world::{LIMIT, Part, Who, World};

const TIMES: usize = 3;

pub(super) async fn resume(world: &World, scene: &Scene, gate: &Gate<'_>) -> Result<Vec<Talked>> {
    let tag = format!("{}-resume", scene.tag);
    let client = |group, part| world.client(Who { group, part });
    let before: Vec<usize> = scene
        .both()
        .iter()
        .map(|(group, _)| client(*group, Part::One).heard())
        .collect();
    gate.open().await?;
    for (group, _) in scene.both() {
        client(group, Part::One).away()?;
    }
    let ids = |group: usize| {
        (1..=TIMES)
            .map(|n| format!("{tag}-{group}-{n}"))
            .collect::<Vec<_>>()
    };
    for (group, other) in scene.both() {
        let to = client(group, Part::One).jid();
        for id in ids(group) {
            client(other, Part::Other).send(format!(
                "<message type='chat' to='{to}' id='{id}'><body>{id}</body></message>"
            ))?;
        }
    }
    // A client could resume before the state store has its session, so the test waits for that.
    gate.counted("router.detached_stored").await?;
    for (group, other) in scene.both() {
        client(other, Part::Other).acknowledged(LIMIT).await?;
        // One client resumes on its own edge, the other there too: for that one it is another edge.
        let edge = world.home(Who {
            group: scene.me,
            part: Part::One,
        });
        client(group, Part::One).go(edge)?;
    }
    for ((group, _), from) in scene.both().into_iter().zip(before) {
        let own = client(group, Part::One);
        expect(
            own,
            "messages sent while the session was unavailable",
            from,
            &ids(group),
            |log| plain_ids(log, &format!("{tag}-{group}-"), "chat"),
        )
        .await?;
        talk::ping(own).await?;
    }
    // Once more while the older connection still exists.
    for (group, _) in scene.both() {
        let own = client(group, Part::One);
        let edge = (own.connected(LIMIT).await? + 1) % world.ports().len();
        own.roam(edge)?;
        own.arrived(edge, LIMIT).await?;
        talk::ping(own).await?;
    }
    Ok(Vec::new())
}

pub(super) async fn hand_over(
    world: &World,
    scene: &Scene,
    gate: &Gate<'_>,
    leaver: usize,
) -> Result<Vec<Talked>> {
    let at = At::router(leaver);
    gate.open().await?;
    world.cluster.lock().await.process(at).drain();
    let quiet = Gate {
        world,
        arms: Vec::new(),
    };
    let during = Scene {
        tag: format!("{}-move", scene.tag),
        ..scene.clone()
    };
    let talked = talk::chat(world, &during, &quiet).await?;
    let end = std::time::Instant::now() + Duration::from_secs(60);
    loop {
        let seen = world.cluster.lock().await.process(at).seen()?;
        match seen {
            Seen::Running => {}
            // The fault itself.
            Seen::Killed | Seen::Suspended if at == scene.victim => return Ok(talked),
            Seen::Ended => break,
            other => anyhow::bail!("the router that was asked to leave is {other:?}"),
        }
        ensure!(std::time::Instant::now() < end, "a router does not leave");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    world.cluster.lock().await.process(at).start_again()?;
    Ok(talked)
}
