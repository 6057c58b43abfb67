//! Connections that have not authenticated, in order of their age: which of them goes when there
//! are too many.
//!
//! New connections are never refused because old ones are silent. Where all places are taken, one
//! is freed, by the first of these rules that finds a connection:
//!
//! 1. the oldest one of the address that holds most, if that is more than a fair share;
//! 2. the oldest one that has sent nothing, after [`SILENT`];
//! 3. the oldest one of all, after [`SLOW`].
//!
//! If none does, all of them are young and at work: the new connection waits.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use sestina_runtime::CancellationToken;

/// How long a connection may send nothing before it gives its place to a new one.
pub(super) const SILENT: Duration = Duration::from_secs(1);

/// How long a connection may take to authenticate before it gives its place to a new one.
pub(super) const SLOW: Duration = Duration::from_secs(5);

/// One address may hold this part of all places before its connections are the first to go.
const SHARES: usize = 32;

/// A fair share is never less.
const SHARE_AT_LEAST: usize = 16;

#[derive(Debug)]
struct Entry {
    address: Option<IpAddr>,
    since: Instant,
    shed: CancellationToken,
}

/// The connections that have not authenticated. Numbers rise with age.
#[derive(Debug, Default)]
pub(super) struct Unauthenticated {
    all: BTreeMap<u64, Entry>,
    silent: BTreeSet<u64>,
    by_address: HashMap<IpAddr, BTreeSet<u64>>,
    /// Addresses by how many connections they have.
    by_count: BTreeSet<(usize, IpAddr)>,
    next: u64,
}

impl Unauthenticated {
    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    /// How many one address has.
    pub(super) fn of(&self, address: IpAddr) -> usize {
        self.by_address.get(&address).map_or(0, BTreeSet::len)
    }

    /// A connection whose address is not known yet. The token is cancelled when it has to go.
    pub(super) fn enter(&mut self, since: Instant) -> (u64, CancellationToken) {
        let number = self.next;
        self.next += 1;
        let shed = CancellationToken::new();
        let entry = Entry {
            address: None,
            since,
            shed: shed.clone(),
        };
        self.all.insert(number, entry);
        self.silent.insert(number);
        (number, shed)
    }

    /// The address is known now.
    pub(super) fn name(&mut self, number: u64, address: IpAddr) {
        let Some(entry) = self.all.get_mut(&number) else {
            return;
        };
        if entry.address.replace(address).is_some() {
            return;
        }
        let numbers = self.by_address.entry(address).or_default();
        self.by_count.remove(&(numbers.len(), address));
        numbers.insert(number);
        self.by_count.insert((numbers.len(), address));
    }

    /// Something was received.
    pub(super) fn heard(&mut self, number: u64) {
        self.silent.remove(&number);
    }

    /// It has authenticated, or is gone.
    pub(super) fn leave(&mut self, number: u64) {
        let Some(entry) = self.all.remove(&number) else {
            return;
        };
        self.silent.remove(&number);
        let Some(address) = entry.address else {
            return;
        };
        if let Some(numbers) = self.by_address.get_mut(&address) {
            self.by_count.remove(&(numbers.len(), address));
            numbers.remove(&number);
            if numbers.is_empty() {
                self.by_address.remove(&address);
            } else {
                self.by_count.insert((numbers.len(), address));
            }
        }
    }

    /// Frees one of `places` by the rules above, the first only `by_address`. False if no
    /// connection has to go.
    pub(super) fn shed(&mut self, places: usize, by_address: bool, now: Instant) -> bool {
        let share = (places / SHARES).max(SHARE_AT_LEAST);
        let heaviest = self
            .by_count
            .last()
            .filter(|(count, _)| by_address && *count > share);
        let victim = heaviest
            .and_then(|(_, address)| self.by_address[address].first())
            .copied()
            .or_else(|| self.after(self.silent.first(), SILENT, now))
            .or_else(|| self.after(self.all.keys().next(), SLOW, now));
        self.end(victim)
    }

    /// Frees a place of that address, by rules 2 and 3.
    pub(super) fn shed_of(&mut self, address: IpAddr, now: Instant) -> bool {
        let Some(numbers) = self.by_address.get(&address) else {
            return false;
        };
        let silent = numbers.iter().find(|number| self.silent.contains(number));
        let victim = self
            .after(silent, SILENT, now)
            .or_else(|| self.after(numbers.first(), SLOW, now));
        self.end(victim)
    }

    /// Frees a place whatever the ages are: there are no more file descriptors.
    pub(super) fn shed_any(&mut self) -> bool {
        let heaviest = self.by_count.last();
        let victim = heaviest
            .and_then(|(_, address)| self.by_address[address].first())
            .or_else(|| self.all.keys().next())
            .copied();
        self.end(victim)
    }

    fn after(&self, number: Option<&u64>, time: Duration, now: Instant) -> Option<u64> {
        let number = *number?;
        let since = self.all.get(&number)?.since;
        (now.saturating_duration_since(since) >= time).then_some(number)
    }

    fn end(&mut self, victim: Option<u64>) -> bool {
        let entry = victim.and_then(|number| {
            let shed = self.all.get(&number)?.shed.clone();
            self.leave(number);
            Some(shed)
        });
        entry.inspect(CancellationToken::cancel).is_some()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    fn enter(table: &mut Unauthenticated, address: IpAddr, now: Instant) -> CancellationToken {
        let (number, shed) = table.enter(now);
        table.name(number, address);
        shed
    }

    #[test]
    fn the_oldest_connection_of_the_heaviest_address_goes_first() {
        let now = Instant::now();
        let mut table = Unauthenticated::default();
        let single = enter(&mut table, ip(1), now);
        let flood: Vec<_> = (0..20).map(|_| enter(&mut table, ip(2), now)).collect();
        assert!(!table.shed(32, false, now), "addresses do not count");
        assert!(table.shed(32, true, now));
        assert!(flood[0].is_cancelled() && !flood[1].is_cancelled());
        assert!(
            !single.is_cancelled(),
            "the older one of another address stays"
        );
        assert_eq!((table.of(ip(2)), table.len()), (19, 20));
    }

    #[test]
    fn a_silent_connection_goes_before_a_slow_one_and_a_young_one_stays() {
        let now = Instant::now();
        let mut table = Unauthenticated::default();
        let (speaking, spoke) = table.enter(now);
        table.heard(speaking);
        let silent = enter(&mut table, ip(1), now);
        assert!(!table.shed(4096, true, now), "both are young");
        assert!(table.shed(4096, true, now + SILENT));
        assert!(silent.is_cancelled() && !spoke.is_cancelled());
        assert!(!table.shed(4096, true, now + SILENT));
        assert!(table.shed(4096, true, now + SLOW));
        assert!(spoke.is_cancelled());
        assert_eq!(table.len(), 0);
    }

    #[test]
    fn an_address_frees_only_its_own_places() {
        let now = Instant::now();
        let mut table = Unauthenticated::default();
        let other = enter(&mut table, ip(1), now);
        let own = enter(&mut table, ip(2), now);
        assert!(!table.shed_of(ip(2), now));
        assert!(table.shed_of(ip(2), now + SILENT));
        assert!(own.is_cancelled() && !other.is_cancelled());
        assert!(!table.shed_of(ip(3), now + SLOW));
    }

    #[test]
    fn without_file_descriptors_a_young_connection_goes_too() {
        let now = Instant::now();
        let mut table = Unauthenticated::default();
        let (_, unnamed) = table.enter(now);
        let named = enter(&mut table, ip(1), now);
        assert!(table.shed_any() && named.is_cancelled());
        assert!(table.shed_any() && unnamed.is_cancelled());
        assert!(!table.shed_any());
    }

    #[test]
    fn nothing_is_left_of_connections_that_left() {
        let now = Instant::now();
        let mut table = Unauthenticated::default();
        for n in 0..100 {
            enter(&mut table, ip(n % 7), now);
        }
        for number in 0..100 {
            table.leave(number);
            table.leave(number);
        }
        let rest = (table.len(), table.silent.len(), table.by_address.len());
        assert_eq!(rest, (0, 0, 0));
        assert!(table.by_count.is_empty());
    }
}
