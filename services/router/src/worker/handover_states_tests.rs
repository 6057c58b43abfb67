#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use prost::Message as _;
use sestina_api::state_store::{Found, Listing, ReplicaOp, Stamp, StateStoreError};
use sestina_proto::peer_frame::Body as PeerBody;
use sestina_proto::to_router::Body as RouterBody;

use super::*;
use crate::worker::core::{Job, PeerRef};
use crate::worker::input::{Command, Input, JobDone};
use crate::worker::testing::{Router, node};

const ROMEO: &str = "romeo@c.example/orchard";

/// Ends commits to the state store until there are none; the other jobs.
fn commit(router: &mut Router, jobs: Vec<Job>) -> Vec<Job> {
    let mut others = Vec::new();
    for job in jobs {
        if let Job::ReplicaCommit { slot, at, .. } = job {
            let last = Stamp::new(at.epoch, at.n - 1);
            let result = Ok(Found { last, refused: 0 });
            let done = JobDone::ReplicaCommitted { slot, at, result };
            let next = router.turn(vec![Input::Done(done)]);
            others.extend(commit(router, next));
        } else {
            others.push(job);
        }
    }
    others
}

/// A session loses its socket; the jobs of that are still to be done.
fn detached() -> (Router, u16, Vec<Job>) {
    let mut router = Router::new(1, &[], || 0);
    let slot = router.session(ROMEO, 1);
    let jobs = router.enable(slot, 1);
    commit(&mut router, jobs);
    let close = proto::Close {
        handle: 1,
        generation: 1,
        ..proto::Close::default()
    };
    let jobs = router.edge_says(slot, RouterBody::Close(close), 0);
    (router, slot, jobs)
}

/// The slot is to be given to the second router.
fn quiesce(router: &mut Router, slot: u16) -> Vec<Job> {
    let command = Command::HandOver {
        slots: vec![slot],
        to: node(2),
    };
    router.turn(vec![Input::Command(command)])
}

/// A router that is giving a slot away in which a session waits for its client.
fn giving() -> (Router, u16) {
    let (mut router, slot, jobs) = detached();
    commit(&mut router, jobs);
    let jobs = quiesce(&mut router, slot);
    let jobs = commit(&mut router, jobs);
    let released = |job: &Job| matches!(job, Job::Release { slot: s, .. } if *s == slot);
    assert!(jobs.iter().any(released));
    (router, slot)
}

fn released(router: &mut Router, slot: u16) -> Vec<Job> {
    let done = JobDone::Released {
        slot,
        epoch: 1,
        done: true,
    };
    router.turn(vec![Input::Done(done)])
}

/// The answer to an owner of that epoch.
fn installed(router: &mut Router, slot: u16, epoch: u64) -> proto::PeerFrame {
    let install = proto::PeerInstallEpoch {
        owner: Some(node(2)),
    };
    let frame = proto::PeerFrame {
        slot: slot.into(),
        epoch,
        body: Some(PeerBody::InstallEpoch(install)),
    };
    router.peer.0.lock().clear();
    let from = PeerRef(2);
    router.turn(vec![Input::Peer { from, frame }]);
    let mut told = std::mem::take(&mut *router.peer.0.lock());
    told.retain(|f| matches!(f.body, Some(PeerBody::EpochInstalled(_))));
    assert_eq!(told.len(), 1);
    told.remove(0)
}

fn state(frame: &proto::PeerFrame) -> Option<&proto::SlotState> {
    match &frame.body {
        Some(PeerBody::EpochInstalled(installed)) => installed.state.as_ref(),
        _ => None,
    }
}

/// The second router takes the slot with the copy of the first, before the state store answers. Returns what it asks of
/// the stores, too.
fn taken(old: &mut Router, slot: u16, frame: proto::PeerFrame) -> (Router, Vec<Job>) {
    let mut new = Router::new(2, &[slot], || 0);
    new.turn(vec![Input::Take {
        slot,
        epoch: 2,
        live: Arc::from([node(1)]),
    }]);
    let from = PeerRef(1);
    let mut jobs = new.turn(vec![Input::Peer { from, frame }]);
    // The second router also asks the first one which sessions are in the rooms of the slot.
    let mut asked = std::mem::take(&mut *new.peer.0.lock());
    asked.retain(|f| matches!(f.body, Some(PeerBody::RoomAsk(_))));
    let from = PeerRef(2);
    old.peer.0.lock().clear();
    let asked = asked.into_iter().map(|frame| Input::Peer { from, frame });
    old.turn(asked.collect());
    let told = std::mem::take(&mut *old.peer.0.lock());
    let from = PeerRef(1);
    let told = told.into_iter().map(|frame| Input::Peer { from, frame });
    jobs.extend(new.turn(told.collect()));
    (new, jobs)
}

/// A state store that stops answering between release and claim does not keep a slot from its owner.
#[test]
fn the_new_owner_has_the_slot_although_the_state_store_does_not_answer() {
    for early in [true, false] {
        let (mut old, slot) = giving();
        if !early {
            released(&mut old, slot);
        }
        let frame = installed(&mut old, slot, 2);
        assert_eq!(state(&frame).unwrap().objects.len(), 1, "early: {early}");
        let (mut new, _) = taken(&mut old, slot, frame);
        let slot = new.worker.slots.get_mut(slot).unwrap();
        assert!(slot.is_serving(), "early: {early}");
        assert!(
            slot.sessions
                .values()
                .any(|s| s.channel.jid.as_str() == ROMEO)
        );
    }
}

/// A replica of the state store takes over that lacks the last writes, and the new owner has begun with the copy of the
/// old one: what it lacks is written, and what was removed is removed again.
#[test]
fn what_the_state_store_has_lost_is_noticed_although_it_was_not_waited_for() {
    for lost in [true, false] {
        let (mut old, slot) = giving();
        released(&mut old, slot);
        let frame = installed(&mut old, slot, 2);
        let state = state(&frame).unwrap();
        let last = Stamp::new(state.last_epoch, state.last_n);
        let object = state.objects[0].object.clone();
        let (mut new, jobs) = taken(&mut old, slot, frame);
        let at = jobs.iter().find_map(|job| match job {
            Job::ReplicaList { at, .. } => Some(*at),
            _ => None,
        });
        assert_eq!(at, Some(Stamp::new(2, 1)));
        let owned = new.worker.slots.get_mut(slot).unwrap();
        assert!(!owned.replica.is_idle(), "nor is it given away before");
        // The load has installed the epoch, so that the last write is one of it.
        let listing = Listing {
            found: Found {
                last: Stamp::new(2, 0),
                refused: 0,
            },
            before: if lost { Stamp::new(1, 0) } else { last },
            names: vec!["s:0".to_owned(), object.clone()],
            ..Listing::default()
        };
        let done = JobDone::ReplicaListed {
            slot,
            at: Stamp::new(2, 1),
            result: Ok(listing),
        };
        let jobs = new.turn(vec![Input::Done(done)]);
        let ops = jobs.into_iter().find_map(|job| match job {
            Job::ReplicaCommit { ops, .. } => Some(ops),
            _ => None,
        });
        let ops = ops.unwrap();
        let removed = ReplicaOp::Delete {
            object: "s:0".to_owned(),
        };
        assert!(ops.contains(&removed), "{ops:?}");
        let written =
            |op: &ReplicaOp| matches!(op, ReplicaOp::Replace { object: o, .. } if *o == object);
        assert_eq!(ops.iter().any(written), lost, "{ops:?}");
    }
}

/// A watermark removes keys from the replica, which is a write to the state store. Were that write made during the
/// release, the slot would have a write that the store may lack, and would not send its state to the new owner.
#[test]
fn watermarks_that_come_during_the_release_do_not_keep_the_state_from_the_new_owner() {
    let (mut old, slot) = giving();
    let origin = crate::worker::slot::new_origin(1);
    let garden = "garden@muc.c.example";
    let meta = proto::RoomState {
        jid: garden.to_owned(),
        ..proto::RoomState::default()
    };
    let fields = vec![
        ("meta".to_owned(), meta.encode_to_vec().into()),
        (format!("k:{origin:032x}:1:1"), bytes::Bytes::new()),
    ];
    let room = OwnedRoom::from_replica(fields).unwrap();
    let owned = old.worker.slots.get_mut(slot).unwrap();
    owned.rooms.insert(Jid::from_wire(garden), room);
    let (origin_hi, origin_lo) = sestina_api::key::split(origin);
    let watermark = proto::Watermark {
        origin_hi,
        origin_lo,
        watermark: 1,
    };
    let watermarks = proto::Watermarks {
        watermarks: vec![watermark],
    };
    let frame = proto::PeerFrame {
        slot: slot.into(),
        epoch: 0,
        body: Some(PeerBody::Watermarks(watermarks)),
    };
    let from = PeerRef(2);
    old.turn(vec![Input::Peer { from, frame }]);
    old.now_ms += old.config.times.tick_ms;
    let jobs = old.turn(Vec::new());
    assert!(
        !jobs
            .iter()
            .any(|job| matches!(job, Job::ReplicaCommit { .. }))
    );
    released(&mut old, slot);
    assert!(state(&installed(&mut old, slot, 2)).is_some());
}

/// Somebody has owned the slot in between: what this process knew is old.
#[test]
fn only_the_next_owner_is_told() {
    let (mut old, slot) = giving();
    released(&mut old, slot);
    assert!(state(&installed(&mut old, slot, 3)).is_none());
    assert!(state(&installed(&mut old, slot, 2)).is_none(), "once");
}

#[test]
fn what_nobody_asks_for_is_forgotten() {
    let (mut old, slot) = giving();
    released(&mut old, slot);
    old.now_ms += LIMIT_MS + old.config.times.sweep_ms;
    old.turn(Vec::new());
    assert!(state(&installed(&mut old, slot, 2)).is_none());
}

/// A slot whose state cannot be written is not kept quiescing for that.
#[test]
fn slots_serve_again_when_the_state_store_is_unavailable_at_their_hand_over() {
    let (mut router, slot, _) = detached();
    quiesce(&mut router, slot);
    let at = Stamp::new(1, 1);
    let serves = |router: &mut Router| router.worker.slots.get_mut(slot).unwrap().is_active();
    assert!(!serves(&mut router));
    let away = JobDone::ReplicaCommitted {
        slot,
        at,
        result: Err(StateStoreError::Unavailable("no answer".to_owned())),
    };
    router.turn(vec![Input::Done(away)]);
    assert!(serves(&mut router));
}

/// The database loses the commit that gave the slot away, and this process tells storage that it holds the slot before
/// it hears of that commit: no other router would serve the slot.
#[test]
fn a_slot_that_storage_was_told_of_meanwhile_is_given_away_again() {
    let (mut old, slot) = giving();
    assert_eq!(old.worker.assert_slots(), [(slot, 1)]);
    let jobs = released(&mut old, slot);
    let is_release = |job: &Job| matches!(job, Job::Release { .. });
    assert!(jobs.iter().any(is_release), "it asks once more: {jobs:?}");
    assert_eq!(old.worker.assert_slots(), [(slot, 1)]);
}
