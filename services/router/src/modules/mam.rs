//! XEP-0313 v1.1.3: the user's archive, with result sets of XEP-0059 v1.0.1.
//!
//! Left out: preferences (XEP-0441), the archive's metadata (§5), pages by index (XEP-0059 §2.3).

use std::sync::Arc;

use sestina_api::store::ARCHIVE_PAGE;
use sestina_config::modules::{Settings, SettingsType, Wrong};
use sestina_config::section;
use sestina_proto as proto;
use sestina_xmpp::ext::archive_rules::should_archive;
use sestina_xmpp::ext::mam::{self, Query, Request};
use sestina_xmpp::ns;
use sestina_xmpp::stanza::Stanza;
use sestina_xmpp::stanza::error::Condition;

use crate::hooks::{
    Action, IqContext, IqTarget, MessageContext, Meta, Module, Point, Registrar, Stage,
};

pub(crate) struct Mam;

section! {
    /// Archives of users (XEP-0313).
    pub(crate) struct MamSettings {
        /// Messages of a page if the client names no number.
        default_page: u32 = 50;
        /// Most messages of a page; a client that asks for more gets these, and asks for the next page. At most 1000.
        max_page: u32 = 250;
    }
}

impl Settings for MamSettings {
    fn check(&self) -> Result<(), Wrong> {
        if !(1..=ARCHIVE_PAGE).contains(&self.max_page) {
            return Err(Wrong {
                option: "max_page",
                reason: format!("must be from 1 to {ARCHIVE_PAGE}"),
            });
        }
        if !(1..=self.max_page).contains(&self.default_page) {
            return Err(Wrong {
                option: "default_page",
                reason: format!("must be from 1 to max_page, which is {}", self.max_page),
            });
        }
        Ok(())
    }
}

impl Module for Mam {
    fn meta(&self) -> &'static Meta {
        &Meta {
            name: "mam",
            specs: &[("XEP-0313", "1.1.3"), ("XEP-0059", "1.0.1")],
            host_features: &[],
            account_features: &[ns::MAM, ns::RSM],
        }
    }

    fn settings(&self) -> Option<SettingsType> {
        Some(SettingsType::of::<MamSettings>())
    }

    fn register(&self, registrar: &mut Registrar<'_>) {
        let settings: Arc<MamSettings> = registrar.settings();
        for point in [Point::MessageOut, Point::MessageIn, Point::Undeliverable] {
            registrar.observer(point, Stage::Archive, should_archive, archive);
        }
        registrar.iq(
            IqTarget::Account,
            false,
            ns::MAM,
            "query",
            |context, _, _| {
                if context.anonymous {
                    vec![Action::Error(Condition::ServiceUnavailable, None)]
                } else {
                    vec![Action::Result(Some(mam::fields()))]
                }
            },
        );
        registrar.iq(
            IqTarget::Account,
            true,
            ns::MAM,
            "query",
            move |context, stanza, _| query(context, stanza, &settings),
        );
        registrar.iq(IqTarget::OtherAccount, true, ns::MAM, "query", |_, _, _| {
            vec![Action::Error(Condition::Forbidden, None)]
        });
    }
}

fn archive(context: &MessageContext<'_>, _: &Stanza, actions: &mut Vec<Action>) {
    if context.has_account {
        actions.push(Action::Archive);
    }
}

fn query(context: &IqContext<'_>, stanza: &Stanza, settings: &MamSettings) -> Vec<Action> {
    if context.anonymous {
        return vec![Action::Error(Condition::ServiceUnavailable, None)];
    }
    match Request::parse(stanza) {
        Some(Ok(Request::Query(query))) => match to_request(context, &query, settings) {
            Ok(request) => vec![Action::QueryArchive {
                request: Box::new(request),
                queryid: query.query_id,
                flip: query.flip_page,
            }],
            Err(condition) => vec![Action::Error(condition, None)],
        },
        Some(Err(error)) => vec![Action::Error(error.condition(), Some(error.to_string()))],
        _ => vec![Action::Error(Condition::BadRequest, None)],
    }
}

fn to_request(
    context: &IqContext<'_>,
    query: &Query,
    settings: &MamSettings,
) -> Result<proto::ArchiveQueryRequest, Condition> {
    if query.page.index.is_some() {
        return Err(Condition::FeatureNotImplemented);
    }
    // §4.1.3 and XEP-0059 §2.1: ids we never gave are not in the archive.
    let id = |text: &String| parse_id(text).ok_or(Condition::ItemNotFound);
    let rsm_before = query.page.before.as_ref().filter(|b| !b.is_empty());
    let after = query.page.after.as_ref().or(query.after_id.as_ref());
    let before = rsm_before.or(query.before_id.as_ref());
    Ok(proto::ArchiveQueryRequest {
        archive: context.to.bare_str().to_owned(),
        with_bare: query
            .with
            .as_ref()
            .map(|w| w.bare_str().to_owned())
            .unwrap_or_default(),
        with_resource: query
            .with
            .as_ref()
            .and_then(|w| w.resource())
            .unwrap_or_default()
            .to_owned(),
        start_ms: query.start_ms,
        end_ms: query.end_ms,
        after: after.map(id).transpose()?.unwrap_or_default().into(),
        before: before.map(id).transpose()?.unwrap_or_default().into(),
        backwards: query.page.is_backwards(),
        max: query
            .page
            .max
            .map_or(settings.default_page, |max| max.min(settings.max_page)),
        max_bytes: 0,
        ids: query
            .ids
            .iter()
            .map(|text| id(text).map(Into::into))
            .collect::<Result<_, _>>()?,
    })
}

/// A stanza-id as this server writes it: 32 hexadecimal digits.
fn parse_id(text: &str) -> Option<Vec<u8>> {
    if text.len() != 32 {
        return None;
    }
    u128::from_str_radix(text, 16)
        .ok()
        .map(|id| id.to_be_bytes().to_vec())
}

#[cfg(test)]
mod tests {
    use super::super::testing::{asks, refused};
    use super::*;

    fn page(modules: &str, max: &str) -> u32 {
        let payload = format!(
            "<query xmlns='{}'><set xmlns='{}'>{max}</set></query>",
            ns::MAM,
            ns::RSM
        );
        match &asks(modules, "set", &payload)[..] {
            [Action::QueryArchive { request, .. }] => request.max,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_page_has_the_limits_of_its_host() {
        let small = "[host.modules.mam]\ndefault_page = 5\nmax_page = 20";
        let (twelve, many) = ("<max>12</max>", "<max>1000</max>");
        assert_eq!(
            (page("", ""), page("", twelve), page("", many)),
            (50, 12, 250)
        );
        assert_eq!(
            (page(small, ""), page(small, twelve), page(small, many)),
            (5, 12, 20)
        );
    }

    #[test]
    fn limits_that_no_page_can_have_are_refused() {
        for (text, wanted) in [
            (
                "max_page = 1001",
                "`modules.mam.max_page`: must be from 1 to 1000",
            ),
            ("max_page = 0", "`modules.mam.max_page`: must be"),
            (
                "max_page = 40",
                "`modules.mam.default_page`: must be from 1 to max_page, which is 40",
            ),
        ] {
            let error = refused(&format!("[modules.mam]\n{text}"));
            assert!(error.contains(wanted), "{error}");
        }
    }
}
