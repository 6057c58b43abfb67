//! Lanes to the other routers: one is kept open to each that is alive.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use sestina_api::link::Unsent;
use sestina_api::peer::PeerSink;
use sestina_proto as proto;
use sestina_proto::versions::Range;
use sestina_runtime::backoff::Backoff;
use sestina_telemetry::Lane;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::Shared;
use crate::worker::core::PeerRef;
use crate::worker::input::Input;

/// Frames come over lanes that the other side opened; on ours only its end is of interest.
struct End {
    ended: Notify,
}

impl PeerSink for End {
    fn send(&self, _: proto::PeerFrame) -> Result<(), Unsent<proto::PeerFrame>> {
        Ok(())
    }

    fn close(&self) {
        self.ended.notify_one();
    }
}

pub(super) async fn run(shared: Arc<Shared>) {
    let token = shared.tasks.token();
    let mut changes = shared.live.subscribe();
    let mut keepers: HashMap<u64, CancellationToken> = HashMap::new();
    loop {
        changes.mark_unchanged();
        let live: HashMap<u64, proto::Node> = shared
            .live
            .nodes()
            .into_iter()
            .filter(|n| n.role() == proto::NodeRole::Router)
            .filter(|n| n.incarnation != shared.node.incarnation)
            .map(|n| (n.incarnation, n))
            .collect();
        keepers.retain(|incarnation, keeper| {
            let alive = live.contains_key(incarnation);
            if !alive {
                keeper.cancel();
            }
            alive
        });
        for (incarnation, node) in live {
            keepers.entry(incarnation).or_insert_with(|| {
                let stop = token.child_token();
                let name = format!("peer-{}", node.name);
                shared
                    .tasks
                    .spawn(name, keep(shared.clone(), node, stop.clone()));
                stop
            });
        }
        tokio::select! {
            () = token.cancelled() => return,
            changed = changes.changed() => if changed.is_err() { return },
        }
    }
}

/// Keeps one lane open until the router is gone.
async fn keep(shared: Arc<Shared>, node: proto::Node, stop: CancellationToken) {
    let peer = PeerRef(node.incarnation);
    let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_millis(500));
    let port = shared.peers.connect(&node);
    while !stop.is_cancelled() {
        let Range { oldest, newest } = Range::ours();
        let hello = proto::PeerHello {
            router: Some(shared.node.clone()),
            lane: 0,
            lanes: 1,
            newest,
            oldest,
            config_hash: shared.config.config_hash,
            to: node.incarnation,
            secret: shared.ports.me.secret.to_wire(),
        };
        let end = Arc::new(End {
            ended: Notify::new(),
        });
        let opened = tokio::select! {
            () = stop.cancelled() => return,
            opened = port.open_lane(hello, end.clone()) => opened,
        };
        match opened {
            Ok(sink) => {
                backoff.reset();
                shared.metrics.lanes[Lane::Peer].inc();
                shared.metrics.lanes_opened[Lane::Peer].inc();
                shared
                    .peer_lanes
                    .lock()
                    .insert(node.incarnation, sink.clone());
                shared.report_reach();
                shared.mailboxes.tell_all(|| Input::PeerLane {
                    node: node.clone(),
                    sink: sink.clone(),
                });
                tokio::select! {
                    () = stop.cancelled() => sink.close(),
                    () = end.ended.notified() => {}
                }
                shared.peer_lanes.lock().remove(&node.incarnation);
                shared.report_reach();
                shared.metrics.lanes[Lane::Peer].dec();
                shared.metrics.lanes_closed[Lane::Peer].inc();
                shared.mailboxes.tell_all(|| Input::PeerLaneClosed { peer });
            }
            Err(error) => tracing::debug!(peer = node.name, %error, "cannot open a lane"),
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = backoff.wait() => {}
        }
    }
}
