//! Redis over TLS: the suites on servers that accept TLS only, and the connections that are
//! refused.

use sestina_certs::{CertifiedKeyPem, Role, TrialCa};
use sestina_state::{RedisIdentity, RedisMode, RedisTls};
use sestina_testkit::RedisCertificates;
use tempfile::TempDir;

use super::*;

/// The address at which tests reach the servers.
const ADDRESS: &str = "127.0.0.1";

/// An authority, and a folder for the files of the servers whose certificates it signs.
struct Authority {
    ca: TrialCa,
    folder: TempDir,
}

impl Authority {
    fn new(name: &str) -> Authority {
        let (ca, _) = TrialCa::create(name).unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("ca.pem"), ca.cert_pem()).unwrap();
        Authority { ca, folder }
    }

    fn issue(&self, name: &str, further: &[&str]) -> CertifiedKeyPem {
        let further: Vec<String> = further.iter().map(|name| (*name).to_owned()).collect();
        self.ca.issue(name, Role::Router, &further).unwrap()
    }

    /// Certificates of a server with these names.
    fn server(&self, name: &str, further: &[&str]) -> RedisCertificates {
        let path = |end: &str| self.folder.path().join(format!("{name}.{end}"));
        let files = RedisCertificates {
            ca: self.folder.path().join("ca.pem"),
            certificate: path("pem"),
            key: path("key"),
            ask_clients: false,
        };
        let issued = self.issue(name, further);
        issued.write(&files.certificate, &files.key).unwrap();
        files
    }

    /// The settings of a client of this authority's servers.
    fn tls(&self) -> RedisTls {
        RedisTls {
            ca: Some(self.ca.cert_pem().into()),
            identity: None,
        }
    }

    /// The same with a certificate that `signer` has signed.
    fn tls_as(&self, signer: &Authority) -> RedisTls {
        let issued = signer.issue("router", &[]);
        RedisTls {
            identity: Some(RedisIdentity {
                certificate: issued.cert_pem.into(),
                key: issued.key_pem.into(),
            }),
            ..self.tls()
        }
    }
}

fn with(mut config: RedisConfig, tls: RedisTls) -> RedisConfig {
    config.tls = Some(tls);
    config
}

/// The three modes, each for this address.
fn all_modes(url: &str) -> [RedisConfig; 3] {
    let master_name = RedisSentinel::MASTER.to_owned();
    [
        RedisMode::Single,
        RedisMode::Sentinel { master_name },
        RedisMode::Cluster,
    ]
    .map(|mode| RedisConfig::new(mode, vec![url.to_owned()]))
}

/// The error of a connection that fails.
async fn refusal(mut config: RedisConfig) -> String {
    config.connect_timeout = Duration::from_secs(5);
    config.state_store_timeout = Duration::from_secs(20);
    let state_store = RedisStateStore::connect(&config).unwrap();
    match load(&state_store, 1, 1).await {
        Err(StateStoreError::Unavailable(why)) => why,
        other => panic!("{:?} was not refused: {other:?}", config.mode),
    }
}

async fn assert_refused(config: RedisConfig, parts: &[&str]) {
    let mode = config.mode.clone();
    let why = refusal(config).await;
    assert!(
        parts.iter().all(|part| why.contains(part)),
        "{mode:?}: {why}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn single_redis() {
    let authority = Authority::new("one");
    let server = authority.server("localhost", &[ADDRESS]);
    let mut redis = Redis::start_tls(&server).unwrap();
    assert!(redis.url().starts_with("rediss://"));
    let config = with(RedisConfig::single(redis.url()), authority.tls());
    let state_store = RedisStateStore::connect(&config).unwrap();
    state_store_suite(&state_store).await;
    lease_suite(&RedisLeases::connect(&config).unwrap()).await;

    // By a name of the certificate instead of an address.
    let url = format!("rediss://localhost:{}", redis.port());
    let by_name =
        RedisStateStore::connect(&with(RedisConfig::single(url), authority.tls())).unwrap();
    assert_eq!(contents(&by_name, 2, u64::MAX).await.len(), 2);

    // The server accepts TLS only.
    let plain = RedisConfig::single(redis.url().replace("rediss", "redis"));
    refusal(plain).await;

    redis.kill9();
    let away = load(&state_store, 1, 1).await;
    assert!(
        matches!(away, Err(StateStoreError::Unavailable(_))),
        "{away:?}"
    );
    redis.restart().unwrap();
    let last = eventually(&state_store, 1, replace("a", &[])).await;
    assert_eq!(contents(&state_store, 1, 1).await, [object("a", last, &[])]);
}

#[tokio::test(flavor = "multi_thread")]
async fn sentinel_failover() {
    let authority = Authority::new("one");
    let server = authority.server("localhost", &[ADDRESS]);
    let mut redis = RedisSentinel::start_tls(&server).unwrap();
    let config = RedisConfig::sentinel(RedisSentinel::MASTER, redis.urls());
    let config = with(config, authority.tls());
    let state_store = RedisStateStore::connect(&config).unwrap();
    state_store_suite(&state_store).await;
    lease_suite(&RedisLeases::connect(&config).unwrap()).await;

    let before = redis.master_port().unwrap();
    redis.kill9().unwrap();
    redis.wait_failover(before).unwrap();
    eventually(&state_store, 701, replace("b", &[])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_cluster() {
    let authority = Authority::new("one");
    let server = authority.server("localhost", &[ADDRESS]);
    let mut redis = RedisCluster::start_tls(&server).unwrap();
    // One node is configured, the others are discovered.
    let config = RedisConfig::cluster(redis.urls()[..1].to_vec());
    let config = with(config, authority.tls());
    let state_store = RedisStateStore::connect(&config).unwrap();
    state_store_suite(&state_store).await;
    lease_suite(&RedisLeases::connect(&config).unwrap()).await;

    follows_a_hash_slot(&state_store, &redis).await;

    // A discovered node dies and comes back empty.
    redis.kill9(1);
    redis.restart(1).unwrap();
    for slot in 600..610 {
        eventually(&state_store, slot, replace("a", &[])).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_authority_is_refused() {
    let (authority, other) = (Authority::new("one"), Authority::new("other"));
    let same_name = Authority::new("one");
    let server = authority.server("localhost", &[ADDRESS]);
    let redis = Redis::start_tls(&server).unwrap();
    for config in all_modes(redis.url()) {
        let other = with(config.clone(), other.tls());
        assert_refused(other, &["UnknownIssuer", "set redis.tls_ca"]).await;
        let same_name = with(config.clone(), same_name.tls());
        assert_refused(same_name, &["BadSignature", "set redis.tls_ca"]).await;
        // Without a configured authority the system's trust store decides; it does not have this
        // one.
        assert_refused(config, &["UnknownIssuer", "set redis.tls_ca"]).await;
    }
    // The server and its certificate are valid.
    let config = with(RedisConfig::single(redis.url()), authority.tls());
    let state_store = RedisStateStore::connect(&config).unwrap();
    assert_eq!(contents(&state_store, 1, 1).await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_for_another_name_is_refused() {
    let authority = Authority::new("one");
    let server = authority.server("redis.example", &["192.0.2.1"]);
    let redis = Redis::start_tls(&server).unwrap();
    let by_name = format!("rediss://localhost:{}", redis.port());
    for url in [redis.url(), &by_name] {
        for config in all_modes(url) {
            let config = with(config, authority.tls());
            assert_refused(config, &["not valid for name", "must hold the name"]).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_may_ask_for_a_certificate() {
    let (authority, other) = (Authority::new("one"), Authority::new("other"));
    let mut server = authority.server("localhost", &[ADDRESS]);
    server.ask_clients = true;
    let redis = Redis::start_tls(&server).unwrap();
    for config in all_modes(redis.url()) {
        refusal(with(config.clone(), authority.tls())).await;
        refusal(with(config, authority.tls_as(&other))).await;
    }
    let config = RedisConfig::single(redis.url());
    let config = with(config, authority.tls_as(&authority));
    let state_store = RedisStateStore::connect(&config).unwrap();
    let op = replace("a", &[]);
    put(&state_store, 1, at(1, 1), op).await.unwrap();
    lease_suite(&RedisLeases::connect(&config).unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_servers_of_a_cluster_may_ask_for_a_certificate() {
    let authority = Authority::new("one");
    let mut server = authority.server("localhost", &[ADDRESS]);
    server.ask_clients = true;
    let identity = authority.tls_as(&authority);

    let redis = RedisCluster::start_tls(&server).unwrap();
    let config = RedisConfig::cluster(redis.urls()[..1].to_vec());
    let state_store = RedisStateStore::connect(&with(config, identity.clone())).unwrap();
    slots_do_not_touch(&state_store).await;
    drop(redis);

    let redis = RedisSentinel::start_tls(&server).unwrap();
    let config = RedisConfig::sentinel(RedisSentinel::MASTER, redis.urls());
    let state_store = RedisStateStore::connect(&with(config, identity)).unwrap();
    slots_do_not_touch(&state_store).await;
}

#[tokio::test]
async fn certificates_that_are_none_are_told_at_once() {
    let config = RedisConfig::single("rediss://127.0.0.1:1");
    let tls = RedisTls {
        ca: None,
        identity: Some(RedisIdentity {
            certificate: Vec::new(),
            key: b"hunter2".to_vec(),
        }),
    };
    let error = RedisStateStore::connect(&with(config, tls)).err().unwrap();
    let text = error.to_string();
    assert!(
        text.contains("private key") && !text.contains("hunter2"),
        "{text}"
    );
}
