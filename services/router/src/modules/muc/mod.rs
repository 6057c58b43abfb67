//! XEP-0045 v1.35.5: what a MUC service and its rooms say of themselves (§6).
//!
//! The rooms themselves are in [`crate::room`]; each feature of rooms is a file here, on the points of rooms
//! ([`crate::hooks`]). A bare room: it lives while it has an occupant, is not listed, open, semi-anonymous. Left out:
//! configuration, affiliation lists, roles by request, registration.

mod history;
mod invitations;
mod limits;
mod owner;
mod subject;

use sestina_xmpp::ext::disco::{Identity, Info};
use sestina_xmpp::ns;
use sestina_xmpp::xml::Element;

use crate::hooks::{Action, IqTarget, Meta, Module, Registrar};

use super::disco::{info, listing};

/// Ids of messages come back as they were sent (§9.7).
const STABLE_ID: &str = "http://jabber.org/protocol/muc#stable_id";

pub(crate) struct Muc;

impl Module for Muc {
    fn meta(&self) -> &'static Meta {
        &Meta {
            name: "muc",
            specs: &[("XEP-0045", "1.35.5"), ("XEP-0410", "1.1.0")],
            host_features: &[],
            account_features: &[],
        }
    }

    fn is_required(&self) -> bool {
        true
    }

    fn register(&self, registrar: &mut Registrar<'_>) {
        limits::register(registrar);
        subject::register(registrar);
        history::register(registrar);
        owner::register(registrar);
        invitations::register(registrar);
        registrar.iq(
            IqTarget::MucService,
            false,
            ns::DISCO_INFO,
            "query",
            |context, _, query| {
                let mut actions = info(
                    context,
                    query,
                    IqTarget::MucService,
                    Identity::new("conference", "text", "Rooms"),
                );
                if let Some(Action::Result(Some(query))) = actions.first_mut() {
                    for feature in [ns::MUC, STABLE_ID] {
                        query.push(
                            Element::new("feature", ns::DISCO_INFO).with_attr("var", feature),
                        );
                    }
                }
                actions
            },
        );
        // Rooms are hidden (§6.3): none is listed.
        registrar.iq(
            IqTarget::MucService,
            false,
            ns::DISCO_ITEMS,
            "query",
            |_, _, query| listing(query, &[]),
        );
        registrar.iq(
            IqTarget::Room,
            false,
            ns::DISCO_INFO,
            "query",
            |context, _, _| {
                let name = context.to.local().unwrap_or_default();
                let features = [
                    ns::MUC,
                    ns::PING,
                    "muc_hidden",
                    "muc_open",
                    "muc_semianonymous",
                    "muc_temporary",
                    "muc_unmoderated",
                    "muc_unsecured",
                    "http://jabber.org/protocol/muc#self-ping-optimization",
                    STABLE_ID,
                ];
                let info =
                    Info::new(Identity::new("conference", "text", name)).with_features(features);
                vec![Action::Result(Some(info.to_element()))]
            },
        );
        registrar.iq(
            IqTarget::Room,
            false,
            ns::DISCO_ITEMS,
            "query",
            |_, _, query| {
                // §6.5: a room need not list its occupants; a bare room does not.
                listing(query, &[])
            },
        );
    }
}
