//! An edge process: the real end of its sessions (`sestina_edge::attachment`) with lanes of the
//! simulated network, pipes for sockets, and the clock of the simulation.
//!
//! - [`ground`]: what its sessions act through
//! - [`lanes`]: its lanes to routers
//! - [`held`]: what it holds, for the checks

mod ground;
mod held;
mod lanes;

pub(super) use ground::Ground;
pub(super) use lanes::{LANES, LaneKey, lane_ends};

use std::sync::Arc;

use sestina_cluster::slots::SLOTS;
use sestina_edge::attachment::hands::Hands as _;
use sestina_edge::attachment::pending::{Ask, Pending};
use sestina_edge::attachment::state::Session;
use sestina_proto as proto;
use sestina_xmpp::stream::Framing;

use super::net::SharedNet;
use super::socket::{Login, Pipe};
use held::Forgiven;

/// A session at an edge.
pub(super) type EdgeSession = Session<Ground>;

/// See the module.
pub(super) struct Edge {
    pub(super) node: proto::Node,
    pub(super) alive: bool,
    ground: Ground,
    last_handle: u64,
    forgiven: Forgiven,
}

impl Edge {
    pub(super) fn new(node: proto::Node, net: &SharedNet) -> Edge {
        Edge {
            node,
            alive: true,
            ground: Ground::new(net),
            last_handle: 0,
            forgiven: Forgiven::default(),
        }
    }

    pub(super) fn incarnation(&self) -> u64 {
        self.node.incarnation
    }

    /// What its sessions act through, with the clock set to a time.
    pub(super) fn at(&self, now: u64) -> &Ground {
        self.ground.now.set(now);
        &self.ground
    }

    /// The position of the slot table that it uses.
    pub(super) fn position(&self) -> proto::Position {
        self.ground.position.get()
    }

    /// Asks the owner of a slot for the bind or the resumption of a client.
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

    /// Gives up the login of a socket that is gone.
    pub(super) fn forget(&self, now: u64, number: u16, handle: u64) {
        let ground = self.at(now);
        ground.attachments.forget_pending(ground, number, handle);
    }

    /// Does what is due by the clock; called every 50 simulated milliseconds.
    pub(super) fn tick(&self, now: u64) {
        let ground = self.at(now);
        ground.attachments.tick(ground);
    }
}
