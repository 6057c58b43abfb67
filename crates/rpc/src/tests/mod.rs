//! The whole way over real sockets, with real certificates.
#![allow(clippy::unwrap_used)]

mod access;
mod admin;
mod codec;
mod cut;
mod lanes;
mod leases;
mod peers;
mod storage;
mod support;
mod tls;
mod trace;
