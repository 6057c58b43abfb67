//! Accepts connections of the floor and reads their input.

use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use memchr::memchr;
use rustls::{Connection, ServerConfig, ServerConnection};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::hello::Hello;
use super::peers::{Mode, Peers};
use crate::net::link::{Link, ReadSide, link};
use crate::net::tls::floor_config;

const ANSWER: &[u8] = b"<a xmlns='urn:xmpp:sm:3' h='0'/>";

/// Serves until the listener fails; dropping the future stops it.
///
/// # Errors
/// When the certificate cannot be made or the listener fails.
pub async fn serve(listener: TcpListener, mode: Mode) -> Result<()> {
    let config = floor_config()?;
    let peers = Peers::new(mode);
    let mut tasks = JoinSet::new();
    let flusher = Arc::clone(&peers);
    tasks.spawn(async move { flusher.flush_turns().await });
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (tcp, _) = accepted.context("cannot accept connections")?;
                tasks.spawn(connection(tcp, Arc::clone(&config), Arc::clone(&peers)));
            }
            Some(_) = tasks.join_next() => {}
        }
    }
}

async fn connection(tcp: TcpStream, config: Arc<ServerConfig>, peers: Arc<Peers>) {
    let Some((link, mut reader, early)) = accept(tcp, config).await else {
        return;
    };
    let mut input = early;
    let Some(hello) = hello(&mut reader, &mut input).await else {
        return;
    };
    if !peers.add(&hello, &link) || link.send(b"<ok/>").is_err() {
        return;
    }
    // The reason for the end does not matter: the generator at the other side counts its
    // connections.
    drop(read(&mut reader, &link, &peers, &hello, input).await);
    peers.remove(&hello);
}

async fn accept(
    tcp: TcpStream,
    config: Arc<ServerConfig>,
) -> Option<(Arc<Link>, ReadSide, Vec<u8>)> {
    let tls = ServerConnection::new(config).ok()?;
    let (link, mut reader) = link(tcp).ok()?;
    link.start_tls(Connection::Server(tls)).ok()?;
    let mut early = Vec::new();
    reader.handshake(&mut early).await.ok()?;
    Some((link, reader, early))
}

async fn hello(reader: &mut ReadSide, input: &mut Vec<u8>) -> Option<Hello> {
    loop {
        if let Some(end) = memchr(b'>', input) {
            let hello = Hello::parse(&input[..=end]).ok()?;
            input.drain(..=end);
            return Some(hello);
        }
        if input.len() > 1024 || reader.read(input).await.ok()? == 0 {
            return None;
        }
    }
}

async fn read(
    reader: &mut ReadSide,
    link: &Arc<Link>,
    peers: &Peers,
    hello: &Hello,
    mut input: Vec<u8>,
) -> Result<()> {
    loop {
        let mut at = 0;
        while let Some(tag) = input[at..].first_chunk::<2>() {
            let end = match tag {
                b"<m" => {
                    let end = at + hello.incoming;
                    if end > input.len() {
                        break;
                    }
                    peers.deliver(hello);
                    end
                }
                b"<r" | b"<a" => {
                    let Some(end) = memchr(b'>', &input[at..]) else {
                        break;
                    };
                    if tag == b"<r" {
                        link.send(ANSWER)?;
                    }
                    at + end + 1
                }
                b"</" => return Ok(()),
                _ => anyhow::bail!("the floor does not know what this is"),
            };
            at = end;
        }
        input.drain(..at);
        ensure!(
            input.len() <= hello.incoming.max(1024),
            "an element that does not end"
        );
        if input.is_empty() {
            // An idle connection holds no buffer.
            input = Vec::new();
        }
        if reader.read(&mut input).await? == 0 {
            return Ok(());
        }
    }
}
