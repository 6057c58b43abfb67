//! Everything random about the state machines, in one place, so that a test can repeat a run.
//!
//! Hash tables keep their random seeds in production: their keys come from clients.

#[cfg(any(test, feature = "simulation"))]
pub use repeated::repeat;
#[cfg(any(test, feature = "simulation"))]
pub(crate) use repeated::{Seeds, bits};

/// The seeds of hash tables.
#[cfg(not(any(test, feature = "simulation")))]
type Seeds = foldhash::fast::RandomState;

/// A hash map; make one with `default()`.
pub(crate) type HashMap<K, V> = std::collections::HashMap<K, V, Seeds>;
/// A hash set; make one with `default()`.
pub(crate) type HashSet<T> = std::collections::HashSet<T, Seeds>;

/// 128 random bits.
#[cfg(not(any(test, feature = "simulation")))]
pub(crate) fn bits() -> u128 {
    rand::random()
}

/// The same, from a sequence on threads that ask for one. A server that happens to be built with
/// the simulation never does.
#[cfg(any(test, feature = "simulation"))]
mod repeated {
    use std::cell::Cell;
    use std::hash::BuildHasher;

    use foldhash::fast::{FixedState, FoldHasher};

    thread_local! {
        /// Unit tests have one from the start.
        static SEQUENCE: Cell<Option<u64>> = const { Cell::new(if cfg!(test) { Some(1) } else { None }) };
    }

    /// From now on everything random on this thread follows from `seed`.
    pub fn repeat(seed: u64) {
        SEQUENCE.set(Some(seed));
    }

    pub(crate) fn bits() -> u128 {
        let Some(last) = SEQUENCE.get() else {
            return rand::random();
        };
        let (first, half) = next(last);
        let (last, other) = next(first);
        SEQUENCE.set(Some(last));
        (u128::from(half) << 64) | u128::from(other)
    }

    /// One step of a sequence of evenly spread numbers (SplitMix64): its state, and the number.
    fn next(state: u64) -> (u64, u64) {
        let state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (state, mixed ^ (mixed >> 31))
    }

    /// Seeds that are the same for all tables of such a thread.
    #[derive(Clone, Debug)]
    pub(crate) struct Seeds(FixedState);

    impl Default for Seeds {
        fn default() -> Seeds {
            let random = SEQUENCE.get().is_none();
            Seeds(FixedState::with_seed(if random {
                rand::random()
            } else {
                0
            }))
        }
    }

    impl BuildHasher for Seeds {
        type Hasher = FoldHasher<'static>;

        fn build_hasher(&self) -> FoldHasher<'static> {
            self.0.build_hasher()
        }
    }
}
