//! The trace of a run: one line for each thing that happens, for people who replay a seed.

use sestina_proto as proto;
use sestina_proto::peer_frame::Body as Peer;
use sestina_proto::to_edge::Body as Down;
use sestina_proto::to_router::Body as Up;

use super::elements::{FromServer, ToServer};
use sestina_router::simulation::Job;

fn stanza(stanza: Option<&proto::Stanza>) -> String {
    let Some(s) = stanza else {
        return "-".to_owned();
    };
    let kind = match s.kind() {
        proto::StanzaKind::Message => "message",
        proto::StanzaKind::Presence => "presence",
        proto::StanzaKind::Iq => "iq",
        proto::StanzaKind::Unspecified => "?",
    };
    format!(
        "<{kind} {} {} {} -> {}>",
        s.r#type,
        s.id,
        short(&s.from),
        short(&s.to)
    )
}

/// The end of a JID, which tells it from others.
fn short(jid: &str) -> &str {
    jid.get(jid.len().saturating_sub(24)..).unwrap_or(jid)
}

fn key(key: Option<&proto::Key>) -> String {
    key.map_or("-".to_owned(), |k| {
        format!("{:04x}:{}:{:x}", k.origin_lo & 0xffff, k.n, k.purpose)
    })
}

/// A frame of an edge to a router.
pub(super) fn up(frame: &proto::ToRouter) -> String {
    let head = format!("[{}@{}]", frame.slot, frame.epoch);
    let body = match &frame.body {
        Some(Up::Inbound(i)) => {
            format!(
                "Inbound h{:x} g{} n={} {}",
                i.handle,
                i.generation,
                i.n,
                stanza(i.stanza.as_ref())
            )
        }
        Some(Up::EpochReport(r)) => {
            let sessions: Vec<String> = r
                .sessions
                .iter()
                .map(|s| {
                    let held: Vec<String> = s
                        .held
                        .iter()
                        .map(|h| format!("{}={}", h.number, key(h.key.as_ref())))
                        .collect();
                    format!(
                        "{:04x} h{:x} g{} settled={} received={} acked={} released={} held={held:?}",
                        s.session_lo & 0xffff, s.handle, s.generation, s.settled, s.received, s.acked, s.released
                    )
                })
                .collect();
            format!("EpochReport {sessions:?}")
        }
        Some(Up::Hello(_)) | None => "?".to_owned(),
        Some(other) => format!("{other:?}"),
    };
    format!("{head} {body}")
}

/// A batch of a router to an edge.
pub(super) fn down(batch: &proto::ToEdgeBatch) -> String {
    let frames: Vec<String> = batch.frames.iter().map(down_frame).collect();
    format!(
        "batch w{} #{} {}",
        batch.worker,
        batch.seq,
        frames.join(" | ")
    )
}

fn down_frame(frame: &proto::ToEdge) -> String {
    let head = format!("[{}@{}]", frame.slot, frame.epoch);
    let body = match &frame.body {
        Some(Down::Deliver(d)) => {
            let targets: Vec<String> = d
                .targets
                .iter()
                .map(|t| {
                    let v = d.variants.get(t.variant as usize);
                    format!(
                        "h{:x}@{} #{} {} {}",
                        t.handle,
                        t.epoch,
                        t.number,
                        key(v.and_then(|v| v.key.as_ref())),
                        stanza(v.and_then(|v| v.stanza.as_ref()))
                    )
                })
                .collect();
            format!("Deliver {targets:?}")
        }
        Some(Down::SlotMap(map)) => format!("SlotMap {}", map.version),
        Some(Down::KeepState(k)) => format!("KeepState h{:x} g{}", k.handle, k.generation),
        Some(Down::Welcome(_)) => "Welcome".to_owned(),
        Some(Down::InstallEpoch(_)) => "InstallEpoch".to_owned(),
        Some(other) => format!("{other:?}"),
        None => "?".to_owned(),
    };
    format!("{head} {body}")
}

/// A frame of a router to another.
pub(super) fn peer(frame: &proto::PeerFrame) -> String {
    let head = format!("[{}@{}]", frame.slot, frame.epoch);
    let body = match &frame.body {
        Some(Peer::SlotMessage(e)) => format!(
            "Slot message {} from {}@{} mark={} stream={:x}/{} {}",
            key(e.key.as_ref()),
            e.origin_slot,
            e.origin_epoch,
            e.watermark,
            e.stream,
            e.seq,
            stanza(e.stanza.as_ref())
        ),
        Some(Peer::SlotMessageAck(d)) => format!(
            "SlotMessageAck {} owner={} of {} stream={:x} {}",
            key(d.key.as_ref()),
            d.owner,
            d.target_slot,
            d.stream,
            stanza(d.reply.as_ref())
        ),
        Some(Peer::RoomEvent(e)) => {
            let targets: Vec<String> = e
                .targets
                .iter()
                .map(|t| {
                    format!(
                        "{}/{:04x} v{} prev={}",
                        t.slot,
                        t.session_lo & 0xffff,
                        t.variant,
                        t.previous
                    )
                })
                .collect();
            format!(
                "RoomEvent {} room {}@{} mark={} {targets:?} {:?}",
                key(e.key.as_ref()),
                e.room_slot,
                e.room_epoch,
                e.watermark,
                e.variants
                    .iter()
                    .map(|v| stanza(Some(v)))
                    .collect::<Vec<_>>()
            )
        }
        Some(Peer::SlotMap(map)) => format!("SlotMap {}", map.version),
        Some(other) => format!("{other:?}"),
        None => "?".to_owned(),
    };
    format!("{head} {body}")
}

/// A job of a router at a store.
pub(super) fn job(job: &Job) -> String {
    match job {
        Job::Archive { rows, .. } => {
            let rows: Vec<String> = rows
                .iter()
                .map(|r| {
                    format!(
                        "{} {}.{} {}",
                        short(&r.archive),
                        r.epoch,
                        r.counter,
                        stanza(r.stanza.as_ref())
                    )
                })
                .collect();
            format!("Archive {rows:?}")
        }
        Job::Offline { rows, .. } => format!("Offline {}", rows.len()),
        Job::ReplicaCommit { slot, at, ops } => {
            let ops: Vec<String> = ops
                .iter()
                .map(|op| match op {
                    sestina_api::state_store::ReplicaOp::Replace { object, fields } => {
                        format!(
                            "replace {object} {:?}",
                            fields.iter().map(|f| &f.0).collect::<Vec<_>>()
                        )
                    }
                    sestina_api::state_store::ReplicaOp::Update {
                        object,
                        base,
                        set,
                        remove,
                    } => {
                        format!(
                            "update {object} on {base} {:?} -{remove:?}",
                            set.iter().map(|f| &f.0).collect::<Vec<_>>()
                        )
                    }
                    sestina_api::state_store::ReplicaOp::Delete { object } => {
                        format!("delete {object}")
                    }
                    staged => format!("{staged:?}"),
                })
                .collect();
            format!("StateStore {slot}@{at} {ops:?}")
        }
        other => format!("{other:?}"),
    }
}

/// An element of a client.
pub(super) fn said(said: &ToServer) -> String {
    match said {
        ToServer::Stanza(s) => stanza(Some(s)),
        other => format!("{other:?}"),
    }
}

/// An element for a client.
pub(super) fn heard(heard: &FromServer) -> String {
    match heard {
        FromServer::Stanza(s) => stanza(Some(s)),
        other => format!("{other:?}"),
    }
}
