//! RFC 6121 §2: rosters. Contacts cannot be added yet, so everyone's roster is empty, and who asks
//! is told so: many clients go online only after they have read it. Not here: changing it (§2.3 to
//! §2.5), pushes, versions; until then the namespace is not announced either.

use sestina_xmpp::ns;
use sestina_xmpp::xml::Element;

use crate::hooks::{Action, IqTarget, Meta, Module, Registrar};

pub(crate) struct Roster;

impl Module for Roster {
    fn meta(&self) -> &'static Meta {
        &Meta {
            name: "roster",
            // RFC 6121 is the router's as a whole.
            specs: &[],
            host_features: &[],
            account_features: &[],
        }
    }

    fn is_required(&self) -> bool {
        true
    }

    fn register(&self, registrar: &mut Registrar<'_>) {
        // §2.1.4: the result of a get.
        let get = registrar.iq(
            IqTarget::Account,
            false,
            ns::IQ_ROSTER,
            "query",
            |_, _, _| vec![Action::Result(Some(Element::new("query", ns::IQ_ROSTER)))],
        );
        registrar.in_part(get);
    }
}
