//! TLS tickets (RFC 8446 §4.6.1, RFC 5077) sealed with keys that all edges of a cluster share, so
//! that a client that comes back to another edge resumes there.
//!
//! A ticket is the number of its key, a nonce, and the sealed session. The certificates are part of
//! what is authenticated: a ticket is good for those that it was given under.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::digest;
use rustls::server::ProducesTickets;

/// Bytes of a key.
const KEY: usize = 32;
/// Bytes of its number in a ticket.
const NUMBER: usize = 8;
/// Most bytes of a ticket that is opened: the session, with the certificate of a client, is smaller.
const LONGEST: usize = 16 << 10;
/// How long tickets are good that were sealed before a router told its keys.
const ALONE: Duration = Duration::from_secs(12 * 3600);

/// Why keys are not usable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// There are less than two.
    #[error("there are too few")]
    TooFew,
    /// A key has another length.
    #[error("a key is not 32 bytes long")]
    Length,
}

/// The keys in use. Before a router has told some, one that this process made for itself.
pub struct TicketKeys(ArcSwap<Ring>);

struct Ring {
    /// Number and key, the oldest first; each opens.
    keys: Vec<(u64, RandomizedNonceKey)>,
    /// Index of the one that seals.
    current: usize,
    period: Duration,
}

impl fmt::Debug for TicketKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ring = self.0.load();
        let numbers = ring.keys.iter().map(|(number, _)| number);
        f.debug_list().entries(numbers).finish()
    }
}

impl Default for TicketKeys {
    fn default() -> TicketKeys {
        // The number is one that storage does not give.
        let keys = key(&rand::random::<[u8; KEY]>()).map(|key| (0, key));
        TicketKeys(ArcSwap::from_pointee(Ring {
            keys: keys.into_iter().collect(),
            current: 0,
            period: ALONE,
        }))
    }
}

impl TicketKeys {
    /// Takes the keys of the cluster, the oldest first: the last but one seals, all of them open.
    pub fn install<'a>(
        &self,
        keys: impl Iterator<Item = (u64, &'a [u8])>,
        period: Duration,
    ) -> Result<(), KeyError> {
        let keys = keys
            .map(|(number, bytes)| Ok((number, key(bytes)?)))
            .collect::<Result<Vec<_>, KeyError>>()?;
        let current = keys.len().checked_sub(2).ok_or(KeyError::TooFew)?;
        self.0.store(Arc::new(Ring {
            keys,
            current,
            period,
        }));
        Ok(())
    }
}

fn key(bytes: &[u8]) -> Result<RandomizedNonceKey, KeyError> {
    RandomizedNonceKey::new(&AES_256_GCM, bytes).map_err(|_| KeyError::Length)
}

/// Seals and opens tickets of one set of certificates.
pub(super) struct Tickets {
    keys: Arc<TicketKeys>,
    /// Hash of the certificates.
    certificates: [u8; 32],
}

impl fmt::Debug for Tickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.keys.fmt(f)
    }
}

impl Tickets {
    /// For certificates with these end points.
    pub(super) fn new<'a>(
        keys: &Arc<TicketKeys>,
        end_points: impl Iterator<Item = &'a [u8]>,
    ) -> Tickets {
        let mut all: Vec<&[u8]> = end_points.collect();
        // Another edge may have them in another order.
        all.sort_unstable();
        let mut hash = digest::Context::new(&digest::SHA256);
        for end_point in all {
            hash.update(&(end_point.len() as u64).to_be_bytes());
            hash.update(end_point);
        }
        let mut certificates = [0; 32];
        certificates.copy_from_slice(hash.finish().as_ref());
        Tickets {
            keys: Arc::clone(keys),
            certificates,
        }
    }

    fn aad(&self, number: u64) -> Aad<[u8; NUMBER + 32]> {
        let mut aad = [0; NUMBER + 32];
        aad[..NUMBER].copy_from_slice(&number.to_be_bytes());
        aad[NUMBER..].copy_from_slice(&self.certificates);
        Aad::from(aad)
    }
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        !self.keys.0.load().keys.is_empty()
    }

    fn lifetime(&self) -> u32 {
        u32::try_from(self.keys.0.load().period.as_secs()).unwrap_or(u32::MAX)
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let ring = self.keys.0.load();
        let (number, key) = ring.keys.get(ring.current)?;
        let mut sealed = plain.to_vec();
        let nonce = key
            .seal_in_place_append_tag(self.aad(*number), &mut sealed)
            .ok()?;
        let mut ticket = Vec::with_capacity(NUMBER + NONCE_LEN + sealed.len());
        ticket.extend_from_slice(&number.to_be_bytes());
        ticket.extend_from_slice(nonce.as_ref());
        ticket.extend_from_slice(&sealed);
        Some(ticket)
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        if ticket.len() > LONGEST {
            return None;
        }
        let (number, rest) = ticket.split_first_chunk::<NUMBER>()?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>()?;
        let number = u64::from_be_bytes(*number);
        let ring = self.keys.0.load();
        let (_, key) = ring.keys.iter().find(|(n, _)| *n == number)?;
        let mut plain = sealed.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let len = key
            .open_in_place(nonce, self.aad(number), &mut plain)
            .ok()?
            .len();
        plain.truncate(len);
        Some(plain)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn install(keys: &TicketKeys, numbers: &[u8]) {
        let bytes: Vec<[u8; KEY]> = numbers.iter().map(|number| [*number; KEY]).collect();
        let keyed = numbers.iter().zip(&bytes);
        keys.install(keyed.map(|(n, key)| (u64::from(*n), &key[..])), HOUR)
            .unwrap();
    }

    fn tickets(keys: &Arc<TicketKeys>, end_points: &[&[u8]]) -> Tickets {
        Tickets::new(keys, end_points.iter().copied())
    }

    #[test]
    fn another_edge_opens_a_ticket_until_its_key_is_gone() {
        let (one, two) = (Arc::new(TicketKeys::default()), Arc::default());
        let (here, there) = (tickets(&one, &[b"a", b"b"]), tickets(&two, &[b"b", b"a"]));
        let alone = here.encrypt(b"session").unwrap();
        assert_eq!(here.decrypt(&alone).unwrap(), b"session");
        assert_eq!(there.decrypt(&alone), None);
        install(&one, &[1, 2]);
        install(&two, &[1, 2]);
        let ticket = here.encrypt(b"session").unwrap();
        assert_eq!(
            ticket[..NUMBER],
            1u64.to_be_bytes(),
            "the last one is not in use yet"
        );
        assert_eq!(there.decrypt(&ticket).unwrap(), b"session");
        install(&two, &[1, 2, 3]);
        assert_eq!(there.decrypt(&ticket).unwrap(), b"session");
        // The edge that was told first already seals with a key that the other knows.
        let newer = there.encrypt(b"newer").unwrap();
        assert_eq!(here.decrypt(&newer).unwrap(), b"newer");
        install(&two, &[2, 3, 4]);
        assert_eq!(there.decrypt(&ticket), None);
        assert_eq!(there.decrypt(&newer).unwrap(), b"newer");
        assert_eq!((there.enabled(), there.lifetime()), (true, 3600));
    }

    #[test]
    fn a_ticket_is_good_for_its_certificates_and_unchanged_only() {
        let keys = Arc::new(TicketKeys::default());
        install(&keys, &[7, 8]);
        let own = tickets(&keys, &[b"a"]);
        let ticket = own.encrypt(b"session").unwrap();
        assert_eq!(tickets(&keys, &[b"b"]).decrypt(&ticket), None);
        for at in 0..ticket.len() {
            let mut changed = ticket.clone();
            changed[at] ^= 1;
            assert_eq!(own.decrypt(&changed), None, "byte {at}");
            assert_eq!(own.decrypt(&ticket[..at]), None, "{at} bytes");
        }
        assert_eq!(own.decrypt(&vec![0; LONGEST + 1]), None);
    }

    #[test]
    fn keys_that_cannot_be_used_change_nothing() {
        let keys = Arc::new(TicketKeys::default());
        install(&keys, &[1, 2]);
        let one = [(3u64, &[3u8; KEY][..])];
        assert_eq!(keys.install(one.into_iter(), HOUR), Err(KeyError::TooFew));
        let short = [(3u64, &[3u8; KEY][..]), (4, &[4u8; 5][..])];
        assert_eq!(keys.install(short.into_iter(), HOUR), Err(KeyError::Length));
        assert_eq!(format!("{keys:?}"), "[1, 2]");
    }
}
