//! XEP-0203 v2.0 §4: takes out delays that claim to be by the addressee's server: only the server
//! itself says how long it kept something.

use sestina_xmpp::ext::delay::is_delay_by;
use sestina_xmpp::ns;
use sestina_xmpp::stanza::Stanza;

use crate::hooks::{Meta, Module, Point, Registrar, Stage};

pub(crate) struct Delay;

impl Module for Delay {
    fn meta(&self) -> &'static Meta {
        &Meta {
            name: "delay",
            specs: &[("XEP-0203", "2.0")],
            host_features: &[],
            account_features: &[],
        }
    }

    fn is_required(&self) -> bool {
        true
    }

    fn register(&self, registrar: &mut Registrar<'_>) {
        let concerns = |stanza: &Stanza| stanza.child(ns::DELAY, "delay").is_some();
        registrar.filter(
            Point::MessageIn,
            Stage::Sanitize,
            concerns,
            |context, stanza| {
                let server = context.user.domain();
                if stanza.children().any(|c| is_delay_by(&c, server)) {
                    stanza.to_mut().retain_children(|c| !is_delay_by(c, server));
                }
                Ok(())
            },
        );
    }
}
