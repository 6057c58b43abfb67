//! An edge: the real end of its sessions (`sestina_edge::attachment`) with lanes of the simulated
//! network, pipes for sockets, and the clock of the world.

use std::cell::{Cell, RefCell, RefMut};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use sestina_api::link::Unsent;
use sestina_cluster::slot_map::newer;
use sestina_cluster::slots::{SLOTS, slot_of_bare};
use sestina_edge::attachment::Attachments;
use sestina_edge::attachment::hands::{Hands, Limits, Lock, Reader, Sent};
use sestina_edge::attachment::pending::{Ask, Pending};
use sestina_edge::attachment::state::{Link, Phase, Session};
use sestina_edge::metrics::{Count, EdgeMetrics, Level, Tally};
use sestina_proto as proto;
use sestina_proto::to_edge::Body as Down;
use sestina_proto::to_router::Body;
use sestina_router::simulation::contains;
use sestina_xmpp::jid::Jid;
use sestina_xmpp::stanza::Stanza;
use sestina_xmpp::stream::Framing;

use super::net::{Ends, SharedNet, in_bulks, offer};
use super::socket::{Login, Pipe};

/// Lanes of an edge to each router.
pub(super) const LANES: u32 = 2;
/// A real edge keeps all slots; only these are used here.
const USED_SLOTS: usize = 16;

/// What must not happen after one fault.
const NEVER: [Count; 3] = [Count::NumberGap, Count::InputLost, Count::OwnerTimeout];

/// A session at an edge.
pub(super) type EdgeSession = Session<Ground>;

/// One thread needs no lock; a second access while there is one would be a deadlock of the edge,
/// and panics here.
pub(super) struct Alone<T>(RefCell<T>);

impl<T> Lock<T> for Alone<T> {
    type Guard<'a>
        = RefMut<'a, T>
    where
        T: 'a;

    fn new(value: T) -> Alone<T> {
        Alone(RefCell::new(value))
    }

    fn lock(&self) -> RefMut<'_, T> {
        self.0.borrow_mut()
    }
}

/// A paused reader looks by itself.
#[derive(Default)]
pub(super) struct Polls;

impl Reader for Polls {
    fn wake(&self) {}
}

#[derive(Debug, Default)]
pub(super) struct Lane {
    pub(super) conn: Option<u64>,
    pub(super) welcomed: bool,
    pub(super) reopen_at: u64,
}

/// What the sessions of an edge act through.
pub(super) struct Ground {
    attachments: Attachments<Ground>,
    limits: Limits,
    net: SharedNet,
    began: Instant,
    now: Cell<u64>,
    tally: Tally,
    lanes: RefCell<BTreeMap<(u64, u32), Lane>>,
    position: Cell<proto::Position>,
}

impl Hands for Ground {
    type Lock<T: 'static> = Alone<T>;
    type Socket = Pipe;
    /// Incarnation of the router.
    type Route = u64;
    /// Its connection.
    type Lane = u64;
    type Waiter = Login;
    type Reader = Polls;

    fn attachments(&self) -> &Attachments<Ground> {
        &self.attachments
    }

    fn limits(&self) -> &Limits {
        &self.limits
    }

    fn now(&self) -> Instant {
        self.began + Duration::from_millis(self.now.get())
    }

    fn wall_ms(&self) -> i64 {
        self.now.get() as i64
    }

    fn metrics(&self) -> &dyn EdgeMetrics {
        &self.tally
    }

    fn slot_of_room(&self, room: &Jid) -> u16 {
        slot_of_bare(room.as_str())
    }

    fn lane(&self, route: &u64, slot: u16) -> Option<u64> {
        let lanes = self.lanes.borrow();
        let lane = lanes.get(&(*route, u32::from(slot) % LANES))?;
        lane.conn.filter(|_| lane.welcomed)
    }

    fn send(&self, lane: &u64, frame: proto::ToRouter) -> Sent {
        let mut net = self.net.lock();
        let Some(conn) = net.conns.get_mut(lane).filter(|conn| !conn.broken) else {
            return Sent::Over;
        };
        if !frame.is_refusable() {
            conn.up.push_back(frame);
            return Sent::Yes;
        }
        match offer(&mut conn.up, frame) {
            Ok(()) => Sent::Yes,
            Err(Unsent::Full(frame)) => Sent::Full(frame),
            Err(Unsent::Closed) => Sent::Over,
        }
    }

    fn waiting(&self, lane: &u64) -> usize {
        let net = self.net.lock();
        net.conns.get(lane).map_or(0, |conn| in_bulks(&conn.up))
    }

    fn is_same(&self, a: &u64, b: &u64) -> bool {
        a == b
    }

    fn leads_to(&self, route: &u64, node: &proto::Node) -> bool {
        *route == node.incarnation
    }

    fn name<'a>(&self, _route: &'a u64) -> &'a str {
        "simulated"
    }

    fn learn(&self, map: proto::SlotMap) {
        if !newer(map.position(), self.position.get()) {
            return;
        }
        self.position.set(map.position());
        self.follow_routers(&map);
        for (number, cell) in self.attachments.slots.iter().enumerate() {
            let owner = (map.owners[number] as usize)
                .checked_sub(1)
                .map(|i| map.routers[i].incarnation);
            let mut slot = cell.lock();
            slot.follow(self, number as u16, map.epochs[number], owner.as_ref());
        }
    }
}

impl Ground {
    /// Lanes to routers that came are to be opened, those to routers that left end.
    fn follow_routers(&self, map: &proto::SlotMap) {
        let mut lanes = self.lanes.borrow_mut();
        for router in &map.routers {
            for lane in 0..LANES {
                lanes.entry((router.incarnation, lane)).or_default();
            }
        }
        let named = |router: u64| map.routers.iter().any(|r| r.incarnation == router);
        for (key, lane) in lanes.iter_mut() {
            if !named(key.0)
                && let Some(conn) = lane.conn.take()
                && let Some(conn) = self.net.lock().conns.get_mut(&conn)
            {
                conn.broken = true;
                conn.opener_told = true;
                conn.down.clear();
            }
        }
        lanes.retain(|key, _| named(key.0));
    }
}

/// What a client was told of its stanzas.
pub(super) struct Told {
    pub(super) handle: u64,
    pub(super) session: u128,
    /// All up to here are accepted.
    pub(super) told: u64,
    /// The first that the edge holds.
    pub(super) first_held: Option<u64>,
}

/// See the module.
pub(super) struct Edge {
    pub(super) node: proto::Node,
    pub(super) alive: bool,
    ground: Ground,
    last_handle: u64,
    /// What had happened when that was forgiven.
    forgiven: [u64; NEVER.len()],
}

impl Edge {
    pub(super) fn new(node: proto::Node, net: &SharedNet) -> Edge {
        // Small, so that all of them are met.
        let limits = Limits {
            unsettled_bytes: 2 << 10,
            session_credit: 2 << 10,
            ask_stanzas: 5,
            ask_after: Duration::from_millis(100),
            silence_ask: Duration::from_secs(300),
            silence_answer: Duration::from_secs(30),
            owner_deadline: Duration::from_secs(60),
            members_part: 200,
            report_part: 300,
        };
        Edge {
            node,
            alive: true,
            ground: Ground {
                attachments: Attachments::new(USED_SLOTS, &limits),
                limits,
                net: net.clone(),
                began: Instant::now(),
                now: Cell::new(0),
                tally: Tally::default(),
                lanes: RefCell::default(),
                position: Cell::default(),
            },
            last_handle: 0,
            forgiven: [0; NEVER.len()],
        }
    }

    pub(super) fn incarnation(&self) -> u64 {
        self.node.incarnation
    }

    /// What its sessions act through, at that time.
    pub(super) fn at(&self, now: u64) -> &Ground {
        self.ground.now.set(now);
        &self.ground
    }

    /// Where the slot map in use was.
    pub(super) fn position(&self) -> proto::Position {
        self.ground.position.get()
    }

    /// The routers to which all of its lanes are open.
    pub(super) fn reached(&self) -> Vec<u64> {
        let lanes = self.ground.lanes.borrow();
        let shut = |router: u64| {
            let mut of = lanes.range((router, 0)..=(router, u32::MAX));
            of.any(|(_, lane)| !lane.welcomed)
        };
        let mut routers: Vec<u64> = lanes.keys().map(|(router, _)| *router).collect();
        routers.dedup();
        routers.retain(|router| !shut(*router));
        routers
    }

    // ---- lanes

    /// A lane's connection ended.
    pub(super) fn lane_ended(&mut self, conn: u64, now: u64) {
        for lane in self.ground.lanes.borrow_mut().values_mut() {
            if lane.conn == Some(conn) {
                *lane = Lane {
                    conn: None,
                    welcomed: false,
                    reopen_at: now + 50,
                };
            }
        }
    }

    /// Notes a connection that was opened for a lane.
    pub(super) fn opened(&mut self, lane: (u64, u32), conn: u64) {
        if let Some(lane) = self.ground.lanes.borrow_mut().get_mut(&lane) {
            lane.conn = Some(conn);
            lane.welcomed = false;
        }
    }

    /// Lanes that are due to be opened.
    pub(super) fn lanes_due(&self, now: u64) -> Vec<(u64, u32)> {
        let lanes = self.ground.lanes.borrow();
        let due = lanes
            .iter()
            .filter(|(_, l)| l.conn.is_none() && l.reopen_at <= now);
        due.map(|(key, _)| *key).collect()
    }

    /// One batch of a router.
    pub(super) fn take_batch(&mut self, now: u64, conn: u64, batch: proto::ToEdgeBatch) {
        let ground = self.at(now);
        let welcome = |frame: &proto::ToEdge| matches!(frame.body, Some(Down::Welcome(_)));
        let welcomed = batch.frames.iter().any(welcome);
        let lane = {
            let mut lanes = ground.lanes.borrow_mut();
            let Some((key, lane)) = lanes.iter_mut().find(|(_, l)| l.conn == Some(conn)) else {
                return;
            };
            lane.welcomed |= welcomed;
            *key
        };
        if welcomed {
            let attachments = &ground.attachments;
            attachments.lane_ready(ground, &lane.0, lane.1, LANES);
        }
        let (worker, seq) = (batch.worker, batch.seq);
        let refused = ground.attachments.take_batch(ground, &lane.0, batch);
        let (refused_slots, refused_epochs) = refused.into_iter().unzip();
        let ack = Body::LaneAck(proto::LaneAck {
            worker,
            seq,
            refused_slots,
            refused_epochs,
        });
        let ack = proto::ToRouter {
            slot: 0,
            epoch: 0,
            body: Some(ack),
        };
        // Never refused, and of no use when that connection is over.
        drop(ground.send(&conn, ack));
    }

    // ---- sockets

    /// A client asks to bind or to resume.
    pub(super) fn ask(
        &mut self,
        now: u64,
        number: u16,
        pipe: &Arc<Pipe>,
        ask: impl FnOnce(u64) -> Ask,
    ) {
        self.last_handle += 1;
        let handle = self.last_handle * SLOTS as u64 + u64::from(number);
        let login = Login::new(pipe, number, handle);
        let ground = self.at(now);
        let pending = Pending {
            ask: ask(handle),
            wire: pipe.clone(),
            framing: Framing::Tcp,
            transport: "simulated",
            remote: "".into(),
            since: ground.now(),
            answer: login,
        };
        ground
            .attachments
            .ask_owner(ground, number, handle, pending);
    }

    /// The login of a socket that is gone is given up.
    pub(super) fn forget(&self, now: u64, number: u16, handle: u64) {
        let ground = self.at(now);
        ground.attachments.forget_pending(ground, number, handle);
    }

    // ---- time

    /// Every 50 ms.
    pub(super) fn tick(&self, now: u64) {
        let ground = self.at(now);
        ground.attachments.tick(ground);
    }

    // ---- what it holds

    /// How often something happened.
    pub(super) fn count(&self, what: Count) -> u64 {
        self.ground.tally.get(what)
    }

    fn sessions(&self) -> Vec<Arc<EdgeSession>> {
        self.ground.attachments.all_sessions()
    }

    /// What its clients were told of their stanzas.
    pub(super) fn told(&self) -> Vec<Told> {
        let told = |session: Arc<EdgeSession>| {
            let state = session.state.lock();
            Told {
                handle: session.handle,
                session: session.nonce,
                told: state.told,
                first_held: state.held_in.front().map(|held| held.n),
            }
        };
        self.sessions().into_iter().map(told).collect()
    }

    /// Whether it holds a message for a client: one whose body is `body`, or an error about it.
    pub(super) fn holds(&self, body: &[u8], error_id: &str) -> bool {
        let is = |stanza: &Stanza| {
            contains(&stanza.payload, body) || (stanza.is_error() && stanza.id == error_id)
        };
        self.sessions().iter().any(|session| {
            let state = session.state.lock();
            let mut stanzas = state
                .held_out
                .iter()
                .filter_map(|held| held.stanza.as_ref());
            stanzas.any(|stanza| is(stanza))
        })
    }

    /// What is left when nothing is under way; `online` are the sessions that have a client.
    pub(super) fn leftovers(&self, online: &BTreeSet<u128>) -> Vec<String> {
        let name = &self.node.name;
        let mut wrong = Vec::new();
        let sessions = self.sessions();
        for session in &sessions {
            if !online.contains(&session.nonce) {
                wrong.push(format!("{name}: {} has no client", session.jid));
            }
            let state = session.state.lock();
            let bytes = (state.held_in_bytes, state.unacked_bytes);
            if bytes != (0, 0) {
                wrong.push(format!("{name}: {} counts {bytes:?} bytes", session.jid));
            }
        }
        let waits = self.ground.attachments.waits();
        if waits != 0 {
            wrong.push(format!("{name}: {waits} slots or sessions wait"));
        }
        let level = |what| self.ground.tally.level_of(what);
        let levels = (level(Level::Sessions), level(Level::Unsettled));
        if levels != (sessions.len() as i64, 0) || level(Level::UnsettledBytes) != 0 {
            wrong.push(format!(
                "{name} has {} sessions, counted as {levels:?}",
                sessions.len()
            ));
        }
        wrong
    }

    // ---- what is wrong

    /// What has happened counts no more.
    pub(super) fn forgive(&mut self) {
        self.forgiven = NEVER.map(|count| self.ground.tally.get(count));
    }

    /// What must not have happened, or must not be held at rest.
    pub(super) fn unfinished(&self) -> Vec<String> {
        let name = &self.node.name;
        let mut wrong = Vec::new();
        for (count, forgiven) in NEVER.into_iter().zip(self.forgiven) {
            let times = self.ground.tally.get(count) - forgiven;
            if times > 0 {
                wrong.push(format!("{name}: {} happened {times} times", count.name()));
            }
        }
        for (number, cell) in self.ground.attachments.slots.iter().enumerate() {
            let slot = cell.lock();
            if !slot.pending.is_empty() {
                wrong.push(format!("{name} slot {number}: logins wait for an owner"));
            }
            for session in slot.sessions.values() {
                let at = format!("{name} session {:04x}", session.nonce & 0xffff);
                session_unfinished(session, &at, &mut wrong);
            }
        }
        wrong
    }
}

fn session_unfinished(session: &EdgeSession, at: &str, wrong: &mut Vec<String>) {
    let state = session.state.lock();
    let live = matches!(state.link, Link::Live(_));
    if !live || state.phase != Phase::Open || !state.held_in.is_empty() {
        wrong.push(format!(
            "{at} waits for its owner: {:?}, linked: {live}, holds {} of {} (accepted {}, settled {})",
            state.phase,
            state.held_in.len(),
            state.in_last,
            state.accepted,
            state.settled,
        ));
    }
    if !state.held_out.is_empty() {
        wrong.push(format!(
            "{at}: holds {} deliveries (acked {}, released {}, last {})",
            state.held_out.len(),
            state.acked,
            state.released,
            state.out_last
        ));
    }
}

/// Ends of a lane.
pub(super) fn lane_ends(edge: u64, lane: (u64, u32)) -> Ends {
    Ends::Edge {
        edge,
        router: lane.0,
        lane: lane.1,
    }
}
