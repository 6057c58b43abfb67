//! Which router should own a slot: the one with the highest weight (rendezvous hashing).
//!
//! Each pair of slot and router has a fixed weight, so a router that comes or goes changes only the
//! slots that it gets or had.

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// The weight of a router for a slot. Only the name counts: a restarted router wins the same slots.
pub fn weight(slot: u16, router: &str) -> u64 {
    xxh3_64_with_seed(router.as_bytes(), u64::from(slot))
}

/// The position of the router that should own the slot; `None` for an empty list. Of two equal
/// weights the smaller name wins, so the order of the list does not matter.
pub fn owner<S: AsRef<str>>(slot: u16, routers: &[S]) -> Option<usize> {
    (0..routers.len()).max_by(|a, b| {
        let (a, b) = (routers[*a].as_ref(), routers[*b].as_ref());
        weight(slot, a).cmp(&weight(slot, b)).then_with(|| b.cmp(a))
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::slots::SLOTS;

    fn owners(routers: &[String]) -> Vec<&str> {
        (0..SLOTS as u16)
            .map(|slot| routers[owner(slot, routers).unwrap()].as_str())
            .collect()
    }

    #[test]
    fn there_is_no_owner_without_routers() {
        assert_eq!(owner::<&str>(0, &[]), None);
    }

    #[test]
    fn the_weights_are_fixed() {
        // Routers of two versions must agree, or slots would move back and forth.
        let routers = ["router-0", "router-1", "router-2"];
        let first: Vec<usize> = (0..12).map(|slot| owner(slot, &routers).unwrap()).collect();
        assert_eq!(first, FIRST);
    }

    const FIRST: [usize; 12] = [1, 0, 1, 2, 1, 2, 2, 2, 0, 0, 0, 0];

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn a_leaver_moves_only_its_own_slots(
            names in proptest::collection::btree_set("[a-z]{1,8}", 2..9),
            leaver in 0usize..8,
        ) {
            let all: Vec<String> = names.iter().cloned().collect();
            let gone = all[leaver % all.len()].clone();
            let left: Vec<String> = all.iter().filter(|name| **name != gone).cloned().collect();
            for (before, after) in owners(&all).iter().zip(owners(&left)) {
                if *before == gone {
                    prop_assert_ne!(after, gone.as_str());
                } else {
                    prop_assert_eq!(*before, after);
                }
            }
        }

        #[test]
        fn shares_are_fair_and_independent_of_the_order(
            names in proptest::collection::btree_set("[a-z]{1,8}", 1..9),
        ) {
            let names: BTreeSet<String> = names;
            let forwards: Vec<String> = names.iter().cloned().collect();
            let backwards: Vec<String> = names.iter().rev().cloned().collect();
            prop_assert_eq!(owners(&forwards), owners(&backwards));
            let fair = SLOTS / forwards.len();
            for name in &forwards {
                let share = owners(&forwards).iter().filter(|owner| *owner == name).count();
                prop_assert!(share > fair * 7 / 10 && share < fair * 13 / 10 + 1, "{name}: {share} of {fair}");
            }
        }
    }
}
