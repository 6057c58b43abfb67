//! The common part of scenarios with messages: reading tasks, the meter, the course of a run.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use memchr::memmem;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::open::{Member, Target};
use super::outcome::{Latency, Outcome, Start};
use super::spec::{ServerSpec, Timing};
use crate::client::handle::{Handle, Kind};
use crate::client::stanza;
use crate::client::stream::Stream;
use crate::measure::histogram::Histogram;
use crate::measure::process::{own, usage};
use crate::xml::split::Item;

/// The prefix of bodies, so that a room's subject or a server's greeting is not counted.
pub const MARK: &str = "bench:";

/// A body of `bytes` bytes.
#[must_use]
pub fn body(bytes: usize) -> String {
    let padding = bytes.saturating_sub(MARK.len());
    format!("{MARK}{}", "x".repeat(padding))
}

/// The size of the floor's deliveries: that of the plan, or (0) about that of a server's message
/// with such a body.
#[must_use]
pub fn floor_delivery(planned: usize, body: usize) -> usize {
    match planned {
        0 => body + 230,
        bytes => bytes,
    }
}

/// The message that the floor gets from each session of a pair.
#[must_use]
pub fn floor_stanza(text: &str) -> Vec<u8> {
    stanza::message(false, "chat", "floor", "m", text)
}

/// The stanza of each session, where session 2p writes to session 2p + 1 and back.
///
/// # Errors
/// When there is no session.
pub fn pair_stanzas(target: &Target, members: &[Member], text: &str) -> Result<Vec<Vec<u8>>> {
    let websocket = members.first().context("no session")?.stream.is_websocket();
    let stanza = |index: usize| match target.is_floor() {
        true => floor_stanza(text),
        false => stanza::message(websocket, "chat", &members[index ^ 1].jid, "m", text),
    };
    Ok((0..members.len()).map(stanza).collect())
}

/// Counts deliveries while a measurement runs.
#[derive(Debug, Default)]
pub struct Meter {
    measuring: bool,
    latency: Histogram,
    bytes: u64,
}

impl Meter {
    /// Counts one delivery.
    pub fn record(&mut self, latency: Duration, bytes: usize) {
        if self.measuring {
            self.latency.record(latency);
            self.bytes += bytes as u64;
        }
    }
}

/// The messages under way; each scenario decides the reaction to a delivery.
pub trait Traffic: Send + Sync + 'static {
    /// Connection `index` received a message of `bytes` bytes.
    ///
    /// # Errors
    /// When the next message cannot be sent.
    fn delivered(&self, index: usize, bytes: usize) -> Result<()>;
    /// Sends one more message.
    ///
    /// # Errors
    /// When it cannot be sent.
    fn send_one(&self) -> Result<()>;
    /// The meter.
    fn meter<T>(&self, look: impl FnOnce(&mut Meter) -> T) -> T;
    /// Deliveries cause no further messages from now on.
    fn stop(&self);
    /// The number of deliveries that are still expected.
    fn outstanding(&self) -> u64;
}

/// The reading tasks of a run.
#[derive(Debug, Default)]
pub struct Readers {
    tasks: JoinSet<()>,
    failure: Arc<Mutex<Option<String>>>,
    failed: Arc<AtomicU64>,
    handles: Vec<Arc<Handle>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Readers {
    /// Reads for a member; `message` is called with each of its messages that has the mark.
    pub fn add(
        &mut self,
        stream: Stream,
        handle: Arc<Handle>,
        message: impl Fn(usize) -> Result<()> + Send + 'static,
    ) {
        self.handles.push(Arc::clone(&handle));
        let failure = Arc::clone(&self.failure);
        let failed = Arc::clone(&self.failed);
        self.tasks.spawn(async move {
            if let Err(error) = read(stream, &handle, message).await {
                failed.fetch_add(1, Ordering::Relaxed);
                lock(&failure).get_or_insert_with(|| format!("{error:#}"));
            }
        });
    }

    /// Reads for sessions that only stay online.
    pub fn add_idle(&mut self, members: Vec<Member>) {
        for member in members {
            self.add(member.stream, member.handle, |_| Ok(()));
        }
    }

    /// Checks that all connections are still open.
    ///
    /// # Errors
    /// When one has ended, with the reason.
    pub fn check(&self) -> Result<()> {
        match &*lock(&self.failure) {
            Some(failure) => bail!("a connection ended during the run: {failure}"),
            None => Ok(()),
        }
    }

    /// How many connections have ended.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    /// How often the server asked for acknowledgements so far.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.handles
            .iter()
            .map(|handle| handle.requests_answered())
            .sum()
    }

    /// Ends all sessions in order.
    pub async fn close(mut self) {
        for handle in &self.handles {
            // Without an acknowledgement these stanzas would be delivered again in the next run.
            if handle.requests_answered() > 0 && handle.acknowledge().is_err() {
                continue;
            }
            handle.close();
        }
        // Servers answer with the end of their stream; this time is enough for that.
        let all = async { while self.tasks.join_next().await.is_some() {} };
        drop(tokio::time::timeout(Duration::from_secs(5), all).await);
        for handle in &self.handles {
            handle.link().abandon();
        }
    }
}

async fn read(
    mut stream: Stream,
    handle: &Handle,
    message: impl Fn(usize) -> Result<()>,
) -> Result<()> {
    let mark = memmem::Finder::new(MARK);
    loop {
        while let Some(item) = stream.take()? {
            let Item::Element(range) = item else {
                return Ok(());
            };
            let element = stream.bytes(&range);
            match handle.incoming(element)? {
                Kind::Message if mark.find(element).is_some() => {
                    if memmem::find(element, b"type='error'").is_some() {
                        bail!("a message came back: {}", String::from_utf8_lossy(element));
                    }
                    message(element.len())?;
                }
                Kind::Other => bail!("unexpected: {}", String::from_utf8_lossy(element)),
                _ => {}
            }
        }
        ensure!(stream.fill().await?, "the server closed the connection");
    }
}

/// Runs traffic that was set up: warm-up, measurement, end.
///
/// # Errors
/// When a connection breaks, or messages do not arrive.
pub async fn run<T: Traffic>(
    server: &ServerSpec,
    timing: &Timing,
    readers: Readers,
    traffic: Arc<T>,
    unit: &str,
    start: Open,
) -> Result<Outcome> {
    let clock = match start {
        Open::Closed { in_flight } => {
            for _ in 0..in_flight {
                traffic.send_one()?;
            }
            None
        }
        Open::Rate(rate) => Some(tokio::spawn(open_loop(Arc::clone(&traffic), rate))),
    };
    let measured = measure(server, timing, &readers, &*traffic, unit).await;
    if let Some(clock) = clock {
        clock.abort();
    }
    traffic.stop();
    let deadline = Instant::now() + Duration::from_secs(5);
    while traffic.outstanding() > 0 && Instant::now() < deadline && readers.check().is_ok() {
        sleep(Duration::from_millis(5)).await;
    }
    let missing = traffic.outstanding();
    let checked = readers.check();
    readers.close().await;
    let outcome = measured?;
    checked?;
    ensure!(missing == 0, "{missing} deliveries never came");
    Ok(outcome)
}

/// The rate of messages.
#[derive(Debug, Clone, Copy)]
pub enum Open {
    /// A delivery allows the next message.
    Closed {
        /// Messages under way.
        in_flight: usize,
    },
    /// A number per second, independent of deliveries.
    Rate(f64),
}

async fn open_loop<T: Traffic>(traffic: Arc<T>, rate: f64) {
    let begin = Instant::now();
    let mut sent = 0u64;
    loop {
        let due = begin + Duration::from_secs_f64(sent as f64 / rate.max(1e-3));
        tokio::time::sleep_until(due.into()).await;
        if traffic.send_one().is_err() {
            // The reading task of that connection reports why.
            return;
        }
        sent += 1;
    }
}

async fn measure<T: Traffic>(
    server: &ServerSpec,
    timing: &Timing,
    readers: &Readers,
    traffic: &T,
    unit: &str,
) -> Result<Outcome> {
    sleep(Duration::from_secs_f64(timing.warmup_s)).await;
    readers.check()?;
    let start = Start {
        usage: usage(&server.pids)?,
        own: own()?,
    };
    let requests = readers.requests();
    traffic.meter(|meter| {
        *meter = Meter {
            measuring: true,
            ..Meter::default()
        }
    });
    let begin = Instant::now();
    sleep(Duration::from_secs_f64(timing.duration_s)).await;
    let meter = traffic.meter(std::mem::take);
    let wall_s = begin.elapsed().as_secs_f64();
    let end = Start {
        usage: usage(&server.pids)?,
        own: own()?,
    };
    let requests = readers.requests() - requests;
    readers.check()?;
    let count = meter.latency.count();
    ensure!(
        count > 0,
        "nothing was delivered within {:.1} s",
        timing.duration_s
    );
    let mut outcome = start.outcome(&end, unit, count, wall_s);
    outcome.latency = Latency::from(&meter.latency);
    outcome.requests_per_1000 = requests as f64 * 1000.0 / count as f64;
    outcome.delivery_bytes = meter.bytes as f64 / count as f64;
    Ok(outcome)
}

/// Waits for `done` with a limit; the error names what was awaited.
///
/// # Errors
/// When the limit passes or a connection breaks.
pub async fn wait_for(
    readers: &Readers,
    limit: Duration,
    what: &str,
    done: impl Fn() -> bool,
) -> Result<()> {
    let deadline = Instant::now() + limit;
    while !done() {
        readers
            .check()
            .with_context(|| format!("while waiting for {what}"))?;
        ensure!(
            Instant::now() < deadline,
            "{what} did not come within {limit:?}"
        );
        sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}
