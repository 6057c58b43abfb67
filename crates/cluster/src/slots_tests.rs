#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

/// The committed vectors: `slot<TAB>bare JID` in each line.
const VECTORS: &str = include_str!("../slot-vectors.txt");
/// `slot<TAB>service<TAB>node` in each line.
const NODES: &str = include_str!("../slot-vectors-nodes.txt");
/// `alias<TAB>domain<TAB>target` in the first lines, then `slot<TAB>bare JID`.
const ALIASES: &str = include_str!("../slot-vectors-aliases.txt");

fn lines(vectors: &'static str) -> impl Iterator<Item = &'static str> {
    vectors.lines().filter(|line| !line.starts_with('#'))
}

#[test]
fn the_committed_vectors_hold() {
    let mut count = 0;
    for line in lines(VECTORS) {
        let (slot, bare) = line.split_once('\t').unwrap();
        let slot: u16 = slot.parse().unwrap();
        assert_eq!(slot_of_bare(bare), slot, "{bare}");
        assert_eq!(slot_of_jid(&Jid::from_wire(bare)), slot, "{bare}");
        let (local, domain) = match bare.split_once('@') {
            Some((local, domain)) => (Some(local), domain),
            None => (None, bare),
        };
        assert_eq!(slot_of(local, domain), slot, "{bare}");
        count += 1;
    }
    assert!(count >= 20, "only {count} vectors");
}

#[test]
fn the_hash_is_xxh3() {
    // From the reference implementation's own tests: the empty input, seed 0.
    assert_eq!(xxh3_64(b""), 0x2d06_8005_38d3_94c2);
    assert_eq!(slot_of_bare(""), 0x4c2);
}

#[test]
fn only_lower_case_version_8_names_its_slot() {
    let name = "5e0f2a6c-3b1d-8c4e-9f70-aa12bb34cabc";
    assert_eq!(slot_of(Some(name), "guest.example.org"), 0xabc);
    assert_eq!(slot_of(Some(name), "elsewhere.example"), 0xabc);
    for other in [
        "5E0F2A6C-3B1D-8C4E-9F70-AA12BB34CABC",      // upper case
        "5e0f2a6c-3b1d-4c4e-9f70-aa12bb34cabc",      // version 4
        "5e0f2a6c-3b1d-8c4e-cf70-aa12bb34cabc",      // another variant
        "5e0f2a6c-3b1d-8c4e-9f70-aa12bb34cab",       // short
        "5e0f2a6c-3b1d-8c4e-9f70-aa12bb34cabcd",     // long
        "5e0f2a6c03b1d-8c4e-9f70-aa12bb34cabc",      // no hyphen
        "5e0f2a6c-3b1d-8c4e-9f70-aa12bb34cab\u{e9}", // not hexadecimal
    ] {
        let hashed = hash(format!("{other}@guest.example.org").as_bytes());
        assert_eq!(slot_of(Some(other), "guest.example.org"), hashed, "{other}");
    }
}

#[test]
fn resources_do_not_count() {
    let full = Jid::from_wire("juliet@example.com/balcony@x");
    assert_eq!(slot_of_jid(&full), slot_of_bare("juliet@example.com"));
    assert_eq!(
        slot_of_bare("juliet@example.com/balcony@x"),
        slot_of_bare("juliet@example.com")
    );
}

#[test]
fn long_addresses_hash_as_short_ones_do() {
    for length in [200, 243, 244, 245, 1000] {
        let local = "a".repeat(length);
        let bare = format!("{local}@example.org");
        assert_eq!(
            slot_of(Some(&local), "example.org"),
            slot_of_bare(&bare),
            "{length}"
        );
    }
}

#[test]
fn addresses_of_a_room_hash_as_the_room() {
    let hasher = SlotHasher::default().with_alias("lobby.example.org", "conference.example.org");
    let room = slot_of_bare("standup@conference.example.org");
    assert_eq!(
        hasher.slot_of_jid(&Jid::from_wire("standup@lobby.example.org/ann")),
        room
    );
    assert_eq!(hasher.slot_of_bare("standup@lobby.example.org/ann"), room);
    assert_eq!(hasher.slot_of_bare("standup@conference.example.org"), room);
    assert_ne!(slot_of_bare("standup@lobby.example.org"), room);
    let other = Jid::from_wire("standup@example.org");
    assert_eq!(hasher.slot_of_jid(&other), slot_of_jid(&other));
}

#[test]
fn the_committed_vectors_of_aliases_hold() {
    let (aliases, slots): (Vec<&str>, Vec<&str>) =
        lines(ALIASES).partition(|line| line.starts_with("alias\t"));
    let aliases = aliases.iter().map(|line| {
        let mut fields = line.split('\t').skip(1);
        (fields.next().unwrap(), fields.next().unwrap())
    });
    let aliases: HashMap<&str, &str> = aliases.collect();
    let hasher = aliases
        .iter()
        .fold(SlotHasher::default(), |hasher, (domain, target)| {
            hasher.with_alias(domain, target)
        });
    assert_eq!((aliases.len(), slots.len()), (4, 22));
    for line in slots {
        let (slot, bare) = line.split_once('\t').unwrap();
        let slot: u16 = slot.parse().unwrap();
        assert_eq!(hasher.slot_of_bare(bare), slot, "{bare}");
        assert_eq!(hasher.slot_of_jid(&Jid::from_wire(bare)), slot, "{bare}");
        let (local, domain) = match bare.split_once('@') {
            Some((local, domain)) => (Some(local), domain),
            None => (None, bare),
        };
        assert_eq!(hasher.slot_of(local, domain), slot, "{bare}");
        // The address at the other domain, and every address at other domains, has this slot without the aliases.
        let target = aliases.get(domain).unwrap_or(&domain);
        assert_eq!(slot_of(local, target), slot, "{bare}");
    }
}

#[test]
fn the_committed_vectors_of_nodes_hold() {
    let hasher = SlotHasher::default().with_alias("news.example.org", "pubsub.example.org");
    let mut count = 0;
    for line in lines(NODES) {
        let mut fields = line.splitn(3, '\t');
        let slot: u16 = fields.next().unwrap().parse().unwrap();
        let (service, node) = (fields.next().unwrap(), fields.next().unwrap());
        assert_eq!(
            hasher.slot_of_node(service, node),
            slot,
            "{service} {node:?}"
        );
        if service == "pubsub.example.org" {
            let alias = hasher.slot_of_node("news.example.org", node);
            assert_eq!(alias, slot, "{node:?}");
        }
        count += 1;
    }
    assert_eq!(count, 22);
}

#[test]
fn a_node_does_not_hash_as_an_address_of_the_same_characters() {
    let hasher = SlotHasher::default();
    let node = |name: &str| hasher.slot_of_node("example.org", name);
    assert_ne!(node(""), slot_of(None, "example.org"));
    assert_ne!(node("juliet"), slot_of(Some("juliet"), "example.org"));
    assert_ne!(
        node("juliet@example.org"),
        slot_of_bare("juliet@example.org")
    );
    // A node names no slot.
    assert_ne!(node("5e0f2a6c-3b1d-8c4e-9f70-aa12bb34cabc"), 0xabc);
}

proptest! {
    #[test]
    fn nodes_hash_by_domain_zero_byte_and_name(node in "\\PC{0,300}", domain in "[a-z]{1,60}\\.org") {
        let slot = SlotHasher::default().slot_of_node(&domain, &node);
        prop_assert!(usize::from(slot) < SLOTS);
        prop_assert_eq!(slot, hash(format!("{domain}\0{node}").as_bytes()));
    }

    #[test]
    fn chosen_names_are_uuids_in_their_slot(slot in 0u16..4096, random: u128, other: u128) {
        let name = name_in_slot(slot, random);
        prop_assert_eq!(name.len(), 36);
        prop_assert_eq!(slot_of(Some(&name), "example.org"), slot);
        let bare = format!("{name}@example.org");
        prop_assert_eq!(slot_of_bare(&bare), slot);
        if random >> 80 != other >> 80 {
            prop_assert_ne!(name, name_in_slot(slot, other));
        }
    }

    #[test]
    fn all_forms_agree_and_are_in_range(local in "[a-z0-9.é]{1,300}", domain in "[a-z]{1,60}\\.org") {
        let bare = format!("{local}@{domain}");
        let slot = slot_of(Some(&local), &domain);
        prop_assert!(usize::from(slot) < SLOTS);
        prop_assert_eq!(slot_of_bare(&bare), slot);
        prop_assert_eq!(slot_of_jid(&Jid::from_wire(&bare)), slot);
        prop_assert_eq!(SlotHasher::default().slot_of_bare(&bare), slot);
    }
}
