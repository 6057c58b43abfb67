//! XEP-0054 v1.3.0: vCards of users. Everybody on this server may read them (§7).

use bytes::Bytes;
use sestina_xmpp::ext::vcard::VCard;
use sestina_xmpp::ns;
use sestina_xmpp::stanza::error::Condition;
use sestina_xmpp::xml::Element;

use crate::hooks::{Action, EntityData, IqContext, IqTarget, Meta, Module, Registrar, Written};

pub(crate) struct VCards;

impl EntityData for VCard {
    const NAME: &'static str = "vcard";

    fn decode(bytes: Bytes) -> Result<VCard, String> {
        VCard::from_bytes(&bytes).map_err(|error| error.to_string())
    }

    fn encode(&self) -> Bytes {
        self.to_bytes().into()
    }
}

impl Module for VCards {
    fn meta(&self) -> &'static Meta {
        &Meta {
            name: "vcard",
            specs: &[("XEP-0054", "1.3.0")],
            host_features: &[ns::VCARD],
            account_features: &[],
        }
    }

    fn register(&self, registrar: &mut Registrar<'_>) {
        // §3.1: a client reads the vCard of its own user.
        let own = registrar.iq(
            IqTarget::Account,
            false,
            ns::VCARD,
            "vCard",
            |context, _, _| vec![vcard_or(context, Condition::ItemNotFound)],
        );
        // §3.2: a client publishes the vCard of its own user.
        let set = registrar.iq(
            IqTarget::Account,
            true,
            ns::VCARD,
            "vCard",
            |_, _, payload| vec![publish(payload)],
        );
        // §3.3: the error is the same if the user has no vCard and if the user does not exist.
        let others = registrar.iq(
            IqTarget::OtherAccount,
            false,
            ns::VCARD,
            "vCard",
            |context, _, _| vec![vcard_or(context, Condition::ServiceUnavailable)],
        );
        for iq in [own, set, others] {
            registrar.needs::<VCard>(iq);
        }
        registrar.iq(
            IqTarget::OtherAccount,
            true,
            ns::VCARD,
            "vCard",
            |_, _, _| {
                let text = "only its owner may change a vCard".to_owned();
                vec![Action::Error(Condition::Forbidden, Some(text))]
            },
        );
    }
}

/// Stores a vCard that can be read again: an element may have more namespace declarations when it is written by itself
/// than it had in its stanza.
fn publish(payload: &Element) -> Action {
    let text = "the vCard cannot be stored";
    match VCard::from_element(payload) {
        Some(vcard) if vcard.is_readable() => Action::Store(Written::new(&vcard), None),
        _ => Action::Error(Condition::BadRequest, Some(text.to_owned())),
    }
}

/// The vCard of the addressed user, or an error if there is none.
fn vcard_or(context: &IqContext<'_>, none: Condition) -> Action {
    match context.data.get::<VCard>() {
        Some(vcard) => Action::Result(Some(vcard.element().clone())),
        None => Action::Error(none, None),
    }
}
