//! Effects of one session's request on the other sessions of the user: IQs that are pushed to them, and unavailable
//! presence that is sent in their names.

use std::sync::Arc;

use sestina_api::key::{IdempotencyKey, Purpose};
use sestina_proto as proto;
use sestina_xmpp::jid::Jid;
use sestina_xmpp::stanza::{Kind, Stanza};
use sestina_xmpp::xml::Element;

use super::core::Core;
use super::operations::OperationId;
use super::slot::Slot;

impl Slot {
    /// Notes that a session wants the pushes with this name. The operation waits until a second process has the record of
    /// the session.
    pub(super) fn interest(
        &mut self,
        core: &mut Core,
        id: u128,
        name: &str,
        operation: OperationId,
    ) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        session.channel.state_dirty |= session.client.interests.insert(name.to_owned());
        self.keep_registry(core, id, operation);
    }

    /// Pushes an IQ set to the sessions of a user that want the pushes with this name. The `n`-th stanza of session `id`
    /// causes it.
    pub(super) fn push(
        &mut self,
        core: &mut Core,
        (id, n, operation): (u128, u64, OperationId),
        name: &str,
        payload: &Element,
    ) {
        let Some(session) = self.sessions.get(&id) else {
            return;
        };
        let user = session.channel.jid.bare();
        let sessions = self.sessions_of(&user);
        let interested = sessions.filter(|session| session.client.interests.contains(name));
        let targets: Vec<(u128, Jid)> = interested
            .map(|session| (session.channel.id, session.channel.jid.clone()))
            .collect();
        let key = IdempotencyKey::new(id, n, Purpose::Push);
        for (target, full) in targets {
            let mut iq = Stanza::new(Kind::Iq);
            iq.type_ = "set".to_owned();
            iq.id = format!("push-{:016x}-{n}", id as u64);
            iq.from = user.as_str().to_owned();
            iq.to = full.as_str().to_owned();
            iq.push_element(payload);
            let iq = Arc::new(proto::Stanza::from(iq));
            self.deliver_to(core, target, key, iq, Some(operation));
        }
    }

    /// Sends unavailable presence of a user's sessions to those addressees of their directed presence (RFC 6121 §4.6)
    /// that are within one of these addresses. The `n`-th stanza of a session of the user causes it.
    pub(super) fn withdraw_presence(
        &mut self,
        core: &mut Core,
        (id, n, operation): (u128, u64, OperationId),
        from: &[Jid],
    ) {
        let Some(session) = self.sessions.get(&id) else {
            return;
        };
        let user = session.channel.jid.bare();
        let mut withdrawn = Vec::new();
        for other in self.users.get(&user).cloned().unwrap_or_default() {
            let Some(session) = self.sessions.get_mut(&other) else {
                continue;
            };
            let is_other = |to: &Jid| to.bare_str() != user.as_str();
            let is_one =
                |to: &Jid| is_other(to) && from.iter().any(|address| to.is_within(address));
            let gone = session.client.directed.extract_if(|to| is_one(to));
            let gone: Vec<Jid> = gone.collect();
            if gone.is_empty() {
                continue;
            }
            session.channel.state_dirty = true;
            let full = session.channel.jid.clone();
            withdrawn.extend(gone.into_iter().map(|to| (full.clone(), to)));
            self.keep_registry(core, other, operation);
        }
        // The order of a set differs from one owner to the next, and with it the keys would.
        withdrawn.sort_unstable();
        for (index, (full, to)) in withdrawn.into_iter().enumerate() {
            let index = u32::try_from(index).unwrap_or(u32::MAX);
            let key = IdempotencyKey::indexed(id, n, Purpose::Ended, index);
            let stanza = Slot::unavailable_of(&full, &to);
            self.send_message(core, id, key, &to, stanza, operation);
        }
    }
}
