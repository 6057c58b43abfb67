//! A group that is too large for one script: put aside in parts, and made in one last script. Each object has a
//! staging place of its own.

use std::collections::VecDeque;

use bytes::Bytes;
use sestina_api::state_store::{ReplicaOp, StagedPart, Stamp};

use super::replica::Waiting;

/// The cost of a word of a script beside its bytes.
pub(super) const ROW: usize = 64;

/// How many bytes these fields are on their way.
pub(super) fn size_of<'a>(fields: impl IntoIterator<Item = impl Field<'a>>) -> usize {
    fields.into_iter().map(|field| field.size() + ROW).sum()
}

/// A name and its value.
pub(super) trait Field<'a> {
    fn size(&self) -> usize;
}

impl<'a> Field<'a> for &'a (String, Bytes) {
    fn size(&self) -> usize {
        self.0.len() + self.1.len()
    }
}

impl<'a> Field<'a> for (&'a String, &'a Bytes) {
    fn size(&self) -> usize {
        self.0.len() + self.1.len()
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Staging {
    /// In the order of their places.
    objects: Vec<Staged>,
}

/// An object of the group.
#[derive(Debug)]
struct Staged {
    object: String,
    /// The change, without the fields to be set.
    op: ReplicaOp,
    /// The fields that are not yet put aside.
    fields: VecDeque<(String, Bytes)>,
    /// A piece of the first of them is.
    begun: bool,
    /// The write that put the last part aside.
    staged: Option<Stamp>,
    waiting: Waiting,
}

impl Staging {
    /// Begins with the changes of a group, and what waits for each.
    pub(super) fn new(ops: Vec<ReplicaOp>, waiting: Vec<(String, Waiting)>) -> Staging {
        let objects = ops.into_iter().zip(waiting);
        let staged = |(mut op, (object, waiting))| {
            let fields = match &mut op {
                ReplicaOp::Replace { fields, .. } => std::mem::take(fields),
                ReplicaOp::Update { set, .. } => std::mem::take(set),
                _ => Vec::new(),
            };
            Staged {
                object,
                op,
                fields: fields.into(),
                begun: false,
                staged: None,
                waiting,
            }
        };
        Staging {
            objects: objects.map(staged).collect(),
        }
    }

    pub(super) fn objects(&self) -> impl ExactSizeIterator<Item = &str> {
        self.objects.iter().map(|staged| staged.object.as_str())
    }

    /// The next parts, and their bytes; none if all is put aside, and then the bytes of the last step.
    pub(super) fn step(&mut self, at: Stamp, limit: usize) -> (Vec<ReplicaOp>, usize) {
        let (mut ops, mut bytes) = (Vec::new(), 0);
        for (place, object) in self.objects.iter_mut().enumerate() {
            if object.fields.is_empty() {
                continue;
            }
            let parts = object.parts(limit, &mut bytes);
            if !parts.is_empty() {
                let base = object.staged.replace(at);
                ops.push(ReplicaOp::Stage { place, base, parts });
            }
            if !object.fields.is_empty() {
                break;
            }
        }
        if ops.is_empty() {
            bytes = self.objects.iter().map(Staged::last_bytes).sum();
        }
        (ops, bytes)
    }

    /// The last step: each object, its change, and what waits for it.
    pub(super) fn finish(self) -> impl Iterator<Item = (String, ReplicaOp, Waiting)> {
        let objects = self.objects.into_iter().enumerate();
        objects.map(|(place, staged)| {
            let op = of_staged(staged.op, place, staged.staged);
            (staged.object, op, staged.waiting)
        })
    }

    /// A part may be missing: the objects, and what waits for them.
    pub(super) fn give_up(self) -> impl Iterator<Item = (String, Waiting)> {
        let objects = self.objects.into_iter();
        objects.map(|staged| (staged.object, staged.waiting))
    }
}

impl Staged {
    /// What still fits of the fields into a script that has so many bytes.
    fn parts(&mut self, limit: usize, bytes: &mut usize) -> Vec<StagedPart> {
        let mut parts = Vec::new();
        while let Some((field, value)) = self.fields.front_mut() {
            let room = limit.saturating_sub(*bytes + field.len() + ROW);
            let fits = value.len() <= room;
            // A field that would fit into a part of its own waits for the next one.
            let alone = field.len() + value.len() + ROW <= limit;
            if !fits && *bytes > 0 && (alone || room == 0) {
                break;
            }
            let piece = if fits {
                std::mem::take(value)
            } else {
                value.split_to(room.max(1))
            };
            *bytes += field.len() + piece.len() + ROW;
            parts.push(StagedPart {
                field: field.clone(),
                append: std::mem::replace(&mut self.begun, !fits),
                value: piece,
            });
            if !fits {
                break;
            }
            self.fields.pop_front();
        }
        parts
    }

    /// The bytes of its change in the last step.
    fn last_bytes(&self) -> usize {
        let names = match &self.op {
            ReplicaOp::Update { remove, .. } => remove.as_slice(),
            _ => &[],
        };
        let names = names.iter().map(|field| field.len() + ROW);
        names.sum::<usize>() + self.object.len() + ROW
    }
}

/// A change whose fields are staged, if it has any.
fn of_staged(op: ReplicaOp, place: usize, staged: Option<Stamp>) -> ReplicaOp {
    match (op, staged) {
        (ReplicaOp::Replace { object, .. }, Some(staged)) => ReplicaOp::ReplaceStaged {
            object,
            place,
            staged,
        },
        (
            ReplicaOp::Update {
                object,
                base,
                remove,
                ..
            },
            Some(staged),
        ) => ReplicaOp::UpdateStaged {
            object,
            base,
            remove,
            place,
            staged,
        },
        (op, _) => op,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn parts_are_within_the_bound_and_make_the_whole() {
        let fields: Vec<(String, Bytes)> = [10, 900, 5000, 0, 300]
            .iter()
            .enumerate()
            .map(|(at, size)| (format!("f{at}"), Bytes::from(vec![at as u8; *size])))
            .collect();
        let op = ReplicaOp::Replace {
            object: "r:x".to_owned(),
            fields: fields.clone(),
        };
        let waiting = vec![("r:x".to_owned(), Waiting::default())];
        let mut staging = Staging::new(vec![op], waiting);
        let mut staged: Vec<(String, Vec<u8>)> = Vec::new();
        let mut n = 0;
        loop {
            n += 1;
            let (mut ops, bytes) = staging.step(Stamp::new(1, n), 1024);
            assert!(bytes <= 1024, "{bytes}");
            let Some(ReplicaOp::Stage { base, parts, .. }) = ops.pop() else {
                break;
            };
            assert!(ops.is_empty(), "{ops:?}");
            assert_eq!(base, (n > 1).then_some(Stamp::new(1, n - 1)));
            for part in parts {
                if part.append {
                    let last = staged.last_mut().unwrap();
                    assert_eq!(last.0, part.field);
                    last.1.extend_from_slice(&part.value);
                } else {
                    staged.push((part.field, part.value.to_vec()));
                }
            }
        }
        assert!(n > 6, "{n}");
        let whole: Vec<(String, Vec<u8>)> =
            fields.into_iter().map(|(f, v)| (f, v.to_vec())).collect();
        assert_eq!(staged, whole);
        let staged = Stamp::new(1, n - 1);
        let object = "r:x".to_owned();
        let last: Vec<ReplicaOp> = staging.finish().map(|(_, op, _)| op).collect();
        let place = 0;
        let whole = ReplicaOp::ReplaceStaged {
            object,
            place,
            staged,
        };
        assert_eq!(last, [whole]);
    }
}
