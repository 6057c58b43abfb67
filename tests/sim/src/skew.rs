//! Frames of later versions, of kinds that this one does not know. Protobuf reads them as frames without
//! a body; they must change nothing, and must not end the lane.

use sestina_proto as proto;

use super::net::Ends;
use super::world::World;

impl World {
    /// Puts a frame of an unknown kind into each direction of each lane, behind the frames that are there.
    pub(super) fn unknown_frames(&mut self) {
        let slots = self.slots.clone();
        for conn in self.net.lock().conns.values_mut().filter(|c| !c.broken) {
            let slot = self.rng.pick(&slots).copied().unwrap_or(0);
            let epoch = self.storage.map.epochs[usize::from(slot)];
            let slot = u32::from(slot);
            match conn.ends {
                Ends::Edge { .. } => {
                    let body = None;
                    conn.up.push_back(proto::ToRouter { slot, epoch, body });
                    let body = None;
                    conn.down.push_back(proto::ToEdgeBatch {
                        // This number stands for the process itself; those of its workers are lower.
                        worker: self.workers,
                        seq: 0,
                        frames: vec![proto::ToEdge { slot, epoch, body }],
                    });
                }
                Ends::Peer { .. } => {
                    let body = None;
                    conn.peer.push_back(proto::PeerFrame { slot, epoch, body });
                }
            }
        }
    }
}
