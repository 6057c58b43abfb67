//! Everything random about the state machines, in one place, so that a test can repeat a run.
//!
//! Hash tables keep their random seeds in production: their keys come from clients.

/// The seeds of hash tables.
#[cfg(not(test))]
type Seeds = foldhash::fast::RandomState;
#[cfg(test)]
type Seeds = std::hash::BuildHasherDefault<std::collections::hash_map::DefaultHasher>;

/// A hash map; make one with `default()`.
pub(crate) type HashMap<K, V> = std::collections::HashMap<K, V, Seeds>;
/// A hash set; make one with `default()`.
pub(crate) type HashSet<T> = std::collections::HashSet<T, Seeds>;

/// 128 random bits.
#[cfg(not(test))]
pub(crate) fn bits() -> u128 {
    rand::random()
}

/// The same from a sequence that [`repeat`] begins, for each thread.
#[cfg(test)]
pub(crate) fn bits() -> u128 {
    let half = || u128::from(SEQUENCE.with(next));
    (half() << 64) | half()
}

#[cfg(test)]
thread_local! {
    static SEQUENCE: std::cell::Cell<u64> = const { std::cell::Cell::new(1) };
}

/// Begins a sequence anew.
#[cfg(test)]
pub(crate) fn repeat(seed: u64) {
    SEQUENCE.with(|s| s.set(seed));
}

/// The next of a sequence of evenly spread numbers (SplitMix64).
#[cfg(test)]
pub(crate) fn next(state: &std::cell::Cell<u64>) -> u64 {
    let seed = state.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
    state.set(seed);
    let mixed = (seed ^ (seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
