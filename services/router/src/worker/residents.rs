//! Resident data: the data of modules about a user that filters need for each stanza.
//!
//! It is read when a session becomes available or exchanges the first stanza with another entity, and kept for as long as
//! the user has a session. The records of the sessions hold it as well, so that the next owner of the slot has it at once;
//! that owner reads it again in the background.
//!
//! Until storage has answered, the edge sends the client's stanzas for others again later, and messages of others are
//! deferred in this slot. If storage does not answer in time, stanzas that a filter would have to
//! see are refused, and the slot asks again until it has the data. Events of rooms do not wait: a session whose data is
//! not known has not entered a room yet, or is of a router of 0.1.0, which knows no such data.

use std::sync::Arc;

use sestina_proto as proto;
use sestina_proto::to_edge::Body;
use sestina_xmpp::jid::Jid;
use sestina_xmpp::stanza::error::{Condition, StanzaError};
use sestina_xmpp::stanza::{Kind, Stanza};

use super::core::{Core, Job, LaneRef};
use super::operations::OperationId;
use super::session::Session;
use super::slot::Slot;
use crate::hooks::{Bounce, Loaded, Pipeline, Pipelines, Point, StanzaContext};

/// The wait before storage is asked again, in milliseconds.
const AGAIN_MS: u64 = 2_000;

/// The resident data of one user.
#[derive(Clone, Debug)]
pub(crate) struct ResidentData {
    loaded: Loaded,
    /// As it is stored.
    items: Vec<proto::EntityDataItem>,
}

impl ResidentData {
    /// Decodes items from storage or from the record of a session. Returns none if there are no items.
    fn read(
        pipeline: &Pipeline,
        user: &Jid,
        items: Vec<proto::EntityDataItem>,
    ) -> Result<Option<Arc<ResidentData>>, ()> {
        if items.is_empty() {
            return Ok(None);
        }
        let mut loaded = Loaded::default();
        for item in &items {
            let mut types = pipeline.residents().iter().copied();
            let Some(data) = types.find(|data| data.name == item.name) else {
                continue;
            };
            if let Err(error) = loaded.take(data, Some(item.value.clone())) {
                tracing::error!(%user, data = data.name, error, "stored data of a user cannot be read");
                return Err(());
            }
        }
        Ok(Some(Arc::new(ResidentData { loaded, items })))
    }
}

/// Whether a router knows the resident data of a user.
#[derive(Clone, Debug, Default)]
enum State {
    /// Storage has not answered yet.
    #[default]
    Unknown,
    /// Storage has not answered in time, or has data that cannot be read.
    Unavailable,
    /// None: the user has no such data.
    Known(Option<Arc<ResidentData>>),
}

/// What a session knows of the resident data of its user.
#[derive(Clone, Debug, Default)]
pub(crate) struct Residents {
    state: State,
    /// The number of the question that storage has to answer; 0: none.
    question: u64,
    /// The data is from the record of a session, and so from an earlier owner of the slot. This owner reads it from
    /// storage when the user sends or receives the first stanza.
    of_record: bool,
}

impl Residents {
    /// Decodes the resident data in the record of a session.
    pub(crate) fn of_record(
        pipeline: &Pipeline,
        user: &Jid,
        known: bool,
        items: Vec<proto::EntityDataItem>,
    ) -> Residents {
        let state = match ResidentData::read(pipeline, user, items) {
            Ok(data) if known => State::Known(data),
            _ => State::Unknown,
        };
        Residents {
            state,
            question: 0,
            of_record: known,
        }
    }

    /// Returns the fields for the record of the session: whether the data is known, and the data.
    pub(crate) fn record(&self) -> (bool, Vec<proto::EntityDataItem>) {
        match &self.state {
            State::Known(data) => {
                let items = data.as_ref().map(|data| data.items.clone());
                (true, items.unwrap_or_default())
            }
            State::Unknown | State::Unavailable => (false, Vec::new()),
        }
    }

    fn known(data: Option<Arc<ResidentData>>) -> Residents {
        Residents {
            state: State::Known(data),
            question: 0,
            of_record: false,
        }
    }

    fn is_unknown(&self) -> bool {
        matches!(self.state, State::Unknown)
    }

    /// For tests: sets unknown data to "the user has no data".
    #[cfg(test)]
    pub(crate) fn assume_none(&mut self) {
        if self.is_unknown() && self.question == 0 {
            *self = Residents::known(None);
        }
    }

    /// Whether filters have nothing to do: this owner has read from storage that the user has no resident data.
    pub(crate) fn is_none(&self) -> bool {
        matches!(self.state, State::Known(None)) && !self.of_record
    }

    /// Whether this owner has read the data from storage, or has tried to.
    fn is_asked(&self) -> bool {
        !self.is_unknown() && !self.of_record
    }
}

/// The questions of a slot for resident data.
#[derive(Debug, Default)]
pub(crate) struct Questions {
    /// The number of the last one.
    last: u64,
    /// Users of whom storage is asked again, and when ([`now_ms`](super::core::Core::now_ms)).
    again: Vec<(u64, Jid)>,
}

impl Slot {
    /// Whether stanzas that need the resident data of a session's user can be handled now: the data is known, or storage
    /// has not answered in time. Otherwise this asks storage, if no question is open.
    pub(crate) fn has_residents(&mut self, core: &mut Core, id: u128) -> bool {
        let Some(session) = self.sessions.get_mut(&id) else {
            return true;
        };
        let residents = &mut session.client.residents;
        if residents.is_asked() {
            return true;
        }
        if residents.question != 0 {
            return !residents.is_unknown();
        }
        let domain = session.channel.jid.domain();
        let accounts = core.config.services.has_accounts(domain);
        let pipeline = core.pipelines.of(domain);
        if session.client.anonymous || !accounts || pipeline.residents().is_empty() {
            *residents = Residents::known(None);
            return true;
        }
        let unknown = residents.is_unknown();
        let user = session.channel.jid.bare();
        self.ask_residents(core, &user);
        !unknown
    }

    /// Whether a session's stanza with this `to` need not wait for resident data: it is known, or the stanza is for the
    /// user's own account or sessions.
    pub(super) fn may_send(&mut self, core: &mut Core, id: u128, to: &str) -> bool {
        let session = self.sessions.get(&id);
        let is_free = session.is_none_or(|session| {
            session.client.residents.is_asked()
                || to.is_empty()
                || Jid::from_wire(to).bare_str() == session.channel.jid.bare_str()
        });
        is_free || self.has_residents(core, id)
    }

    /// Whether stanzas for that user need not wait: see [`Slot::has_residents`]. False if the user has no session.
    pub(super) fn knows_residents(&mut self, core: &mut Core, user: &Jid) -> bool {
        let first = self.sessions_of(user).next().map(|s| s.channel.id);
        first.is_some_and(|id| self.has_residents(core, id))
    }

    /// Asks storage for the resident data of a user. Filters use the known data until storage answers.
    fn ask_residents(&mut self, core: &mut Core, user: &Jid) {
        self.questions.last += 1;
        let question = self.questions.last;
        for id in self.users.get(user).into_iter().flatten() {
            if let Some(session) = self.sessions.get_mut(id) {
                session.client.residents.question = question;
                session.client.residents.of_record = false;
            }
        }
        core.jobs.push(Job::Residents {
            slot: self.slot,
            epoch: self.epoch,
            question,
            user: user.as_str().to_owned(),
            names: core.pipelines.of(user.domain()).resident_names(),
        });
    }

    /// Storage has committed data of a user. From now on, filters use the resident part of it. The operation waits until
    /// a second process has the new records of the user's sessions.
    pub(super) fn residents_written(
        &mut self,
        core: &mut Core,
        user: &Jid,
        written: Vec<proto::EntityDataItem>,
        operation: OperationId,
    ) {
        let pipeline = core.pipelines.of(user.domain()).clone();
        let written = written.into_iter();
        let written: Vec<_> = written
            .filter(|item| pipeline.is_resident(&item.name))
            .collect();
        let ids = self.users.get(user).cloned().unwrap_or_default();
        if written.is_empty() || ids.is_empty() {
            return;
        }
        let session = ids.iter().find_map(|id| self.sessions.get(id));
        let (known, mut items) =
            session.map_or_else(Default::default, |s| s.client.residents.record());
        if !known {
            // The user may have other resident data, too.
            return self.ask_residents(core, user);
        }
        items.retain(|item| written.iter().all(|new| new.name != item.name));
        items.extend(written.into_iter().filter(|item| !item.value.is_empty()));
        match ResidentData::read(&pipeline, user, items) {
            Ok(data) => self.residents_known(core, user, data, Some(operation)),
            Err(()) => self.ask_residents(core, user),
        }
    }

    /// A write may have changed the data of a user: reads the data again, and stanzas wait until storage answers.
    pub(super) fn residents_doubted(&mut self, core: &mut Core, user: &Jid) {
        if core.pipelines.of(user.domain()).residents().is_empty() {
            return;
        }
        let ids = self.users.get(user).cloned().unwrap_or_default();
        for id in &ids {
            if let Some(session) = self.sessions.get_mut(id) {
                session.client.residents.state = State::Unknown;
            }
        }
        if !ids.is_empty() {
            self.ask_residents(core, user);
        }
    }

    /// Storage answered a question for the resident data of a user (an error: it has not answered in time, or has
    /// failed).
    pub(super) fn residents_answered(
        &mut self,
        core: &mut Core,
        user: &str,
        question: u64,
        items: Result<Vec<proto::EntityDataItem>, String>,
    ) {
        let user = Jid::from_wire(user);
        let ids = self.users.get(&user).cloned().unwrap_or_default();
        let mut sessions = ids.iter().filter_map(|id| self.sessions.get(id));
        if !sessions.any(|s| s.client.residents.question == question) {
            // The slot has asked a later question, or has committed a write since.
            return;
        }
        let data = match items {
            Ok(items) => ResidentData::read(core.pipelines.of(user.domain()), &user, items),
            Err(reason) => {
                tracing::debug!(%user, reason, "storage has not answered a question for data of a user");
                Err(())
            }
        };
        match data {
            Ok(data) => self.residents_known(core, &user, data, None),
            Err(()) => {
                for id in &ids {
                    let session = self.sessions.get_mut(id);
                    let residents = session.map(|s| &mut s.client.residents);
                    if let Some(residents) = residents.filter(|r| r.is_unknown()) {
                        residents.state = State::Unavailable;
                    }
                }
                self.questions.again.push((core.now_ms + AGAIN_MS, user));
            }
        }
        for id in ids {
            self.ask_for_the_next(core, id);
        }
    }

    /// Gives all sessions of a user the user's data.
    fn residents_known(
        &mut self,
        core: &mut Core,
        user: &Jid,
        data: Option<Arc<ResidentData>>,
        operation: Option<OperationId>,
    ) {
        for id in self.users.get(user).cloned().unwrap_or_default() {
            let Some(session) = self.sessions.get_mut(&id) else {
                continue;
            };
            session.client.residents = Residents::known(data.clone());
            // "No data" is no reason to send a record: the next change of the session sends it.
            if data.is_none() && operation.is_none() {
                continue;
            }
            session.channel.state_dirty = true;
            match operation {
                Some(operation) => self.keep_registry(core, id, operation),
                None => {
                    self.replica_session_changed(core, id);
                    self.touch(core, id);
                }
            }
        }
    }

    /// Asks storage again for what it has not answered; run at each tick.
    pub(crate) fn residents_tick(&mut self, core: &mut Core) {
        if self.questions.again.is_empty() {
            return;
        }
        let now = core.now_ms;
        let due = self.questions.again.extract_if(.., |(at, _)| *at <= now);
        let due: Vec<Jid> = due.map(|(_, user)| user).collect();
        for user in due {
            let is_open = |s: &Session| s.client.residents.question != 0;
            if self.sessions_of(&user).any(is_open) {
                self.ask_residents(core, &user);
            }
        }
    }

    /// Asks the edge to send a stanza of a client again, with the stanzas after it, because the resident data of the user
    /// is not known yet.
    pub(super) fn ask_for_again(
        &mut self,
        core: &mut Core,
        id: u128,
        lane: LaneRef,
        again: proto::Redirect,
    ) {
        if let Some(session) = self.sessions.get_mut(&id) {
            session.client.sent_back = true;
        }
        core.send_edge(lane, self.slot, self.epoch, Body::Redirect(again));
    }

    /// Asks the edge to send the next stanza of a session now, if the edge waits after [`Slot::ask_for_again`].
    fn ask_for_the_next(&mut self, core: &mut Core, id: u128) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        let sent_back = std::mem::take(&mut session.client.sent_back);
        if let Some((lane, handle)) = session.channel.edge().filter(|_| sent_back) {
            let again = proto::Redirect {
                handle,
                generation: session.channel.generation,
                n: session.channel.incoming.accepted + 1,
            };
            core.send_edge(lane, self.slot, self.epoch, Body::Redirect(again));
        }
    }

    /// Whether stanzas of a session wait for the resident data of its user.
    pub(super) fn waits_for_residents(&self, id: u128) -> bool {
        let residents = self.sessions.get(&id).map(|s| &s.client.residents);
        residents.is_some_and(|r| r.is_unknown() && r.question != 0)
    }

    /// Runs the stanza filters of a hook point. `stored` is the resident data that storage has just returned, for a user
    /// without a session.
    ///
    /// # Errors
    /// How the stanza is refused.
    pub(crate) fn filter(
        &self,
        core: &Core,
        point: Point,
        (user, peer): (&Jid, &Jid),
        stanza: &Stanza,
        stored: Option<&[proto::EntityDataItem]>,
    ) -> Result<(), Bounce> {
        let pipeline = core.pipelines.of(user.domain());
        if pipeline.residents().is_empty() || peer.bare_str() == user.as_str() {
            return Ok(());
        }
        let session = self.sessions_of(user).next();
        let guest = session.is_some_and(|s| s.client.anonymous);
        let state = match session.map(|s| &s.client.residents.state) {
            Some(State::Known(data)) => State::Known(data.clone()),
            // Users without an account have no data, and storage is not asked for any.
            _ if guest || !core.config.services.has_accounts(user.domain()) => State::Known(None),
            _ => match stored.map(|items| ResidentData::read(pipeline, user, items.to_vec())) {
                Some(Ok(data)) => State::Known(data),
                _ => State::Unavailable,
            },
        };
        match state {
            State::Known(None) => Ok(()),
            State::Known(Some(data)) => {
                let context = StanzaContext { user, peer };
                pipeline.filter_stanza(point, &context, &data.loaded, stanza)
            }
            State::Unknown | State::Unavailable => unavailable(stanza),
        }
    }
}

impl Session {
    /// Whether the stanza filters of the user let a stanza of a room pass. `stanza` returns the stanza and its sender; it
    /// is called only if the user has resident data.
    pub(crate) fn passes_filters<'a>(
        &self,
        pipelines: &Pipelines,
        stanza: impl FnOnce() -> (&'a Stanza, &'a Jid),
    ) -> bool {
        let State::Known(Some(data)) = &self.client.residents.state else {
            return true;
        };
        let (stanza, peer) = stanza();
        let user = self.channel.jid.bare();
        let context = StanzaContext { user: &user, peer };
        let pipeline = pipelines.of(user.domain());
        let filtered = pipeline.filter_stanza(Point::StanzaIn, &context, &data.loaded, stanza);
        filtered.is_ok()
    }
}

/// Decides about a stanza when the resident data of the user is not available. Answers, errors and unavailable presence
/// pass; all other stanzas are refused.
fn unavailable(stanza: &Stanza) -> Result<(), Bounce> {
    let type_ = stanza.type_.as_str();
    match stanza.kind {
        Kind::Presence if matches!(type_, "unavailable" | "error") => Ok(()),
        Kind::Iq if !matches!(type_, "get" | "set") => Ok(()),
        _ if stanza.is_error() => Ok(()),
        Kind::Presence | Kind::Iq | Kind::Message => {
            let error = StanzaError::new(Condition::ResourceConstraint);
            let text = "storage is unavailable; try again later";
            Err(Bounce::with(error.with_text(text)))
        }
    }
}

#[cfg(test)]
#[path = "residents_tests.rs"]
mod tests;
