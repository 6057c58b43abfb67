//! The network between routers and Redis is late: writes that their owner has given up arrive after
//! the writes that replaced them; and many bytes are to be stored at once.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sestina_faults::client::{Client, Heard, message_ids};
use sestina_faults::cluster::{At, Size};
use sestina_faults::crowd::run;
use sestina_faults::deeds;
use sestina_faults::link::Link;
use sestina_faults::wait::until;
use sestina_faults::world::{LIMIT, Part, Who, World};

const ROUTER: At = At::router(0);

/// How long to wait for a message that is lost: longer than it takes to send it again.
const MISSED: Duration = Duration::from_secs(10);

async fn world(mutations: &str) -> Result<(World, Link)> {
    let size = Size {
        link: true,
        mutations: mutations.to_owned(),
        ..Size::default()
    };
    let world = World::start(size).await?;
    let link = world.cluster.lock().await.link.clone();
    Ok((world, link.context("a link was asked for")?))
}

fn part(world: &World, group: usize, part: Part) -> &Client {
    world.client(Who { group, part })
}

fn say(from: &Client, to: &str, id: &str, body: &str) -> Result<()> {
    from.send(format!(
        "<message type='chat' to='{to}' id='{id}'><body>{body}</body></message>"
    ))
}

/// Checks that a client gets exactly these messages of those with that prefix, in order. A message
/// that was not settled when an owner died is sent again by its sender's owner, and may come after
/// the answer to a ping.
async fn hears(
    client: &Client,
    from: usize,
    prefix: &str,
    ids: &[String],
    limit: Duration,
) -> Result<()> {
    let heard = |log: &[Heard]| message_ids(log, prefix, |_| true);
    let all = |log: &[Heard]| (heard(log).len() >= ids.len()).then_some(());
    // If messages are missing, the comparison below shows which.
    client.hears("all messages", from, limit, all).await.ok();
    deeds::ping(client).await?;
    let heard = heard(&client.log(from));
    ensure!(heard == ids, "heard {heard:?} instead of {ids:?}");
    Ok(())
}

/// The router of a session without a socket dies, and the session is resumed.
async fn owner_dies(world: &World, who: Who) -> Result<()> {
    let mut cluster = world.cluster.lock().await;
    cluster.process(ROUTER).kill();
    cluster.process(ROUTER).start_again()?;
    drop(cluster);
    world.client(who).go(world.home(who))?;
    world.client(who).connected(LIMIT).await?;
    world.client(who).kept_its_session()
}

/// Waits until no router has an open operation: then no live owner sends these messages again.
async fn settled(world: &World) -> Result<()> {
    until("all is settled", LIMIT, async || {
        let mut cluster = world.cluster.lock().await;
        let status = cluster.process(ROUTER).ask("status", "").await;
        let status = status.map_err(|error| error.to_string())?;
        let routers = status["routers"].as_array().cloned().unwrap_or_default();
        let open = routers.iter().map(|r| r["counts"]["operations"].as_u64());
        match open.sum::<Option<u64>>() {
            Some(0) => Ok(()),
            open => Err(format!("{open:?} operations are open")),
        }
    })
    .await
}

/// A session loses its socket while no bytes pass between routers and Redis: the write of the
/// session is under way. Its router gives that write up and writes anew, messages come for the
/// session, all of them are acknowledged, and the cluster is redundant. Then the older write
/// arrives, and the router dies: no acknowledged message is lost.
async fn an_older_write_arrives_last(mutations: &str, limit: Duration) -> Result<()> {
    let (world, link) = world(mutations).await?;
    let who = Who {
        group: 0,
        part: Part::Other,
    };
    let (away, from) = (world.client(who), part(&world, 1, Part::One));
    let (to, heard) = (away.jid(), away.heard());
    let ids: Vec<String> = (1..=5).map(|n| format!("late-{n}")).collect();
    link.cut();
    away.away()?;
    let keeper = link.keeps(&to).await?;
    link.given_up(&keeper).await?;
    link.heal();
    for id in &ids {
        say(from, &to, id, "hello")?;
    }
    from.acknowledged(LIMIT).await?;
    world.cluster.lock().await.redundant(LIMIT).await?;
    settled(&world).await?;
    let bytes = link.arrive_late().await?;
    println!("{bytes} bytes came late");
    owner_dies(&world, who).await?;
    hears(away, heard, "late-", &ids, limit).await?;
    world.cluster.lock().await.redundant(LIMIT).await
}

/// Sessions with megabytes of unacknowledged messages lose their sockets at the same time: no
/// command to Redis is large, all messages are stored, and none is lost when their router dies.
async fn much_is_stored_in_small_parts() -> Result<()> {
    const MESSAGES: usize = 25;
    const BYTES: usize = 100_000;
    /// Far below a size that would block Redis; a part of a commit is 256 KiB.
    const COMMAND: usize = 1 << 20;
    let (world, link) = world("").await?;
    let body = "x".repeat(BYTES);
    let from = part(&world, 1, Part::One);
    let parts = [Part::Other, Part::Guest];
    let mut expected = Vec::new();
    for part in parts {
        let who = Who { group: 0, part };
        let client = world.client(who);
        expected.push((who, client.heard()));
        client.away()?;
    }
    world.cluster.lock().await.redundant(LIMIT).await?;
    link.largest();
    for (who, _) in &expected {
        let to = world.client(*who).jid();
        for n in 0..MESSAGES {
            say(from, &to, &format!("much-{n}"), &body)?;
        }
        from.acknowledged(LIMIT).await?;
    }
    world.cluster.lock().await.redundant(2 * LIMIT).await?;
    let largest = link.largest();
    println!("the largest command has {largest} bytes");
    ensure!(
        largest > BYTES && largest < COMMAND,
        "a command of {largest} bytes"
    );
    let mut cluster = world.cluster.lock().await;
    cluster.process(ROUTER).kill();
    cluster.process(ROUTER).start_again()?;
    drop(cluster);
    let ids: Vec<String> = (0..MESSAGES).map(|n| format!("much-{n}")).collect();
    for (who, heard) in &expected {
        let client = world.client(*who);
        client.go(world.home(*who))?;
        client.connected(LIMIT).await?;
        hears(client, *heard, "much-", &ids, LIMIT).await?;
    }
    Ok(())
}

#[test]
fn a_write_that_was_given_up_and_arrives_last_changes_nothing() {
    run(an_older_write_arrives_last("", LIMIT)).unwrap();
}

#[test]
fn the_order_of_writes_is_missed() {
    let lost = run(an_older_write_arrives_last("write-order", MISSED)).unwrap_err();
    let lost = format!("{lost:#}");
    assert!(lost.contains("instead of"), "{lost}");
}

#[test]
fn many_bytes_are_stored_in_small_parts() {
    run(much_is_stored_in_small_parts()).unwrap();
}
