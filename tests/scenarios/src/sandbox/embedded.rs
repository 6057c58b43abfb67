//! All tiers in one runtime.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use sestina::compose;
use sestina::direct::DirectConnector;
use sestina_api::link::RouterConnector;
use sestina_api::peer::PeerConnector;
use sestina_api::store::Stores;
use sestina_cluster::lease::LeaseTerms;
use sestina_cluster::lease_storage::StorageLeases;
use sestina_edge::Edge;
use sestina_edge::metrics::Tally;
use sestina_proto as proto;
use sestina_router::{Router, RouterDeps};
use sestina_rpc::{CodecPeerConnector, CodecRouterConnector, CodecStores};
use sestina_runtime::clock::BootClock;
use sestina_runtime::pressure::Pressure;
use sestina_state::{MemoryLeases, MemoryStateStore};
use sestina_storage::{Storage, StorageConfig};
use tempfile::TempDir;
use tokio::runtime::Handle;

use super::{EdgeAddress, settings};

pub(super) struct Embedded {
    storage: Arc<Storage>,
    pub(super) stores: Arc<dyn Stores>,
    pub(super) router: Arc<Router>,
    pub(super) edge: Edge,
    address: EdgeAddress,
    folder: TempDir,
}

impl Embedded {
    pub(super) async fn start(codec: bool) -> Result<Embedded> {
        let folder = tempfile::tempdir()?;
        let url = format!("sqlite:{}", folder.path().join("sestina.db").display());
        let storage = Storage::open(StorageConfig::new(url)).await?;
        let mut stores: Arc<dyn Stores> = storage.clone();
        let direct = DirectConnector::new();
        let mut peers: Arc<dyn PeerConnector> = Arc::new(direct.clone());
        if codec {
            stores = Arc::new(CodecStores(stores));
            peers = Arc::new(CodecPeerConnector(peers));
        }
        let mut config = settings::router_config()?;
        config.state_store = false;
        config.ack_settled = true;
        let node = compose::node("one", proto::NodeRole::Router, "");
        let router = Router::start(RouterDeps {
            config,
            node: node.clone(),
            stores: stores.clone(),
            state_store: Arc::new(MemoryStateStore::new()),
            state_store_leases: Arc::new(MemoryLeases::new(Arc::new(BootClock))),
            storage_leases: Arc::new(StorageLeases::new(stores.clone())),
            peers,
            terms: LeaseTerms::default(),
            leases: Handle::current(),
            pressure: Pressure::new(),
            metrics: sestina_telemetry::Metrics::new(),
        })
        .await?;
        direct.add(node, router.acceptor());
        let mut connector: Arc<dyn RouterConnector> = Arc::new(direct);
        if codec {
            connector = Arc::new(CodecRouterConnector(connector));
        }
        let edge = Edge::start(
            settings::edge_config("one-edge"),
            settings::certificates(folder.path())?,
            connector,
            Arc::new(Tally::default()),
        )?;
        let address = settings::address_of(&edge)?;
        Ok(Embedded {
            storage,
            stores,
            router: Arc::new(router),
            edge,
            address,
            folder,
        })
    }

    pub(super) fn certificate(&self) -> Result<String> {
        settings::certificate(self.folder.path())
    }

    pub(super) fn address(&self) -> EdgeAddress {
        self.address
    }

    pub(super) async fn stop(self) -> Result<()> {
        self.edge.shutdown().await;
        self.router.shutdown(Duration::from_secs(5)).await;
        self.storage.close().await;
        Ok(())
    }
}
