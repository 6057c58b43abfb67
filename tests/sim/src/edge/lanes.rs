//! The lanes of an edge to routers: several to each router that the slot table names.

use std::collections::BTreeMap;

use sestina_proto as proto;
use sestina_proto::to_edge::Body as Down;

use sestina_edge::attachment::hands::Hands as _;

use super::{Edge, Ground};
use crate::net::Ends;

/// Lanes of an edge to each router.
pub(crate) const LANES: u32 = 2;

/// How long an edge waits before it opens a lane again, in simulated milliseconds.
const REOPENED_AFTER: u64 = 50;

/// A lane: the incarnation of its router, and its number among the lanes to that router.
pub(crate) type LaneKey = (u64, u32);

/// The lanes of an edge.
pub(super) type Lanes = BTreeMap<LaneKey, Lane>;

/// The state of a lane.
#[derive(Debug, Default)]
pub(super) struct Lane {
    /// Its connection, if one is open.
    pub(super) conn: Option<u64>,
    /// The router has answered on that connection.
    pub(super) welcomed: bool,
    reopen_at: u64,
}

/// The ends of a lane's connection.
pub(crate) fn lane_ends(edge: u64, (router, lane): LaneKey) -> Ends {
    Ends::Edge { edge, router, lane }
}

impl Ground {
    /// Follows a slot table: lanes to routers that it names are to be opened, all others end.
    pub(super) fn follow_routers(&self, map: &proto::SlotMap) {
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

impl Edge {
    /// The routers to which all of its lanes are open.
    pub(crate) fn reached(&self) -> Vec<u64> {
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

    /// The lanes that are to be opened now.
    pub(crate) fn lanes_due(&self, now: u64) -> Vec<LaneKey> {
        let lanes = self.ground.lanes.borrow();
        let due = lanes
            .iter()
            .filter(|(_, l)| l.conn.is_none() && l.reopen_at <= now);
        due.map(|(key, _)| *key).collect()
    }

    /// The lanes that are open.
    pub(crate) fn open_lanes(&self) -> Vec<LaneKey> {
        let lanes = self.ground.lanes.borrow();
        let open = lanes.iter().filter(|(_, lane)| lane.welcomed);
        open.map(|(key, _)| *key).collect()
    }

    /// Notes the connection that was opened for a lane.
    pub(crate) fn opened(&mut self, lane: LaneKey, conn: u64) {
        if let Some(lane) = self.ground.lanes.borrow_mut().get_mut(&lane) {
            lane.conn = Some(conn);
            lane.welcomed = false;
        }
    }

    /// Notes that the connection of a lane is over.
    pub(crate) fn lane_ended(&mut self, conn: u64, now: u64) {
        for lane in self.ground.lanes.borrow_mut().values_mut() {
            if lane.conn == Some(conn) {
                *lane = Lane {
                    conn: None,
                    welcomed: false,
                    reopen_at: now + REOPENED_AFTER,
                };
            }
        }
    }

    /// Takes a batch that came from a router on a connection, and acknowledges it.
    pub(crate) fn take_batch(&mut self, now: u64, conn: u64, batch: proto::ToEdgeBatch) {
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
        let ack = ground.attachments.take_batch(ground, &lane.0, batch);
        drop(ground.send(&conn, ack));
    }
}
