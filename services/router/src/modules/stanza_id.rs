//! XEP-0359 v0.7.0 §3.1: takes out stanza-ids that claim to be this server's.

use sestina_xmpp::ext::stanza_id;

use crate::hooks::{Meta, Module, Point, Registrar, Stage};

pub(crate) struct StanzaId;

impl Module for StanzaId {
    fn meta(&self) -> &'static Meta {
        &Meta {
            name: "stanza_id",
            specs: &[("XEP-0359", "0.7.0")],
            host_features: &[],
            account_features: &[sestina_xmpp::ns::STANZA_ID],
        }
    }

    fn is_required(&self) -> bool {
        true
    }

    fn register(&self, registrar: &mut Registrar<'_>) {
        for point in [Point::MessageOut, Point::MessageIn] {
            registrar.filter(
                point,
                Stage::Sanitize,
                stanza_id::has_any,
                |context, stanza| {
                    let user = context.user.as_str();
                    if stanza.children().any(|c| stanza_id::is_void(&c, user)) {
                        stanza_id::strip(stanza.to_mut(), user);
                    }
                    Ok(())
                },
            );
        }
    }
}
