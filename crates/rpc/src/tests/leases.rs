//! Connections for leases: a runtime of their own at both ends, and nothing else on them.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc;

use sestina_api::link::{RouterConnector, RouterPort};
use sestina_certs::Role;
use sestina_proto as proto;
use sestina_proto::edge_link_client::EdgeLinkClient;
use sestina_runtime::lease_thread::LeaseThread;
use tonic::Code;

use super::support::*;
use crate::channel::Peer;
use crate::cluster::OtherCluster;
use crate::{Cluster as Named, Dialer, GrpcRouterConnector, RpcServer, Security};

fn renewal() -> proto::RenewLeaseRequest {
    proto::RenewLeaseRequest {
        node: Some(process("edge-0", proto::NodeRole::Edge)),
        secret: SECRET.into(),
        ..Default::default()
    }
}

fn security(cluster: Option<&Cluster>, name: &str, role: Role) -> Security {
    cluster.map_or(Security::Plaintext, |cluster| cluster.security(name, role))
}

/// A router that does nothing but compute renews leases, and so does such an edge.
async fn renewed_though_both_stand_still(tls: Option<&Cluster>) {
    let (here, there) = (LeaseThread::start().unwrap(), LeaseThread::start().unwrap());
    let busy = || {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(1).enable_all().build().unwrap()
    };
    let (edge, router) = (busy(), busy());
    let server = RpcServer::new(security(tls, "router-0", Role::Router))
        .leases_on(there.handle().clone())
        .cluster(Named::new("test"))
        .router(super::support::Shared::acceptor(&Router::new()));
    let server = router.spawn(server.listen(localhost())).await.unwrap();
    let address = server.as_ref().unwrap().address().unwrap();
    let (security, leases) = (security(tls, "edge-0", Role::Edge), here.handle().clone());
    let port: Arc<dyn RouterPort> = {
        let _on = edge.enter();
        let cluster = Named::new("test");
        let dialer = Dialer::with_leases_on(security, cluster, leases);
        GrpcRouterConnector::new(dialer, Vec::new()).connect(&node("router-0", address))
    };
    // Their only threads stand still from here on.
    let stand_still: Vec<mpsc::Sender<()>> = [&edge, &router]
        .map(|runtime| {
            let (go_on, wait) = mpsc::channel::<()>();
            let (tell, still) = mpsc::channel();
            runtime.spawn(async move {
                tell.send(()).ok();
                // Ends when the other end is dropped.
                wait.recv().ok();
            });
            still.recv().unwrap();
            go_on
        })
        .into();
    let renewed = here
        .handle()
        .spawn(async move { port.renew_lease(renewal()).await });
    let reply = soon("the renewal", renewed).await.unwrap();
    drop(stand_still);
    assert!(reply.unwrap().redis);
    for runtime in [edge, router] {
        runtime.shutdown_background();
    }
}

#[tokio::test]
async fn leases_are_renewed_though_both_runtimes_stand_still() {
    renewed_though_both_stand_still(None).await;
}

#[tokio::test]
async fn leases_are_renewed_with_tls_though_both_runtimes_stand_still() {
    renewed_though_both_stand_still(Some(&Cluster::new())).await;
}

#[tokio::test]
async fn a_connection_for_leases_is_good_for_nothing_else() {
    let router = Router::new();
    let server = router.serve(Security::Plaintext).await;
    let dialer = Dialer::new(Security::Plaintext);
    let peer = Peer::node(&node("router-0", server.address().unwrap()), Role::Router);
    let channel = dialer.lazy_for_leases(&peer).unwrap();
    let mut client = EdgeLinkClient::new(channel);
    let asked = client.credentials(proto::CredentialsRequest::default());
    let refused = soon("the answer", asked).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    assert_eq!(router.reached.load(Ordering::SeqCst), 0);
    soon("the renewal", client.renew_lease(renewal()))
        .await
        .unwrap();
    server.shutdown(WAIT).await;
}

/// Both sides say that the other is of another cluster, with both names.
#[tokio::test]
async fn another_cluster_is_named_by_the_one_that_dials_it() {
    let (theirs, ours) = (Named::new("trial"), Named::new("prod"));
    let server = RpcServer::new(Security::Plaintext)
        .cluster(theirs.clone())
        .router(super::support::Shared::acceptor(&Router::new()));
    let server = server.listen(localhost()).await.unwrap();
    let dialer = Dialer::in_cluster(Security::Plaintext, ours.clone());
    let connector = GrpcRouterConnector::new(dialer, Vec::new());
    let port = connector.connect(&node("router-0", server.address().unwrap()));
    let refused = soon("the refusal", port.renew_lease(renewal())).await;
    let refused = refused.unwrap_err().to_string();
    assert!(
        refused.contains("trial") && refused.contains("prod"),
        "{refused}"
    );
    let again = OtherCluster::Silent(String::new());
    assert!(!ours.warn("router-0", &again), "the edge did not warn");
    assert!(!theirs.warn("edge-0", &again), "the router did not warn");
    server.shutdown(WAIT).await;
}
