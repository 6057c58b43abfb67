#![allow(clippy::unwrap_used)]
use std::sync::Arc;

use bytes::Bytes;
use sestina_proto as proto;
use sestina_proto::to_edge::Body as EdgeBody;
use sestina_proto::to_router::Body as RouterBody;
use sestina_telemetry::Limit;
use sestina_xmpp::stanza::{Kind, Stanza};
use sestina_xmpp::xml::Element;

use super::{DataReply, DataRequest, WAITING};
use crate::hooks::{Action, EntityData, IqTarget, Meta, Module, Pipelines, Registrar, Written};
use crate::worker::core::Job;
use crate::worker::input::{Input, JobDone};
use crate::worker::testing::Router;

const NOTES: &str = "urn:example:notes";
const JULIET: &str = "juliet@c.example";

/// The notes of a user: each `set` appends its text, a `get` returns all.
struct Notes;

struct Text(String);

impl EntityData for Text {
    const NAME: &'static str = "notes";
    fn decode(bytes: Bytes) -> Result<Text, String> {
        let text = String::from_utf8(bytes.to_vec());
        text.map(Text).map_err(|error| error.to_string())
    }
    fn encode(&self) -> Bytes {
        Bytes::from(self.0.clone())
    }
}

impl Module for Notes {
    fn meta(&self) -> &'static Meta {
        &Meta {
            name: "notes",
            specs: &[],
            host_features: &[],
            account_features: &[],
        }
    }

    fn register(&self, registrar: &mut Registrar<'_>) {
        let get = registrar.iq(IqTarget::Account, false, NOTES, "note", |context, _, _| {
            let text = context.data.get::<Text>().map_or("", |text| &text.0);
            let note = Element::new("note", NOTES).with_text(text);
            vec![Action::Result(Some(note))]
        });
        let set = registrar.iq(
            IqTarget::Account,
            true,
            NOTES,
            "note",
            |context, _, note| {
                let before = context.data.get::<Text>().map_or("", |text| &text.0);
                let text = Text(format!("{before}{}", note.text()));
                vec![Action::Store(Written::new(&text), None)]
            },
        );
        registrar.needs::<Text>(get);
        registrar.needs::<Text>(set);
    }
}

struct Client {
    router: Router,
    slot: u16,
    sent: u64,
    jobs: Vec<(String, DataRequest)>,
}

impl Client {
    fn new() -> Client {
        let mut router = Router::new(1, &[], || 0);
        router.worker.core.pipelines = Arc::new(Pipelines::new(&[&Notes], &Default::default()));
        let slot = router.session("juliet@c.example/balcony", 1);
        let (sent, jobs) = (0, Vec::new());
        Client {
            router,
            slot,
            sent,
            jobs,
        }
    }

    /// Sends a request, with its number as its id.
    fn asks(&mut self, type_: &str, text: &str) {
        self.sent += 1;
        let mut stanza = Stanza::new(Kind::Iq);
        stanza.type_ = type_.to_owned();
        stanza.id = self.sent.to_string();
        stanza.push_element(&Element::new("note", NOTES).with_text(text));
        let inbound = proto::Inbound {
            handle: 1,
            generation: 1,
            n: self.sent,
            stanza: Some(stanza.into()),
            ..proto::Inbound::default()
        };
        let slot = self.slot;
        let jobs = self.router.edge_says(slot, RouterBody::Inbound(inbound), 0);
        self.keep(jobs);
    }

    fn keep(&mut self, jobs: Vec<Job>) {
        for job in jobs {
            if let Job::EntityData {
                entity, request, ..
            } = job
            {
                self.jobs.push((entity, request));
            }
        }
    }

    /// The only request to storage that is under way.
    fn asked(&mut self) -> DataRequest {
        assert_eq!(self.jobs.len(), 1, "{:?}", self.jobs);
        let (entity, request) = self.jobs.remove(0);
        assert_eq!(entity, JULIET);
        request
    }

    fn storage(&mut self, reply: Result<DataReply, String>) {
        let done = JobDone::EntityData {
            slot: self.slot,
            epoch: 1,
            entity: JULIET.to_owned(),
            reply,
        };
        let jobs = self.router.turn(vec![Input::Done(done)]);
        self.keep(jobs);
    }

    fn has(&mut self, text: &'static str) {
        assert!(matches!(self.asked(), DataRequest::Get { .. }));
        let item = proto::EntityDataItem {
            name: "notes".to_owned(),
            value: Bytes::from_static(text.as_bytes()),
        };
        self.storage(Ok(DataReply::Got(vec![item])));
    }

    /// The text that storage is asked to write.
    fn written(&mut self) -> (proto::EntityDataPutRequest, String) {
        let DataRequest::Put(request) = self.asked() else {
            panic!("no write");
        };
        let text = String::from_utf8(request.items[0].value.to_vec()).unwrap();
        (*request, text)
    }

    fn committed(&mut self) {
        self.storage(Ok(DataReply::Put(Box::default())));
    }

    /// Answers since the last call: id, type, and payload or condition.
    fn answers(&mut self) -> Vec<String> {
        let frames = std::mem::take(&mut *self.router.edge.0.lock());
        let delivered = frames.into_iter().filter_map(|frame| match frame {
            EdgeBody::Deliver(deliver) => Some(deliver.variants),
            _ => None,
        });
        let answer = |stanza: proto::Stanza| {
            let stanza = Stanza::from(stanza);
            let note = stanza.element(NOTES, "note").map(|note| note.text());
            let text = String::from_utf8_lossy(&stanza.payload);
            let conditions = [
                "resource-constraint",
                "internal-server-error",
                "policy-violation",
            ];
            let condition = conditions.into_iter().find(|c| text.contains(c));
            let what = match stanza.type_.as_str() {
                "error" => condition.unwrap_or("?").to_owned(),
                _ => note.unwrap_or_default(),
            };
            format!("{} {} {what}", stanza.id, stanza.type_)
        };
        let stanzas = delivered.flatten().filter_map(|variant| variant.stanza);
        stanzas.map(answer).collect()
    }
}

#[test]
fn a_request_waits_for_its_data_and_a_write_for_its_commit() {
    let mut juliet = Client::new();
    juliet.asks("set", "b");
    assert_eq!(juliet.answers(), [""; 0]);
    juliet.has("a");
    assert_eq!(juliet.answers(), [""; 0]);
    let (request, text) = juliet.written();
    assert_eq!(text, "ab");
    assert_eq!(request.fence.unwrap().epoch, 1);
    assert_eq!(request.answer.unwrap().id, "1");
    juliet.committed();
    assert_eq!(juliet.answers(), ["1 result "]);
    assert!(juliet.jobs.is_empty());
}

#[test]
fn requests_of_one_user_are_handled_one_after_the_other() {
    let mut juliet = Client::new();
    juliet.asks("set", "a");
    juliet.asks("set", "b");
    juliet.asks("get", "");
    juliet.has("");
    assert_eq!(juliet.written().1, "a");
    juliet.committed();
    juliet.has("a");
    assert_eq!(juliet.written().1, "ab");
    juliet.committed();
    juliet.has("ab");
    assert_eq!(juliet.answers(), ["1 result ", "2 result ", "3 result ab"]);
}

#[test]
fn a_replay_gets_the_answer_that_is_stored_with_its_key() {
    let mut juliet = Client::new();
    juliet.asks("set", "a");
    juliet.has("a");
    let (request, _) = juliet.written();
    let mut first = Stanza::from(request.answer.unwrap());
    first.push_element(&Element::new("note", NOTES).with_text("the first answer"));
    juliet.storage(Ok(DataReply::Put(Box::new(proto::EntityDataPutReply {
        replayed: true,
        answer: Some(first.into()),
        ..Default::default()
    }))));
    assert_eq!(juliet.answers(), ["1 result the first answer"]);
}

#[test]
fn a_write_that_storage_does_not_answer_is_cancelled_before_the_next_request() {
    let mut juliet = Client::new();
    juliet.asks("set", "a");
    juliet.has("");
    let (request, _) = juliet.written();
    juliet.asks("set", "b");
    juliet.storage(Err("no answer".to_owned()));
    assert_eq!(
        juliet.answers(),
        ["1 error resource-constraint", "2 error resource-constraint"]
    );
    juliet.asks("get", "");
    let DataRequest::Get { names, cancel } = juliet.asked() else {
        panic!("a write");
    };
    let cancel = *cancel.unwrap();
    assert_eq!(names, ["notes"]);
    assert_eq!((cancel.key, cancel.fence), (request.key, request.fence));
    assert!(cancel.items.is_empty());
    assert_eq!(cancel.answer.unwrap().r#type, "error");
    juliet.storage(Ok(DataReply::Got(Vec::new())));
    assert_eq!(juliet.answers(), ["3 result "]);
}

#[test]
fn each_write_is_later_than_the_ones_before_and_a_cancelled_one_keeps_its_place() {
    let mut juliet = Client::new();
    juliet.asks("set", "a");
    juliet.has("");
    let (first, _) = juliet.written();
    juliet.storage(Err("no answer".to_owned()));
    juliet.asks("set", "b");
    let DataRequest::Get { cancel, .. } = juliet.asked() else {
        panic!("a write");
    };
    assert_eq!(cancel.unwrap().counter, first.counter);
    juliet.storage(Ok(DataReply::Got(Vec::new())));
    let (second, _) = juliet.written();
    assert!(0 < first.counter && first.counter < second.counter);
    juliet.storage(fenced());
    juliet.router.now_ms += 1_000;
    let jobs = juliet.router.turn(Vec::new());
    juliet.keep(jobs);
    assert_eq!(juliet.written().0.counter, second.counter);
}

#[test]
fn a_write_that_storage_has_a_later_one_than_is_an_error_for_the_client() {
    let mut juliet = Client::new();
    juliet.asks("set", "a");
    juliet.has("");
    juliet.written();
    juliet.storage(Ok(DataReply::Put(Box::new(proto::EntityDataPutReply {
        overtaken: true,
        ..Default::default()
    }))));
    assert_eq!(juliet.answers(), ["1 error resource-constraint"]);
}

#[test]
fn a_write_in_doubt_is_cancelled_at_a_tick_too() {
    let mut juliet = Client::new();
    juliet.asks("set", "a");
    juliet.has("");
    juliet.written();
    juliet.storage(Err("no answer".to_owned()));
    juliet.router.now_ms += 1_000;
    let jobs = juliet.router.turn(Vec::new());
    juliet.keep(jobs);
    let DataRequest::Get { names, cancel } = juliet.asked() else {
        panic!("a write");
    };
    assert!(names.is_empty() && cancel.is_some());
    juliet.storage(Ok(DataReply::Got(Vec::new())));
    juliet.router.now_ms += 1_000;
    let jobs = juliet.router.turn(Vec::new());
    juliet.keep(jobs);
    assert!(juliet.jobs.is_empty());
}

fn fenced() -> Result<DataReply, String> {
    Ok(DataReply::Put(Box::new(proto::EntityDataPutReply {
        fenced: true,
        ..Default::default()
    })))
}

#[test]
fn a_write_that_is_fenced_by_a_higher_epoch_ends_the_slot_and_answers_nothing() {
    let mut juliet = Client::new();
    juliet.asks("set", "a");
    juliet.has("");
    juliet.written();
    let slot = juliet.slot;
    juliet.router.worker.core.admit_epoch(slot, 2);
    juliet.storage(fenced());
    assert_eq!(juliet.answers(), [""; 0]);
    assert!(juliet.router.worker.slots.get_mut(slot).is_none());
}

#[test]
fn a_write_that_is_fenced_although_no_higher_epoch_is_known_is_sent_again() {
    let mut juliet = Client::new();
    juliet.asks("set", "a");
    juliet.has("");
    let (request, _) = juliet.written();
    juliet.storage(fenced());
    assert_eq!(juliet.answers(), [""; 0]);
    juliet.router.now_ms += 1_000;
    let jobs = juliet.router.turn(Vec::new());
    juliet.keep(jobs);
    assert_eq!(juliet.written().0, request);
    juliet.committed();
    assert_eq!(juliet.answers(), ["1 result "]);
}

#[test]
fn stored_data_that_cannot_be_read_is_an_error_for_the_client() {
    let mut juliet = Client::new();
    juliet.asks("get", "");
    juliet.asked();
    let item = proto::EntityDataItem {
        name: "notes".to_owned(),
        value: Bytes::from_static(b"\xff"),
    };
    juliet.storage(Ok(DataReply::Got(vec![item])));
    assert_eq!(juliet.answers(), ["1 error internal-server-error"]);
}

#[test]
fn data_that_is_too_large_for_storage_is_refused_and_not_sent() {
    let mut juliet = Client::new();
    juliet.asks("set", &"x".repeat(super::ENTITY_VALUE_BYTES + 1));
    juliet.has("");
    assert_eq!(juliet.answers(), ["1 error policy-violation"]);
    assert!(juliet.jobs.is_empty());
}

#[test]
fn requests_of_one_user_that_wait_are_bounded() {
    let mut juliet = Client::new();
    for _ in 0..=WAITING {
        juliet.asks("get", "");
    }
    let refused = format!("{} error resource-constraint", WAITING + 1);
    assert_eq!(juliet.answers(), [refused]);
    let limited = &juliet.router.metrics.limits[Limit::DataRequests];
    assert_eq!(limited.get(), 1);
    juliet.has("a");
    assert_eq!(juliet.answers().len(), WAITING);
}

#[test]
fn stanzas_that_wait_are_bounded_in_bytes_and_one_may_always_wait() {
    let mut juliet = Client::new();
    juliet.asks("set", &"x".repeat(super::WAITING_BYTES));
    juliet.asks("get", "");
    juliet.asks("get", &"x".repeat(super::WAITING_BYTES));
    assert_eq!(
        juliet.answers(),
        ["2 error resource-constraint", "3 error resource-constraint"]
    );
    juliet.has("");
    assert_eq!(juliet.answers(), ["1 error policy-violation"]);
    juliet.asks("get", "");
    juliet.has("");
    assert_eq!(juliet.answers(), ["4 result "]);
}

#[test]
fn answers_beyond_a_bound_follow_at_the_next_tick() {
    let mut juliet = Client::new();
    for _ in 0..5 {
        juliet.asks("get", "");
    }
    assert!(matches!(juliet.asked(), DataRequest::Get { .. }));
    let item = proto::EntityDataItem {
        name: "notes".to_owned(),
        value: vec![b'x'; super::ANSWERED_BYTES / 2].into(),
    };
    juliet.storage(Ok(DataReply::Got(vec![item])));
    let queued = |juliet: &mut Client| {
        let slot = juliet.router.worker.slots.get_mut(juliet.slot).unwrap();
        let session = slot.sessions.values().next().unwrap();
        session.channel.outgoing.queue.len()
    };
    assert_eq!(queued(&mut juliet), 3);
    juliet.router.now_ms += 1_000;
    let jobs = juliet.router.turn(Vec::new());
    juliet.keep(jobs);
    assert_eq!(queued(&mut juliet), 5);
    assert!(juliet.jobs.is_empty());
}
