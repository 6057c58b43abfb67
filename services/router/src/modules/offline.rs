//! XEP-0160 v1.0.1: messages for users without a reachable session are stored.

use sestina_xmpp::ext::offline::should_store;

use crate::hooks::{Action, Meta, Module, Point, Registrar, Stage};

pub(crate) struct Offline;

impl Module for Offline {
    fn meta(&self) -> &'static Meta {
        &Meta {
            name: "offline",
            specs: &[("XEP-0160", "1.0.1")],
            host_features: &[sestina_xmpp::ns::OFFLINE],
            account_features: &[],
        }
    }

    fn register(&self, registrar: &mut Registrar<'_>) {
        registrar.observer(
            Point::Undeliverable,
            Stage::Index,
            should_store,
            |context, _, actions| {
                if context.has_account && context.config.offline_limit > 0 {
                    actions.push(Action::StoreOffline);
                }
            },
        );
    }
}
