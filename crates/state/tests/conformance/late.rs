//! Writes that arrive late, and large ones: effects of the network and of other writers.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};

use sestina_api::state_store::StagedPart;

use super::*;

/// A network between a client and Redis that can be cut: bytes under way on a connection stay
/// there, and arrive when the cut has healed, although the client has closed the connection.
#[derive(Default)]
struct Network {
    /// Connections with a number below this are cut.
    cut_below: Mutex<usize>,
    healed: Condvar,
    opened: Mutex<usize>,
}

impl Network {
    fn start(redis: u16) -> (Arc<Network>, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let network = Arc::new(Network::default());
        let accepting = network.clone();
        std::thread::spawn(move || {
            for near in listener.incoming() {
                let near = near.unwrap();
                let far = TcpStream::connect(("127.0.0.1", redis)).unwrap();
                near.set_nodelay(true).unwrap();
                far.set_nodelay(true).unwrap();
                let number = {
                    let mut opened = accepting.opened.lock().unwrap();
                    *opened += 1;
                    *opened - 1
                };
                let back = (far.try_clone().unwrap(), near.try_clone().unwrap());
                let network = accepting.clone();
                std::thread::spawn(move || network.pass(number, near, far));
                let network = accepting.clone();
                std::thread::spawn(move || network.pass(number, back.0, back.1));
            }
        });
        (network, address)
    }

    fn pass(&self, number: usize, mut from: TcpStream, mut to: TcpStream) {
        let mut buffer = vec![0; 64 << 10];
        // Ends when either side has closed its connection; an error here is no failure.
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            let cut = self.cut_below.lock().unwrap();
            drop(
                self.healed
                    .wait_while(cut, |below| number < *below)
                    .unwrap(),
            );
            if to.write_all(&buffer[..count]).is_err() {
                return;
            }
        }
    }

    /// Cuts all present connections; later ones pass.
    fn cut(&self) {
        *self.cut_below.lock().unwrap() = *self.opened.lock().unwrap();
    }

    fn heal(&self) {
        *self.cut_below.lock().unwrap() = 0;
        self.healed.notify_all();
    }
}

/// Waits until Redis has refused `count` writes to a slot.
async fn until_refused(port: u16, slot: u16, count: &str) {
    let key = format!("{{s{slot}}}:e");
    let end = Instant::now() + Duration::from_secs(30);
    loop {
        let last = sestina_testkit::command(port, &["GET", &key]).unwrap();
        let sestina_testkit::Reply::Text(last) = last else {
            panic!("{key} is {last:?}");
        };
        if last.split(' ').nth(2) == Some(count) {
            return;
        }
        assert!(Instant::now() < end, "nothing came late: {last}");
        sleep(Duration::from_millis(10)).await;
    }
}

/// The network is cut while a queue is being written, and heals after a newer queue has been
/// written over another connection and acknowledged. The older write arrives and must not replace
/// the newer one; a late removal must not delete it either.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_cut_network_delivers_late_changes_nothing() {
    let redis = Redis::start_own().unwrap();
    let (network, address) = Network::start(redis.port());
    let config = RedisConfig::single(format!("redis://{address}"));
    let state_store = RedisStateStore::connect(&config).unwrap();
    let queue = |text: &str| replace("s:a", &[("q:1", text)]);
    let first = put(&state_store, 1, at(1, 1), queue("first")).await;
    assert_eq!(first, Ok(found(0, 0)));

    network.cut();
    let cut = put(&state_store, 1, at(1, 2), queue("older")).await;
    assert!(
        matches!(cut, Err(StateStoreError::Unavailable(_))),
        "{cut:?}"
    );
    let newer = eventually(&state_store, 1, queue("newer")).await;
    network.heal();
    until_refused(redis.port(), 1, "1").await;
    let expected = [object("s:a", newer, &[("q:1", "newer")])];
    assert_eq!(contents(&state_store, 1, 1).await, expected);

    network.cut();
    let after = at(1, newer.n + 1);
    let cut = put(&state_store, 1, after, delete("s:a")).await;
    assert!(
        matches!(cut, Err(StateStoreError::Unavailable(_))),
        "{cut:?}"
    );
    let newest = eventually_from(&state_store, 1, queue("newest"), after.n + 1).await;
    network.heal();
    until_refused(redis.port(), 1, "2").await;
    let expected = [object("s:a", newest, &[("q:1", "newest")])];
    assert_eq!(contents(&state_store, 1, 1).await, expected);
}

/// Megabytes of one slot are written in parts, beside small writes of other slots on the same
/// connection.
#[tokio::test(flavor = "multi_thread")]
async fn large_objects_do_not_keep_other_slots_waiting() {
    const PART: usize = 256 << 10;
    let redis = Redis::start_own().unwrap();
    let state_store = RedisStateStore::connect(&RedisConfig::single(redis.url())).unwrap();
    let state_store = Arc::new(state_store);
    let large = state_store.clone();
    let writing = tokio::spawn(async move {
        let mut n = 0;
        for session in 0..20 {
            let mut staged = None;
            for field in 0..14 {
                n += 1;
                let parts = vec![StagedPart {
                    field: format!("q:{field}"),
                    append: false,
                    value: vec![b'x'; PART].into(),
                }];
                let base = staged.replace(at(1, n));
                let place = 0;
                let op = ReplicaOp::Stage { place, base, parts };
                put(&*large, 1, at(1, n), op).await.unwrap();
            }
            let op = ReplicaOp::ReplaceStaged {
                object: format!("s:{session}"),
                place: 0,
                staged: staged.unwrap(),
            };
            n += 1;
            put(&*large, 1, at(1, n), op).await.unwrap();
        }
    });
    let (mut commits, mut slowest) = (0, Duration::ZERO);
    while !writing.is_finished() {
        commits += 1;
        for slot in 2..10 {
            let began = Instant::now();
            let small = replace("r:a", &[("meta", "1")]);
            put(&*state_store, slot, at(1, commits), small)
                .await
                .unwrap();
            slowest = slowest.max(began.elapsed());
        }
    }
    writing.await.unwrap();
    assert!(commits > 1, "the large objects were written at once");
    eprintln!("{commits} rounds of small commits, the slowest took {slowest:?}");
    let sizes: Vec<usize> = contents(&*state_store, 1, 1)
        .await
        .iter()
        .map(|object| object.fields.iter().map(|(_, value)| value.len()).sum())
        .collect();
    assert_eq!(sizes, vec![14 * PART; 20]);
}
