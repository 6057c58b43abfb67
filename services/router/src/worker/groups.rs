//! Groups: changes of several objects of a slot that take effect in the state store together, or not at all.
//!
//! The objects that one slot message for a room changes are a group, whatever else its turn handles: a message is
//! handled once as a whole, so a new owner has to find all of its changes, or none and the message again. Groups that
//! have an object in common are one group, because an object is written with all of its changes. A commit is
//! cut between groups only ([`cut`](super::cut)), and a group whose commit failed is written again as one. A group ends
//! when the store has taken it.
//!
//! Deliveries to the sessions of a slot are not tied: each is dropped by its own key when it comes again.

use super::replica::{Pending, SlotReplica};
use super::slot::Slot;
use crate::rng::HashMap;

/// Which pending changes of a slot belong together. Each has a number.
#[derive(Debug, Default)]
pub(super) struct Groups {
    newest: u64,
    scope: Scope,
    /// The group of each change that is not alone in its group: the number of one of its changes.
    tied: HashMap<u64, u64>,
}

/// The changes that are being made together.
#[derive(Debug, Default)]
enum Scope {
    /// Changes are made one by one.
    #[default]
    Closed,
    /// None yet.
    Empty,
    /// All so far are in the group of this one.
    With(u64),
}

impl Groups {
    /// The number of a new change.
    pub(super) fn number(&mut self) -> u64 {
        self.newest += 1;
        self.newest
    }

    /// An object with this pending change is changed (again).
    pub(super) fn changed(&mut self, number: u64) {
        match self.scope {
            Scope::Closed => {}
            Scope::Empty => self.scope = Scope::With(number),
            Scope::With(first) => self.tie(first, number),
        }
    }

    fn tie(&mut self, first: u64, second: u64) {
        let of = |number| self.tied.get(&number).copied().unwrap_or(number);
        let (first, second) = (of(first), of(second));
        if first == second {
            return;
        }
        for group in self.tied.values_mut().filter(|group| **group == second) {
            *group = first;
        }
        self.tied.extend([(first, first), (second, first)]);
    }
}

impl SlotReplica {
    /// Ties the pending changes of these objects together.
    pub(super) fn tie(&mut self, objects: &[String]) {
        self.groups.scope = Scope::Empty;
        for pending in objects.iter().filter_map(|o| self.changes.get(o)) {
            self.groups.changed(pending.number);
        }
        self.groups.scope = Scope::Closed;
    }

    /// Takes the first group out of the order: its first object, and the others, of which there are nearly always none.
    pub(super) fn take_group(&mut self) -> Option<(String, Vec<String>)> {
        let first = self.order.pop_front()?;
        let group_of = |object: &String| {
            let number = self.changes.get(object)?.number;
            self.groups.tied.get(&number).copied()
        };
        let mut others = Vec::new();
        if !self.groups.tied.is_empty()
            && let Some(group) = group_of(&first)
        {
            let in_group = |object: &mut String| group_of(object) == Some(group);
            let mut order = Vec::from(std::mem::take(&mut self.order));
            others = order.extract_if(.., in_group).collect();
            self.order = order.into();
        }
        Some((first, others))
    }

    /// Takes the pending change of an object that [`take_group`](Self::take_group) has named.
    pub(super) fn take_change(&mut self, object: &str) -> Option<Pending> {
        let pending = self.changes.remove(object)?;
        self.groups.tied.remove(&pending.number);
        Some(pending)
    }
}

impl Slot {
    /// What `change` changes in objects of this slot is a group: a commit has all of it, or nothing. Calls may be nested.
    pub(super) fn together(&mut self, change: impl FnOnce(&mut Slot)) {
        let outermost = matches!(self.replica.groups.scope, Scope::Closed);
        if outermost {
            self.replica.groups.scope = Scope::Empty;
        }
        change(self);
        if outermost {
            self.replica.groups.scope = Scope::Closed;
        }
    }
}

#[cfg(test)]
#[path = "groups_tests.rs"]
mod tests;
