#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use sestina_proto::peer_frame::Body as PeerBody;
use sestina_proto::to_router::Body as RouterBody;

use super::*;
use crate::worker::core::PeerRef;
use crate::worker::input::{Input, JobDone};
use crate::worker::testing::{Router, node};
use crate::worker::verona::message;

const ROMEO: &str = "romeo@c.example/orchard";

type Archived = Vec<(proto::ArchiveRow, OperationId)>;

fn archived(jobs: Vec<Job>) -> Archived {
    let batches = jobs.into_iter().filter_map(|job| match job {
        Job::Archive { rows, operations } => Some(rows.into_iter().zip(operations)),
        _ => None,
    });
    batches.flatten().collect()
}

/// A message of Romeo to himself is on its way to the archive.
fn said(router: &mut Router, slot: u16) -> Archived {
    let inbound = proto::Inbound {
        handle: 1,
        generation: 1,
        n: 1,
        stanza: Some(message(ROMEO, "hi").into()),
        ..proto::Inbound::default()
    };
    archived(router.edge_says(slot, RouterBody::Inbound(inbound), 0))
}

fn fenced(router: &mut Router, rows: Archived) -> Vec<Job> {
    let slots = rows.iter().map(|(row, _)| place(row.fence.as_ref()));
    let done = JobDone::Archive {
        slots: slots.collect(),
        operations: rows.iter().map(|(_, operation)| *operation).collect(),
        fenced: rows,
    };
    router.turn(vec![Input::Done(done)])
}

#[test]
fn rows_that_storage_refuses_are_kept_until_a_higher_epoch_is_known() {
    let mut router = Router::new(1, &[], || 0);
    let slot = router.session(ROMEO, 1);
    let rows = said(&mut router, slot);
    assert!(!rows.is_empty());
    let ids =
        |rows: &Archived| -> Vec<_> { rows.iter().map(|(row, _)| row.stanza_id.clone()).collect() };
    for _ in 0..3 {
        let mut again = archived(fenced(&mut router, rows.clone()));
        assert!(router.worker.core.doubted.bytes() > 0 || !again.is_empty());
        router.now_ms += 200;
        again.extend(archived(router.turn(Vec::new())));
        assert_eq!(ids(&again), ids(&rows));
    }
    assert!(router.worker.slots.get_mut(slot).is_some());
    router.worker.core.admit_epoch(slot, 2);
    fenced(&mut router, rows);
    assert!(router.worker.slots.get_mut(slot).is_none(), "replaced");
    router.now_ms += 200;
    assert_eq!(ids(&archived(router.turn(Vec::new()))).len(), 0);
}

fn raises(jobs: &[Job]) -> Vec<(u16, u64)> {
    let raises = jobs.iter().filter_map(|job| match job {
        Job::Raise { slot, known } => Some((*slot, *known)),
        _ => None,
    });
    raises.collect()
}

#[test]
fn an_edge_that_knows_a_higher_epoch_has_the_owner_ask_for_one_above_it() {
    let mut router = Router::new(1, &[7], || 0);
    let slot = router.session(ROMEO, 1);
    let refused = |slots: &[u16], epoch| {
        RouterBody::LaneAck(proto::LaneAck {
            refused_slots: slots.iter().map(|slot| u32::from(*slot)).collect(),
            refused_epochs: slots.iter().map(|_| epoch).collect(),
            ..proto::LaneAck::default()
        })
    };
    let jobs = router.edge_says(slot, refused(&[7, slot], 8), 0);
    assert_eq!(raises(&jobs), [(slot, 8)], "the other is not its own");
    assert_eq!(raises(&router.edge_says(slot, refused(&[slot], 8), 0)), []);
    // Storage did not answer: the table is as it was.
    router.turn(vec![Input::Done(JobDone::Raised { slot })]);
    router.now_ms += 1_000;
    assert_eq!(raises(&router.turn(Vec::new())), [(slot, 8)]);
    // The table has it now.
    let live = Arc::from([]);
    let epoch = 9;
    router.turn(vec![Input::Take { slot, epoch, live }]);
    assert_eq!(router.worker.slots.get_mut(slot).unwrap().epoch, 9);
    assert_eq!(raises(&router.edge_says(slot, refused(&[slot], 8), 0)), []);
}

#[test]
fn a_router_answers_too_low_an_epoch_with_the_one_that_it_knows() {
    let mut router = Router::new(1, &[], || 0);
    router.worker.core.admit_epoch(3, 6);
    let from = PeerRef(2);
    let frame = |epoch, body| proto::PeerFrame {
        slot: 3,
        epoch,
        body: Some(body),
    };
    let install = PeerBody::InstallEpoch(proto::PeerInstallEpoch {
        owner: Some(node(2)),
    });
    router.peer.0.lock().clear();
    router.turn(vec![Input::Peer {
        from,
        frame: frame(5, install),
    }]);
    let told = std::mem::take(&mut *router.peer.0.lock());
    let Some(PeerBody::EpochInstalled(installed)) = &told[0].body else {
        panic!("{told:?}")
    };
    assert_eq!((told[0].epoch, installed.known), (5, 6));

    // The owner that is told so does not take it for an answer.
    let mut owner = Router::new(1, &[], || 0);
    let live = Arc::from([node(2)]);
    owner.turn(vec![Input::Take {
        slot: 3,
        epoch: 1,
        live,
    }]);
    let installed = PeerBody::EpochInstalled(proto::PeerEpochInstalled {
        known: 11,
        ..proto::PeerEpochInstalled::default()
    });
    let jobs = owner.turn(vec![Input::Peer {
        from,
        frame: frame(1, installed),
    }]);
    assert_eq!(raises(&jobs), [(3, 11)]);
    owner.now_ms += 10_000;
    owner.turn(Vec::new());
    let slot = owner.worker.slots.get_mut(3).unwrap();
    let waits: Vec<u64> = slot.waits_for(&owner.worker.core).collect();
    assert_eq!(
        waits,
        [2, 0],
        "for the router, still, and for the state store"
    );
}
