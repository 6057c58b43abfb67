//! Bounds on strangers: connections in all and for each address, their rate, and bytes a second.
//! Connections that have not authenticated have bounds of their own, far below.
//!
//! Nothing here reads a clock: callers pass the time.

mod unauthenticated;

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use sestina_runtime::CancellationToken;

use self::unauthenticated::Unauthenticated;

/// Bounds on connections.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ConnLimitsConfig {
    /// Most connections at one time, all listeners together.
    pub total: usize,
    /// Most connections at one time of one IPv4 address or one IPv6 /64 network.
    pub per_address: usize,
    /// New connections a second of one address, on average.
    pub rate_per_second: f64,
    /// New connections of one address that may come at once.
    pub burst: u32,
    /// Time from accepting a connection to the end of its handshakes (PROXY header, TLS, HTTP
    /// request).
    pub handshake_time: Duration,
    /// Most connections at one time that have not authenticated. A new one takes the place of an
    /// old one, or waits while all of them are young and at work.
    pub unauthenticated: usize,
    /// Most of these of one address. A new one takes the place of an old one of this address, or is
    /// refused.
    pub unauthenticated_per_address: usize,
}

impl Default for ConnLimitsConfig {
    fn default() -> Self {
        Self {
            total: 100_000,
            per_address: 500,
            rate_per_second: 20.0,
            burst: 200,
            handshake_time: Duration::from_secs(10),
            unauthenticated: 4096,
            unauthenticated_per_address: 500,
        }
    }
}

/// Why a connection is not served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// [`ConnLimitsConfig::total`] is reached.
    #[error("too many connections, raise the total limit or add edges")]
    Total,
    /// [`ConnLimitsConfig::per_address`] is reached.
    #[error("too many connections from this address")]
    Address,
    /// The address connects too fast.
    #[error("address connects too often")]
    Rate,
    /// [`ConnLimitsConfig::unauthenticated`] is reached, and all of them are young.
    #[error("too many connections that have not authenticated")]
    Unauthenticated,
    /// [`ConnLimitsConfig::unauthenticated_per_address`] is reached, and all of them are young.
    #[error("too many connections from this address that have not authenticated")]
    UnauthenticatedAddress,
}

/// Counts connections. Shared by all listeners.
#[derive(Debug)]
pub struct ConnLimits {
    config: ConnLimitsConfig,
    table: Mutex<Table>,
}

#[derive(Debug)]
struct Table {
    total: usize,
    addresses: HashMap<IpAddr, Address>,
    unauthenticated: Unauthenticated,
    /// Size at which addresses that are at rest are forgotten.
    sweep_at: usize,
}

#[derive(Debug)]
struct Address {
    connections: usize,
    tokens: f64,
    seen: Instant,
}

/// Smallest size at which the table is swept.
const SWEEP_FROM: usize = 4096;

impl ConnLimits {
    /// Nothing is counted yet.
    pub fn new(config: ConnLimitsConfig) -> Arc<Self> {
        Arc::new(Self {
            config,
            table: Mutex::new(Table {
                total: 0,
                addresses: HashMap::new(),
                unauthenticated: Unauthenticated::default(),
                sweep_at: SWEEP_FROM,
            }),
        })
    }

    /// The bounds.
    pub fn config(&self) -> &ConnLimitsConfig {
        &self.config
    }

    /// Counts a connection whose client is not known yet, because a proxy names it later.
    pub fn admit(self: &Arc<Self>, now: Instant) -> Result<ConnPermit, Refused> {
        let mut table = self.table.lock();
        if table.total >= self.config.total {
            return Err(Refused::Total);
        }
        let places = self.config.unauthenticated;
        // Where addresses tell nothing of clients (a proxy that does not name them), none is heavy.
        let by_address = self.config.unauthenticated_per_address < usize::MAX;
        let strangers = &mut table.unauthenticated;
        if strangers.len() >= places && !strangers.shed(places, by_address, now) {
            return Err(Refused::Unauthenticated);
        }
        table.total += 1;
        let (number, shed) = table.unauthenticated.enter(now);
        Ok(ConnPermit {
            limits: Arc::clone(self),
            address: None,
            stranger: Some(Stranger {
                number,
                shed,
                heard: false,
            }),
        })
    }

    /// Ends a connection that has not authenticated, because the process can open no more. False
    /// if there is none.
    pub fn shed(&self) -> bool {
        self.table.lock().unauthenticated.shed_any()
    }

    /// Connections that have not authenticated, at this moment.
    pub fn unauthenticated(&self) -> usize {
        self.table.lock().unauthenticated.len()
    }

    /// Connections at this moment.
    pub fn connections(&self) -> usize {
        self.table.lock().total
    }

    fn count(&self, address: IpAddr, stranger: Option<u64>, now: Instant) -> Result<(), Refused> {
        let config = &self.config;
        let mut table = self.table.lock();
        let table = &mut *table;
        if table.addresses.len() >= table.sweep_at {
            table.sweep(config, now);
        }
        let entry = table.addresses.entry(address).or_insert(Address {
            connections: 0,
            tokens: f64::from(config.burst),
            seen: now,
        });
        if entry.connections >= config.per_address {
            return Err(Refused::Address);
        }
        entry.refill(config, now);
        if entry.tokens < 1.0 {
            return Err(Refused::Rate);
        }
        if let Some(number) = stranger {
            let strangers = &mut table.unauthenticated;
            if strangers.of(address) >= config.unauthenticated_per_address
                && !strangers.shed_of(address, now)
            {
                return Err(Refused::UnauthenticatedAddress);
            }
            strangers.name(number, address);
        }
        entry.tokens -= 1.0;
        entry.connections += 1;
        Ok(())
    }
}

impl Table {
    fn sweep(&mut self, config: &ConnLimitsConfig, now: Instant) {
        self.addresses.retain(|_, address| {
            address.refill(config, now);
            address.connections > 0 || address.tokens < f64::from(config.burst)
        });
        self.sweep_at = (self.addresses.len() * 2).max(SWEEP_FROM);
    }
}

impl Address {
    fn refill(&mut self, config: &ConnLimitsConfig, now: Instant) {
        let passed = now.saturating_duration_since(self.seen).as_secs_f64();
        self.seen = self.seen.max(now);
        self.tokens = (self.tokens + passed * config.rate_per_second).min(f64::from(config.burst));
    }
}

/// The right to one connection; dropping it gives it back.
#[derive(Debug)]
pub struct ConnPermit {
    limits: Arc<ConnLimits>,
    address: Option<IpAddr>,
    /// Until the connection has authenticated.
    stranger: Option<Stranger>,
}

/// A connection's place among those that have not authenticated.
#[derive(Debug)]
struct Stranger {
    number: u64,
    shed: CancellationToken,
    heard: bool,
}

impl ConnPermit {
    /// Counts the connection for its client as well. Only the first call does.
    pub fn name(&mut self, client: IpAddr, now: Instant) -> Result<(), Refused> {
        if self.address.is_none() {
            let address = aggregate(client);
            let stranger = self.stranger.as_ref().map(|stranger| stranger.number);
            self.limits.count(address, stranger, now)?;
            self.address = Some(address);
        }
        Ok(())
    }

    /// Cancelled when this connection has to give its place to another. After it has
    /// authenticated that does not happen.
    pub fn shed(&self) -> CancellationToken {
        self.stranger
            .as_ref()
            .map_or_else(CancellationToken::new, |stranger| stranger.shed.clone())
    }

    /// The client has sent something.
    pub fn heard(&mut self) {
        if let Some(stranger) = &mut self.stranger
            && !std::mem::replace(&mut stranger.heard, true)
        {
            let mut table = self.limits.table.lock();
            table.unauthenticated.heard(stranger.number);
        }
    }

    /// The client is known: the connection keeps its place.
    pub fn authenticated(&mut self) {
        if let Some(stranger) = self.stranger.take() {
            let mut table = self.limits.table.lock();
            table.unauthenticated.leave(stranger.number);
        }
    }
}

impl Drop for ConnPermit {
    fn drop(&mut self) {
        let mut table = self.limits.table.lock();
        table.total = table.total.saturating_sub(1);
        if let Some(stranger) = &self.stranger {
            table.unauthenticated.leave(stranger.number);
        }
        if let Some(entry) = self
            .address
            .and_then(|address| table.addresses.get_mut(&address))
        {
            entry.connections = entry.connections.saturating_sub(1);
        }
    }
}

/// One subscriber has one IPv4 address, or at least a /64 network of IPv6.
pub(crate) fn aggregate(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let network = u128::from(v6) & !u128::from(u64::MAX);
            IpAddr::V6(Ipv6Addr::from(network))
        }
        v4 => v4,
    }
}

/// A limit in bytes a second, with a burst. What was read is always paid, so the bucket may owe:
/// the caller pauses for as long as [`ByteBucket::take`] says.
#[derive(Clone, Copy, Debug)]
pub struct ByteBucket {
    rate: f64,
    burst: f64,
    tokens: f64,
    seen: Instant,
}

impl ByteBucket {
    /// A full bucket. A rate of zero means no limit.
    pub fn new(bytes_per_second: u64, burst_bytes: u64, now: Instant) -> Self {
        Self {
            rate: bytes_per_second as f64,
            burst: burst_bytes as f64,
            tokens: burst_bytes as f64,
            seen: now,
        }
    }

    /// Changes the limit, when a session has authenticated or misbehaved.
    pub fn set_limit(&mut self, bytes_per_second: u64, burst_bytes: u64, now: Instant) {
        self.refill(now);
        self.rate = bytes_per_second as f64;
        self.burst = burst_bytes as f64;
        self.tokens = self.tokens.min(self.burst);
    }

    /// Pays for bytes that were read. Returns for how long not to read, if at all.
    pub fn take(&mut self, now: Instant, bytes: usize) -> Option<Duration> {
        if self.rate <= 0.0 {
            return None;
        }
        self.refill(now);
        self.tokens -= bytes as f64;
        (self.tokens < 0.0).then(|| {
            // One stanza of any accepted size at any sensible rate stays far below this.
            Duration::from_secs_f64((-self.tokens / self.rate).min(3600.0))
        })
    }

    fn refill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.seen).as_secs_f64();
        self.seen = self.seen.max(now);
        self.tokens = (self.tokens + passed * self.rate).min(self.burst);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn limits(total: usize, per_address: usize, rate: f64, burst: u32) -> Arc<ConnLimits> {
        ConnLimits::new(ConnLimitsConfig {
            total,
            per_address,
            rate_per_second: rate,
            burst,
            ..ConnLimitsConfig::default()
        })
    }

    fn open(limits: &Arc<ConnLimits>, ip: &str, now: Instant) -> Result<ConnPermit, Refused> {
        let mut permit = limits.admit(now)?;
        permit.name(ip.parse().unwrap(), now)?;
        Ok(permit)
    }

    #[test]
    fn the_total_and_each_address_are_bounded_and_given_back() {
        let now = Instant::now();
        let limits = limits(3, 2, 100.0, 100);
        let first = open(&limits, "192.0.2.1", now).unwrap();
        let _second = open(&limits, "192.0.2.1", now).unwrap();
        assert_eq!(
            open(&limits, "::ffff:192.0.2.1", now).unwrap_err(),
            Refused::Address
        );
        let _third = open(&limits, "192.0.2.2", now).unwrap();
        assert_eq!(open(&limits, "192.0.2.3", now).unwrap_err(), Refused::Total);
        drop(first);
        assert_eq!(limits.connections(), 2);
        assert!(open(&limits, "192.0.2.1", now).is_ok());
    }

    #[test]
    fn strangers_have_a_bound_of_their_own_and_the_old_ones_go_first() {
        let now = Instant::now();
        let limits = ConnLimits::new(ConnLimitsConfig {
            unauthenticated: 4,
            unauthenticated_per_address: 2,
            ..ConnLimitsConfig::default()
        });
        let mut known = open(&limits, "192.0.2.1", now).unwrap();
        known.authenticated();
        let first = open(&limits, "192.0.2.1", now).unwrap();
        let _second = open(&limits, "192.0.2.1", now).unwrap();
        let refused = open(&limits, "192.0.2.1", now).unwrap_err();
        assert_eq!(refused, Refused::UnauthenticatedAddress);
        let later = now + unauthenticated::SILENT;
        let mut third = open(&limits, "192.0.2.1", later).unwrap();
        third.heard();
        assert!(first.shed().is_cancelled() && !known.shed().is_cancelled());
        let _fourth = open(&limits, "192.0.2.2", later).unwrap();
        let _fifth = open(&limits, "192.0.2.3", later).unwrap();
        assert_eq!(limits.unauthenticated(), 4);
        assert!(open(&limits, "192.0.2.4", later).is_ok(), "the second went");
        assert!(!third.shed().is_cancelled());
        third.authenticated();
        assert_eq!(limits.unauthenticated(), 2);
        assert!(limits.shed() && limits.shed());
    }

    #[test]
    fn ipv6_counts_by_network() {
        let now = Instant::now();
        let limits = limits(10, 1, 100.0, 100);
        let _one = open(&limits, "2001:db8::1", now).unwrap();
        assert_eq!(
            open(&limits, "2001:db8::ffff", now).unwrap_err(),
            Refused::Address
        );
        assert!(open(&limits, "2001:db8:0:1::1", now).is_ok());
    }

    #[test]
    fn the_rate_lets_a_burst_pass_and_then_one_at_a_time() {
        let now = Instant::now();
        let limits = limits(10, 10, 2.0, 2);
        assert!(open(&limits, "192.0.2.1", now).is_ok());
        assert!(open(&limits, "192.0.2.1", now).is_ok());
        assert_eq!(open(&limits, "192.0.2.1", now).unwrap_err(), Refused::Rate);
        let later = now + Duration::from_millis(500);
        assert!(open(&limits, "192.0.2.1", later).is_ok());
        assert_eq!(
            open(&limits, "192.0.2.1", later).unwrap_err(),
            Refused::Rate
        );
        assert!(open(&limits, "192.0.2.2", later).is_ok());
    }

    #[test]
    fn addresses_at_rest_are_forgotten() {
        let now = Instant::now();
        let limits = limits(usize::MAX, 10, 1.0, 2);
        for n in 0..SWEEP_FROM as u32 {
            let ip = IpAddr::from(n.to_be_bytes());
            limits.admit(now).unwrap().name(ip, now).unwrap();
        }
        let held = open(&limits, "198.51.100.1", now).unwrap();
        assert!(limits.table.lock().addresses.len() > SWEEP_FROM);
        let later = now + Duration::from_secs(5);
        limits.table.lock().sweep(&limits.config, later);
        assert_eq!(limits.table.lock().addresses.len(), 1);
        drop(held);
    }

    #[test]
    fn a_bucket_asks_for_the_time_that_its_debt_needs() {
        let now = Instant::now();
        let mut bucket = ByteBucket::new(1000, 500, now);
        assert_eq!(bucket.take(now, 500), None);
        assert_eq!(bucket.take(now, 250), Some(Duration::from_millis(250)));
        let later = now + Duration::from_millis(250);
        assert_eq!(bucket.take(later, 0), None);
        assert_eq!(bucket.take(later, 1), Some(Duration::from_millis(1)));
        bucket.set_limit(0, 0, later);
        assert_eq!(bucket.take(later, 1 << 30), None);
    }
}
