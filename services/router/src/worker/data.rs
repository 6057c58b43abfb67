//! Data of modules about the users of a slot, and the requests that need it.
//!
//! A request that needs data waits until the data is loaded: it is never answered from the data's absence. The
//! requests for one user are handled one after the other: each sees what the one before has written. A write is
//! binding: storage commits the data, the request's key and its answer in one transaction, and only then is the
//! client answered. A replay of the request under a new owner gets that answer, and writes nothing.
//!
//! If storage has not answered a write in time, the client gets the error `resource-constraint` of type `wait`, and may
//! send the request again. The write may still reach storage later. Before the next load, the slot therefore sends
//! storage that error with the key of the write: if storage commits the error first, the late write counts as a replay
//! and changes nothing. The database can lose the commit of that error, though: each write therefore has a place in the
//! order of the user's writes, and one that arrives after a later one was committed changes nothing either.

use std::collections::VecDeque;

use sestina_api::key::{IdempotencyKey, Purpose};
use sestina_api::store::ENTITY_VALUE_BYTES;
use sestina_proto as proto;
use sestina_runtime::{failpoint, guard};
use sestina_telemetry::Limit;
use sestina_xmpp::jid::Jid;
use sestina_xmpp::stanza::Stanza;
use sestina_xmpp::stanza::error::Condition;

use super::core::{Core, Job};
use super::execute::Cause;
use super::operations::OperationId;
use super::slot::Slot;
use super::trace_context::TraceContext;
use crate::hooks::{Action, DataType, IqTarget, Loaded, Written};
use crate::rng::HashMap;

/// Requests for the data of one user that may wait.
const WAITING: usize = 256;
/// Bytes of their stanzas; one request may always wait.
const WAITING_BYTES: usize = 4 << 20;
/// Bytes of answers from the data of one user; the requests behind them wait for the next tick.
const ANSWERED_BYTES: usize = 1 << 20;
/// The wait before a write in doubt is asked about again, in milliseconds; doubled up to the second.
const DOUBT_MS: (u64, u64) = (250, 5_000);

/// An IQ for the modules.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) cause: Cause,
    pub(crate) target: IqTarget,
    /// Full JID of the asker.
    pub(crate) from: Jid,
    /// The addressed entity.
    pub(crate) to: Jid,
    pub(crate) stanza: Stanza,
}

/// What storage is asked about the data of an entity.
#[derive(Clone, Debug)]
pub enum DataRequest {
    /// The items with these names. `cancel`, if any, is left in storage before that.
    Get {
        /// Which data.
        names: Vec<String>,
        /// A write of which it is not known whether it is committed, without its data and with the answer that the client
        /// got: if storage takes this, it has not committed the write and never will.
        cancel: Option<Box<proto::EntityDataPutRequest>>,
    },
    /// A write.
    Put(Box<proto::EntityDataPutRequest>),
}

/// What storage answered.
#[derive(Clone, Debug)]
pub enum DataReply {
    /// The items that exist.
    Got(Vec<proto::EntityDataItem>),
    /// What became of the write.
    Put(Box<proto::EntityDataPutReply>),
}

/// A write that storage has been asked for.
#[derive(Debug)]
struct Write {
    asked: Asked,
    trace_context: TraceContext,
    request: proto::EntityDataPutRequest,
    /// Performed when it is committed.
    then: Vec<Action>,
}

/// The data of one user, and the requests that wait for it.
#[derive(Debug, Default)]
struct Entity {
    loaded: Loaded,
    waiting: VecDeque<(Asked, TraceContext)>,
    /// Bytes of the stanzas that wait.
    waiting_bytes: usize,
    /// A request to storage is under way.
    asked: bool,
    /// Data that it is to read.
    loading: Vec<DataType>,
    write: Option<Box<Write>>,
    /// See [`DataRequest::Get`].
    doubtful: Option<Box<proto::EntityDataPutRequest>>,
    /// When storage is asked about it ([`now_ms`](super::core::Core::now_ms)), and the wait after that.
    doubt: (u64, u64),
}

impl Entity {
    /// Whether another request may wait.
    fn has_room(&self, asked: &Asked) -> bool {
        let bytes = self.waiting_bytes + asked.stanza.payload.len();
        self.waiting.is_empty() || (self.waiting.len() < WAITING && bytes <= WAITING_BYTES)
    }

    fn push(&mut self, asked: Asked, trace_context: TraceContext) {
        self.waiting_bytes += asked.stanza.payload.len();
        self.waiting.push_back((asked, trace_context));
    }

    fn pop(&mut self) -> Option<(Asked, TraceContext)> {
        let (asked, trace_context) = self.waiting.pop_front()?;
        self.waiting_bytes -= asked.stanza.payload.len();
        Some((asked, trace_context))
    }

    /// Whether nothing waits, and nothing has to be remembered.
    fn is_done(&self) -> bool {
        self.waiting.is_empty() && !self.asked && self.doubtful.is_none()
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct EntityData(HashMap<Jid, Entity>);

impl EntityData {
    /// Whether no request waits for data, and no write is under way.
    pub(crate) fn is_idle(&self) -> bool {
        let mut entities = self.0.values();
        entities.all(|entity| entity.waiting.is_empty() && !entity.asked)
    }

    /// Whether no user has data here, nor a write in doubt.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The operations of requests that wait.
    pub(crate) fn operations(&self) -> impl Iterator<Item = OperationId> {
        self.0.values().flat_map(|entity| {
            let waiting = entity.waiting.iter().map(|(asked, _)| asked);
            let writing = entity.write.iter().map(|write| &write.asked);
            waiting.chain(writing).map(|asked| asked.cause.operation())
        })
    }

    /// Users whose data is held, or of whom a write is in doubt.
    #[cfg(feature = "simulation")]
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

impl Slot {
    /// Has the modules answer an IQ, once the data that the handler needs is there.
    pub(crate) fn ask_modules(&mut self, core: &mut Core, asked: Asked) {
        let pipeline = core.pipelines.of(asked.to.domain());
        let needs = pipeline.iq_needs(asked.target, &asked.stanza);
        if needs.is_empty() {
            let actions = self.handle_iq(core, &asked, &Loaded::default());
            return self.execute_all(core, &asked, actions);
        }
        if !self.may_have_data(core, &asked) {
            return self.refuse_asked(core, &asked, Condition::ServiceUnavailable, None);
        }
        let user = asked.to.bare();
        let entity = self.data.0.entry(user.clone()).or_default();
        if !entity.has_room(&asked) {
            core.metrics.limited(Limit::DataRequests);
            let text = Some("too many requests wait for storage; try again later");
            return self.refuse_asked(core, &asked, Condition::ResourceConstraint, text);
        }
        core.operations.part(asked.cause.operation());
        entity.push(asked, core.trace_context.clone());
        self.pump_data(core, &user);
    }

    /// Whether the addressed user may have data: users without an account have none.
    fn may_have_data(&self, core: &Core, asked: &Asked) -> bool {
        let anonymous = match asked.cause {
            Cause::Session { id, .. } if asked.target == IqTarget::Account => {
                self.sessions.get(&id).is_none_or(|s| s.client.anonymous)
            }
            _ => false,
        };
        !anonymous && core.config.services.has_accounts(asked.to.domain())
    }

    fn refuse_asked(
        &mut self,
        core: &mut Core,
        asked: &Asked,
        condition: Condition,
        text: Option<&str>,
    ) {
        let reply = asked.stanza.error_reply(condition, text);
        self.answer(core, asked.cause, reply);
    }

    /// Handles the requests for a user whose data is there, in order, until one has to wait.
    fn pump_data(&mut self, core: &mut Core, user: &Jid) {
        let mut answered = 0;
        loop {
            let Some(entity) = self.data.0.get_mut(user) else {
                return;
            };
            if entity.asked {
                return;
            }
            let Some((asked, _)) = entity.waiting.front() else {
                // Requests for data are rare: it is loaded again for the next one.
                entity.loaded = Loaded::default();
                if entity.is_done() {
                    self.data.0.remove(user);
                }
                return;
            };
            if answered > ANSWERED_BYTES {
                return;
            }
            let pipeline = core.pipelines.of(asked.to.domain());
            let needs = pipeline.iq_needs(asked.target, &asked.stanza);
            let missing = needs.iter().filter(|data| !entity.loaded.has(**data));
            let missing: Vec<DataType> = missing.copied().collect();
            if !missing.is_empty() || entity.doubtful.is_some() {
                let names = missing.iter().map(|data| data.name.to_owned()).collect();
                let cancel = entity.doubtful.clone();
                entity.loading = missing;
                return self.ask_storage(core, user, DataRequest::Get { names, cancel });
            }
            let Some((asked, trace_context)) = entity.pop() else {
                return;
            };
            let loaded = entity.loaded.clone();
            answered += loaded.bytes();
            let before = std::mem::replace(&mut core.trace_context, trace_context);
            self.handle_with_data(core, user, asked, &loaded);
            core.trace_context = before;
        }
    }

    fn handle_with_data(&mut self, core: &mut Core, user: &Jid, asked: Asked, loaded: &Loaded) {
        let mut actions = self.handle_iq(core, &asked, loaded);
        let store = actions
            .iter()
            .position(|action| matches!(action, Action::Store(..)));
        let Some(at) = store else {
            let operation = asked.cause.operation();
            self.execute_all(core, &asked, actions);
            return core.part_done(operation);
        };
        let then = actions.split_off(at + 1);
        if let Some(Action::Store(written, answer)) = actions.pop() {
            if written.value.len() > ENTITY_VALUE_BYTES {
                let text = format!("at most {ENTITY_VALUE_BYTES} bytes can be stored");
                self.refuse_asked(core, &asked, Condition::PolicyViolation, Some(&text));
                return core.part_done(asked.cause.operation());
            }
            self.execute_all(core, &asked, actions);
            let answer = asked.stanza.result_reply(answer.as_ref());
            self.write_data(core, user, asked, written, answer, then);
        }
    }

    fn write_data(
        &mut self,
        core: &mut Core,
        user: &Jid,
        asked: Asked,
        written: Written,
        answer: Stanza,
        then: Vec<Action>,
    ) {
        core.counters.data_writes += 1;
        let request = proto::EntityDataPutRequest {
            fence: Some(self.fence()),
            key: Some(asked.cause.key(Purpose::Reply).into()),
            answer: Some(answer.into()),
            entity: user.as_str().to_owned(),
            items: vec![proto::EntityDataItem {
                name: written.name.to_owned(),
                value: written.value,
            }],
            counter: match guard!("data-doubt") {
                true => core.counters.data_writes,
                false => 0,
            },
        };
        let write = Write {
            asked,
            trace_context: core.trace_context.clone(),
            request: request.clone(),
            then,
        };
        if let Some(entity) = self.data.0.get_mut(user) {
            entity.write = Some(Box::new(write));
        }
        failpoint!("router.data_put");
        self.ask_storage(core, user, DataRequest::Put(Box::new(request)));
    }

    fn ask_storage(&mut self, core: &mut Core, user: &Jid, request: DataRequest) {
        if let Some(entity) = self.data.0.get_mut(user) {
            entity.asked = true;
        }
        core.jobs.push(Job::EntityData {
            slot: self.slot,
            epoch: self.epoch,
            entity: user.as_str().to_owned(),
            request,
        });
    }

    /// Storage has refused a write although no process is known to own the slot under a higher epoch: it is asked once
    /// more.
    pub(super) fn data_refused(&mut self, core: &mut Core, user: &str) {
        let user = Jid::from_wire(user);
        let Some(entity) = self.data.0.get(&user) else {
            return;
        };
        let request = match &entity.write {
            Some(write) => DataRequest::Put(Box::new(write.request.clone())),
            None => {
                let names = entity.loading.iter().map(|data| data.name.to_owned());
                DataRequest::Get {
                    names: names.collect(),
                    cancel: entity.doubtful.clone(),
                }
            }
        };
        self.ask_storage(core, &user, request);
    }

    /// Storage answered a request for the data of a user (an error: it has not answered in time, or has failed).
    pub(super) fn data_answered(
        &mut self,
        core: &mut Core,
        user: &str,
        reply: Result<DataReply, String>,
    ) {
        let user = Jid::from_wire(user);
        let Some(entity) = self.data.0.get_mut(&user) else {
            return;
        };
        entity.asked = false;
        match reply {
            Ok(DataReply::Put(reply)) if reply.overtaken => {
                // The requests of a user are written one after the other: none of this owner overtakes another.
                self.data_unavailable(core, &user, "storage has a later write");
            }
            Ok(DataReply::Put(reply)) => {
                failpoint!("router.data_stored");
                if let Some(write) = entity.write.take() {
                    // What is stored may be of an owner before this one: it is loaded again.
                    entity.loaded = Loaded::default();
                    self.data_stored(core, *write, *reply);
                }
            }
            Ok(DataReply::Got(items)) => self.data_loaded(core, &user, items),
            Err(reason) => self.data_unavailable(core, &user, &reason),
        }
        self.pump_data(core, &user);
    }

    fn data_stored(&mut self, core: &mut Core, write: Write, reply: proto::EntityDataPutReply) {
        let Write {
            asked,
            trace_context,
            request,
            then,
        } = write;
        let before = std::mem::replace(&mut core.trace_context, trace_context);
        let repeated = reply.answer.is_some();
        let answer = reply.answer.or(request.answer);
        // An earlier owner has cancelled the write, and answered so.
        let refused = answer.as_ref().is_some_and(|a| a.r#type == "error");
        if let Some(answer) = answer {
            self.answer(core, asked.cause, answer.into());
        }
        let operation = asked.cause.operation();
        let user = asked.to.bare();
        if repeated {
            // A later write may have been committed since.
            self.residents_doubted(core, &user);
        } else {
            self.residents_written(core, &user, request.items, operation);
        }
        if !refused {
            self.execute_all(core, &asked, then);
        }
        core.part_done(operation);
        core.trace_context = before;
    }

    fn data_loaded(&mut self, core: &mut Core, user: &Jid, items: Vec<proto::EntityDataItem>) {
        let Some(entity) = self.data.0.get_mut(user) else {
            return;
        };
        let doubted = entity.doubtful.take().is_some();
        let mut items = items;
        for data in std::mem::take(&mut entity.loading) {
            let at = items.iter().position(|item| item.name == data.name);
            let bytes = at.map(|at| items.swap_remove(at).value);
            if let Err(error) = entity.loaded.take(data, bytes) {
                tracing::error!(%user, data = data.name, error, "stored data of a user cannot be read");
                let text = "the stored data cannot be read; ask the administrator";
                self.refuse_waiting(core, user, Condition::InternalServerError, text);
                break;
            }
        }
        if doubted {
            // The write may have been committed.
            self.residents_doubted(core, user);
        }
    }

    fn data_unavailable(&mut self, core: &mut Core, user: &Jid, reason: &str) {
        tracing::debug!(%user, reason, "storage has not answered a request for data of a user");
        let Some(entity) = self.data.0.get_mut(user) else {
            return;
        };
        let text = "storage is unavailable; try again later";
        entity.loaded = Loaded::default();
        entity.loading.clear();
        if let Some(write) = entity.write.take() {
            let Write {
                asked, mut request, ..
            } = *write;
            let answer = asked
                .stanza
                .error_reply(Condition::ResourceConstraint, Some(text));
            request.items.clear();
            request.answer = Some(answer.clone().into());
            entity.doubtful = guard!("data-doubt").then(|| Box::new(request));
            entity.doubt = (core.now_ms + DOUBT_MS.0, DOUBT_MS.0);
            self.answer(core, asked.cause, answer);
            core.part_done(asked.cause.operation());
        }
        self.refuse_waiting(core, user, Condition::ResourceConstraint, text);
    }

    fn refuse_waiting(&mut self, core: &mut Core, user: &Jid, condition: Condition, text: &str) {
        let next = |slot: &mut Slot| slot.data.0.get_mut(user).and_then(Entity::pop);
        while let Some((asked, _)) = next(self) {
            self.refuse_asked(core, &asked, condition, Some(text));
            core.part_done(asked.cause.operation());
        }
    }

    /// Goes on with requests that wait for a tick, and clears up the writes that are in doubt while no request does; run
    /// at each tick.
    pub(crate) fn data_tick(&mut self, core: &mut Core) {
        if self.data.0.is_empty() {
            return;
        }
        let idle = self.data.0.iter().filter(|(_, entity)| !entity.asked);
        let users: Vec<Jid> = idle.map(|(user, _)| user.clone()).collect();
        for user in users {
            self.pump_data(core, &user);
            let entity = self.data.0.get_mut(&user);
            let Some(entity) = entity.filter(|entity| !entity.asked) else {
                continue;
            };
            let Some(cancel) = entity.doubtful.clone() else {
                continue;
            };
            let (at, wait) = entity.doubt;
            if core.now_ms >= at {
                entity.doubt = (core.now_ms + wait, (wait * 2).min(DOUBT_MS.1));
                let names = Vec::new();
                let cancel = Some(cancel);
                self.ask_storage(core, &user, DataRequest::Get { names, cancel });
            }
        }
    }
}

impl Cause {
    /// The key of one thing that the input causes.
    fn key(self, purpose: Purpose) -> IdempotencyKey {
        match self {
            Cause::Session { id, n, .. } => IdempotencyKey::new(id, n, purpose),
            Cause::Message(hand) => hand.key.sibling(purpose),
            // Events of rooms ask for no data.
            Cause::RoomEvent { .. } => IdempotencyKey::new(0, 0, purpose),
        }
    }
}

#[cfg(test)]
#[path = "data_tests.rs"]
mod tests;
