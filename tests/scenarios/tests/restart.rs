//! A server of one process is stopped and restarted: its sessions and rooms go on.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use sestina::serve::embedded::Embedded;
use sestina_config::Config;
use sestina_runtime::pressure::Pressure;
use sestina_scenarios::client::{Client, Entrance, Heard, Login};
use sestina_scenarios::sandbox::{EdgeAddress, HOST, account};
use sestina_telemetry::Metrics;
use sestina_xmpp::ns;
use sestina_xmpp::xml::Element;

const ROOM: &str = "hall@conference.example.org";

async fn start(folder: &Path) -> Result<(Embedded, Entrance)> {
    let text = format!(
        "[node]\nname = \"one\"\ndata_dir = {:?}\n[[host]]\ndomain = \"{HOST}\"\n[edge]\n\
         c2s = [\"127.0.0.1:0\"]\nc2s_tls = [\"127.0.0.1:0\"]\nhttp = []\nhttps = [\"127.0.0.1:0\"]\n",
        folder.display()
    );
    let config = Config::from_toml(&text)?;
    let embedded = Embedded::start(config, Metrics::new(), Pressure::new(), false).await?;
    embedded.serving().await;
    let find = |name: &str| -> Result<SocketAddr> {
        let all = embedded.edge.addresses();
        let found = all.iter().find(|(n, _)| **n == *name);
        found
            .map(|(_, at)| *at)
            .with_context(|| format!("no listener {name} in {all:?}"))
    };
    let address = EdgeAddress {
        start_tls: find("c2s")?,
        tls: find("c2s_tls")?,
        websocket: find("https")?,
    };
    let certificate = std::fs::read_to_string(folder.join("tls/self-signed.crt"))?;
    let entrance = Entrance::new(address, &certificate)?;
    Ok((embedded, entrance))
}

async fn stop(embedded: Embedded) {
    embedded.drain().await;
    embedded.shutdown().await;
}

/// A client with XEP-0198 that has joined the room.
async fn enter(name: &str, entrance: &Entrance) -> Result<(Client, Login)> {
    let login = Login::new(name, "x").managed();
    let mut client = Client::login(name, entrance, &login).await?;
    let muc = ns::MUC;
    let join = format!("<presence to='{ROOM}/{name}'><x xmlns='{muc}'/></presence>");
    client.send(&join).await?;
    client.until("the subject", is_subject).await?;
    Ok((client, login))
}

fn is_subject(element: &Element) -> bool {
    element.child("subject", ns::CLIENT).is_some()
}

fn says(body: &'static str) -> impl Fn(&Element) -> bool {
    move |element| {
        let found = element.child("body", ns::CLIENT);
        found.is_some_and(|b| b.text() == body)
    }
}

/// Reads until the connection ends; the stream must not have been closed.
async fn is_let_go(client: &mut Client) -> Result<()> {
    // The connection is half closed by now, so writes may fail.
    client.answers(false);
    loop {
        match client.heard().await? {
            Heard::Element(element) => ensure!(
                !element.is("error", ns::STREAM),
                "a session that can be resumed heard {element:?}"
            ),
            Heard::Closed => anyhow::bail!("the stream was closed"),
            Heard::Ended => {
                client.answers(true);
                return Ok(());
            }
        }
    }
}

async fn resumes(client: &mut Client, entrance: &Entrance, login: &Login) -> Result<()> {
    let answer = client.resume(entrance, login).await?;
    ensure!(answer.is("resumed", ns::SM), "{answer:?}");
    Ok(())
}

/// XEP-0198 §5: the stop ends the transport and not the stream; after the restart the session is
/// resumed. Messages to a session without a socket before the stop are delivered after it, once; no
/// occupant leaves the room, and the room keeps its subject and its order.
#[tokio::test(flavor = "multi_thread")]
async fn a_clean_stop_ends_neither_sessions_nor_rooms() -> Result<()> {
    sestina_scenarios::logs();
    let folder = tempfile::tempdir()?;
    let (server, entrance) = start(folder.path()).await?;
    for name in ["alice", "bob", "carol"] {
        server.stores.account_put(account(name).await?).await?;
    }
    let (mut alice, alice_login) = enter("alice", &entrance).await?;
    let (mut bob, bob_login) = enter("bob", &entrance).await?;
    // A session without XEP-0198 ends with the stop.
    let carol_login = Login::new("carol", "x");
    let mut carol = Client::login("carol", &entrance, &carol_login).await?;
    alice
        .send(&format!(
            "<message to='{ROOM}' type='groupchat' id='s'><subject>today</subject></message>"
        ))
        .await?;
    alice.until("her subject", is_subject).await?;
    bob.until("the subject", is_subject).await?;
    alice.acknowledge().await?;
    alice.cut();
    let to_alice = format!(
        "<message to='{}' type='chat' id='1'><body>one</body></message>",
        alice.jid()
    );
    bob.send(&to_alice).await?;
    bob.settle().await?;

    stop(server).await;
    is_let_go(&mut bob).await?;
    carol.is_ended_with("system-shutdown").await?;

    let (server, entrance) = start(folder.path()).await?;
    resumes(&mut bob, &entrance, &bob_login).await?;
    resumes(&mut alice, &entrance, &alice_login).await?;
    alice.until("the stored message", says("one")).await?;
    alice.hears_nothing().await?;
    // No occupant has left the room, so neither client gets a presence.
    bob.hears_nothing().await?;
    let hello = format!("<message to='{ROOM}' type='groupchat' id='h'><body>back</body></message>");
    bob.send(&hello).await?;
    bob.until("his own message", says("back")).await?;
    alice.until("the message of the room", says("back")).await?;
    // A newcomer finds both occupants, and the subject from before.
    let mut dave = Client::login("carol", &entrance, &carol_login).await?;
    let muc = ns::MUC;
    dave.send(&format!(
        "<presence to='{ROOM}/dave'><x xmlns='{muc}'/></presence>"
    ))
    .await?;
    let mut present = Vec::new();
    let subject = dave
        .until("the subject", |element| {
            is_subject(element) || element.name == "presence"
        })
        .await?;
    let mut next = subject;
    while !is_subject(&next) {
        present.extend(next.attr("from").map(str::to_owned));
        next = dave.element().await?;
        while next.child("body", ns::CLIENT).is_some() {
            next = dave.element().await?;
        }
    }
    let text = next
        .child("subject", ns::CLIENT)
        .map(sestina_xmpp::xml::Element::text);
    ensure!(text.as_deref() == Some("today"), "{next:?}");
    for name in ["alice", "bob", "dave"] {
        let nick = format!("{ROOM}/{name}");
        ensure!(present.contains(&nick), "{nick} is not in {present:?}");
    }

    // Once more: a session that did not resume in between still exists.
    alice.acknowledge().await?;
    bob.acknowledge().await?;
    stop(server).await;
    is_let_go(&mut bob).await?;
    let (server, _) = start(folder.path()).await?;
    stop(server).await;
    let (server, entrance) = start(folder.path()).await?;
    resumes(&mut bob, &entrance, &bob_login).await?;
    stop(server).await;
    Ok(())
}

/// The saved state of a stop is only for the next start: after a sudden death, the next process
/// does not restore outdated sessions.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_stop_saved_is_used_once() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (server, entrance) = start(folder.path()).await?;
    server.stores.account_put(account("alice").await?).await?;
    let (mut alice, login) = enter("alice", &entrance).await?;
    stop(server).await;
    let (server, _) = start(folder.path()).await?;
    // Without a drain the state is not saved.
    server.shutdown().await;
    let (server, entrance) = start(folder.path()).await?;
    let answer = alice.resume(&entrance, &login).await?;
    ensure!(answer.is("failed", ns::SM), "{answer:?}");
    stop(server).await;
    Ok(())
}
