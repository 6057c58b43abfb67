//! The pipeline: all handlers in the order in which they run.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};

use sestina_config::modules::ModulesAt;
use sestina_xmpp::stanza::error::Condition;
use sestina_xmpp::stanza::{Child, Stanza};

use super::registrar::{Bounce, Collected, IqKey, IqTarget, Registrar};
use super::{
    Action, DataType, IqContext, Loaded, MessageContext, Meta, Module, Point, RoomHandlers, Stage,
    StanzaContext,
};

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

/// [`IqKey`] of a stanza in hand.
type AskedKey<'a> = (IqTarget, bool, &'a str, &'a str);

/// The only child of an IQ, and the key of its handler; none if there is not exactly one child.
fn iq_key(target: IqTarget, stanza: &Stanza) -> Option<(Child<'_>, AskedKey<'_>)> {
    let (child, set) = only_child(stanza)?;
    let key = (target, set, child.ns, child.name);
    Some((child, key))
}

/// The only child of an IQ get or set, and whether it is a set; none if there is not exactly one child.
pub(super) fn only_child(stanza: &Stanza) -> Option<(Child<'_>, bool)> {
    let mut children = stanza.children();
    let (child, None) = (children.next()?, children.next()) else {
        return None;
    };
    Some((child, stanza.type_ == "set"))
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
    /// Registers all modules in order, with the defaults of their settings.
    pub fn new(modules: &[&'static dyn Module]) -> Pipeline {
        Pipeline::with(modules, &ModulesAt::default())
    }

    /// Registers the modules that are switched on, in order, with their settings.
    pub fn with(modules: &[&'static dyn Module], at: &ModulesAt) -> Pipeline {
        let mut collected = Collected::default();
        let mut metas = Vec::new();
        for module in modules {
            let meta = module.meta();
            if !at.has(meta.name) && !module.is_required() {
                continue;
            }
            metas.push(meta);
            let written = at.settings(meta.name).cloned();
            let defaults = || module.settings().map(|settings| settings.default_value());
            module.register(&mut Registrar {
                module: meta.name,
                settings: written.or_else(defaults),
                collected: &mut collected,
            });
        }
        // Stable: ties keep the order of the list of modules.
        collected.filters.sort_by_key(|f| (f.point, f.stage));
        collected.observers.sort_by_key(|o| (o.point, o.stage));
        collected.stanza_filters.sort_by_key(|f| (f.0, f.1));
        collected.rooms.sort();
        Pipeline { collected, metas }
    }

    /// The handlers of rooms.
    pub(super) fn rooms(&self) -> &RoomHandlers {
        &self.collected.rooms
    }

    /// Whether a handler of a point may have to do with a message, whichever session gets it.
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

    /// Runs the stanza filters that modules have registered for a hook point. `data` is the resident data of the user
    /// whose session sends the stanza (`StanzaOut`) or is to receive it (`StanzaIn`).
    pub(crate) fn filter_stanza(
        &self,
        point: Point,
        context: &StanzaContext<'_>,
        data: &Loaded,
        stanza: &Stanza,
    ) -> Result<(), Bounce> {
        let filters = self.collected.stanza_filters.iter();
        for (_, _, _, filter) in filters.filter(|f| f.0 == point) {
            filter(context, data, stanza)?;
        }
        Ok(())
    }

    /// Whether filters of stanzas need the data with that name.
    pub(crate) fn is_resident(&self, name: &str) -> bool {
        self.collected
            .residents
            .iter()
            .any(|data| data.name == name)
    }

    /// The names of the data that the filters of stanzas need.
    pub(crate) fn resident_names(&self) -> Vec<String> {
        let data = self.collected.residents.iter();
        data.map(|data| data.name.to_owned()).collect()
    }

    /// The data that the filters of stanzas need.
    pub(crate) fn residents(&self) -> &[DataType] {
        &self.collected.residents
    }

    /// Runs the observers of a point.
    pub(crate) fn observe(
        &self,
        point: Point,
        context: &MessageContext<'_>,
        stanza: &Stanza,
    ) -> Vec<Action> {
        let mut actions = Vec::new();
        let observers = self.collected.observers.iter();
        for observer in observers.filter(|o| o.point == point) {
            if (observer.concerns)(stanza) {
                (observer.handler)(context, stanza, &mut actions);
            }
        }
        actions
    }

    /// Answers an IQ get or set (RFC 6120 §8.2.3): `bad-request` without exactly one child,
    /// `service-unavailable` if no module handles it.
    pub(crate) fn iq(
        &self,
        target: IqTarget,
        context: &IqContext<'_>,
        stanza: &Stanza,
    ) -> Vec<Action> {
        let Some((child, key)) = iq_key(target, stanza) else {
            let text = "an IQ get or set has exactly one child".to_owned();
            return vec![Action::Error(Condition::BadRequest, Some(text))];
        };
        let iqs: &HashMap<AskedKey<'_>, _> = &self.collected.iqs;
        let Some((_, handler)) = iqs.get(&key) else {
            return vec![Action::Error(Condition::ServiceUnavailable, None)];
        };
        match sestina_xmpp::xml::Element::parse(child.xml) {
            Ok(payload) => handler(context, stanza, &payload),
            Err(_) => vec![Action::Error(Condition::BadRequest, None)],
        }
    }

    /// The data that the handler of an IQ needs.
    pub(crate) fn iq_needs<'a>(&'a self, target: IqTarget, stanza: &'a Stanza) -> &'a [DataType] {
        let all: &HashMap<AskedKey<'_>, Vec<DataType>> = &self.collected.needs;
        let needs = iq_key(target, stanza).and_then(|(_, key)| all.get(&key));
        needs.map_or(&[], Vec::as_slice)
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

    /// All handlers of messages and of stanzas in order.
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
        let stanza_filters = &self.collected.stanza_filters;
        let stanza_filters = stanza_filters.iter().map(|f| PipelineEntry {
            point: f.0,
            stage: f.1,
            module: f.2,
            filter: true,
        });
        let rooms = self.collected.rooms.entries();
        let rooms = rooms.map(|(point, stage, module, filter)| PipelineEntry {
            point,
            stage,
            module,
            filter,
        });
        let all = stanza_filters.chain(filters).chain(observers);
        let mut all: Vec<_> = all.chain(rooms).collect();
        all.sort_by_key(|e| (e.point, e.stage));
        all
    }

    /// All IQ handlers, sorted.
    pub fn iq_entries(&self) -> Vec<(IqTarget, bool, &'static str, &'static str, &'static str)> {
        let mut all: Vec<_> = self
            .collected
            .iqs
            .iter()
            .map(|((target, set, ns, name), (module, _)): (&IqKey, _)| {
                (*target, *set, *ns, *name, *module)
            })
            .collect();
        let rooms = self.collected.rooms.iqs();
        all.extend(rooms.map(|((set, ns, name), module)| (IqTarget::Room, set, ns, name, module)));
        all.sort_unstable();
        all
    }

    /// The description of each module.
    pub fn metas(&self) -> &[&'static Meta] {
        &self.metas
    }

    /// Whether it has a module.
    pub(crate) fn has(&self, module: &str) -> bool {
        self.metas.iter().any(|meta| meta.name == module)
    }
}
