//! The pipeline of each domain.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use foldhash::fast::RandomState;
use sestina_config::modules::ModulesAt;
use sestina_xmpp::stanza::Stanza;

use super::{Module, Pipeline, Point};

/// A pipeline, and the domains that have it.
type Group = (Vec<String>, Arc<Pipeline>);

/// See the module.
#[derive(Debug)]
pub struct Pipelines {
    /// At least one.
    groups: Vec<Group>,
    /// Of all domains, if there is one pipeline only; else of domains that are not named.
    usual: Arc<Pipeline>,
    /// Empty if there is one pipeline only.
    by_domain: HashMap<String, Arc<Pipeline>, RandomState>,
}

impl Pipelines {
    /// Makes the pipelines of these domains. Domains with the same modules and settings share one. Without any domain, all
    /// have all modules, with the defaults of their settings.
    pub fn new(modules: &[&'static dyn Module], at: &BTreeMap<String, ModulesAt>) -> Pipelines {
        let mut groups: Vec<(&ModulesAt, Vec<String>)> = Vec::new();
        for (domain, at) in at {
            match groups.iter_mut().find(|(same, _)| *same == at) {
                Some((_, domains)) => domains.push(domain.clone()),
                None => groups.push((at, vec![domain.clone()])),
            }
        }
        let groups = groups.into_iter();
        let groups = groups.map(|(at, domains)| (domains, Arc::new(Pipeline::with(modules, at))));
        Pipelines::of_groups(modules, groups.collect())
    }

    fn of_groups(modules: &[&'static dyn Module], mut groups: Vec<Group>) -> Pipelines {
        let mut by_domain = HashMap::default();
        let usual = match groups.as_slice() {
            [(_, only)] => only.clone(),
            _ => Arc::new(Pipeline::new(modules)),
        };
        if groups.is_empty() {
            groups.push((Vec::new(), usual.clone()));
        }
        if groups.len() > 1 {
            for (domains, pipeline) in &groups {
                by_domain.extend(domains.iter().map(|d| (d.clone(), pipeline.clone())));
            }
        }
        Pipelines {
            groups,
            usual,
            by_domain,
        }
    }

    /// The pipeline of a domain: that of the user or room whose handlers run.
    pub fn of(&self, domain: &str) -> &Arc<Pipeline> {
        if self.by_domain.is_empty() {
            return &self.usual;
        }
        self.by_domain.get(domain).unwrap_or(&self.usual)
    }

    /// Each pipeline, with the domains that have it.
    pub fn groups(&self) -> &[(Vec<String>, Arc<Pipeline>)] {
        &self.groups
    }

    /// Whether a handler of a point may have to do with a message at any domain.
    pub(crate) fn concern(&self, point: Point, stanza: &Stanza) -> bool {
        let mut pipelines = self.groups.iter().map(|(_, pipeline)| pipeline);
        pipelines.any(|pipeline| pipeline.concerns(point, stanza))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hooks::IqTarget;
    use crate::modules::{MODULES, declared};
    use sestina_config::Config;
    use sestina_xmpp::ns;

    fn pipelines(text: &str) -> Pipelines {
        let config = Config::read(&declared(), text).expect("a configuration");
        Pipelines::new(MODULES, config.modules.at())
    }

    fn blocks(pipelines: &Pipelines, domain: &str) -> bool {
        let features = pipelines.of(domain).features(IqTarget::Host);
        features.contains(ns::BLOCKING)
    }

    const TWO: &str = "[[host]]\ndomain = \"a.test\"\n[[host]]\ndomain = \"b.test\"\n[host.modules";

    #[test]
    fn domains_with_the_same_modules_and_settings_share_a_pipeline() {
        for text in [
            "",
            "[modules]\ndisabled = [\"vcard\"]",
            &format!("{TWO}]\ndisabled = []"),
            &format!("{TWO}.blocking]\nmax_list_bytes = \"64KiB\""),
        ] {
            let pipelines = pipelines(text);
            assert_eq!(pipelines.groups().len(), 1, "{text}");
            assert!(pipelines.by_domain.is_empty(), "{text}");
        }
    }

    #[test]
    fn a_host_without_a_module_has_a_pipeline_without_its_handlers() {
        let pipelines = pipelines(&format!("{TWO}]\ndisabled = [\"blocking\"]"));
        assert_eq!(pipelines.groups().len(), 2);
        assert!(blocks(&pipelines, "a.test") && !blocks(&pipelines, "b.test"));
        let of = |domain: &str| pipelines.of(domain);
        assert!(of("a.test").has("blocking") && of("b.test").has("vcard"));
        assert!(of("b.test").residents().is_empty());
        assert!(Arc::ptr_eq(of("b.test"), of("conference.b.test")));
    }

    #[test]
    fn a_module_that_is_needed_stays_whatever_a_list_says() {
        let at = ModulesAt::default().without("disco").without("ping");
        let pipeline = Pipeline::with(MODULES, &at);
        assert!(pipeline.has("disco") && !pipeline.has("ping"));
    }
}
