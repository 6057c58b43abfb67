use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use parking_lot::Mutex;
use sestina_api::store::{StoreError, Stores};
use sestina_certs::Role;
use sestina_proto as proto;
use tokio::net::TcpListener;

use super::support::*;
use crate::storage_server::for_each_store;
use crate::{CodecStores, Dialer, GrpcStores, RpcServer, RunningServer, Security};

/// Counts its calls and answers all of them alike.
#[derive(Default)]
pub(super) struct Replica {
    calls: AtomicUsize,
    error: Mutex<Option<StoreError>>,
    hang: std::sync::atomic::AtomicBool,
}

impl Replica {
    pub(super) fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    fn fail(&self, error: StoreError) {
        *self.error.lock() = Some(error);
    }

    async fn answer<T: Default>(&self) -> Result<T, StoreError> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        if self.hang.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        match self.error.lock().clone() {
            Some(error) => Err(error),
            None => Ok(T::default()),
        }
    }
}

struct Shared(Arc<Replica>);

macro_rules! replica {
    ($($name:ident($request:ident) -> $reply:ident, $class:ident;)*) => {
        #[async_trait]
        impl Stores for Shared {
            $(async fn $name(&self, _: proto::$request) -> Result<proto::$reply, StoreError> {
                self.0.answer().await
            })*
        }
    };
}
for_each_store!(replica);

/// The replica as stores.
pub(super) fn stores_of(replica: &Arc<Replica>) -> Arc<dyn Stores> {
    Arc::new(Shared(Arc::clone(replica)))
}

async fn serve(replica: &Arc<Replica>, security: Security) -> RunningServer {
    let stores = stores_of(replica);
    RpcServer::new(security)
        .storage(stores)
        .listen(localhost())
        .await
        .unwrap()
}

fn stores(addresses: &[std::net::SocketAddr], dialer: Arc<Dialer>) -> GrpcStores {
    let targets = addresses
        .iter()
        .map(|a| a.to_string().parse().unwrap())
        .collect();
    GrpcStores::new(dialer, targets)
}

fn put(create: bool) -> proto::AccountPutRequest {
    proto::AccountPutRequest {
        create,
        ..Default::default()
    }
}

#[tokio::test]
async fn replicas_are_asked_in_turn_and_a_dead_one_is_passed_over() {
    let cluster = Cluster::new();
    let (a, b) = (Arc::<Replica>::default(), Arc::<Replica>::default());
    let server_a = serve(&a, cluster.security("storage-0", Role::Storage)).await;
    let server_b = serve(&b, cluster.security("storage-1", Role::Storage)).await;
    let addresses = [server_a.address().unwrap(), server_b.address().unwrap()];
    let stores = stores(&addresses, cluster.dialer("router-0", Role::Router));
    for _ in 0..10 {
        stores.archive_append(Default::default()).await.unwrap();
    }
    assert_eq!((a.calls(), b.calls()), (5, 5));
    drop(server_a);
    let renewal = proto::LeaseRenewRequest {
        node: Some(process("router-0", proto::NodeRole::Router)),
        ..Default::default()
    };
    for _ in 0..10 {
        stores.archive_append(Default::default()).await.unwrap();
        stores.lease_renew(renewal.clone()).await.unwrap();
    }
    assert_eq!((a.calls(), b.calls()), (5, 25));
}

#[tokio::test]
async fn a_replica_that_swallows_calls_leaves_time_for_another() {
    let silent = TcpListener::bind(localhost()).await.unwrap();
    let b = Arc::<Replica>::default();
    let server = serve(&b, Security::Plaintext).await;
    let addresses = [silent.local_addr().unwrap(), server.address().unwrap()];
    let stores = stores(&addresses, Dialer::new(Security::Plaintext));
    for _ in 0..3 {
        stores.offline_append(Default::default()).await.unwrap();
    }
    assert_eq!(b.calls(), 3);
}

/// Two replicas, of which the first never answers, in the order in which they are asked.
async fn hanging_and_well() -> ([Arc<Replica>; 2], [RunningServer; 2], GrpcStores) {
    let (a, b) = (Arc::<Replica>::default(), Arc::<Replica>::default());
    a.hang.store(true, Ordering::SeqCst);
    let servers = [
        serve(&a, Security::Plaintext).await,
        serve(&b, Security::Plaintext).await,
    ];
    let addresses = [servers[0].address().unwrap(), servers[1].address().unwrap()];
    let stores = stores(&addresses, Dialer::new(Security::Plaintext));
    ([a, b], servers, stores)
}

#[tokio::test]
async fn a_hanging_replica_is_given_up_in_time() {
    let ([a, b], [server_a, _server_b], stores) = hanging_and_well().await;
    stores.entity_data_put(Default::default()).await.unwrap();
    assert_eq!((a.calls(), b.calls()), (1, 1));
    // The deadline travelled with the call: nothing hangs on at the server either.
    assert!(server_a.shutdown(WAIT).await);
}

/// Who moves a slot waits less long than storage may take: that must not hide who was silent.
#[tokio::test]
async fn a_replica_on_which_a_caller_gave_up_is_not_asked_first_again() {
    let ([a, b], [_server_a, _server_b], stores) = hanging_and_well().await;
    let patience = crate::storage_client::SILENT + std::time::Duration::from_millis(100);
    let first = stores.slot_claim(Default::default());
    assert!(tokio::time::timeout(patience, first).await.is_err());
    for _ in 0..2 {
        stores.slot_claim(Default::default()).await.unwrap();
    }
    assert_eq!((a.calls(), b.calls()), (1, 2));
}

#[tokio::test]
async fn errors_arrive_as_they_were() {
    let replica = Arc::<Replica>::default();
    let server = serve(&replica, Security::Plaintext).await;
    let remote = stores(
        &[server.address().unwrap()],
        Dialer::new(Security::Plaintext),
    );
    let coded = CodecStores(Arc::new(Shared(Arc::clone(&replica))));
    for error in [
        StoreError::Unavailable("the database is unavailable".to_owned()),
        StoreError::Exists("juliet@example.org".to_owned()),
        StoreError::NotFound("romeo@example.org".to_owned()),
        StoreError::Invalid("a limit of 0".to_owned()),
        StoreError::Internal("a constraint — «rows»".to_owned()),
    ] {
        replica.fail(error.clone());
        assert_eq!(
            remote.account_get(Default::default()).await,
            Err(error.clone())
        );
        assert_eq!(coded.account_get(Default::default()).await, Err(error));
    }
}

#[tokio::test]
async fn all_replicas_are_asked_once_when_their_database_is_away() {
    let (a, b) = (Arc::<Replica>::default(), Arc::<Replica>::default());
    let away = StoreError::Unavailable("the database is unavailable".to_owned());
    a.fail(away.clone());
    b.fail(away.clone());
    let server_a = serve(&a, Security::Plaintext).await;
    let server_b = serve(&b, Security::Plaintext).await;
    let addresses = [server_a.address().unwrap(), server_b.address().unwrap()];
    let stores = stores(&addresses, Dialer::new(Security::Plaintext));
    assert_eq!(stores.archive_append(Default::default()).await, Err(away));
    assert_eq!((a.calls(), b.calls()), (1, 1));
}

#[tokio::test]
async fn what_cannot_be_repeated_is_sent_once() {
    let (a, b) = (Arc::<Replica>::default(), Arc::<Replica>::default());
    let away = StoreError::Unavailable("the answer was lost".to_owned());
    a.fail(away.clone());
    b.fail(away.clone());
    let server_a = serve(&a, Security::Plaintext).await;
    let server_b = serve(&b, Security::Plaintext).await;
    let addresses = [server_a.address().unwrap(), server_b.address().unwrap()];
    let stores = stores(&addresses, Dialer::new(Security::Plaintext));
    assert_eq!(stores.account_put(put(true)).await, Err(away));
    assert_eq!(a.calls() + b.calls(), 1);
}

#[tokio::test]
async fn no_storage_is_said_within_the_deadline() {
    let gone = TcpListener::bind(localhost())
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let stores = stores(&[gone], Dialer::new(Security::Plaintext));
    let error = soon("an answer", stores.lease_list(proto::Empty {}))
        .await
        .unwrap_err();
    assert!(matches!(&error, StoreError::Unavailable(_)), "{error}");
}

#[tokio::test]
async fn each_address_of_a_name_is_a_replica() {
    let replica = Arc::<Replica>::default();
    let server = serve(&replica, Security::Plaintext).await;
    let port = server.address().unwrap().port();
    let targets = vec![format!("dns:///localhost:{port}").parse().unwrap()];
    let stores = GrpcStores::new(Dialer::new(Security::Plaintext), targets);
    // Where localhost also has an IPv6 address, nothing listens there.
    for _ in 0..3 {
        stores.slot_table(Default::default()).await.unwrap();
    }
    assert_eq!(replica.calls(), 3);
}

#[tokio::test]
async fn an_edge_may_not_ask_storage() {
    let cluster = Cluster::new();
    let replica = Arc::<Replica>::default();
    let server = serve(&replica, cluster.security("storage-0", Role::Storage)).await;
    let stores = stores(
        &[server.address().unwrap()],
        cluster.dialer("edge-0", Role::Edge),
    );
    let error = stores.account_get(Default::default()).await.unwrap_err();
    assert!(
        error.to_string().contains("urn:sestina:role:router"),
        "{error}"
    );
    assert_eq!(replica.calls(), 0);
}
