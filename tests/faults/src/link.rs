//! A link between the routers and Redis, for tests in which the network is late: it can hold the
//! bytes of the present connections, and pass them on long after the routers gave the connections
//! up. It also reports the size of the largest command.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};

use crate::wait::until;

/// A command that is sent after the others of a connection; its answer comes after theirs.
const LAST: &[u8] = b"*1\r\n$4\r\nPING\r\n";
/// The answer to it.
const ANSWER: &[u8] = b"+PONG\r\n";
/// How long Redis may take to answer held commands.
const LIMIT: Duration = Duration::from_secs(10);

/// The mode of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// All bytes pass.
    Open,
    /// No bytes pass; those of routers are kept.
    Held,
    /// Kept bytes go to Redis; no answers come back.
    Late,
}

#[derive(Debug)]
struct Connection {
    mode: watch::Sender<Mode>,
    kept: Arc<Mutex<Vec<u8>>>,
    /// The router has closed it.
    given_up: AtomicBool,
    done: Arc<Notify>,
}

/// A connection that keeps a command.
#[derive(Clone, Debug)]
pub struct Keeper(Arc<Connection>);

#[derive(Debug, Default)]
struct State {
    /// New connections are held as well.
    cut: bool,
    connections: Vec<Arc<Connection>>,
    /// Connections that were made since the network was cut.
    tried: usize,
    largest: usize,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Link {
    state: Arc<Mutex<State>>,
    port: u16,
}

impl Link {
    /// Listens on a free port, and forwards all connections to the Redis at `port`.
    pub(crate) async fn start(port: u16) -> Result<Link> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let link = Link {
            state: Arc::default(),
            port: listener.local_addr()?.port(),
        };
        let state = Arc::clone(&link.state);
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                // Redis is down: the router's connection ends at once.
                if let Ok(far) = TcpStream::connect(("127.0.0.1", port)).await {
                    join(&state, near, far);
                }
            }
        });
        Ok(link)
    }

    /// The port for routers.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Holds all bytes from now on, of present and of new connections.
    pub fn cut(&self) {
        let mut state = self.state.lock();
        state.cut = true;
        state.tried = 0;
        for connection in &state.connections {
            connection.mode.send_replace(Mode::Held);
        }
    }

    /// Waits until a connection keeps bytes that contain this text.
    pub async fn keeps(&self, text: &str) -> Result<Keeper> {
        let holds = |connection: &&Arc<Connection>| {
            let kept = connection.kept.lock();
            kept.windows(text.len()).any(|w| w == text.as_bytes())
        };
        until("a command waits in the network", LIMIT, async || {
            let state = self.state.lock();
            match state.connections.iter().find(holds) {
                Some(connection) => Ok(Keeper(Arc::clone(connection))),
                None => Err(format!("none with {text}")),
            }
        })
        .await
    }

    /// Waits until the router has given that connection up.
    pub async fn given_up(&self, keeper: &Keeper) -> Result<()> {
        until("a router gives up a connection", LIMIT, async || {
            if keeper.0.given_up.load(Ordering::Acquire) {
                Ok(())
            } else {
                Err("it waits for an answer".to_owned())
            }
        })
        .await
    }

    /// Connections made since the cut pass all bytes; older ones are still held.
    pub fn heal(&self) {
        let mut state = self.state.lock();
        state.cut = false;
        let (older, newer) = {
            let at = state.connections.len() - state.tried;
            state.connections.split_at(at)
        };
        for connection in newer {
            connection.mode.send_replace(Mode::Open);
        }
        debug_assert!(older.iter().all(|c| *c.mode.borrow() == Mode::Held));
    }

    /// Passes the kept bytes on to Redis. Returns their number.
    pub async fn arrive_late(&self) -> Result<usize> {
        let held: Vec<Arc<Connection>> = {
            let state = self.state.lock();
            let held = |c: &&Arc<Connection>| *c.mode.borrow() == Mode::Held;
            state.connections.iter().filter(held).cloned().collect()
        };
        ensure!(!held.is_empty(), "no connection is held");
        let mut bytes = 0;
        for connection in held {
            bytes += connection.kept.lock().len();
            let done = connection.done.notified();
            connection.mode.send_replace(Mode::Late);
            tokio::time::timeout(LIMIT, done)
                .await
                .context("Redis does not answer the late commands")?;
        }
        Ok(bytes)
    }

    /// The size of the largest command since the start, or since the last call.
    pub fn largest(&self) -> usize {
        std::mem::take(&mut self.state.lock().largest)
    }
}

fn join(state: &Arc<Mutex<State>>, near: TcpStream, far: TcpStream) {
    near.set_nodelay(true).ok();
    far.set_nodelay(true).ok();
    let mut locked = state.lock();
    let first = if locked.cut { Mode::Held } else { Mode::Open };
    locked.tried += 1;
    let (mode, modes) = watch::channel(first);
    let connection = Arc::new(Connection {
        mode,
        kept: Arc::default(),
        given_up: AtomicBool::new(false),
        done: Arc::default(),
    });
    locked.connections.push(Arc::clone(&connection));
    drop(locked);
    let pass = Pass {
        state: Arc::clone(state),
        connection,
        near,
        far,
    };
    tokio::spawn(pass.run(modes));
}

/// One connection of a router, and its connection to Redis.
struct Pass {
    state: Arc<Mutex<State>>,
    connection: Arc<Connection>,
    near: TcpStream,
    far: TcpStream,
}

impl Pass {
    async fn run(mut self, mut modes: watch::Receiver<Mode>) {
        // An error on one side ends the connection for the other side.
        self.pass(&mut modes).await.ok();
        self.connection.done.notify_one();
    }

    async fn pass(&mut self, modes: &mut watch::Receiver<Mode>) -> std::io::Result<()> {
        let (mut up, mut down) = (vec![0; 64 << 10], vec![0; 64 << 10]);
        let mut commands = Commands::default();
        let (mut open, mut asked) = (true, false);
        let mut answers = Vec::new();
        loop {
            let mode = *modes.borrow_and_update();
            if mode != Mode::Held {
                let kept = std::mem::take(&mut *self.connection.kept.lock());
                self.far.write_all(&kept).await?;
            }
            if mode == Mode::Late && !asked {
                asked = true;
                self.far.write_all(LAST).await?;
            }
            if mode == Mode::Open && !open {
                return Ok(());
            }
            tokio::select! {
                read = self.near.read(&mut up), if open => match read {
                    Ok(length) if length > 0 => {
                        let bytes = &up[..length];
                        let mut state = self.state.lock();
                        state.largest = state.largest.max(commands.take(bytes));
                        drop(state);
                        self.connection.kept.lock().extend_from_slice(bytes);
                    }
                    // Bytes that a router sent before it gave up are under way all the same.
                    _ => {
                        open = false;
                        self.connection.given_up.store(true, Ordering::Release);
                    }
                },
                read = self.far.read(&mut down), if mode != Mode::Held => match read? {
                    0 => return Ok(()),
                    length if mode == Mode::Late => {
                        answers.extend_from_slice(&down[..length]);
                        if answers.ends_with(ANSWER) {
                            return Ok(());
                        }
                    }
                    length => self.near.write_all(&down[..length]).await?,
                },
                changed = modes.changed() => if changed.is_err() { return Ok(()) },
            }
        }
    }
}

/// Finds the ends of commands in the bytes of a Redis client.
#[derive(Debug, Default)]
struct Commands {
    /// A line that has not ended.
    line: Vec<u8>,
    /// Remaining bytes of the present string.
    skip: usize,
    /// Remaining strings of the present command.
    strings: usize,
    /// Bytes of the present command so far.
    bytes: usize,
}

impl Commands {
    /// The size of the largest command that these bytes belong to.
    fn take(&mut self, mut bytes: &[u8]) -> usize {
        let mut largest = 0;
        while !bytes.is_empty() {
            if self.skip > 0 {
                let length = self.skip.min(bytes.len());
                self.skip -= length;
                self.bytes += length;
                bytes = &bytes[length..];
            } else {
                let (byte, rest) = (bytes[0], &bytes[1..]);
                bytes = rest;
                self.bytes += 1;
                if byte != b'\n' {
                    self.line.push(byte);
                    continue;
                }
                self.line_ended();
            }
            largest = largest.max(self.bytes);
            if self.skip == 0 && self.strings == 0 {
                self.bytes = 0;
            }
        }
        largest.max(self.bytes)
    }

    fn line_ended(&mut self) {
        let line = String::from_utf8_lossy(&self.line).trim_end().to_owned();
        self.line.clear();
        let number = line.get(1..).and_then(|n| n.parse::<usize>().ok());
        match (line.as_bytes().first(), number) {
            (Some(b'*'), Some(strings)) => self.strings = strings,
            (Some(b'$'), Some(length)) => {
                self.strings = self.strings.saturating_sub(1);
                self.skip = length + 2;
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Commands;

    #[test]
    fn the_largest_command_is_found_wherever_it_is_cut() {
        let small = b"*1\r\n$4\r\nPING\r\n".to_vec();
        let large = [
            b"*2\r\n$3\r\nGET\r\n$300\r\n".to_vec(),
            vec![b'x'; 300],
            b"\r\n".to_vec(),
        ]
        .concat();
        let all = [small.clone(), large.clone(), small].concat();
        for step in [1, 2, 3, 7, 100, all.len()] {
            let mut commands = Commands::default();
            let largest = all.chunks(step).map(|part| commands.take(part)).max();
            assert_eq!(largest, Some(large.len()), "in steps of {step}");
        }
    }
}
