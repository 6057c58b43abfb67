//! XEP-0191 v1.3: users block other users, rooms and domains.
//!
//! A blocked address gets unavailable presence when it is blocked, if a session of the user has directed its presence
//! there (RFC 6121 §4.6), and may still be sent unavailable presence: a user leaves a room that it has blocked.

use bytes::Bytes;
use sestina_config::modules::{Settings, SettingsType, Wrong};
use sestina_config::{Size, section};
use sestina_xmpp::ext::blocking::{BlockList, Command, blocked_error};
use sestina_xmpp::ns;
use sestina_xmpp::stanza::error::{Condition, StanzaError};
use sestina_xmpp::stanza::{Kind, Stanza};
use sestina_xmpp::xml::Element;

use crate::hooks::{
    Action, Bounce, EntityData, IqContext, IqTarget, Meta, Module, Point, Registrar, Stage,
    StanzaContext, Written,
};

pub(crate) struct Blocking;

section! {
    /// Block lists of users (XEP-0191).
    pub(crate) struct BlockingSettings {
        /// Largest block list of a user; 64 KiB are some 2,000 addresses. Routers keep the lists of users with a session
        /// in memory. A larger list that is stored already stays in effect. At most 256 KiB.
        max_list_bytes: Size = Size::kib(64);
    }
}

/// The limit of `max_list_bytes`: the list is a part of the record of each session of the user.
const LARGEST_LIST: Size = Size::kib(256);

impl Settings for BlockingSettings {
    fn check(&self) -> Result<(), Wrong> {
        if (1..=*LARGEST_LIST).contains(&*self.max_list_bytes) {
            return Ok(());
        }
        Err(Wrong {
            option: "max_list_bytes",
            reason: format!(
                "must be from 1 byte to {LARGEST_LIST}; to do without block lists, add \"blocking\" to `disabled`"
            ),
        })
    }
}

impl EntityData for BlockList {
    const NAME: &'static str = "blocking";

    fn decode(bytes: Bytes) -> Result<BlockList, String> {
        BlockList::from_bytes(&bytes)
    }

    fn encode(&self) -> Bytes {
        self.to_bytes().into()
    }
}

impl Module for Blocking {
    fn meta(&self) -> &'static Meta {
        &Meta {
            name: "blocking",
            specs: &[("XEP-0191", "1.3")],
            host_features: &[ns::BLOCKING],
            account_features: &[],
        }
    }

    fn settings(&self) -> Option<SettingsType> {
        Some(SettingsType::of::<BlockingSettings>())
    }

    fn register(&self, registrar: &mut Registrar<'_>) {
        let most = *registrar.settings::<BlockingSettings>().max_list_bytes;
        let of_account = IqTarget::Account;
        // §3.2: a session that has asked for the list hears of its changes.
        let get = registrar.iq(
            of_account,
            false,
            ns::BLOCKING,
            "blocklist",
            |context, _, _| {
                let list = context.data.get::<BlockList>().cloned();
                let list = list.unwrap_or_default().to_element();
                let interest = Action::Interest(BlockList::NAME);
                vec![interest, Action::Result(Some(list))]
            },
        );
        let change = move |context: &IqContext<'_>, _: &Stanza, payload: &Element| {
            change(context, payload, most)
        };
        let block = registrar.iq(of_account, true, ns::BLOCKING, "block", change);
        let unblock = registrar.iq(of_account, true, ns::BLOCKING, "unblock", change);
        for iq in [get, block, unblock] {
            registrar.needs::<BlockList>(iq);
        }
        registrar.stanza_filter::<BlockList>(Point::StanzaOut, Stage::Policy, outbound);
        registrar.stanza_filter::<BlockList>(Point::StanzaIn, Stage::Policy, inbound);
    }
}

/// Blocks and unblocks addresses (§3.3 to §3.5). A list that grows has `most` bytes at the most.
fn change(context: &IqContext<'_>, payload: &Element, most: usize) -> Vec<Action> {
    let command = match Command::read(payload) {
        Ok(command) => command,
        Err((condition, text)) => return vec![Action::Error(condition, Some(text))],
    };
    let list = context.data.get::<BlockList>().cloned();
    let mut list = list.unwrap_or_default();
    list.apply(&command);
    let written = Written::new(&list);
    if written.value.len() > most && matches!(command, Command::Block(_)) {
        let text = format!("a block list has at most {most} bytes; unblock an address first");
        return vec![Action::Error(Condition::PolicyViolation, Some(text))];
    }
    let push = Action::Push(BlockList::NAME, command.to_element());
    let mut actions = vec![Action::Store(written, None), push];
    if let Command::Block(addresses) = command {
        actions.push(Action::WithdrawPresence(addresses));
    }
    actions
}

/// §3.3: what a user sends to a blocked address is refused.
fn outbound(context: &StanzaContext<'_>, list: &BlockList, stanza: &Stanza) -> Result<(), Bounce> {
    let leaves = stanza.kind == Kind::Presence && stanza.type_ == "unavailable";
    if leaves || !list.blocks(context.peer) {
        return Ok(());
    }
    match stanza.is_error() || (stanza.kind == Kind::Iq && stanza.type_ == "result") {
        true => Err(Bounce::silent()),
        false => Err(Bounce::with(blocked_error())),
    }
}

/// §3.3: a blocked address finds the user unavailable.
fn inbound(context: &StanzaContext<'_>, list: &BlockList, stanza: &Stanza) -> Result<(), Bounce> {
    if !list.blocks(context.peer) {
        return Ok(());
    }
    let is_answered = match stanza.kind {
        Kind::Presence => false,
        Kind::Message => !matches!(stanza.type_.as_str(), "error" | "groupchat" | "headline"),
        Kind::Iq => matches!(stanza.type_.as_str(), "get" | "set"),
    };
    match is_answered {
        true => Err(Bounce::with(StanzaError::new(
            Condition::ServiceUnavailable,
        ))),
        false => Err(Bounce::silent()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{asks, refused};
    use super::*;

    fn blocks(modules: &str, address: &str) -> Vec<Action> {
        let payload = format!(
            "<block xmlns='{}'><item jid='{address}'/></block>",
            ns::BLOCKING
        );
        asks(modules, "set", &payload)
    }

    #[test]
    fn a_list_has_the_limit_of_its_host() {
        let limit = "[host.modules.blocking]\nmax_list_bytes = 10";
        let fits = blocks(limit, "abc@b.test");
        assert!(matches!(fits[0], Action::Store(..)), "{fits:?}");
        let too_long = blocks(limit, "abcd@b.test");
        let [Action::Error(Condition::PolicyViolation, Some(text))] = &too_long[..] else {
            panic!("{too_long:?}");
        };
        assert!(text.contains("at most 10 bytes"), "{text}");
        assert!(matches!(blocks("", "abcd@b.test")[0], Action::Store(..)));
    }

    #[test]
    fn a_limit_that_no_list_can_have_is_refused() {
        for value in ["0", "\"512KiB\""] {
            let error = refused(&format!("[modules.blocking]\nmax_list_bytes = {value}"));
            let wanted = "`modules.blocking.max_list_bytes`: must be from 1 byte to 256KiB";
            assert!(error.contains(wanted), "{error}");
        }
    }

    #[test]
    fn where_the_module_is_off_its_requests_have_no_handler() {
        let off = blocks("[host.modules]\ndisabled = [\"blocking\"]", "abc@b.test");
        let refused = matches!(
            off[..],
            [Action::Error(Condition::ServiceUnavailable, None)]
        );
        assert!(refused, "{off:?}");
    }
}
