//! For tests of modules: a host whose configuration they write.

use sestina_config::Config;
use sestina_xmpp::jid::Jid;
use sestina_xmpp::stanza::{Kind, Stanza};
use sestina_xmpp::xml::Element;

use super::{MODULES, declared};
use crate::config::RouterConfig;
use crate::hooks::{Action, IqContext, IqTarget, Loaded, Pipelines};

/// What the modules do with an IQ of a user for the user's own account. `modules` are sections of the configuration.
pub(super) fn asks(modules: &str, type_: &str, payload: &str) -> Vec<Action> {
    let text = format!("[[host]]\ndomain = \"a.test\"\n{modules}");
    let config = Config::read(&declared(), &text).expect("a configuration");
    let pipelines = Pipelines::new(MODULES, config.modules.at());
    let mut stanza = Stanza::new(Kind::Iq);
    stanza.type_ = type_.to_owned();
    stanza.id = "1".to_owned();
    stanza.push_element(&Element::parse(payload.as_bytes()).expect("an element"));
    let from = Jid::from_wire("juliet@a.test/balcony");
    let pipeline = pipelines.of(from.domain());
    let context = IqContext {
        from: &from,
        to: &from.bare(),
        anonymous: false,
        sessions: 1,
        resources: &[],
        data: &Loaded::default(),
        pipeline,
        config: &RouterConfig::default(),
        wall_ms: 0,
    };
    pipeline.iq(IqTarget::Account, &context, &stanza)
}

/// Why a configuration is refused.
pub(super) fn refused(text: &str) -> String {
    let refused = Config::read(&declared(), text);
    refused.expect_err("a mistake").to_string()
}
