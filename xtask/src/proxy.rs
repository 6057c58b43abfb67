//! A TCP proxy between tiers that cuts and freezes its connections.
//!
//! It replaces a broken network if namespaces and packet filters cannot be used: a frozen
//! connection passes no bytes in either direction, as when a cable is pulled; a cut one is closed.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};

use crate::rng::Rng;

#[derive(Default)]
struct State {
    /// No bytes pass while this is set.
    frozen: bool,
    stopped: bool,
    next: u64,
    connections: Vec<Connection>,
}

struct Connection {
    id: u64,
    frozen: bool,
    near: TcpStream,
    far: TcpStream,
}

impl Connection {
    fn cut(&self) {
        // Both are closed already if the other side was faster.
        self.near.shutdown(Shutdown::Both).ok();
        self.far.shutdown(Shutdown::Both).ok();
    }
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A listener that forwards connections.
pub(crate) struct Proxy {
    listen: SocketAddr,
    shared: Arc<Shared>,
}

impl Proxy {
    /// Listens on `listen` and forwards every connection to `target`.
    pub(crate) fn start(listen: SocketAddr, target: SocketAddr) -> Result<Proxy> {
        let listener = TcpListener::bind(listen)
            .with_context(|| format!("the proxy cannot listen on {listen}"))?;
        let listen = listener.local_addr()?;
        let shared = Arc::new(Shared::default());
        let accepting = Arc::clone(&shared);
        std::thread::spawn(move || accept(&listener, target, &accepting));
        Ok(Proxy { listen, shared })
    }

    /// The address on which it listens.
    #[cfg(test)]
    pub(crate) fn address(&self) -> SocketAddr {
        self.listen
    }

    /// Holds back all bytes of all connections, including new ones, or lets them pass again.
    pub(crate) fn freeze_all(&self, frozen: bool) {
        let mut state = self.shared.lock();
        state.frozen = frozen;
        for connection in &mut state.connections {
            connection.frozen = frozen;
        }
        drop(state);
        self.shared.changed.notify_all();
    }

    /// Holds back all bytes of one of the connections; false if there is none.
    pub(crate) fn freeze_one(&self, rng: &mut Rng) -> bool {
        let mut state = self.shared.lock();
        let count = state.connections.len();
        let chosen = rng.below(count);
        match state.connections.get_mut(chosen) {
            Some(connection) => connection.frozen = true,
            None => return false,
        }
        true
    }

    /// Closes one of the connections; false if there is none.
    pub(crate) fn cut_one(&self, rng: &mut Rng) -> bool {
        let state = self.shared.lock();
        let chosen = rng.below(state.connections.len());
        state.connections.get(chosen).map(Connection::cut).is_some()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.stopped = true;
        state.connections.iter().for_each(Connection::cut);
        drop(state);
        self.shared.changed.notify_all();
        // Wakes the accepting thread, which then ends.
        TcpStream::connect(self.listen).ok();
    }
}

fn accept(listener: &TcpListener, target: SocketAddr, shared: &Arc<Shared>) {
    for near in listener.incoming() {
        if shared.lock().stopped {
            return;
        }
        // No free file descriptors, or the target is down: the caller sees a closed connection.
        let Ok(near) = near else { continue };
        let Ok(far) = TcpStream::connect(target) else {
            continue;
        };
        near.set_nodelay(true).ok();
        far.set_nodelay(true).ok();
        if let Err(error) = pass(near, far, shared) {
            eprintln!("proxy of {target}: {error:#}");
        }
    }
}

fn pass(near: TcpStream, far: TcpStream, shared: &Arc<Shared>) -> Result<()> {
    let pumps = [
        (near.try_clone()?, far.try_clone()?),
        (far.try_clone()?, near.try_clone()?),
    ];
    let id = {
        let mut state = shared.lock();
        state.next += 1;
        let (id, frozen) = (state.next, state.frozen);
        state.connections.push(Connection {
            id,
            frozen,
            near,
            far,
        });
        id
    };
    for (from, to) in pumps {
        let shared = Arc::clone(shared);
        std::thread::spawn(move || {
            pump(from, to, id, &shared);
            let mut state = shared.lock();
            state
                .connections
                .iter()
                .filter(|c| c.id == id)
                .for_each(Connection::cut);
            state.connections.retain(|c| c.id != id);
        });
    }
    Ok(())
}

fn pump(mut from: TcpStream, mut to: TcpStream, id: u64, shared: &Shared) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let count = match from.read(&mut buffer) {
            Ok(0) | Err(_) => return,
            Ok(count) => count,
        };
        let frozen = |state: &mut State| {
            !state.stopped && state.connections.iter().any(|c| c.id == id && c.frozen)
        };
        drop(
            shared
                .changed
                .wait_while(shared.lock(), frozen)
                .unwrap_or_else(PoisonError::into_inner),
        );
        if to
            .write_all(buffer.get(..count).unwrap_or_default())
            .is_err()
        {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Duration;

    use super::*;

    /// Answers every byte with the next letter.
    fn echo() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                std::thread::spawn(move || {
                    let mut byte = [0];
                    while stream.read_exact(&mut byte).is_ok() {
                        stream.write_all(&[byte[0] + 1]).unwrap();
                    }
                });
            }
        });
        address
    }

    fn ask(stream: &mut TcpStream, byte: u8) -> std::io::Result<u8> {
        stream.write_all(&[byte])?;
        let mut answer = [0];
        stream.read_exact(&mut answer)?;
        Ok(answer[0])
    }

    #[test]
    fn passes_freezes_and_cuts() {
        let proxy = Proxy::start("127.0.0.1:0".parse().unwrap(), echo()).unwrap();
        let mut rng = Rng::new(1);
        assert!(!proxy.cut_one(&mut rng));
        let mut stream = TcpStream::connect(proxy.address()).unwrap();
        assert_eq!(ask(&mut stream, b'a').unwrap(), b'b');
        proxy.freeze_all(true);
        stream
            .set_read_timeout(Some(Duration::from_millis(200)))
            .unwrap();
        assert!(ask(&mut stream, b'c').is_err());
        proxy.freeze_all(false);
        stream
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        let mut late = [0];
        stream.read_exact(&mut late).unwrap();
        assert_eq!(late[0], b'd');
        assert!(proxy.freeze_one(&mut rng));
        let mut other = TcpStream::connect(proxy.address()).unwrap();
        assert_eq!(ask(&mut other, b'x').unwrap(), b'y');
        drop(other);
        proxy.freeze_all(false);
        assert_eq!(ask(&mut stream, b'e').unwrap(), b'f');
        sestina_testkit::wait_for("one connection", Duration::from_secs(5), || {
            let count = proxy.shared.lock().connections.len();
            anyhow::ensure!(count == 1, "{count} connections");
            Ok(())
        })
        .unwrap();
        assert!(proxy.cut_one(&mut rng));
        assert!(ask(&mut stream, b'g').is_err());
    }
}
