//! XEP-0054 v1.3.0: vCards of users. Everybody on this server may read them (§7).

use bytes::Bytes;
use sestina_api::store::ENTITY_VALUE_BYTES;
use sestina_config::modules::{Settings, SettingsType, Wrong};
use sestina_config::{Size, section};
use sestina_xmpp::ext::vcard::VCard;
use sestina_xmpp::ns;
use sestina_xmpp::stanza::error::Condition;
use sestina_xmpp::xml::Element;

use crate::hooks::{Action, EntityData, IqContext, IqTarget, Meta, Module, Registrar, Written};

pub(crate) struct VCards;

section! {
    /// vCards of users (XEP-0054).
    pub(crate) struct VCardSettings {
        /// Largest vCard, with its photo; `edge.limits.stanza` is a limit, too. A larger vCard that is stored already
        /// stays. At most 1 MiB.
        max_bytes: Size = Size(ENTITY_VALUE_BYTES);
    }
}

impl Settings for VCardSettings {
    fn check(&self) -> Result<(), Wrong> {
        if (1..=ENTITY_VALUE_BYTES).contains(&*self.max_bytes) {
            return Ok(());
        }
        let most = Size(ENTITY_VALUE_BYTES);
        Err(Wrong {
            option: "max_bytes",
            reason: format!(
                "must be from 1 byte to {most}; to do without vCards, add \"vcard\" to `disabled`"
            ),
        })
    }
}

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

    fn settings(&self) -> Option<SettingsType> {
        Some(SettingsType::of::<VCardSettings>())
    }

    fn register(&self, registrar: &mut Registrar<'_>) {
        let most = *registrar.settings::<VCardSettings>().max_bytes;
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
            move |_, _, payload| vec![publish(payload, most)],
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

/// Stores a vCard of `most` bytes at the most that can be read again: an element may have more namespace declarations when it is written by itself
/// than it had in its stanza.
fn publish(payload: &Element, most: usize) -> Action {
    let vcard = VCard::from_element(payload).filter(VCard::is_readable);
    let Some(vcard) = vcard else {
        let text = "the vCard cannot be stored".to_owned();
        return Action::Error(Condition::BadRequest, Some(text));
    };
    let written = Written::new(&vcard);
    if written.value.len() > most {
        let text = format!("a vCard has at most {most} bytes; use a smaller photo");
        return Action::Error(Condition::PolicyViolation, Some(text));
    }
    Action::Store(written, None)
}

/// The vCard of the addressed user, or an error if there is none.
fn vcard_or(context: &IqContext<'_>, none: Condition) -> Action {
    match context.data.get::<VCard>() {
        Some(vcard) => Action::Result(Some(vcard.element().clone())),
        None => Action::Error(none, None),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{asks, refused};
    use super::*;

    #[test]
    fn a_vcard_has_the_limit_of_its_host() {
        let vcard = "<vCard xmlns='vcard-temp'><FN>Juliet Capulet</FN></vCard>";
        let stored = asks("", "set", vcard);
        assert!(matches!(stored[..], [Action::Store(..)]), "{stored:?}");
        let refused = asks("[host.modules.vcard]\nmax_bytes = 20", "set", vcard);
        let [Action::Error(Condition::PolicyViolation, Some(text))] = &refused[..] else {
            panic!("{refused:?}");
        };
        assert!(text.contains("at most 20 bytes"), "{text}");
    }

    #[test]
    fn a_limit_that_storage_does_not_have_is_refused() {
        let error = refused("[modules.vcard]\nmax_bytes = \"2MiB\"");
        assert!(
            error.contains("`modules.vcard.max_bytes`: must be"),
            "{error}"
        );
    }
}
