//! What the two ends of every lane share: the reader's loop and the bounds.

use std::time::Duration;

use sestina_api::link::{LaneClosed, Unsent};
use tokio_util::sync::CancellationToken;
use tonic::Streaming;

/// Bounds of a lane's queues.
#[derive(Clone, Copy, Debug)]
pub struct LaneLimits {
    /// What an edge may have waiting for one lane of a router.
    pub to_router: usize,
    /// What a router may have waiting for one lane of an edge.
    pub to_edge: usize,
    /// What a router may have waiting for one lane of another router.
    pub to_peer: usize,
}

impl Default for LaneLimits {
    fn default() -> LaneLimits {
        LaneLimits {
            to_router: 16 << 20,
            to_edge: 64 << 20,
            to_peer: 64 << 20,
        }
    }
}

/// Frames are gathered into messages of about this size.
pub(crate) const BATCH: usize = 64 << 10;

/// How long a closing lane waits for the other side to have read what was still queued.
const FAREWELL: Duration = Duration::from_secs(1);

/// Calls once, whatever way the lane ends: a return, a panic in a sink, or the runtime's end.
pub(crate) struct Once<F: FnOnce()>(Option<F>);

impl<F: FnOnce()> Once<F> {
    pub(crate) fn new(call: F) -> Once<F> {
        Once(Some(call))
    }
}

impl<F: FnOnce()> Drop for Once<F> {
    fn drop(&mut self) {
        if let Some(call) = self.0.take() {
            call();
        }
    }
}

/// The next message of a lane; none when it has ended at the other side, is broken, or is closed at
/// this side.
pub(crate) async fn next<M>(inbound: &mut Streaming<M>, ended: &CancellationToken) -> Option<M> {
    let next = tokio::select! {
        biased;
        () = ended.cancelled() => return None,
        next = inbound.message() => next,
    };
    match next {
        Ok(message) => message,
        Err(status) => {
            let reason = crate::status::describe(&status);
            tracing::debug!(code = ?status.code(), %reason, "lane broke");
            None
        }
    }
}

/// Gives one frame to its sink. If too much waits there, nothing more of this lane is read until there
/// is room: the other side's queue fills, and refuses what comes.
async fn give<F, R: Future<Output = ()>>(
    ended: &CancellationToken,
    mut frame: F,
    mut send: impl FnMut(F) -> Result<(), Unsent<F>>,
    room: impl Fn() -> R,
) -> Result<(), LaneClosed> {
    loop {
        match send(frame) {
            Ok(()) => return Ok(()),
            Err(Unsent::Closed) => return Err(LaneClosed),
            Err(Unsent::Full(refused)) => frame = *refused,
        }
        tokio::select! {
            () = ended.cancelled() => return Err(LaneClosed),
            () = room() => {}
        }
    }
}

/// Gives the frames of a lane to its sink, first those that came with Hello, until the lane ends or the
/// sink takes no more.
pub(crate) async fn receive<B, F, R: Future<Output = ()>>(
    inbound: &mut Streaming<B>,
    ended: &CancellationToken,
    first: impl Iterator<Item = F>,
    frames: fn(B) -> Vec<F>,
    send: impl Fn(F) -> Result<(), Unsent<F>>,
    room: impl Fn() -> R,
) {
    for frame in first {
        if give(ended, frame, &send, &room).await.is_err() {
            return;
        }
    }
    while let Some(batch) = next(inbound, ended).await {
        for frame in frames(batch) {
            if give(ended, frame, &send, &room).await.is_err() {
                return;
            }
        }
    }
}

/// Holds the stream open (which keeps the connection) until the other side has ended too, so that
/// what was queued before a close still arrives; bounded, and what comes is dropped.
pub(crate) async fn farewell<M>(inbound: &mut Streaming<M>) {
    let drain = async { while let Ok(Some(_)) = inbound.message().await {} };
    if tokio::time::timeout(FAREWELL, drain).await.is_err() {
        tracing::debug!("lane closed before the other side had ended it");
    }
}
