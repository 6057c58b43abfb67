//! XEP-0160 v1.0.1: messages for users of whom nobody is there are kept.

use sestina_xmpp::ext::offline::should_store;

use crate::hooks::{Effect, Meta, Module, Point, Registrar, Stage};

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
            |context, _, effects| {
                if context.has_account && context.config.offline_limit > 0 {
                    effects.push(Effect::StoreOffline);
                }
            },
        );
    }
}
