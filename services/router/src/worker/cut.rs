//! What one commit writes: whole groups, in order, as many as are within the bound. A group that is larger than any
//! commit goes in parts ([`staging`](super::staging)).

use bytes::Bytes;
use sestina_api::state_store::{ReplicaOp, Stamp};

use super::replica::{Change, Pending, SlotReplica, Waiting};
use super::slot::Slot;
use super::staging::{ROW, Staging, size_of};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Cut {
    pub(super) ops: Vec<ReplicaOp>,
    pub(super) objects: Vec<(String, Waiting)>,
    /// The groups of several objects among them.
    pub(super) groups: Vec<Vec<String>>,
    pub(super) bytes: usize,
}

/// An object of a group, and all of its fields if it is to be written whole.
#[derive(Debug)]
struct Member {
    object: String,
    fields: Option<Vec<(String, Bytes)>>,
}

impl Slot {
    /// Takes what fits of what is to be written. A group that is too large for any commit begins to be staged instead,
    /// if it comes first.
    pub(super) fn cut_commit(&mut self, at: Stamp, limit: usize) -> Cut {
        let (mut cut, mut group) = (Cut::default(), Vec::new());
        while let Some((first, others)) = self.replica.take_group() {
            let objects = std::iter::once(first).chain(others);
            group.extend(objects.map(|object| Member {
                object,
                fields: None,
            }));
            let size = self.measure(&mut group, limit);
            if cut.bytes + size > limit && !cut.ops.is_empty() {
                let objects = group.drain(..).rev().map(|member| member.object);
                objects.for_each(|object| self.replica.order.push_front(object));
                break;
            }
            if group.len() > 1 {
                let objects = group.iter().map(|member| member.object.clone());
                cut.groups.push(objects.collect());
            }
            for member in group.drain(..) {
                self.take_member(at, member, &mut cut);
            }
            cut.bytes += size;
            if size > limit {
                // Known from now on: what changes meanwhile is an update of what is being staged.
                tracing::debug!(
                    slot = self.slot,
                    objects = cut.objects.len(),
                    size,
                    "written in parts"
                );
                self.replica.staging = Some(Staging::new(cut.ops, cut.objects));
                return Cut::default();
            }
        }
        cut
    }

    /// Decides which objects of a group are written whole; returns how many bytes the group is on its way.
    fn measure(&self, group: &mut [Member], limit: usize) -> usize {
        let (mut size, mut removed) = (0, 0);
        for member in group {
            let object = &member.object;
            size += object.len() + ROW;
            match self
                .replica
                .changes
                .get(object)
                .map(|pending| &pending.change)
            {
                Some(Change::Update { set, remove }) => {
                    let names: usize = remove.iter().map(|field| field.len() + ROW).sum();
                    let few = removed + names <= limit / 2;
                    if few && self.replica.versions.contains_key(object) {
                        removed += names;
                        size += names + size_of(set);
                        continue;
                    }
                }
                Some(Change::Replace) => {}
                Some(Change::Delete) | None => continue,
            }
            member.fields = self.full_fields(object);
            size += member.fields.as_ref().map_or(0, size_of);
        }
        size
    }

    fn take_member(&mut self, at: Stamp, member: Member, cut: &mut Cut) {
        let Member { object, fields } = member;
        let Some(Pending {
            change, waiting, ..
        }) = self.replica.take_change(&object)
        else {
            return;
        };
        let op = self.op_of(object.clone(), change, fields);
        self.replica.note_version(&object, &op, at);
        cut.ops.push(op);
        cut.objects.push((object, waiting));
    }

    fn op_of(
        &self,
        object: String,
        change: Change,
        fields: Option<Vec<(String, Bytes)>>,
    ) -> ReplicaOp {
        let base = self.replica.versions.get(&object).copied();
        match (change, fields, base) {
            (Change::Update { set, remove }, None, Some(base)) => ReplicaOp::Update {
                object,
                base,
                set: set.into_iter().collect(),
                remove: remove.into_iter().collect(),
            },
            (Change::Update { .. } | Change::Replace, Some(fields), _) => {
                ReplicaOp::Replace { object, fields }
            }
            _ => ReplicaOp::Delete { object },
        }
    }
}

impl SlotReplica {
    /// The last script of a group that was put aside in parts.
    pub(super) fn cut_staged(&mut self, staging: Staging, at: Stamp, bytes: usize) -> Cut {
        let mut cut = Cut {
            groups: vec![staging.objects().map(str::to_owned).collect()],
            bytes,
            ..Cut::default()
        };
        for (object, op, waiting) in staging.finish() {
            self.note_version(&object, &op, at);
            cut.ops.push(op);
            cut.objects.push((object, waiting));
        }
        cut
    }

    /// What the version of an object becomes with an op that is on its way.
    fn note_version(&mut self, object: &str, op: &ReplicaOp, at: Stamp) {
        if let ReplicaOp::Delete { .. } = op {
            self.versions.remove(object);
        } else {
            self.versions.insert(object.to_owned(), at);
        }
    }
}
