//! Clocks that are wrong for a while: a router's time of day jumps by more than a year and is
//! corrected. The order of messages does not depend on it, and messages after the correction have
//! the right time.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result, ensure};
use sestina_faults::client::Client;
use sestina_faults::cluster::{At, Size};
use sestina_faults::crowd::run;
use sestina_faults::deeds;
use sestina_faults::process::Tier;
use sestina_faults::wait::until;
use sestina_faults::world::{LIMIT, Part, Who, World};

const MAM: &str = "urn:xmpp:mam:2";

async fn set_clocks(world: &World, wrong: &str) -> Result<()> {
    let mut cluster = world.cluster.lock().await;
    for number in 0..cluster.count(Tier::Router) {
        cluster.clock(At::router(number))?.set(wrong)?;
    }
    Ok(())
}

/// Sends a message, and waits until it has come.
async fn say(from: &Client, to: &Client, id: &str) -> Result<()> {
    let heard = to.heard();
    from.send(format!(
        "<message type='chat' to='{}' id='{id}'><body>{id}</body></message>",
        to.jid()
    ))?;
    to.hears(id, heard, LIMIT, |log| {
        let found = log.iter().any(|h| h.element.attr("id") == Some(id));
        found.then_some(())
    })
    .await?;
    from.acknowledged(LIMIT).await
}

/// Id of the message and time of each row of an archive, in order.
async fn archive(client: &Client, query: &str) -> Result<Vec<(String, String)>> {
    let from = client.heard();
    client.send(format!(
        "<iq type='set' id='{query}'><query xmlns='{MAM}' queryid='{query}'/></iq>"
    ))?;
    client
        .hears("the page", from, LIMIT, |log| {
            let end = log.iter().any(|h| h.element.attr("id") == Some(query));
            end.then_some(())
        })
        .await?;
    let rows = client.log(from).into_iter().filter_map(|heard| {
        let result = heard.element.child("result", MAM)?.clone();
        let forwarded = result.child("forwarded", "urn:xmpp:forward:0")?;
        let stamp = forwarded.child("delay", "urn:xmpp:delay")?.attr("stamp")?;
        let message = forwarded.child("message", "jabber:client")?;
        Some((message.attr("id")?.to_owned(), stamp.to_owned()))
    });
    Ok(rows.collect())
}

fn day(row: &(String, String)) -> &str {
    row.1.get(..10).unwrap_or_default()
}

/// The day of the newest row, once the archive has that many rows.
async fn last_day(client: &Client, count: usize) -> Result<String> {
    static QUERIES: AtomicU64 = AtomicU64::new(0);
    let rows = until("the row is there", LIMIT, async || {
        let query = format!("q{}", QUERIES.fetch_add(1, Ordering::Relaxed));
        match archive(client, &query).await {
            Ok(rows) if rows.len() == count => Ok(rows),
            seen => Err(format!("{seen:?}")),
        }
    })
    .await?;
    Ok(rows.last().map(day).unwrap_or_default().to_owned())
}

async fn a_jump_is_over_when_it_is_corrected() -> Result<()> {
    let world = World::start(Size {
        clocks: true,
        ..Size::default()
    })
    .await?;
    let one = |group| Who {
        group,
        part: Part::One,
    };
    let (from, to) = (world.client(one(1)), world.client(one(0)));
    let mut said = 1;
    say(from, to, "m1").await?;
    let today = last_day(to, said).await?;
    set_clocks(&world, "+400d").await?;
    // Routers read the clock at intervals.
    let ahead = loop {
        said += 1;
        say(from, to, &format!("m{said}")).await?;
        if last_day(to, said).await? > today {
            break said;
        }
    };
    set_clocks(&world, "+0").await?;
    loop {
        said += 1;
        say(from, to, &format!("m{said}")).await?;
        if last_day(to, said).await? == today {
            break;
        }
    }
    let corrected = said;
    // A new owner does not take the time of the newest row in the archive for the present time
    // either.
    let mut cluster = world.cluster.lock().await;
    cluster.process(At::router(0)).kill();
    cluster.process(At::router(0)).start_again()?;
    cluster.redundant(LIMIT).await?;
    drop(cluster);
    said += 1;
    say(from, to, &format!("m{said}")).await?;
    deeds::ping(to).await?;
    let rows = archive(to, "all").await?;
    println!("wrong from {ahead} on, right again from {corrected} on: {rows:?}");
    let ids: Vec<&str> = rows.iter().map(|(id, _)| id.as_str()).collect();
    let expected: Vec<String> = (1..=said).map(|n| format!("m{n}")).collect();
    ensure!(ids == expected, "the archive's order is {ids:?}");
    ensure!(
        day(&rows[said - 1]) == today,
        "{:?} is not from today",
        rows[said - 1]
    );
    world.cluster.lock().await.redundant(LIMIT).await
}

#[test]
fn a_clock_that_was_wrong_falsifies_only_what_came_meanwhile() {
    let done = run(a_jump_is_over_when_it_is_corrected());
    done.context("a jump of the clock").unwrap();
}
