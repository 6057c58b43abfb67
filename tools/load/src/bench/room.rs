//! A room with many occupants, one of which writes.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::open::{Member, Target};
use super::outcome::Outcome;
use super::spec::{RoomSpec, Timing};
use super::traffic::{Meter, Open, Readers, Traffic, body, floor_delivery, run, wait_for};
use crate::client::handle::Handle;
use crate::client::stanza;
use crate::client::stream::Stream;
use crate::floor::hello::{Hello, Role};
use crate::xml::tree::Element;

const CONCURRENCY: usize = 16;
const JOIN_LIMIT: Duration = Duration::from_secs(30);
const MUC_USER: &str = "http://jabber.org/protocol/muc#user";

struct Room {
    speaker: Arc<Handle>,
    stanza: Vec<u8>,
    state: Mutex<State>,
}

struct State {
    /// Messages under way, the oldest first: the time of sending, and how many occupants lack it.
    under_way: VecDeque<(Instant, usize)>,
    /// Number of the oldest message under way.
    first: u64,
    /// How many messages each occupant has got. All get them in one order, so a message needs no
    /// number.
    had: Vec<u64>,
    closed_loop: bool,
    meter: Meter,
}

/// Measures a room at one server.
///
/// # Errors
/// When the room cannot be filled, or messages do not arrive.
pub async fn room(target: &Target, timing: &Timing, spec: &RoomSpec) -> Result<Outcome> {
    ensure!(spec.occupants > 0, "a room needs at least one occupant");
    let text = body(spec.body);
    let floor_stanza = stanza::message(false, "groupchat", "floor", "m", &text);
    let group = rand::random();
    let outgoing = floor_delivery(spec.floor_bytes, spec.body);
    let hello = |number: usize| Hello {
        group,
        role: Role::Everyone,
        number,
        incoming: floor_stanza.len(),
        outgoing,
        ask_every: timing.floor_ask_every,
    };
    let members = target
        .open(0..spec.occupants, CONCURRENCY, false, hello)
        .await?;
    let websocket = members.first().context("no session")?.stream.is_websocket();
    let (room, stanza) = if target.is_floor() {
        (String::new(), floor_stanza.clone())
    } else {
        let muc = target
            .spec
            .muc
            .as_deref()
            .context("the room scenario needs 'muc'")?;
        let room = format!("bench{:016x}@{muc}", rand::random::<u64>());
        let stanza = stanza::message(websocket, "groupchat", &room, "m", &text);
        (room, stanza)
    };
    let speaker = Arc::clone(&members.first().context("no session")?.handle);
    let traffic = Arc::new(Room {
        speaker,
        stanza,
        state: Mutex::new(State {
            under_way: VecDeque::new(),
            first: 0,
            had: vec![0; spec.occupants],
            closed_loop: spec.rate.is_none(),
            meter: Meter::default(),
        }),
    });
    let readers = if target.is_floor() {
        start(members, &traffic)
    } else {
        fill(members, &room, &traffic).await?
    };
    let open = match spec.rate {
        Some(rate) => Open::Rate(rate),
        None => Open::Closed {
            in_flight: spec.in_flight,
        },
    };
    run(&target.spec, timing, readers, traffic, "delivery", open).await
}

fn start(members: Vec<Member>, traffic: &Arc<Room>) -> Readers {
    let mut readers = Readers::default();
    for (index, member) in members.into_iter().enumerate() {
        let traffic = Arc::clone(traffic);
        readers.add(member.stream, member.handle, move |n| {
            traffic.delivered(index, n)
        });
    }
    readers
}

/// Makes all members join, the speaker first, and waits until the room is quiet.
async fn fill(members: Vec<Member>, room: &str, traffic: &Arc<Room>) -> Result<Readers> {
    let mut readers = Readers::default();
    // Presence has settled when a probe message that is sent after the last join has reached all.
    let probes = Arc::new(AtomicU64::new(0));
    let joined = Arc::new(AtomicUsize::new(0));
    let count = members.len();
    let mut handles = Vec::new();
    for (index, mut member) in members.into_iter().enumerate() {
        let websocket = member.stream.is_websocket();
        let join = stanza::join(websocket, room, &format!("n{index}"), 0);
        member.handle.send(&join, None)?;
        tokio::time::timeout(
            JOIN_LIMIT,
            await_join(&mut member.stream, &member.handle, room),
        )
        .await
        .with_context(|| format!("occupant {index} was not let in within {JOIN_LIMIT:?}"))??;
        joined.fetch_add(1, Ordering::Relaxed);
        handles.push(Arc::clone(&member.handle));
        let (traffic, probes) = (Arc::clone(traffic), Arc::clone(&probes));
        readers.add(member.stream, member.handle, move |bytes| {
            if probes.load(Ordering::Relaxed) < count as u64 {
                probes.fetch_add(1, Ordering::Relaxed);
                return Ok(());
            }
            traffic.delivered(index, bytes)
        });
    }
    traffic.speaker.send(&traffic.stanza, None)?;
    let all = || probes.load(Ordering::Relaxed) == count as u64;
    wait_for(&readers, JOIN_LIMIT, "the first message of the room", all).await?;
    Ok(readers)
}

/// Reads until the member's own presence comes back; unlocks a room that was just created.
async fn await_join(stream: &mut Stream, handle: &Handle, room: &str) -> Result<()> {
    let mut unlocking = false;
    loop {
        while let Some(item) = stream.take()? {
            let crate::xml::split::Item::Element(range) = item else {
                anyhow::bail!("the server closed the stream");
            };
            handle.incoming(stream.bytes(&range))?;
            let element = Element::parse(stream.bytes(&range), "jabber:client")?;
            if unlocking && element.name == "iq" && element.attribute("id") == Some("unlock") {
                // A server without locked rooms may refuse; the room is open either way.
                return Ok(());
            }
            if element.name != "presence" {
                continue;
            }
            ensure!(
                element.attribute("type") != Some("error"),
                "joining was refused: {}",
                element
                    .child("error", "jabber:client")
                    .map(crate::client::stream::condition)
                    .unwrap_or_default()
            );
            let Some(x) = element.child("x", MUC_USER) else {
                continue;
            };
            let has = |code| {
                let mut statuses = x.children.iter().filter(|child| child.name == "status");
                statuses.any(|status| status.attribute("code") == Some(code))
            };
            if has("110") {
                if has("201") {
                    let websocket = stream.is_websocket();
                    handle.send(&stanza::instant_room(websocket, room, "unlock"), None)?;
                    unlocking = true;
                    continue;
                }
                return Ok(());
            }
        }
        ensure!(stream.fill().await?, "the server closed the connection");
    }
}

impl Room {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn send(&self, mut state: MutexGuard<'_, State>) -> Result<()> {
        let occupants = state.had.len();
        state.under_way.push_back((Instant::now(), occupants));
        drop(state);
        Ok(self.speaker.send(&self.stanza, None)?)
    }
}

impl Traffic for Room {
    fn delivered(&self, index: usize, bytes: usize) -> Result<()> {
        let mut guard = self.state();
        let state = &mut *guard;
        let place = usize::try_from(state.had[index] - state.first)?;
        state.had[index] += 1;
        let (sent, lacking) = state
            .under_way
            .get_mut(place)
            .context("a message came that no session sent")?;
        *lacking -= 1;
        let complete = *lacking == 0;
        state.meter.record(sent.elapsed(), bytes);
        while state
            .under_way
            .front()
            .is_some_and(|(_, lacking)| *lacking == 0)
        {
            state.under_way.pop_front();
            state.first += 1;
        }
        if complete && state.closed_loop {
            self.send(guard)
        } else {
            Ok(())
        }
    }

    fn send_one(&self) -> Result<()> {
        self.send(self.state())
    }

    fn meter<T>(&self, look: impl FnOnce(&mut Meter) -> T) -> T {
        look(&mut self.state().meter)
    }

    fn stop(&self) {
        self.state().closed_loop = false;
    }

    fn outstanding(&self) -> u64 {
        self.state()
            .under_way
            .iter()
            .map(|(_, lacking)| *lacking as u64)
            .sum()
    }
}
