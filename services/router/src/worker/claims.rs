//! A slot is being taken: which sessions are in its rooms?
//!
//! The replica of a room may be old, because rooms go on while the state store is unavailable. So all are
//! asked who know what rooms last told a session: edges tell it with the epoch, of the sessions that they
//! hold; and each worker of each router tells it of its sessions without an edge. A room is served when
//! all of them have reported; [`reconcile`](crate::room) then corrects the copy that the state store has.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message as _;
use sestina_api::key::{join, split};
use sestina_proto as proto;
use sestina_proto::to_edge::Body;
use sestina_xmpp::stanza::{Kind, Stanza};

use super::core::{Core, LaneRef, PeerRef};
use super::slot::{Phase, Slot};
use crate::rng::HashMap;

/// Presences that are asked for at once.
const ASKED_AT_ONCE: usize = 1_000;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Claims {
    /// By room and session.
    members: BTreeMap<(String, u128), Claim>,
    /// Routers that have not told all (this one too), and their workers that have.
    tellers: HashMap<u64, BTreeSet<u32>>,
    /// Edges that were asked for presences, and how often.
    asked: HashMap<u64, usize>,
}

#[derive(Debug)]
struct Claim {
    membership: proto::RoomMembership,
    /// Of the edge that tells it.
    lane: Option<LaneRef>,
}

impl Claim {
    /// Of two, the newer and then the more complete counts.
    fn rank(&self) -> (u64, bool) {
        let member = self.membership.member.as_ref();
        member.map_or((0, false), |m| (m.seq, m.presence.is_some()))
    }
}

impl Claims {
    /// Of a slot that these routers are asked about.
    pub(super) fn of(routers: impl Iterator<Item = u64>) -> Claims {
        Claims {
            tellers: routers.map(|router| (router, BTreeSet::new())).collect(),
            ..Claims::default()
        }
    }

    /// Whether all routers have told.
    pub(super) fn all_told(&self) -> bool {
        self.tellers.is_empty()
    }

    /// Routers that have not.
    pub(super) fn waits_for(&self) -> impl Iterator<Item = u64> {
        self.tellers.keys().copied()
    }

    /// A router is not to be waited for.
    pub(super) fn forget_router(&mut self, incarnation: u64) {
        self.tellers.remove(&incarnation);
    }

    /// An edge begins to tell anew.
    pub(super) fn forget_edge(&mut self, edge: u64) {
        self.asked.remove(&edge);
        self.members
            .retain(|_, claim| claim.lane.is_none_or(|lane| lane.edge != edge));
    }

    fn add(&mut self, lane: Option<LaneRef>, membership: proto::RoomMembership) {
        let session = join(membership.session_hi, membership.session_lo);
        let at = (membership.room.clone(), session);
        let claim = Claim { membership, lane };
        let known = self.members.get(&at);
        if known.is_none_or(|known| known.rank() <= claim.rank()) {
            self.members.insert(at, claim);
        }
    }

    /// A worker of a router has told all.
    fn told(&mut self, router: u64, worker: u32, workers: u32) {
        if let Some(told) = self.tellers.get_mut(&router) {
            told.insert(worker);
            if told.len() >= workers as usize {
                self.tellers.remove(&router);
            }
        }
    }

    /// An edge has answered once; whether it was asked no more often.
    fn answered(&mut self, edge: u64) -> bool {
        let Some(left) = self.asked.get_mut(&edge) else {
            return false;
        };
        *left = left.saturating_sub(1);
        *left == 0
    }

    /// The members that all reports name. A member whose edge could not be asked has an empty presence; the owner
    /// of its session gives the right one when it is asked.
    pub(super) fn into_members(self) -> Vec<proto::RoomMembership> {
        let claims = self.members.into_values();
        let complete = claims.map(|claim| {
            let mut membership = claim.membership;
            if let Some(member) = &mut membership.member {
                let bare = || Stanza::new(Kind::Presence).into();
                member.presence.get_or_insert_with(bare);
            }
            membership
        });
        complete.collect()
    }

    /// Takes the presence of a member from the state store if the one there is as new as the reported one, or the same.
    /// Returns the members of which edges must be asked for the presence.
    fn complete(&mut self, stored: &Stored) -> BTreeMap<u64, (LaneRef, Vec<proto::AskedMember>)> {
        let mut lacking: BTreeMap<u64, (LaneRef, Vec<proto::AskedMember>)> = BTreeMap::new();
        for (at, claim) in &mut self.members {
            let hash = claim.membership.presence_hash;
            let member = claim.membership.member.as_mut();
            let Some(member) = member.filter(|member| member.presence.is_none()) else {
                continue;
            };
            if let Some((seq, presence)) = stored.get(at)
                && (*seq >= member.seq || presence.hash() == hash)
            {
                member.presence = Some(presence.clone());
                continue;
            }
            let Some(lane) = claim.lane else { continue };
            let (session_hi, session_lo) = split(at.1);
            let (_, asked) = lacking
                .entry(lane.edge)
                .or_insert_with(|| (lane, Vec::new()));
            asked.push(proto::AskedMember {
                room: at.0.clone(),
                session_hi,
                session_lo,
            });
        }
        lacking
    }
}

/// The occupants in the replicas: by room and session, the event that said so and the presence.
type Stored = HashMap<(String, u128), (u64, proto::Stanza)>;

impl Slot {
    /// An edge tells which of its sessions are in rooms, or their presences.
    pub(crate) fn edge_members(
        &mut self,
        core: &mut Core,
        lane: LaneRef,
        part: proto::RoomMembers,
    ) {
        let Phase::Taking(taking) = &mut self.phase else {
            return;
        };
        for membership in part.members {
            taking.claims.add(Some(lane), membership);
        }
        if !part.more && taking.claims.answered(lane.edge) {
            taking.waiting.remove(&lane.edge);
        }
        self.try_restore(core);
    }

    /// Asks a router, or the workers of this one, for sessions without an edge.
    pub(super) fn ask_router(&self, core: &mut Core, peer: PeerRef) {
        let Phase::Taking(taking) = &self.phase else {
            return;
        };
        if !taking.claims.tellers.contains_key(&peer.0) || !core.peer_open(peer) {
            return;
        }
        let ask = proto::RoomAsk {
            room_slot: self.slot.into(),
            room_epoch: self.epoch,
        };
        let frame = proto::PeerFrame {
            slot: 0,
            epoch: 0,
            body: Some(proto::peer_frame::Body::RoomAsk(ask)),
        };
        core.send_peer(peer, frame);
    }

    /// A worker has told of its sessions without an edge.
    pub(crate) fn room_told(&mut self, core: &mut Core, from: PeerRef, told: proto::RoomTold) {
        match &mut self.phase {
            Phase::Taking(taking) if told.asked_epoch == self.epoch => {
                for membership in told.members {
                    taking.claims.add(None, membership);
                }
                if !told.more {
                    taking.claims.told(from.0, told.worker, told.workers);
                    self.try_restore(core);
                }
            }
            // It tells again until it is heard.
            Phase::Active if told.asked_epoch == 0 => {
                self.members_told(core, from, told.members);
            }
            _ => {}
        }
    }

    /// Asks edges for the presences of those occupants that are missing in the state store, or outdated there.
    pub(super) fn ask_members(&mut self, core: &mut Core) {
        let (slot, epoch) = (self.slot, self.epoch);
        let Phase::Taking(taking) = &mut self.phase else {
            return;
        };
        let mut stored = Stored::default();
        let objects = taking.stored.iter().flat_map(|stored| &stored.objects);
        for object in objects {
            let Some(room) = object.object.strip_prefix("r:") else {
                continue;
            };
            let occupants = object.fields.iter().filter(|(f, _)| f.starts_with("o:"));
            let occupants =
                occupants.filter_map(|(_, v)| proto::RoomOccupant::decode(v.clone()).ok());
            for session in occupants.flat_map(|occupant| occupant.sessions) {
                let at = (
                    room.to_owned(),
                    join(session.session_hi, session.session_lo),
                );
                let presence = session.presence.unwrap_or_default();
                stored.insert(at, (session.seq, presence));
            }
        }
        for (edge, (lane, members)) in taking.claims.complete(&stored) {
            if !core.lanes.contains_key(&lane) || taking.claims.asked.contains_key(&edge) {
                continue;
            }
            taking.waiting.insert(edge);
            let mut parts = 0;
            for members in members.chunks(ASKED_AT_ONCE) {
                parts += 1;
                let members = members.to_vec();
                let ask = Body::AskMembers(proto::AskMembers { members });
                core.send_edge(lane, slot, epoch, ask);
            }
            taking.claims.asked.insert(edge, parts);
        }
    }
}

#[cfg(test)]
#[path = "claims_tests.rs"]
mod tests;
