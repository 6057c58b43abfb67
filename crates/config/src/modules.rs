//! Modules in the configuration. A module declares its settings itself ([`ModuleType`]); their sections, checks and
//! documentation follow from the declarations, which the caller hands to
//! [`Config::load`](crate::Config::load).
//!
//! `[modules]` holds for all domains. A host or a service of rooms has a section `modules` of its own for what differs
//! there. What is in effect at a domain is in [`ModulesAt`].

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use crate::error::ConfigError;
use crate::nearest::nearest_name;
use crate::sections::Config;
use crate::shape::{Field, Section, Shape, Shaped, options, table_of};

/// Settings of a module: a section that the module defines by [`section!`](crate::section).
pub trait Settings: Section + Send + Sync + 'static {
    /// Checks what the type of an option does not say.
    ///
    /// # Errors
    /// The option to change, and how.
    fn check(&self) -> Result<(), Wrong> {
        Ok(())
    }
}

/// The value of an option that a module cannot have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong {
    /// The option.
    pub option: &'static str,
    /// What is wrong, and what to do.
    pub reason: String,
}

/// The settings of a module as they are in effect at a domain.
#[derive(Clone)]
pub struct SettingsValue {
    typed: Arc<dyn Any + Send + Sync>,
    /// As they are written in the file.
    table: Table,
    /// Those that do not have their default.
    changed: Table,
}

impl SettingsValue {
    /// The value with these settings.
    pub fn new<T: Settings>(settings: T) -> SettingsValue {
        let (table, defaults) = (table_of(&settings), table_of(&T::default()));
        let changed = table.iter();
        let changed = changed.filter(|(key, value)| defaults.get(*key) != Some(value));
        SettingsValue {
            changed: changed.map(|(k, v)| (k.clone(), v.clone())).collect(),
            typed: Arc::new(settings),
            table,
        }
    }

    /// The settings; none if they are of another type.
    pub fn get<T: Settings>(&self) -> Option<Arc<T>> {
        self.typed.clone().downcast().ok()
    }
}

impl PartialEq for SettingsValue {
    fn eq(&self, other: &SettingsValue) -> bool {
        self.table == other.table
    }
}

impl fmt::Debug for SettingsValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.table, f)
    }
}

/// A type of settings, for the code that reads them without knowing it.
#[derive(Clone, Copy)]
pub struct SettingsType {
    doc: &'static [&'static str],
    options: fn() -> Vec<Field>,
    default: fn() -> SettingsValue,
    read: fn(Table) -> Result<SettingsValue, Wrong>,
}

impl SettingsType {
    /// The type `T`.
    pub fn of<T: Settings>() -> SettingsType {
        SettingsType {
            doc: T::DOC,
            options: options::<T>,
            default: || SettingsValue::new(T::default()),
            read: |table| {
                let settings = Value::Table(table).try_into::<T>();
                // Each option was checked by itself before.
                let settings = settings.map_err(|error| Wrong {
                    option: "",
                    reason: error.message().to_owned(),
                })?;
                settings.check()?;
                Ok(SettingsValue::new(settings))
            },
        }
    }

    /// The settings of which none is changed.
    pub fn default_value(&self) -> SettingsValue {
        (self.default)()
    }
}

/// The declaration of a module.
#[derive(Clone, Copy)]
pub struct ModuleType {
    /// Its name.
    pub name: &'static str,
    /// Other parts of the server need it: it cannot be switched off.
    pub required: bool,
    /// Its settings, if it has any.
    pub settings: Option<SettingsType>,
}

/// The modules of one domain.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ModulesAt {
    disabled: BTreeSet<String>,
    settings: BTreeMap<&'static str, SettingsValue>,
}

impl ModulesAt {
    /// The same with a module switched off.
    #[must_use]
    pub fn without(mut self, module: &str) -> ModulesAt {
        self.disabled.insert(module.to_owned());
        self
    }

    /// Whether a module is switched on.
    pub fn has(&self, module: &str) -> bool {
        !self.disabled.contains(module)
    }

    /// The settings of a module; none: their defaults.
    pub fn settings(&self, module: &str) -> Option<&SettingsValue> {
        self.settings.get(module)
    }

    /// Gives a hash all that is not the default: a version with more options has the same hash.
    pub(crate) fn hash_into(&self, domain: &str, mut hash: impl FnMut(&str)) {
        let changed = self.settings.iter().filter(|(_, v)| !v.changed.is_empty());
        let mut texts: Vec<String> = self.disabled.iter().cloned().collect();
        texts.push(String::new());
        texts.extend(changed.flat_map(|(name, v)| [(*name).to_owned(), v.changed.to_string()]));
        if texts.len() > 1 {
            hash("modules");
            hash(domain);
            texts.iter().for_each(|text| hash(text));
            hash("");
        }
    }
}

/// The section `[modules]`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Modules {
    disabled: Vec<String>,
    /// The settings of each module.
    #[serde(flatten)]
    settings: BTreeMap<String, Table>,
    /// What is in effect at each domain.
    #[serde(skip)]
    at: BTreeMap<String, ModulesAt>,
}

impl Modules {
    /// The modules of each domain.
    pub fn at(&self) -> &BTreeMap<String, ModulesAt> {
        &self.at
    }
}

/// The section `modules` of a host or a service of rooms.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct OwnModules {
    #[serde(skip_serializing_if = "Option::is_none")]
    disabled: Option<Vec<String>>,
    #[serde(flatten)]
    settings: BTreeMap<String, Table>,
}

impl Shaped for Modules {
    fn shape() -> Shape {
        let doc = &[
            "Modules that are switched off at all domains that have no list of their own, as in",
            "`[\"vcard\", \"blocking\"]`.",
        ];
        let none = Some(Value::Array(Vec::new()));
        Shape::Section(vec![disabled(doc, none)])
    }
}

impl Shaped for OwnModules {
    fn shape() -> Shape {
        let doc = &[
            "Modules that are switched off here, in place of those in `modules.disabled`; `[]`: none.",
            "Unset: as there.",
        ];
        Shape::Section(vec![disabled(doc, None)])
    }
}

fn disabled(doc: &'static [&'static str], default: Option<Value>) -> Field {
    Field {
        key: "disabled",
        doc,
        default,
        shape: Vec::<String>::shape(),
    }
}

/// The key of the sections of modules.
pub(crate) const KEY: &str = "modules";

/// Adds the sections that the modules declare, wherever there is a section `modules`.
pub(crate) fn add_sections(fields: &mut [Field], modules: &[ModuleType]) {
    for field in fields {
        match &mut field.shape {
            Shape::Leaf(_) => {}
            Shape::Section(inner) if field.key == KEY => inner.extend(sections(modules)),
            Shape::Section(inner) | Shape::Sections(inner) => add_sections(inner, modules),
        }
    }
}

/// The sections that the modules declare.
pub(crate) fn sections(modules: &[ModuleType]) -> impl Iterator<Item = Field> {
    modules.iter().filter_map(|module| {
        let settings = module.settings?;
        Some(Field {
            key: module.name,
            doc: settings.doc,
            default: None,
            shape: Shape::Section((settings.options)()),
        })
    })
}

/// Finds out which modules each domain has, with which settings, and what is wrong with them.
pub(crate) fn resolve(config: &mut Config, types: &[ModuleType]) -> Vec<ConfigError> {
    let mut resolve = Resolve {
        types,
        errors: Vec::new(),
    };
    let global = resolve.global(&mut config.modules);
    let mut at = BTreeMap::new();
    for host in &config.host {
        let place = Place {
            section: "host",
            domain: &host.domain,
        };
        let modules = resolve.own(&global, host.modules.as_ref(), place);
        at.insert(host.muc_domain(), modules.clone());
        at.insert(host.domain.clone(), modules);
    }
    for rooms in &config.rooms {
        let place = Place {
            section: "rooms",
            domain: &rooms.domain,
        };
        let base = at.get(&rooms.domain).unwrap_or(&global);
        let modules = resolve.own(base, rooms.modules.as_ref(), place);
        at.insert(rooms.domain.clone(), modules);
    }
    config.modules.at = at;
    resolve.errors
}

/// Where a section `modules` stands.
#[derive(Clone, Copy)]
struct Place<'a> {
    section: &'a str,
    domain: &'a str,
}

struct Resolve<'a> {
    types: &'a [ModuleType],
    errors: Vec<ConfigError>,
}

impl Resolve<'_> {
    /// The section for all domains; the defaults are filled in.
    fn global(&mut self, section: &mut Modules) -> ModulesAt {
        self.check_names(&section.disabled, None);
        let mut all = ModulesAt {
            disabled: section.disabled.iter().cloned().collect(),
            settings: BTreeMap::new(),
        };
        for module in self.types {
            let Some(settings) = module.settings else {
                continue;
            };
            let value = settings.default_value();
            let written = section.settings.get(module.name);
            let value = self.overlay((module.name, settings), value, written, None);
            let table = value.table.clone();
            section.settings.insert(module.name.to_owned(), table);
            all.settings.insert(module.name, value);
        }
        all
    }

    /// The section of one domain, over what holds without it.
    fn own(&mut self, base: &ModulesAt, own: Option<&OwnModules>, place: Place<'_>) -> ModulesAt {
        let mut all = base.clone();
        let Some(own) = own else { return all };
        if let Some(disabled) = &own.disabled {
            self.check_names(disabled, Some(place));
            all.disabled = disabled.iter().cloned().collect();
        }
        for module in self.types {
            let written = own.settings.get(module.name);
            if let (Some(settings), Some(value)) = (module.settings, base.settings.get(module.name))
            {
                let declared = (module.name, settings);
                let value = self.overlay(declared, value.clone(), written, Some(place));
                all.settings.insert(module.name, value);
            }
        }
        all
    }

    /// The settings of a module with those that are written in a section. If they are wrong, this notes the error and
    /// returns those before.
    fn overlay(
        &mut self,
        (module, settings): (&str, SettingsType),
        before: SettingsValue,
        written: Option<&Table>,
        place: Option<Place<'_>>,
    ) -> SettingsValue {
        let Some(written) = written else {
            return before;
        };
        let mut table = before.table.clone();
        table.extend(written.clone());
        match (settings.read)(table) {
            Ok(value) => value,
            Err(wrong) => {
                self.error(place, &format!("{module}.{}", wrong.option), wrong.reason);
                before
            }
        }
    }

    fn check_names(&mut self, names: &[String], place: Option<Place<'_>>) {
        for name in names {
            let known = self.types.iter().find(|module| module.name == name);
            let reason = match known {
                Some(module) if !module.required => continue,
                Some(_) => {
                    format!("other parts of the server need {name:?}; remove it from the list")
                }
                None => {
                    let optional = self.types.iter().filter(|module| !module.required);
                    let nearest = nearest_name(name, optional.map(|module| module.name));
                    let hint = nearest.map(|near| format!("; did you mean {near:?}?"));
                    format!("{name:?} is no module{}", hint.unwrap_or_default())
                }
            };
            self.error(place, "disabled", reason);
        }
    }

    fn error(&mut self, place: Option<Place<'_>>, option: &str, reason: String) {
        let (key, reason) = match place {
            None => (format!("{KEY}.{option}"), reason),
            Some(Place { section, domain }) => (
                format!("{section}.{KEY}.{option}"),
                format!("of {domain:?}: {reason}"),
            ),
        };
        self.errors.push(ConfigError::Invalid { key, reason });
    }
}

#[cfg(test)]
#[path = "modules_tests.rs"]
mod tests;
