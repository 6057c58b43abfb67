//! Real Redis and PostgreSQL servers for tests, each on free loopback ports and in a temporary
//! folder, stopped when dropped and also when the test process is killed.
//!
//! - [`Redis`]: one server
//! - [`RedisSentinel`]: a master, a replica and three sentinels
//! - [`RedisCluster`]: three masters of a Redis Cluster
//! - [`RedisCertificates`]: with these, any of the three accepts TLS only
//! - [`Postgres`]: one PostgreSQL server
//! - [`spawn`]: a child that is not killed with the thread that started it
//! - [`ensure_installed`]: installs missing packages with apt-get
//!
//! The environment variables `SESTINA_TEST_REDIS` and `SESTINA_TEST_POSTGRES` name running servers
//! to use instead (as URLs); each test gets an empty database on them. Tests that kill or suspend a
//! server start one of their own with `start_own`.
//!
//! All functions block: servers are started before the measured part of a test.

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

/// The variable that names a running Redis for tests, such as `redis://127.0.0.1:6379`.
pub const REDIS_VARIABLE: &str = "SESTINA_TEST_REDIS";
/// The variable that names a running PostgreSQL for tests, such as
/// `postgres://user:password@127.0.0.1:5432/postgres`.
pub const POSTGRES_VARIABLE: &str = "SESTINA_TEST_POSTGRES";
