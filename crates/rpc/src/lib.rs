//! What joins the tiers between processes: gRPC over HTTP/2 with mutual TLS.
//!
//! Everything here implements the traits of `sestina-api`, so that a tier cannot tell whether its
//! neighbour is a direct call or another machine.
//!
//! - [`server`]: the one listener of a process; services are added to it
//! - [`channel`]: dialling others; [`target`]: their addresses; `lease_connection`: connections for
//!   leases, which a thread of its own drives at both ends
//! - [`tls`]: certificates of both directions, exchangeable while running; [`identity`]: who calls;
//!   [`access`]: who may call what; [`cluster`]: which cluster it is of;
//!   `versions`: whether both speak a version in common
//! - [`queue`] and [`lane`]: the bounded, batched streams that lanes are made of
//! - [`lane_client`], [`lane_server`]: edge and router, router and router
//! - [`storage_client`], [`storage_server`]: router and storage; `replicas`: the storages there are
//! - [`admin`]: the administrator's commands, over gRPC and over a unix socket
//! - [`codec`]: the same traits in one process, but through the wire codec
//! - [`status`]: errors to gRPC status and back; [`trace`]: trace context

mod accept;
pub mod access;
pub mod admin;
pub mod channel;
pub mod cluster;
pub mod codec;
mod error;
pub mod identity;
mod io;
pub mod lane;
pub mod lane_client;
pub mod lane_server;
mod lease_connection;
pub mod queue;
mod replicas;
pub mod server;
pub mod status;
pub mod storage_client;
pub mod storage_server;
pub mod target;
pub mod tls;
pub mod trace;
mod versions;

pub use admin::AdminClient;
pub use channel::Dialer;
pub use cluster::Cluster;
pub use codec::{CodecAcceptor, CodecPeerConnector, CodecRouterConnector, CodecStores};
pub use error::RpcError;
pub use lane_client::{GrpcPeerConnector, GrpcRouterConnector};
pub use server::{RpcServer, RunningServer};
pub use storage_client::GrpcStores;
pub use tls::{MutualTls, Security, TlsFiles};

use std::time::Duration;

/// The largest message taken. HTTP/2 cuts a message into frames of 16 KiB by itself, so the queue
/// of a lane bounds the memory; this only limits the length that a peer may announce.
pub const MAX_MESSAGE: usize = 128 << 20;

/// Flow-control window of one stream. The reader of a lane never waits, so this only has to cover
/// one round trip at full rate.
pub(crate) const STREAM_WINDOW: u32 = 1 << 20;
/// Window of a connection: so many times a stream's that no unread stream can stall the others.
pub(crate) const CONNECTION_WINDOW: u32 = 32 << 20;

/// A silent connection is probed after this long ...
pub(crate) const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(1);
/// ... and given up when the probe is not answered in this time: together under 3 s.
pub(crate) const KEEPALIVE_TIMEOUT: Duration = Duration::from_millis(1800);

#[cfg(test)]
mod tests;
