//! Free loopback ports.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::sync::{Mutex, PoisonError};

use anyhow::{Result, bail};

/// Below the range from which the kernel takes ports of outgoing connections, so a port stays free
/// while its server is down.
const RANGE: std::ops::Range<u16> = 11_000..31_000;

/// Reserves the ports of this process, for itself and against others: names of the abstract socket
/// namespace, which the kernel frees when the process ends.
static GIVEN: Mutex<Vec<UnixListener>> = Mutex::new(Vec::new());

/// Whether the port could be reserved.
fn reserve(port: u16) -> Result<bool> {
    let name = SocketAddr::from_abstract_name(format!("sestina-test-port-{port}"))?;
    let Ok(held) = UnixListener::bind_addr(&name) else {
        return Ok(false);
    };
    GIVEN
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(held);
    Ok(true)
}

/// A port on which no process listens, and which no other caller gets while this process lives:
/// tests start their servers later, side by side, and some of them more than once.
pub fn free_port() -> Result<u16> {
    for _ in 0..200 {
        let random = RandomState::new().build_hasher().finish();
        let port = RANGE.start + (random % u64::from(RANGE.end - RANGE.start)) as u16;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() && reserve(port)? {
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

    #[test]
    fn no_port_is_given_twice() {
        let port = free_port().unwrap();
        assert!(!reserve(port).unwrap());
    }
}
