//! A router with its stores, and three clients of two users, step by step.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, VecDeque};

use prost::Message as _;
use sestina_api::key::{IdempotencyKey, Purpose};
use sestina_api::state_store::{Found, Loaded, Stamp};
use sestina_proto as proto;
use sestina_proto::to_edge::Body as EdgeBody;
use sestina_proto::to_router::Body as RouterBody;
use sestina_xmpp::jid::Jid;
use sestina_xmpp::ns;
use sestina_xmpp::stanza::{Kind, Stanza};
use sestina_xmpp::xml::Element;

use super::core::Job;
use super::input::{Input, JobDone, Known};
use super::testing::Router;

const ROMEO: &str = "romeo@c.example/orchard";
pub(crate) const JULIET: &str = "juliet@c.example";

/// One router and its stores; clients are the handles of an edge.
pub(crate) struct Verona {
    pub(crate) router: Router,
    pub(crate) slot: u16,
    /// Slot of each client's user.
    slots: BTreeMap<u64, u16>,
    sent: BTreeMap<u64, u64>,
    /// Rows of Juliet's store, and whether they are marked as delivered.
    pub(crate) rows: Vec<(proto::OfflineRow, bool)>,
    /// Her archive.
    pub(crate) archive: Vec<proto::ArchiveRow>,
    /// Questions to storage that are not answered yet.
    pub(crate) held: Option<VecDeque<Job>>,
    /// Unacknowledged deliveries of each client: number and payload.
    pub(crate) inbox: BTreeMap<u64, VecDeque<(u64, String)>>,
    /// The record of each client's session that its edge holds.
    pub(crate) records: BTreeMap<u64, proto::SessionState>,
    pub(crate) closed: Vec<String>,
}

impl Verona {
    pub(crate) fn new() -> Verona {
        let mut router = Router::new(1, &[], || 0);
        let romeo = router.session(ROMEO, 1);
        let slot = router.session("juliet@c.example/balcony", 2);
        let mut verona = Verona {
            router,
            slot,
            slots: BTreeMap::from([(1, romeo), (2, slot), (3, slot)]),
            sent: BTreeMap::new(),
            rows: Vec::new(),
            archive: Vec::new(),
            held: None,
            inbox: BTreeMap::new(),
            records: BTreeMap::new(),
            closed: Vec::new(),
        };
        verona.enable(2);
        verona
    }

    /// Juliet's second device.
    pub(crate) fn chamber(&mut self) {
        let bind = proto::Bind {
            handle: 3,
            bare: JULIET.to_owned(),
            resource: "chamber".to_owned(),
            ..proto::Bind::default()
        };
        self.edge(RouterBody::Bind(bind));
        self.enable(3);
    }

    pub(crate) fn enable(&mut self, handle: u64) {
        self.edge(RouterBody::EnableSm(proto::EnableSm {
            handle,
            generation: 1,
            n: 0,
            resume: true,
            max_s: 60,
        }));
    }

    pub(crate) fn stored(&mut self, count: u64, bytes: usize) {
        for n in 1..=count {
            let mut stanza = message(JULIET, &n.to_string());
            let pad = format!("<pad xmlns='p'>{}</pad>", " ".repeat(bytes));
            stanza.push_raw(pad.as_bytes(), "pad", "p");
            let row = proto::OfflineRow {
                bare: JULIET.to_owned(),
                epoch: 0,
                counter: n,
                key: Some(IdempotencyKey::new(77, n, Purpose::Offline).into()),
                stanza: Some(stanza.into()),
                ..proto::OfflineRow::default()
            };
            self.rows.push((row, false));
        }
    }

    /// Messages of her archive, so many bytes each.
    pub(crate) fn archived(&mut self, count: u8, bytes: usize) {
        for n in 1..=count {
            let mut stanza = message(JULIET, &n.to_string());
            let pad = format!("<pad xmlns='p'>{}</pad>", " ".repeat(bytes));
            stanza.push_raw(pad.as_bytes(), "pad", "p");
            self.archive.push(proto::ArchiveRow {
                archive: JULIET.to_owned(),
                stanza_id: vec![n; 16].into(),
                stanza: Some(stanza.into()),
                ..proto::ArchiveRow::default()
            });
        }
    }

    pub(crate) fn edge(&mut self, body: RouterBody) {
        let jobs = self.router.edge_says(self.slot, body, 0);
        self.operation(jobs);
    }

    pub(crate) fn turn(&mut self, inputs: Vec<Input>) {
        let jobs = self.router.turn(inputs);
        self.operation(jobs);
    }

    pub(crate) fn says(&mut self, handle: u64, stanza: Stanza) {
        let slot = self.slots[&handle];
        let sent = self.sent.entry(handle).or_default();
        *sent += 1;
        let inbound = proto::Inbound {
            handle,
            generation: 1,
            n: *sent,
            stanza: Some(stanza.into()),
            ..proto::Inbound::default()
        };
        let jobs = self.router.edge_says(slot, RouterBody::Inbound(inbound), 0);
        self.operation(jobs);
    }

    /// The stores do what was asked, until nothing is.
    pub(crate) fn operation(&mut self, jobs: Vec<Job>) {
        let mut jobs = VecDeque::from(jobs);
        loop {
            self.listen();
            let Some(job) = jobs.pop_front() else {
                let more = self.hold();
                if more.is_empty() && self.router.edge.1.lock().is_none() {
                    return;
                }
                jobs.extend(more);
                continue;
            };
            let done = match job {
                Job::OfflineList(_) if self.held.is_some() => {
                    self.held.as_mut().unwrap().push_back(job);
                    continue;
                }
                Job::OfflineList(read) => {
                    let page = Ok(self.page(&read.request));
                    JobDone::OfflineList { read, page }
                }
                Job::OfflineRemove {
                    slot,
                    session,
                    request,
                } => {
                    for (row, watermark) in &mut self.rows {
                        *watermark |= request.keys.contains(&row.key.unwrap());
                    }
                    JobDone::OfflineRemoved {
                        slot,
                        session,
                        request,
                        fenced: false,
                    }
                }
                Job::Offline { rows, operations } => {
                    let slots = rows.iter().map(|r| place(r.fence.unwrap())).collect();
                    self.rows.extend(rows.into_iter().map(|row| (row, false)));
                    let (fenced, full) = (Vec::new(), Vec::new());
                    JobDone::Offline {
                        slots,
                        operations,
                        fenced,
                        full,
                    }
                }
                Job::Archive { rows, operations } => JobDone::Archive {
                    slots: rows.iter().map(|r| place(r.fence.unwrap())).collect(),
                    operations,
                    fenced: Vec::new(),
                },
                Job::UserKnown { slot, bare, .. } => {
                    let (exists, stored) = (true, Vec::new());
                    let data = Vec::new();
                    let known = Ok(Known {
                        exists,
                        stored,
                        data,
                    });
                    JobDone::UserKnown { slot, bare, known }
                }
                Job::ArchiveQuery { query, request } => {
                    let page = Ok(self.archive_page(&request));
                    JobDone::ArchiveQuery { query, page }
                }
                Job::ReplicaCommit { slot, at, .. } => JobDone::ReplicaCommitted {
                    slot,
                    at,
                    result: Ok(Found {
                        last: Stamp::new(at.epoch, at.n.saturating_sub(1)),
                        refused: 0,
                    }),
                },
                _ => continue,
            };
            jobs.extend(self.router.turn(vec![Input::Done(done)]));
        }
    }

    pub(crate) fn page(&self, request: &proto::OfflineListRequest) -> proto::OfflineListReply {
        let after = (request.after_epoch, request.after_counter);
        let rows = self.rows.iter().filter(|(_, watermark)| !watermark);
        let rows: Vec<_> = rows
            .map(|(row, _)| row)
            .filter(|row| (row.epoch, row.counter) > after)
            .collect();
        let mut bytes = 0;
        let fits = |row: &&&proto::OfflineRow| {
            let fits = bytes < request.max_bytes;
            bytes += row.stanza.as_ref().unwrap().payload.len() as u64;
            fits
        };
        let page: Vec<_> = rows.iter().take_while(fits).map(|r| (*r).clone()).collect();
        proto::OfflineListReply {
            more: page.len() < rows.len(),
            rows: page,
        }
    }

    fn archive_page(&self, request: &proto::ArchiveQueryRequest) -> proto::ArchiveQueryReply {
        let mut bytes = 0;
        let after =
            |row: &&proto::ArchiveRow| request.after.is_empty() || row.stanza_id > request.after;
        let rows: Vec<_> = self.archive.iter().filter(after).cloned().collect();
        let fits = |row: &&proto::ArchiveRow| {
            let fits = bytes < request.max_bytes;
            bytes += row.stanza.as_ref().unwrap().payload.len() as u64;
            fits
        };
        let page = rows.iter().take(request.max as usize).take_while(fits);
        let page: Vec<_> = page.cloned().collect();
        proto::ArchiveQueryReply {
            complete: page.len() == rows.len(),
            count: self.archive.len() as u64,
            rows: page,
            ..proto::ArchiveQueryReply::default()
        }
    }

    /// Storage answers what it was asked before.
    pub(crate) fn answer_held(&mut self) {
        let held = self.held.take().unwrap();
        self.operation(held.into());
    }

    pub(crate) fn listen(&mut self) {
        for body in std::mem::take(&mut *self.router.edge.0.lock()) {
            match body {
                EdgeBody::Close(close) => self.closed.push(close.condition),
                EdgeBody::KeepState(keep) => {
                    let record = proto::SessionState::decode(keep.state).unwrap();
                    self.records.insert(keep.handle, record);
                }
                EdgeBody::Deliver(deliver) => {
                    for target in deliver.targets {
                        let stanza = &deliver.variants[target.variant as usize].stanza;
                        let payload = &stanza.as_ref().unwrap().payload;
                        let text = String::from_utf8_lossy(payload).into_owned();
                        let inbox = self.inbox.entry(target.handle).or_default();
                        inbox.push_back((target.number, text));
                    }
                }
                _ => {}
            }
        }
    }

    /// A client reads all it was sent, and acknowledges it; bodies of the messages.
    pub(crate) fn reads(&mut self, handle: u64) -> Vec<String> {
        let mut bodies = Vec::new();
        let inbox = self.inbox.remove(&handle).unwrap_or_default();
        let Some((number, _)) = inbox.back().cloned() else {
            return bodies;
        };
        for (_, payload) in inbox {
            bodies.extend(body_of(&payload));
        }
        let acked = proto::Acked {
            handle,
            generation: 1,
            number,
            written: number,
        };
        let slot = self.slots[&handle];
        let jobs = self.router.edge_says(slot, RouterBody::Acked(acked), 0);
        self.operation(jobs);
        bodies
    }

    /// The router takes a room's slot.
    pub(crate) fn owns(&mut self, room: &str) {
        let slot = self.router.config.slot_of(&Jid::from_wire(room));
        let live = std::sync::Arc::from([]);
        let taken = JobDone::ReplicaLoaded {
            slot,
            epoch: 1,
            result: Ok(Loaded {
                at: Stamp::new(1, 0),
                ..Loaded::default()
            }),
        };
        let epoch = 1;
        self.turn(vec![Input::Take { slot, epoch, live }, Input::Done(taken)]);
    }

    /// Nicks of those who are in a room.
    pub(crate) fn members(&mut self, room: &str) -> Vec<String> {
        let jid = Jid::from_wire(room);
        let slot = self.router.config.slot_of(&jid);
        let slot = self.router.worker.slots.get_mut(slot).unwrap();
        let inside = slot.rooms[&jid].room().inside();
        inside.into_iter().map(|(nick, _, _)| nick).collect()
    }

    /// What a client was sent is written to its socket, and it acknowledges nothing.
    pub(crate) fn writes(&mut self, handle: u64) {
        let last = self.inbox.get(&handle).and_then(VecDeque::back);
        let acked = proto::Acked {
            handle,
            generation: 1,
            number: 0,
            written: last.map_or(0, |(number, _)| *number),
        };
        let slot = self.slots[&handle];
        let jobs = self.router.edge_says(slot, RouterBody::Acked(acked), 0);
        self.operation(jobs);
    }

    /// What a client was sent and has not read.
    pub(crate) fn has(&self, handle: u64) -> Vec<String> {
        let inbox = self.inbox.get(&handle).into_iter().flatten();
        inbox.map(|(_, payload)| payload.clone()).collect()
    }

    /// A client of another user.
    pub(crate) fn guest(&mut self, full: &str, handle: u64) {
        let slot = self.router.session(full, handle);
        self.slots.insert(handle, slot);
    }

    /// The edge has what the router sent it.
    fn hold(&mut self) -> Vec<Job> {
        let seq = std::mem::take(&mut *self.router.edge.1.lock());
        let Some(seq) = seq else { return Vec::new() };
        self.router.edge_says(
            self.slot,
            RouterBody::LaneAck(proto::LaneAck {
                worker: 0,
                seq,
                refused_slots: Vec::new(),
                ..proto::LaneAck::default()
            }),
            0,
        )
    }

    pub(crate) fn reads_all(&mut self, handle: u64) -> Vec<String> {
        let mut all = Vec::new();
        while !self.has(handle).is_empty() {
            all.extend(self.reads(handle));
        }
        all
    }

    pub(crate) fn left(&self) -> Vec<String> {
        let rows = self.rows.iter().filter(|(_, watermark)| !watermark);
        let payloads = rows.map(|(row, _)| row.stanza.as_ref().unwrap().payload.clone());
        payloads
            .filter_map(|p| body_of(&String::from_utf8_lossy(&p)))
            .collect()
    }

    pub(crate) fn closes(&mut self, handle: u64, clean: bool) {
        self.edge(RouterBody::Close(proto::Close {
            handle,
            generation: 1,
            clean,
        }));
    }

    /// The time of sessions without a socket runs out.
    pub(crate) fn wait_minutes(&mut self) {
        self.router.now_ms += 120_000;
        for _ in 0..10 {
            self.router.now_ms += self.router.config.times.tick_ms;
            self.turn(Vec::new());
        }
    }
}

fn place(fence: proto::Fence) -> (u16, u64) {
    (u16::try_from(fence.slot).unwrap(), fence.epoch)
}

fn body_of(payload: &str) -> Option<String> {
    let (_, rest) = payload.split_once("<body>")?;
    Some(rest.split_once('<')?.0.to_owned())
}

pub(crate) fn message(to: &str, body: &str) -> Stanza {
    let mut stanza = Stanza::new(Kind::Message);
    stanza.type_ = "chat".to_owned();
    stanza.to = to.to_owned();
    stanza.push_element(&Element::new("body", ns::CLIENT).with_text(body));
    stanza
}

pub(crate) fn presence(priority: &str) -> Stanza {
    let mut stanza = Stanza::new(Kind::Presence);
    stanza.push_element(&Element::new("priority", ns::CLIENT).with_text(priority));
    stanza
}

pub(crate) fn unavailable() -> Stanza {
    let mut stanza = Stanza::new(Kind::Presence);
    stanza.type_ = "unavailable".to_owned();
    stanza
}
