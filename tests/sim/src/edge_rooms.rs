//! Who of an edge's sessions is in which room: for an owner that knows nothing of it.

use prost::Message as _;
use sestina_api::key::split;
use sestina_proto as proto;

use super::edge::Edge;

impl Edge {
    /// Members of the rooms of a slot, whatever slot they are of themselves.
    pub(super) fn members(&self, number: u16) -> Vec<proto::RoomMembership> {
        let mut members = Vec::new();
        for session in self.slots.values().flat_map(|slot| slot.sessions.values()) {
            let state = proto::SessionState::decode(session.record.clone()).unwrap_or_default();
            let (session_hi, session_lo) = split(session.nonce);
            for joined in state.joined {
                if sestina_cluster::slots::slot_of_bare(&joined.room) != number {
                    continue;
                }
                members.push(proto::RoomMembership {
                    room: joined.room,
                    member: joined.member,
                    jid: session.jid.clone(),
                    session_hi,
                    session_lo,
                    slot: session.slot.into(),
                });
            }
        }
        members
    }

    /// The answer to `AskMembers`, in parts.
    pub(super) fn members_of(&self, number: u16, rooms: &[String]) -> Vec<proto::RoomMembers> {
        let mut members = self.members(number);
        members.retain(|m| m.member.is_some() && rooms.contains(&m.room));
        let mut parts: Vec<proto::RoomMembers> = members
            .chunks(2)
            .map(|part| proto::RoomMembers {
                members: part.to_vec(),
                more: true,
            })
            .collect();
        parts.push(proto::RoomMembers::default());
        parts
    }
}
