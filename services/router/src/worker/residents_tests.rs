#![allow(clippy::unwrap_used)]

use sestina_proto as proto;
use sestina_proto::to_edge::Body as EdgeBody;
use sestina_proto::to_router::Body as RouterBody;
use sestina_xmpp::jid::Jid;
use sestina_xmpp::stanza::{Kind, Stanza};

use crate::worker::core::Job;
use crate::worker::input::{Input, JobDone, Known};
use crate::worker::testing::Router;

const ROMEO: &str = "romeo@c.example/orchard";
const JULIET: &str = "juliet@c.example";
const CHAMBER: &str = "juliet@c.example/chamber";

/// A router with sessions of Romeo and Juliet. Storage has been asked what Juliet blocks, and has not answered.
struct Asking {
    router: Router,
    romeo: u16,
    juliet: u16,
    question: Option<Job>,
}

impl Asking {
    fn new() -> Asking {
        let mut router = Router::new(1, &[], || 0);
        let romeo = router.session(ROMEO, 1);
        router.holds_residents = true;
        let juliet = router.session("juliet@c.example/balcony", 2);
        let available = proto::Inbound {
            handle: 2,
            generation: 1,
            n: 1,
            stanza: Some(Stanza::new(Kind::Presence).into()),
            ..proto::Inbound::default()
        };
        let jobs = router.edge_says(juliet, RouterBody::Inbound(available), 0);
        assert!(jobs.iter().any(|job| matches!(job, Job::Residents { .. })));
        let bind = proto::Bind {
            handle: 3,
            bare: JULIET.to_owned(),
            resource: "chamber".to_owned(),
            ..proto::Bind::default()
        };
        // A second session of a user needs no question of its own.
        let jobs = router.edge_says(juliet, RouterBody::Bind(bind), 0);
        assert!(!jobs.iter().any(|job| matches!(job, Job::Residents { .. })));
        router.edge.0.lock().clear();
        Asking {
            router,
            romeo,
            juliet,
            question: None,
        }
    }

    fn says(&mut self, slot: u16, handle: u64, n: u64, stanza: Stanza) -> Vec<Job> {
        let inbound = proto::Inbound {
            handle,
            generation: 1,
            n,
            stanza: Some(stanza.into()),
            ..proto::Inbound::default()
        };
        let jobs = self.router.edge_says(slot, RouterBody::Inbound(inbound), 0);
        self.keep_question(jobs)
    }

    fn keep_question(&mut self, jobs: Vec<Job>) -> Vec<Job> {
        let (questions, jobs) = jobs
            .into_iter()
            .partition(|job| matches!(job, Job::Residents { .. }));
        let mut questions: Vec<Job> = questions;
        self.question = questions.pop().or(self.question.take());
        jobs
    }

    /// Storage answers the question with this number.
    fn answer(&mut self, question: u64, items: Result<&str, &str>) {
        let item = |value: &str| proto::EntityDataItem {
            name: "blocking".to_owned(),
            value: value.to_owned().into(),
        };
        let items = items.map(|value| match value {
            "" => Vec::new(),
            value => vec![item(value)],
        });
        let done = JobDone::Residents {
            slot: self.juliet,
            epoch: 1,
            question,
            user: JULIET.to_owned(),
            items: items.map_err(str::to_owned),
        };
        let jobs = self.router.turn(vec![Input::Done(done)]);
        self.keep_question(jobs);
    }

    /// What the edge has been sent since this was asked last.
    fn told(&mut self) -> Vec<EdgeBody> {
        std::mem::take(&mut self.router.edge.0.lock())
    }

    /// The stanzas among it, for a handle.
    fn delivered(&mut self, handle: u64) -> Vec<proto::Stanza> {
        let mut delivered = Vec::new();
        for body in self.told() {
            let EdgeBody::Deliver(deliver) = body else {
                continue;
            };
            let targets = deliver.targets.iter().filter(|t| t.handle == handle);
            let variants = targets.map(|target| &deliver.variants[target.variant as usize]);
            delivered.extend(variants.filter_map(|variant| variant.stanza.clone()));
        }
        delivered
    }
}

fn stanza(kind: Kind, type_: &str, to: &str) -> Stanza {
    let mut stanza = Stanza::new(kind);
    stanza.type_ = type_.to_owned();
    stanza.id = "1".to_owned();
    stanza.to = to.to_owned();
    stanza
}

fn redirects(told: &[EdgeBody]) -> Vec<(u64, u64)> {
    let told = told.iter().filter_map(|body| match body {
        EdgeBody::Redirect(redirect) => Some((redirect.handle, redirect.n)),
        _ => None,
    });
    told.collect()
}

#[test]
fn stanzas_of_a_client_are_asked_for_again_when_the_list_is_there() {
    let mut asking = Asking::new();
    let juliet = asking.juliet;
    asking.says(juliet, 3, 1, stanza(Kind::Message, "chat", ROMEO));
    // The second one is on its way: the edge sends it again behind the first.
    asking.says(juliet, 3, 2, stanza(Kind::Message, "chat", ROMEO));
    assert_eq!(redirects(&asking.told()), [(3, 1)]);
    asking.answer(1, Ok("romeo@c.example"));
    assert_eq!(redirects(&asking.told()), [(3, 1)], "it may come now");
    asking.says(juliet, 3, 1, stanza(Kind::Message, "chat", ROMEO));
    let error = asking.delivered(3).pop().unwrap();
    assert_eq!(error.r#type, "error");
    let payload = String::from_utf8_lossy(&error.payload).into_owned();
    assert!(payload.contains("<not-acceptable") && payload.contains("urn:xmpp:blocking:errors"));
}

#[test]
fn a_closed_stream_waits_for_the_stanzas_before_it() {
    let mut asking = Asking::new();
    let juliet = asking.juliet;
    asking.says(juliet, 3, 1, stanza(Kind::Message, "chat", ROMEO));
    asking.told();
    let close = proto::Close {
        handle: 3,
        generation: 1,
        clean: true,
    };
    asking.router.edge_says(juliet, RouterBody::Close(close), 0);
    assert_eq!(
        redirects(&asking.told()),
        [(3, 1)],
        "the session has not ended"
    );
    asking.answer(1, Ok(""));
    asking.says(juliet, 3, 1, stanza(Kind::Message, "chat", ROMEO));
    assert_eq!(asking.delivered(1).len(), 1);
    asking.router.edge_says(juliet, RouterBody::Close(close), 0);
    assert_eq!(redirects(&asking.told()), []);
    let slot = asking.router.worker.slots.get_mut(juliet).unwrap();
    let sessions = slot.sessions.values();
    assert_eq!(sessions.filter(|s| s.channel.is_ending()).count(), 1);
}

#[test]
fn a_message_waits_until_it_is_known_whether_its_sender_is_blocked() {
    let mut asking = Asking::new();
    let (romeo, juliet) = (asking.romeo, asking.juliet);
    let jobs = asking.says(romeo, 1, 1, stanza(Kind::Message, "chat", CHAMBER));
    let is_asked =
        |job: &Job| matches!(job, Job::UserKnown { names, .. } if names == &["blocking"]);
    assert!(jobs.iter().any(is_asked), "{jobs:?}");
    assert_eq!(asking.delivered(3).len(), 0);
    let item = proto::EntityDataItem {
        name: "blocking".to_owned(),
        value: "c.example".to_owned().into(),
    };
    let known = |data| JobDone::UserKnown {
        slot: juliet,
        bare: JULIET.to_owned(),
        known: Ok(Known {
            exists: true,
            stored: Vec::new(),
            data,
        }),
    };
    asking.router.turn(vec![Input::Done(known(vec![item]))]);
    let told = asking.delivered(1);
    assert_eq!(told.len(), 1, "Romeo is told that Juliet is unavailable");
    assert!(String::from_utf8_lossy(&told[0].payload).contains("<service-unavailable"));
    asking.says(romeo, 1, 2, stanza(Kind::Message, "chat", CHAMBER));
    asking.router.turn(vec![Input::Done(known(Vec::new()))]);
    assert_eq!(asking.delivered(3).len(), 1);
}

#[test]
fn without_an_answer_stanzas_are_refused_and_storage_is_asked_again() {
    let mut asking = Asking::new();
    let juliet = asking.juliet;
    asking.answer(1, Err("away"));
    asking.says(juliet, 3, 1, stanza(Kind::Message, "chat", ROMEO));
    let error = asking.delivered(3).pop().unwrap();
    let payload = String::from_utf8_lossy(&error.payload).into_owned();
    assert!(payload.contains("<resource-constraint"), "{payload}");
    // An answer of the client to a request passes.
    asking.says(juliet, 3, 2, stanza(Kind::Iq, "result", ROMEO));
    assert_eq!(asking.delivered(1).len(), 1);
    asking.router.now_ms += super::AGAIN_MS;
    let jobs = asking.router.turn(Vec::new());
    asking.keep_question(jobs);
    let question = asking.question.take();
    assert!(
        matches!(question, Some(Job::Residents { question: 2, .. })),
        "{question:?}"
    );
    // An answer to the first question is not the one that is waited for.
    asking.answer(1, Ok("romeo@c.example"));
    asking.answer(2, Ok(""));
    asking.says(juliet, 3, 3, stanza(Kind::Iq, "get", ROMEO));
    assert_eq!(asking.delivered(1).len(), 1);
}

#[test]
fn an_unreadable_list_blocks_everything_but_answers() {
    let mut asking = Asking::new();
    let juliet = asking.juliet;
    asking.answer(1, Ok("@"));
    asking.says(juliet, 3, 1, stanza(Kind::Message, "chat", ROMEO));
    let error = asking.delivered(3).pop().unwrap();
    assert_eq!(error.r#type, "error");
}

#[test]
fn a_blocked_sender_is_answered() {
    let mut asking = Asking::new();
    let romeo = asking.romeo;
    asking.answer(1, Ok("romeo@c.example"));
    let bare = stanza(Kind::Message, "chat", JULIET);
    for (n, to) in [(1, JULIET), (2, CHAMBER)] {
        asking.says(romeo, 1, n, stanza(Kind::Message, "chat", to));
        let told = asking.delivered(1);
        assert_eq!(told.len(), 1, "to {to}");
        assert!(String::from_utf8_lossy(&told[0].payload).contains("<service-unavailable"));
    }
    let mut answer = stanza(Kind::Iq, "result", CHAMBER);
    asking.says(romeo, 1, 3, answer.clone());
    answer.type_ = "get".to_owned();
    asking.says(romeo, 1, 4, answer);
    assert_eq!(asking.delivered(1).len(), 1, "{bare:?}");
    assert_eq!(asking.delivered(3).len(), 0);
}

/// Guests have no account: nothing is asked of storage, and their stanzas wait for nothing.
#[test]
fn guests_write_to_each_other_without_storage() {
    let mut router = Router::new(1, &[], || 0);
    router.holds_residents = true;
    let ann = router.session("ann@g.example/1", 1);
    router.session("ben@g.example/1", 2);
    router.edge.0.lock().clear();
    let inbound = proto::Inbound {
        handle: 1,
        generation: 1,
        n: 1,
        stanza: Some(stanza(Kind::Message, "chat", "ben@g.example/1").into()),
        ..proto::Inbound::default()
    };
    let jobs = router.edge_says(ann, RouterBody::Inbound(inbound), 0);
    assert!(!jobs.iter().any(|job| matches!(job, Job::Residents { .. })));
    let told = std::mem::take(&mut *router.edge.0.lock());
    let mut targets = Vec::new();
    for body in told {
        if let EdgeBody::Deliver(deliver) = body {
            targets.extend(deliver.targets.iter().map(|target| target.handle));
        }
    }
    assert_eq!(targets, [2]);
}

#[test]
fn stanzas_wait_while_it_is_doubtful_what_storage_has() {
    let mut asking = Asking::new();
    let juliet = asking.juliet;
    asking.answer(1, Ok(""));
    let worker = &mut asking.router.worker;
    let slot = worker.slots.get_mut(juliet).unwrap();
    slot.residents_doubted(&mut worker.core, &Jid::from_wire(JULIET));
    let jobs = asking.router.turn(Vec::new());
    asking.keep_question(jobs);
    asking.told();
    asking.says(juliet, 3, 1, stanza(Kind::Message, "chat", ROMEO));
    assert_eq!(redirects(&asking.told()), [(3, 1)]);
    asking.answer(2, Ok("romeo@c.example"));
    asking.says(juliet, 3, 1, stanza(Kind::Message, "chat", ROMEO));
    assert_eq!(asking.delivered(3).len(), 1, "the address is blocked");
}
