//! Reading and merging: a file, the environment over it, overrides over both.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use sestina_xmpp::jid::prepare_domain;
use toml::{Table, Value};

use crate::error::{ConfigError, ConfigErrors};
use crate::modules::{self, ModuleType};
use crate::nearest::{by_flat_name, join, nearest};
use crate::sections::{Config, Host};
use crate::shape::{Field, Leaf, Shape, options};
use crate::values::Secret;

/// The prefix of environment variables; sections and keys follow, separated by two underscores:
/// `SESTINA__EDGE__LIMITS__DEPTH`.
pub const ENV_PREFIX: &str = "SESTINA__";

impl Config {
    /// Reads the file (none: defaults), then applies the variables of `env` that begin with
    /// [`ENV_PREFIX`], then the overrides (`edge.limits.depth=16`). All errors are collected. The
    /// result is the effective configuration, with names filled in and secrets read from their
    /// files; the caller still runs [`Config::check`] for the role. `modules` are all modules of the
    /// program.
    pub fn load(
        modules: &[ModuleType],
        path: Option<&Path>,
        env: impl IntoIterator<Item = (String, String)>,
        overrides: &[String],
    ) -> Result<Config, ConfigErrors> {
        let mut table = match path {
            Some(path) => read(path)?,
            None => Table::new(),
        };
        let fields = fields(modules);
        let mut errors = Vec::new();
        if let Some(path) = path {
            let walk = Walk {
                origin: path.display().to_string(),
                root: &fields,
            };
            walk.table(&table, &fields, "", &mut errors);
        }
        let mut variables: Vec<(String, String)> = Vec::new();
        for (name, text) in env {
            if name.starts_with(ENV_PREFIX) {
                variables.push((name, text));
            } else {
                errors.extend(meant_otherwise(&name, &fields));
            }
        }
        // In order of their names, so that list elements are added in order.
        variables.sort();
        for (name, text) in variables {
            let key = name[ENV_PREFIX.len()..].to_lowercase().replace("__", ".");
            let walk = Walk {
                origin: format!("environment variable {name}"),
                root: &fields,
            };
            errors.extend(walk.set(&mut table, &key, &text).err());
        }
        for text in overrides {
            let Some((key, text)) = text.split_once('=') else {
                errors.push(ConfigError::BadOverride(text.clone()));
                continue;
            };
            let walk = Walk {
                origin: "command line".to_owned(),
                root: &fields,
            };
            errors.extend(walk.set(&mut table, key.trim(), text).err());
        }
        if !errors.is_empty() {
            return Err(ConfigErrors(errors));
        }
        Config::finish(table, modules)
    }

    /// The same for a text instead of a file, without environment, overrides and modules.
    pub fn from_toml(text: &str) -> Result<Config, ConfigErrors> {
        Config::read(&[], text)
    }

    /// The same for a text instead of a file, without environment and overrides.
    pub fn read(modules: &[ModuleType], text: &str) -> Result<Config, ConfigErrors> {
        let table = parse(text, Path::new("configuration"))?;
        let fields = fields(modules);
        let mut errors = Vec::new();
        let walk = Walk {
            origin: "configuration".to_owned(),
            root: &fields,
        };
        walk.table(&table, &fields, "", &mut errors);
        if errors.is_empty() {
            Config::finish(table, modules)
        } else {
            Err(ConfigErrors(errors))
        }
    }

    fn finish(table: Table, modules: &[ModuleType]) -> Result<Config, ConfigErrors> {
        // Each value was checked against its option, so this cannot fail for a single value.
        let mut config: Config =
            Value::Table(table)
                .try_into()
                .map_err(|error: toml::de::Error| ConfigError::Type {
                    origin: "configuration".to_owned(),
                    key: String::new(),
                    reason: error.message().to_owned(),
                })?;
        config.fill_in()?;
        config.normalise_domains();
        let mut errors = modules::resolve(&mut config, modules);
        errors.extend(config.check_values().err().into_iter().flat_map(|e| e.0));
        if errors.is_empty() {
            Ok(config)
        } else {
            Err(ConfigErrors(errors))
        }
    }

    /// Converts internationalised domains from the ASCII form (`xn--…`) to the form that addresses
    /// of clients have (RFC 7622 §3.2.1). An invalid domain stays as it is, and the checks report
    /// it.
    fn normalise_domains(&mut self) {
        let hosts = self.host.iter_mut();
        let of_hosts = hosts.flat_map(|host| [&mut host.domain, &mut host.muc]);
        let of_rooms = self.rooms.iter_mut().flat_map(|rooms| {
            let others = rooms.listed_by.iter_mut().chain(&mut rooms.slots_of);
            others.chain([&mut rooms.domain])
        });
        for domain in of_hosts.chain(of_rooms) {
            if domain.contains("xn--")
                && let Ok(Cow::Owned(normal)) = prepare_domain(domain)
            {
                *domain = normal;
            }
        }
    }

    /// Fills in options that depend on the machine or on other options, and reads secrets from
    /// files.
    fn fill_in(&mut self) -> Result<(), ConfigErrors> {
        if self.node.name.is_empty() {
            self.node.name = host_name();
        }
        if self.host.is_empty() {
            self.host.push(Host {
                domain: "localhost".to_owned(),
                ..Host::default()
            });
        }
        for host in &mut self.host {
            host.muc = host.muc_domain();
        }
        if self.router.workers == 0 {
            self.router.workers = std::thread::available_parallelism().map_or(1, usize::from);
        }
        self.cluster
            .advertise
            .get_or_insert_with(|| self.cluster.listen.to_string());
        self.admin
            .socket
            .get_or_insert_with(|| self.node.data_dir.join("admin.sock"));
        let secrets = [
            (
                "redis.password",
                &mut self.redis.password,
                &self.redis.password_file,
            ),
            ("storage.url", &mut self.storage.url, &self.storage.url_file),
        ];
        let errors: Vec<ConfigError> = secrets
            .into_iter()
            .filter_map(|(key, value, file)| secret(key, value, file.as_ref()).err())
            .collect();
        if errors.is_empty() {
            Ok(())
        } else {
            Err(ConfigErrors(errors))
        }
    }
}

/// Finds a variable that would name an option if its parts were separated by two underscores. It is
/// an error, because an operator relies on it. Other variables with this prefix (such as those that
/// Kubernetes sets for a service of that name) are ignored.
fn meant_otherwise(name: &str, fields: &[Field]) -> Option<ConfigError> {
    let flat = name.strip_prefix("SESTINA_")?.to_lowercase();
    let key = by_flat_name(&flat, fields)?;
    Some(ConfigError::Variable {
        name: name.to_owned(),
        nearest: crate::docs::variable(&key),
    })
}

/// The options of the top level, with those that the modules declare.
fn fields(modules: &[ModuleType]) -> Vec<Field> {
    let mut fields = options::<Config>();
    modules::add_sections(&mut fields, modules);
    fields
}

fn secret(
    key: &str,
    value: &mut Option<Secret>,
    file: Option<&PathBuf>,
) -> Result<(), ConfigError> {
    let Some(file) = file else { return Ok(()) };
    if value.is_some() {
        let reason = format!("both `{key}` and `{key}_file` are set; remove one of them");
        return Err(ConfigError::Invalid {
            key: key.to_owned(),
            reason,
        });
    }
    let text = std::fs::read_to_string(file).map_err(|error| ConfigError::Invalid {
        key: format!("{key}_file"),
        reason: format!("cannot read {}: {}", file.display(), said(&error)),
    })?;
    let text = text.trim_end_matches(['\r', '\n']);
    if text.is_empty() {
        let reason = format!("the file {} is empty", file.display());
        return Err(ConfigError::Invalid {
            key: format!("{key}_file"),
            reason,
        });
    }
    *value = Some(Secret::new(text));
    Ok(())
}

fn read(path: &Path) -> Result<Table, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|error| ConfigError::Read {
        path: path.to_owned(),
        reason: said(&error),
    })?;
    parse(&text, path)
}

/// The system's error, without its number.
fn said(error: &std::io::Error) -> String {
    let text = error.to_string();
    let end = text.find(" (os error ").unwrap_or(text.len());
    text[..end].to_owned()
}

fn parse(text: &str, path: &Path) -> Result<Table, ConfigError> {
    text.parse::<Table>().map_err(|error| {
        let line = error
            .span()
            .map(|span| text[..span.start].matches('\n').count() + 1);
        let at = line.map_or(String::new(), |line| format!("line {line}: "));
        // Only the message: the rendered error quotes the line, which may hold a secret.
        let reason = format!("{at}{}", error.message().trim().replace('\n', "; "));
        ConfigError::Syntax {
            path: path.to_owned(),
            reason,
        }
    })
}

fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .ok()
        .or_else(|| std::env::var("HOSTNAME").ok())
        .map(|name| name.trim().to_owned())
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "sestina".to_owned())
}

/// Checks keys and values of one origin against the options.
struct Walk<'a> {
    origin: String,
    root: &'a [Field],
}

impl Walk<'_> {
    fn table(&self, table: &Table, fields: &[Field], prefix: &str, errors: &mut Vec<ConfigError>) {
        for (name, value) in table {
            let key = join(prefix, name);
            let Some(field) = fields.iter().find(|field| field.key == name) else {
                errors.push(self.unknown(&key));
                continue;
            };
            match (&field.shape, value) {
                (Shape::Leaf(leaf), value) => errors.extend(self.fits(leaf, value, &key).err()),
                (Shape::Section(inner), Value::Table(table)) => {
                    self.table(table, inner, &key, errors);
                }
                (Shape::Section(_), _) => {
                    errors.push(self.wrong(&key, format!("write a section `[{key}]`")));
                }
                (Shape::Sections(inner), Value::Array(items)) => {
                    for item in items {
                        match item {
                            Value::Table(table) => self.table(table, inner, &key, errors),
                            _ => errors.push(self.wrong(&key, blocks(&key))),
                        }
                    }
                }
                (Shape::Sections(_), _) => errors.push(self.wrong(&key, blocks(&key))),
            }
        }
    }

    fn set(&self, table: &mut Table, key: &str, text: &str) -> Result<(), ConfigError> {
        let parts: Vec<&str> = key.split('.').collect();
        self.set_in(table, self.root, &parts, key, text)
    }

    fn set_in(
        &self,
        table: &mut Table,
        fields: &[Field],
        parts: &[&str],
        key: &str,
        text: &str,
    ) -> Result<(), ConfigError> {
        let (name, rest) = parts.split_first().ok_or_else(|| self.unknown(key))?;
        let field = fields
            .iter()
            .find(|field| field.key == *name)
            .ok_or_else(|| self.unknown(key))?;
        match &field.shape {
            Shape::Leaf(leaf) if rest.is_empty() => {
                let value = self.read_text(leaf, text, key)?;
                table.insert((*name).to_owned(), value);
                Ok(())
            }
            Shape::Leaf(_) => Err(self.unknown(key)),
            Shape::Section(_) if rest.is_empty() => {
                Err(self.wrong(key, "is a section; name one of its keys".to_owned()))
            }
            Shape::Section(inner) => {
                let entry = table
                    .entry(*name)
                    .or_insert_with(|| Value::Table(Table::new()));
                let wrong = || self.wrong(key, format!("write a section `[{name}]`"));
                let table = entry.as_table_mut().ok_or_else(wrong)?;
                self.set_in(table, inner, rest, key, text)
            }
            Shape::Sections(inner) => {
                let entry = table
                    .entry(*name)
                    .or_insert_with(|| Value::Array(Vec::new()));
                let items = entry
                    .as_array_mut()
                    .ok_or_else(|| self.wrong(key, blocks(name)))?;
                let (index, rest) = rest
                    .split_first()
                    .and_then(|(index, rest)| Some((index.parse::<usize>().ok()?, rest)))
                    .filter(|(index, rest)| *index <= items.len() && !rest.is_empty())
                    .ok_or_else(|| {
                        let next = items.len();
                        let reason = format!("say which, from `{name}.0` to `{name}.{next}`");
                        self.wrong(key, reason)
                    })?;
                if index == items.len() {
                    items.push(Value::Table(Table::new()));
                }
                let table = items[index]
                    .as_table_mut()
                    .ok_or_else(|| self.wrong(key, blocks(name)))?;
                self.set_in(table, inner, rest, key, text)
            }
        }
    }

    /// Reads a value from outside the file, which has no quotes: texts are taken as they are, other
    /// values as in TOML, and lists also with commas between their elements.
    fn read_text(&self, leaf: &Leaf, text: &str, key: &str) -> Result<Value, ConfigError> {
        let plain = Value::String(text.to_owned());
        let typed = typed(text);
        let mut candidates = vec![plain.clone()];
        candidates.extend(typed.clone());
        if leaf.list {
            let parts: Vec<&str> = text
                .split(',')
                .map(str::trim)
                .filter(|part| !part.is_empty())
                .collect();
            let texts = parts
                .iter()
                .map(|part| Value::String((*part).to_owned()))
                .collect();
            candidates.push(Value::Array(texts));
        }
        if let Some(value) = candidates
            .into_iter()
            .find(|value| (leaf.check)(value).is_ok())
        {
            return Ok(value);
        }
        let shown = typed.unwrap_or(plain);
        self.fits(leaf, &shown, key).map(|()| shown)
    }

    fn fits(&self, leaf: &Leaf, value: &Value, key: &str) -> Result<(), ConfigError> {
        (leaf.check)(value).map_err(|reason| {
            // The reason quotes the value, which is not allowed for a secret.
            let reason = if leaf.kind == "secret" {
                "expected a string".to_owned()
            } else {
                reason
            };
            self.wrong(key, reason)
        })
    }

    fn wrong(&self, key: &str, reason: String) -> ConfigError {
        ConfigError::Type {
            origin: self.origin.clone(),
            key: key.to_owned(),
            reason,
        }
    }

    fn unknown(&self, key: &str) -> ConfigError {
        ConfigError::Unknown {
            origin: self.origin.clone(),
            key: key.to_owned(),
            nearest: nearest(key, self.root),
        }
    }
}

fn typed(text: &str) -> Option<Value> {
    let mut table = format!("value = {text}").parse::<Table>().ok()?;
    // A text with line breaks could have added keys of its own.
    if table.len() == 1 {
        table.remove("value")
    } else {
        None
    }
}

fn blocks(key: &str) -> String {
    format!("write one block `[[{key}]]` for each")
}

#[cfg(test)]
#[path = "load_tests.rs"]
mod tests;
