//! Numbers that a seed repeats.

use std::cell::Cell;

use crate::chance;

/// A seeded source of choices.
#[derive(Debug)]
pub(super) struct Rng(Cell<u64>);

impl Rng {
    pub(super) fn new(seed: u64) -> Rng {
        Rng(Cell::new(
            seed.wrapping_mul(0x2545_f491_4f6c_dd1d) ^ 0x5e57_17a5,
        ))
    }

    /// A number below `limit` (0 if that is 0).
    pub(super) fn below(&mut self, limit: u64) -> u64 {
        if limit == 0 {
            0
        } else {
            chance::next(&self.0) % limit
        }
    }

    /// True once in `n` times.
    pub(super) fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// One of these.
    pub(super) fn pick<'a, T>(&mut self, of: &'a [T]) -> Option<&'a T> {
        of.get(self.below(of.len() as u64) as usize)
    }
}
