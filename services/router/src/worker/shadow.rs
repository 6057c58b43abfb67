//! The shadow of a slot: what of it must survive this process.
//!
//! Here is what is to be written, object by object; [`commit`](super::commit) writes it. A *group* is
//! what changed of one object since it was written last: a commit takes groups whole.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use prost::Message as _;
use sestina_api::shadow::{Loaded, Stamp};
use sestina_proto as proto;
use sestina_xmpp::jid::Jid;

use super::commit::{Check, InFlight};
use super::core::Core;
use super::session::{Attachment, Session};
use super::slot::Slot;
use super::staging::Staging;
use crate::chance::{HashMap, HashSet};

/// How long a detached session at least waits for its client after its owner has changed.
const GRACE_MS: u64 = 30_000;

/// What is to be written of one object.
#[derive(Debug)]
pub(super) enum Change {
    Replace,
    Update {
        set: BTreeMap<String, Bytes>,
        remove: BTreeSet<String>,
    },
    Delete,
}

impl Change {
    fn nothing() -> Change {
        Change::Update {
            set: BTreeMap::new(),
            remove: BTreeSet::new(),
        }
    }
}

/// What waits until an object is written.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    /// Detached sessions, up to which outbound number.
    pub(super) sessions: Vec<(u128, u64)>,
    /// Room events.
    pub(super) events: Vec<(Jid, u64)>,
    /// Rooms, and up to which event their tail is cut.
    pub(super) trims: Vec<(Jid, u64)>,
}

/// A group that is to be written.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) change: Change,
    pub(super) waiting: Waiting,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct SlotShadow {
    /// The version of each object, as far as the newest write says.
    pub(super) versions: HashMap<String, Stamp>,
    pub(super) changes: HashMap<String, Pending>,
    /// The objects with changes, in the order in which they began to wait.
    pub(super) order: VecDeque<String>,
    /// A change that is too large for one script, on its way in parts.
    pub(super) staging: Option<Staging>,
    pub(super) in_flight: Option<InFlight>,
    /// The number of the newest write in this epoch.
    pub(super) n: u64,
    /// The newest write that the store is known to have taken.
    pub(super) acked: Stamp,
    /// How many writes the store had refused as old.
    pub(super) refused: Option<u64>,
    /// The store has lost writes, or may have lost a removal: it is to be asked which objects it has.
    pub(super) to_list: bool,
    /// Since then not all objects were written anew.
    pub(super) rewriting: bool,
    /// Objects that the store may not have as they are: a write of them failed, or was lost.
    pub(super) doubtful: HashSet<String>,
    pub(super) check: Option<Check>,
    /// A commit is due although nothing has changed.
    pub(super) probe: bool,
    pub(super) listed: bool,
    pub(super) retry_at_ms: u64,
    /// The store did not answer the last commit.
    pub(super) failed: bool,
    /// Up to which doubt all objects are known to be there.
    pub(crate) checked: u64,
}

impl SlotShadow {
    /// Nothing to write and nothing being written.
    pub(crate) fn is_idle(&self) -> bool {
        self.changes.is_empty()
            && self.staging.is_none()
            && self.in_flight.is_none()
            && !self.to_list
    }

    /// Objects with a change that is not written.
    pub(crate) fn unwritten(&self) -> usize {
        let flying = self.in_flight.as_ref().map_or(0, InFlight::objects);
        self.changes.len() + usize::from(self.staging.is_some()) + flying
    }

    /// Objects that may be missing in the shadow, or be there as they were before.
    pub(crate) fn in_doubt(&self, doubts: u64) -> usize {
        let all = self.versions.len().max(usize::from(self.n > 0));
        let missing = if self.failed { self.unwritten() } else { 0 };
        let unsure = if self.checked < doubts { all } else { 0 };
        let lost = if self.to_list {
            all
        } else {
            self.doubtful.len()
        };
        missing.max(unsure).max(lost)
    }

    /// Whether the slot is being written anew because the store has lost something.
    pub(crate) fn is_rewriting(&self) -> bool {
        self.rewriting
    }

    /// Whether the shadow did not answer the last commit.
    pub(crate) fn is_away(&self, now_ms: u64) -> bool {
        self.failed && now_ms < self.retry_at_ms
    }

    /// The objects that the shadow has of this slot, and their versions.
    pub(crate) fn versions(&self) -> impl Iterator<Item = (&str, Stamp)> {
        self.versions
            .iter()
            .map(|(object, v)| (object.as_str(), *v))
    }

    /// The newest write that the store is known to have taken.
    pub(crate) fn acked(&self) -> Stamp {
        self.acked
    }

    /// Notes a change of an object, in place of what was to be written of it.
    pub(super) fn put(&mut self, object: String, change: Change) -> &mut Waiting {
        let pending = self.entry(object, || Change::Delete);
        pending.change = change;
        &mut pending.waiting
    }

    /// What is to be written of an object.
    fn entry(&mut self, object: String, change: impl FnOnce() -> Change) -> &mut Pending {
        let order = &mut self.order;
        self.changes.entry(object).or_insert_with_key(|object| {
            order.push_back(object.clone());
            Pending {
                change: change(),
                waiting: Waiting::default(),
            }
        })
    }
}

impl Slot {
    pub(super) fn shadow_list(&mut self, core: &mut Core) {
        if !self.shadow.listed {
            self.shadow.listed = true;
            core.shadow_dirty.push(self.slot);
        }
    }

    pub(super) fn shadow_change(
        &mut self,
        core: &mut Core,
        object: String,
        change: Change,
    ) -> &mut Waiting {
        self.shadow_list(core);
        self.shadow.put(object, change)
    }

    /// Writes a detached session whole.
    pub(crate) fn shadow_replace_session(&mut self, core: &mut Core, id: u128) {
        let number = self.sessions.get(&id).map_or(0, |s| s.next);
        if !core.config.shadow {
            return self.detach_committed(core, id, number);
        }
        let waiting = self.shadow_change(core, Session::shadow_object(id), Change::Replace);
        waiting.sessions.push((id, number));
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
        let known = self.shadow.versions.contains_key(&object);
        let pending = self.shadow.entry(object, || {
            if known {
                Change::nothing()
            } else {
                Change::Replace
            }
        });
        match &mut pending.change {
            Change::Replace => {}
            Change::Update { set, .. } => {
                set.insert(field.0, field.1);
            }
            Change::Delete => pending.change = Change::Replace,
        }
        pending.waiting.sessions.push((id, number));
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
                || self.shadow.is_being_written(&object))
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
        let known = self.shadow.versions.contains_key(&object);
        let pending = self.shadow.entry(object, || {
            if known {
                Change::nothing()
            } else {
                Change::Replace
            }
        });
        let (change, waiting) = (&mut pending.change, &mut pending.waiting);
        waiting.events.extend(event.map(|seq| (room.clone(), seq)));
        waiting.trims.extend(trim.map(|seq| (room.clone(), seq)));
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

    /// Writes a room whole.
    pub(crate) fn shadow_rewrite_room(&mut self, core: &mut Core, room: &Jid) {
        if core.config.shadow {
            self.shadow_change(core, room_object(room), Change::Replace);
        }
    }

    /// The record of a session without a socket has changed.
    pub(crate) fn shadow_session_changed(&mut self, core: &mut Core, id: u128) {
        let object = Session::shadow_object(id);
        let Some(session) = self.sessions.get(&id) else {
            return;
        };
        let detached = matches!(session.attachment, Attachment::Detached { .. });
        if !core.config.shadow || !detached {
            return;
        }
        let record = session.record().encode_to_vec().into();
        let known = self.shadow.versions.contains_key(&object);
        let pending = self.shadow.entry(object, || match known {
            true => Change::nothing(),
            false => Change::Replace,
        });
        match &mut pending.change {
            Change::Replace => {}
            Change::Update { set, .. } => {
                set.insert("meta".to_owned(), record);
            }
            Change::Delete => pending.change = Change::Replace,
        }
        self.shadow_list(core);
    }

    /// Changes nothing of each object: refused if the shadow does not have it as it was written.
    pub(crate) fn shadow_touch(&mut self, core: &mut Core) {
        let objects: Vec<String> = self.shadow.versions.keys().cloned().collect();
        for object in objects {
            self.shadow.entry(object, Change::nothing);
        }
        let left = self.shadow.changes.keys().cloned().collect();
        self.shadow.check = Some(Check::new(core.checks.doubts, self.shadow.n, left));
        self.shadow.probe = true;
        self.shadow_list(core);
    }

    /// The session that an object of the shadow is of, if it belongs there.
    fn stored_session(&self, object: &str) -> Option<&Session> {
        let id = u128::from_str_radix(object.strip_prefix("s:")?, 16).ok()?;
        let session = self.sessions.get(&id)?;
        let attached = session.edge().is_some() && session.spare.is_none() && !self.is_spilled();
        (!attached).then_some(session)
    }

    /// Whether an object belongs into the shadow.
    pub(super) fn is_stored(&self, object: &str) -> bool {
        match object.strip_prefix("r:") {
            Some(room) => self.rooms.contains_key(&Jid::from_wire(room)),
            None => self.stored_session(object).is_some(),
        }
    }

    /// The names of all objects that belong into the shadow.
    pub(super) fn stored_objects(&self) -> Vec<String> {
        let sessions = self.sessions.keys().map(|id| Session::shadow_object(*id));
        let mut objects: Vec<String> = sessions.filter(|object| self.is_stored(object)).collect();
        objects.extend(self.rooms.keys().map(room_object));
        objects
    }

    /// All fields of an object as it lives here; none if it does not (any more).
    pub(crate) fn full_fields(&self, object: &str) -> Option<Vec<(String, Bytes)>> {
        if object.starts_with("s:") {
            let session = self.stored_session(object)?;
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
    pub(crate) fn restore_objects(&mut self, core: &mut Core, loaded: Loaded) {
        self.shadow.checked = core.checks.doubts;
        self.shadow.acked = loaded.at;
        // Only this owner writes with its epoch; it may have taken the slot before.
        if loaded.at.epoch == self.epoch {
            self.shadow.n = loaded.at.n;
        }
        for object in loaded.objects {
            self.shadow
                .versions
                .insert(object.object.clone(), object.version);
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
        session.waited = true;
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
        } else {
            self.tell_rooms(id);
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
