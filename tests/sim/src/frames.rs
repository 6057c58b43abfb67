//! Frames arrive where they were sent, and the ends of connections learn that those are over.

use std::collections::BTreeSet;

use prost::Message as _;
use sestina_api::state_store::ReplicaOp;
use sestina_proto as proto;
use sestina_proto::to_edge::Body as Down;

use super::check::bare;
use super::client::number_in;
use super::host::Keeper;
use super::jobs::JobState;
use super::net::{Conn, Ends};
use super::trace;
use super::world::World;
use sestina_router::simulation::{Input, Job, LaneRef, PeerRef};

/// A frame that a router process itself sends to an edge, not one of its workers for a slot.
pub(super) fn process_frame(body: Down) -> proto::ToEdge {
    proto::ToEdge {
        slot: 0,
        epoch: 0,
        body: Some(body),
    }
}

impl World {
    /// Takes the next frame of one direction of a connection; with the ends of the connection.
    fn taken<T>(&self, id: u64, next: impl FnOnce(&mut Conn) -> Option<T>) -> Option<(Ends, T)> {
        let mut net = self.net.lock();
        let conn = net.conns.get_mut(&id)?;
        next(conn).map(|taken| (conn.ends, taken))
    }

    /// A frame of an edge arrives at a router.
    pub(super) fn up(&mut self, id: u64) {
        let taken = self.taken(id, |conn| conn.up.pop_front());
        let Some((Ends::Edge { edge, router, lane }, frame)) = taken else {
            return;
        };
        self.note(|| format!("e{edge}->r{router} {}", trace::up(&frame)));
        let alive = self.edge_index(edge).is_some_and(|e| self.edges[e].alive);
        if let Some(proto::to_router::Body::Resume(resume)) = &frame.body
            && !alive
        {
            let session = sestina_api::key::join(resume.session_hi, resume.session_lo);
            self.late_resumes.insert(session);
        }
        if let Some(host) = self.host_index(router) {
            self.hosts[host].edge_frame(LaneRef { edge, lane }, frame);
        }
    }

    /// A batch of a router arrives at an edge.
    pub(super) fn down(&mut self, id: u64) {
        let taken = self.taken(id, |conn| conn.down.pop_front());
        let Some((Ends::Edge { edge, router, .. }, batch)) = taken else {
            return;
        };
        self.note(|| format!("r{router}->e{edge} {}", trace::down(&batch)));
        if !self.serves(edge) {
            // Its lease is about to end. It gives the lane up, so that the frames are sent again later.
            return self.give_up(id, 0);
        }
        self.note_given(edge, &batch);
        if let Some(index) = self.edge_index(edge) {
            self.edges[index].take_batch(self.now, id, batch);
            self.look_at_told(index);
        }
    }

    /// Notes which sessions are given which messages.
    fn note_given(&mut self, edge: u64, batch: &proto::ToEdgeBatch) {
        for frame in &batch.frames {
            let (handle, hi, lo, jid) = match &frame.body {
                Some(Down::Bound(b)) => (b.handle, b.session_hi, b.session_lo, &b.jid),
                Some(Down::Resumed(r)) => (r.handle, r.session_hi, r.session_lo, &r.jid),
                Some(Down::Deliver(deliver)) => {
                    self.note_deliveries(edge, deliver);
                    continue;
                }
                _ => continue,
            };
            let session = sestina_api::key::join(hi, lo);
            let user = bare(jid).to_owned();
            self.sessions_at.insert((edge, handle), (user, session));
        }
    }

    fn note_deliveries(&mut self, edge: u64, deliver: &proto::Deliver) {
        for target in &deliver.targets {
            let variant = deliver.variants.get(target.variant as usize);
            let number = variant.and_then(|variant| number_in(variant.stanza.as_ref()));
            let session = self.sessions_at.get(&(edge, target.handle));
            if let (Some(number), Some((user, session))) = (number, session) {
                let given = self.given.entry((user.clone(), number)).or_default();
                given.insert((*session, target.epoch));
            }
        }
    }

    /// Notes which messages a router stores for detached sessions.
    pub(super) fn note_queued(&mut self, epoch: u64, ops: &[ReplicaOp]) {
        for op in ops {
            let (object, fields) = match op {
                ReplicaOp::Replace { object, fields } => (object, fields),
                ReplicaOp::Update { object, set, .. } => (object, set),
                _ => continue,
            };
            let id = object.strip_prefix("s:");
            let id = id.and_then(|id| u128::from_str_radix(id, 16).ok());
            let known = self.sessions_at.values().find(|(_, at)| Some(*at) == id);
            let Some((user, session)) = known.cloned() else {
                continue;
            };
            for (_, value) in fields.iter().filter(|(field, _)| field.starts_with("q:")) {
                let item = proto::Outbound::decode(value.clone()).ok();
                let number = item.and_then(|item| number_in(item.stanza.as_ref()));
                if let Some(number) = number {
                    let given = self.given.entry((user.clone(), number)).or_default();
                    given.insert((session, epoch));
                }
            }
        }
    }

    /// Called after each turn of a worker: notes the sessions that are given a message whose row in the archive moves
    /// because of that. Such a session may end before its edge has the message, but the row has moved.
    pub(super) fn note_moved(&mut self, host: usize, worker: usize) {
        let host = &self.hosts[host];
        let Some(worker) = host.workers.get(worker) else {
            return;
        };
        let asked = host.jobs.iter().filter_map(|job| match job {
            JobState::Asked {
                job: Job::Archive { rows, .. },
                ..
            } => Some(rows.as_slice()),
            _ => None,
        });
        let rows = asked.chain([worker.archive_rows()]).flatten();
        let mut moved = Vec::new();
        for row in rows.filter(|row| row.moves) {
            if let Some(number) = number_in(row.stanza.as_ref()) {
                let body = format!("<body>m{number}</body>");
                let queued = worker.queued(&row.archive, body.as_bytes());
                moved.push(((row.archive.clone(), number), queued));
            }
        }
        for (message, queued) in moved {
            self.given.entry(message).or_default().extend(queued);
        }
    }

    /// A frame of a router arrives at another one.
    pub(super) fn peer(&mut self, id: u64) {
        let taken = self.taken(id, |conn| conn.peer.pop_front());
        let Some((Ends::Peer { from, to }, frame)) = taken else {
            return;
        };
        self.note(|| format!("r{from}->r{to} {}", trace::peer(&frame)));
        if let Some(host) = self.host_index(to) {
            self.hosts[host].dispatch(PeerRef(from), frame);
        }
    }

    /// The process that opened a connection learns that it is over.
    pub(super) fn tell_opener(&mut self, id: u64) {
        let Some(ends) = self.net.lock().conns.get_mut(&id).map(|c| {
            c.opener_told = true;
            c.ends
        }) else {
            return;
        };
        match ends {
            Ends::Edge { edge, .. } => {
                if let Some(index) = self.edge_index(edge) {
                    self.edges[index].lane_ended(id, self.now);
                }
            }
            Ends::Peer { from, to } => {
                let Some(host) = self.host_index(from) else {
                    return;
                };
                let host = &mut self.hosts[host];
                if let Some(keeper) = host.keepers.get_mut(&to).filter(|k| k.conn == Some(id)) {
                    *keeper = Keeper {
                        conn: None,
                        retry_at: self.now + 20,
                    };
                    host.push_all(|| Input::PeerLaneClosed { peer: PeerRef(to) });
                }
            }
        }
    }

    /// The router that accepted a connection learns that it is over.
    pub(super) fn tell_acceptor(&mut self, id: u64) {
        let Some(ends) = self.net.lock().conns.get_mut(&id).map(|c| {
            c.acceptor_told = true;
            c.ends
        }) else {
            return;
        };
        if let Ends::Edge { edge, router, lane } = ends
            && let Some(host) = self.host_index(router)
        {
            let lane = LaneRef { edge, lane };
            self.hosts[host].push_all(|| Input::EdgeLaneClosed { lane, instance: id });
        }
    }

    /// A router sends its slot table to edges and other routers: on one of its lanes to each.
    pub(super) fn publish(&mut self, host: usize) {
        let me = self.hosts[host].incarnation();
        let map = self.hosts[host].table.as_proto().clone();
        let workers = self.workers;
        let mut told = BTreeSet::new();
        for conn in self.net.lock().conns.values_mut().filter(|c| !c.broken) {
            match conn.ends {
                Ends::Edge { edge, router, .. } if router == me && told.insert(edge) => {
                    let frames = vec![process_frame(Down::SlotMap(map.clone()))];
                    conn.down.push_back(proto::ToEdgeBatch {
                        worker: workers,
                        seq: 0,
                        frames,
                    });
                }
                Ends::Peer { from, .. } if from == me => {
                    let body = Some(proto::peer_frame::Body::SlotMap(map.clone()));
                    conn.peer.push_back(proto::PeerFrame {
                        slot: 0,
                        epoch: 0,
                        body,
                    });
                }
                _ => {}
            }
        }
    }
}
