//! Marks that were lost: asked for, so that nothing is remembered for ever.
//!
//! A mark is told once. If it is lost with a lane or an owner, keys would stay: a sweep asks the
//! owners of the origins about what has not moved since the sweep before.

use std::collections::BTreeMap;

use sestina_api::key::{join, split};
use sestina_proto as proto;

use super::core::{Core, PeerRef};
use super::session::is_stored;
use super::slot::{Seen, Slot, origin_slot};
use crate::chance::HashSet;

/// Origins asked about in one sweep of a slot.
const LIMIT: usize = 64;

impl Slot {
    /// Asks about keys that were there at the last sweep already.
    pub(crate) fn sweep_marks(&mut self, core: &mut Core) {
        let before = std::mem::take(&mut self.waiting_marks);
        let mut now: HashSet<(u128, u64)> = HashSet::default();
        let done = self
            .seen
            .iter()
            .filter(|(_, seen)| matches!(seen, Seen::Done { .. }));
        now.extend(done.map(|(place, _)| (place.0, place.1)).take(LIMIT));
        for session in self.sessions.values() {
            let keys = session.unreleased.values().filter(|k| !is_stored(**k));
            now.extend(keys.map(|k| (k.origin, k.n)).take(4));
        }
        now.extend(
            self.given
                .iter()
                .map(|(origin, n, _)| (*origin, *n))
                .take(LIMIT),
        );
        let mut asked: BTreeMap<u16, HashSet<u128>> = BTreeMap::new();
        for (origin, _) in now.intersection(&before).take(LIMIT) {
            asked
                .entry(origin_slot(*origin))
                .or_default()
                .insert(*origin);
        }
        self.waiting_marks = now;
        for (slot, origins) in asked {
            let Some(owner) = core.owner_of(slot) else {
                continue;
            };
            let origins = origins.into_iter().map(|o| wire_mark(o, 0)).collect();
            let query = proto::MarkQuery {
                asker_slot: u32::from(self.slot),
                origins,
            };
            let body = Some(proto::peer_frame::Body::MarkQuery(query));
            core.send_peer(
                owner,
                proto::PeerFrame {
                    slot: u32::from(slot),
                    epoch: 0,
                    body,
                },
            );
        }
    }

    /// Says how far these origins of this slot are settled.
    pub(crate) fn answer_marks(&self, core: &mut Core, from: PeerRef, query: &proto::MarkQuery) {
        let marks = query
            .origins
            .iter()
            .map(|asked| {
                let origin = join(asked.origin_hi, asked.origin_lo);
                let session = self.sessions.get(&origin).map(|s| s.mark);
                let room = || self.rooms.values().find_map(|r| r.mark_of(origin));
                wire_mark(origin, session.or_else(room).unwrap_or(u64::MAX))
            })
            .collect();
        let body = Some(proto::peer_frame::Body::Marks(proto::Marks { marks }));
        core.send_peer(
            from,
            proto::PeerFrame {
                slot: query.asker_slot,
                epoch: 0,
                body,
            },
        );
    }
}

fn wire_mark(origin: u128, mark: u64) -> proto::Mark {
    let (origin_hi, origin_lo) = split(origin);
    proto::Mark {
        origin_hi,
        origin_lo,
        mark,
    }
}
