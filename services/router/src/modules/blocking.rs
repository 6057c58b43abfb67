//! XEP-0191 v1.3: users block other users, rooms and domains.
//!
//! A blocked address gets unavailable presence when it is blocked, if a session of the user has directed its presence
//! there (RFC 6121 §4.6), and may still be sent unavailable presence: a user leaves a room that it has blocked.

use bytes::Bytes;
use sestina_xmpp::ext::blocking::{BlockList, Command, blocked_error};
use sestina_xmpp::ns;
use sestina_xmpp::stanza::error::{Condition, StanzaError};
use sestina_xmpp::stanza::{Kind, Stanza};
use sestina_xmpp::xml::Element;

use crate::hooks::{
    Action, Bounce, EntityData, IqContext, IqTarget, Meta, Module, Point, Registrar, Stage,
    StanzaContext, Written,
};

/// Bytes of a user's list as it is stored: some 2,000 addresses. Routers keep it in memory.
const LIST_BYTES: usize = 64 << 10;

pub(crate) struct Blocking;

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

    fn register(&self, registrar: &mut Registrar<'_>) {
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
        let block = registrar.iq(of_account, true, ns::BLOCKING, "block", change);
        let unblock = registrar.iq(of_account, true, ns::BLOCKING, "unblock", change);
        for iq in [get, block, unblock] {
            registrar.needs::<BlockList>(iq);
        }
        registrar.stanza_filter::<BlockList>(Point::StanzaOut, Stage::Policy, outbound);
        registrar.stanza_filter::<BlockList>(Point::StanzaIn, Stage::Policy, inbound);
    }
}

/// Blocks and unblocks addresses (§3.3 to §3.5).
fn change(context: &IqContext<'_>, _: &Stanza, payload: &Element) -> Vec<Action> {
    let command = match Command::read(payload) {
        Ok(command) => command,
        Err((condition, text)) => return vec![Action::Error(condition, Some(text))],
    };
    let list = context.data.get::<BlockList>().cloned();
    let mut list = list.unwrap_or_default();
    list.apply(&command);
    let written = Written::new(&list);
    if written.value.len() > LIST_BYTES && matches!(command, Command::Block(_)) {
        let text = format!("a block list has at most {LIST_BYTES} bytes; unblock an address first");
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
