//! What is served at each domain, and by which modules.

use std::collections::BTreeMap;

use sestina_config::Config;
use sestina_config::modules::ModulesAt;
use sestina_router::hooks::Pipelines;
use sestina_router::modules::MODULES;
use sestina_router::services::Services;

/// The services of the cluster. Edge and router take their slots from it, so that both agree.
pub(super) fn services(config: &Config) -> Services {
    let mut services = Services::default();
    for host in &config.host {
        services = services
            .with_host(&host.domain, !host.anonymous)
            .with_rooms(&host.muc_domain(), [host.domain.as_str()]);
    }
    for rooms in &config.rooms {
        let listed_by = rooms.listed_by.iter().map(String::as_str);
        services = services.with_rooms(&rooms.domain, listed_by);
        if let Some(target) = &rooms.slots_of {
            services = services.with_slots_of(&rooms.domain, target);
        }
    }
    services
}

/// The modules of each domain.
pub(super) fn modules(config: &Config) -> BTreeMap<String, ModulesAt> {
    let off = [
        ("mam", !config.router.archive),
        ("carbons", !config.router.carbons),
    ];
    let mut modules = config.modules.at().clone();
    for at in modules.values_mut() {
        for (name, _) in off.iter().filter(|(_, is_off)| *is_off) {
            *at = std::mem::take(at).without(name);
        }
    }
    modules
}

/// The handlers of each domain.
pub fn pipelines(config: &Config) -> Pipelines {
    Pipelines::new(MODULES, &modules(config))
}
