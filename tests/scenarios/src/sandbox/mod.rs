//! The whole server inside the test process.
//!
//! - `settings`: hosts and limits, the same in every topology
//! - `embedded`: all tiers in one runtime, with or without the wire codec in between
//! - `node`: a process of the three tiers: a runtime of its own, which can be killed
//! - `tiers`: storages, routers and edges over PostgreSQL, Redis and gRPC

mod embedded;
mod node;
mod settings;
mod tiers;

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use sestina_proto as proto;
use sestina_router::Router;
use sestina_xmpp::sasl::Hash;
use sestina_xmpp::sasl::keys::ScramKeys;

use self::embedded::Embedded;
pub use self::settings::{ANONYMOUS, HOST, ROOMS};
pub use self::tiers::Tiers;

/// How the tiers are connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topology {
    /// One process, direct calls, memory and SQLite.
    Embedded,
    /// The same, with every call encoded and decoded.
    Codec,
    /// Two of each tier, gRPC with mutual TLS, real Redis and PostgreSQL.
    ThreeTiers,
}

impl fmt::Display for Topology {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Topology::Embedded => "embedded",
            Topology::Codec => "codec",
            Topology::ThreeTiers => "three-tiers",
        })
    }
}

/// The addresses of an edge.
#[derive(Clone, Copy, Debug)]
pub struct EdgeAddress {
    /// XMPP with STARTTLS.
    pub start_tls: SocketAddr,
    /// XMPP under TLS.
    pub tls: SocketAddr,
    /// WebSocket under TLS.
    pub websocket: SocketAddr,
}

/// The number of processes of each tier, for [`Topology::ThreeTiers`].
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Storage processes over the one database.
    pub storages: usize,
    /// Routers.
    pub routers: usize,
    /// Edges.
    pub edges: usize,
}

impl Default for Size {
    fn default() -> Size {
        Size {
            storages: 2,
            routers: 2,
            edges: 2,
        }
    }
}

/// A server under test.
pub struct Sandbox {
    topology: Topology,
    certificate: String,
    inner: Inner,
}

enum Inner {
    One(Box<Embedded>),
    Three(Box<Tiers>),
}

/// The password of every user.
pub const PASSWORD: &str = "r0m30myr0m30";

impl Sandbox {
    /// Starts a server and waits until it serves every slot.
    pub async fn start(topology: Topology) -> Result<Sandbox> {
        Sandbox::start_sized(topology, Size::default()).await
    }

    /// The same with other numbers of processes.
    pub async fn start_sized(topology: Topology, size: Size) -> Result<Sandbox> {
        crate::logs();
        let (certificate, inner) = match topology {
            Topology::Embedded | Topology::Codec => {
                let one = Embedded::start(topology == Topology::Codec).await?;
                (one.certificate()?, Inner::One(Box::new(one)))
            }
            Topology::ThreeTiers => {
                let three = Tiers::start(size).await?;
                (three.certificate()?, Inner::Three(Box::new(three)))
            }
        };
        let sandbox = Sandbox {
            topology,
            certificate,
            inner,
        };
        sandbox.redundant(Duration::from_secs(60)).await?;
        Ok(sandbox)
    }

    /// How the tiers are connected.
    pub fn topology(&self) -> Topology {
        self.topology
    }

    /// The certificate that clients see, as PEM.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// Makes an account with [`PASSWORD`].
    pub async fn add_user(&self, name: &str) -> Result<()> {
        let request = account(name).await?;
        match &self.inner {
            Inner::One(one) => drop(one.stores.account_put(request).await?),
            Inner::Three(three) => three.put_account(request).await?,
        };
        Ok(())
    }

    /// Makes several accounts.
    pub async fn add_users(&self, names: &[&str]) -> Result<()> {
        for name in names {
            self.add_user(name).await?;
        }
        Ok(())
    }

    /// The addresses of the live edges, in order of their start.
    pub fn edge_addresses(&self) -> Vec<EdgeAddress> {
        match &self.inner {
            Inner::One(one) => vec![one.address()],
            Inner::Three(three) => three.edge_addresses(),
        }
    }

    /// The edge of that number, modulo their count.
    pub fn edge(&self, number: usize) -> EdgeAddress {
        let edges = self.edge_addresses();
        edges[number % edges.len()]
    }

    /// The live routers.
    pub fn routers(&self) -> Vec<Arc<Router>> {
        match &self.inner {
            Inner::One(one) => vec![Arc::clone(&one.router)],
            Inner::Three(three) => three.routers(),
        }
    }

    /// The three tiers, to kill their processes.
    pub fn tiers(&mut self) -> Result<&mut Tiers> {
        match &mut self.inner {
            Inner::Three(three) => Ok(three),
            Inner::One(_) => bail!("{} has one process only", self.topology),
        }
    }

    /// Waits until every slot is served, the routers share them, and every edge reaches all
    /// routers.
    pub async fn redundant(&self, limit: Duration) -> Result<()> {
        let routers = self.routers();
        let at_least = sestina_cluster::slots::SLOTS / (2 * routers.len().max(1));
        let last = parking_lot::Mutex::new(String::new());
        let looked = crate::until("every slot is served", limit, || async {
            let mut all = 0;
            let mut shared = true;
            let mut moving = 0;
            let mut seen = Vec::new();
            for router in &routers {
                let counts = router.counts().await;
                all += counts.slots;
                moving += counts.taking + counts.quiescing;
                shared &= counts.slots >= at_least;
                seen.push(format!("{counts:?}"));
            }
            let edges = match &self.inner {
                Inner::One(one) => one.edge.status().ready(),
                Inner::Three(three) => three.edges_ready(routers.len()),
            };
            *last.lock() = format!("{seen:?}, edges ready: {edges}");
            all == sestina_cluster::slots::SLOTS && shared && moving == 0 && edges
        })
        .await;
        looked.with_context(|| last.lock().clone())
    }

    /// Waits until a session that has become available has got all its stored messages.
    pub async fn caught_up(&self, jid: &str) -> Result<()> {
        let routers = self.routers();
        let what = format!("{jid} has caught up");
        crate::until(&what, Duration::from_secs(10), || async {
            for router in &routers {
                let sessions = router.sessions().await;
                if let Some(session) = sessions.iter().find(|session| session.jid == jid) {
                    return !session.catching_up;
                }
            }
            false
        })
        .await
    }

    /// The live router that owns the slot of a bare JID, by its place in [`Sandbox::routers`].
    pub fn owner_of(&self, bare: &str) -> Option<usize> {
        let slot = sestina_cluster::slots::slot_of_bare(bare);
        match &self.inner {
            Inner::One(_) => Some(0),
            Inner::Three(three) => three.owner_of(slot),
        }
    }

    /// Ends all processes in order.
    pub async fn stop(self) -> Result<()> {
        match self.inner {
            Inner::One(one) => one.stop().await,
            Inner::Three(three) => three.stop().await,
        }
    }
}

fn wire(keys: &ScramKeys) -> proto::ScramKeys {
    proto::ScramKeys {
        mechanism: keys.hash.mechanism().name().to_owned(),
        salt: keys.salt.clone().into(),
        iterations: keys.iterations,
        stored_key: keys.stored_key.clone().into(),
        server_key: keys.server_key.clone().into(),
    }
}

/// The request that creates a user of that name, with the password of all users.
pub async fn account(name: &str) -> Result<proto::AccountPutRequest> {
    let keys = tokio::task::spawn_blocking(|| {
        [Hash::Sha1, Hash::Sha256].map(|hash| ScramKeys::generate(PASSWORD, hash, 4096))
    })
    .await?;
    let keys = keys
        .into_iter()
        .map(|keys| Ok(wire(&keys?)))
        .collect::<Result<_>>()?;
    Ok(proto::AccountPutRequest {
        account: Some(proto::Account {
            bare: format!("{name}@{HOST}"),
            keys,
            ..Default::default()
        }),
        create: true,
    })
}
