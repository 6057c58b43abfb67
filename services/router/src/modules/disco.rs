//! XEP-0030 v2.5: what hosts, accounts and MUC services are. Features follow from registration.

use sestina_xmpp::ext::disco::{Identity, Info, Item, items};
use sestina_xmpp::ns;
use sestina_xmpp::stanza::error::Condition;
use sestina_xmpp::xml::Element;

use crate::hooks::{Action, IqContext, IqTarget, Meta, Module, Registrar};
use crate::services::ServiceKind;

pub(crate) struct Disco;

impl Module for Disco {
    fn meta(&self) -> &'static Meta {
        &Meta {
            name: "disco",
            specs: &[("XEP-0030", "2.5.0")],
            host_features: &[],
            account_features: &[],
        }
    }

    fn is_required(&self) -> bool {
        true
    }

    fn register(&self, registrar: &mut Registrar<'_>) {
        registrar.iq(
            IqTarget::Host,
            false,
            ns::DISCO_INFO,
            "query",
            |context, _, query| {
                info(
                    context,
                    query,
                    IqTarget::Host,
                    Identity::new("server", "im", "Sestina"),
                )
            },
        );
        registrar.iq(
            IqTarget::Host,
            false,
            ns::DISCO_ITEMS,
            "query",
            |context, _, query| {
                let listed = context.config.services.listed_by(context.to.domain());
                let items: Vec<Item> = listed
                    .into_iter()
                    .map(|(domain, kind)| Item::new(domain, name_of(kind)))
                    .collect();
                listing(query, &items)
            },
        );
        registrar.iq(
            IqTarget::Account,
            false,
            ns::DISCO_INFO,
            "query",
            |context, _, query| {
                let kind = if context.anonymous {
                    "anonymous"
                } else {
                    "registered"
                };
                info(
                    context,
                    query,
                    IqTarget::Account,
                    Identity::new("account", kind, ""),
                )
            },
        );
        registrar.iq(
            IqTarget::Account,
            false,
            ns::DISCO_ITEMS,
            "query",
            |context, _, query| {
                let resources: Vec<Item> = context
                    .resources
                    .iter()
                    .map(|jid| Item::new(jid.as_str(), None))
                    .collect();
                listing(query, &resources)
            },
        );
        // §8, rule 2: of another's account nothing is told, and not whether there is one.
        registrar.iq(
            IqTarget::OtherAccount,
            false,
            ns::DISCO_ITEMS,
            "query",
            |_, _, query| vec![Action::Result(Some(items(query.attr("node"), &[])))],
        );
    }
}

/// The name of a service for people.
fn name_of(kind: ServiceKind) -> Option<&'static str> {
    match kind {
        ServiceKind::Host { .. } => None,
        ServiceKind::Rooms => Some("Rooms"),
    }
}

/// disco#info of a target; nodes are not known here (§3.2).
pub(super) fn info(
    context: &IqContext<'_>,
    query: &Element,
    target: IqTarget,
    identity: Identity,
) -> Vec<Action> {
    if query.attr("node").is_some_and(|node| !node.is_empty()) {
        return vec![Action::Error(Condition::ItemNotFound, None)];
    }
    let features = context.pipeline.features(target);
    let info = Info::new(identity).with_features(features);
    vec![Action::Result(Some(info.to_element()))]
}

/// disco#items of a target.
pub(super) fn listing(query: &Element, list: &[Item]) -> Vec<Action> {
    if query.attr("node").is_some_and(|node| !node.is_empty()) {
        return vec![Action::Error(Condition::ItemNotFound, None)];
    }
    vec![Action::Result(Some(items(None, list)))]
}
