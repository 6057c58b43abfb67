//! A change that is too large for one script: put aside in parts, and made in one last script.

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
    object: String,
    /// The version that it changes; none: all of the object is replaced.
    base: Option<Stamp>,
    remove: Vec<String>,
    /// The fields that are not yet put aside.
    fields: VecDeque<(String, Bytes)>,
    /// A piece of the first of them is.
    begun: bool,
    /// The write that put the last part aside.
    staged: Option<Stamp>,
    waiting: Waiting,
}

impl Staging {
    /// Begins with a change; none if it has no fields to put aside.
    pub(super) fn new(op: ReplicaOp, waiting: Waiting) -> Option<Staging> {
        let (object, base, fields, remove) = match op {
            ReplicaOp::Replace { object, fields } => (object, None, fields, Vec::new()),
            ReplicaOp::Update {
                object,
                base,
                set,
                remove,
            } => (object, Some(base), set, remove),
            _ => return None,
        };
        Some(Staging {
            object,
            base,
            remove,
            fields: fields.into(),
            begun: false,
            staged: None,
            waiting,
        })
    }

    pub(super) fn object(&self) -> &str {
        &self.object
    }

    /// The next part, and its bytes; none if all is put aside.
    pub(super) fn step(&mut self, at: Stamp, limit: usize) -> (Option<ReplicaOp>, usize) {
        if self.fields.is_empty() && self.staged.is_some() {
            let names = self.remove.iter().map(|field| field.len() + ROW);
            return (None, names.sum::<usize>() + self.object.len() + ROW);
        }
        let (mut parts, mut bytes) = (Vec::new(), 0);
        while let Some((field, value)) = self.fields.front_mut() {
            let room = limit.saturating_sub(bytes + field.len() + ROW);
            let fits = value.len() <= room;
            // A field that would fit into a part of its own waits for the next one.
            let alone = field.len() + value.len() + ROW <= limit;
            if !fits && !parts.is_empty() && (alone || room == 0) {
                break;
            }
            let piece = if fits {
                std::mem::take(value)
            } else {
                value.split_to(room.max(1))
            };
            bytes += field.len() + piece.len() + ROW;
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
        let base = self.staged.replace(at);
        let place = 0;
        (Some(ReplicaOp::Stage { place, base, parts }), bytes)
    }

    /// The last step: the object, the change, and what waits for it.
    pub(super) fn finish(self) -> (String, ReplicaOp, Waiting) {
        let (object, staged) = (self.object.clone(), self.staged.unwrap_or_default());
        let op = match self.base {
            None => ReplicaOp::ReplaceStaged {
                object,
                place: 0,
                staged,
            },
            Some(base) => ReplicaOp::UpdateStaged {
                object,
                base,
                remove: self.remove,
                place: 0,
                staged,
            },
        };
        (self.object, op, self.waiting)
    }

    /// A part may be missing: the object, and what waits for it.
    pub(super) fn give_up(self) -> (String, Waiting) {
        (self.object, self.waiting)
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
        let mut staging = Staging::new(op, Waiting::default()).unwrap();
        let mut staged: Vec<(String, Vec<u8>)> = Vec::new();
        let mut n = 0;
        loop {
            n += 1;
            let (op, bytes) = staging.step(Stamp::new(1, n), 1024);
            assert!(bytes <= 1024, "{bytes}");
            let Some(ReplicaOp::Stage { base, parts, .. }) = op else {
                break;
            };
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
        assert_eq!(
            staging.finish().1,
            ReplicaOp::ReplaceStaged {
                object,
                place: 0,
                staged
            }
        );
    }
}
