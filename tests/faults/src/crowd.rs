//! Clients that talk while a test does other work, and the runtime for them.

use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;

use crate::client::Client;
use crate::world::{Who, World};

/// Runs a test on two threads.
///
/// # Panics
///
/// If the threads cannot be started.
pub fn run<F: Future>(test: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    runtime.expect("a test has two threads").block_on(test)
}

/// Each client of the world, and the address of the client of the next group to which it talks.
pub fn neighbours(world: &World) -> Vec<(&Client, String)> {
    let next = |who: Who| Who {
        group: (who.group + 1) % world.groups(),
        part: who.part,
    };
    let members = world.members().into_iter();
    members
        .map(|who| (world.client(who), world.client(next(who)).jid()))
        .collect()
}

/// Works while the others talk. When the work has ended or failed, `stop` makes the others end.
pub async fn while_they_talk<T>(
    stop: &AtomicBool,
    others: Vec<impl Future<Output = ()>>,
    work: impl Future<Output = T>,
) -> T {
    let mut others: Vec<_> = others.into_iter().map(Box::pin).collect();
    let work = async {
        let done = work.await;
        stop.store(true, Ordering::Release);
        done
    };
    let all = poll_fn(|context| {
        others.retain_mut(|other| other.as_mut().poll(context).is_pending());
        if others.is_empty() {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    });
    let (done, ()) = tokio::join!(work, all);
    done
}
