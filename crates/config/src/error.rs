//! What can be wrong with a configuration.

use std::fmt;
use std::path::PathBuf;

/// One thing that is wrong. The origin is a file, an environment variable or a flag.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A file cannot be read.
    #[error("cannot read {}: {reason}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// The file is not TOML.
    #[error("{} is not valid TOML: {reason}", path.display())]
    Syntax {
        /// Which file.
        path: PathBuf,
        /// Line, column and reason.
        reason: String,
    },
    /// No such option.
    #[error("{origin}: unknown key `{key}`; did you mean `{nearest}`?")]
    Unknown {
        /// Where it was written.
        origin: String,
        /// The key as written, with its section.
        key: String,
        /// The nearest known key.
        nearest: String,
    },
    /// A variable that is written with single underscores.
    #[error(
        "environment variable {name} is not read; did you mean {nearest}, with two underscores?"
    )]
    Variable {
        /// Its name.
        name: String,
        /// The name that is read.
        nearest: String,
    },
    /// The value does not fit the option.
    #[error("{origin}: `{key}`: {reason}")]
    Type {
        /// Where it was written.
        origin: String,
        /// The key.
        key: String,
        /// What was found and what is expected.
        reason: String,
    },
    /// The values do not make sense together.
    #[error("`{key}`: {reason}")]
    Invalid {
        /// The key to change.
        key: String,
        /// What is wrong and what to do.
        reason: String,
    },
    /// An override that is not `key=value`.
    #[error("the override {0:?} is not of the form key=value")]
    BadOverride(String),
}

/// Everything that is wrong, so that it can be mended in one go.
#[derive(Debug, PartialEq, Eq)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, error) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

impl From<ConfigError> for ConfigErrors {
    fn from(error: ConfigError) -> ConfigErrors {
        ConfigErrors(vec![error])
    }
}
