//! Partitions: addresses between which no packet passes, if each process has a network namespace.

use std::fmt;
use std::net::Ipv4Addr;

use anyhow::{Context, Result};

use crate::fleet::network::{Network, Pair};
use crate::fleet::{Fleet, Role};

/// Pairs of processes that are cut off from each other; processes are counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Partition {
    /// A router from edges and the other routers. It reaches storage and Redis, so it keeps its
    /// lease, and its slots.
    Lanes(usize),
    /// A router from all others: it must stop by itself before other routers take its slots.
    Router(usize),
    /// An edge from all routers; its clients reach it.
    Edge(usize),
    /// A storage process from all others, including PostgreSQL.
    Storage(usize),
    /// Two routers from each other.
    Routers(usize, usize),
    /// An edge from one router.
    EdgeRouter(usize, usize),
    /// A router from Redis: its lease is fresh in PostgreSQL only.
    RouterRedis(usize),
    /// A router from all storage processes: its lease is fresh in Redis only.
    RouterStorages(usize),
}

impl Partition {
    /// The name under which the report combines partitions.
    pub(super) fn kind(self) -> &'static str {
        match self {
            Partition::Lanes(_) => "cut lanes of a router",
            Partition::Router(_) => "isolate router",
            Partition::Edge(_) => "isolate edge",
            Partition::Storage(_) => "isolate storage",
            Partition::Routers(..) => "cut two routers",
            Partition::EdgeRouter(..) => "cut edge and router",
            Partition::RouterRedis(_) => "cut router and Redis",
            Partition::RouterStorages(_) => "cut router and storages",
        }
    }

    /// The edge whose clients may lose their connection.
    pub(super) fn edge(self) -> Option<usize> {
        match self {
            Partition::Edge(edge) => Some(edge),
            _ => None,
        }
    }

    /// The process that cannot renew its lease during the partition.
    pub(super) fn without_lease(self) -> Option<(Role, usize)> {
        match self {
            Partition::Router(n) => Some((Role::Router, n)),
            Partition::Edge(n) => Some((Role::Edge, n)),
            _ => None,
        }
    }

    pub(super) fn begin(self, fleet: &mut Fleet) -> Result<()> {
        let pairs = self.pairs(fleet)?;
        network(fleet)?.cut(pairs)
    }

    pub(super) fn end(self, fleet: &mut Fleet) -> Result<()> {
        let pairs = self.pairs(fleet)?;
        network(fleet)?.heal(&pairs)
    }

    fn pairs(self, fleet: &mut Fleet) -> Result<Vec<Pair>> {
        let stores = {
            let network = network(fleet)?;
            [network.redis(), network.postgres()]
        };
        let [edges, routers, storages] = [Role::Edge, Role::Router, Role::Storage]
            .map(|role| fleet.of(role).map(|node| node.ip).collect::<Vec<_>>());
        let (tier, number, others) = match self {
            Partition::Lanes(n) => (&routers, n, [&edges[..], &routers].concat()),
            Partition::Router(n) => {
                let all = [&edges[..], &routers, &storages, &stores].concat();
                (&routers, n, all)
            }
            Partition::Edge(n) => (&edges, n, routers.clone()),
            Partition::Storage(n) => {
                let all = [&edges[..], &routers, &storages, &stores].concat();
                (&storages, n, all)
            }
            Partition::Routers(n, other) => (&routers, n, only(&routers, other)),
            Partition::EdgeRouter(n, router) => (&edges, n, only(&routers, router)),
            Partition::RouterRedis(n) => (&routers, n, only(&stores, 0)),
            Partition::RouterStorages(n) => (&routers, n, storages.clone()),
        };
        let one = *tier.get(number).context("there is no such process")?;
        let others = others.into_iter().filter(|other| *other != one);
        Ok(others.map(|other| (one, other)).collect())
    }
}

impl fmt::Display for Partition {
    /// The processes that are cut off.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (one, other) = match *self {
            Partition::Lanes(n)
            | Partition::Router(n)
            | Partition::RouterRedis(n)
            | Partition::RouterStorages(n) => (Role::Router.name(n + 1), None),
            Partition::Edge(n) => (Role::Edge.name(n + 1), None),
            Partition::Storage(n) => (Role::Storage.name(n + 1), None),
            Partition::Routers(n, other) => {
                (Role::Router.name(n + 1), Some(Role::Router.name(other + 1)))
            }
            Partition::EdgeRouter(n, router) => {
                (Role::Edge.name(n + 1), Some(Role::Router.name(router + 1)))
            }
        };
        f.write_str(&one)?;
        other.map_or(Ok(()), |other| write!(f, " and {other}"))
    }
}

fn only(all: &[Ipv4Addr], number: usize) -> Vec<Ipv4Addr> {
    all.get(number).into_iter().copied().collect()
}

fn network(fleet: &mut Fleet) -> Result<&mut Network> {
    let network = fleet.network.as_mut();
    network.context("the processes have no network of their own")
}
