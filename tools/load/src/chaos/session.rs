//! One session of a fault run: it sends at random intervals, and when its socket breaks it resumes
//! by itself, on another edge if there is one.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{sleep, timeout};

use super::history::{Kind, MessageId};
use super::receive::{ArchiveJob, Place, Receiver, body};
use super::world::{Mode, World};
use crate::bench::spec::numbered;
use crate::client::archive::{Item, Part, Query};
use crate::client::endpoint::Endpoint;
use crate::client::handle::{Handle, Kind as Incoming};
use crate::client::login::{Authenticated, Resumption, login};
use crate::client::sasl::Credentials;
use crate::client::sm::Counters;
use crate::client::stanza;
use crate::client::stream::Stream;
use crate::rng::Rng;
use crate::xml::split::Item as StreamItem;

const RESOURCE: &str = "chaos";
/// How long a stanza may be unacknowledged before the session asks for an acknowledgement.
const ASK_AFTER: Duration = Duration::from_secs(1);
/// How long a connection may be without input before the session asks for an acknowledgement.
const SILENCE: Duration = Duration::from_secs(5);
const ARCHIVE_LIMIT: Duration = Duration::from_secs(30);
const FIRST_RETRY: Duration = Duration::from_millis(50);
const LAST_RETRY: Duration = Duration::from_millis(1_000);
/// A bound session counts as reachable this long after it has sent its presence.
const PRESENCE_TRAVELS_US: u64 = 2_000_000;

/// A command of the driver for a session.
#[derive(Debug)]
pub enum Command {
    /// Read the whole archive.
    Archive(oneshot::Sender<Result<Vec<Item>, String>>),
    /// End.
    Quit,
}

/// A session, as an actor.
#[derive(Debug)]
pub struct Session {
    world: Arc<World>,
    endpoint: Endpoint,
    who: Credentials,
    rng: Rng,
    edge: usize,
    receiver: Receiver,
    commands: mpsc::Receiver<Command>,
    mode: watch::Receiver<Mode>,
    sm_id: Option<String>,
    queries: u64,
}

/// A connection with a session.
struct Attached {
    stream: Stream,
    handle: Handle,
}

/// The reason for the end of a connection.
enum End {
    Quit,
    Broken(String),
}

/// The times of the next actions on a connection.
struct Clock {
    say: Instant,
    read_archive: Option<Instant>,
    heard: Instant,
    asked: Instant,
    waiting_since: Option<Instant>,
}

impl Session {
    /// Session `index` of a run.
    ///
    /// # Errors
    /// When there is no account for it.
    pub fn new(
        world: &Arc<World>,
        index: usize,
        commands: mpsc::Receiver<Command>,
    ) -> Result<Self> {
        let config = &world.config;
        let account = |index: usize| {
            config
                .users
                .get(index)
                .with_context(|| format!("no account for session {index}"))
        };
        let (user, password) = account(index)?;
        let bare = |user: &str| format!("{user}@{}", config.domain);
        let place = match world.conversation(index) {
            Some((_, Kind::Pair, members)) => {
                let peer = members.iter().find(|member| **member != index);
                Place::Peer {
                    to: bare(&account(*peer.context("a pair of one")?)?.0),
                }
            }
            Some((conversation, Kind::Room, members)) => Place::Room {
                room: format!("chaos{}-{conversation}@{}", world.run, config.muc),
                nick: numbered("s%03d", index),
                conversation,
                size: members.len(),
            },
            None => Place::Nowhere,
        };
        Ok(Self {
            world: Arc::clone(world),
            endpoint: world.endpoint.with_memory(),
            rng: Rng::new(config.seed, index as u64),
            edge: index % config.edges.len(),
            receiver: Receiver {
                index,
                bare: bare(&user),
                place,
                occupants: HashSet::new(),
                present: false,
                archive: None,
            },
            who: Credentials {
                mechanism: config.mechanism,
                user,
                password,
            },
            commands,
            mode: world.mode(),
            sm_id: None,
            queries: 0,
        })
    }

    /// Runs until it gets the command to quit. `first` bounds how many sessions log in at the same
    /// time.
    pub async fn run(mut self, first: Arc<tokio::sync::Semaphore>) {
        let permit = first.acquire_owned().await;
        let mut attached = loop {
            match Box::pin(self.begin()).await {
                Ok(attached) => break attached,
                Err(error) => {
                    let edge = self.edge_name();
                    self.world
                        .attempt_failed(self.receiver.index, &edge, &format!("{error:#}"));
                    self.world
                        .event(&serde_json::json!({"event": "login_failed",
                        "session": self.receiver.index, "why": format!("{error:#}")}));
                    self.edge += 1;
                    sleep(LAST_RETRY).await;
                }
            }
        };
        drop(permit);
        self.world
            .connected(self.receiver.index, self.edge_number());
        loop {
            match self.live(&mut attached).await {
                End::Quit => {
                    attached.handle.close();
                    return;
                }
                End::Broken(why) => {
                    let lost_at = self.world.now();
                    let edge = self.edge_name();
                    self.world.disconnected(self.receiver.index, &edge, &why);
                    attached.handle.link().abandon();
                    let counters = attached.handle.take_counters();
                    match self.recover(counters, lost_at).await {
                        Some(again) => attached = again,
                        None => return,
                    }
                }
            }
        }
    }

    fn edge_number(&self) -> usize {
        self.edge % self.world.config.edges.len()
    }

    fn edge_name(&self) -> String {
        self.world.config.edges[self.edge_number()].clone()
    }

    async fn login(&self) -> Result<Authenticated> {
        let limit = Duration::from_millis(self.world.config.login_timeout_ms);
        let edge = self.edge_name();
        let login = Box::pin(login(&self.endpoint, &edge, &self.who));
        timeout(limit, login)
            .await
            .map_err(|_| anyhow::anyhow!("no login within {limit:?}"))?
    }

    async fn begin(&mut self) -> Result<Attached> {
        let login = self.login().await?;
        self.bind(login).await
    }

    /// Binds, enables stream management, becomes present.
    async fn bind(&mut self, mut login: Authenticated) -> Result<Attached> {
        let limit = Duration::from_millis(self.world.config.login_timeout_ms);
        let enabled = timeout(limit, async {
            login.bind(Some(RESOURCE)).await?;
            login.enable(true).await
        })
        .await
        .map_err(|_| anyhow::anyhow!("not bound within {limit:?}"))??;
        self.sm_id = enabled.id;
        let attached = self.attached(login.stream, Counters::keeping());
        let ws = attached.stream.is_websocket();
        attached.handle.send(&stanza::available(ws), None)?;
        self.receiver.occupants.clear();
        match &self.receiver.place {
            Place::Room { room, nick, .. } => {
                self.receiver.present = false;
                attached
                    .handle
                    .send(&stanza::join(ws, room, nick, 0), None)?;
            }
            Place::Peer { .. } | Place::Nowhere => {
                self.receiver.present = true;
                let world = &self.world;
                world.present_again(self.receiver.index, world.now() + PRESENCE_TRAVELS_US);
                world.ready(self.receiver.index);
            }
        }
        Ok(attached)
    }

    fn attached(&self, stream: Stream, counters: Counters) -> Attached {
        let link = Arc::clone(stream.link());
        let ask_every = self.world.config.ask_every;
        let handle = Handle::new(link, stream.is_websocket(), ask_every, counters);
        Attached { stream, handle }
    }

    /// Connects until the session is resumed, or refused and replaced by a new one; `None` if it
    /// got the command to quit.
    async fn recover(&mut self, mut counters: Counters, lost_at: u64) -> Option<Attached> {
        let mut pause = FIRST_RETRY;
        // The sessions of one edge are spread over the others, and each session tries one after the
        // other.
        let edges = self.world.config.edges.len();
        let mut step = 1 + (self.receiver.index / edges) % edges.saturating_sub(1).max(1);
        loop {
            self.edge += std::mem::replace(&mut step, 1);
            let connect_at = self.world.now();
            match Box::pin(self.attempt(&mut counters, lost_at, connect_at)).await {
                Ok(attached) => return Some(attached),
                Err(error) => {
                    let edge = self.edge_name();
                    self.world
                        .attempt_failed(self.receiver.index, &edge, &format!("{error:#}"));
                }
            }
            let jittered = pause.mul_f64(0.5 + self.rng.unit());
            tokio::select! {
                () = sleep(jittered) => {}
                command = self.commands.recv() => match command {
                    Some(Command::Archive(reply)) => {
                        drop(reply.send(Err("the session is not connected".to_owned())));
                    }
                    Some(Command::Quit) | None => return None,
                },
            }
            pause = (pause * 2).min(LAST_RETRY);
        }
    }

    async fn attempt(
        &mut self,
        counters: &mut Counters,
        lost_at: u64,
        connect_at: u64,
    ) -> Result<Attached> {
        let mut login = self.login().await?;
        let index = self.receiver.index;
        if let Some(id) = self.sm_id.clone() {
            let limit = Duration::from_millis(self.world.config.login_timeout_ms);
            let answer = timeout(limit, login.resume(&id, counters.received))
                .await
                .map_err(|_| anyhow::anyhow!("no answer to <resume/> within {limit:?}"))??;
            match answer {
                Resumption::Resumed(handled) => {
                    let attached = self.attached(login.stream, std::mem::take(counters));
                    let resent = attached.handle.resumed(handled);
                    let Ok(Some(tags)) = resent else {
                        // The counters are needed for the next attempt.
                        *counters = attached.handle.take_counters();
                        match resent {
                            Err(error) => return Err(error.into()),
                            Ok(_) => bail!("the server claims {handled} stanzas, never sent"),
                        }
                    };
                    self.world.acked(index, &tags);
                    self.world
                        .resumed(index, self.edge_number(), lost_at, connect_at);
                    return Ok(attached);
                }
                Resumption::Refused { reason, handled } => {
                    let tags = handled.and_then(|handled| counters.ack(handled));
                    self.world.acked(index, &tags.unwrap_or_default());
                    self.world
                        .refused(index, &self.edge_name(), lost_at, &reason);
                }
            }
        } else {
            self.world
                .refused(index, &self.edge_name(), lost_at, "never resumable");
        }
        *counters = Counters::keeping();
        self.sm_id = None;
        let lost = "the session was refused while the archive was read".to_owned();
        self.receiver.finish_archive(&self.world, Err(lost));
        let attached = self.bind(login).await?;
        self.world.connected(index, self.edge_number());
        Ok(attached)
    }

    /// One connection from its first to its last stanza.
    async fn live(&mut self, attached: &mut Attached) -> End {
        let now = Instant::now();
        let mut clock = Clock {
            say: now + self.pause(self.world.config.rate),
            read_archive: None,
            heard: now,
            asked: now,
            waiting_since: None,
        };
        loop {
            if let Err(error) = self.drain(attached, &mut clock) {
                return End::Broken(format!("{error:#}"));
            }
            match self.work(attached, &mut clock) {
                Ok(()) => {}
                Err(error) => return End::Broken(format!("{error:#}")),
            }
            let sending = *self.mode.borrow_and_update() == Mode::Sending;
            let tick = Instant::now() + Duration::from_millis(500);
            let next = if sending { clock.say.min(tick) } else { tick };
            tokio::select! {
                filled = attached.stream.fill() => match filled {
                    Ok(true) => clock.heard = Instant::now(),
                    Ok(false) => return End::Broken("the connection was closed".to_owned()),
                    Err(error) => return End::Broken(format!("{error:#}")),
                },
                () = tokio::time::sleep_until(next.into()) => {}
                changed = self.mode.changed() => if changed.is_err() { return End::Quit },
                command = self.commands.recv() => match command {
                    Some(Command::Archive(reply)) => {
                        let busy = "another read of the archive was under way".to_owned();
                        self.receiver.finish_archive(&self.world, Err(busy));
                        if let Err(error) = self.read_archive(attached, Part::All, Some(reply)) {
                            return End::Broken(format!("{error:#}"));
                        }
                    }
                    Some(Command::Quit) | None => return End::Quit,
                },
            }
        }
    }

    /// Handles all elements that were read.
    fn drain(&mut self, attached: &mut Attached, clock: &mut Clock) -> Result<()> {
        let ws = attached.stream.is_websocket();
        while let Some(item) = attached.stream.take()? {
            let StreamItem::Element(range) = item else {
                bail!("the server closed the stream")
            };
            let bytes = attached.stream.bytes(&range);
            match attached.handle.incoming(bytes)? {
                Incoming::Ack(tags) => {
                    clock.waiting_since = None;
                    self.world.acked(self.receiver.index, &tags);
                }
                Incoming::Request => {}
                Incoming::Other => {
                    bail!("the server sent {}", String::from_utf8_lossy(bytes))
                }
                Incoming::Message | Incoming::Presence | Incoming::Iq => {
                    self.receiver
                        .stanza(&self.world, &attached.handle, bytes, ws)?;
                }
            }
        }
        Ok(())
    }

    /// Performs the actions that are due and checks the connection.
    fn work(&mut self, attached: &mut Attached, clock: &mut Clock) -> Result<()> {
        let now = Instant::now();
        let sending = *self.mode.borrow() == Mode::Sending;
        if sending && self.receiver.present && now >= clock.say {
            self.say(attached)?;
            clock.say = now + self.pause(self.world.config.rate);
        }
        let rate = self.world.config.archive_rate;
        if sending && rate > 0.0 && matches!(self.receiver.place, Place::Peer { .. }) {
            match clock.read_archive {
                None => clock.read_archive = Some(now + self.pause(rate)),
                Some(due) if now >= due => {
                    clock.read_archive = None;
                    if self.receiver.archive.is_none() {
                        self.read_archive(attached, Part::Last, None)?;
                    }
                }
                Some(_) => {}
            }
        }
        if self
            .receiver
            .archive
            .as_ref()
            .is_some_and(|job| job.since.elapsed() > ARCHIVE_LIMIT)
        {
            let why = format!("no answer from the archive within {ARCHIVE_LIMIT:?}");
            self.receiver.finish_archive(&self.world, Err(why));
        }
        self.watch(attached, clock, now)
    }

    fn watch(&self, attached: &Attached, clock: &mut Clock, now: Instant) -> Result<()> {
        let silence = now - clock.heard;
        let open = attached.handle.counters(Counters::open) > 0;
        if now - clock.asked >= ASK_AFTER && (open || silence >= SILENCE) {
            attached.handle.request()?;
            clock.asked = now;
            clock.waiting_since.get_or_insert(now);
        }
        let limit = Duration::from_millis(self.world.config.ack_timeout_ms);
        if let Some(since) = clock.waiting_since
            && now - since > limit
            && silence > limit
        {
            bail!("the server is silent since {silence:?}");
        }
        Ok(())
    }

    fn say(&mut self, attached: &Attached) -> Result<()> {
        let ws = attached.stream.is_websocket();
        let (kind, to) = match &self.receiver.place {
            Place::Peer { to } => ("chat", to),
            Place::Room { room, .. } => ("groupchat", room),
            Place::Nowhere => return Ok(()),
        };
        let n = self.world.sending(self.receiver.index);
        let id = MessageId {
            sender: self.receiver.index as u32,
            n,
        };
        let text = body(&self.world.run, id, self.world.config.padding);
        let name = body(&self.world.run, id, 0);
        attached.handle.send(
            &stanza::message(ws, kind, to, name.trim_end(), &text),
            Some(n),
        )?;
        Ok(())
    }

    fn read_archive(
        &mut self,
        attached: &Attached,
        part: Part,
        reply: Option<oneshot::Sender<Result<Vec<Item>, String>>>,
    ) -> Result<()> {
        self.queries += 1;
        let ws = attached.stream.is_websocket();
        let page = if part == Part::All { 100 } else { 20 };
        let (query, request) = Query::start(&format!("mam{}", self.queries), ws, part, page);
        self.receiver.archive = Some(ArchiveJob {
            query,
            since: Instant::now(),
            reply,
        });
        attached.handle.send(&request, None)?;
        Ok(())
    }

    fn pause(&mut self, rate: f64) -> Duration {
        Duration::from_secs_f64(self.rng.pause(1.0 / rate.max(1e-6)).min(3600.0))
    }
}
