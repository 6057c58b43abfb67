//! The errors of certificates, with advice for the operator.

use std::path::{Path, PathBuf};

/// Why a certificate or key could not be created, read or used.
#[derive(Debug, thiserror::Error)]
pub enum CertError {
    /// A file or folder could not be read or written.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// "read", "write", "create".
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The content is invalid.
    #[error("{source_name}: {reason}")]
    Content {
        /// The file's path, or a description of the text.
        source_name: String,
        /// The error, and the expected content.
        reason: String,
    },
    /// A name cannot be put into a certificate.
    #[error("{name:?} cannot be put into a certificate: {reason}")]
    Name {
        /// The name given.
        name: String,
        /// The reason.
        reason: String,
    },
    /// Creating a key or signing failed.
    #[error("cannot make the certificate: {0}")]
    Make(#[from] rcgen::Error),
}

impl CertError {
    pub(crate) fn io(action: &'static str, path: &Path, source: std::io::Error) -> CertError {
        CertError::Io {
            action,
            path: path.to_owned(),
            source,
        }
    }

    pub(crate) fn content(name: &str, reason: impl Into<String>) -> CertError {
        CertError::Content {
            source_name: name.to_owned(),
            reason: reason.into(),
        }
    }
}
