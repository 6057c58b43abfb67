use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use async_trait::async_trait;
use sestina_api::admin::{AdminError, AdminHandler};
use sestina_certs::Role;
use tokio::sync::watch;

use super::support::*;
use crate::{AdminClient, RpcError, RpcServer, Security};

struct Handler;

#[async_trait]
impl AdminHandler for Handler {
    async fn call(&self, command: &str, json: &str) -> Result<String, AdminError> {
        match command {
            "echo" => Ok(json.to_owned()),
            _ => Err(AdminError::unknown_command(command)),
        }
    }
}

fn server(security: Security) -> RpcServer {
    RpcServer::new(security).admin(Arc::new(Handler))
}

#[tokio::test]
async fn commands_over_a_unix_socket_that_only_its_owner_opens() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("admin.sock");
    // What a process that was killed left behind.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let running = server(Security::Plaintext)
        .listen_unix(&path)
        .await
        .unwrap();
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let client = AdminClient::unix(&path);
    assert_eq!(client.call("echo", "{\"a\":1}").await.unwrap(), "{\"a\":1}");
    assert_eq!(
        client.call("dance", "").await,
        Err(AdminError::unknown_command("dance"))
    );

    let second = server(Security::Plaintext).listen_unix(&path).await;
    assert!(matches!(second, Err(RpcError::SocketTaken(_))));
    assert!(running.shutdown(WAIT).await);
    assert!(!path.exists());
    let error = client.call("echo", "").await.unwrap_err();
    assert_eq!(error.code, "away");
    assert!(error.text.contains("admin.sock"), "{error}");
}

#[tokio::test]
async fn over_the_network_an_admin_certificate_is_needed() {
    let cluster = Cluster::new();
    let running = server(cluster.security("edge-0", Role::Edge))
        .listen(localhost())
        .await
        .unwrap();
    let target = running.address().unwrap().to_string().parse().unwrap();
    let admin = AdminClient::connect(&cluster.dialer("ops", Role::Admin), &target).unwrap();
    assert_eq!(admin.call("echo", "{}").await.unwrap(), "{}");
    let router = AdminClient::connect(&cluster.dialer("router-0", Role::Router), &target).unwrap();
    let error = router.call("echo", "{}").await.unwrap_err();
    assert_eq!(error.code, "forbidden");
    assert!(error.text.contains("urn:sestina:role:admin"), "{error}");
}

#[tokio::test]
async fn routers_ask_each_other_only_what_they_need() {
    let cluster = Cluster::new();
    let running = RpcServer::new(cluster.security("router-0", Role::Router))
        .admin_among_routers(Arc::new(Handler), &["echo"])
        .listen(localhost())
        .await
        .unwrap();
    let target = running.address().unwrap().to_string().parse().unwrap();
    let router = AdminClient::connect(&cluster.dialer("router-1", Role::Router), &target).unwrap();
    assert_eq!(router.call("echo", "{}").await.unwrap(), "{}");
    let error = router.call("user.delete", "").await.unwrap_err();
    assert_eq!(error.code, "forbidden");
    assert!(error.text.contains("urn:sestina:role:admin"), "{error}");
    let admin = AdminClient::connect(&cluster.dialer("ops", Role::Admin), &target).unwrap();
    let unknown = admin.call("user.delete", "").await.unwrap_err();
    assert_eq!(unknown, AdminError::unknown_command("user.delete"));
}

struct Endless(watch::Sender<bool>);

#[async_trait]
impl AdminHandler for Endless {
    async fn call(&self, _command: &str, _json: &str) -> Result<String, AdminError> {
        self.0.send_replace(true);
        std::future::pending().await
    }
}

#[tokio::test]
async fn shutdown_cuts_what_outlives_the_deadline() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("admin.sock");
    let handler = Arc::new(Endless(watch::Sender::new(false)));
    let mut called = handler.0.subscribe();
    let running = RpcServer::new(Security::Plaintext)
        .admin(handler)
        .listen_unix(&path)
        .await
        .unwrap();
    let client = AdminClient::unix(&path);
    let call = tokio::spawn(async move { client.call("wait", "").await });
    soon("the call", called.wait_for(|c| *c)).await.unwrap();
    assert!(!running.shutdown(std::time::Duration::from_millis(50)).await);
    assert_eq!(
        soon("an error", call).await.unwrap().unwrap_err().code,
        "away"
    );
}
