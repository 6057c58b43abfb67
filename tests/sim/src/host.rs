//! A router process around its workers: what `process` does with tasks, here step by step.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use sestina_api::shadow::{Loading, ShadowError};
use sestina_cluster::slot_map::{SlotTable, newer};
use sestina_proto as proto;
use sestina_proto::peer_frame::Body as PeerBody;

use super::client::number_in;
use super::state_store::{Fate, Shadow};
use super::stores::Storage;
use sestina_router::config::RouterConfig;
use sestina_router::simulation::{
    Command, Counters, Input, Job, JobDone, Known, PeerRef, Worker, split_event,
};

/// What a process is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Life {
    Running,
    /// Stopped by its machine until then.
    Suspended {
        until: u64,
    },
    /// Back after it was replaced: works that many turns before it learns of it.
    Late {
        turns: u32,
    },
    Dead,
}

/// A job on its way to a store, or an answer on its way back.
#[derive(Debug)]
pub(super) enum JobState {
    Asked {
        worker: usize,
        job: Job,
        at: u64,
    },
    Answered {
        worker: usize,
        done: JobDone,
    },
    /// A slot is being loaded.
    Loading {
        worker: usize,
        slot: u16,
        epoch: u64,
        loading: Loading,
    },
}

/// Lane to another router.
#[derive(Debug, Default)]
pub(super) struct Keeper {
    pub(super) conn: Option<u64>,
    pub(super) retry_at: u64,
}

/// See the module.
pub(super) struct Host {
    pub(super) node: proto::Node,
    pub(super) life: Life,
    pub(super) workers: Vec<Worker>,
    pub(super) counters: Counters,
    pub(super) inbox: Vec<VecDeque<Input>>,
    pub(super) table: Arc<SlotTable>,
    /// The table that the workers have.
    pub(super) watched: proto::Position,
    /// The newest timeline on which it has asserted what it holds; 0: it knows no table.
    pub(super) timeline: u64,
    mine: BTreeMap<u16, u64>,
    pub(super) live: BTreeMap<u64, proto::Node>,
    pub(super) keepers: BTreeMap<u64, Keeper>,
    pub(super) jobs: Vec<JobState>,
    last_tick: u64,
    /// How far its clock is ahead of others'.
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

    pub(super) fn incarnation(&self) -> u64 {
        self.node.incarnation
    }

    /// Whether it does anything.
    pub(super) fn acts(&self) -> bool {
        matches!(self.life, Life::Running | Life::Late { .. })
    }

    /// It has what it holds: it may be suspended, but is not replaced.
    pub(super) fn is_alive(&self) -> bool {
        matches!(self.life, Life::Running | Life::Suspended { .. })
    }

    /// Whether it is storing a message.
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

    /// Whether a session waits for a resumption here.
    pub(super) fn has_detached(&self) -> bool {
        self.workers.iter().any(Worker::has_detached)
    }

    /// Whether a session is being given what is stored, or pages of its archive.
    pub(super) fn reads_in_bulk(&self) -> bool {
        self.workers.iter().any(Worker::reads_in_bulk)
    }

    pub(super) fn push(&mut self, worker: usize, input: Input) {
        if let Some(inbox) = self.inbox.get_mut(worker) {
            inbox.push_back(input);
        }
    }

    pub(super) fn push_all(&mut self, mut input: impl FnMut() -> Input) {
        for inbox in &mut self.inbox {
            inbox.push_back(input());
        }
    }

    fn worker_of(&self, slot: u32) -> usize {
        slot as usize % self.workers.len().max(1)
    }

    /// A frame of another router, or of another worker of this one.
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

    pub(super) fn edge_frame(
        &mut self,
        lane: sestina_router::simulation::LaneRef,
        frame: proto::ToRouter,
    ) {
        let worker = match &frame.body {
            Some(proto::to_router::Body::LaneAck(ack)) => ack.worker as usize,
            _ => self.worker_of(frame.slot),
        };
        // The process's own batches are acknowledged to nobody.
        self.push(worker, Input::Edge { lane, frame });
    }

    pub(super) fn offer(&mut self, map: &proto::SlotMap) {
        if newer(map.position(), self.table.position())
            && let Ok(table) = SlotTable::new(map.clone())
        {
            self.table = Arc::new(table);
        }
    }

    /// Whether it has to assert what it holds before it believes its table.
    pub(super) fn has_to_assert(&self) -> bool {
        self.timeline > 0 && self.table.position().timeline > self.timeline
    }

    /// Tells storage what it holds. What is on its way to its workers comes before the question.
    pub(super) fn assert(&mut self, storage: &mut Storage, now: u64) {
        for worker in 0..self.workers.len() {
            self.turn(worker, usize::MAX, now);
        }
        let held: BTreeMap<u16, u64> = self.workers.iter().flat_map(Worker::held).collect();
        for slot in storage.assert(&self.node, &held) {
            let epoch = storage.map.epochs[usize::from(slot)].max(held[&slot] + 1);
            self.push(self.worker_of(slot.into()), Input::Lose { slot, epoch });
        }
        self.offer(&storage.map);
        self.timeline = self.table.position().timeline;
    }

    /// What both authorities say of who is alive.
    pub(super) fn refresh(&mut self, fresh: &BTreeMap<u64, proto::Node>) {
        let me = self.incarnation();
        let gone: Vec<u64> = self
            .live
            .keys()
            .filter(|i| !fresh.contains_key(i) && **i != me)
            .copied()
            .collect();
        for incarnation in gone {
            self.live.remove(&incarnation);
            self.push_all(|| Input::NodeGone { incarnation });
        }
        self.live.extend(fresh.iter().map(|(i, n)| (*i, n.clone())));
    }

    /// Tells the workers of a newer table.
    pub(super) fn watch(&mut self, fresh: &BTreeMap<u64, proto::Node>) {
        let table = self.table.clone();
        self.watched = table.position();
        self.timeline = self.watched.timeline;
        self.push_all(|| Input::Table(table.clone()));
        let owned: BTreeMap<u16, u64> = table
            .slots_of(&self.node)
            .map(|slot| (slot, table.epoch(slot)))
            .collect();
        let lost: Vec<u16> = self
            .mine
            .keys()
            .filter(|s| !owned.contains_key(s))
            .copied()
            .collect();
        for slot in lost {
            self.mine.remove(&slot);
            let worker = self.worker_of(slot.into());
            self.push(
                worker,
                Input::Lose {
                    slot,
                    epoch: table.epoch(slot),
                },
            );
        }
        let new: Vec<(u16, u64)> = owned
            .into_iter()
            .filter(|(slot, epoch)| self.mine.get(slot) != Some(epoch))
            .collect();
        if new.is_empty() {
            return;
        }
        self.refresh(fresh);
        let live: Arc<[proto::Node]> = self.live.values().cloned().collect();
        for (slot, epoch) in new {
            self.mine.insert(slot, epoch);
            let worker = self.worker_of(slot.into());
            self.push(
                worker,
                Input::Take {
                    slot,
                    epoch,
                    live: live.clone(),
                },
            );
        }
    }

    pub(super) fn hand_over(&mut self, slots: &[u16], to: &proto::Node) {
        for slot in slots {
            let worker = self.worker_of((*slot).into());
            let command = Command::HandOver {
                slots: vec![*slot],
                to: to.clone(),
            };
            self.push(worker, Input::Command(command));
        }
    }

    /// One turn of a worker with the first `count` inputs that wait for it.
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

    /// Whether its workers should look at their timers.
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

/// Who asks for a job, and the table that it has.
#[derive(Clone, Debug)]
pub(super) struct Asker {
    pub(super) node: proto::Node,
    pub(super) known: proto::Position,
    pub(super) at: u64,
}

/// Does a job at the stores; `None` if it has to wait.
pub(super) fn perform(
    job: &Job,
    asker: &Asker,
    now: u64,
    storage: &mut Storage,
    shadow: &mut Shadow,
    fate: Fate,
) -> Option<JobDone> {
    const QUESTION: u64 = 500;
    let late = now > asker.at + QUESTION;
    Some(match job {
        Job::Archive { rows, works } => {
            if storage.away {
                return None;
            }
            let fenced = storage.archive(rows);
            let refused = |row: &proto::ArchiveRow| {
                fenced.contains(&row.fence.as_ref().map_or(0, |f| f.slot))
            };
            let both = rows.iter().cloned().zip(works.iter().copied());
            let fenced = both.filter(|(row, _)| refused(row)).collect();
            JobDone::Archive {
                slots: rows.iter().map(|r| fence_slot(r.fence.as_ref())).collect(),
                works: works.clone(),
                fenced,
            }
        }
        Job::Offline { rows, works } => {
            if storage.away {
                return None;
            }
            let fenced = storage.offline_append(rows);
            let refused = |row: &proto::OfflineRow| {
                fenced.contains(&row.fence.as_ref().map_or(0, |f| f.slot))
            };
            let both = rows.iter().cloned().zip(works.iter().copied());
            let fenced = both.filter(|(row, _)| refused(row)).collect();
            JobDone::Offline {
                slots: rows.iter().map(|r| fence_slot(r.fence.as_ref())).collect(),
                works: works.clone(),
                fenced,
                full: Vec::new(),
            }
        }
        Job::UserKnown { slot, bare, keys } => {
            if storage.away && !late {
                return None;
            }
            let known = if storage.away {
                Err(())
            } else {
                Ok(Known {
                    exists: storage.accounts.contains(bare),
                    stored: storage.offline_known(bare, keys),
                })
            };
            JobDone::UserKnown {
                slot: *slot,
                bare: bare.clone(),
                known,
            }
        }
        Job::OfflineList(read) => {
            if storage.away && !late {
                return None;
            }
            let page = if storage.away {
                storage.unread.insert(read.request.bare.clone());
                Err(())
            } else {
                Ok(storage.offline_list(&read.request))
            };
            let read = read.clone();
            JobDone::OfflineList { read, page }
        }
        Job::Keys { .. } => JobDone::Keys,
        Job::OfflineRemove {
            slot,
            session,
            request,
        } => {
            if storage.away {
                return None;
            }
            let fenced = !storage.offline_remove(request);
            JobDone::OfflineRemoved {
                slot: *slot,
                session: *session,
                request: request.clone(),
                fenced,
            }
        }
        Job::ArchiveQuery { query, request } => {
            if storage.away && !late {
                return None;
            }
            let page = if storage.away {
                Err(())
            } else {
                Ok(storage.page(request))
            };
            let query = query.clone();
            JobDone::ArchiveQuery { query, page }
        }
        Job::Shadow { slot, at, ops } => JobDone::Shadow {
            slot: *slot,
            at: *at,
            result: shadow.write(*slot, *at, ops, fate, now),
        },
        Job::ShadowList { slot, at } => {
            let away = ShadowError::Away("simulated".to_owned());
            JobDone::ShadowListed {
                slot: *slot,
                at: *at,
                result: match fate {
                    Fate::Answered => shadow.list(*slot, *at),
                    Fate::Unanswered => shadow.list(*slot, *at).and(Err(away)),
                    Fate::Lost | Fate::Late { .. } => Err(away),
                },
            }
        }
        // In parts: see `World::load`.
        Job::ShadowLoad { .. } => return None,
        Job::Release { slot, epoch, to } => {
            let moved = !storage.away
                && !shadow.away
                && storage.move_slot((*slot, *epoch), (&asker.node, to), asker.known);
            JobDone::Released {
                slot: *slot,
                epoch: *epoch,
                done: moved,
            }
        }
        Job::Raise { slot, known } => {
            if !storage.away {
                storage.raise(*slot, *known, &asker.node, asker.known);
            }
            JobDone::Raised { slot: *slot }
        }
    })
}

fn fence_slot(fence: Option<&proto::Fence>) -> (u16, u64) {
    fence.map_or((u16::MAX, 0), |f| (f.slot as u16, f.epoch))
}
