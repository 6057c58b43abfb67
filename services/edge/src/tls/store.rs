//! Loads certificates, watches their files, and keeps the last good set.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rustls::CipherSuite;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use sestina_certs::{CertError, describe_der, load_identity, self_signed, server_end_point};
use tokio_util::sync::CancellationToken;

use super::acceptor::TlsVersions;
use super::pace::Pace;
use super::set::{CertSet, Entry};

/// A certificate chain and its key, as PEM files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CertFiles {
    /// Hosts that this certificate is for. It also answers for the names that it holds; this list
    /// is for a name that several certificates hold, or none.
    pub hosts: Vec<String>,
    /// The chain, the host's own certificate first.
    pub cert: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

/// Where certificates come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsConfig {
    /// Certificates; the first is for clients that name no known host. If there is none, a
    /// self-signed one is made at the first start and kept in `data_dir`.
    pub certificates: Vec<CertFiles>,
    /// Names for the self-signed certificate.
    pub domains: Vec<String>,
    /// Folder of the self-signed certificate (`tls/self-signed.crt` and `.key`).
    pub data_dir: PathBuf,
    /// Versions of TLS that are spoken.
    pub versions: TlsVersions,
    /// How often the files are looked at.
    pub reload_interval: Duration,
}

impl Default for TlsConfig {
    fn default() -> Self {
        Self {
            certificates: Vec::new(),
            domains: vec!["localhost".to_owned()],
            data_dir: PathBuf::from("data"),
            versions: TlsVersions::default(),
            reload_interval: Duration::from_secs(5),
        }
    }
}

/// Why there are no certificates to serve with.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file is missing or wrong.
    #[error(transparent)]
    Cert(#[from] CertError),
    /// rustls does not accept what the files hold.
    #[error("tls cannot be configured: {0}")]
    Tls(#[from] rustls::Error),
    /// The self-signed certificate cannot be kept.
    #[error(
        "cannot create {path}: {source}; make the data folder writable or configure a certificate"
    )]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

/// The certificates of the client listeners.
pub struct CertStore {
    files: Vec<CertFiles>,
    versions: TlsVersions,
    interval: Duration,
    provider: Arc<CryptoProvider>,
    current: ArcSwap<CertSet>,
    seen: Mutex<Vec<Stamp>>,
    pace: Pace,
}

/// What tells that a file has changed. A renewed link counts, because metadata follows links.
type Stamp = Option<(SystemTime, u64)>;

impl CertStore {
    /// Loads the configured certificates, or makes a self-signed one. Reads files: call it while
    /// starting, or on a thread that may block.
    pub fn open(config: &TlsConfig) -> Result<Arc<Self>, StoreError> {
        let files = if config.certificates.is_empty() {
            vec![ensure_self_signed(config)?]
        } else {
            config.certificates.clone()
        };
        let provider = Arc::new(provider());
        // Stamps first: a change while loading is then seen as a change.
        let seen = stamps(&files);
        let set = load(&files, config.versions, &provider)?;
        Ok(Arc::new(Self {
            files,
            versions: config.versions,
            interval: config.reload_interval,
            provider,
            current: ArcSwap::from_pointee(set),
            seen: Mutex::new(seen),
            pace: Pace::default(),
        }))
    }

    /// The certificates for a handshake that begins now.
    pub fn current(&self) -> Arc<CertSet> {
        self.current.load_full()
    }

    /// Whose turn it is to work on a handshake.
    pub fn pace(&self) -> &Pace {
        &self.pace
    }

    /// Loads all files again. On an error the certificates stay as they were.
    pub fn reload(&self) -> Result<(), StoreError> {
        *self.seen.lock() = stamps(&self.files);
        let set = load(&self.files, self.versions, &self.provider)?;
        self.current.store(Arc::new(set));
        tracing::info!(certificates = self.files.len(), "certificates loaded");
        Ok(())
    }

    /// Reloads if a file has changed since it was last looked at. True if new certificates serve.
    pub fn reload_if_changed(&self) -> bool {
        if *self.seen.lock() == stamps(&self.files) {
            return false;
        }
        match self.reload() {
            Ok(()) => true,
            Err(error) => {
                tracing::error!(%error, "new certificates are not usable, the old ones stay");
                false
            }
        }
    }

    /// Watches the files until `stop`.
    pub async fn watch(self: Arc<Self>, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(self.interval) => {}
            }
            let store = Arc::clone(&self);
            if let Err(error) = tokio::task::spawn_blocking(move || store.reload_if_changed()).await
            {
                tracing::error!(%error, "certificates could not be looked at");
            }
        }
    }
}

/// The usual cipher suites, those with SHA-256 and AES-128 first: as strong as the curve that the
/// keys are agreed on, and the cheapest to set up, which counts when many clients come at once.
fn provider() -> CryptoProvider {
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites.sort_by_key(|suite| {
        !matches!(
            suite.suite(),
            CipherSuite::TLS13_AES_128_GCM_SHA256
                | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
                | CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256
        )
    });
    provider
}

fn load(
    files: &[CertFiles],
    versions: TlsVersions,
    provider: &Arc<CryptoProvider>,
) -> Result<CertSet, StoreError> {
    let entries = files
        .iter()
        .map(|pair| {
            let identity = load_identity(&pair.cert, &pair.key)?;
            Ok(Entry {
                info: describe_der(identity.leaf())?,
                hosts: pair.hosts.clone(),
                end_point: server_end_point(identity.leaf()),
                key: identity.certified_key()?,
            })
        })
        .collect::<Result<Vec<_>, CertError>>()?;
    Ok(CertSet::new(entries, versions, provider)?)
}

fn ensure_self_signed(config: &TlsConfig) -> Result<CertFiles, StoreError> {
    let folder = config.data_dir.join("tls");
    let files = CertFiles {
        hosts: config.domains.clone(),
        cert: folder.join("self-signed.crt"),
        key: folder.join("self-signed.key"),
    };
    if !(files.cert.exists() && files.key.exists()) {
        std::fs::create_dir_all(&folder).map_err(|source| StoreError::Folder {
            path: folder.clone(),
            source,
        })?;
        self_signed(&config.domains)?.write(&files.cert, &files.key)?;
        tracing::warn!(
            certificate = %files.cert.display(),
            "no certificate is configured: a self-signed one was made, clients will warn about it"
        );
    }
    Ok(files)
}

fn stamps(files: &[CertFiles]) -> Vec<Stamp> {
    files
        .iter()
        .flat_map(|pair| [stamp(&pair.cert), stamp(&pair.key)])
        .collect()
}

fn stamp(path: &Path) -> Stamp {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}
