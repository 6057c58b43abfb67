//! XEP-0280 v1.0.1: copies of messages for the user's other devices.
//!
//! Left out: §6.1's rule that errors are copied when they answer a copied message: that needs a
//! memory of what was copied.

use sestina_xmpp::ext::carbons::{Direction, is_eligible};
use sestina_xmpp::ns;
use sestina_xmpp::stanza::Stanza;

use crate::hooks::{Action, IqTarget, MessageContext, Meta, Module, Point, Registrar, Stage};

pub(crate) struct Carbons;

impl Module for Carbons {
    fn meta(&self) -> &'static Meta {
        &Meta {
            name: "carbons",
            specs: &[("XEP-0280", "1.0.1")],
            host_features: &[ns::CARBONS, ns::CARBONS_RULES],
            account_features: &[ns::CARBONS, ns::CARBONS_RULES],
        }
    }

    fn register(&self, registrar: &mut Registrar<'_>) {
        let sent = |stanza: &Stanza| is_eligible(stanza, Direction::Sent, false);
        registrar.observer(Point::MessageOut, Stage::Mirror, sent, copies);
        let received = |stanza: &Stanza| is_eligible(stanza, Direction::Received, false);
        registrar.observer(Point::MessageIn, Stage::Mirror, received, copies);
        registrar.iq(IqTarget::Account, true, ns::CARBONS, "enable", |_, _, _| {
            vec![Action::SetCarbons(true), Action::Result(None)]
        });
        registrar.iq(
            IqTarget::Account,
            true,
            ns::CARBONS,
            "disable",
            |_, _, _| vec![Action::SetCarbons(false), Action::Result(None)],
        );
    }
}

fn copies(_: &MessageContext<'_>, _: &Stanza, actions: &mut Vec<Action>) {
    actions.push(Action::Carbons);
}
