//! The log of failed logins: one line for each, so that an administrator can answer "why can I not
//! log in" and a program like fail2ban can act. docs/operations.md holds the expression for that.
//!
//! A line names the account only where there is one: people type passwords as user names. Lines
//! are limited for each address and in all; those left out are counted, and the number is told.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use sestina_xmpp::sasl::SaslFailure;

use crate::limits::aggregate;

/// Lines that one address may cause at once.
const BURST: f64 = 10.0;
/// Lines a second of one address in the long run.
const RATE: f64 = 1.0 / 6.0;
/// Lines that all addresses may cause at once.
const BURST_OF_ALL: f64 = 500.0;
/// Lines a second of all addresses in the long run.
const RATE_OF_ALL: f64 = 50.0;
/// Addresses that are remembered.
const ADDRESSES: usize = 8192;
/// How long lines that were left out may stay untold.
const TELL_AFTER: Duration = Duration::from_secs(60);

/// Which lines are written.
#[derive(Default)]
pub(crate) struct FailedLogins {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    addresses: HashMap<IpAddr, Source>,
    all: Option<Bucket>,
    /// Left out because there were too many addresses, or too many lines in all.
    others: u64,
    told_at: Option<Instant>,
}

struct Source {
    bucket: Bucket,
    suppressed: u64,
}

struct Bucket {
    tokens: f64,
    seen: Instant,
}

impl Bucket {
    fn full(burst: f64, now: Instant) -> Bucket {
        Bucket {
            tokens: burst,
            seen: now,
        }
    }

    /// Tokens at this time; all of them if the address was quiet.
    fn refill(&mut self, rate: f64, burst: f64, now: Instant) -> f64 {
        let passed = now.saturating_duration_since(self.seen).as_secs_f64();
        self.seen = self.seen.max(now);
        self.tokens = (self.tokens + passed * rate).min(burst);
        self.tokens
    }
}

impl FailedLogins {
    /// An attempt failed.
    pub(crate) fn report(
        &self,
        peer: SocketAddr,
        host: &str,
        account: &str,
        mechanism: &str,
        reason: SaslFailure,
    ) {
        let Some(suppressed) = self.inner.lock().pass(peer.ip(), Instant::now()) else {
            return;
        };
        tracing::info!(
            peer = %peer.ip(),
            port = peer.port(),
            %host,
            %account,
            %mechanism,
            %reason,
            suppressed,
            "login failed"
        );
    }

    /// Tells of lines that were left out a while ago, where no other line did.
    pub(crate) fn tell(&self, now: Instant) {
        for (address, suppressed) in self.inner.lock().untold(now) {
            match address {
                Some(address) => {
                    tracing::info!(network = %address, suppressed, "more logins failed");
                }
                None => tracing::info!(suppressed, "more logins failed, from many addresses"),
            }
        }
    }
}

impl Inner {
    /// Whether there is a line for this address now; if so, how many were left out before.
    fn pass(&mut self, address: IpAddr, now: Instant) -> Option<u64> {
        let address = aggregate(address);
        if self.addresses.len() >= ADDRESSES && !self.addresses.contains_key(&address) {
            self.addresses.retain(|_, source| {
                source.bucket.refill(RATE, BURST, now) < BURST || source.suppressed > 0
            });
        }
        let full = self.addresses.len() >= ADDRESSES && !self.addresses.contains_key(&address);
        let all = self
            .all
            .get_or_insert_with(|| Bucket::full(BURST_OF_ALL, now));
        if full {
            self.others += 1;
            return None;
        }
        let source = self.addresses.entry(address).or_insert_with(|| Source {
            bucket: Bucket::full(BURST, now),
            suppressed: 0,
        });
        if source.bucket.refill(RATE, BURST, now) < 1.0
            || all.refill(RATE_OF_ALL, BURST_OF_ALL, now) < 1.0
        {
            source.suppressed += 1;
            return None;
        }
        source.bucket.tokens -= 1.0;
        all.tokens -= 1.0;
        Some(std::mem::take(&mut source.suppressed))
    }

    /// What is to be told now.
    fn untold(&mut self, now: Instant) -> Vec<(Option<IpAddr>, u64)> {
        let before = *self.told_at.get_or_insert(now);
        if now.saturating_duration_since(before) < TELL_AFTER {
            return Vec::new();
        }
        self.told_at = Some(now);
        let mut untold: Vec<_> = self
            .addresses
            .iter_mut()
            .filter(|(_, source)| source.suppressed > 0)
            .map(|(address, source)| (Some(*address), std::mem::take(&mut source.suppressed)))
            .collect();
        // The busiest ones by name, the rest as one.
        untold.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        let rest: u64 = untold.drain(untold.len().min(20)..).map(|(_, n)| n).sum();
        let others = rest + std::mem::take(&mut self.others);
        if others > 0 {
            untold.push((None, others));
        }
        untold
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn ip(n: u32) -> IpAddr {
        IpAddr::from(n.to_be_bytes())
    }

    #[test]
    fn lines_of_one_address_are_limited_and_those_left_out_are_counted() {
        let now = Instant::now();
        let mut inner = Inner::default();
        assert!(inner.untold(now).is_empty());
        for _ in 0..10 {
            assert_eq!(inner.pass(ip(1), now), Some(0));
        }
        for _ in 0..7 {
            assert_eq!(inner.pass(ip(1), now), None);
        }
        assert_eq!(inner.pass(ip(2), now), Some(0), "another address");
        let later = now + Duration::from_secs(7);
        assert_eq!(inner.pass(ip(1), later), Some(7));
        assert_eq!(inner.pass(ip(1), later), None);
        assert!(inner.untold(later).is_empty());
        let told = inner.untold(now + TELL_AFTER);
        assert_eq!(told, [(Some(ip(1)), 1)]);
        assert!(inner.untold(now + TELL_AFTER * 2).is_empty());
    }

    #[test]
    fn many_addresses_fill_neither_memory_nor_log() {
        let now = Instant::now();
        let mut inner = Inner::default();
        inner.untold(now);
        let lines = (0..20_000).filter(|n| inner.pass(ip(*n), now).is_some());
        assert_eq!(lines.count(), BURST_OF_ALL as usize);
        assert_eq!(inner.addresses.len(), ADDRESSES);
        let told = inner.untold(now + TELL_AFTER);
        assert_eq!(told.len(), 21);
        let sum: u64 = told.iter().map(|(_, count)| count).sum();
        assert_eq!(sum, 20_000 - BURST_OF_ALL as u64);
        let later = now + Duration::from_secs(3600);
        assert!(inner.pass(ip(30_000), later).is_some());
        assert_eq!(inner.addresses.len(), 1);
    }
}
