//! The common part of all roles: telemetry, signals, readiness, the admin socket.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use sestina_api::admin::AdminHandler;
use sestina_config::{Config, Role};
use sestina_edge::tls::CertStore;
use sestina_proto::versions::{self, Pretence, Range};
use sestina_rpc::{RpcServer, RunningServer, Security};
use sestina_runtime::lease_thread::LeaseThread;
use sestina_runtime::pressure::Pressure;
use sestina_runtime::shutdown::{self, Shutdown};
use sestina_runtime::spawn::Tasks;
use sestina_telemetry::http::Ready;
use sestina_telemetry::{Guard, Metrics};
use tokio::runtime::Handle;
use tokio::sync::watch;

/// How often readiness is checked for subscribers to its changes.
const LOOK: Duration = Duration::from_millis(250);
/// How long tasks and servers have to end.
pub const LAST: Duration = Duration::from_secs(5);

/// Reads the configuration again, from the same sources as at the start.
pub type Reread = Box<dyn Fn() -> Result<Config, sestina_config::ConfigErrors> + Send + Sync>;

/// A process that has started.
pub struct Process {
    /// Its configuration.
    pub config: Config,
    /// The requests of the operator.
    pub shutdown: Shutdown,
    /// Its tasks.
    pub tasks: Tasks,
    /// Its metrics.
    pub metrics: Arc<Metrics>,
    /// Whether it is overloaded.
    pub pressure: Arc<Pressure>,
    /// Renews its lease, and serves renewals of other processes. A single process has no lease.
    leases: Option<LeaseThread>,
    guard: Arc<Guard>,
    draining: Arc<AtomicBool>,
    reread: Option<Reread>,
}

impl Process {
    /// Sets up telemetry and signals.
    pub fn begin(config: Config, role: Role, reread: Reread) -> anyhow::Result<Process> {
        let guard = sestina_telemetry::init(&config.telemetry, role.as_str(), &config.node.name)?;
        raise_file_limit();
        sestina_runtime::faults_from_env()?;
        if versions::pretend_from_env()? != Pretence::None {
            tracing::error!(
                speaks = %Range::ours(),
                "{} IS SET: this process claims to be of a version that does not exist; unset the \
                 variable unless this is a test",
                versions::ENV
            );
        }
        let (shutdown, signals) = shutdown::listen().context("cannot listen for signals")?;
        let tasks = Tasks::new("process");
        tasks.spawn("signals", {
            let token = tasks.token();
            async move {
                tokio::select! {
                    () = signals.run() => {}
                    () = token.cancelled() => {}
                }
            }
        });
        let metrics = guard.metrics.clone();
        crate::metrics::trace_calls();
        tasks.spawn(
            "gauges",
            crate::metrics::watch_lanes(metrics.clone(), tasks.token()),
        );
        let pressure = Pressure::new();
        tasks.spawn(
            "pressure",
            crate::metrics::watch_pressure(pressure.clone(), metrics.clone(), tasks.token()),
        );
        let leases = match role {
            Role::Serve => None,
            Role::Edge | Role::Router | Role::Storage => {
                Some(LeaseThread::start().context("cannot start the thread for leases")?)
            }
        };
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            role = role.as_str(),
            speaks = %Range::ours(),
            node = config.node.name,
            "starting"
        );
        Ok(Process {
            config,
            shutdown,
            tasks,
            metrics,
            pressure,
            leases,
            guard: Arc::new(guard),
            draining: Arc::default(),
            reread: Some(reread),
        })
    }

    /// The runtime for leases and their connections: that of the lease thread, if there is one.
    pub fn leases(&self) -> Handle {
        let thread = self.leases.as_ref();
        thread.map_or_else(Handle::current, |thread| thread.handle().clone())
    }

    /// Serves `/metrics`, `/health` and `/ready`; the returned receiver shows readiness too.
    pub async fn announce(&self, ready: Ready) -> anyhow::Result<watch::Receiver<bool>> {
        let draining = self.draining.clone();
        let ready: Ready = Arc::new(move || {
            if draining.load(Ordering::Acquire) {
                return Err("draining".to_owned());
            }
            ready()
        });
        let addresses = &self.config.telemetry.prometheus;
        sestina_telemetry::http::serve(&self.tasks, addresses, self.metrics.clone(), ready.clone())
            .await?;
        let (tell, told) = watch::channel(false);
        let token = self.tasks.token();
        self.tasks.spawn("readiness", async move {
            let (mut last, mut was_ready) = (String::from("starting"), false);
            loop {
                // The check reads the disk, which may hang.
                let look = ready.clone();
                let Ok(state) = tokio::task::spawn_blocking(move || look()).await else {
                    return;
                };
                let reason = state.err().unwrap_or_default();
                if reason != last {
                    match reason.as_str() {
                        "" => tracing::info!("ready"),
                        "draining" => tracing::info!("not ready any more: draining"),
                        reason if was_ready => tracing::warn!(reason, "not ready"),
                        reason => tracing::info!(reason, "not ready yet"),
                    }
                    was_ready |= reason.is_empty();
                    tell.send_replace(reason.is_empty());
                    last = reason;
                }
                tokio::select! {
                    () = token.cancelled() => return,
                    () = tokio::time::sleep(LOOK) => {}
                }
            }
        });
        Ok(told)
    }

    /// Serves the administrator's commands on the unix socket.
    pub async fn admin_socket(
        &self,
        handler: Arc<dyn AdminHandler>,
    ) -> anyhow::Result<RunningServer> {
        let path = crate::cli::socket(&self.config);
        if let Some(folder) = path
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty())
        {
            std::fs::create_dir_all(folder)
                .with_context(|| format!("cannot create {}; set admin.socket", folder.display()))?;
        }
        Ok(RpcServer::new(Security::Plaintext)
            .admin(handler)
            .listen_unix(&path)
            .await?)
    }

    /// At SIGHUP, reloads certificates and the log filter.
    pub fn reload_on_hangup(&mut self, certs: Option<Arc<CertStore>>, security: Option<Security>) {
        let Some(reread) = self.reread.take() else {
            return;
        };
        let (mut reloads, guard) = (self.shutdown.reloads.clone(), self.guard.clone());
        let token = self.tasks.token();
        self.tasks.spawn("reload", async move {
            loop {
                tokio::select! {
                    () = token.cancelled() => return,
                    changed = reloads.changed() => if changed.is_err() { return },
                }
                match reread() {
                    Ok(config) => {
                        if let Err(error) = guard.set_log_filter(&config.telemetry.log) {
                            tracing::error!(%error, "the log filter stays as it was");
                        }
                    }
                    Err(errors) => {
                        tracing::error!(%errors, "the configuration is wrong, nothing of it is used");
                    }
                }
                if let Some(certs) = certs.clone() {
                    let done = tokio::task::spawn_blocking(move || certs.reload()).await;
                    if let Ok(Err(error)) = done {
                        tracing::error!(%error, "the certificates stay as they were");
                    }
                }
                if let Some(Security::Mutual(tls)) = &security
                    && let Err(error) = tls.reload()
                {
                    tracing::error!(%error, "the certificates between tiers stay as they were");
                }
            }
        });
    }

    /// Makes this process report that it is not ready.
    pub fn begin_draining(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// Waits for `work`, until the operator asks to end at once, or the drain time-out ends.
    pub async fn unless_now(&self, work: impl Future<Output = ()>) {
        let limit = *self.config.node.drain_timeout;
        tokio::select! {
            () = self.shutdown.now.cancelled() => {}
            done = tokio::time::timeout(limit, work) => if done.is_err() {
                tracing::warn!(?limit, "draining took too long, ending without the rest");
            },
        }
    }

    /// Ends the tasks, and exports the last telemetry.
    pub async fn end(self) {
        self.tasks.shutdown();
        if let Err(error) = self.tasks.join(LAST).await {
            tracing::warn!(%error, "tasks did not end in time");
        }
        tracing::info!("ended");
        if let Ok(guard) = Arc::try_unwrap(self.guard) {
            guard.shutdown().await;
        }
    }
}

/// Raises the limit of open files to the system's maximum: each client's socket is one, and the
/// usual limit of 1,024 is meant for programs that raise it themselves.
fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return;
    }
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "the limit of open files stays as it was");
    }
}
