//! Real Redis and PostgreSQL servers for tests, each on free loopback ports and in a temporary
//! folder, stopped when dropped and also when the test process is killed.
//!
//! - [`Redis`]: one server
//! - [`RedisSentinel`]: a master, a replica and three sentinels
//! - [`RedisCluster`]: three masters of a Redis Cluster
//! - [`RedisCertificates`]: with these, any of the three speaks TLS and nothing else
//! - [`Postgres`]: one PostgreSQL server
//! - [`spawn`]: a child that is not killed with the thread that started it
//! - [`ensure_installed`]: installs the packages with apt-get where they are missing
//!
//! The environment variables `SESTINA_TEST_REDIS` and `SESTINA_TEST_POSTGRES` name running servers
//! to use instead (as URLs); then a fresh database is made on them. Tests that kill or suspend a
//! server ask for one of their own with `start_own`.
//!
//! Everything here blocks: servers are started before the part of a test that is measured.

mod dir;
mod install;
mod port;
mod postgres;
mod process;
mod redis;
mod redis_cluster;
mod redis_sentinel;
mod resp;
mod wait;

pub use install::{ensure_installed, find_program};
pub use port::free_port;
pub use postgres::{Postgres, PostgresOptions};
pub use process::{ServerProcess, spawn};
pub use redis::{Redis, RedisCertificates};
pub use redis_cluster::RedisCluster;
pub use redis_sentinel::RedisSentinel;
pub use resp::{Reply, command};
pub use wait::wait_for;

/// Names a running Redis to use for tests, as `redis://127.0.0.1:6379`.
pub const REDIS_VARIABLE: &str = "SESTINA_TEST_REDIS";
/// Names a running PostgreSQL to use for tests, as `postgres://user:password@127.0.0.1:5432/postgres`.
pub const POSTGRES_VARIABLE: &str = "SESTINA_TEST_POSTGRES";
