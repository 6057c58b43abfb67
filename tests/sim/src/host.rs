//! A router process around its workers: what `process` of the router does with tasks happens here step
//! by step.
//!
//! - [`table`]: its slot table, and the processes that it takes for alive

mod table;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use sestina_cluster::slot_map::SlotTable;
use sestina_proto as proto;
use sestina_proto::peer_frame::Body as PeerBody;

use super::client::number_in;
use super::jobs::{Asker, JobState};
use sestina_router::config::RouterConfig;
use sestina_router::simulation::{
    Command, Counters, Input, Job, LaneRef, PeerRef, Worker, split_event,
};

/// What a router process is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Life {
    Running,
    /// Its machine has stopped it until this time.
    Suspended {
        until: u64,
    },
    /// It goes on after its slots were given to others, and works so many turns before it learns that.
    Late {
        turns: u32,
    },
    Dead,
}

/// The lane of a router to another one.
#[derive(Debug, Default)]
pub(super) struct Keeper {
    /// Its connection, if one is open.
    pub(super) conn: Option<u64>,
    /// When to open it again.
    pub(super) retry_at: u64,
}

/// See the module.
pub(super) struct Host {
    pub(super) node: proto::Node,
    pub(super) life: Life,
    pub(super) workers: Vec<Worker>,
    pub(super) counters: Counters,
    /// The inputs that wait for each worker.
    pub(super) inbox: Vec<VecDeque<Input>>,
    /// The newest slot table that it has read.
    pub(super) table: Arc<SlotTable>,
    /// The position of the table that its workers have.
    pub(super) watched: proto::Position,
    /// The newest timeline on which it has told storage what it holds; 0: it has no table yet.
    pub(super) timeline: u64,
    /// The slots that it has told its workers to take, with their epochs.
    mine: BTreeMap<u16, u64>,
    /// The processes that it takes for alive, by incarnation.
    pub(super) live: BTreeMap<u64, proto::Node>,
    /// Its lanes to other routers, by their incarnations.
    pub(super) keepers: BTreeMap<u64, Keeper>,
    pub(super) jobs: Vec<JobState>,
    last_tick: u64,
    /// How far its wall clock is ahead of the true time, in milliseconds.
    pub(super) wall_ahead: i64,
}

impl Host {
    pub(super) fn new(node: proto::Node, config: &Arc<RouterConfig>, workers: u32) -> Host {
        let (workers, counters) = sestina_router::simulation::workers(&node, config, workers);
        Host {
            node,
            life: Life::Running,
            inbox: workers.iter().map(|_| VecDeque::new()).collect(),
            workers,
            counters,
            table: Arc::new(SlotTable::empty()),
            watched: proto::Position::default(),
            timeline: 0,
            mine: BTreeMap::new(),
            live: BTreeMap::new(),
            keepers: BTreeMap::new(),
            jobs: Vec::new(),
            last_tick: 0,
            wall_ahead: 0,
        }
    }

    /// This router as one that asks for a job.
    pub(super) fn asker(&self, at: u64) -> Asker {
        Asker {
            node: self.node.clone(),
            known: self.table.position(),
            at,
        }
    }

    pub(super) fn incarnation(&self) -> u64 {
        self.node.incarnation
    }

    /// Whether its workers work: it runs, or has not learned yet that it was replaced.
    pub(super) fn acts(&self) -> bool {
        matches!(self.life, Life::Running | Life::Late { .. })
    }

    /// Whether what it holds counts as held: it may be suspended, but is neither dead nor replaced.
    pub(super) fn is_alive(&self) -> bool {
        matches!(self.life, Life::Running | Life::Suspended { .. })
    }

    /// Whether the message with this number is on its way from it to the offline store.
    pub(super) fn stores(&self, number: u64) -> bool {
        self.jobs.iter().any(|job| match job {
            JobState::Asked {
                job: Job::Offline { rows, .. },
                ..
            } => rows
                .iter()
                .any(|row| number_in(row.stanza.as_ref()) == Some(number)),
            _ => false,
        })
    }

    pub(super) fn is_running(&self) -> bool {
        self.life == Life::Running
    }

    /// Whether one of its sessions has no connection and waits for a resumption.
    pub(super) fn has_detached(&self) -> bool {
        self.workers.iter().any(Worker::has_detached)
    }

    /// Whether one of its sessions is being sent offline messages or pages of its archive.
    pub(super) fn reads_in_bulk(&self) -> bool {
        self.workers.iter().any(Worker::reads_in_bulk)
    }

    /// Puts an input behind those that wait for a worker.
    pub(super) fn push(&mut self, worker: usize, input: Input) {
        if let Some(inbox) = self.inbox.get_mut(worker) {
            inbox.push_back(input);
        }
    }

    /// Puts an input behind those that wait for each worker.
    pub(super) fn push_all(&mut self, mut input: impl FnMut() -> Input) {
        for inbox in &mut self.inbox {
            inbox.push_back(input());
        }
    }

    fn worker_of(&self, slot: u32) -> usize {
        slot as usize % self.workers.len().max(1)
    }

    /// Takes a frame of another router, or of another worker of this one.
    pub(super) fn dispatch(&mut self, from: PeerRef, frame: proto::PeerFrame) {
        match frame.body {
            Some(PeerBody::SlotMap(map)) => self.offer(&map),
            Some(PeerBody::RoomEvent(event)) if from.0 != self.incarnation() => {
                for (worker, part) in split_event(event, self.workers.len() as u32) {
                    let body = Some(PeerBody::RoomEvent(part));
                    let frame = proto::PeerFrame {
                        slot: worker,
                        epoch: frame.epoch,
                        body,
                    };
                    self.push(worker as usize, Input::Peer { from, frame });
                }
            }
            Some(PeerBody::RoomAsk(ask)) if from.0 != self.incarnation() => {
                for worker in 0..self.workers.len() {
                    let frame = proto::PeerFrame {
                        slot: worker as u32,
                        epoch: frame.epoch,
                        body: Some(PeerBody::RoomAsk(ask)),
                    };
                    self.push(worker, Input::Peer { from, frame });
                }
            }
            _ => {
                let worker = self.worker_of(frame.slot);
                self.push(worker, Input::Peer { from, frame });
            }
        }
    }

    /// Takes a frame of an edge.
    pub(super) fn edge_frame(&mut self, lane: LaneRef, frame: proto::ToRouter) {
        let worker = match &frame.body {
            Some(proto::to_router::Body::LaneAck(ack)) => ack.worker as usize,
            _ => self.worker_of(frame.slot),
        };
        // An acknowledgement of a batch that the process itself has sent names no worker, and is dropped.
        self.push(worker, Input::Edge { lane, frame });
    }

    /// Orders that a slot is handed over to another router.
    pub(super) fn hand_over(&mut self, slot: u16, to: &proto::Node) {
        let command = Command::HandOver {
            slots: vec![slot],
            to: to.clone(),
        };
        self.push(self.worker_of(slot.into()), Input::Command(command));
    }

    /// One turn of a worker, with the first `count` of the inputs that wait for it.
    pub(super) fn turn(&mut self, worker: usize, count: usize, now: u64) {
        let count = count.min(self.inbox[worker].len());
        let inputs: Vec<Input> = self.inbox[worker].drain(..count).collect();
        let mut others = Vec::new();
        let mut jobs = Vec::new();
        let wall = now as i64 + self.wall_ahead;
        self.workers[worker].turn(inputs, now, wall, &mut others, &mut jobs);
        let me = PeerRef(self.incarnation());
        for frame in others {
            self.dispatch(me, frame);
        }
        self.jobs
            .extend(jobs.into_iter().map(|job| JobState::Asked {
                worker,
                job,
                at: now,
            }));
        if let Life::Late { turns } = &mut self.life {
            *turns = turns.saturating_sub(1);
        }
    }

    /// Whether its workers are due to look at their timers; if so, counts that as done.
    pub(super) fn tick_due(&mut self, now: u64) -> bool {
        let patience = self.workers.iter().filter_map(Worker::patience).min();
        let told = self.workers.iter().filter_map(Worker::progress_due);
        let due = now >= self.last_tick + patience.unwrap_or(100)
            || told.min().is_some_and(|due| now >= due);
        if due {
            self.last_tick = now;
        }
        due
    }
}
