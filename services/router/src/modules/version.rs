//! XEP-0092 v1.1: which software this is. The operating system is not told (§5).

use sestina_xmpp::ns;
use sestina_xmpp::xml::Element;

use crate::hooks::{Action, IqTarget, Meta, Module, Registrar};

pub(crate) struct Version;

impl Module for Version {
    fn meta(&self) -> &'static Meta {
        &Meta {
            name: "version",
            specs: &[("XEP-0092", "1.1")],
            host_features: &[],
            account_features: &[],
        }
    }

    fn register(&self, registrar: &mut Registrar<'_>) {
        for target in [IqTarget::Host, IqTarget::MucService] {
            registrar.iq(target, false, ns::VERSION, "query", |_, _, _| {
                let child = |name, text: &str| Element::new(name, ns::VERSION).with_text(text);
                let query = Element::new("query", ns::VERSION)
                    .with_child(child("name", "Sestina"))
                    .with_child(child("version", env!("CARGO_PKG_VERSION")));
                vec![Action::Result(Some(query))]
            });
        }
    }
}
