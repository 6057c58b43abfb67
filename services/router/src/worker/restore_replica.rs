//! The objects of a slot, as a new owner loads them from the state store: its sessions without a socket, and its rooms.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message as _;
use sestina_api::key::IdempotencyKey;
use sestina_api::state_store::Loaded;
use sestina_proto as proto;

use super::channel::Attachment;
use super::core::Core;
use super::session::Session;
use super::slot::Slot;

/// How long a detached session at least waits for its client after its owner has changed.
const GRACE_MS: u64 = 30_000;

impl Slot {
    /// Makes what the state store knew of this slot live again.
    pub(crate) fn restore_objects(&mut self, core: &mut Core, loaded: Loaded) {
        self.replica.checked = core.checks.doubts;
        self.replica.acked = loaded.at;
        // Only this owner writes with its epoch; it may have taken the slot before.
        if loaded.at.epoch == self.epoch {
            self.replica.n = loaded.at.n;
        }
        for object in loaded.objects {
            self.replica
                .versions
                .insert(object.object.clone(), object.version);
            if object.object.starts_with("s:") {
                self.restore_session(core, object.fields);
            } else if object.object.starts_with("r:")
                && let Some(room) = crate::room::OwnedRoom::from_replica(object.fields)
            {
                self.rooms.insert(room.jid().clone(), room);
            }
        }
    }

    fn restore_session(&mut self, core: &mut Core, fields: Vec<(String, Bytes)>) {
        let mut meta = None;
        let mut queue = BTreeMap::new();
        for (field, value) in fields {
            if field == "meta" {
                meta = proto::SessionState::decode(value).ok();
            } else if let Ok(item) = proto::Outbound::decode(value) {
                queue.insert(item.number, item);
            }
        }
        let Some(meta) = meta else { return };
        let left_ms = resumable_for(&meta, core.wall_ms);
        let (ending, settled) = (meta.ending, meta.settled.unwrap_or(meta.accepted));
        let attachment = Attachment::Detached {
            deadline_ms: core.now_ms + left_ms,
            until_ms: core.wall_ms.saturating_add_unsigned(left_ms),
            committed: true,
        };
        let mut session = Session::from_record(meta, attachment, &core.pipelines);
        session.client.waited = true;
        session.channel.copies.settled_stored = settled;
        session.channel.outgoing.next = session.channel.outgoing.acked;
        for (number, item) in queue {
            if number <= session.channel.outgoing.acked
                && let Some(key) = item.key.as_ref().map(IdempotencyKey::from)
            {
                session.channel.restore_key(number, key);
            } else if number == session.channel.outgoing.next + 1 {
                session.channel.restore_item(item, core.wall_ms);
            }
        }
        session.channel.outgoing.held = session.channel.outgoing.next;
        session.channel.may_be_stored();
        self.inbox.any_restored |= !session.channel.outgoing.restored.is_empty();
        let id = session.channel.id;
        core.metrics.bound();
        core.metrics.detached();
        self.insert_session(session);
        if ending {
            core.slots.end_after_restore.push((self.slot, id));
        } else {
            self.tell_rooms(id);
        }
    }
}

/// How long a session that was loaded from the state store can still be resumed, in milliseconds: until the wall-clock
/// time in its record. The clocks of two routers may differ, so it is at most the whole resumption time; a client may
/// have found no owner while its owner was being replaced, so there is a least time, too.
fn resumable_for(meta: &proto::SessionState, wall_ms: i64) -> u64 {
    let all = u64::from(meta.sm_max_s) * 1000;
    if meta.resumable_until_ms == 0 {
        return all;
    }
    let left = meta.resumable_until_ms.saturating_sub(wall_ms);
    u64::try_from(left).unwrap_or(0).max(GRACE_MS).min(all)
}
