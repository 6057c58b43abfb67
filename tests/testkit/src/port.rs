//! Free loopback ports.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::net::TcpListener;

use anyhow::{Result, bail};

/// Below the range from which the kernel takes ports of outgoing connections: a port stays free
/// for its server while the server is down.
const RANGE: std::ops::Range<u16> = 11_000..31_000;

/// A port on which nothing listens now. Another process may still take it before it is used, so
/// a server that cannot listen is started again on another.
pub fn free_port() -> Result<u16> {
    for _ in 0..200 {
        let random = RandomState::new().build_hasher().finish();
        let port = RANGE.start + (random % u64::from(RANGE.end - RANGE.start)) as u16;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    bail!(
        "no free loopback port between {} and {}",
        RANGE.start,
        RANGE.end
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_free_port_can_be_listened_on() {
        let port = free_port().unwrap();
        assert!(RANGE.contains(&port));
        let held = TcpListener::bind(("127.0.0.1", port)).unwrap();
        assert!(TcpListener::bind(held.local_addr().unwrap()).is_err());
    }
}
