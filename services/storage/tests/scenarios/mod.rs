//! What every database must do. Each scenario gets stores over an empty database.

#![allow(clippy::unwrap_used)]

mod archives;
mod cluster;
mod entity_data;
mod leases;
mod replicas;
mod timelines;
mod users;
mod versions;

pub(crate) use archives::*;
pub(crate) use cluster::*;
pub(crate) use entity_data::*;
pub(crate) use leases::*;
pub(crate) use replicas::*;
pub(crate) use timelines::*;
pub(crate) use users::*;
pub(crate) use versions::*;
