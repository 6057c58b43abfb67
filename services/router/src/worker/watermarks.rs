//! Watermarks that were lost: a slot asks for them again, so that it does not keep keys for ever.
//!
//! An owner sends a watermark once. If the frame is lost with a lane, or with the process that owned the slot, the
//! receiver keeps the keys up to it. A sweep finds the keys that were there at the sweep before as well, and asks the
//! owners of their origins for their watermarks.

use std::collections::BTreeMap;

use sestina_api::key::{join, split};
use sestina_proto as proto;

use super::channel::is_stored;
use super::core::{Core, PeerRef};
use super::slot::{Handled, Slot, origin_slot};
use crate::rng::HashSet;

/// Origins asked about in one sweep of a slot.
const LIMIT: usize = 64;

impl Slot {
    /// Asks about keys that were there at the last sweep already.
    pub(crate) fn sweep_watermarks(&mut self, core: &mut Core) {
        let before = std::mem::take(&mut self.inbox.waiting_watermarks);
        let mut now: HashSet<(u128, u64)> = HashSet::default();
        let done = self
            .inbox
            .dedup
            .iter()
            .filter(|(_, dedup)| matches!(dedup, Handled::Done { .. }));
        now.extend(done.map(|(place, _)| (place.0, place.1)).take(LIMIT));
        for session in self.sessions.values() {
            let keys = session
                .channel
                .outgoing
                .in_flight_keys
                .keys()
                .filter(|k| !is_stored(**k));
            now.extend(keys.map(|k| (k.origin, k.n)).take(4));
        }
        now.extend(
            self.inbox
                .given
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
        self.inbox.waiting_watermarks = now;
        for (slot, origins) in asked {
            let Some(owner) = core.owner_of(slot) else {
                continue;
            };
            let origins = origins.into_iter().map(|o| wire_watermark(o, 0)).collect();
            let query = proto::WatermarkQuery {
                asker_slot: u32::from(self.slot),
                origins,
            };
            let body = Some(proto::peer_frame::Body::WatermarkQuery(query));
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
    pub(crate) fn answer_watermarks(
        &self,
        core: &mut Core,
        from: PeerRef,
        query: &proto::WatermarkQuery,
    ) {
        let watermarks = query
            .origins
            .iter()
            .map(|asked| {
                let origin = join(asked.origin_hi, asked.origin_lo);
                let session = self
                    .sessions
                    .get(&origin)
                    .map(|s| s.channel.incoming.watermark);
                let room = || self.rooms.values().find_map(|r| r.watermark_of(origin));
                wire_watermark(origin, session.or_else(room).unwrap_or(u64::MAX))
            })
            .collect();
        let body = Some(proto::peer_frame::Body::Watermarks(proto::Watermarks {
            watermarks,
        }));
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

fn wire_watermark(origin: u128, watermark: u64) -> proto::Watermark {
    let (origin_hi, origin_lo) = split(origin);
    proto::Watermark {
        origin_hi,
        origin_lo,
        watermark,
    }
}
