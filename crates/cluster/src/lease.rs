//! This process's own lease, held with two authorities at once.
//!
//! A process serves while *either* authority's lease is fresh and stops a margin before both have
//! ended. A term is counted from before the request that renewed it, on a clock that goes on while
//! the machine is suspended, so the authority's own count always ends later. A lease that an
//! authority has marked as ended is never renewed again; then the process has lost its lease for
//! good and must stop.

use std::sync::Arc;
use std::time::Duration;

use sestina_api::identity::{Holder, Secret};
use sestina_api::lease::{AuthorityUnavailable, LeaseAuthority, Renewal};
use sestina_proto as proto;
use sestina_runtime::CancellationToken;
use sestina_runtime::clock::Clock;
use sestina_runtime::failpoint;
use sestina_runtime::spawn::Tasks;
use tokio::sync::{Mutex, mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout};

use crate::alone::FOREVER;
pub use crate::lease_deadline::{LeaseDeadline, LeaseLost};
use crate::lease_health::{LeaseHealth, LeaseSample};

/// The times of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseTerms {
    /// How long a lease lasts.
    pub ttl: Duration,
    /// How often it is renewed.
    pub every: Duration,
    /// How long one renewal may take.
    pub timeout: Duration,
    /// How long before the end of the last lease the process stops serving.
    pub margin: Duration,
}

impl Default for LeaseTerms {
    fn default() -> LeaseTerms {
        LeaseTerms {
            ttl: Duration::from_secs(4),
            every: Duration::from_secs(1),
            timeout: Duration::from_secs(1),
            margin: Duration::from_secs(1),
        }
    }
}

/// The factor by which renewals are more frequent while serving has stopped.
const HURRY: u32 = 10;

/// One of the two authorities.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Authority {
    /// Redis (or memory).
    StateStore = 0,
    /// PostgreSQL (or SQLite), through storage.
    Storage = 1,
}

impl Authority {
    /// Both.
    pub const ALL: [Authority; 2] = [Authority::StateStore, Authority::Storage];

    /// Its name in logs.
    pub fn name(self) -> &'static str {
        match self {
            Authority::StateStore => "state_store",
            Authority::Storage => "storage",
        }
    }
}

/// Renews the lease of this process with both authorities, each in a task of its own, so that one
/// that hangs does not delay the other.
pub struct LeaseKeeper {
    deadline: Arc<LeaseDeadline>,
    node: watch::Sender<proto::Node>,
    /// Makes the tasks give the lease back and end.
    stop: CancellationToken,
    /// Closed when both tasks have ended.
    done: Mutex<mpsc::Receiver<()>>,
}

impl LeaseKeeper {
    /// Starts renewing. `tasks` must be the group that is shut down last, since nothing is renewed
    /// after its token is cancelled. The renewals run on the runtime of that group, which should be
    /// one that the process's work does not delay. `health` gets a sample of each renewal.
    pub fn start(
        holder: Holder,
        state_store: Arc<dyn LeaseAuthority>,
        storage: Arc<dyn LeaseAuthority>,
        terms: LeaseTerms,
        clock: Arc<dyn Clock>,
        health: Arc<LeaseHealth>,
        tasks: &Tasks,
    ) -> LeaseKeeper {
        let deadline = Arc::new(LeaseDeadline::new(clock.clone(), terms));
        let Holder { node, secret } = holder;
        let node = watch::Sender::new(node);
        let stop = CancellationToken::new();
        let (alive, done) = mpsc::channel(1);
        for (which, authority) in Authority::ALL.into_iter().zip([state_store, storage]) {
            let renewer = Renewer {
                which,
                authority,
                secret: secret.clone(),
                deadline: deadline.clone(),
                clock: clock.clone(),
                health: health.clone(),
                terms,
                stop: stop.clone(),
                group: tasks.token(),
                waited: None,
                _alive: alive.clone(),
            };
            tasks.spawn(
                format!("lease-{}", which.name()),
                renewer.run(node.subscribe()),
            );
        }
        LeaseKeeper {
            deadline,
            node,
            stop,
            done: Mutex::new(done),
        }
    }

    /// The time until which this process may serve. A check is cheap.
    pub fn deadline(&self) -> Arc<LeaseDeadline> {
        self.deadline.clone()
    }

    /// Whether this process may serve now.
    pub fn serving(&self) -> bool {
        self.deadline.serving()
    }

    /// Waits until the process may serve for the first time.
    pub async fn wait_serving(&self) -> Result<(), LeaseLost> {
        self.deadline.wait_serving().await
    }

    /// Waits until the lease is lost for good: the process must stop at once.
    pub async fn lost(&self) -> LeaseLost {
        self.deadline.lost().await
    }

    /// Changes the node that the lease describes (for example to draining) and renews it with both
    /// authorities at once.
    pub fn update_node(&self, change: impl FnOnce(&mut proto::Node)) {
        self.node.send_modify(change);
    }

    /// Changes the node that the lease describes; sent with the next renewal.
    pub fn note(&self, change: impl FnOnce(&mut proto::Node)) {
        self.node.send_if_modified(|node| {
            change(node);
            false
        });
    }

    /// Stops serving and gives the lease back to both authorities, if they answer within the
    /// time-out of a renewal.
    pub async fn release(&self) {
        self.deadline.end();
        self.stop.cancel();
        // No item is ever sent: this waits for both tasks to drop their sender.
        self.done.lock().await.recv().await;
    }
}

impl Drop for LeaseKeeper {
    fn drop(&mut self) {
        self.deadline.end();
    }
}

struct Renewer {
    which: Authority,
    authority: Arc<dyn LeaseAuthority>,
    secret: Secret,
    deadline: Arc<LeaseDeadline>,
    clock: Arc<dyn Clock>,
    health: Arc<LeaseHealth>,
    terms: LeaseTerms,
    stop: CancellationToken,
    group: CancellationToken,
    /// Since when this task has waited for the end of another incarnation's lease.
    waited: Option<Instant>,
    _alive: mpsc::Sender<()>,
}

impl Renewer {
    async fn run(mut self, mut node: watch::Receiver<proto::Node>) {
        let mut away = false;
        let mut late = Duration::ZERO;
        loop {
            let me = Holder {
                node: node.borrow_and_update().clone(),
                secret: self.secret.clone(),
            };
            let began = Instant::now();
            match self.renew(&me, std::mem::take(&mut late)).await {
                Ok(Renewal::Renewed) => {
                    if std::mem::take(&mut away) {
                        tracing::info!(authority = self.which.name(), "lease authority is back");
                    }
                }
                Ok(Renewal::WrongSecret) => {
                    let which = self.which.name();
                    let why =
                        format!("another process is this incarnation by the {which} authority");
                    tracing::error!(authority = which, "the lease is another process's");
                    return self.deadline.lose(why);
                }
                Ok(Renewal::Refused(why)) => {
                    tracing::error!(why, "the cluster refuses this process");
                    return self.deadline.lose(why);
                }
                Ok(Renewal::Lost) if self.deadline.held(self.which) => {
                    let why = format!("the {} authority has ended it", self.which.name());
                    tracing::error!(authority = self.which.name(), "the lease is lost for good");
                    return self.deadline.lose(why);
                }
                Ok(Renewal::Lost) => self.held_by_another(&me.node),
                Err(error) => {
                    if !std::mem::replace(&mut away, true) {
                        tracing::warn!(authority = self.which.name(), %error, "lease not renewed");
                    }
                }
            }
            tokio::select! {
                biased;
                () = self.group.cancelled() => return,
                () = self.stop.cancelled() => return self.release(&me).await,
                changed = node.changed() => if changed.is_err() { return },
                () = sleep_until(began + self.pause()) => {
                    late = (began + self.terms.every).elapsed();
                }
            }
        }
    }

    /// The time between two renewals: shorter while serving has stopped although a lease is still
    /// fresh.
    fn pause(&self) -> Duration {
        let deadline = &self.deadline;
        let fresh = Authority::ALL.iter().any(|which| deadline.fresh(*which));
        if fresh && !deadline.serving() {
            self.terms.every / HURRY
        } else {
            self.terms.every
        }
    }

    async fn renew(&self, me: &Holder, late: Duration) -> Result<Renewal, AuthorityUnavailable> {
        if failpoint::hit_async("router.lease_renew").await {
            return Err(AuthorityUnavailable("a fail point".into()));
        }
        let started = self.clock.now();
        let request = self.authority.renew(me, self.terms.ttl);
        let answer = timeout(self.terms.timeout, request).await;
        let now = self.clock.now();
        let left = self
            .deadline
            .deadline()
            .filter(|_| self.terms.ttl < FOREVER);
        self.health.note(LeaseSample {
            late,
            took: now.duration_since(started),
            left: left.map(|deadline| deadline.duration_since(now)),
        });
        let renewal = answer.map_err(|_| {
            AuthorityUnavailable(format!("no answer within {:?}", self.terms.timeout))
        })??;
        if renewal == Renewal::Renewed {
            self.deadline.renewed(self.which, started);
        }
        Ok(renewal)
    }

    /// The lease of an earlier incarnation must end before the first renewal can succeed.
    fn held_by_another(&mut self, me: &proto::Node) {
        let since = *self.waited.get_or_insert_with(Instant::now);
        if since.elapsed() > self.terms.ttl * 2 {
            self.waited = Some(Instant::now());
            tracing::warn!(
                authority = self.which.name(),
                name = me.name,
                "another process holds the lease of this name; give each process its own name"
            );
        }
    }

    async fn release(&self, me: &Holder) {
        match timeout(self.terms.timeout, self.authority.release(me)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(authority = self.which.name(), %error, "lease not given back");
            }
            Err(_) => tracing::warn!(
                authority = self.which.name(),
                "lease not given back in time"
            ),
        }
    }
}

#[cfg(test)]
#[path = "lease_tests.rs"]
mod tests;
