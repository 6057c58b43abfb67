//! RFC 3921 §3: session establishment, a no-op that old clients still ask for (RFC 6121 app. E).

use sestina_xmpp::ns;

use crate::hooks::{Action, IqTarget, Meta, Module, Registrar};

pub(crate) struct Session;

impl Module for Session {
    fn meta(&self) -> &'static Meta {
        &Meta {
            name: "session",
            specs: &[("RFC 3921", "2004")],
            host_features: &[],
            account_features: &[],
        }
    }

    fn is_required(&self) -> bool {
        true
    }

    fn register(&self, registrar: &mut Registrar<'_>) {
        for target in [IqTarget::Account, IqTarget::Host] {
            registrar.iq(target, true, ns::SESSION, "session", |_, _, _| {
                vec![Action::Result(None)]
            });
        }
    }
}
