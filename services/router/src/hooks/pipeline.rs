//! The pipeline: all handlers in the order in which they run.

use std::borrow::Cow;
use std::collections::BTreeSet;

use sestina_xmpp::stanza::Stanza;
use sestina_xmpp::stanza::error::Condition;

use super::registrar::{Bounce, Collected, IqKey, IqTarget, Registrar};
use super::{Effect, IqContext, MessageContext, Meta, Module, Point, Stage};

/// One line of `sestina pipeline`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub struct PipelineEntry {
    /// Hook point.
    pub point: Point,
    /// Stage.
    pub stage: Stage,
    /// Module.
    pub module: &'static str,
    /// Whether it may stop the stanza.
    pub filter: bool,
}

/// See the module.
pub struct Pipeline {
    collected: Collected,
    metas: Vec<&'static Meta>,
}

impl std::fmt::Debug for Pipeline {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.entries()).finish()
    }
}

impl Pipeline {
    /// Registers all modules in order.
    pub fn new(modules: &[&'static dyn Module]) -> Pipeline {
        let mut collected = Collected::default();
        let mut metas = Vec::new();
        for module in modules {
            let meta = module.meta();
            metas.push(meta);
            module.register(&mut Registrar {
                module: meta.name,
                collected: &mut collected,
            });
        }
        // Stable: ties keep the order of the list of modules.
        collected.filters.sort_by_key(|f| (f.point, f.stage));
        collected.observers.sort_by_key(|o| (o.point, o.stage));
        Pipeline { collected, metas }
    }

    /// Whether a handler of a point may have to do with a message, whoever gets it.
    pub(crate) fn concerns(&self, point: Point, stanza: &Stanza) -> bool {
        let filters = self.collected.filters.iter();
        let observers = self.collected.observers.iter();
        let mut both = filters
            .map(|f| (f.point, f.concerns))
            .chain(observers.map(|o| (o.point, o.concerns)));
        both.any(|(at, concerns)| at == point && concerns(stanza))
    }

    /// Runs the filters of a point.
    pub(crate) fn filter(
        &self,
        point: Point,
        context: &MessageContext<'_>,
        stanza: &mut Cow<'_, Stanza>,
    ) -> Result<(), Bounce> {
        for filter in self.collected.filters.iter().filter(|f| f.point == point) {
            if (filter.concerns)(stanza) {
                (filter.handler)(context, stanza)?;
            }
        }
        Ok(())
    }

    /// Runs the observers of a point.
    pub(crate) fn observe(
        &self,
        point: Point,
        context: &MessageContext<'_>,
        stanza: &Stanza,
    ) -> Vec<Effect> {
        let mut effects = Vec::new();
        let observers = self.collected.observers.iter();
        for observer in observers.filter(|o| o.point == point) {
            if (observer.concerns)(stanza) {
                (observer.handler)(context, stanza, &mut effects);
            }
        }
        effects
    }

    /// Answers an IQ get or set (RFC 6120 §8.2.3): `bad-request` without exactly one child,
    /// `service-unavailable` if nobody handles it.
    pub(crate) fn iq(
        &self,
        target: IqTarget,
        context: &IqContext<'_>,
        stanza: &Stanza,
    ) -> Vec<Effect> {
        let mut children = stanza.children();
        let (Some(child), None) = (children.next(), children.next()) else {
            let text = "an IQ get or set has exactly one child".to_owned();
            return vec![Effect::Error(Condition::BadRequest, Some(text))];
        };
        let set = stanza.type_ == "set";
        let found = self.collected.iqs.iter().find(|((t, s, ns, name), _)| {
            *t == target && *s == set && *ns == child.ns && *name == child.name
        });
        let Some((_, (_, handler))) = found else {
            return vec![Effect::Error(Condition::ServiceUnavailable, None)];
        };
        match sestina_xmpp::xml::Element::parse(child.xml) {
            Ok(payload) => handler(context, stanza, &payload),
            Err(_) => vec![Effect::Error(Condition::BadRequest, None)],
        }
    }

    /// disco#info features of a target (XEP-0030): those of the modules and of the IQ handlers.
    pub fn features(&self, target: IqTarget) -> BTreeSet<&'static str> {
        let mut features: BTreeSet<&'static str> = BTreeSet::new();
        for meta in &self.metas {
            let list = match target {
                IqTarget::Account => meta.account_features,
                IqTarget::Host => meta.host_features,
                IqTarget::OtherAccount | IqTarget::MucService | IqTarget::Room => &[],
            };
            features.extend(list);
        }
        features.extend(
            self.collected
                .iqs
                .keys()
                .filter(|k| k.0 == target && !self.collected.in_part.contains(k))
                .map(|k| k.2),
        );
        features
    }

    /// All message handlers in order.
    pub fn entries(&self) -> Vec<PipelineEntry> {
        let filters = self.collected.filters.iter().map(|f| PipelineEntry {
            point: f.point,
            stage: f.stage,
            module: f.module,
            filter: true,
        });
        let observers = self.collected.observers.iter().map(|o| PipelineEntry {
            point: o.point,
            stage: o.stage,
            module: o.module,
            filter: false,
        });
        let mut all: Vec<_> = filters.chain(observers).collect();
        all.sort_by_key(|e| (e.point, e.stage));
        all
    }

    /// All IQ handlers, sorted, and what rooms answer without a module (`room`).
    pub fn iq_entries(&self) -> Vec<(IqTarget, bool, &'static str, &'static str, &'static str)> {
        let mut all: Vec<_> = self
            .collected
            .iqs
            .iter()
            .map(|((target, set, ns, name), (module, _)): (&IqKey, _)| {
                (*target, *set, *ns, *name, *module)
            })
            .collect();
        let room = crate::room::ANSWERS.into_iter();
        all.extend(room.map(|(set, ns, name)| (IqTarget::Room, set, ns, name, "room")));
        all.sort_unstable();
        all
    }

    /// What each module is.
    pub fn metas(&self) -> &[&'static Meta] {
        &self.metas
    }
}
