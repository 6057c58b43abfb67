//! Random numbers that are the same for the same seed.

use std::cell::Cell;

/// A seeded source of choices.
#[derive(Debug)]
pub(super) struct Rng(Cell<u64>);

impl Rng {
    pub(super) fn new(seed: u64) -> Rng {
        Rng(Cell::new(
            seed.wrapping_mul(0x2545_f491_4f6c_dd1d) ^ 0x5e57_17a5,
        ))
    }

    /// The next number (SplitMix64).
    fn next(&self) -> u64 {
        let seed = self.0.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.0.set(seed);
        let mixed = (seed ^ (seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `limit` (0 if that is 0).
    pub(super) fn below(&mut self, limit: u64) -> u64 {
        if limit == 0 { 0 } else { self.next() % limit }
    }

    /// True once in `n` times.
    pub(super) fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// One of these; none if there are none.
    pub(super) fn pick<'a, T>(&mut self, of: &'a [T]) -> Option<&'a T> {
        of.get(self.below(of.len() as u64) as usize)
    }
}
