//! The dialogue with the driver: a line of JSON in each direction on standard input and output.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::checker::check;
use super::config::Config;
use super::history::{Archived, Kind};
use super::receive::parse_body;
use super::session::{Command, Session};
use super::world::{Emit, Mode, World};

const ARCHIVES_AT_ONCE: usize = 16;
const ARCHIVE_ATTEMPTS: usize = 3;
const ARCHIVE_LIMIT: Duration = Duration::from_secs(120);

/// An order of the driver.
#[derive(Debug, Deserialize)]
#[serde(tag = "cmd", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Order {
    /// Stop sending for now.
    Pause,
    /// Start or continue sending.
    Resume,
    /// Report the state of the run.
    Status,
    /// Stop sending for good.
    StopSending,
    /// This edge will be disturbed: sessions that lose their socket there are not counted.
    Touch {
        /// As in the configuration.
        edge: String,
    },
    /// This edge is not disturbed any more.
    Untouch {
        /// As in the configuration.
        edge: String,
    },
    /// End a window of figures and begin the next.
    Mark {
        /// Its name.
        label: String,
    },
    /// Wait until all messages are delivered, read the archives, report.
    Verify,
    /// End.
    Quit,
}

/// All sessions of a run.
#[derive(Debug)]
pub struct Run {
    world: Arc<World>,
    commands: Vec<mpsc::Sender<Command>>,
    tasks: JoinSet<()>,
}

impl Run {
    /// Starts all sessions; those that create rooms first.
    ///
    /// # Errors
    /// When the configuration is unusable.
    pub fn start(config: Config, emit: Emit) -> Result<Self> {
        let world = World::new(config, emit)?;
        let conversations = world.config.conversations();
        let founders: Vec<usize> = conversations
            .iter()
            .filter(|conversation| conversation.kind == Kind::Room)
            .filter_map(|conversation| conversation.members.first().copied())
            .collect();
        let mut sessions = Vec::new();
        let mut commands = Vec::new();
        for index in 0..world.config.sessions {
            let (sender, receiver) = mpsc::channel(4);
            sessions.push((index, Session::new(&world, index, receiver)?));
            commands.push(sender);
        }
        let mut tasks = JoinSet::new();
        let starter = Arc::clone(&world);
        tasks.spawn(async move {
            let world = starter;
            let limit = Arc::new(Semaphore::new(world.config.start_concurrency.max(1)));
            let (first, rest): (Vec<_>, Vec<_>) = sessions
                .into_iter()
                .partition(|(index, _)| founders.contains(index));
            let mut running = JoinSet::new();
            for (_, session) in first {
                running.spawn(session.run(Arc::clone(&limit)));
            }
            while world.rooms_open() < founders.len() {
                sleep(Duration::from_millis(20)).await;
            }
            for (_, session) in rest {
                running.spawn(session.run(Arc::clone(&limit)));
            }
            while world.ready_count() < world.config.sessions {
                sleep(Duration::from_millis(20)).await;
            }
            world.event(&json!({"event": "ready", "sessions": world.config.sessions,
                "run": world.run, "seed": world.config.seed}));
            if world.config.autostart {
                world.set_mode(Mode::Sending);
            }
            while running.join_next().await.is_some() {}
        });
        Ok(Self {
            world,
            commands,
            tasks,
        })
    }

    /// The shared part.
    #[must_use]
    pub fn world(&self) -> &Arc<World> {
        &self.world
    }

    /// Carries out an order; false when the run is to end.
    pub async fn order(&self, order: Order) -> bool {
        let world = &self.world;
        let answer = match order {
            Order::Pause => {
                world.set_mode(Mode::Paused);
                json!({"event": "paused"})
            }
            Order::Resume => {
                world.set_mode(Mode::Sending);
                json!({"event": "sending"})
            }
            Order::StopSending => {
                world.set_mode(Mode::Stopped);
                json!({"event": "stopped"})
            }
            Order::Status => world.status(),
            Order::Touch { edge } => {
                world.touch(&edge, true);
                json!({"event": "touched", "edge": edge})
            }
            Order::Untouch { edge } => {
                world.touch(&edge, false);
                json!({"event": "untouched", "edge": edge})
            }
            Order::Mark { label } => {
                json!({"event": "marked", "label": label.clone(), "window": world.mark(&label)})
            }
            Order::Verify => self.verify().await,
            Order::Quit => return false,
        };
        world.event(&answer);
        true
    }

    /// Waits until all messages are delivered, reads the archives and checks the notes.
    pub async fn verify(&self) -> Value {
        let world = &self.world;
        world.set_mode(Mode::Stopped);
        let begin = Instant::now();
        let limit = Duration::from_secs(world.config.verify_timeout_s);
        while !world.settled() && begin.elapsed() < limit {
            sleep(Duration::from_millis(50)).await;
        }
        let settled = world.settled();
        let settle_ms = begin.elapsed().as_millis() as u64;
        if world.config.archives {
            self.read_archives().await;
        }
        let verdict = world.history(|history| check(history, world.config.archives));
        let clean = settled && verdict.clean();
        let mut report = world.figures();
        report["event"] = json!("report");
        report["clean"] = json!(clean);
        report["settled"] = json!(settled);
        report["settle_ms"] = json!(settle_ms);
        report["check"] = json!(verdict);
        world.flush_log();
        report
    }

    async fn read_archives(&self) {
        let world = &self.world;
        let limit = Arc::new(Semaphore::new(ARCHIVES_AT_ONCE));
        let owners: Vec<usize> = world.history(|history| {
            let pairs = history
                .conversations
                .iter()
                .filter(|c| c.kind == Kind::Pair);
            pairs.flat_map(|pair| pair.members.clone()).collect()
        });
        let mut reads = JoinSet::new();
        for owner in owners {
            let (world, limit) = (Arc::clone(world), Arc::clone(&limit));
            let commands = self.commands[owner].clone();
            reads.spawn(async move {
                let Ok(_permit) = limit.acquire_owned().await else {
                    return;
                };
                match read_archive(&world, &commands).await {
                    Ok(items) => world.history(|history| history.archives[owner] = Some(items)),
                    Err(why) => world
                        .event(&json!({"event": "archive_unread", "session": owner, "why": why})),
                }
            });
        }
        while reads.join_next().await.is_some() {}
    }

    /// Ends all sessions.
    pub async fn quit(mut self) {
        for commands in &self.commands {
            // A session that has ended needs no order.
            drop(commands.try_send(Command::Quit));
        }
        let all = async { while self.tasks.join_next().await.is_some() {} };
        drop(timeout(Duration::from_secs(5), all).await);
        self.tasks.abort_all();
        self.world.flush_log();
    }
}

async fn read_archive(
    world: &World,
    commands: &mpsc::Sender<Command>,
) -> Result<Vec<Archived>, String> {
    let mut last = String::new();
    for _ in 0..ARCHIVE_ATTEMPTS {
        let (reply, answer) = oneshot::channel();
        let sent = commands.send(Command::Archive(reply)).await;
        sent.map_err(|_| "the session has ended".to_owned())?;
        match timeout(ARCHIVE_LIMIT, answer).await {
            Ok(Ok(Ok(items))) => {
                let ours = items.into_iter().filter_map(|item| {
                    let id = parse_body(&world.run, &item.body)?;
                    Some(Archived {
                        id,
                        archive_id: item.id.into(),
                    })
                });
                return Ok(ours.collect());
            }
            Ok(Ok(Err(why))) => last = why,
            Ok(Err(_)) => "the session has ended".clone_into(&mut last),
            Err(_) => last = format!("not read within {ARCHIVE_LIMIT:?}"),
        }
        sleep(Duration::from_secs(1)).await;
    }
    Err(last)
}

/// Runs until the driver sends `quit` or closes its end.
///
/// # Errors
/// When the configuration is unusable or input cannot be read.
pub async fn drive(config: Config, emit: Emit, mut lines: mpsc::Receiver<String>) -> Result<()> {
    let run = Run::start(config, emit)?;
    while let Some(line) = lines.recv().await {
        if line.trim().is_empty() {
            continue;
        }
        match serde_json::from_str::<Order>(&line).context("not an order") {
            Ok(order) => {
                if !run.order(order).await {
                    break;
                }
            }
            Err(error) => {
                let why = format!("{error:#}");
                run.world()
                    .event(&json!({"event": "not_understood", "line": line, "why": why}));
            }
        }
    }
    run.quit().await;
    Ok(())
}
