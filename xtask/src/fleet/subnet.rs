//! The addresses of a fleet: a /24, in which each process has a fixed last part.

use std::fmt;
use std::net::{Ipv4Addr, TcpListener};

use anyhow::Result;

use super::node::Role;
use super::{CLUSTER_PORT, network};
use crate::rng::Rng;

/// The first three parts of the address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Subnet([u8; 3]);

impl Subnet {
    /// A /24 of 127.0.0.0/8 on which no process listens.
    pub(super) fn free_loopback() -> Result<Subnet> {
        let mut rng = rng();
        for _ in 0..100 {
            let subnet = Subnet([127, part(&mut rng, 1, 254), part(&mut rng, 1, 254)]);
            let probes = [Role::Edge, Role::Router, Role::Storage];
            let free = probes.iter().all(|role| {
                let ip = subnet.at(role.address(1));
                TcpListener::bind((ip, CLUSTER_PORT)).is_ok()
            });
            if free {
                return Ok(subnet);
            }
        }
        anyhow::bail!("found no free loopback addresses; more than one 127.0.0.x is needed (Linux)")
    }

    /// A /24 to which this machine has no route of its own, from the range that RFC 2544 reserves
    /// for tests of networks: no site uses it, unlike 10.0.0.0/8.
    pub(super) fn free_for_tests() -> Result<Subnet> {
        let mut rng = rng();
        for _ in 0..100 {
            let subnet = Subnet([198, part(&mut rng, 18, 19), part(&mut rng, 0, 255)]);
            if !network::has_routes(subnet)? {
                return Ok(subnet);
            }
        }
        anyhow::bail!("this machine has routes to all of 198.18.0.0/15, which is for tests")
    }

    /// The address with this last part.
    pub(super) fn at(self, last: u8) -> Ipv4Addr {
        let [first, second, third] = self.0;
        Ipv4Addr::new(first, second, third, last)
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/24", self.at(0))
    }
}

/// A generator with a different seed at each start of this tool.
fn rng() -> Rng {
    let started = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| u64::from(since.subsec_nanos()));
    Rng::new(u64::from(std::process::id()) ^ started)
}

fn part(rng: &mut Rng, low: u64, high: u64) -> u8 {
    u8::try_from(rng.between(low, high)).unwrap_or(u8::MAX)
}
