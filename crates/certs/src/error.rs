//! What can be wrong with certificates, said so that it can be put right.

use std::path::{Path, PathBuf};

/// Why a certificate or key could not be made, read or used.
#[derive(Debug, thiserror::Error)]
pub enum CertError {
    /// A file or folder could not be read or written.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// "read", "write", "create".
        action: &'static str,
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The content is not what it should be.
    #[error("{source_name}: {reason}")]
    Content {
        /// The file's path, or what the text is.
        source_name: String,
        /// What is wrong, and what is expected.
        reason: String,
    },
    /// A name cannot be put into a certificate.
    #[error("{name:?} cannot be put into a certificate: {reason}")]
    Name {
        /// The name given.
        name: String,
        /// Why not.
        reason: String,
    },
    /// Making a key or signing failed.
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
