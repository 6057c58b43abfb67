//! Checks of the section `redis`: combinations that are not allowed.

use super::{Findings, holds_password};
use crate::sections::{Redis, RedisMode};

/// A write must hold the largest single change of a room, apart from its contents.
const LEAST_COMMIT: usize = 16 << 10;

pub(super) fn check(redis: &Redis, found: &mut Findings) {
    found.require(
        (redis.mode == RedisMode::Memory) == redis.urls.is_empty(),
        "redis.urls",
        "addresses go with the modes single, sentinel and cluster, and only with these",
    );
    found.require(
        (redis.mode == RedisMode::Sentinel) == redis.master_name.is_some(),
        "redis.master_name",
        "goes with mode = \"sentinel\", and only with it",
    );
    found.require(
        redis.mode != RedisMode::Single || redis.urls.len() == 1,
        "redis.urls",
        "mode = \"single\" takes one address",
    );
    for url in &redis.urls {
        found.require(
            !holds_password(url),
            "redis.urls",
            "write the password in redis.password or redis.password_file, not in the address",
        );
        found.require(
            url.starts_with("redis://") || url.starts_with("rediss://"),
            "redis.urls",
            "must begin with redis:// or rediss://",
        );
        found.require(
            !url.contains('#'),
            "redis.urls",
            "takes nothing after a #; certificates are always checked, tls_ca names the \
             authority that is trusted",
        );
    }
    found.require(
        *redis.commit_bytes >= LEAST_COMMIT,
        "redis.commit_bytes",
        "must be at least 16 KiB",
    );
    check_tls(redis, found);
}

fn check_tls(redis: &Redis, found: &mut Findings) {
    let encrypted = |url: &&String| url.starts_with("rediss://");
    let count = redis.urls.iter().filter(encrypted).count();
    found.require(
        count == 0 || count == redis.urls.len(),
        "redis.urls",
        "mixes redis:// and rediss://; write all addresses with TLS or none",
    );
    for (key, file) in [
        ("redis.tls_ca", &redis.tls_ca),
        ("redis.tls_certificate", &redis.tls_certificate),
        ("redis.tls_key", &redis.tls_key),
    ] {
        found.require(
            count > 0 || file.is_none(),
            key,
            "goes with rediss:// addresses, and only with them",
        );
    }
    found.pair(
        "redis.tls_certificate",
        &redis.tls_certificate,
        &redis.tls_key,
    );
}
