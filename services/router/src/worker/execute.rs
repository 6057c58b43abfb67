//! Performs what modules ask for: every [`Action`], whatever the stanza came from.

use std::borrow::Cow;

use sestina_api::key::Purpose;
use sestina_runtime::failpoint;
use sestina_xmpp::jid::Jid;
use sestina_xmpp::stanza::Stanza;

use super::channel::Source;
use super::core::Core;
use super::data::Asked;
use super::operations::OperationId;
use super::pages::ArchiveQuery;
use super::receive::{InHand, stamp};
use super::slot::Slot;
use crate::hooks::{Action, IqContext, Loaded, MessageContext, Point};

/// The input that made the modules run: it decides where an answer goes, and what waits for the actions.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Cause {
    /// The n-th stanza of a session of this slot.
    Session {
        id: u128,
        n: u64,
        operation: OperationId,
    },
    /// A slot message for a user or room of this slot.
    Message(InHand),
    /// An event of a room, for a session of this slot.
    RoomEvent { operation: OperationId },
}

impl Cause {
    /// The operation that waits for the actions.
    pub(super) fn operation(self) -> OperationId {
        match self {
            Cause::Session { operation, .. } | Cause::RoomEvent { operation, .. } => operation,
            Cause::Message(hand) => hand.operation,
        }
    }
}

/// A message at a hook point, and what the actions there have made of it so far.
#[derive(Debug)]
pub(crate) struct Passing<'a> {
    /// The message. The archive's id is added for its receiver, and not for its sender.
    pub(crate) stanza: Cow<'a, Stanza>,
    /// An earlier owner may have archived it where it could not be delivered: its row moves.
    pub(crate) moves: bool,
    /// The id under which the archive of the user has it.
    pub(crate) archived: Option<String>,
    /// Other sessions of the user get copies.
    pub(crate) copied: bool,
    /// The offline store has it.
    pub(crate) stored: bool,
}

impl<'a> Passing<'a> {
    pub(crate) fn new(stanza: Cow<'a, Stanza>, moves: bool) -> Passing<'a> {
        Passing {
            stanza,
            moves,
            archived: None,
            copied: false,
            stored: false,
        }
    }
}

impl Slot {
    /// Runs the observers of a hook point and performs their actions.
    pub(crate) fn observed(
        &mut self,
        core: &mut Core,
        cause: Cause,
        point: Point,
        context: &MessageContext<'_>,
        passing: &mut Passing<'_>,
    ) {
        let pipeline = core.pipelines.of(context.user.domain()).clone();
        for action in pipeline.observe(point, context, &passing.stanza) {
            self.execute_on_message(core, cause, context, passing, action);
        }
    }

    /// Performs an action that a module asked for at a hook point of messages.
    fn execute_on_message(
        &mut self,
        core: &mut Core,
        cause: Cause,
        context: &MessageContext<'_>,
        passing: &mut Passing<'_>,
        action: Action,
    ) {
        match action {
            // The room tells senders to wait when its own storage is behind; for its receivers the bound on
            // rows that wait comes first.
            Action::Archive
                if matches!(cause, Cause::RoomEvent { .. }) && core.storage_backlogged() => {}
            Action::Archive => {
                let (user, peer, operation) = (context.user, context.peer, cause.operation());
                let (stanza, moves) = (&passing.stanza, passing.moves);
                let id = self.archive(core, user, peer, context.key, stanza, operation, moves);
                if !matches!(cause, Cause::Session { .. }) {
                    stamp(passing.stanza.to_mut(), user, &id);
                }
                passing.archived = Some(id);
            }
            Action::Carbons => passing.copied = true,
            Action::StoreOffline => {
                let (key, at_ms) = (context.key.sibling(Purpose::Offline), core.wall_ms);
                let (operation, user) = (cause.operation(), context.user);
                self.store_offline(core, key, operation, user, &passing.stanza, at_ms);
                passing.stored = true;
            }
            Action::Result(_)
            | Action::Reply(_)
            | Action::Error(..)
            | Action::SetCarbons(_)
            | Action::Interest(_)
            | Action::Push(..)
            | Action::WithdrawPresence(_)
            | Action::Store(..)
            | Action::QueryArchive { .. } => self.execute(core, cause, &passing.stanza, action),
        }
    }

    /// Performs an action that a module asked for with a stanza which it handled.
    pub(crate) fn execute(
        &mut self,
        core: &mut Core,
        cause: Cause,
        stanza: &Stanza,
        action: Action,
    ) {
        match (action, cause) {
            (Action::Result(payload), _) => {
                self.answer(core, cause, stanza.result_reply(payload.as_ref()));
            }
            (Action::Reply(reply), _) => self.answer(core, cause, reply),
            (Action::Error(condition, text), _) => {
                let reply = stanza.error_reply(condition, text.as_deref());
                self.answer(core, cause, reply);
            }
            (Action::SetCarbons(on), Cause::Session { id, operation, .. }) => {
                self.set_carbons(core, id, on, operation);
            }
            (Action::Interest(name), Cause::Session { id, operation, .. }) => {
                self.interest(core, id, name, operation);
            }
            (Action::Push(name, payload), Cause::Session { id, n, operation }) => {
                self.push(core, (id, n, operation), name, &payload);
            }
            (Action::WithdrawPresence(from), Cause::Session { id, n, operation }) => {
                self.withdraw_presence(core, (id, n, operation), &from);
            }
            (
                Action::QueryArchive {
                    request,
                    queryid,
                    flip,
                },
                Cause::Session { id, n, operation },
            ) => {
                let query = ArchiveQuery {
                    slot: self.slot,
                    session: id,
                    n,
                    iq: stanza.clone(),
                    queryid,
                    flip,
                    operation,
                    source: Source::Page,
                };
                self.query_archive(core, query, *request);
            }
            // A defect of the module: these need a session of this slot, a message, or data that was loaded.
            (
                action @ (Action::SetCarbons(_)
                | Action::Interest(_)
                | Action::Push(..)
                | Action::WithdrawPresence(_)
                | Action::Store(..)
                | Action::QueryArchive { .. }
                | Action::Archive
                | Action::Carbons
                | Action::StoreOffline),
                _,
            ) => tracing::error!(?action, ?cause, "a module asked for this out of its place"),
        }
    }

    /// Sends the answer to a stanza to where the stanza came from.
    pub(crate) fn answer(&mut self, core: &mut Core, cause: Cause, reply: Stanza) {
        match cause {
            Cause::Session { id, n, operation } => self.reply_to(core, id, n, reply, operation),
            Cause::Message(hand) => self.answer_with(hand, reply),
            // No answer goes to the room: a room takes out the occupant of a session that answers with an error.
            Cause::RoomEvent { .. } => {}
        }
    }

    /// Answers a stanza that a filter stopped, unless it is an error itself.
    pub(crate) fn bounced(
        &mut self,
        core: &mut Core,
        cause: Cause,
        stanza: &Stanza,
        bounce: &crate::hooks::Bounce,
    ) {
        if let Some(error) = bounce.0.as_deref().filter(|_| !stanza.is_error()) {
            self.answer(core, cause, stanza.error_reply_with(error));
        }
    }

    /// Performs the actions of a handler in order.
    pub(crate) fn execute_all(&mut self, core: &mut Core, asked: &Asked, actions: Vec<Action>) {
        if matches!(asked.cause, Cause::Session { .. }) {
            failpoint!("router.iq_handled");
        }
        for action in actions {
            self.execute(core, asked.cause, &asked.stanza, action);
        }
    }

    /// The actions of the module that handles an IQ.
    pub(crate) fn handle_iq(&self, core: &Core, asked: &Asked, data: &Loaded) -> Vec<Action> {
        let own = match asked.cause {
            Cause::Session { id, .. } => self.sessions.get(&id),
            Cause::Message(_) | Cause::RoomEvent { .. } => None,
        };
        let sessions = own.map(|session| self.sessions_of(&session.channel.jid.bare()));
        let available = sessions
            .into_iter()
            .flatten()
            .filter(|s| s.client.available.is_some());
        let resources: Vec<Jid> = available.map(|s| s.channel.jid.clone()).collect();
        let pipeline = core.pipelines.of(asked.to.domain());
        let context = IqContext {
            from: &asked.from,
            to: &asked.to,
            anonymous: own.is_some_and(|session| session.client.anonymous),
            sessions: resources.len(),
            resources: &resources,
            data,
            pipeline,
            config: &core.config,
            wall_ms: core.wall_ms,
        };
        pipeline.iq(asked.target, &context, &asked.stanza)
    }
}
