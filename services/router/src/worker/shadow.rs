//! The shadow of a slot: what of it must survive this process, committed in groups.
//!
//! One commit is in flight for a slot at a time; what changes meanwhile goes with the next. After
//! any failure the objects concerned are written whole, so that a store that lost writes, or
//! restarted empty, is right again without special cases.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use prost::Message as _;
use sestina_api::shadow::{ShadowError, ShadowOp};
use sestina_proto as proto;
use sestina_runtime::failpoint;
use sestina_xmpp::jid::Jid;

use super::core::{Core, Job};
use super::session::{Attachment, Session};
use super::slot::Slot;
use crate::chance::HashMap;

/// How long a detached session at least waits for its client after its owner has changed.
const GRACE_MS: u64 = 30_000;

/// What is to be written of one object.
#[derive(Debug)]
enum Change {
    Replace,
    Update {
        set: BTreeMap<String, Bytes>,
        remove: BTreeSet<String>,
    },
    Delete,
}

/// Who waits for a commit.
#[derive(Debug, Default)]
struct Waiting {
    objects: Vec<String>,
    /// Detached sessions, up to which outbound number.
    sessions: Vec<(u128, u64)>,
    /// Room events.
    events: Vec<(Jid, u64)>,
    /// Rooms, and up to which event their tail is cut.
    trims: Vec<(Jid, u64)>,
    /// All objects are part of it: they are there, as far as was known to be in doubt then.
    check: Option<u64>,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct SlotShadow {
    versions: HashMap<String, u64>,
    changes: BTreeMap<String, Change>,
    waiting: Waiting,
    in_flight: Option<Waiting>,
    listed: bool,
    retry_at_ms: u64,
    /// The last commit failed.
    failed: bool,
    /// Up to which doubt all objects are known to be there.
    pub(crate) checked: u64,
}

impl SlotShadow {
    /// Nothing to write and nothing being written.
    pub(crate) fn is_idle(&self) -> bool {
        self.changes.is_empty() && self.in_flight.is_none()
    }

    /// Objects with a change that is not written.
    pub(crate) fn unwritten(&self) -> usize {
        self.changes.len() + self.in_flight.as_ref().map_or(0, |w| w.objects.len())
    }

    /// Whether the shadow was given something.
    pub(crate) fn has_objects(&self) -> bool {
        !self.versions.is_empty()
    }

    /// Objects that may be missing in the shadow.
    pub(crate) fn in_doubt(&self, doubts: u64) -> usize {
        let missing = if self.failed { self.unwritten() } else { 0 };
        let unsure = self.checked < doubts;
        missing.max(if unsure { self.versions.len() } else { 0 })
    }

    /// Whether the shadow did not answer the last commit.
    pub(crate) fn is_away(&self, now_ms: u64) -> bool {
        self.failed && now_ms < self.retry_at_ms
    }

    /// The objects that the shadow has of this slot, and their versions.
    pub(crate) fn versions(&self) -> impl Iterator<Item = (&str, u64)> {
        self.versions
            .iter()
            .map(|(object, v)| (object.as_str(), *v))
    }

    /// Versions as loaded at a takeover.
    pub(crate) fn loaded(&mut self, object: &str, version: u64) {
        self.versions.insert(object.to_owned(), version);
    }
}

impl Slot {
    fn shadow_list(&mut self, core: &mut Core) {
        if !self.shadow.listed {
            self.shadow.listed = true;
            core.shadow_dirty.push(self.slot);
        }
    }

    fn shadow_change(&mut self, core: &mut Core, object: String, change: Change) {
        self.shadow.changes.insert(object, change);
        self.shadow_list(core);
    }

    /// Writes a detached session whole.
    pub(crate) fn shadow_replace_session(&mut self, core: &mut Core, id: u128) {
        let number = self.sessions.get(&id).map_or(0, |s| s.next);
        if !core.config.shadow {
            return self.detach_committed(core, id, number);
        }
        self.shadow.waiting.sessions.push((id, number));
        self.shadow_change(core, Session::shadow_object(id), Change::Replace);
    }

    /// Adds a stanza to the queue of a detached session.
    pub(crate) fn shadow_queue_item(&mut self, core: &mut Core, id: u128, number: u64) {
        if !core.config.shadow {
            return self.detach_committed(core, id, number);
        }
        let object = Session::shadow_object(id);
        let Some(session) = self.sessions.get(&id) else {
            return;
        };
        let Some(field) = queue_field(session, number) else {
            return;
        };
        match self.shadow.changes.get_mut(&object) {
            Some(Change::Replace) => {}
            Some(Change::Update { set, .. }) => {
                set.insert(field.0, field.1);
            }
            Some(Change::Delete) | None => {
                let set = BTreeMap::from([field]);
                let update = Change::Update {
                    set,
                    remove: BTreeSet::new(),
                };
                let known = self.shadow.versions.contains_key(&object);
                self.shadow
                    .changes
                    .insert(object, if known { update } else { Change::Replace });
            }
        }
        self.shadow.waiting.sessions.push((id, number));
        self.shadow_list(core);
    }

    /// An attached session is with its edge again, so that a copy in the shadow would grow old.
    pub(crate) fn shadow_delete_spilled(&mut self, core: &mut Core, id: u128) {
        let is_spare = |s: &Session| s.edge().is_some() && s.spare.is_none();
        if self.sessions.get(&id).is_some_and(|s| is_spare(s)) {
            self.shadow_delete_session(core, id);
        }
    }

    pub(crate) fn shadow_delete_session(&mut self, core: &mut Core, id: u128) {
        self.shadow_delete_object(core, Session::shadow_object(id));
    }

    pub(crate) fn shadow_delete_object(&mut self, core: &mut Core, object: String) {
        if core.config.shadow
            && (self.shadow.versions.contains_key(&object)
                || self.shadow.changes.contains_key(&object)
                || self
                    .shadow
                    .in_flight
                    .as_ref()
                    .is_some_and(|w| w.objects.contains(&object)))
        {
            self.shadow_change(core, object, Change::Delete);
        }
    }

    /// Changes fields of a room; `event` waits for the commit before it leaves.
    pub(crate) fn shadow_room(
        &mut self,
        core: &mut Core,
        room: &Jid,
        set: Vec<(String, Bytes)>,
        remove: Vec<String>,
        event: Option<u64>,
        trim: Option<u64>,
    ) {
        if !core.config.shadow {
            if let Some(seq) = event {
                core.room_committed.push((self.slot, room.clone(), seq));
            }
            core.room_trimmed
                .extend(trim.map(|seq| (self.slot, room.clone(), seq)));
            return;
        }
        let object = room_object(room);
        if let Some(seq) = event {
            self.shadow.waiting.events.push((room.clone(), seq));
        }
        self.shadow
            .waiting
            .trims
            .extend(trim.map(|seq| (room.clone(), seq)));
        let known = self.shadow.versions.contains_key(&object);
        let change = self.shadow.changes.entry(object).or_insert_with(|| {
            if known {
                Change::Update {
                    set: BTreeMap::new(),
                    remove: BTreeSet::new(),
                }
            } else {
                Change::Replace
            }
        });
        if let Change::Delete = change {
            *change = Change::Replace;
        }
        if let Change::Update {
            set: sets,
            remove: removes,
        } = change
        {
            for (field, value) in set {
                removes.remove(&field);
                sets.insert(field, value);
            }
            for field in remove {
                sets.remove(&field);
                removes.insert(field);
            }
        }
        self.shadow_list(core);
    }

    /// Changes nothing of each object: refused if the shadow does not have it as it was written.
    pub(crate) fn shadow_touch(&mut self, core: &mut Core) {
        for object in self.shadow.versions.keys() {
            let change = self.shadow.changes.entry(object.clone());
            change.or_insert_with(|| Change::Update {
                set: BTreeMap::new(),
                remove: BTreeSet::new(),
            });
        }
        self.shadow.waiting.check = Some(core.checks.doubts);
        self.shadow_list(core);
    }

    /// Begins a commit if none is under way; run at the end of a turn.
    pub(crate) fn shadow_flush(&mut self, core: &mut Core) {
        self.shadow.listed = false;
        if self.shadow.in_flight.is_some() || self.shadow.changes.is_empty() {
            return;
        }
        if core.now_ms < self.shadow.retry_at_ms {
            return self.shadow_list(core);
        }
        let changes = std::mem::take(&mut self.shadow.changes);
        let mut waiting = std::mem::take(&mut self.shadow.waiting);
        let mut ops = Vec::with_capacity(changes.len());
        for (object, change) in changes {
            let version = self.shadow.versions.get(&object).copied().unwrap_or(0);
            waiting.objects.push(object.clone());
            let op = match change {
                Change::Delete => ShadowOp::Delete {
                    object: object.clone(),
                },
                Change::Replace => match self.full_fields(&object) {
                    Some(fields) => ShadowOp::Replace {
                        object: object.clone(),
                        version: version + 1,
                        fields,
                    },
                    None => ShadowOp::Delete {
                        object: object.clone(),
                    },
                },
                Change::Update { set, remove } => ShadowOp::Update {
                    object: object.clone(),
                    base: version,
                    set: set.into_iter().collect(),
                    remove: remove.into_iter().collect(),
                },
            };
            match &op {
                ShadowOp::Delete { .. } => self.shadow.versions.remove(&object),
                _ => self.shadow.versions.insert(object, version + 1),
            };
            ops.push(op);
        }
        failpoint!("router.shadow_commit");
        self.shadow.in_flight = Some(waiting);
        core.jobs.push(Job::Shadow {
            slot: self.slot,
            epoch: self.epoch,
            ops,
        });
    }

    /// A commit ended; false if a higher epoch fences this owner.
    pub(crate) fn shadow_done(&mut self, core: &mut Core, result: Result<(), ShadowError>) -> bool {
        let Some(waiting) = self.shadow.in_flight.take() else {
            return true;
        };
        match result {
            Ok(()) => {
                failpoint!("router.shadow_committed");
                self.shadow.failed = false;
                self.shadow.checked = waiting.check.unwrap_or(0).max(self.shadow.checked);
                for (id, number) in waiting.sessions {
                    self.detach_committed(core, id, number);
                }
                for (room, seq) in waiting.events {
                    core.room_committed.push((self.slot, room, seq));
                }
                for (room, seq) in waiting.trims {
                    core.room_trimmed.push((self.slot, room, seq));
                }
            }
            Err(ShadowError::Fenced { known }) => {
                tracing::warn!(
                    slot = self.slot,
                    epoch = self.epoch,
                    known,
                    "fenced by the shadow"
                );
                return false;
            }
            Err(error) => {
                // It has lost something, or it may have when it is back.
                if !self.shadow.failed && self.shadow.checked == core.checks.doubts {
                    core.checks.doubts += 1;
                }
                self.shadow.failed = true;
                if let ShadowError::Away(reason) = &error {
                    tracing::debug!(
                        slot = self.slot,
                        reason,
                        "shadow commit failed; trying again"
                    );
                    self.shadow.retry_at_ms = core.now_ms + core.config.shadow_retry_ms;
                    core.metrics.shadow_away();
                }
                // Rooms go on while the shadow is away: their events leave uncommitted and are
                // settled by their receivers.
                for (room, seq) in waiting.events {
                    core.room_uncommitted.push((self.slot, room, seq));
                }
                self.shadow.waiting.sessions.extend(waiting.sessions);
                self.shadow.waiting.trims.extend(waiting.trims);
                self.shadow.waiting.check = self.shadow.waiting.check.max(waiting.check);
                for object in waiting.objects {
                    let gone = self.full_fields(&object).is_none();
                    let change = if gone {
                        Change::Delete
                    } else {
                        Change::Replace
                    };
                    self.shadow.changes.insert(object, change);
                }
            }
        }
        if !self.shadow.changes.is_empty() {
            self.shadow_list(core);
        }
        true
    }

    /// All fields of an object as it lives here; none if it does not (any more).
    pub(super) fn full_fields(&self, object: &str) -> Option<Vec<(String, Bytes)>> {
        if let Some(id) = object.strip_prefix("s:") {
            let id = u128::from_str_radix(id, 16).ok()?;
            let session = self.sessions.get(&id)?;
            if session.edge().is_some() && session.spare.is_none() && !self.is_spilled() {
                return None;
            }
            let mut fields = vec![("meta".to_owned(), session.record().encode_to_vec().into())];
            fields
                .extend((session.acked + 1..=session.next).filter_map(|n| queue_field(session, n)));
            return Some(fields);
        }
        let room = object.strip_prefix("r:")?;
        self.rooms
            .get(&Jid::from_wire(room))
            .map(crate::room::Room::shadow_fields)
    }

    /// Sessions without a socket, and rooms, as the state store would hold them.
    pub(super) fn replicas(&self) -> Vec<crate::admin::Replica> {
        let sessions = self.sessions.keys().map(|id| Session::shadow_object(*id));
        let rooms = self.rooms.keys().map(room_object);
        let replica = |object: String| {
            Some(crate::admin::Replica {
                slot: self.slot,
                fields: self.full_fields(&object)?,
                object,
            })
        };
        sessions.chain(rooms).filter_map(replica).collect()
    }

    /// Makes what the shadow knew of this slot live again.
    pub(crate) fn restore_objects(
        &mut self,
        core: &mut Core,
        objects: Vec<sestina_api::shadow::ShadowObject>,
    ) {
        self.shadow.checked = core.checks.doubts;
        for object in objects {
            self.shadow.loaded(&object.object, object.version);
            if object.object.starts_with("s:") {
                self.restore_session(core, object.fields);
            } else if object.object.starts_with("r:")
                && let Some(room) = crate::room::Room::from_shadow(object.fields)
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
        let ending = meta.ending;
        let attachment = Attachment::Detached {
            deadline_ms: core.now_ms + left_ms,
            until_ms: core.wall_ms.saturating_add_unsigned(left_ms),
            committed: true,
        };
        let mut session = Session::from_record(meta, attachment);
        session.next = session.acked;
        for (number, item) in queue {
            if number == session.next + 1 {
                session.restore_item(item, core.wall_ms);
            }
        }
        session.held = session.next;
        self.any_restored |= !session.restored.is_empty();
        let id = session.id;
        core.metrics.bound();
        core.metrics.detached();
        self.insert_session(session);
        if ending {
            core.end_after_restore.push((self.slot, id));
        }
    }
}

/// How long a session from the shadow still waits for its client, in milliseconds: what is left of
/// its time by the clock of the day, but not more than all of it, should the clocks of two routers
/// differ, and not less than a client needs that found nobody while its owner was being replaced.
fn resumable_for(meta: &proto::SessionState, wall_ms: i64) -> u64 {
    let all = u64::from(meta.sm_max_s) * 1000;
    if meta.resumable_until_ms == 0 {
        return all;
    }
    let left = meta.resumable_until_ms.saturating_sub(wall_ms);
    u64::try_from(left).unwrap_or(0).max(GRACE_MS).min(all)
}

fn queue_field(session: &Session, number: u64) -> Option<(String, Bytes)> {
    let index = usize::try_from(number.checked_sub(session.acked + 1)?).ok()?;
    let item = session.queue.get(index)?;
    Some((
        format!("q:{number}"),
        item.outbound(number).encode_to_vec().into(),
    ))
}

/// Name of a room's object.
pub(crate) fn room_object(room: &Jid) -> String {
    format!("r:{room}")
}
