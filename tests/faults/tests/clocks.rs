//! Clocks that are wrong for a while: a router's time of day jumps by more than a year and is corrected.
//! Order does not depend on it, and what comes after the correction has the right time.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use anyhow::{Context, Result, ensure};
use sestina_faults::client::Client;
use sestina_faults::cluster::{At, Size};
use sestina_faults::deeds;
use sestina_faults::process::Tier;
use sestina_faults::world::{LIMIT, Part, Who, World};

const MAM: &str = "urn:xmpp:mam:2";

fn router(number: usize) -> At {
    At {
        tier: Tier::Router,
        number,
    }
}

async fn set_clocks(world: &World, wrong: &str) -> Result<()> {
    let mut cluster = world.cluster.lock().await;
    for number in 0..cluster.count(Tier::Router) {
        cluster.clock(router(number))?.set(wrong)?;
    }
    Ok(())
}

/// Says something, and waits until it was heard.
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
    say(from, to, "before").await?;
    set_clocks(&world, "+400d").await?;
    say(from, to, "ahead").await?;
    set_clocks(&world, "+0").await?;
    say(from, to, "after").await?;
    // A new owner does not go by what the archive holds either.
    let mut cluster = world.cluster.lock().await;
    cluster.process(router(0)).kill();
    cluster.process(router(0)).start_again()?;
    cluster.whole(LIMIT).await?;
    drop(cluster);
    say(from, to, "with a new owner").await?;
    deeds::ping(to).await?;
    let rows = archive(to, "q").await?;
    println!("{rows:?}");
    let ids: Vec<&str> = rows.iter().map(|(id, _)| id.as_str()).collect();
    ensure!(
        ids == ["before", "ahead", "after", "with a new owner"],
        "the archive's order is {ids:?}"
    );
    let day = |row: usize| rows[row].1.get(..10).unwrap_or_default().to_owned();
    let wrong = day(1);
    for row in [0, 2, 3] {
        ensure!(day(row) < wrong, "{:?} is not from today", rows[row]);
    }
    world.cluster.lock().await.whole(LIMIT).await
}

#[test]
fn a_clock_that_was_wrong_falsifies_only_what_came_meanwhile() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let done = runtime.block_on(a_jump_is_over_when_it_is_corrected());
    done.context("a jump of the clock").unwrap();
}
