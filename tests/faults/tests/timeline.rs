//! The database loses commits: tables of the cluster are as they were before slots moved, as when a
//! standby that lagged is promoted. No slot and no session is lost, and slots can move again.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use anyhow::{Context, Result, ensure};
use sestina_faults::client::Client;
use sestina_faults::cluster::{At, Size};
use sestina_faults::crowd::run;
use sestina_faults::deeds;
use sestina_faults::wait::until;
use sestina_faults::world::{LIMIT, World};

/// Sessions beside those of the world.
const MORE: usize = 28;
/// The tables that are put back.
const TABLES: [&str; 5] = ["slot_table", "slot_history", "planner", "lease", "slot"];
/// How often a change of the tables is tried: processes change them too.
const TRIES: usize = 20;

/// The present content of the tables.
async fn keep(world: &World) -> Result<Vec<String>> {
    let cluster = world.cluster.lock().await;
    let there = cluster.sql("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")?;
    let there: Vec<&str> = there.lines().collect();
    let tables = TABLES.into_iter().filter(|table| there.contains(table));
    let tables: Vec<String> = tables.map(str::to_owned).collect();
    let copies = tables
        .iter()
        .map(|table| format!("CREATE TABLE kept_{table} AS TABLE {table};"));
    cluster.sql(&copies.collect::<String>())?;
    Ok(tables)
}

/// Restores the tables, in one transaction.
async fn put_back(world: &World, tables: &[String]) -> Result<()> {
    let mut sql = format!("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE;", tables.join(", "));
    for table in tables {
        sql += &format!("DELETE FROM {table}; INSERT INTO {table} SELECT * FROM kept_{table};");
    }
    let cluster = world.cluster.lock().await;
    let mut done = cluster.sql(&sql);
    for _ in 1..TRIES {
        if done.is_ok() {
            break;
        }
        done = cluster.sql(&sql);
    }
    done.map(drop)
}

async fn number(world: &World, sql: &str) -> Result<u64> {
    let text = world.cluster.lock().await.sql(sql)?;
    text.trim()
        .parse()
        .with_context(|| format!("{sql}: {text}"))
}

/// Each client sends a message to the next one and pings the server, and the messages are archived.
async fn all_talk(world: &World, clients: &[&Client], tag: &str) -> Result<()> {
    const ROWS: &str = "SELECT count(*) FROM archive_key";
    let rows = number(world, ROWS).await?;
    let heard: Vec<usize> = clients.iter().map(|client| client.heard()).collect();
    for (index, client) in clients.iter().enumerate() {
        let to = clients[(index + 1) % clients.len()].jid();
        client.send(format!(
            "<message type='chat' to='{to}' id='{tag}-{index}'><body>{tag}</body></message>"
        ))?;
    }
    for (index, client) in clients.iter().enumerate() {
        let from = (index + clients.len() - 1) % clients.len();
        let id = format!("{tag}-{from}");
        client
            .hears(&id, heard[index], LIMIT, |log| {
                let mut log = log.iter();
                log.find(|heard| heard.element.attr("id") == Some(&id))
                    .map(drop)
            })
            .await?;
        deeds::ping(client).await?;
    }
    // A message of a user to one of their own sessions is archived once.
    let own = |index: &usize| clients[*index].bare() == clients[(index + 1) % clients.len()].bare();
    let own = (0..clients.len()).filter(own).count();
    let wanted = rows + (2 * clients.len() - own) as u64;
    until("all is archived", LIMIT, async || {
        match number(world, ROWS).await {
            Ok(rows) if rows >= wanted => Ok(()),
            rows => Err(format!("{rows:?} of {wanted}")),
        }
    })
    .await
    .with_context(|| tag.to_owned())
}

async fn loses_commits() -> Result<()> {
    let world = World::start(Size::default()).await?;
    let names: Vec<String> = (0..MORE).map(|n| format!("more{n}")).collect();
    world.cluster.lock().await.add_users(&names).await?;
    let mut more = Vec::new();
    for (number, user) in names.iter().enumerate() {
        let client = Client::login(user, "one", number % 3, world.ports()).await?;
        client.send("<presence/>")?;
        more.push(client);
    }
    let mut clients: Vec<&Client> = world.clients().collect();
    clients.extend(&more);
    // All slots are at their rendezvous owners before the router moves, and no other slots move
    // meanwhile.
    all_talk(&world, &clients, "before").await?;
    let tables = keep(&world).await?;
    {
        let mut cluster = world.cluster.lock().await;
        cluster.process(At::router(0)).drain();
        cluster.process(At::router(0)).ended(2 * LIMIT).await?;
        cluster.process(At::router(0)).start_again()?;
        cluster.redundant(2 * LIMIT).await?;
    }
    all_talk(&world, &clients, "moved").await?;
    put_back(&world, &tables).await?;
    println!("the tables are as they were");
    all_talk(&world, &clients, "after").await?;
    for (number, user) in names.iter().enumerate() {
        Client::login(user, "two", number % 3, world.ports()).await?;
    }
    let timeline = number(&world, "SELECT timeline FROM slot_table").await?;
    ensure!(timeline == 2, "the table is on timeline {timeline}");
    world.cluster.lock().await.redundant(2 * LIMIT).await?;
    for client in &clients {
        client.kept_its_connection()?;
    }
    // The slots of a router that dies are taken over, and it gets some again.
    {
        let mut cluster = world.cluster.lock().await;
        cluster.process(At::router(1)).kill();
        cluster.process(At::router(1)).start_again()?;
        let redundant = cluster.redundant(2 * LIMIT).await;
        redundant.context("with a router that started again")?;
    }
    all_talk(&world, &clients, "again").await?;
    for client in &clients {
        client.kept_its_session()?;
    }
    Ok(())
}

#[test]
fn a_standby_that_lagged_is_promoted() {
    run(loses_commits()).unwrap();
}
