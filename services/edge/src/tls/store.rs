//! Loads certificates, watches their files, and keeps the last good set.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rustls::crypto::CryptoProvider;
use sestina_certs::{
    CertError, ascii_name, describe_der, load_identity, self_signed, server_end_point,
};
use tokio_util::sync::CancellationToken;

use super::handshake_limiter::HandshakeLimiter;
use super::protocol::{TlsVersions, provider};
use super::set::{CertSet, Entry};
use super::tickets::TicketKeys;
use super::validity::{self, Problem};
use crate::metrics::EdgeMetrics;

/// A certificate chain and its key, as PEM files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CertFiles {
    /// What names them in the configuration, for errors.
    pub option: String,
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
    /// A configured file is missing or wrong.
    #[error("{option}: {error}")]
    Pair {
        /// What names it in the configuration.
        option: String,
        /// What is wrong.
        error: CertError,
    },
    /// The self-signed certificate cannot be made or kept.
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
    domains: Vec<String>,
    versions: TlsVersions,
    interval: Duration,
    provider: Arc<CryptoProvider>,
    current: ArcSwap<CertSet>,
    pairs: Mutex<Vec<Pair>>,
    tickets: Arc<TicketKeys>,
    handshake_limiter: HandshakeLimiter,
}

/// One certificate: its files, as they were last seen, and what they held when they were last good.
struct Pair {
    files: CertFiles,
    seen: [Stamp; 2],
    good: Option<Entry>,
}

impl Pair {
    fn new(files: CertFiles) -> Pair {
        Pair {
            // Stamps first: a change while loading is then seen as a change.
            seen: stamps(&files),
            files,
            good: None,
        }
    }

    fn changed(&self) -> bool {
        self.seen != stamps(&self.files)
    }

    /// Reads the files again. On an error what they held before stays in use.
    fn load(&mut self) -> Result<(), CertError> {
        self.seen = stamps(&self.files);
        let identity = load_identity(&self.files.cert, &self.files.key)?;
        self.good = Some(Entry {
            info: describe_der(identity.leaf())?,
            hosts: self
                .files
                .hosts
                .iter()
                .map(|host| ascii_name(host).into_owned())
                .collect(),
            end_point: server_end_point(identity.leaf()),
            key: identity.certified_key()?,
        });
        Ok(())
    }

    fn report(&self, error: &CertError) {
        let left = match self.good {
            Some(_) => "the one before stays in use",
            None => "its hosts are served with another one",
        };
        let option = &self.files.option;
        tracing::error!(%error, option, hosts = ?self.files.hosts, "a certificate cannot be used: {left}");
    }

    fn named(&self, error: CertError) -> StoreError {
        StoreError::Pair {
            option: self.files.option.clone(),
            error,
        }
    }
}

/// What tells that a file has changed. A renewed link counts, because metadata follows links.
type Stamp = Option<(SystemTime, u64)>;

/// How often it is told which certificates do not do for their hosts.
const TELL_EVERY: Duration = Duration::from_secs(24 * 3600);

/// How often the metric of what is left of each is set.
const MEASURE_EVERY: Duration = Duration::from_secs(60);

impl CertStore {
    /// Loads the configured certificates, or makes a self-signed one. Those that cannot be loaded
    /// are reported, and the others serve; if there is none, that is an error. Reads files: call it
    /// while starting, or on a thread that may block.
    pub fn open(config: &TlsConfig) -> Result<Arc<Self>, StoreError> {
        let files = if config.certificates.is_empty() {
            vec![ensure_self_signed(config)?]
        } else {
            config.certificates.clone()
        };
        let provider = Arc::new(provider());
        let mut pairs: Vec<Pair> = files.into_iter().map(Pair::new).collect();
        let mut first_error = None;
        for pair in &mut pairs {
            if let Err(error) = pair.load() {
                pair.report(&error);
                first_error.get_or_insert(pair.named(error));
            }
        }
        if let Some(error) = first_error
            && pairs.iter().all(|pair| pair.good.is_none())
        {
            return Err(error);
        }
        let tickets = Arc::new(TicketKeys::default());
        let set = CertSet::new(good(&pairs), config.versions, &provider, &tickets)?;
        Ok(Arc::new(Self {
            domains: config.domains.clone(),
            versions: config.versions,
            interval: config.reload_interval,
            provider,
            current: ArcSwap::from_pointee(set),
            pairs: Mutex::new(pairs),
            tickets,
            handshake_limiter: HandshakeLimiter::default(),
        }))
    }

    /// The certificates for a handshake that begins now.
    pub fn current(&self) -> Arc<CertSet> {
        self.current.load_full()
    }

    /// The keys that tickets are sealed with.
    pub fn tickets(&self) -> Arc<TicketKeys> {
        Arc::clone(&self.tickets)
    }

    /// Whose turn it is to work on a handshake.
    pub fn handshake_limiter(&self) -> &HandshakeLimiter {
        &self.handshake_limiter
    }

    /// Loads all files again. Certificates that cannot be loaded stay as they were, the others are
    /// renewed all the same; the first error is returned.
    pub fn reload(&self) -> Result<(), StoreError> {
        self.load(|_| true).1
    }

    /// Loads those again whose files have changed since they were last looked at. True if new
    /// certificates serve.
    pub fn reload_if_changed(&self) -> bool {
        self.load(Pair::changed).0
    }

    fn load(&self, which: impl Fn(&Pair) -> bool) -> (bool, Result<(), StoreError>) {
        let mut pairs = self.pairs.lock();
        let (mut loaded, mut result) = (0, Ok(()));
        for pair in pairs.iter_mut().filter(|pair| which(pair)) {
            match pair.load() {
                Ok(()) => loaded += 1,
                Err(error) => {
                    pair.report(&error);
                    result = result.and(Err(pair.named(error)));
                }
            }
        }
        if loaded == 0 {
            return (false, result);
        }
        match CertSet::new(good(&pairs), self.versions, &self.provider, &self.tickets) {
            Ok(set) => {
                self.current.store(Arc::new(set));
                tracing::info!(certificates = loaded, "certificates loaded");
                (true, result)
            }
            Err(error) => {
                tracing::error!(%error, "new certificates are not usable, the old ones stay");
                (false, Err(error.into()))
            }
        }
    }

    /// Warns of each host whose certificate does not do: expired, not valid yet, or for another
    /// name.
    fn tell(&self) {
        for host in self.current().validity(&self.domains, now()) {
            if let Some(problem) = &host.problem {
                tracing::warn!(
                    host = host.host,
                    certificate = host.subject,
                    "{problem}; clients will refuse to log in to this host, renew the certificate"
                );
            }
        }
    }

    /// Sets the metric of what is left of each host's certificate.
    fn measure(&self, metrics: &dyn EdgeMetrics) {
        for host in self.current().validity(&self.domains, now()) {
            metrics.certificate(&host.host, host.seconds_left);
        }
    }

    /// Watches files and validity until `stop`.
    pub async fn watch(self: Arc<Self>, metrics: Arc<dyn EdgeMetrics>, stop: CancellationToken) {
        let mut told = None;
        let mut measured: Option<Instant> = None;
        loop {
            let now = Instant::now();
            let due = |before: Option<Instant>, every| before.is_none_or(|at| now - at >= every);
            if due(told, TELL_EVERY) {
                self.tell();
                told = Some(now);
            }
            if due(measured, MEASURE_EVERY) {
                self.measure(&*metrics);
                measured = Some(now);
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(self.interval) => {}
            }
            let store = Arc::clone(&self);
            match tokio::task::spawn_blocking(move || store.reload_if_changed()).await {
                Ok(true) => (told, measured) = (None, None),
                Ok(false) => {}
                Err(error) => tracing::error!(%error, "certificates could not be looked at"),
            }
        }
    }
}

/// Unix seconds.
fn now() -> i64 {
    sestina_runtime::clock::wall_ms() / 1000
}

fn good(pairs: &[Pair]) -> Vec<Entry> {
    pairs.iter().filter_map(|pair| pair.good.clone()).collect()
}

/// Something that is wrong with configured certificates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckProblem {
    /// It does not serve, or clients will refuse it.
    pub fatal: bool,
    /// What it is.
    pub text: String,
}

/// What is wrong with configured certificates: those that cannot be loaded, and hosts that are left
/// with one that does not do for them. Makes nothing; without configured certificates there is
/// nothing to say. The time is in Unix seconds.
pub fn check(config: &TlsConfig, now: i64) -> Vec<CheckProblem> {
    let mut problems = Vec::new();
    let mut pairs: Vec<Pair> = config.certificates.iter().cloned().map(Pair::new).collect();
    for pair in &mut pairs {
        if let Err(error) = pair.load() {
            problems.push(CheckProblem {
                fatal: true,
                text: pair.named(error).to_string(),
            });
        }
    }
    let entries = good(&pairs);
    if problems.is_empty() && !entries.is_empty() {
        let hosts = validity::of(&entries, &config.domains, now);
        let bad = hosts.into_iter().filter_map(|host| {
            let problem = host.problem?;
            Some(CheckProblem {
                fatal: !matches!(problem, Problem::Ends { .. }),
                text: format!("host {}: {problem}", host.host),
            })
        });
        problems.extend(bad);
    }
    problems
}

fn ensure_self_signed(config: &TlsConfig) -> Result<CertFiles, StoreError> {
    let folder = config.data_dir.join("tls");
    let files = CertFiles {
        option: "`node.data_dir`".to_owned(),
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

fn stamps(files: &CertFiles) -> [Stamp; 2] {
    [stamp(&files.cert), stamp(&files.key)]
}

fn stamp(path: &Path) -> Stamp {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}
