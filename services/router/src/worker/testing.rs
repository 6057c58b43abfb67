//! A router of one worker without tasks or sockets: inputs go in, frames and jobs come out.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64};

use parking_lot::Mutex;
use sestina_api::link::{EdgeLane, Unsent};
use sestina_api::peer::PeerSink;
use sestina_api::state_store::Loaded;
use sestina_cluster::slot_map::SlotTable;
use sestina_cluster::slots::SLOTS;
use sestina_proto as proto;
use sestina_proto::to_edge::Body as EdgeBody;
use sestina_proto::to_router::Body as RouterBody;
use sestina_xmpp::jid::Jid;

use super::core::{Core, Job, LaneRef};
use super::input::{Input, JobDone};
use super::trace_context::{Micros, edge_entering};
use super::turn::Worker;
use crate::config::RouterConfig;
use crate::hooks::Pipelines;
use crate::services::Services;

pub(crate) const LANE: LaneRef = LaneRef { edge: 9, lane: 0 };

/// Keeps what is sent to an edge.
#[derive(Default)]
pub(crate) struct ToEdge(
    pub(crate) Mutex<Vec<EdgeBody>>,
    /// The last batch that the edge has not acknowledged.
    pub(crate) Mutex<Option<u64>>,
    /// It is full.
    pub(crate) AtomicBool,
);

impl EdgeLane for ToEdge {
    fn send(&self, batch: proto::ToEdgeBatch) -> Result<(), Unsent<proto::ToEdgeBatch>> {
        if self.2.load(Relaxed) {
            return Err(Unsent::full(batch));
        }
        *self.1.lock() = Some(batch.seq);
        let bodies = batch.frames.into_iter().filter_map(|frame| frame.body);
        self.0.lock().extend(bodies);
        Ok(())
    }

    fn close(&self) {}
}

/// Keeps what is sent to a router.
#[derive(Default)]
pub(crate) struct ToPeer(
    pub(crate) Mutex<Vec<proto::PeerFrame>>,
    /// Frames that it takes before it is full; none: all.
    pub(crate) Mutex<Option<usize>>,
);

impl PeerSink for ToPeer {
    fn send(&self, frame: proto::PeerFrame) -> Result<(), Unsent<proto::PeerFrame>> {
        if let Some(room) = &mut *self.1.lock() {
            match room.checked_sub(1) {
                Some(left) => *room = left,
                None => return Err(Unsent::full(frame)),
            }
        }
        self.0.lock().push(frame);
        Ok(())
    }

    fn close(&self) {}
}

/// A router of one worker, with a lane to an edge and to the other router.
pub(crate) struct Router {
    pub(crate) worker: Worker,
    pub(crate) now_ms: u64,
    pub(crate) edge: Arc<ToEdge>,
    pub(crate) peer: Arc<ToPeer>,
    pub(crate) metrics: Arc<sestina_telemetry::Metrics>,
    pub(crate) config: Arc<RouterConfig>,
    /// Storage does not answer questions for resident data; else no user has any.
    pub(crate) holds_residents: bool,
}

pub(crate) fn node(incarnation: u64) -> proto::Node {
    proto::Node {
        name: format!("router-{incarnation}"),
        incarnation,
        role: proto::NodeRole::Router.into(),
        ..proto::Node::default()
    }
}

/// The answer to a question for resident data: the user has none.
fn no_residents(job: Job) -> Option<Input> {
    let Job::Residents {
        slot,
        epoch,
        question,
        user,
        ..
    } = job
    else {
        return None;
    };
    Some(Input::Done(JobDone::Residents {
        slot,
        epoch,
        question,
        user,
        items: Ok(Vec::new()),
    }))
}

impl Router {
    /// `slots` are those of the second router; the first has all others.
    pub(crate) fn new(me: u64, slots: &[u16], clock: fn() -> Micros) -> Router {
        Router::with(RouterConfig::default(), me, slots, clock)
    }

    /// The same with other settings.
    pub(crate) fn with(
        settings: RouterConfig,
        me: u64,
        slots: &[u16],
        clock: fn() -> Micros,
    ) -> Router {
        let services = Services::default()
            .with_host("c.example", true)
            .with_host("g.example", false)
            .with_rooms("muc.c.example", ["c.example"]);
        let config = Arc::new(RouterConfig {
            services,
            ..settings
        });
        let metrics = sestina_telemetry::Metrics::new();
        let mut core = Core::new(
            0,
            1,
            node(me),
            config.clone(),
            Arc::new(Pipelines::new(crate::modules::MODULES, &config.modules)),
            Arc::new(crate::metrics::Metrics::new(metrics.clone())),
            (0..SLOTS).map(|_| AtomicU64::new(0)).collect(),
        );
        core.clock = clock;
        let mut owners = vec![1; SLOTS];
        for slot in slots {
            owners[usize::from(*slot)] = 2;
        }
        let table = SlotTable::new(proto::SlotMap {
            version: 1,
            routers: vec![node(1), node(2)],
            owners,
            epochs: vec![1; SLOTS],
            ..proto::SlotMap::default()
        });
        let mut router = Router {
            worker: Worker::new(core),
            now_ms: 1_000,
            edge: Arc::default(),
            peer: Arc::default(),
            metrics,
            config,
            holds_residents: false,
        };
        let (edge, peer) = (router.edge.clone(), router.peer.clone());
        router.turn(vec![
            Input::Table(Arc::new(table.unwrap())),
            Input::EdgeLane {
                lane: LANE,
                instance: 1,
                lanes: 1,
                sink: edge,
            },
            Input::PeerLane {
                node: node(3 - me),
                sink: peer,
            },
        ]);
        router
    }

    pub(crate) fn turn(&mut self, inputs: Vec<Input>) -> Vec<Job> {
        let (mut others, mut jobs) = (Vec::new(), Vec::new());
        self.now_ms += 1;
        self.worker
            .turn(inputs, self.now_ms, 0, &mut others, &mut jobs);
        assert!(others.is_empty());
        if self.holds_residents {
            return jobs;
        }
        for slot in self.worker.slots.iter_mut() {
            slot.sessions
                .values_mut()
                .for_each(|s| s.client.residents.assume_none());
        }
        let is_question = |job: &mut Job| matches!(job, Job::Residents { .. });
        let questions: Vec<Job> = jobs.extract_if(.., is_question).collect();
        let answers: Vec<Input> = questions.into_iter().filter_map(no_residents).collect();
        if !answers.is_empty() {
            jobs.append(&mut self.turn(answers));
        }
        jobs
    }

    /// Takes a user's slot and binds a session of the user.
    pub(crate) fn session(&mut self, full: &str, handle: u64) -> u16 {
        let jid = Jid::from_wire(full);
        let slot = self.config.slot_of(&jid);
        self.turn(vec![
            Input::Take {
                slot,
                epoch: 1,
                live: Arc::from([]),
            },
            Input::Done(JobDone::ReplicaLoaded {
                slot,
                epoch: 1,
                result: Ok(Loaded::default()),
            }),
        ]);
        let bind = proto::Bind {
            handle,
            bare: jid.bare_str().to_owned(),
            resource: jid.resource().unwrap().to_owned(),
            ..proto::Bind::default()
        };
        self.edge_says(slot, RouterBody::Bind(bind), 0);
        slot
    }

    /// The client of a handle enables stream management with resumption.
    pub(crate) fn enable(&mut self, slot: u16, handle: u64) -> Vec<Job> {
        let enable = proto::EnableSm {
            handle,
            generation: 1,
            resume: true,
            max_s: 300,
            ..proto::EnableSm::default()
        };
        self.edge_says(slot, RouterBody::EnableSm(enable), 0)
    }

    pub(crate) fn edge_says(&mut self, slot: u16, body: RouterBody, now: Micros) -> Vec<Job> {
        let mut frame = proto::ToRouter {
            slot: slot.into(),
            epoch: 1,
            body: Some(body),
        };
        edge_entering(&mut frame, now);
        self.turn(vec![Input::Edge { lane: LANE, frame }])
    }
}
