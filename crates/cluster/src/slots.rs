//! From an address to its slot.
//!
//! This is a wire contract: all processes of a cluster, of whatever version, must agree on it, so
//! it does not change. Beside this crate's manifest are examples: `slot-vectors.txt` for addresses,
//! `slot-vectors-nodes.txt` for nodes and `slot-vectors-aliases.txt` for aliases.
//!
//! - A bare JID (of a user or of a room) has the slot XXH3-64 (seed 0) of its UTF-8 bytes modulo
//!   4,096.
//! - Exception: a local part that is a UUID of version 8 (RFC 9562 §5.8) in lower case names its
//!   slot by its last twelve bits. The server chooses the slot of a name that it makes in this way.
//! - A node (XEP-0060) of a service has the slot XXH3-64 (seed 0) of the service's domain, a zero
//!   byte and the node's name modulo 4,096. An address contains no zero byte, so what is hashed for
//!   a node is never what is hashed for an address. The exception for UUIDs is for addresses only.
//! - A domain can be an alias of another one, by configuration: its addresses and nodes have the
//!   slots that they would have at the other domain.

use std::collections::HashMap;

use sestina_xmpp::jid::Jid;
use xxhash_rust::xxh3::xxh3_64;

/// How many slots there are.
pub const SLOTS: usize = 4096;

/// The slot of a bare JID given in two parts, both normalised.
pub fn slot_of(local: Option<&str>, domain: &str) -> u16 {
    let Some(local) = local else {
        return hash(domain.as_bytes());
    };
    if let Some(slot) = named_slot(local) {
        return slot;
    }
    hash_joined(local, b'@', domain)
}

/// The slot of a normalised bare JID in text form; a resource is ignored.
pub fn slot_of_bare(bare: &str) -> u16 {
    let bare = bare.split_once('/').map_or(bare, |(bare, _)| bare);
    match bare
        .split_once('@')
        .and_then(|(local, _)| named_slot(local))
    {
        Some(slot) => slot,
        None => hash(bare.as_bytes()),
    }
}

/// The slot of a JID; its resource is ignored.
pub fn slot_of_jid(jid: &Jid) -> u16 {
    match jid.local().and_then(named_slot) {
        Some(slot) => slot,
        None => hash(jid.bare_str().as_bytes()),
    }
}

/// A new name whose slot is `slot`: a UUID of version 8, with 110 of these random bits.
pub fn name_in_slot(slot: u16, random: u128) -> String {
    const VERSION: u128 = 0xf << 76;
    const VARIANT: u128 = 0x3 << 62;
    const SLOT: u128 = SLOTS as u128 - 1;
    let bits =
        (random & !(VERSION | VARIANT | SLOT)) | (8 << 76) | (2 << 62) | (u128::from(slot) & SLOT);
    let hex = format!("{bits:032x}");
    let parts = [
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..],
    ];
    parts.join("-")
}

/// The slot that a local part names, if it is a lower-case UUID of version 8.
fn named_slot(local: &str) -> Option<u16> {
    let bytes: &[u8; 36] = local.as_bytes().try_into().ok()?;
    let well_formed = bytes.iter().enumerate().all(|(at, byte)| match at {
        8 | 13 | 18 | 23 => *byte == b'-',
        14 => *byte == b'8',
        19 => matches!(byte, b'8' | b'9' | b'a' | b'b'),
        _ => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
    });
    if !well_formed {
        return None;
    }
    u16::from_str_radix(local.get(33..)?, 16).ok()
}

fn hash(bytes: &[u8]) -> u16 {
    (xxh3_64(bytes) % SLOTS as u64) as u16
}

/// The hash of two texts with a byte between them.
fn hash_joined(first: &str, between: u8, second: &str) -> u16 {
    let length = first.len() + 1 + second.len();
    // Almost all addresses fit into this array and need no allocation.
    let mut small = [0; 256];
    let mut large = Vec::new();
    let joined = if length <= small.len() {
        &mut small[..length]
    } else {
        large.resize(length, 0);
        &mut large[..]
    };
    joined[..first.len()].copy_from_slice(first.as_bytes());
    joined[first.len()] = between;
    joined[first.len() + 1..].copy_from_slice(second.as_bytes());
    hash(joined)
}

/// Hashes some domains as others, so that entities that belong to one room share its slot:
/// `name@lobby.example.org` has the slot of `name@conference.example.org`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SlotHasher {
    /// The domain as which a domain hashes, by domain.
    aliases: HashMap<String, String>,
}

impl SlotHasher {
    /// The hasher that also hashes `domain` as `target`. Chains are not followed: `target` must not
    /// be an alias itself. Both are normalised.
    #[must_use]
    pub fn with_alias(mut self, domain: &str, target: &str) -> SlotHasher {
        self.aliases.insert(domain.to_owned(), target.to_owned());
        self
    }

    /// The domain as which `domain` hashes.
    pub fn canonical<'a>(&'a self, domain: &'a str) -> &'a str {
        self.aliases.get(domain).map_or(domain, String::as_str)
    }

    /// See [`slot_of`].
    pub fn slot_of(&self, local: Option<&str>, domain: &str) -> u16 {
        slot_of(local, self.canonical(domain))
    }

    /// See [`slot_of_jid`].
    pub fn slot_of_jid(&self, jid: &Jid) -> u16 {
        if self.aliases.is_empty() {
            return slot_of_jid(jid);
        }
        self.slot_of(jid.local(), jid.domain())
    }

    /// See [`slot_of_bare`].
    pub fn slot_of_bare(&self, bare: &str) -> u16 {
        if self.aliases.is_empty() {
            return slot_of_bare(bare);
        }
        let bare = bare.split_once('/').map_or(bare, |(bare, _)| bare);
        match bare.split_once('@') {
            Some((local, domain)) => self.slot_of(Some(local), domain),
            None => self.slot_of(None, bare),
        }
    }

    /// The slot of a node (XEP-0060) at the domain of a service, which is normalised. The name of a
    /// node is taken as it is: it may be empty, and differs by case.
    pub fn slot_of_node(&self, service: &str, node: &str) -> u16 {
        hash_joined(self.canonical(service), 0, node)
    }
}

#[cfg(test)]
#[path = "slots_tests.rs"]
mod tests;
