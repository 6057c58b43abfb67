#![allow(clippy::unwrap_used)]

use sestina_api::key::{IdempotencyKey, Purpose};
use sestina_proto as proto;
use sestina_proto::to_router::Body as RouterBody;
use sestina_xmpp::jid::Jid;
use sestina_xmpp::stanza::{Kind, Stanza};
use sestina_xmpp::xml::Element;

use super::*;
use crate::config::{RouterConfig, RouterLimits};
use crate::worker::input::{Input, JobDone};
use crate::worker::testing::Router;

const ROMEO: &str = "romeo@c.example/orchard";

/// A router, one slot of it, and what that slot asked of the state store last.
pub(in crate::worker) struct Owner {
    pub(in crate::worker) router: Router,
    pub(in crate::worker) slot: u16,
    pub(in crate::worker) at: Stamp,
    pub(in crate::worker) ops: Vec<ReplicaOp>,
}

impl Owner {
    /// A session has just lost its socket.
    pub(in crate::worker) fn new(settings: RouterConfig) -> Owner {
        Owner::after(settings, Vec::new())
    }

    /// The same after its edge has sent these frames.
    fn after(settings: RouterConfig, said: Vec<RouterBody>) -> Owner {
        let mut router = Router::with(settings, 1, &[], || 0);
        let slot = router.session(ROMEO, 1);
        router.enable(slot, 1);
        for body in said {
            router.edge_says(slot, body, 0);
        }
        let close = proto::Close {
            handle: 1,
            generation: 1,
            ..proto::Close::default()
        };
        let jobs = router.edge_says(slot, RouterBody::Close(close), 0);
        let mut owner = Owner {
            router,
            slot,
            at: Stamp::default(),
            ops: Vec::new(),
        };
        owner.note(jobs);
        owner
    }

    /// Takes note of a write that left; false if none did.
    fn note(&mut self, jobs: Vec<Job>) -> bool {
        let mut noted = false;
        for job in jobs {
            let (at, ops) = match job {
                Job::ReplicaCommit { at, ops, .. } => (at, ops),
                Job::ReplicaList { at, .. } => (at, Vec::new()),
                _ => continue,
            };
            assert!(!noted, "one script of a slot is under way at a time");
            assert!(at > self.at, "{at} after {}", self.at);
            (self.at, self.ops, noted) = (at, ops, true);
        }
        noted
    }

    /// The store answers the last write; whether another left.
    pub(in crate::worker) fn answer(&mut self, result: Result<Found, StateStoreError>) -> bool {
        let (slot, at) = (self.slot, self.at);
        let done = JobDone::ReplicaCommitted { slot, at, result };
        let jobs = self.router.turn(vec![Input::Done(done)]);
        self.note(jobs)
    }

    pub(in crate::worker) fn wait(&mut self, ms: u64) -> bool {
        self.router.now_ms += ms;
        let jobs = self.router.turn(Vec::new());
        self.note(jobs)
    }

    /// The session waits for its client in vain; its object is removed.
    fn forget_session(&mut self) {
        for _ in 0..1_000 {
            self.wait(1_000);
            let last = self.router.edge.1.lock().take();
            if let Some(seq) = last {
                let taken = proto::LaneAck {
                    seq,
                    ..proto::LaneAck::default()
                };
                let body = RouterBody::LaneAck(taken);
                let jobs = self.router.edge_says(self.slot, body, 0);
                self.note(jobs);
            }
            let removed = matches!(self.ops.as_slice(), [ReplicaOp::Delete { .. }]);
            self.answer(Ok(found(self.at.n - 1)));
            if removed {
                return;
            }
        }
        panic!("the session is not forgotten");
    }

    /// The store tells that it has the owner's object, whose name this returns, and one that does not
    /// belong there; the last write that it knew before is `n`.
    fn lists_one_more(&mut self, n: u64) -> String {
        let slot = self.router.worker.slots.get_mut(self.slot).unwrap();
        let object = slot.stored_objects().remove(0);
        let listing = Listing {
            found: found(n),
            names: vec![object.clone(), "s:0".to_owned()],
            ..Listing::default()
        };
        let done = JobDone::ReplicaListed {
            slot: self.slot,
            at: self.at,
            result: Ok(listing),
        };
        let jobs = self.router.turn(vec![Input::Done(done)]);
        assert!(self.note(jobs));
        object
    }

    fn in_doubt(&mut self) -> usize {
        let doubts = self.router.worker.core.checks.doubts;
        let slot = self.router.worker.slots.get_mut(self.slot).unwrap();
        slot.replica.in_doubt(doubts)
    }
}

pub(in crate::worker) fn found(n: u64) -> Found {
    Found {
        last: Stamp::new(1, n),
        refused: 0,
    }
}

/// Neither may a write that timed out be taken for done, nor may it be sent a second time.
#[test]
fn after_a_time_out_the_objects_are_written_whole_under_the_next_number() {
    let mut owner = Owner::new(RouterConfig::default());
    let first = owner.ops.clone();
    assert_eq!(owner.at, Stamp::new(1, 1));
    assert!(matches!(first.as_slice(), [ReplicaOp::Replace { .. }]));
    assert!(!owner.answer(Err(StateStoreError::Unavailable("no answer".to_owned()))));
    assert!(owner.in_doubt() > 0);
    let retry = owner.router.config.times.state_store_retry_ms;
    assert!(owner.wait(retry));
    assert_eq!((owner.at, &owner.ops), (Stamp::new(1, 2), &first));
    // The first was not done.
    assert!(!owner.answer(Ok(found(0))));
    let check = owner.router.config.times.state_store_check_ms;
    while owner.wait(check) {
        let before = owner.at.n - 1;
        owner.answer(Ok(found(before)));
        if owner.in_doubt() == 0 {
            return;
        }
    }
    panic!("it was not asked whether the object is there");
}

/// A write that something on the way has repeated: which of the two was answered is not known.
#[test]
fn a_write_that_was_refused_in_its_own_epoch_is_made_anew() {
    let mut owner = Owner::new(RouterConfig::default());
    let refused = Found {
        last: Stamp::new(1, 7),
        refused: 1,
    };
    assert!(owner.answer(Err(StateStoreError::Fenced { found: refused })));
    assert_eq!(owner.at, Stamp::new(1, 8));
    assert!(matches!(owner.ops.as_slice(), [ReplicaOp::Replace { .. }]));
}

/// Another server took over that lacks acknowledged writes.
#[test]
fn a_slot_whose_store_has_lost_writes_is_written_anew_and_the_rest_removed() {
    let mut owner = Owner::new(RouterConfig::default());
    owner.answer(Ok(found(0)));
    assert_eq!(owner.in_doubt(), 0);
    let check = owner.router.config.times.state_store_check_ms;
    assert!(owner.wait(check), "it is asked now and then");
    // It has the object, and takes the write, but it lacks the one before.
    assert!(owner.answer(Ok(found(0))));
    assert!(owner.in_doubt() > 0);
    assert_eq!((owner.at, owner.ops.len()), (Stamp::new(1, 3), 0));
    let object = owner.lists_one_more(2);
    let written =
        |op: &ReplicaOp| matches!(op, ReplicaOp::Replace { object: o, .. } if *o == object);
    assert!(owner.ops.iter().any(written), "{:?}", owner.ops);
    let removed = ReplicaOp::Delete {
        object: "s:0".to_owned(),
    };
    assert!(owner.ops.contains(&removed), "{:?}", owner.ops);
    assert!(owner.in_doubt() > 0);
    while owner.answer(Ok(found(owner.at.n - 1))) || owner.in_doubt() > 0 {
        owner.wait(1);
        assert!(owner.at.n < 20, "it never ends");
    }
}

/// Had the store lost a removal before it took the write whose answer did not come, only that answer
/// would have told.
#[test]
fn after_a_write_without_an_answer_what_does_not_belong_there_is_removed() {
    let mut owner = Owner::new(RouterConfig::default());
    owner.answer(Err(StateStoreError::Unavailable("no answer".to_owned())));
    assert!(owner.wait(owner.router.config.times.state_store_retry_ms));
    assert!(owner.answer(Ok(found(1))));
    assert_eq!((owner.at, owner.ops.len()), (Stamp::new(1, 3), 0));
    owner.lists_one_more(2);
    let removed = ReplicaOp::Delete {
        object: "s:0".to_owned(),
    };
    assert_eq!(owner.ops, [removed]);
}

/// Rooms do not stand still until the store has told which objects it has.
#[test]
fn what_waits_for_a_listing_that_fails_goes_on_uncommitted() {
    let mut owner = Owner::new(RouterConfig::default());
    owner.answer(Err(StateStoreError::Unavailable("no answer".to_owned())));
    assert!(owner.wait(owner.router.config.times.state_store_retry_ms));
    assert!(owner.answer(Ok(found(1))));
    let slot = owner.router.worker.slots.get_mut(owner.slot).unwrap();
    let garden = Jid::from_wire("garden@muc.c.example");
    let waiting = slot.replica.put("r:garden".to_owned(), Change::Replace);
    waiting.events.push((garden, 1));
    let done = JobDone::ReplicaListed {
        slot: owner.slot,
        at: owner.at,
        result: Err(StateStoreError::Unavailable("no answer".to_owned())),
    };
    owner.router.turn(vec![Input::Done(done)]);
    let slot = owner.router.worker.slots.get_mut(owner.slot).unwrap();
    let mut left = slot.replica.changes.values();
    assert!(left.all(|pending| pending.waiting.events.is_empty()));
}

/// The edge of the attachment before has dropped a stanza because the store had it, and the client has
/// acknowledged the stanza with its resumption: until the origin cannot send it again, the store has its key.
#[test]
fn a_resumed_session_is_written_anew_with_the_keys_that_its_client_has_acknowledged() {
    let ping = Element::new("ping", sestina_xmpp::ns::PING);
    let mut iq = Stanza::new(Kind::Iq);
    (iq.type_, iq.id) = ("get".to_owned(), "p".to_owned());
    iq.push_element(&ping);
    let ping = proto::Inbound {
        handle: 1,
        generation: 1,
        n: 1,
        stanza: Some(iq.into()),
        ..proto::Inbound::default()
    };
    let said = vec![RouterBody::Inbound(ping)];
    let mut owner = Owner::after(RouterConfig::default(), said);
    owner.answer(Ok(found(0)));
    let slot = owner.router.worker.slots.get_mut(owner.slot).unwrap();
    let id = *slot.sessions.keys().next().unwrap();
    let (session_hi, session_lo) = sestina_api::key::split(id);
    let resume = proto::Resume {
        handle: 2,
        session_hi,
        session_lo,
        bare: "romeo@c.example".to_owned(),
        h: 1,
        ..proto::Resume::default()
    };
    let body = RouterBody::Resume(resume);
    let jobs = owner.router.edge_says(owner.slot, body, 0);
    owner.note(jobs);
    // The store has lost a write, so that all of the slot is written again.
    assert!(owner.wait(owner.router.config.times.state_store_check_ms));
    assert!(owner.answer(Ok(found(0))));
    let object = owner.lists_one_more(2);
    let fields = owner.ops.iter().find_map(|op| match op {
        ReplicaOp::Replace { object: o, fields } if *o == object => Some(fields),
        _ => None,
    });
    let mut fields = fields.unwrap().iter();
    let (_, value) = fields.find(|(name, _)| name == "q:1").unwrap();
    let item: proto::Outbound = prost::Message::decode(value.clone()).unwrap();
    let key = item.key.as_ref().map(IdempotencyKey::from);
    assert_eq!(key, Some(IdempotencyKey::new(id, 1, Purpose::Reply)));
    assert_eq!((item.number, item.stanza), (1, None));
}

/// There is nothing to be written, so that nothing else would ask the store.
#[test]
fn a_slot_without_objects_asks_until_the_store_answers() {
    let mut owner = Owner::new(RouterConfig::default());
    owner.forget_session();
    let acked = owner.at.n;
    assert_eq!(owner.in_doubt(), 0);
    assert!(owner.wait(owner.router.config.times.state_store_check_ms));
    let asked = owner.router.now_ms;
    for _ in 0..4 {
        assert!(owner.ops.is_empty());
        owner.answer(Err(StateStoreError::Unavailable("no answer".to_owned())));
        assert!(owner.in_doubt() > 0);
        assert!(owner.wait(owner.router.config.times.state_store_retry_ms));
    }
    let check = owner.router.config.times.state_store_check_ms;
    assert!(owner.router.now_ms < asked + check, "the next check is due");
    assert!(!owner.answer(Ok(found(acked))));
    assert_eq!(owner.in_doubt(), 0);
}

#[test]
fn what_is_too_large_for_one_script_goes_in_parts() {
    let mut owner = Owner::new(RouterConfig {
        limits: RouterLimits {
            replica_commit_bytes: 100,
            ..RouterLimits::default()
        },
        ..RouterConfig::default()
    });
    let mut parts = 0;
    while let [ReplicaOp::Stage { base, .. }] = owner.ops.as_slice() {
        assert_eq!(base.is_some(), parts > 0);
        parts += 1;
        assert!(owner.answer(Ok(found(owner.at.n - 1))));
    }
    assert!(parts > 1, "{:?}", owner.ops);
    let staged = Stamp::new(1, parts);
    assert!(
        matches!(owner.ops.as_slice(), [ReplicaOp::ReplaceStaged { staged: s, .. }] if *s == staged),
        "{:?}",
        owner.ops
    );
    // Something of it was lost: it is begun anew.
    let stale = StateStoreError::Stale {
        found: found(parts),
        objects: vec![String::new()],
    };
    assert!(owner.answer(Err(stale)));
    assert!(matches!(
        owner.ops.as_slice(),
        [ReplicaOp::Stage { base: None, .. }]
    ));
}
