//! The sudden death of a process, and unavailable stores, while clients talk.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use sestina_scenarios::client::{Client, Login};
use sestina_scenarios::traffic::{Group, Report, Talker, one_order};
use sestina_scenarios::{Sandbox, Topology, report};
use sestina_xmpp::ns;
use tokio::sync::Mutex;

/// The tests measure time, so they run one after the other.
static ONE: Mutex<()> = Mutex::const_new(());

const PAIRS: usize = 4;
const ROOMS: usize = 2;
const OCCUPANTS: usize = 3;
/// How long clients talk before and after the fault.
const BEFORE: Duration = Duration::from_millis(1500);
const AFTER: Duration = Duration::from_secs(2);
/// A dead router's sessions and rooms are served again in five seconds; debug builds on a busy
/// machine get more time.
const ROUTER_BUDGET: Duration = Duration::from_secs(8);

struct World {
    sandbox: Sandbox,
    chats: Vec<Group>,
    rooms: Vec<Group>,
}

/// A server with pairs that chat and rooms. `edge`: all clients use this edge and, if it dies,
/// resume on the other.
async fn world(edge: Option<usize>) -> Result<World> {
    let sandbox = Sandbox::start(Topology::ThreeTiers).await?;
    let mut chats = Vec::new();
    let mut rooms = Vec::new();
    for pair in 0..PAIRS {
        let names = [format!("a{pair}"), format!("b{pair}")];
        let mut clients = Vec::new();
        for (side, name) in names.iter().enumerate() {
            sandbox.add_user(name).await?;
            let login = Login::new(name, "x").managed();
            let at = edge.unwrap_or(pair + side);
            let mut client = Client::login(name, &sandbox.entrance(at)?, &login).await?;
            client.send("<presence/>").await?;
            client.expect_named("presence", ns::CLIENT).await?;
            clients.push((client, login));
        }
        let jids: Vec<String> = clients.iter().map(|(c, _)| c.jid().to_owned()).collect();
        let mut talkers = Vec::new();
        for ((client, login), to) in clients.into_iter().zip(jids.into_iter().rev()) {
            talkers.push(Talker {
                client,
                login,
                other_way: other_way(&sandbox, edge)?,
                to,
                kind: "chat",
            });
        }
        chats.push(Group::start(talkers, false));
    }
    for room in 0..ROOMS {
        let address = format!("room{room}@{}", sestina_scenarios::sandbox::ROOMS);
        let mut inside: Vec<(Client, Login)> = Vec::new();
        for occupant in 0..OCCUPANTS {
            let name = format!("r{room}o{occupant}");
            sandbox.add_user(&name).await?;
            let login = Login::new(&name, "x").managed();
            let at = edge.unwrap_or(occupant);
            let mut client = Client::login(&name, &sandbox.entrance(at)?, &login).await?;
            let muc = ns::MUC;
            client
                .send(&format!(
                    "<presence to='{address}/{name}'><x xmlns='{muc}'/></presence>"
                ))
                .await?;
            // The subject is the last stanza that a newcomer gets.
            client
                .until("the subject", |e| e.child("subject", ns::CLIENT).is_some())
                .await?;
            for (other, _) in &mut inside {
                other.expect_named("presence", ns::CLIENT).await?;
            }
            inside.push((client, login));
        }
        let mut talkers = Vec::new();
        for (client, login) in inside {
            talkers.push(Talker {
                client,
                login,
                other_way: other_way(&sandbox, edge)?,
                to: address.clone(),
                kind: "groupchat",
            });
        }
        rooms.push(Group::start(talkers, true));
    }
    Ok(World {
        sandbox,
        chats,
        rooms,
    })
}

fn other_way(
    sandbox: &Sandbox,
    edge: Option<usize>,
) -> Result<Option<sestina_scenarios::client::Entrance>> {
    edge.map(|edge| sandbox.entrance(edge + 1)).transpose()
}

impl World {
    async fn talk(&mut self, time: Duration) -> Result<()> {
        tokio::time::sleep(time).await;
        for group in self.chats.iter_mut().chain(&mut self.rooms) {
            group.alive().await?;
        }
        Ok(())
    }

    /// Checks that all messages were received once and in order, that archives agree, and that no
    /// occupant joined or left. Returns the longest time without a message since then.
    async fn check(self, what: &str, since: Instant) -> Result<(Sandbox, Duration)> {
        let mut longest = Duration::ZERO;
        let mut resumed: Vec<Duration> = Vec::new();
        let mut heard = 0;
        let mut note = |report: &Report| {
            longest = longest.max(report.longest_silence(since));
            resumed.extend(&report.resumed);
            heard += report.heard.len();
        };
        for group in self.chats {
            let mut pair = group.finish().await?;
            for (me, other) in [(0, 1), (1, 0)] {
                let (from, sent) = (pair[other].client.jid().to_owned(), pair[other].sent);
                pair[me].heard_all_of(&from, sent)?;
                nobody_came_or_went(&pair[me])?;
                note(&pair[me]);
            }
            for report in &mut pair {
                report.archive_is_what_it_heard().await?;
            }
        }
        for group in self.rooms {
            let inside = group.finish().await?;
            one_order(&inside)?;
            for report in &inside {
                for other in &inside {
                    let end = format!("/{}", other.client.name());
                    let said = report.heard.iter().find(|s| s.from.ends_with(&end));
                    let from = said.map_or(end.clone(), |s| s.from.clone());
                    report.heard_all_of(&from, other.sent)?;
                }
                nobody_came_or_went(report)?;
                note(report);
            }
        }
        resumed.sort();
        print(&format!(
            "scenario={what} heard={heard} longest_silence_ms={} resumed={} slowest_resume_ms={}",
            longest.as_millis(),
            resumed.len(),
            resumed.last().map_or(0, Duration::as_millis)
        ));
        Ok((self.sandbox, longest))
    }
}

fn nobody_came_or_went(report: &Report) -> Result<()> {
    let seen = report.presences.first();
    ensure!(
        seen.is_none(),
        "{} saw an occupant join or leave: {seen:?}\n{}",
        report.client.name(),
        report.client.transcript()
    );
    Ok(())
}

#[allow(clippy::print_stdout)]
fn print(text: &str) {
    println!("{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_happens() -> Result<()> {
    let _one = ONE.lock().await;
    let mut world = world(None).await?;
    let since = Instant::now();
    world.talk(BEFORE).await?;
    let (sandbox, _) = world.check("nothing", since).await?;
    report(Topology::ThreeTiers, 1);
    sandbox.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_router_is_killed() -> Result<()> {
    let _one = ONE.lock().await;
    for victim in 0..2 {
        let mut world = world(None).await?;
        world.talk(BEFORE).await?;
        let killed = Instant::now();
        world.sandbox.tiers()?.kill_router(victim);
        world.sandbox.redundant(Duration::from_secs(30)).await?;
        let redundant = killed.elapsed();
        world.talk(AFTER).await?;
        let (sandbox, silence) = world
            .check(&format!("router-{victim}-killed"), killed)
            .await?;
        print(&format!(
            "router killed: every slot served again after {} ms",
            redundant.as_millis()
        ));
        ensure!(silence < ROUTER_BUDGET, "silence of {silence:?}");
        sandbox.stop().await?;
    }
    report(Topology::ThreeTiers, 2);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_router_is_drained() -> Result<()> {
    let _one = ONE.lock().await;
    let mut world = world(None).await?;
    world.talk(BEFORE).await?;
    let began = Instant::now();
    let drained = world
        .sandbox
        .tiers()?
        .drain_router(0, Duration::from_secs(60))
        .await?;
    ensure!(drained, "slots were left");
    let took = began.elapsed();
    world.sandbox.redundant(Duration::from_secs(30)).await?;
    world.talk(AFTER).await?;
    let (sandbox, _) = world.check("router-drained", began).await?;
    print(&format!("router drained in {} ms", took.as_millis()));
    report(Topology::ThreeTiers, 1);
    sandbox.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_router_is_added() -> Result<()> {
    let _one = ONE.lock().await;
    let mut world = world(None).await?;
    world.talk(BEFORE).await?;
    let began = Instant::now();
    world.sandbox.tiers()?.add_router().await?;
    world.sandbox.redundant(Duration::from_secs(60)).await?;
    let took = began.elapsed();
    world.talk(AFTER).await?;
    let (sandbox, _) = world.check("router-added", began).await?;
    print(&format!(
        "a third router had its share after {} ms",
        took.as_millis()
    ));
    report(Topology::ThreeTiers, 1);
    sandbox.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edge_is_killed() -> Result<()> {
    let _one = ONE.lock().await;
    let mut world = world(Some(0)).await?;
    world.talk(BEFORE).await?;
    let killed = Instant::now();
    world.sandbox.tiers()?.kill_edge(0);
    world.talk(AFTER).await?;
    let (sandbox, _) = world.check("edge-killed", killed).await?;
    report(Topology::ThreeTiers, 1);
    sandbox.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_is_away_for_a_while() -> Result<()> {
    let _one = ONE.lock().await;
    let mut world = world(None).await?;
    world.talk(BEFORE).await?;
    let began = Instant::now();
    world.sandbox.tiers()?.pause_redis();
    world.talk(Duration::from_secs(6)).await?;
    world.sandbox.tiers()?.resume_redis();
    world.talk(AFTER).await?;
    let (sandbox, silence) = world.check("redis-paused", began).await?;
    ensure!(silence < Duration::from_secs(3), "silence of {silence:?}");
    report(Topology::ThreeTiers, 1);
    sandbox.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_forgets_and_then_a_router_is_killed() -> Result<()> {
    let _one = ONE.lock().await;
    let mut world = world(None).await?;
    world.talk(BEFORE).await?;
    world.sandbox.tiers()?.flush_redis()?;
    // Every session and room that lives is rewritten when it changes.
    world.talk(AFTER).await?;
    let killed = Instant::now();
    world.sandbox.tiers()?.kill_router(0);
    world.sandbox.redundant(Duration::from_secs(30)).await?;
    world.talk(AFTER).await?;
    let (sandbox, _) = world.check("redis-flushed-router-killed", killed).await?;
    report(Topology::ThreeTiers, 1);
    sandbox.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storage_is_killed() -> Result<()> {
    let _one = ONE.lock().await;
    let mut world = world(None).await?;
    world.talk(BEFORE).await?;
    let killed = Instant::now();
    world.sandbox.tiers()?.kill_storage(0);
    world.talk(AFTER).await?;
    world.sandbox.add_user("late").await?;
    let entrance = world.sandbox.entrance(0)?;
    let mut late = Client::login("late", &entrance, &Login::new("late", "x")).await?;
    late.hears_nothing().await?;
    let (sandbox, silence) = world.check("storage-killed", killed).await?;
    ensure!(silence < Duration::from_secs(3), "silence of {silence:?}");
    report(Topology::ThreeTiers, 1);
    sandbox.stop().await
}
