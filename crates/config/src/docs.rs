//! The reference page, and the printed configuration.

use toml::Value;

use crate::load::ENV_PREFIX;
use crate::modules::{self, ModuleType};
use crate::sections::Config;
use crate::shape::{Field, Shape, options};

const HEAD: &str = "\
# Configuration

This page is what `sestina config docs` prints: all options of this version, with their defaults.

Options come from a TOML file, from the environment, and from the command line; the later ones win.
An unknown key or a value of the wrong type is an error. In the environment the key is written in
capitals, with `SESTINA__` before it and two underscores between its parts; lists may be written
with commas. Of `[[…]]` blocks the number is part of the key: `SESTINA__HOST__0__DOMAIN`.
Durations have a unit (`200ms`, `30s`, `5m`, `1h`, `7d`), sizes may have one (`10000`, `256KiB`,
`4MiB`). `sestina config show` prints what is in effect, `sestina config check` says what is wrong.
";

/// Renders the reference page (Markdown). `modules` are all modules of the program.
pub fn docs(modules: &[ModuleType]) -> String {
    let mut page = HEAD.to_owned();
    render(&mut page, &fields(modules), "");
    page
}

/// The options of the top level. Those of modules are described once, in the section for all domains.
fn fields(modules: &[ModuleType]) -> Vec<Field> {
    let mut fields = options::<Config>();
    let all = fields.iter_mut().find(|field| field.key == modules::KEY);
    if let Some(Shape::Section(inner)) = all.map(|field| &mut field.shape) {
        inner.extend(modules::sections(modules));
    }
    fields
}

fn render(page: &mut String, fields: &[Field], prefix: &str) {
    let leaves: Vec<&Field> = fields
        .iter()
        .filter(|field| matches!(field.shape, Shape::Leaf(_)))
        .collect();
    if !leaves.is_empty() {
        page.push_str("\n| key | type | default | description |\n|---|---|---|---|\n");
    }
    for field in leaves {
        let Shape::Leaf(leaf) = &field.shape else {
            continue;
        };
        let default = field.default.as_ref().map_or("unset".to_owned(), literal);
        let (kind, text) = (escape(&leaf.kind), escape(&text(field)));
        let variable = variable(&format!("{prefix}{}", field.key));
        let key = field.key;
        page.push_str(&format!(
            "| `{key}` | {kind} | {default} | {text}<br>`{variable}` |\n"
        ));
    }
    for field in fields {
        let key = format!("{prefix}{}", field.key);
        let (inner, heading, below) = match &field.shape {
            Shape::Leaf(_) => continue,
            Shape::Section(inner) => (inner, format!("[{key}]"), format!("{key}.")),
            Shape::Sections(inner) => (inner, format!("[[{key}]]"), format!("{key}.0.")),
        };
        // The number of a block is part of a variable, not of a heading.
        let heading = heading.replace(".0.", ".");
        page.push_str(&format!("\n## `{heading}`\n\n{}\n", text(field)));
        render(page, inner, &below);
    }
}

/// The environment variable of a key.
pub fn variable(key: &str) -> String {
    format!("{ENV_PREFIX}{}", key.to_uppercase().replace('.', "__"))
}

fn text(field: &Field) -> String {
    field
        .doc
        .iter()
        .map(|line| line.trim())
        .collect::<Vec<_>>()
        .join(" ")
}

fn literal(value: &Value) -> String {
    format!("`{}`", escape(&value.to_string()))
}

fn escape(text: &str) -> String {
    text.replace('|', "\\|")
}

impl Config {
    /// The effective configuration as TOML, secrets redacted.
    pub fn show(&self) -> String {
        // TOML has types for all values; if one had none, the page would say so.
        toml::to_string(self).unwrap_or_else(|error| format!("# cannot be printed: {error}\n"))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_option_is_documented_with_type_default_and_variable() {
        fn every(fields: &[Field], path: &str) {
            for field in fields {
                assert!(
                    text(field).len() > 8,
                    "{path}{} has no documentation",
                    field.key
                );
                match &field.shape {
                    Shape::Leaf(leaf) => {
                        if let Some(default) = &field.default {
                            assert_eq!((leaf.check)(default), Ok(()), "{path}{}", field.key);
                        }
                    }
                    Shape::Section(inner) | Shape::Sections(inner) => {
                        every(inner, &format!("{path}{}.", field.key));
                    }
                }
            }
        }
        every(&fields(&[]), "");
    }

    #[test]
    fn the_page_tells_key_type_default_and_variable() {
        let page = docs(&[]);
        for line in [
            "## `[edge.limits]`",
            "| `pre_auth_stanza` | size | `\"10000\"` | Largest stanza before authentication.\
             <br>`SESTINA__EDGE__LIMITS__PRE_AUTH_STANZA` |",
            "## `[[host]]`",
            "`SESTINA__HOST__0__DOMAIN`",
            "| `log_format` | text \\| json | `\"text\"` |",
            "| `otlp_endpoint` | string | unset |",
        ] {
            assert!(page.contains(line), "{line}\n{page}");
        }
    }

    #[test]
    fn what_is_shown_can_be_read_again() {
        let config =
            Config::from_toml("[redis]\nmode = \"single\"\nurls = [\"redis://r\"]").unwrap();
        assert_eq!(Config::from_toml(&config.show()).unwrap(), config);
    }

    #[test]
    fn secrets_are_not_shown() {
        let config = Config::from_toml(
            "[storage]\nurl = \"postgres://u:hunter2@db/x\"\n[redis]\npassword = \"hunter2\"",
        )
        .unwrap();
        assert_eq!(config.show().matches("<redacted>").count(), 2);
        assert!(!config.show().contains("hunter2"));
        assert!(!format!("{config:?}").contains("hunter2"));
    }
}
