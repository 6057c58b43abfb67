//! Keys of TLS tickets: storage makes them, routers ask for them and tell their edges, so that a
//! client that comes back to another edge resumes its TLS session there.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use sestina_proto as proto;
use sestina_runtime::backoff;

use super::Shared;
use super::lanes::process_frame;

/// How long a key is used.
const PERIOD: Duration = Duration::from_secs(12 * 3600);
/// How often storage is asked whether there is a new one: each is known a period ahead.
const ASK_EVERY: Duration = Duration::from_secs(300);
/// How soon it is asked again when it did not answer.
const ASK_AGAIN: Duration = Duration::from_secs(5);

/// The keys as they are told to edges; none before storage has answered.
#[derive(Default)]
pub(super) struct Keys(Mutex<Option<proto::TicketKeys>>);

impl Keys {
    /// Takes what storage said. True if it is news.
    fn set(&self, reply: proto::TicketKeysReply) -> bool {
        let keys = reply.keys.into_iter().map(|row| proto::TicketKey {
            number: row.number,
            key: row.key,
        });
        let keys = proto::TicketKeys {
            keys: keys.collect(),
            period_s: u32::try_from(PERIOD.as_secs()).unwrap_or(u32::MAX),
        };
        let mut known = self.0.lock();
        let news = known.as_ref() != Some(&keys);
        *known = Some(keys);
        news
    }

    /// For an edge.
    pub(super) fn frame(&self) -> Option<proto::ToEdge> {
        let keys = self.0.lock().clone()?;
        Some(process_frame(proto::to_edge::Body::TicketKeys(keys)))
    }
}

/// Keeps the keys up to date.
pub(super) async fn renew(shared: Arc<Shared>) {
    let token = shared.tasks.token();
    let request = proto::TicketKeysRequest {
        period_ms: u64::try_from(PERIOD.as_millis()).unwrap_or(u64::MAX),
    };
    loop {
        let pause = match shared.ports.stores.ticket_keys(request).await {
            Ok(reply) => {
                if shared.ticket_keys.set(reply) {
                    shared.tell_ticket_keys();
                }
                ASK_EVERY
            }
            Err(error) => {
                tracing::debug!(%error, "no keys for TLS tickets; the edges keep those they have");
                ASK_AGAIN
            }
        };
        tokio::select! {
            () = token.cancelled() => return,
            () = tokio::time::sleep(backoff::jitter(pause, 0.2)) => {}
        }
    }
}

impl Shared {
    /// Sends the keys to all edges that have a lane here.
    fn tell_ticket_keys(&self) {
        let Some(frame) = self.ticket_keys.frame() else {
            return;
        };
        let workers = self.mailboxes.len();
        let mut told = HashSet::new();
        let lanes: Vec<_> = self
            .edge_lanes
            .lock()
            .iter()
            .map(|((lane, _), sink)| (*lane, sink.clone()))
            .collect();
        for (lane, sink) in lanes {
            if told.insert(lane.edge) {
                let batch = proto::ToEdgeBatch {
                    worker: workers,
                    seq: 0,
                    frames: vec![frame.clone()],
                };
                // A lane that is closed is opened again, and told then.
                sink.send(batch).ok();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn edges_are_told_what_is_new() {
        let keys = Keys::default();
        assert!(keys.frame().is_none());
        let reply = |numbers: &[u64]| proto::TicketKeysReply {
            keys: numbers
                .iter()
                .map(|number| proto::TicketKeyRow {
                    number: *number,
                    key: vec![*number as u8; 32].into(),
                })
                .collect(),
        };
        assert!(keys.set(reply(&[1, 2])));
        assert!(!keys.set(reply(&[1, 2])));
        assert!(keys.set(reply(&[1, 2, 3])));
        let Some(proto::to_edge::Body::TicketKeys(told)) = keys.frame().unwrap().body else {
            panic!("another frame");
        };
        assert_eq!((told.keys.len(), told.keys[2].number), (3, 3));
        assert_eq!(told.period_s, 43_200);
    }
}
