//! What comes again after a takeover, at its addressee.
//!
//! Keys of what was handled are known to the owner that handled it. The owner after it knows what
//! edges and the shadow tell: what sessions have got. What was stored, storage knows: it is asked
//! about each message that an owner of a lower epoch may have stored, and about nothing else.

use sestina_api::key::EffectKind;
use sestina_xmpp::jid::Jid;
use sestina_xmpp::stanza::{Kind, Stanza};

use super::core::{Core, Job};
use super::input::Known;
use super::passage::Passage;
use super::receive::InHand;
use super::slot::Slot;
use super::work::WorkId;

/// A stanza that waits for what storage knows of its user, or behind one that does.
#[derive(Debug)]
pub(crate) struct Parked {
    to: Jid,
    hand: InHand,
    stanza: Stanza,
    passage: Passage,
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

impl Parked {
    /// Whether storage may know what became of it before.
    fn asks(&self) -> bool {
        self.replay && self.stanza.kind == Kind::Message
    }

    /// The work that waits for it.
    pub(crate) fn work(&self) -> WorkId {
        self.hand.work
    }
}

impl Slot {
    /// Handles an effect for a user, or lets it wait until it is known what became of it before.
    pub(super) fn effect_to_user(
        &mut self,
        core: &mut Core,
        hand: InHand,
        to: Jid,
        stanza: Stanza,
        replay: bool,
    ) {
        let message = stanza.kind == Kind::Message;
        if replay && !message && self.was_given(&hand, &to) {
            return;
        }
        let bare = to.bare();
        let accounts = core.config.has_accounts(to.domain());
        let online = self.sessions_of(&bare).next().is_some();
        if message && !online && !accounts {
            return self.message_unavailable(hand, &stanza);
        }
        // Nobody is online: storage knows whether the user exists. One that an owner before this one
        // may have stored: storage knows that, too. What follows waits its turn.
        let waiting = self.parked.contains_key(&bare);
        let ask = message && accounts && (replay || !online);
        if !waiting && !ask {
            return self.give_user(core, hand, &to, stanza, Before::Nothing);
        }
        core.works.part(hand.work);
        let parked = Parked {
            to,
            hand,
            stanza,
            passage: core.passage.clone(),
            replay,
            asked: false,
        };
        self.parked.entry(bare.clone()).or_default().push(parked);
        if !waiting {
            self.ask_user(core, &bare);
        }
    }

    /// Whether a session had it that is over, or whose address a later one has while its end is on
    /// its way here: if it is no message, another must not answer it again.
    fn was_given(&self, hand: &InHand, to: &Jid) -> bool {
        let place = (hand.key.origin, hand.key.n, hand.entity);
        self.given.contains(&place) || (self.any_restored && self.replaced_had(hand, to))
    }

    fn replaced_had(&self, hand: &InHand, to: &Jid) -> bool {
        let Some(addressed) = to.resource().and_then(|_| self.session_of(to)) else {
            return false;
        };
        self.sessions_of(&to.bare())
            .filter(|s| s.id != addressed && s.jid == *to)
            .any(|s| s.restored.contains(&hand.key))
    }

    /// Asks storage about a user, for all that waits.
    fn ask_user(&mut self, core: &mut Core, bare: &Jid) {
        let mut keys = Vec::new();
        for parked in self.parked.get_mut(bare).into_iter().flatten() {
            parked.asked = true;
            if parked.asks() {
                keys.push(parked.hand.key.sibling(EffectKind::Offline).into());
            }
        }
        core.jobs.push(Job::UserKnown {
            slot: self.slot,
            bare: bare.as_str().to_owned(),
            keys,
        });
    }

    fn give_user(
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

    /// Storage answered what it knows of a user (an error: it is away).
    pub(crate) fn user_known(&mut self, core: &mut Core, bare: &str, known: Result<&Known, &()>) {
        let user = Jid::from_wire(bare);
        let Some(parked) = self.parked.remove(&user) else {
            return;
        };
        let mut left = parked.into_iter();
        let mut later = Vec::new();
        while let Some(parked) = left.next() {
            if parked.asks() && !parked.asked {
                later.push(parked);
                later.extend(left);
                break;
            }
            let Parked {
                to,
                hand,
                stanza,
                passage,
                replay,
                ..
            } = parked;
            core.passage = passage;
            let online = self.sessions_of(&user).next().is_some();
            let message = stanza.kind == Kind::Message;
            let given = replay && self.was_given(&hand, &to);
            let stored = hand.key.sibling(EffectKind::Offline);
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
                    self.give_user(core, hand, &to, stanza, before);
                }
                Ok(known) if known.exists => self.give_user(core, hand, &to, stanza, before),
                Ok(_) => self.message_unavailable(hand, &stanza),
                Err(()) => self.storage_away(hand, &stanza),
            }
            core.part_done(hand.work);
        }
        core.passage = Passage::default();
        if !later.is_empty() {
            self.parked.insert(user.clone(), later);
            self.ask_user(core, &user);
        }
    }
}

#[cfg(test)]
#[path = "replay_tests.rs"]
mod tests;
