//! One lane to one router: opened, watched and opened again until the router leaves the map.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use sestina_api::link::{EdgeSink, LinkError, RouterPort, RouterSink, Unsent};
use sestina_proto as proto;
use sestina_proto::versions::Range;
use sestina_runtime::CancellationToken;
use sestina_runtime::failpoint;
use tokio::sync::Notify;

use crate::attachment::hands::Sent;
use crate::metrics::{Count, Level};
use crate::shared::Shared;

/// The open connection of a lane. Each opening has a number, so that a session knows whether what
/// it sent went into this opening or an earlier one.
struct Open {
    attempt: u64,
    sink: Arc<dyn RouterSink>,
}

/// What is known of the opening under way: both the sink and the Welcome must be there before
/// anything is sent.
#[derive(Default)]
struct Opening {
    attempt: u64,
    sink: Option<Arc<dyn RouterSink>>,
    welcomed: bool,
    /// Both were there.
    served: bool,
    ended: bool,
}

/// All lanes to one incarnation of a router.
pub(crate) struct LaneSet {
    pub(crate) router: proto::Node,
    pub(crate) port: Arc<dyn RouterPort>,
    pub(crate) lanes: Vec<Arc<Lane>>,
    stop: CancellationToken,
    /// Whether it is in the log already that the router answers with an unknown version.
    told: AtomicBool,
}

impl LaneSet {
    /// Makes the set; its lanes open when [`LaneSet::run`] is called.
    pub(crate) fn new(router: proto::Node, port: Arc<dyn RouterPort>, lanes: u32) -> Arc<LaneSet> {
        Arc::new(LaneSet {
            lanes: (0..lanes.max(1))
                .map(|index| Arc::new(Lane::new(index)))
                .collect(),
            router,
            port,
            stop: CancellationToken::new(),
            told: AtomicBool::new(false),
        })
    }

    /// Starts the task of each lane.
    pub(crate) fn run(self: &Arc<Self>, shared: &Arc<Shared>) {
        for lane in &self.lanes {
            let task = keep_open(Arc::clone(self), Arc::clone(lane), Arc::clone(shared));
            shared.tasks.spawn("lane", task);
        }
    }

    /// The lane of a slot.
    pub(crate) fn lane(&self, slot: u16) -> &Arc<Lane> {
        &self.lanes[usize::from(slot) % self.lanes.len()]
    }

    /// Whether this set leads to that incarnation.
    pub(crate) fn is(&self, node: &proto::Node) -> bool {
        self.router.name == node.name && self.router.incarnation == node.incarnation
    }

    /// Ends all lanes for good.
    pub(crate) fn stop(&self) {
        self.stop.cancel();
    }
}

impl std::fmt::Debug for LaneSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "LaneSet({}/{:x})",
            self.router.name, self.router.incarnation
        )
    }
}

/// One opening of a lane. Frames that were sent on an opening that has ended are sent again on the
/// next.
#[derive(Clone)]
pub(crate) struct Opened {
    lane: Arc<Lane>,
    attempt: u64,
}

impl Opened {
    /// Sends a frame.
    pub(crate) fn send(&self, frame: proto::ToRouter) -> Sent {
        self.lane.send(self.attempt, frame)
    }

    /// Bytes that wait for the router.
    pub(crate) fn waiting(&self) -> usize {
        match &*self.lane.open.load() {
            Some(open) if open.attempt == self.attempt => open.sink.waiting(),
            _ => 0,
        }
    }
}

/// One lane.
pub(crate) struct Lane {
    pub(crate) index: u32,
    open: ArcSwapOption<Open>,
    opening: Mutex<Opening>,
    attempts: AtomicU64,
    ended: Notify,
}

impl Lane {
    fn new(index: u32) -> Lane {
        Lane {
            index,
            open: ArcSwapOption::empty(),
            opening: Mutex::new(Opening::default()),
            attempts: AtomicU64::new(0),
            ended: Notify::new(),
        }
    }

    /// The number of the present opening, if the lane is open.
    pub(crate) fn attempt(&self) -> Option<u64> {
        self.open.load().as_ref().map(|o| o.attempt)
    }

    /// Sends a frame into that opening; if it is over, everything not acknowledged is sent again on
    /// the next one.
    pub(crate) fn send(&self, attempt: u64, frame: proto::ToRouter) -> Sent {
        match &*self.open.load() {
            Some(open) if open.attempt == attempt => match open.sink.send(frame) {
                Ok(()) => Sent::Yes,
                Err(Unsent::Full(frame)) => Sent::Full(frame),
                Err(Unsent::Closed) => {
                    self.end(attempt);
                    Sent::Over
                }
            },
            _ => Sent::Over,
        }
    }

    /// The present opening, if the lane is open.
    pub(crate) fn opened(self: &Arc<Self>) -> Option<Opened> {
        self.attempt().map(|attempt| Opened {
            lane: Arc::clone(self),
            attempt,
        })
    }

    /// The opening is over: nothing more is sent into it, and the lane's task opens a new one.
    fn end(&self, attempt: u64) {
        let mut opening = self.opening.lock();
        if opening.attempt != attempt || opening.ended {
            return;
        }
        opening.ended = true;
        self.open.store(None);
        drop(opening);
        self.ended.notify_one();
    }

    fn begin(&self) -> u64 {
        let attempt = self.attempts.fetch_add(1, Ordering::Relaxed) + 1;
        *self.opening.lock() = Opening {
            attempt,
            ..Opening::default()
        };
        attempt
    }

    /// Notes that half of an opening is there. True when both halves are: exactly once.
    fn complete(&self, attempt: u64, sink: Option<Arc<dyn RouterSink>>, welcomed: bool) -> bool {
        let mut opening = self.opening.lock();
        if opening.attempt != attempt || opening.ended || self.open.load().is_some() {
            return false;
        }
        opening.welcomed |= welcomed;
        if sink.is_some() {
            opening.sink = sink;
        }
        match (&opening.sink, opening.welcomed) {
            (Some(sink), true) => {
                self.open.store(Some(Arc::new(Open {
                    attempt,
                    sink: Arc::clone(sink),
                })));
                opening.served = true;
                true
            }
            _ => false,
        }
    }

    fn is_ended(&self, attempt: u64) -> bool {
        let opening = self.opening.lock();
        opening.attempt != attempt || opening.ended
    }
}

/// Receives what the router sends in one opening.
struct Receiver {
    attempt: u64,
    set: Arc<LaneSet>,
    lane: Arc<Lane>,
    shared: Arc<Shared>,
}

impl Receiver {
    fn ready(&self) {
        failpoint!("edge.lane_opened");
        self.shared.metrics.count(Count::LaneOpened, 1);
        self.shared.metrics.level(Level::Lanes, 1);
        self.shared.reach_changed.notify_one();
        let (lane, lanes) = (self.lane.index, self.set.lanes.len() as u32);
        let attachments = &self.shared.attachments;
        attachments.lane_ready(&self.shared, &self.set, lane, lanes);
    }
}

impl EdgeSink for Receiver {
    fn deliver(&self, batch: proto::ToEdgeBatch) {
        if self.lane.is_ended(self.attempt) {
            return;
        }
        for frame in &batch.frames {
            let welcome = match &frame.body {
                Some(proto::to_edge::Body::Welcome(welcome)) => welcome,
                Some(proto::to_edge::Body::TicketKeys(keys)) => {
                    self.shared.take_ticket_keys(keys);
                    continue;
                }
                _ => continue,
            };
            let named = welcome.router.as_ref();
            if !named.is_some_and(|named| self.set.is(named)) {
                tracing::error!(
                    router = %self.set.router.name,
                    "another process than the router that was dialled answered"
                );
                self.lane.end(self.attempt);
                return;
            }
            // The router chooses among the versions that Hello offers.
            if !Range::ours().has(welcome.version) {
                if !self.set.told.swap(true, Ordering::AcqRel) {
                    tracing::error!(
                        router = %self.set.router.name,
                        theirs = welcome.version,
                        ours = %Range::ours(),
                        "a router chose a version of the protocol between tiers that this edge does \
                         not speak; upgrade one of the two"
                    );
                }
                self.lane.end(self.attempt);
                return;
            }
            self.shared.welcome(welcome);
            if self.lane.complete(self.attempt, None, true) {
                self.ready();
            }
        }
        if !self.shared.check_lease() {
            // Nothing of this is taken: the router sends it again on the next opening.
            self.lane.end(self.attempt);
            return;
        }
        let attachments = &self.shared.attachments;
        let ack = attachments.take_batch(&self.shared, &self.set, batch);
        drop(self.lane.send(self.attempt, ack));
    }

    fn room(&self) {
        self.shared.lane_room.notify_one();
    }

    fn closed(&self) {
        self.lane.end(self.attempt);
    }
}

/// The task of a lane.
async fn keep_open(set: Arc<LaneSet>, lane: Arc<Lane>, shared: Arc<Shared>) {
    const FIRST: Duration = Duration::from_millis(50);
    const LAST: Duration = Duration::from_secs(2);
    let mut backoff = FIRST;
    loop {
        let attempt = lane.begin();
        let opened = tokio::select! {
            () = set.stop.cancelled() => return,
            () = shared.stop.cancelled() => return,
            opened = open(&set, &lane, &shared, attempt) => opened,
        };
        match opened {
            Ok(sink) => {
                let was_open = tokio::select! {
                    () = set.stop.cancelled() => None,
                    () = shared.stop.cancelled() => None,
                    () = wait_end(&lane, attempt) => Some(()),
                    () = unwelcomed(&lane) => {
                        tracing::warn!(router = %set.router.name, lane = lane.index,
                            "the router accepted the lane and sent no Welcome within 5 s; opening the lane again");
                        Some(())
                    }
                };
                let served = lane.opening.lock().served;
                lane.end(attempt);
                sink.close();
                if served {
                    shared.metrics.count(Count::LaneLost, 1);
                    shared.metrics.level(Level::Lanes, -1);
                    shared.reach_changed.notify_one();
                    backoff = FIRST;
                }
                if was_open.is_none() {
                    return;
                }
            }
            Err(error) => {
                tracing::debug!(router = %set.router.name, lane = lane.index, %error, "lane not open");
            }
        }
        let pause = backoff.mul_f64(0.75 + rand::random::<f64>() / 2.0);
        tokio::select! {
            () = set.stop.cancelled() => return,
            () = shared.stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
        backoff = (backoff * 2).min(LAST);
    }
}

/// Returns if the router has not sent Welcome within 5 s. Never returns if it has.
async fn unwelcomed(lane: &Lane) {
    const WELCOME: Duration = Duration::from_secs(5);
    tokio::time::sleep(WELCOME).await;
    if lane.opening.lock().served {
        std::future::pending::<()>().await;
    }
}

async fn wait_end(lane: &Lane, attempt: u64) {
    while !lane.is_ended(attempt) {
        lane.ended.notified().await;
    }
}

async fn open(
    set: &Arc<LaneSet>,
    lane: &Arc<Lane>,
    shared: &Arc<Shared>,
    attempt: u64,
) -> Result<Arc<dyn RouterSink>, LinkError> {
    let receiver = Arc::new(Receiver {
        attempt,
        set: Arc::clone(set),
        lane: Arc::clone(lane),
        shared: Arc::clone(shared),
    });
    let me = shared.holder();
    let Range { oldest, newest } = Range::ours();
    let hello = proto::Hello {
        edge: Some(me.node),
        secret: me.secret.to_wire(),
        lane: lane.index,
        lanes: set.lanes.len() as u32,
        newest,
        oldest,
        config_hash: shared.config.config_hash,
        to: set.router.incarnation,
    };
    let sink = set
        .port
        .open_lane(hello, receiver.clone() as Arc<dyn EdgeSink>)
        .await?;
    if lane.complete(attempt, Some(Arc::clone(&sink)), false) {
        receiver.ready();
    }
    Ok(sink)
}
