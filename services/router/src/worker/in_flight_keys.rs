//! Which numbers of a session carry what their origin may still replay, in order.

use std::collections::VecDeque;

use sestina_api::key::IdempotencyKey;

/// See the module. Takes no memory while it is empty, as it is for most sessions.
#[derive(Clone, Debug, Default)]
pub(crate) struct InFlightKeys {
    rows: VecDeque<(u64, IdempotencyKey)>,
}

impl InFlightKeys {
    /// Adds a number; usually the highest so far.
    pub(crate) fn insert(&mut self, number: u64, key: IdempotencyKey) {
        if self.rows.back().is_none_or(|(last, _)| *last < number) {
            return self.rows.push_back((number, key));
        }
        match self.place(number) {
            Ok(at) => self.rows[at].1 = key,
            Err(at) => self.rows.insert(at, (number, key)),
        }
    }

    fn place(&self, number: u64) -> Result<usize, usize> {
        self.rows.binary_search_by_key(&number, |(n, _)| *n)
    }

    /// Releases a number; returns the key that it carries.
    pub(crate) fn remove(&mut self, number: u64) -> Option<IdempotencyKey> {
        let at = self.place(number).ok()?;
        let key = self.rows.remove(at).map(|(_, key)| key);
        self.shrink();
        key
    }

    /// Keeps what `keep` says; whether anything went.
    pub(crate) fn retain(&mut self, keep: impl Fn(&IdempotencyKey) -> bool) -> bool {
        let before = self.rows.len();
        self.rows.retain(|(_, key)| keep(key));
        let changed = self.rows.len() != before;
        self.shrink();
        changed
    }

    fn shrink(&mut self) {
        if self.rows.is_empty() {
            self.rows = VecDeque::new();
        }
    }

    /// The lowest number.
    pub(crate) fn first(&self) -> Option<(u64, IdempotencyKey)> {
        self.rows.front().copied()
    }

    /// The highest number that carries this key.
    pub(crate) fn number_of(&self, key: IdempotencyKey) -> Option<u64> {
        let row = self.rows.iter().rev().find(|(_, k)| *k == key);
        row.map(|(number, _)| *number)
    }

    /// All numbers and their keys, in order.
    pub(crate) fn rows(&self) -> impl Iterator<Item = &(u64, IdempotencyKey)> {
        self.rows.iter()
    }

    /// All keys, in order of their numbers.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &IdempotencyKey> {
        self.rows.iter().map(|(_, key)| key)
    }

    /// Whether there is nothing.
    #[cfg(any(test, feature = "simulation"))]
    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use sestina_api::key::Purpose;

    use super::*;

    fn key(n: u64) -> IdempotencyKey {
        IdempotencyKey::new(1, n, Purpose::Route)
    }

    #[test]
    fn numbers_stay_in_order_and_leave_nothing_behind() {
        let mut rows = InFlightKeys::default();
        for number in [2, 5, 9, 4] {
            rows.insert(number, key(number));
        }
        rows.insert(9, key(90));
        assert_eq!(rows.first(), Some((2, key(2))));
        assert_eq!(rows.number_of(key(90)), Some(9));
        assert_eq!(rows.number_of(key(9)), None);
        assert_eq!(rows.remove(4), Some(key(4)));
        assert_eq!(rows.remove(4), None);
        assert!(rows.retain(|k| k.n > 2));
        assert!(!rows.retain(|k| k.n > 2));
        assert_eq!(rows.keys().map(|k| k.n).collect::<Vec<_>>(), [5, 90]);
        assert!(rows.retain(|_| false));
        assert!(rows.is_empty());
        assert_eq!(rows.rows.capacity(), 0);
    }
}
