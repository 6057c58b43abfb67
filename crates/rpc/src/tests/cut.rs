//! A network that swallows packets: nobody is told, and the lane must end all the same.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sestina_api::link::RouterConnector;
use sestina_certs::Role;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::support::*;
use crate::GrpcRouterConnector;

/// Forwards until `cut` is true; then it neither forwards nor closes anything.
async fn forward(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    mut cut: watch::Receiver<bool>,
) {
    let mut buffer = vec![0; 16 << 10];
    loop {
        let read = tokio::select! {
            read = from.read(&mut buffer) => read,
            _ = cut.wait_for(|cut| *cut) => break,
        };
        match read {
            Ok(n) if n > 0 => to.write_all(&buffer[..n]).await.unwrap(),
            _ => return,
        }
    }
    // Both sockets stay open until the test ends and drops the sender.
    drop(cut.wait_for(|cut| !*cut).await);
}

#[tokio::test]
async fn a_cut_network_closes_the_lane_within_three_seconds() {
    let cluster = Cluster::new();
    let router = Router::keeping(true);
    let server = router
        .serve(cluster.security("router-0", Role::Router))
        .await;
    let target = server.address().unwrap();
    let proxy = TcpListener::bind(localhost()).await.unwrap();
    let proxy_address = proxy.local_addr().unwrap();
    let cut = watch::Sender::new(false);
    let receiver = cut.subscribe();
    let proxying = tokio::spawn(async move {
        let mut halves = tokio::task::JoinSet::new();
        while let Ok((client, _)) = proxy.accept().await {
            let (client_read, client_write) = client.into_split();
            let (read, write) = TcpStream::connect(target).await.unwrap().into_split();
            halves.spawn(forward(client_read, write, receiver.clone()));
            halves.spawn(forward(read, client_write, receiver.clone()));
        }
    });

    let dialer = cluster.dialer("edge-0", Role::Edge);
    let routers = GrpcRouterConnector::new(Arc::clone(&dialer), Vec::new());
    let port = routers.connect(&node("router-0", proxy_address));
    let (edge, mut batches) = Edge::new();
    let sink = port.open_lane(hello("edge-0"), edge.clone()).await.unwrap();
    sink.send(inbound(1, 100)).unwrap();
    soon("the Welcome", batches.recv()).await.unwrap();
    assert_eq!(
        accepted(&soon("the answer", batches.recv()).await.unwrap()),
        Some(1)
    );

    let start = Instant::now();
    cut.send_replace(true);
    sink.send(inbound(2, 100)).unwrap();
    reaches("the edge's close", &edge.closed, 1).await;
    reaches("the router's close", &router.closed, 1).await;
    let took = start.elapsed();
    assert!(took < Duration::from_millis(3500), "it took {took:?}");
    assert!(sink.send(inbound(3, 100)).is_err());
    proxying.abort();
}
