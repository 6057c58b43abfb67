//! The stores behind gRPC: several interchangeable replicas, asked in turn; one that fails is
//! left alone for a while, and the call goes to another within its deadline.
//!
//! That is safe because writes are idempotent (rows and requests carry their keys). The few calls
//! for which a second try could answer wrongly about the first are sent once.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use sestina_api::store::{StoreError, Stores};
use sestina_proto::storage_client::StorageClient;
use tokio::time::{Instant, timeout_at};
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use crate::channel::{Dialer, Peer};
use crate::replicas::Replicas;
use crate::storage_server::for_each_store;
use crate::target::Target;
use crate::{MAX_MESSAGE, status};

/// Between two rounds over replicas that all failed.
const ROUND_PAUSE: Duration = Duration::from_millis(50);
/// A failed replica is not asked first for this long, doubled at each failure ...
const DOWN_MIN: Duration = Duration::from_millis(250);
/// ... up to this.
const DOWN_MAX: Duration = Duration::from_secs(5);

/// How a call is treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    /// A row or a few.
    Read,
    /// A page.
    Query,
    /// Idempotent.
    Write,
    /// Renewals: short, and on a channel that the lease thread drives, at both ends.
    Lease,
    /// What claims and moves wait for: on a channel that no bulk of data can delay.
    Control,
    /// Not tried again where it is unknown whether it was done.
    Once,
    /// Long.
    Maintain,
}

impl Class {
    fn deadline(self) -> Duration {
        match self {
            Class::Lease | Class::Control => Duration::from_secs(1),
            Class::Read | Class::Write => Duration::from_secs(3),
            Class::Query => Duration::from_secs(10),
            Class::Once => Duration::from_secs(5),
            Class::Maintain => Duration::from_secs(120),
        }
    }
}

/// Implements the stores over one or several storage addresses.
pub struct GrpcStores {
    dialer: Arc<Dialer>,
    replicas: Arc<Replicas>,
    next: AtomicUsize,
    started: Instant,
}

/// One storage process.
pub(crate) struct Replica {
    /// Which of the configured addresses it is behind.
    pub(crate) target: usize,
    pub(crate) peer: Peer,
    bulk: Channel,
    control: Channel,
    leases: Channel,
    failures: AtomicU32,
    /// Milliseconds since the client's start.
    down_until: AtomicU64,
}

impl GrpcStores {
    /// Over these addresses; connects when first used.
    pub fn new(dialer: Arc<Dialer>, targets: Vec<Target>) -> GrpcStores {
        GrpcStores {
            replicas: Replicas::new(dialer.clone(), targets),
            dialer,
            next: AtomicUsize::new(0),
            started: Instant::now(),
        }
    }

    fn now(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    /// All replicas in the order to ask them: in turn, those that failed lately last.
    fn order(&self) -> Vec<Arc<Replica>> {
        let replicas = self.replicas.known();
        if replicas.is_empty() {
            return Vec::new();
        }
        let mut order = Vec::clone(&replicas);
        order.rotate_left(self.next.fetch_add(1, Ordering::Relaxed) % replicas.len());
        let now = self.now();
        order.sort_by_key(|r| r.down_until.load(Ordering::Relaxed) > now);
        order
    }

    async fn call<Req, Rep, Call, Fut>(
        &self,
        class: Class,
        message: Req,
        call: Call,
    ) -> Result<Rep, StoreError>
    where
        Req: Clone,
        Call: Fn(StorageClient<Channel>, Request<Req>) -> Fut,
        Fut: Future<Output = Result<Response<Rep>, Status>>,
    {
        let deadline = Instant::now() + class.deadline();
        let mut last = StoreError::Unavailable("no storage address is configured".to_owned());
        let mut failed = false;
        loop {
            if timeout_at(deadline, self.replicas.refresh(failed))
                .await
                .is_err()
            {
                return Err(last);
            }
            let order = self.order();
            if order.is_empty() && !self.replicas.targets.is_empty() {
                last = StoreError::Unavailable("no storage address resolves".to_owned());
            }
            let mut answered = 0;
            for (index, replica) in order.iter().enumerate() {
                let left = deadline.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return Err(last);
                }
                // A replica that swallows packets must leave time for the others.
                let share = match class {
                    Class::Once | Class::Maintain => left,
                    _ => left / u32::try_from(order.len() - index).unwrap_or(1).min(2),
                };
                let client = StorageClient::new(replica.channel(class).clone())
                    .max_decoding_message_size(MAX_MESSAGE)
                    .max_encoding_message_size(MAX_MESSAGE);
                let attempt = call(client, self.dialer.request(message.clone(), share));
                let asked = Asked::new(self, replica);
                let answer = tokio::time::timeout(share, attempt)
                    .await
                    .map(|answer| self.dialer.checked(&replica.peer, answer));
                asked.answered();
                let status = match answer {
                    Ok(Ok(reply)) => {
                        replica.failures.store(0, Ordering::Relaxed);
                        replica.down_until.store(0, Ordering::Relaxed);
                        return Ok(reply.into_inner());
                    }
                    Ok(Err(status)) => status,
                    Err(_) => Status::deadline_exceeded(format!(
                        "no answer from {} within {share:?}",
                        replica.peer.label
                    )),
                };
                let error = status::to_store(&status);
                if !matches!(error, StoreError::Unavailable(_)) {
                    return Err(error);
                }
                self.mark_down(replica);
                tracing::debug!(replica = %replica.peer.label, %error, "storage call failed");
                answered += usize::from(status::is_from_store(&status));
                last = error;
                if class == Class::Once {
                    return Err(last);
                }
            }
            // All of them say that their database is unavailable: asking again at once would only add
            // to what it has to recover from.
            if !order.is_empty() && answered == order.len() {
                return Err(last);
            }
            failed = true;
            if deadline.saturating_duration_since(Instant::now()) <= ROUND_PAUSE {
                return Err(last);
            }
            tokio::time::sleep(ROUND_PAUSE).await;
        }
    }

    fn mark_down(&self, replica: &Replica) {
        let failures = replica.failures.fetch_add(1, Ordering::Relaxed).min(10);
        let pause = DOWN_MAX.min(DOWN_MIN * (1 << failures));
        replica
            .down_until
            .store(self.now() + pause.as_millis() as u64, Ordering::Relaxed);
    }
}

/// A request that waits for one storage replica. The caller may give up before the replica's time limit is over; a
/// replica that had not answered for long by then is not the first choice for the next request.
struct Asked<'a> {
    stores: &'a GrpcStores,
    replica: &'a Replica,
    since: Instant,
}

/// So long is longer than an answer takes.
pub(crate) const SILENT: Duration = Duration::from_millis(500);

impl<'a> Asked<'a> {
    fn new(stores: &'a GrpcStores, replica: &'a Replica) -> Asked<'a> {
        Asked {
            stores,
            replica,
            since: Instant::now(),
        }
    }

    /// The question was not given up.
    fn answered(self) {
        std::mem::forget(self);
    }
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        if self.since.elapsed() >= SILENT {
            self.stores.mark_down(self.replica);
        }
    }
}

impl Replica {
    pub(crate) fn new(
        dialer: &Arc<Dialer>,
        target: usize,
        peer: Peer,
    ) -> Result<Replica, sestina_api::link::LinkError> {
        Ok(Replica {
            target,
            bulk: dialer.lazy(&peer)?,
            control: dialer.lazy(&peer)?,
            leases: dialer.lazy_for_leases(&peer)?,
            peer,
            failures: AtomicU32::new(0),
            down_until: AtomicU64::new(0),
        })
    }

    fn channel(&self, class: Class) -> &Channel {
        match class {
            Class::Lease => &self.leases,
            Class::Control => &self.control,
            Class::Read | Class::Query | Class::Write | Class::Once | Class::Maintain => &self.bulk,
        }
    }
}

macro_rules! client {
    ($($name:ident($request:ident) -> $reply:ident, $class:ident;)*) => {
        #[async_trait]
        impl Stores for GrpcStores {
            $(async fn $name(
                &self,
                message: sestina_proto::$request,
            ) -> Result<sestina_proto::$reply, StoreError> {
                self.call(Class::$class, message, |mut client, request| async move {
                    client.$name(request).await
                })
                .await
            })*
        }
    };
}
for_each_store!(client);
