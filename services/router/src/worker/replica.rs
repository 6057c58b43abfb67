//! The replica of a slot: what of it must survive this process.
//!
//! Here is what is to be written, object by object; [`groups`](super::groups) tells what belongs together, and
//! [`commit`](super::commit) writes it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use prost::Message as _;
use sestina_api::state_store::Stamp;
use sestina_xmpp::jid::Jid;

use super::channel::{Channel, acked_outbound};
use super::commit::{Check, InFlight};
use super::core::Core;
use super::groups::Groups;
use super::session::Session;
use super::slot::Slot;
use super::staging::Staging;
use crate::rng::{HashMap, HashSet};

/// A change of one object that is to be written.
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

/// Sessions and events that wait until an object is written.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    /// Detached sessions, up to which outbound number.
    pub(super) sessions: Vec<(u128, u64)>,
    /// Detached sessions, up to which stanza of the client all is settled.
    pub(super) settled: Vec<(u128, u64)>,
    /// Sessions that their owner has ended. It sends their unavailable presences when the state store has the record.
    pub(super) ends: Vec<u128>,
    /// Room events.
    pub(super) events: Vec<(Jid, u64)>,
    /// Rooms, and up to which event their tail is cut.
    pub(super) trims: Vec<(Jid, u64)>,
}

/// What changed of an object since it was written last.
#[derive(Debug)]
pub(super) struct Pending {
    /// See [`Groups`].
    pub(super) number: u64,
    pub(super) change: Change,
    pub(super) waiting: Waiting,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct SlotReplica {
    /// The version of each object, as far as the newest write says.
    pub(super) versions: HashMap<String, Stamp>,
    pub(super) changes: HashMap<String, Pending>,
    /// The objects with changes, in the order in which they began to wait.
    pub(super) order: VecDeque<String>,
    pub(super) groups: Groups,
    /// A group that is too large for one script, on its way in parts.
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
    /// The last write of the owner before, as that owner told it: the store has not said yet whether it has it.
    pub(super) told: Option<Stamp>,
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
    /// This owner has changed no object: what it wrote was nothing.
    pub(super) empty_only: bool,
}

impl SlotReplica {
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
        let staged = self.staging.as_ref().map_or(0, |s| s.objects().len());
        self.changes.len() + staged + flying
    }

    /// Objects that may be missing in the state store, or be there as they were before.
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

    /// Whether the state store did not answer the last commit.
    pub(crate) fn is_unavailable(&self, now_ms: u64) -> bool {
        self.failed && now_ms < self.retry_at_ms
    }

    /// The objects that the state store has of this slot, and their versions.
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

    /// Changes fields of an object. An object that the store does not have is written whole, and so is one that is
    /// pending to be deleted.
    pub(super) fn update(
        &mut self,
        object: String,
        set: Vec<(String, Bytes)>,
        remove: Vec<String>,
    ) -> &mut Waiting {
        let known = self.versions.contains_key(&object);
        let first = || match known {
            true => Change::nothing(),
            false => Change::Replace,
        };
        let Pending {
            change, waiting, ..
        } = self.entry(object, first);
        match change {
            Change::Replace => {}
            Change::Delete => *change = Change::Replace,
            Change::Update {
                set: sets,
                remove: removes,
            } => {
                for (field, value) in set {
                    removes.remove(&field);
                    sets.insert(field, value);
                }
                for field in remove {
                    sets.remove(&field);
                    removes.insert(field);
                }
            }
        }
        waiting
    }

    /// The pending change of an object.
    fn entry(&mut self, object: String, change: impl FnOnce() -> Change) -> &mut Pending {
        self.empty_only = false;
        let (order, groups) = (&mut self.order, &mut self.groups);
        let pending = self.changes.entry(object).or_insert_with_key(|object| {
            order.push_back(object.clone());
            Pending {
                number: groups.number(),
                change: change(),
                waiting: Waiting::default(),
            }
        });
        self.groups.changed(pending.number);
        pending
    }
}

impl Slot {
    pub(super) fn replica_list(&mut self, core: &mut Core) {
        if !self.replica.listed {
            self.replica.listed = true;
            core.slots.replicas_dirty.push(self.slot);
        }
    }

    pub(super) fn replica_change(
        &mut self,
        core: &mut Core,
        object: String,
        change: Change,
    ) -> &mut Waiting {
        self.replica_list(core);
        self.replica.put(object, change)
    }

    /// Writes a detached session whole.
    pub(crate) fn replica_replace_session(&mut self, core: &mut Core, id: u128) {
        let number = self
            .sessions
            .get(&id)
            .map_or(0, |s| s.channel.outgoing.next);
        if !core.config.state_store {
            return self.detach_committed(core, id, number);
        }
        let waiting = self.replica_change(core, Channel::replica_name(id), Change::Replace);
        waiting.sessions.push((id, number));
    }

    /// Adds a stanza to the queue of a detached session.
    pub(crate) fn replica_queue_item(&mut self, core: &mut Core, id: u128, number: u64) {
        if !core.config.state_store {
            return self.detach_committed(core, id, number);
        }
        let object = Channel::replica_name(id);
        let Some(session) = self.sessions.get(&id) else {
            return;
        };
        let Some(field) = queue_field(session, number) else {
            return;
        };
        let waiting = self.replica.update(object, vec![field], Vec::new());
        waiting.sessions.push((id, number));
        self.replica_list(core);
    }

    /// An attached session is with its edge again, so that a copy in the state store would grow old.
    pub(crate) fn replica_delete_spilled(&mut self, core: &mut Core, id: u128) {
        let is_redundant_copy =
            |s: &Session| s.channel.edge().is_some() && s.channel.copies.redundant_copies.is_none();
        if self.sessions.get(&id).is_some_and(|s| is_redundant_copy(s)) {
            self.replica_delete_session(core, id);
        }
    }

    pub(crate) fn replica_delete_session(&mut self, core: &mut Core, id: u128) {
        self.replica_delete_object(core, Channel::replica_name(id));
    }

    pub(crate) fn replica_delete_object(&mut self, core: &mut Core, object: String) {
        if core.config.state_store
            && (self.replica.versions.contains_key(&object)
                || self.replica.changes.contains_key(&object)
                || self.replica.is_being_written(&object))
        {
            self.replica_change(core, object, Change::Delete);
        }
    }

    /// Changes fields of a room; `event` waits for the commit before it leaves.
    pub(crate) fn replica_room(
        &mut self,
        core: &mut Core,
        room: &Jid,
        set: Vec<(String, Bytes)>,
        remove: Vec<String>,
        event: Option<u64>,
        trim: Option<u64>,
    ) {
        if !core.config.state_store {
            if let Some(seq) = event {
                core.rooms.committed.push((self.slot, room.clone(), seq));
            }
            core.rooms
                .trimmed
                .extend(trim.map(|seq| (self.slot, room.clone(), seq)));
            return;
        }
        let waiting = self.replica.update(room_object(room), set, remove);
        waiting.events.extend(event.map(|seq| (room.clone(), seq)));
        waiting.trims.extend(trim.map(|seq| (room.clone(), seq)));
        self.replica_list(core);
    }

    /// Writes a room whole.
    pub(crate) fn replica_rewrite_room(&mut self, core: &mut Core, room: &Jid) {
        if core.config.state_store {
            self.replica_change(core, room_object(room), Change::Replace);
        }
    }

    /// Writes an empty update of each object: the state store refuses it if it has the object in another version.
    pub(crate) fn replica_touch(&mut self, core: &mut Core) {
        let objects: Vec<String> = self.replica.versions.keys().cloned().collect();
        for object in objects {
            self.replica.entry(object, Change::nothing);
        }
        let left = self.replica.changes.keys().cloned().collect();
        self.replica.check = Some(Check::new(core.checks.doubts, self.replica.n, left));
        self.replica.probe = true;
        self.replica_list(core);
    }

    /// The session of an object's name, if the session belongs into the state store.
    fn stored_session(&self, object: &str) -> Option<&Session> {
        let id = u128::from_str_radix(object.strip_prefix("s:")?, 16).ok()?;
        let session = self.sessions.get(&id)?;
        let attached = session.channel.edge().is_some()
            && session.channel.copies.redundant_copies.is_none()
            && !self.is_spilled();
        (!attached).then_some(session)
    }

    /// Whether an object belongs into the state store.
    pub(super) fn is_stored(&self, object: &str) -> bool {
        match object.strip_prefix("r:") {
            Some(room) => self.rooms.contains_key(&Jid::from_wire(room)),
            None => self.stored_session(object).is_some(),
        }
    }

    /// The names of all objects that belong into the state store.
    pub(super) fn stored_objects(&self) -> Vec<String> {
        let sessions = self.sessions.keys().map(|id| Channel::replica_name(*id));
        let mut objects: Vec<String> = sessions.filter(|object| self.is_stored(object)).collect();
        objects.extend(self.rooms.keys().map(room_object));
        objects
    }

    /// All fields of an object as it lives here; none if it does not (any more).
    pub(crate) fn full_fields(&self, object: &str) -> Option<Vec<(String, Bytes)>> {
        if object.starts_with("s:") {
            let session = self.stored_session(object)?;
            let mut fields = vec![("meta".to_owned(), session.record().encode_to_vec().into())];
            // The attachment before may have dropped these keys already, because the state store had
            // them before the client acknowledged their stanzas with its resumption.
            fields.extend(session.channel.acked_keys().map(|(number, key)| {
                let item = acked_outbound(number, key);
                (queue_name(number), item.encode_to_vec().into())
            }));
            fields.extend(
                (session.channel.outgoing.acked + 1..=session.channel.outgoing.next)
                    .filter_map(|n| queue_field(session, n)),
            );
            return Some(fields);
        }
        let room = object.strip_prefix("r:")?;
        self.rooms
            .get(&Jid::from_wire(room))
            .map(crate::room::OwnedRoom::replica_fields)
    }

    /// Sessions without a socket, and rooms, as the state store would hold them.
    pub(super) fn replicas(&self) -> Vec<crate::admin::Replica> {
        let sessions = self.sessions.keys().map(|id| Channel::replica_name(*id));
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
}

fn queue_field(session: &Session, number: u64) -> Option<(String, Bytes)> {
    let index = usize::try_from(number.checked_sub(session.channel.outgoing.acked + 1)?).ok()?;
    let item = session.channel.outgoing.queue.get(index)?;
    Some((
        queue_name(number),
        item.outbound(number).encode_to_vec().into(),
    ))
}

/// Name of the field of an outbound stanza.
fn queue_name(number: u64) -> String {
    format!("q:{number}")
}

/// Name of a room's object.
pub(crate) fn room_object(room: &Jid) -> String {
    format!("r:{room}")
}
