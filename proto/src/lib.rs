//! The wire contracts between tiers, compiled from the `.proto` files beside this crate.
//!
//! The generated types are used as they are on both sides of a lane; [`convert`] moves stanzas
//! between the protocol crate's form and the wire's without copying, [`trailing`] names the frames that
//! may wait up to 10 ms to be sent together with others, [`presence`] compares presences. [`versions`] says
//! which versions of all this there are, and [`wire`] lets a test add what a later version may send.

#![allow(missing_docs, unreachable_pub, clippy::all)]

tonic::include_proto!("sestina.v1");

/// The contracts themselves, as a `google.protobuf.FileDescriptorSet`.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

#[allow(clippy::all)]
mod convert;
mod position;
mod presence;
mod trailing;
pub mod versions;
mod wire;

pub use wire::WireCodec;
