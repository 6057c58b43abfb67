//! XEP-0199 v2.0.1: XMPP Ping, of hosts, accounts and rooms.

use sestina_xmpp::ns;

use crate::hooks::{Action, IqTarget, Meta, Module, Registrar};

pub(crate) struct Ping;

impl Module for Ping {
    fn meta(&self) -> &'static Meta {
        &Meta {
            name: "ping",
            specs: &[("XEP-0199", "2.0.1")],
            host_features: &[],
            account_features: &[],
        }
    }

    fn register(&self, registrar: &mut Registrar<'_>) {
        for target in [
            IqTarget::Host,
            IqTarget::Account,
            IqTarget::MucService,
            IqTarget::Room,
        ] {
            registrar.iq(target, false, ns::PING, "ping", |_, _, _| {
                vec![Action::Result(None)]
            });
        }
    }
}
