#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use prost::Message as _;
use sestina_api::shadow::{Found, ShadowError, Stamp};
use sestina_proto::peer_frame::Body as PeerBody;
use sestina_proto::to_router::Body as RouterBody;

use super::*;
use crate::worker::core::{Job, PeerRef};
use crate::worker::input::{Command, Input, JobDone};
use crate::worker::testing::{Router, node};

const ROMEO: &str = "romeo@c.example/orchard";

/// Ends commits to the shadow until there are none; the other jobs.
fn commit(router: &mut Router, jobs: Vec<Job>) -> Vec<Job> {
    let mut others = Vec::new();
    for job in jobs {
        if let Job::Shadow { slot, at, .. } = job {
            let last = Stamp::new(at.epoch, at.n - 1);
            let result = Ok(Found { last, refused: 0 });
            let done = JobDone::Shadow { slot, at, result };
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
    let enable = proto::EnableSm {
        handle: 1,
        generation: 1,
        resume: true,
        max_s: 300,
        ..proto::EnableSm::default()
    };
    let jobs = router.edge_says(slot, RouterBody::EnableSm(enable), 0);
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
fn freeze(router: &mut Router, slot: u16) -> Vec<Job> {
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
    let jobs = freeze(&mut router, slot);
    let jobs = commit(&mut router, jobs);
    let released = |job: &Job| matches!(job, Job::Release { slot: s, .. } if *s == slot);
    assert!(jobs.iter().any(released));
    (router, slot)
}

fn released(router: &mut Router, slot: u16) {
    let done = JobDone::Released {
        slot,
        epoch: 1,
        done: true,
    };
    router.turn(vec![Input::Done(done)]);
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

/// A shadow that stops answering between release and claim does not keep a slot from its owner.
#[test]
fn the_new_owner_has_the_slot_although_the_shadow_does_not_answer() {
    for early in [true, false] {
        let (mut old, slot) = giving();
        if !early {
            released(&mut old, slot);
        }
        let frame = installed(&mut old, slot, 2);
        assert_eq!(state(&frame).unwrap().objects.len(), 1, "early: {early}");
        let mut new = Router::new(2, &[slot], || 0);
        new.turn(vec![Input::Take {
            slot,
            epoch: 2,
            live: Arc::from([node(1)]),
        }]);
        let from = PeerRef(1);
        new.turn(vec![Input::Peer { from, frame }]);
        // It asks who is in rooms of the slot, too.
        let mut asked = std::mem::take(&mut *new.peer.0.lock());
        asked.retain(|f| matches!(f.body, Some(PeerBody::RoomAsk(_))));
        let from = PeerRef(2);
        old.peer.0.lock().clear();
        let asked = asked.into_iter().map(|frame| Input::Peer { from, frame });
        old.turn(asked.collect());
        let told = std::mem::take(&mut *old.peer.0.lock());
        let from = PeerRef(1);
        let told = told.into_iter().map(|frame| Input::Peer { from, frame });
        new.turn(told.collect());
        let slot = new.worker.slots.get_mut(slot).unwrap();
        assert!(slot.is_serving(), "early: {early}");
        assert!(slot.sessions.values().any(|s| s.jid.as_str() == ROMEO));
    }
}

/// A write that only forgets keys is one that the shadow may not have, and the state would not be told.
#[test]
fn marks_that_come_during_the_release_do_not_keep_the_state_from_the_new_owner() {
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
    let room = Room::from_shadow(fields).unwrap();
    let owned = old.worker.slots.get_mut(slot).unwrap();
    owned.rooms.insert(Jid::from_wire(garden), room);
    let (origin_hi, origin_lo) = sestina_api::key::split(origin);
    let mark = proto::Mark {
        origin_hi,
        origin_lo,
        mark: 1,
    };
    let marks = proto::Marks { marks: vec![mark] };
    let frame = proto::PeerFrame {
        slot: slot.into(),
        epoch: 0,
        body: Some(PeerBody::Marks(marks)),
    };
    let from = PeerRef(2);
    old.turn(vec![Input::Peer { from, frame }]);
    old.now_ms += old.config.tick_ms;
    let jobs = old.turn(Vec::new());
    assert!(!jobs.iter().any(|job| matches!(job, Job::Shadow { .. })));
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
    old.now_ms += LIMIT_MS + old.config.sweep_ms;
    old.turn(Vec::new());
    assert!(state(&installed(&mut old, slot, 2)).is_none());
}

/// A slot whose state cannot be written is not kept frozen for that.
#[test]
fn a_shadow_that_is_away_thaws_what_was_frozen() {
    let (mut router, slot, _) = detached();
    freeze(&mut router, slot);
    let at = Stamp::new(1, 1);
    let serves = |router: &mut Router| router.worker.slots.get_mut(slot).unwrap().is_active();
    assert!(!serves(&mut router));
    let away = JobDone::Shadow {
        slot,
        at,
        result: Err(ShadowError::Away("no answer".to_owned())),
    };
    router.turn(vec![Input::Done(away)]);
    assert!(serves(&mut router));
}
