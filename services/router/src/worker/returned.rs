//! What a session that ended did not take: stored for its user, or sent back to who sent it.

use sestina_api::key::{EffectKey, EffectKind};
use sestina_xmpp::jid::Jid;
use sestina_xmpp::stanza::error::Condition;
use sestina_xmpp::stanza::{Kind, Stanza};

use super::core::Core;
use super::session::OutItem;
use super::slot::Slot;
use super::work::{OnDone, WorkId};

impl Slot {
    /// What a session did not acknowledge (XEP-0198 §5, last paragraphs): messages that no other
    /// session of the user got are stored, or go back to who sent them; works waiting for a second
    /// holder are closed by that.
    pub(super) fn return_unacknowledged(
        &mut self,
        core: &mut Core,
        id: u128,
        jid: &Jid,
        queue: Vec<(u64, OutItem)>,
        taken: u64,
        work: WorkId,
    ) {
        let user = jid.bare();
        let others: Vec<u128> = self.sessions_of(&user).map(|s| s.id).collect();
        for (number, mut item) in queue {
            let delivered = number <= taken;
            let kind = item.key.kind;
            let stored_before = kind & 0xff == EffectKind::Offline as u32;
            if !delivered && (kind == EffectKind::Route as u32 || stored_before) {
                let elsewhere = others.iter().any(|other| {
                    self.sessions
                        .get(other)
                        .is_some_and(|s| s.has_had(item.key))
                });
                let stanza = Stanza::from((*item.stanza).clone());
                if !elsewhere && stanza.kind == Kind::Message {
                    core.works.part(work);
                    let part = core.works.open(OnDone::Returned {
                        slot: self.slot,
                        session: id,
                        number,
                        ended: work,
                    });
                    // Its old row counts as delivered: this is another.
                    let key = match stored_before {
                        true => EffectKey {
                            kind: kind.wrapping_add(1 << 8),
                            ..item.key
                        },
                        false => item.key.sibling(EffectKind::Offline),
                    };
                    if core.config.has_accounts(user.domain())
                        && core.config.offline_limit > 0
                        && sestina_xmpp::ext::offline::should_store(&stanza)
                    {
                        self.store_offline(core, key, part, &user, &stanza, item.at_ms);
                    } else if !matches!(stanza.type_.as_str(), "error" | "headline" | "groupchat") {
                        let error = stanza.error_reply(Condition::RecipientUnavailable, None);
                        self.send_back(core, id, number, error, part);
                    }
                    core.part_done(part);
                }
            }
            if let Some(waiting) = item.work.take() {
                core.part_done(waiting);
            }
        }
    }

    /// Sends an error for the outbound stanza of that number, which a session that ended did not
    /// take and nobody keeps for it.
    pub(crate) fn send_back(
        &mut self,
        core: &mut Core,
        id: u128,
        number: u64,
        error: Stanza,
        work: WorkId,
    ) {
        let Some(session) = self.sessions.get(&id) else {
            return;
        };
        // Apart from those of rooms and contacts; the number is the same at each replay.
        const RETURNED: u32 = 1 << 20;
        let index = RETURNED | (number as u32 & (RETURNED - 1));
        let key = EffectKey::indexed(id, session.accepted + 1, EffectKind::Ended, index);
        let to = Jid::from_wire(&error.to);
        self.send_effect(core, id, key, &to, error, work);
    }
}
