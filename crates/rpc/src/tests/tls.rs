use std::sync::Arc;

use sestina_api::link::{LinkError, RouterConnector, RouterSink};
use sestina_certs::Role;
use tokio::sync::watch;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::support::*;
use crate::channel::Peer;
use crate::{Dialer, GrpcRouterConnector, MutualTls, RpcServer, Security, TlsFiles};

async fn open(
    dialer: Arc<Dialer>,
    router: &sestina_proto::Node,
) -> Result<Arc<dyn RouterSink>, LinkError> {
    let port = GrpcRouterConnector::new(dialer, Vec::new()).connect(router);
    port.open_lane(hello("edge-0"), Edge::new().0).await
}

#[tokio::test]
async fn a_foreign_ca_is_refused_on_either_side() {
    let (ours, theirs) = (Cluster::new(), Cluster::new());
    let router = Router::new();
    let server = router.serve(ours.security("router-0", Role::Router)).await;
    let at = node("router-0", server.address().unwrap());
    let _lane = open(ours.dialer("edge-0", Role::Edge), &at).await.unwrap();

    // It does not trust the router.
    let error = open(theirs.dialer("edge-0", Role::Edge), &at).await.err();
    assert!(
        matches!(error, Some(LinkError::Refused { .. })),
        "{error:?}"
    );

    // It trusts the router, and the router does not trust it.
    let (own, other) = (
        ours.tls("edge-0", Role::Edge),
        theirs.tls("edge-0", Role::Edge),
    );
    own.replace(other.identity(), own.roots()).unwrap();
    let error = open(Dialer::new(Security::Mutual(own)), &at).await.err();
    assert!(error.is_some());

    // No certificate, no TLS at all.
    assert!(open(Dialer::new(Security::Plaintext), &at).await.is_err());
    assert_eq!(
        *router.closed.borrow(),
        0,
        "no other lane was ever accepted"
    );
}

#[tokio::test]
async fn the_role_and_the_name_of_a_certificate_are_checked() {
    let cluster = Cluster::new();
    let router = Router::new();
    let server = router
        .serve(cluster.security("router-0", Role::Router))
        .await;
    let at = server.address().unwrap();
    let error = open(
        cluster.dialer("storage-0", Role::Storage),
        &node("router-0", at),
    )
    .await
    .err();
    let Some(LinkError::Refused { reason, .. }) = error else {
        panic!("{error:?}")
    };
    assert!(reason.contains("urn:sestina:role:edge"), "{reason}");

    let error = open(cluster.dialer("edge-0", Role::Edge), &node("router-1", at))
        .await
        .err();
    assert!(
        matches!(error, Some(LinkError::Refused { .. })),
        "{error:?}"
    );

    let impostor = Router::new()
        .serve(cluster.security("edge-7", Role::Edge))
        .await;
    let at = impostor.address().unwrap();
    let error = open(cluster.dialer("edge-0", Role::Edge), &node("edge-7", at))
        .await
        .err();
    let Some(LinkError::Refused { reason, .. }) = error else {
        panic!("{error:?}")
    };
    assert!(reason.contains("roles"), "{reason}");
}

#[tokio::test]
async fn certificates_are_exchanged_without_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let issue = |sub: &str, name: &str, role| {
        sestina_certs::issue(&dir.path().join(sub), name, role, &[]).unwrap()
    };
    let files = |issued: sestina_certs::IssuedFiles| TlsFiles {
        cert: issued.cert,
        key: issued.key,
        ca: issued.ca,
    };
    let server_files = files(issue("live", "router-0", Role::Router));
    let old_edge = MutualTls::load(files(issue("live", "edge-0", Role::Edge))).unwrap();
    let tls = MutualTls::load(server_files.clone()).unwrap();
    let router = Router::new();
    let server = router.serve(Security::Mutual(Arc::clone(&tls))).await;
    let at = node("router-0", server.address().unwrap());
    let (edge, mut batches) = Edge::new();
    let port = GrpcRouterConnector::new(Dialer::new(Security::Mutual(old_edge.clone())), vec![])
        .connect(&at);
    let lane = port.open_lane(hello("edge-0"), edge.clone()).await.unwrap();
    soon("the Welcome", batches.recv()).await.unwrap();

    // A new CA takes the place of the old one.
    let new = files(issue("next", "router-0", Role::Router));
    let new_edge = MutualTls::load(files(issue("next", "edge-0", Role::Edge))).unwrap();
    let before = tls.leaf();
    std::fs::copy(&new.cert, &server_files.cert).unwrap();
    let error = tls.reload().unwrap_err().to_string();
    assert!(error.contains("does not belong"), "{error}");
    assert_eq!(tls.leaf(), before, "a broken pair of files changes nothing");
    std::fs::copy(&new.key, &server_files.key).unwrap();
    std::fs::copy(&new.ca, &server_files.ca).unwrap();
    tls.reload().unwrap();
    assert_ne!(tls.leaf(), before);

    assert!(
        open(Dialer::new(Security::Mutual(old_edge)), &at)
            .await
            .is_err()
    );
    assert!(
        open(Dialer::new(Security::Mutual(new_edge)), &at)
            .await
            .is_ok()
    );
    // What stood before stands still.
    lane.send(inbound(1, 1)).unwrap();
    let batch = soon("the answer", batches.recv()).await.unwrap();
    assert_eq!(accepted(&batch), Some(1));
}

#[tokio::test]
async fn health_says_what_the_process_says() {
    let cluster = Cluster::new();
    let ready = watch::Sender::new(false);
    let server = RpcServer::new(cluster.security("router-0", Role::Router))
        .health(ready.subscribe())
        .listen(localhost())
        .await
        .unwrap();
    let dialer = cluster.dialer("edge-0", Role::Edge);
    let channel = dialer.lazy(&Peer::node(
        &node("router-0", server.address().unwrap()),
        Role::Router,
    ));
    let mut client = HealthClient::new(channel.unwrap());
    let mut states = client
        .watch(HealthCheckRequest::default())
        .await
        .unwrap()
        .into_inner();
    let mut wait = async |wanted: ServingStatus| loop {
        let state = soon("a health state", states.message())
            .await
            .unwrap()
            .unwrap();
        if state.status() == wanted {
            return;
        }
    };
    wait(ServingStatus::NotServing).await;
    ready.send_replace(true);
    wait(ServingStatus::Serving).await;
    ready.send_replace(false);
    wait(ServingStatus::NotServing).await;
}
