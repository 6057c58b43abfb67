//! What the tests of this crate share: small builders of requests.

#![allow(dead_code, clippy::unwrap_used)]

use std::sync::Arc;

use sestina_api::store::Stores;
use sestina_proto as proto;
use sestina_storage::{Storage, StorageConfig};

/// A day in 2026, in milliseconds.
pub(crate) const T0: i64 = 1_790_000_000_000;

pub(crate) async fn open(url: &str) -> Arc<Storage> {
    Storage::open(StorageConfig::new(url)).await.unwrap()
}

pub(crate) fn node(name: &str, incarnation: u64) -> proto::Node {
    proto::Node {
        name: name.to_owned(),
        incarnation,
        role: proto::NodeRole::Router.into(),
        address: format!("{name}:7000"),
        draining: false,
        ..proto::Node::default()
    }
    .speaking("0")
}

/// A first claim of a slot nobody owns.
pub(crate) fn first_move(slot: u32, to: &proto::Node) -> proto::SlotMove {
    proto::SlotMove {
        slot,
        to: Some(to.clone()),
        ..Default::default()
    }
}

pub(crate) fn claim(moves: Vec<proto::SlotMove>, planner: &proto::Node) -> proto::SlotClaimRequest {
    proto::SlotClaimRequest {
        moves,
        planner: Some(planner.clone()),
        planner_ttl_ms: 60_000,
        secret: secret(),
        known: Some(first_position()),
    }
}

/// Where the table of a new database is.
pub(crate) fn first_position() -> proto::Position {
    proto::Position {
        timeline: 1,
        ..proto::Position::default()
    }
}

/// The secret of all incarnations in these tests.
pub(crate) fn secret() -> bytes::Bytes {
    bytes::Bytes::from_static(b"only these tests know this")
}

/// The renewal of a lease by its holder.
pub(crate) fn renewal(node: &proto::Node, ttl_ms: u32) -> proto::LeaseRenewRequest {
    proto::LeaseRenewRequest {
        node: Some(node.clone()),
        ttl_ms,
        secret: secret(),
    }
}

/// Renews a lease.
pub(crate) async fn renew(
    stores: &dyn Stores,
    node: &proto::Node,
    ttl_ms: u32,
) -> proto::LeaseRenewReply {
    stores.lease_renew(renewal(node, ttl_ms)).await.unwrap()
}

/// Gives slots 0 to 7 to one owner and returns their epoch.
pub(crate) async fn own(stores: &dyn Stores) -> u64 {
    let owner = node("owner", 1);
    let moves = (0..8).map(|slot| first_move(slot, &owner)).collect();
    let reply = stores.slot_claim(claim(moves, &owner)).await.unwrap();
    assert!(reply.refused_slots.is_empty(), "{:?}", reply.refused_slots);
    reply.map.unwrap().epochs[0]
}

pub(crate) fn fence(slot: u32, epoch: u64) -> Option<proto::Fence> {
    Some(proto::Fence { slot, epoch })
}

pub(crate) fn stanza(id: &str) -> proto::Stanza {
    proto::Stanza {
        kind: proto::StanzaKind::Message.into(),
        id: id.to_owned(),
        payload: format!("<body>{id}</body>").into_bytes().into(),
        ..Default::default()
    }
}

/// The stanza-id of the `counter`-th row.
pub(crate) fn id(counter: u64) -> Vec<u8> {
    u128::from(counter).to_be_bytes().to_vec()
}

/// A row of an archive in slot 0 from a peer chosen by the counter, one second after the last.
pub(crate) fn row(archive: &str, epoch: u64, counter: u64) -> proto::ArchiveRow {
    proto::ArchiveRow {
        fence: fence(0, epoch),
        archive: archive.to_owned(),
        epoch,
        counter,
        stanza_id: id(counter).into(),
        at_ms: T0 + counter as i64 * 1000,
        with_bare: format!("peer{}@example.org", counter % 3),
        with_resource: format!("r{}", counter % 2),
        stanza: Some(stanza(&counter.to_string())),
        moves: false,
    }
}

pub(crate) async fn append(stores: &dyn Stores, rows: Vec<proto::ArchiveRow>) -> Vec<u32> {
    stores
        .archive_append(proto::ArchiveAppendRequest { rows })
        .await
        .unwrap()
        .fenced_slots
}

pub(crate) fn ask(archive: &str, max: u32) -> proto::ArchiveQueryRequest {
    proto::ArchiveQueryRequest {
        archive: archive.to_owned(),
        max,
        ..Default::default()
    }
}

pub(crate) fn counters(reply: &proto::ArchiveQueryReply) -> Vec<u64> {
    reply.rows.iter().map(|row| row.counter).collect()
}

pub(crate) fn key(n: u64) -> proto::Key {
    proto::Key {
        origin_hi: u64::MAX,
        origin_lo: 7,
        n,
        purpose: 5,
        ..proto::Key::default()
    }
}

pub(crate) fn offline(bare: &str, epoch: u64, n: u64) -> proto::OfflineRow {
    proto::OfflineRow {
        fence: fence(0, epoch),
        bare: bare.to_owned(),
        epoch,
        counter: n,
        key: Some(key(n)),
        at_ms: T0,
        stanza: Some(stanza(&n.to_string())),
        queued: 0,
    }
}
