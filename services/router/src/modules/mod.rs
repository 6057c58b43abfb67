//! The features of the router, one file each. [`MODULES`] is the file to read first.

mod blocking;
mod carbons;
mod delay;
mod disco;
mod mam;
mod muc;
mod offline;
mod ping;
mod roster;
mod session;
mod stanza_id;
mod vcard;
mod version;

use sestina_config::modules::ModuleType;

use crate::hooks::Module;

/// All modules, in the order that decides ties within a stage.
pub const MODULES: &[&'static dyn Module] = &[
    &session::Session,
    &roster::Roster,
    &disco::Disco,
    &ping::Ping,
    &stanza_id::StanzaId,
    &delay::Delay,
    &mam::Mam,
    &offline::Offline,
    &carbons::Carbons,
    &muc::Muc,
    &version::Version,
    &vcard::VCards,
    &blocking::Blocking,
];

/// The declarations of all modules, for the configuration.
pub fn declared() -> Vec<ModuleType> {
    let declared = MODULES.iter().map(|module| ModuleType {
        name: module.meta().name,
        required: module.is_required(),
        settings: module.settings(),
    });
    declared.collect()
}

#[cfg(test)]
mod testing;

#[cfg(test)]
mod tests {
    use super::MODULES;
    use crate::hooks::Pipeline;

    #[test]
    fn the_order_of_the_pipeline_is_this() {
        let pipeline = Pipeline::new(MODULES);
        insta::assert_debug_snapshot!("pipeline", pipeline.entries());
    }

    #[test]
    fn the_iq_handlers_are_these() {
        let pipeline = Pipeline::new(MODULES);
        insta::assert_debug_snapshot!("iqs", pipeline.iq_entries());
    }
}
