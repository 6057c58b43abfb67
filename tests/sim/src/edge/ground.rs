//! What the sessions of an edge act through: the network, the clock and the locks of the simulation.

use std::cell::{Cell, RefCell, RefMut};
use std::time::{Duration, Instant};

use sestina_api::link::Unsent;
use sestina_cluster::slot_map::newer;
use sestina_cluster::slots::slot_of_bare;
use sestina_edge::attachment::Attachments;
use sestina_edge::attachment::hands::{Hands, Limits, Lock, Reader, Sent};
use sestina_edge::metrics::{EdgeMetrics, Tally};
use sestina_proto as proto;
use sestina_xmpp::jid::Jid;

use super::lanes::{LANES, Lanes};
use crate::net::{SharedNet, in_bulks, offer};
use crate::socket::{Login, Pipe};
use crate::stores::owner_in;

/// A real edge keeps all slots; only these are used here.
const USED_SLOTS: usize = 16;

/// A lock for a single thread: a second access while there is one would be a deadlock of the edge,
/// and panics here.
pub(crate) struct Alone<T>(RefCell<T>);

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

/// A reader that needs not be woken: each step asks whether it may read.
#[derive(Default)]
pub(crate) struct Polls;

impl Reader for Polls {
    fn wake(&self) {}
}

/// See the module.
pub(crate) struct Ground {
    pub(super) attachments: Attachments<Ground>,
    limits: Limits,
    pub(super) net: SharedNet,
    began: Instant,
    pub(super) now: Cell<u64>,
    pub(super) tally: Tally,
    pub(super) lanes: RefCell<Lanes>,
    pub(super) position: Cell<proto::Position>,
}

impl Ground {
    pub(super) fn new(net: &SharedNet) -> Ground {
        // Small, so that runs meet all of them.
        let limits = Limits {
            unsettled_bytes: 2 << 10,
            session_credit: 2 << 10,
            ask_stanzas: 5,
            ask_after: Duration::from_millis(100),
            keepalive_after: Duration::from_secs(300),
            keepalive_answer: Duration::from_secs(30),
            owner_deadline: Duration::from_secs(60),
            members_part: 200,
            report_part: 300,
        };
        Ground {
            attachments: Attachments::new(USED_SLOTS, &limits),
            limits,
            net: net.clone(),
            began: Instant::now(),
            now: Cell::new(0),
            tally: Tally::default(),
            lanes: RefCell::default(),
            position: Cell::default(),
        }
    }
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
            let owner = owner_in(&map, number as u16).map(|owner| owner.incarnation);
            let mut slot = cell.lock();
            slot.follow(self, number as u16, map.epochs[number], owner.as_ref());
        }
    }
}
