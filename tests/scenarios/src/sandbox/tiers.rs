//! Storages, routers and edges over PostgreSQL, Redis and gRPC.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use parking_lot::Mutex;
use sestina_api::store::Stores;
use sestina_certs::{Role, TrialCa};
use sestina_cluster::lease::LeaseTerms;
use sestina_cluster::lease_storage::StorageLeases;
use sestina_edge::Edge;
use sestina_edge::metrics::Tally;
use sestina_proto as proto;
use sestina_router::{Router, RouterDeps};
use sestina_rpc::target::Target;
use sestina_rpc::{
    Dialer, GrpcPeerConnector, GrpcRouterConnector, GrpcStores, MutualTls, RpcServer,
    RunningServer, Security,
};
use sestina_runtime::pressure::Pressure;
use sestina_state::{RedisConfig, RedisLeases, RedisStateStore};
use sestina_storage::{Storage, StorageConfig};
use sestina_testkit::{Postgres, PostgresOptions, Redis, command, free_port};
use tempfile::TempDir;
use tokio::runtime::Handle;

use super::node::Node;
use super::{EdgeAddress, Size, settings};

/// Creates a database for each sandbox on one server.
fn database() -> Result<String> {
    static SERVER: OnceLock<Mutex<Option<Postgres>>> = OnceLock::new();
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let mut server = SERVER.get_or_init(Mutex::default).lock();
    if server.is_none() {
        let named = std::env::var_os(sestina_testkit::POSTGRES_VARIABLE).is_some();
        *server = Some(if named {
            Postgres::start()?
        } else {
            // Its machine does not fail in these tests, and many tests share it.
            let settings = vec![("max_connections".to_owned(), "400".to_owned())];
            Postgres::start_own(&PostgresOptions {
                fsync: false,
                settings,
            })?
        });
    }
    let server = server.as_ref().context("the server was just started")?;
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    server.create_database(&format!("sandbox_{}_{number}", std::process::id()))
}

struct StorageNode {
    node: Node,
    storage: Arc<Storage>,
    server: RunningServer,
}

struct RouterNode {
    node: Node,
    router: Arc<Router>,
    server: RunningServer,
    dialer: Arc<Dialer>,
    incarnation: u64,
}

struct EdgeNode {
    node: Node,
    edge: Arc<Edge>,
    dialer: Arc<Dialer>,
    address: EdgeAddress,
}

/// See the module.
pub struct Tiers {
    ca: TrialCa,
    folder: TempDir,
    database: String,
    redis: Redis,
    storage_addresses: Vec<Target>,
    router_addresses: Vec<Target>,
    storages: Vec<StorageNode>,
    routers: Vec<RouterNode>,
    edges: Vec<EdgeNode>,
    names: u32,
}

impl Tiers {
    pub(super) async fn start(size: Size) -> Result<Tiers> {
        let (database, redis) = tokio::task::spawn_blocking(|| {
            sestina_testkit::ensure_installed()?;
            anyhow::Ok((database()?, Redis::start_own()?))
        })
        .await??;
        let mut tiers = Tiers {
            ca: TrialCa::create("sandbox")?.0,
            folder: tempfile::tempdir()?,
            database,
            redis,
            storage_addresses: Vec::new(),
            router_addresses: Vec::new(),
            storages: Vec::new(),
            routers: Vec::new(),
            edges: Vec::new(),
            names: 0,
        };
        for _ in 0..size.storages {
            tiers.add_storage().await?;
        }
        for _ in 0..size.routers {
            tiers.add_router().await?;
        }
        for _ in 0..size.edges {
            tiers.add_edge().await?;
        }
        Ok(tiers)
    }

    pub(super) fn certificate(&self) -> Result<String> {
        settings::certificate(self.folder.path())
    }

    fn name(&mut self, role: Role) -> String {
        self.names += 1;
        format!("{role}-{}", self.names)
    }

    fn security(&self, name: &str, role: Role) -> Result<Security> {
        let pem = self.ca.issue(name, role, &[])?;
        let identity = sestina_certs::parse_identity(
            "certificate",
            pem.cert_pem.as_bytes(),
            "key",
            pem.key_pem.as_bytes(),
        )?;
        let roots = sestina_certs::parse_roots("ca", self.ca.cert_pem().as_bytes())?;
        Ok(Security::Mutual(MutualTls::new(identity, roots)?))
    }

    /// Starts one more storage process; routers know only those that ran when they started.
    pub async fn add_storage(&mut self) -> Result<()> {
        let name = self.name(Role::Storage);
        let security = self.security(&name, Role::Storage)?;
        let node = Node::new(&name)?;
        let mut config = StorageConfig::new(self.database.clone());
        (config.pool_size, config.archive_pool_size) = (4, 4);
        let (storage, server) = node
            .run(async move {
                let storage = Storage::open(config).await?;
                let server = RpcServer::new(security)
                    .storage(storage.clone())
                    .listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
                    .await?;
                anyhow::Ok((storage, server))
            })
            .await??;
        let address = server.address().context("it listens on TCP")?;
        self.storage_addresses.push(address.to_string().parse()?);
        self.storages.push(StorageNode {
            node,
            storage,
            server,
        });
        Ok(())
    }

    /// Starts one more router.
    pub async fn add_router(&mut self) -> Result<()> {
        let name = self.name(Role::Router);
        let security = self.security(&name, Role::Router)?;
        let node = Node::new(&name)?;
        let redis = RedisConfig::single(self.redis.url());
        let storages = self.storage_addresses.clone();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
        let me = sestina::compose::node(&name, proto::NodeRole::Router, &address.to_string());
        let incarnation = me.incarnation;
        let (router, server, dialer) = node
            .run(async move {
                let dialer = Dialer::new(security.clone());
                let stores: Arc<dyn Stores> = Arc::new(GrpcStores::new(dialer.clone(), storages));
                let router = Router::start(RouterDeps {
                    config: settings::router_config()?,
                    node: me,
                    stores: stores.clone(),
                    state_store: Arc::new(RedisStateStore::connect(&redis)?),
                    state_store_leases: Arc::new(RedisLeases::connect(&redis)?),
                    storage_leases: Arc::new(StorageLeases::new(stores)),
                    peers: Arc::new(GrpcPeerConnector::new(dialer.clone())),
                    terms: LeaseTerms::default(),
                    leases: Handle::current(),
                    pressure: Pressure::new(),
                    metrics: sestina_telemetry::Metrics::new(),
                })
                .await?;
                let server = RpcServer::new(security)
                    .router(router.acceptor())
                    .listen(address)
                    .await?;
                anyhow::Ok((router, server, dialer))
            })
            .await??;
        self.router_addresses.push(address.to_string().parse()?);
        self.routers.push(RouterNode {
            node,
            router: Arc::new(router),
            server,
            dialer,
            incarnation,
        });
        Ok(())
    }

    /// Starts one more edge.
    pub async fn add_edge(&mut self) -> Result<()> {
        let name = self.name(Role::Edge);
        let security = self.security(&name, Role::Edge)?;
        let node = Node::new(&name)?;
        let certs = settings::certificates(self.folder.path())?;
        let seeds = self.router_addresses.clone();
        let (edge, dialer) = node
            .run(async move {
                let dialer = Dialer::new(security);
                let edge = Edge::start(
                    settings::edge_config(&name),
                    certs,
                    Arc::new(GrpcRouterConnector::new(dialer.clone(), seeds)),
                    Arc::new(Tally::default()),
                )?;
                anyhow::Ok((edge, dialer))
            })
            .await??;
        let address = settings::address_of(&edge)?;
        self.edges.push(EdgeNode {
            node,
            edge: Arc::new(edge),
            dialer,
            address,
        });
        Ok(())
    }

    pub(super) async fn put_account(&self, request: proto::AccountPutRequest) -> Result<()> {
        let first = self.storages.first().context("no storage lives")?;
        let storage = first.storage.clone();
        first
            .node
            .run(async move { storage.account_put(request).await })
            .await??;
        Ok(())
    }

    pub(super) fn edge_addresses(&self) -> Vec<EdgeAddress> {
        self.edges.iter().map(|edge| edge.address).collect()
    }

    pub(super) fn routers(&self) -> Vec<Arc<Router>> {
        self.routers
            .iter()
            .map(|node| node.router.clone())
            .collect()
    }

    pub(super) fn edges_ready(&self, routers: usize) -> bool {
        self.edges.iter().all(|node| {
            let status = node.edge.status();
            // A map that was made before a router ended names it until the next change.
            status.ready() && status.reached == routers
        })
    }

    pub(super) fn owner_of(&self, slot: u16) -> Option<usize> {
        let table = self.routers.first()?.router.table();
        let owner = table.owner(slot)?;
        self.routers
            .iter()
            .position(|node| node.incarnation == owner.incarnation)
    }

    /// Kills a router.
    pub fn kill_router(&mut self, number: usize) {
        let mut dead = self.routers.remove(number);
        dead.router.abort();
        dead.node.kill();
    }

    /// Kills an edge: its clients' sockets break.
    pub fn kill_edge(&mut self, number: usize) {
        self.edges.remove(number).node.kill();
    }

    /// Kills a storage process. The database stays.
    pub fn kill_storage(&mut self, number: usize) {
        self.storages.remove(number).node.kill();
    }

    /// Makes a router hand all its slots over, then ends it. Returns whether all slots were handed
    /// over.
    pub async fn drain_router(&mut self, number: usize, limit: Duration) -> Result<bool> {
        let router = self.routers[number].router.clone();
        let drained = self.routers[number]
            .node
            .run(async move { router.drain(limit).await })
            .await?;
        stop_router(self.routers.remove(number)).await?;
        Ok(drained)
    }

    /// Suspends Redis (its connections stay open).
    pub fn pause_redis(&self) {
        self.redis.suspend();
    }

    /// Resumes Redis.
    pub fn resume_redis(&self) {
        self.redis.resume();
    }

    /// Deletes all data of Redis.
    pub fn flush_redis(&self) -> Result<()> {
        let reply = command(self.redis.port(), &["FLUSHALL"])?;
        (reply.text() == "OK")
            .then_some(())
            .ok_or_else(|| anyhow!("FLUSHALL: {reply:?}"))
    }

    pub(super) async fn stop(mut self) -> Result<()> {
        for node in self.edges.drain(..) {
            stop_edge(node).await?;
        }
        for node in self.routers.drain(..) {
            stop_router(node).await?;
        }
        for storage in self.storages.drain(..) {
            let StorageNode {
                node,
                storage,
                server,
            } = storage;
            node.run(async move {
                server.shutdown(Duration::from_secs(2)).await;
                storage.close().await;
            })
            .await?;
        }
        Ok(())
    }
}

async fn stop_router(stopped: RouterNode) -> Result<()> {
    let RouterNode {
        node,
        router,
        server,
        dialer,
        ..
    } = stopped;
    node.run(async move {
        router.shutdown(Duration::from_secs(5)).await;
        server.shutdown(Duration::from_secs(2)).await;
        dialer.shutdown().await;
    })
    .await
}

async fn stop_edge(stopped: EdgeNode) -> Result<()> {
    let EdgeNode {
        node, edge, dialer, ..
    } = stopped;
    node.run(async move {
        edge.shutdown().await;
        dialer.shutdown().await;
    })
    .await
}
