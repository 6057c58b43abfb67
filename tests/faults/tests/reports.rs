//! One edge holds far more than the capacity of a lane: deliveries that its clients have not
//! acknowledged, memberships in rooms, and stanzas that clients send faster than the owner of their
//! slots takes them. No connection ends because of that, and slots are taken over in parts. Beyond
//! the bound of the edge, the sessions that hold most lose their sockets.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use sestina_cluster::slots::slot_of_bare;
use sestina_faults::client::{Client, Heard, message_ids};
use sestina_faults::cluster::{At, Cluster, Size, name};
use sestina_faults::crowd::run;
use sestina_faults::deeds;
use sestina_faults::process::Tier;
use sestina_faults::throttle::Throttle;
use sestina_faults::wait::until;
use sestina_faults::world::{LIMIT, names_owned_by};

const HOST: &str = "example.org";
const ROOMS: &str = "rooms.example.org";

/// The edge of almost all sessions.
const EDGE: At = At::edge(0);
/// The owner of the slots of almost all sessions and of all rooms.
const ROUTER: At = At::router(0);

/// How long a slot of the dead router may be without an owner: its lease, and far longer than the
/// other steps take. Reports in one piece took minutes, or never ended.
const TAKEN: Duration = Duration::from_secs(15);
/// How long to wait for a message that is lost.
const MISSED: Duration = Duration::from_secs(10);
/// The capacity of a lane.
const LANE: usize = 16 << 20;

fn size(mutations: &str) -> Size {
    Size {
        edges: 2,
        routers: 2,
        storages: 1,
        mutations: mutations.to_owned(),
        ..Size::default()
    }
}

fn routers() -> [String; 2] {
    [0, 1].map(|number| name(Tier::Router, number))
}

/// Logs in this many sessions of a user on one edge.
async fn sessions(user: &str, count: usize, edge: usize, ports: &[u16]) -> Result<Vec<Client>> {
    let mut sessions = Vec::new();
    for n in 0..count {
        let client = Client::login(user, &format!("r{n}"), edge, ports).await?;
        client.send("<presence><priority>-1</priority></presence>")?;
        sessions.push(client);
    }
    Ok(sessions)
}

/// A message that is neither archived nor stored.
fn message(to: &str, id: &str, bytes: usize) -> String {
    let text = "x".repeat(bytes);
    format!("<message type='chat' to='{to}' id='{id}'><x xmlns='urn:test'>{text}</x></message>")
}

/// The ids of messages from that address with that prefix, in order.
fn ids(log: &[Heard], from: &str, prefix: &str) -> Vec<String> {
    message_ids(log, prefix, |heard| heard.sender() == from)
}

/// Checks that a client gets exactly these, in order.
async fn hears(
    client: &Client,
    from: &str,
    prefix: &str,
    expected: &[String],
    limit: Duration,
) -> Result<()> {
    let all = |log: &[Heard]| (ids(log, from, prefix).len() >= expected.len()).then_some(());
    let waited = client.hears("all messages", 0, limit, all).await;
    let heard = ids(&client.log(0), from, prefix);
    waited.with_context(|| format!("{} heard {heard:?}", client.name))?;
    ensure!(
        heard == expected,
        "{} heard {heard:?} instead of {expected:?}",
        client.name
    );
    Ok(())
}

fn nobody_was_cut<'a>(clients: impl IntoIterator<Item = &'a Client>) -> Result<()> {
    for client in clients {
        client.kept_its_connection()?;
        client.kept_its_session()?;
    }
    Ok(())
}

/// Rooms in one slot, and the nick of a client in all of them: long, so that a report of the
/// members of these rooms is long.
struct Crowd {
    rooms: Vec<String>,
}

impl Crowd {
    fn new(rooms: usize) -> Crowd {
        let address = |name: &String| format!("{name}@{ROOMS}");
        let routers = routers();
        let mut names = names_owned_by("room", ROOMS, 0, &routers);
        let first = names.next().unwrap_or_default();
        let slot = slot_of_bare(&address(&first));
        let same = names.filter(|name| slot_of_bare(&address(name)) == slot);
        let all = std::iter::once(first.clone()).chain(same).take(rooms);
        Crowd {
            rooms: all.map(|name| address(&name)).collect(),
        }
    }

    fn nick(client: &Client) -> String {
        format!("{}-{}", client.name.replace('/', "-"), "n".repeat(900))
    }

    /// Makes the client join all rooms.
    async fn enter(&self, client: &Client) -> Result<()> {
        let nick = Crowd::nick(client);
        for room in &self.rooms {
            client.send(format!(
                "<presence to='{room}/{nick}'><x xmlns='http://jabber.org/protocol/muc'/></presence>"
            ))?;
        }
        for room in &self.rooms {
            let own = format!("{room}/{nick}");
            let is = |heard: &&Heard| heard.element.attr("from") == Some(&own);
            let inside = |log: &[Heard]| log.iter().find(is).map(drop);
            let what = "its own presence in a room";
            client.hears(what, 0, LIMIT, inside).await?;
        }
        Ok(())
    }

    /// One client writes in all rooms, and all get the messages.
    async fn goes_on(&self, speaker: &Client, all: &[&Client], limit: Duration) -> Result<()> {
        for room in &self.rooms {
            speaker.send(format!(
                "<message type='groupchat' to='{room}' id='room-1'><body>hello</body></message>"
            ))?;
        }
        for client in all {
            for room in &self.rooms {
                hears(client, room, "room-", &["room-1".to_owned()], limit).await?;
            }
        }
        Ok(())
    }
}

/// Three accounts with four sessions each leave 40 MiB unacknowledged, and all sessions are in many
/// rooms of one slot. Their router dies: the edge reports all of that in parts, and other slots do
/// not wait for these.
async fn much_is_reported(mutations: &str, limit: Duration) -> Result<()> {
    const ACCOUNTS: usize = 3;
    const SESSIONS: usize = 4;
    const QUIET: usize = 6;
    const ROOMS_OF_ALL: usize = 10;
    /// Messages of one session: fewer than would end it.
    const MESSAGES: usize = 17;
    const BYTES: usize = 200_000;
    const { assert!(ACCOUNTS.div_ceil(2) * SESSIONS * MESSAGES * BYTES > LANE) };
    let mut cluster = Cluster::start(size(mutations)).await?;
    let heavy: Vec<String> = names_owned_by("heavy", HOST, 0, &routers())
        .take(ACCOUNTS)
        .collect();
    let quiet: Vec<String> = names_owned_by("quiet", HOST, 0, &routers())
        .take(QUIET)
        .collect();
    let other: Vec<String> = names_owned_by("other", HOST, 1, &routers())
        .take(1)
        .collect();
    cluster
        .add_users(&[heavy.clone(), quiet.clone(), other.clone()].concat())
        .await?;
    let ports = cluster.ports.clone();
    let mut full = Vec::new();
    for user in &heavy {
        full.extend(sessions(user, SESSIONS, EDGE.number, &ports).await?);
    }
    let mut strangers = Vec::new();
    for user in &quiet {
        strangers.extend(sessions(user, 1, EDGE.number, &ports).await?);
    }
    let speaker = sessions(&other[0], 1, 1, &ports).await?.remove(0);
    let crowd = Crowd::new(ROOMS_OF_ALL);
    for client in full.iter().chain(&strangers).chain([&speaker]) {
        crowd.enter(client).await?;
    }
    let expected: Vec<String> = (0..MESSAGES).map(|n| format!("much-{n}")).collect();
    let from = speaker.bare();
    for client in &full {
        client.acknowledges(false)?;
        for id in &expected {
            speaker.send(message(&client.jid(), id, BYTES))?;
        }
        hears(client, &from, "much-", &expected, LIMIT).await?;
    }
    speaker.acknowledged(LIMIT).await?;
    let closed = "sestina_lanes_closed_total{lane=\"edge_router\"}";
    let before = cluster.metric(EDGE, closed).await?;
    cluster.process(ROUTER).kill();
    let died = Instant::now();
    for client in &strangers {
        deeds::ping(client).await?;
    }
    let took = died.elapsed();
    println!("all strangers are served {took:.1?} after the death");
    ensure!(took < TAKEN, "strangers waited {took:?}");
    crowd
        .goes_on(&speaker, &strangers.iter().collect::<Vec<_>>(), limit)
        .await?;
    nobody_was_cut(&full)?;
    for client in &full {
        client.acknowledges(true)?;
        speaker.send(message(&client.jid(), "later-1", 1))?;
        hears(client, &from, "later-", &["later-1".to_owned()], limit).await?;
        deeds::ping(client).await?;
        hears(client, &from, "much-", &expected, limit).await?;
        client.acknowledged(limit).await?;
    }
    crowd.goes_on(&strangers[0], &[], limit).await?;
    println!(
        "all sessions are served {:.1?} after the death",
        died.elapsed()
    );
    // The lanes to the dead router.
    let ended = cluster.metric(EDGE, closed).await? - before;
    ensure!(ended <= 2.0, "{ended} lanes have ended");
    cluster.process(ROUTER).start_again()?;
    cluster.redundant(2 * LIMIT).await?;
    nobody_was_cut(full.iter().chain(&strangers).chain([&speaker]))
}

/// Many sessions whose slots all use one lane send more than the lane takes, because the router is
/// slow. The lane refuses frames, and they are sent when it has room again.
async fn a_lane_is_full(mutations: &str, limit: Duration) -> Result<()> {
    const ACCOUNTS: usize = 10;
    const SESSIONS: usize = 4;
    /// Messages of one session: too few to pause it, so that no later stanza follows a refused one.
    const MESSAGES: usize = 15;
    const BYTES: usize = 60_000;
    const ALL: usize = ACCOUNTS * SESSIONS * MESSAGES * BYTES;
    const { assert!(ALL > 2 * LANE) };
    // The router gets this fraction (1/n) of a core.
    const PART: u32 = 20;
    let mut cluster = Cluster::start(Size {
        lease: Duration::from_secs(20),
        ..size(mutations)
    })
    .await?;
    let users: Vec<String> = names_owned_by("user", HOST, 0, &routers())
        .filter(|name| slot_of_bare(&format!("{name}@{HOST}")).is_multiple_of(2))
        .take(ACCOUNTS)
        .collect();
    cluster.add_users(&users).await?;
    let ports = cluster.ports.clone();
    let mut clients = Vec::new();
    for user in &users {
        clients.extend(sessions(user, SESSIONS, EDGE.number, &ports).await?);
    }
    for client in &clients {
        client.acknowledged(LIMIT).await?;
    }
    let pid = cluster.process(ROUTER).pid().context("it has an id")?;
    let throttle = Throttle::to_one(PART, pid);
    let expected: Vec<String> = (0..MESSAGES).map(|n| format!("own-{n}")).collect();
    for client in &clients {
        for id in &expected {
            client.send(message(&client.jid(), id, BYTES))?;
        }
    }
    let unsettled = "sestina_queue_bytes{queue=\"unsettled\"}";
    let refused = "sestina_queue_full_total{queue=\"lane\"}";
    until("the lane refuses something of all", LIMIT, async || {
        let held = cluster.metric(EDGE, unsettled).await;
        let full = cluster.metric(EDGE, refused).await;
        match (held, full) {
            (Ok(held), Ok(full)) if held > 1.5 * LANE as f64 && full > 0.0 => Ok(()),
            seen => Err(format!("{seen:?}")),
        }
    })
    .await?;
    // The drop waits for a thread.
    tokio::task::spawn_blocking(move || drop(throttle)).await?;
    for client in &clients {
        client.acknowledged(limit).await?;
        hears(client, &client.bare(), "own-", &expected, limit).await?;
    }
    cluster.redundant(LIMIT).await?;
    nobody_was_cut(&clients)
}

/// An edge may hold 8 MiB, and sessions that do not acknowledge get 14. Some of them must resume on
/// another edge, and lose nothing; the other sessions are not disturbed.
async fn some_give_way() -> Result<()> {
    const SESSIONS: usize = 4;
    const QUIET: usize = 3;
    const MESSAGES: usize = 17;
    const BYTES: usize = 200_000;
    const BOUND: usize = 8 << 20;
    const { assert!(SESSIONS * MESSAGES * BYTES > BOUND) };
    let mut cluster = Cluster::start(size("")).await?;
    cluster.reconfigure(EDGE, |text| {
        let limits = "[edge.limits]\n";
        text.replace(limits, &format!("{limits}held = {BOUND}\n"))
    })?;
    cluster.process(EDGE).kill();
    cluster.process(EDGE).start_again()?;
    cluster.redundant(2 * LIMIT).await?;
    let routers = routers();
    let names = |kind, router, count| -> Vec<String> {
        let names = names_owned_by(kind, HOST, router, &routers);
        names.take(count).collect()
    };
    let (heavy, quiet, other) = (
        names("heavy", 0, 1),
        names("quiet", 0, QUIET),
        names("other", 1, 1),
    );
    cluster
        .add_users(&[heavy.clone(), quiet.clone(), other.clone()].concat())
        .await?;
    let ports = cluster.ports.clone();
    let full = sessions(&heavy[0], SESSIONS, EDGE.number, &ports).await?;
    let mut strangers = Vec::new();
    for user in &quiet {
        strangers.extend(sessions(user, 1, EDGE.number, &ports).await?);
    }
    let speaker = sessions(&other[0], 1, 1, &ports).await?.remove(0);
    let expected: Vec<String> = (0..MESSAGES).map(|n| format!("much-{n}")).collect();
    for client in &full {
        client.acknowledges(false)?;
        for id in &expected {
            speaker.send(message(&client.jid(), id, BYTES))?;
        }
    }
    for client in &full {
        hears(client, &speaker.bare(), "much-", &expected, 2 * LIMIT).await?;
    }
    let given_way = cluster
        .metric(EDGE, "sestina_queue_full_total{queue=\"edge\"}")
        .await?;
    println!("{given_way} of {SESSIONS} sessions gave way");
    ensure!(given_way > 0.0, "no session gave way");
    ensure!(given_way < SESSIONS as f64, "more gave way than had to");
    for client in &full {
        client.kept_its_session()?;
        client.acknowledges(true)?;
        deeds::ping(client).await?;
    }
    for client in &strangers {
        deeds::ping(client).await?;
    }
    let held = "sestina_queue_bytes{queue=\"edge\"}";
    until(
        "the edge holds little again",
        LIMIT,
        async || match cluster.metric(EDGE, held).await {
            Ok(bytes) if bytes < BYTES as f64 => Ok(()),
            seen => Err(format!("{seen:?}")),
        },
    )
    .await?;
    cluster.redundant(LIMIT).await?;
    nobody_was_cut(&strangers)
}

#[test]
fn beyond_the_bound_of_an_edge_those_that_hold_most_resume_elsewhere() {
    run(some_give_way()).unwrap();
}

#[test]
fn what_an_edge_holds_is_reported_in_parts_and_nothing_ends() {
    run(much_is_reported("", LIMIT)).unwrap();
}

#[test]
fn waiting_for_all_parts_of_a_report_is_missed() {
    let error = format!(
        "{:#}",
        run(much_is_reported("report-parts", MISSED)).unwrap_err()
    );
    println!("without report-parts: {error}");
    assert!(error.contains("heavy"), "{error}");
}

#[test]
fn what_a_full_lane_refuses_goes_on_later() {
    run(a_lane_is_full("", LIMIT)).unwrap();
}

#[test]
fn sending_again_what_a_lane_refused_is_missed() {
    let error = format!(
        "{:#}",
        run(a_lane_is_full("lane-refuses", MISSED)).unwrap_err()
    );
    println!("without lane-refuses: {error}");
    assert!(error.contains("waits for acknowledgements"), "{error}");
}
