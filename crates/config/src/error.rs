//! The errors of a configuration.

use std::fmt;
use std::path::PathBuf;

/// One error. The origin is a file, an environment variable or a flag.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A file cannot be read.
    #[error("cannot read {}: {reason}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's error.
        reason: String,
    },
    /// The file is not TOML.
    #[error("{} is not valid TOML: {reason}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Line, column and reason.
        reason: String,
    },
    /// There is no such option.
    #[error("{origin}: unknown key `{key}`; did you mean `{nearest}`?")]
    Unknown {
        /// The origin of the value.
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
        /// The origin of the value.
        origin: String,
        /// The key.
        key: String,
        /// The value's type and the expected one.
        reason: String,
    },
    /// The values contradict each other.
    #[error("`{key}`: {reason}")]
    Invalid {
        /// The key to change.
        key: String,
        /// The error, and how to correct it.
        reason: String,
    },
    /// An override that is not `key=value`.
    #[error("the override {0:?} is not of the form key=value")]
    BadOverride(String),
}

/// All errors, so that they can be corrected at once.
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
