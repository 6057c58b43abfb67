//! Slot messages that come again after a takeover, at their addressee.
//!
//! Keys of what was handled are known to the owner that handled it. The owner after it knows what
//! edges and the state store tell: what sessions have got. What was stored, storage knows: it is asked
//! about each message that an owner of a lower epoch may have stored, and about nothing else.

use sestina_api::key::Purpose;
use sestina_xmpp::jid::Jid;
use sestina_xmpp::stanza::{Kind, Stanza};

use super::core::{Core, Job};
use super::execute::Cause;
use super::input::Known;
use super::operations::OperationId;
use super::receive::InHand;
use super::slot::Slot;
use super::trace_context::TraceContext;
use crate::hooks::Point;

/// A stanza that waits for what storage knows of its user or for the user's data, or behind one that does.
#[derive(Debug)]
pub(crate) struct Deferred {
    to: Jid,
    hand: InHand,
    stanza: Stanza,
    trace_context: TraceContext,
    /// An owner before this one may have handled it.
    replay: bool,
    asked: bool,
}

/// What became of a message before, under another owner of the slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Before {
    /// Nothing: it was not sent then.
    Nothing,
    /// It may have been delivered to who still knows.
    Unknown,
    /// A session that has ended since had it.
    Given,
    /// It was stored.
    Stored,
}

impl Deferred {
    /// Whether storage may know what became of it before.
    fn asks(&self) -> bool {
        self.replay && self.stanza.kind == Kind::Message
    }

    /// The operation that waits for it.
    pub(crate) fn operation(&self) -> OperationId {
        self.hand.operation
    }
}

impl Slot {
    /// Handles a slot message for a user, or lets it wait until it is known what became of it before.
    pub(super) fn message_to_user(
        &mut self,
        core: &mut Core,
        hand: InHand,
        to: Jid,
        stanza: Stanza,
    ) {
        let replay = hand.replay;
        let message = stanza.kind == Kind::Message;
        if replay && !message && self.was_given(&hand, &to) {
            return;
        }
        let bare = to.bare();
        let accounts = core.config.services.has_accounts(to.domain());
        let (mut online, mut closing, mut unfiltered) = (false, false, false);
        for session in self.sessions_of(&bare) {
            online = true;
            unfiltered |= session.client.residents.is_none();
            // The messages that a session leaves which is about to end come before anything new.
            closing |= message && session.channel.closing;
        }
        if message && !online && !accounts {
            return self.message_unavailable(hand, &stanza);
        }
        // The user has no session: storage knows whether the user exists. One that an owner before this one
        // may have stored: storage knows that, too. What follows waits its turn.
        let waiting = self.deferred.contains_key(&bare);
        // Presence and answers are for sessions alone.
        let filtered = online || message || stanza.type_ == "get" || stanza.type_ == "set";
        let filtered =
            filtered && !unfiltered && !core.pipelines.of(bare.domain()).residents().is_empty();
        let ask = accounts
            && ((message && (replay || !online))
                || (filtered && !self.knows_residents(core, &bare)));
        if !waiting && !ask && !closing {
            return match unfiltered {
                true => self.give_unfiltered(core, hand, &to, stanza, Before::Nothing),
                false => self.give_user(core, hand, &to, stanza, Before::Nothing, None),
            };
        }
        core.operations.part(hand.operation);
        let deferred = Deferred {
            to,
            hand,
            stanza,
            trace_context: core.trace_context.clone(),
            replay,
            asked: false,
        };
        self.deferred
            .entry(bare.clone())
            .or_default()
            .push(deferred);
        if !waiting && !closing {
            self.ask_user(core, &bare);
        }
    }

    /// Whether a session of the user is about to end: its edge has still to send again what came before.
    pub(super) fn is_closing(&self, user: &Jid) -> bool {
        self.sessions_of(user)
            .any(|session| session.channel.closing)
    }

    /// Such a session has ended, and what it leaves is on its way to storage: what came meanwhile follows, and
    /// other sessions of the user read on.
    pub(super) fn go_on_behind(&mut self, core: &mut Core, user: &Jid) {
        if self.is_closing(user) {
            return;
        }
        let deferred = self.deferred.get(user);
        if deferred.is_some_and(|deferred| !deferred.iter().any(|deferred| deferred.asked)) {
            self.ask_user(core, user);
        }
        for id in self.users.get(user).cloned().unwrap_or_default() {
            self.read_stored(core, id);
        }
    }

    /// Whether a session had it that is over, or whose address a later one has while its end is on
    /// its way here: if it is no message, another must not answer it again.
    fn was_given(&self, hand: &InHand, to: &Jid) -> bool {
        let place = (hand.key.origin, hand.key.n, hand.entity);
        self.inbox.given.contains(&place)
            || (self.inbox.any_restored && self.replaced_had(hand, to))
    }

    fn replaced_had(&self, hand: &InHand, to: &Jid) -> bool {
        let Some(addressed) = to.resource().and_then(|_| self.session_of(to)) else {
            return false;
        };
        self.sessions_of(&to.bare())
            .filter(|s| s.channel.id != addressed && s.channel.jid == *to)
            .any(|s| s.channel.outgoing.restored.contains(&hand.key))
    }

    /// Asks storage about a user, for all that waits.
    fn ask_user(&mut self, core: &mut Core, bare: &Jid) {
        let mut keys = Vec::new();
        for deferred in self.deferred.get_mut(bare).into_iter().flatten() {
            deferred.asked = true;
            if deferred.asks() {
                keys.push(deferred.hand.key.sibling(Purpose::Offline).into());
            }
        }
        core.jobs.push(Job::UserKnown {
            slot: self.slot,
            bare: bare.as_str().to_owned(),
            keys,
            names: core.pipelines.of(bare.domain()).resident_names(),
        });
    }

    fn give_user(
        &mut self,
        core: &mut Core,
        hand: InHand,
        to: &Jid,
        stanza: Stanza,
        before: Before,
        known: Option<&Known>,
    ) {
        if matches!(before, Before::Nothing | Before::Unknown) {
            let (user, peer) = (to.bare(), Jid::from_wire(&stanza.from));
            let stored = known.map(|known| known.data.as_slice());
            let filtered = self.filter(core, Point::StanzaIn, (&user, &peer), &stanza, stored);
            if let Err(bounce) = filtered {
                return self.bounced(core, Cause::Message(hand), &stanza, &bounce);
            }
        }
        self.give_unfiltered(core, hand, to, stanza, before);
    }

    fn give_unfiltered(
        &mut self,
        core: &mut Core,
        hand: InHand,
        to: &Jid,
        stanza: Stanza,
        before: Before,
    ) {
        match stanza.kind {
            Kind::Message => self.message_to_known(core, hand, to, stanza, before),
            Kind::Presence => self.presence_to_user(core, hand, to, stanza),
            Kind::Iq => self.iq_to_user(core, hand, to, stanza),
        }
    }

    /// Storage answered what it knows of a user (an error: it is unavailable).
    pub(crate) fn user_known(&mut self, core: &mut Core, bare: &str, known: Result<&Known, &()>) {
        let user = Jid::from_wire(bare);
        let closing = self.is_closing(&user);
        let Some(mut deferred) = self.deferred.remove(&user) else {
            return;
        };
        if closing {
            deferred
                .iter_mut()
                .for_each(|deferred| deferred.asked = false);
            self.deferred.insert(user, deferred);
            return;
        }
        let mut left = deferred.into_iter();
        let mut later = Vec::new();
        while let Some(deferred) = left.next() {
            if deferred.asks() && !deferred.asked {
                later.push(deferred);
                later.extend(left);
                break;
            }
            let Deferred {
                to,
                hand,
                stanza,
                trace_context,
                replay,
                ..
            } = deferred;
            core.trace_context = trace_context;
            let online = self.sessions_of(&user).next().is_some();
            let message = stanza.kind == Kind::Message;
            let given = replay && self.was_given(&hand, &to);
            let stored = hand.key.sibling(Purpose::Offline);
            let before = match known {
                _ if !replay || !message => Before::Nothing,
                Ok(known) if known.stored.contains(&stored) => Before::Stored,
                _ if given => Before::Given,
                _ => Before::Unknown,
            };
            match known {
                // The session that had it has ended while this waited.
                _ if given && !message => {}
                _ if online || !message => {
                    self.give_user(core, hand, &to, stanza, before, known.ok());
                }
                Ok(known) if known.exists => {
                    self.give_user(core, hand, &to, stanza, before, Some(known));
                }
                Ok(_) => self.message_unavailable(hand, &stanza),
                Err(()) => self.storage_unavailable(hand, &stanza),
            }
            core.part_done(hand.operation);
        }
        core.trace_context = TraceContext::default();
        if !later.is_empty() {
            self.deferred.insert(user.clone(), later);
            self.ask_user(core, &user);
        }
    }
}

#[cfg(test)]
#[path = "replay_tests.rs"]
mod tests;
