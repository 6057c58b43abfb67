//! Bulk answers that are larger than a session's queue: they are sent as fast as the client reads
//! them.

use anyhow::{Context, Result, ensure};
use sestina_scenarios::client::{Client, Login};
use sestina_scenarios::sandbox::HOST;
use sestina_scenarios::{Sandbox, Topology, report};
use sestina_xmpp::ns;
use sestina_xmpp::xml::Element;

/// Number and size of messages: together twice the capacity of a session's queue in a sandbox.
const MESSAGES: usize = 8;
const BYTES: usize = 240_000;

async fn managed(sandbox: &Sandbox, name: &str) -> Result<Client> {
    let login = Login::new(name, "x").managed();
    Client::login(name, &sandbox.entrance(0)?, &login).await
}

/// Alice sends Bob more than the queue holds, while Bob is unavailable.
async fn filled(topology: Topology) -> Result<Sandbox> {
    let sandbox = Sandbox::start(topology).await?;
    sandbox.add_user("alice").await?;
    sandbox.add_user("bob").await?;
    let mut alice = managed(&sandbox, "alice").await?;
    let pad = "x".repeat(BYTES);
    for n in 1..=MESSAGES {
        let to = format!("bob@{HOST}");
        alice
            .send(&format!(
                "<message to='{to}' type='chat' id='{n}'><body>{n} {pad}</body></message>"
            ))
            .await?;
        alice.settle().await?;
    }
    alice.hears_nothing().await?;
    alice.close().await?;
    Ok(sandbox)
}

/// The number at the beginning of a message's body.
fn number(message: &Element) -> Option<usize> {
    let body = message.child("body", ns::CLIENT)?.text();
    body.split(' ').next()?.parse().ok()
}

async fn stored_messages(topology: Topology) -> Result<()> {
    let sandbox = filled(topology).await?;
    let mut bob = managed(&sandbox, "bob").await?;
    bob.send("<presence/>").await?;
    bob.expect_named("presence", ns::CLIENT).await?;
    let mut got = Vec::new();
    while got.len() < MESSAGES {
        let message = bob.expect_named("message", ns::CLIENT).await?;
        got.push(number(&message).context("no number")?);
    }
    ensure!(got == (1..=MESSAGES).collect::<Vec<_>>(), "{got:?}");
    bob.hears_nothing().await?;
    bob.close().await?;
    // One delivery is enough.
    let mut bob = managed(&sandbox, "bob").await?;
    bob.send("<presence/>").await?;
    bob.expect_named("presence", ns::CLIENT).await?;
    bob.hears_nothing().await?;
    sandbox.stop().await?;
    report(topology, 1);
    Ok(())
}

async fn an_archive(topology: Topology) -> Result<()> {
    let sandbox = filled(topology).await?;
    let mut bob = managed(&sandbox, "bob").await?;
    let mut got = Vec::new();
    let mut after = String::new();
    let mut pages = 0;
    loop {
        let (mam, rsm) = (ns::MAM, ns::RSM);
        let id = format!("page{pages}");
        bob.send(&format!(
            "<iq type='set' id='{id}'><query xmlns='{mam}'><set xmlns='{rsm}'>{after}<max>100</max></set></query></iq>"
        ))
        .await?;
        pages += 1;
        let mut last = None;
        let fin = loop {
            let element = bob.element().await?;
            if element.name == "iq" {
                break element.child("fin", mam).cloned();
            }
            let result = element.child("result", mam).context("no result")?;
            last = result.attr("id").map(str::to_owned);
            let forwarded = result.child("forwarded", ns::FORWARD);
            let message = forwarded.and_then(|f| f.child("message", ns::CLIENT));
            got.push(message.and_then(number).context("no number")?);
        };
        // A page may be shorter than requested, and its result set must be correct.
        let fin = fin.context("no answer")?;
        let set = fin.child("set", rsm).context("no set")?;
        let told = set.child("last", rsm).map(Element::text);
        ensure!(told == last, "{told:?} {last:?}");
        let complete = fin.attr("complete") == Some("true");
        ensure!(complete == (got.len() == MESSAGES), "{got:?} {complete}");
        if complete {
            break;
        }
        after = format!("<after>{}</after>", last.context("an empty page")?);
    }
    ensure!(got == (1..=MESSAGES).collect::<Vec<_>>(), "{got:?}");
    ensure!(pages > 2, "{pages} pages");
    sandbox.stop().await?;
    report(topology, 1);
    Ok(())
}

macro_rules! in_all {
    ($($name:ident)*) => {$(
        mod $name {
            use super::*;

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn embedded() -> Result<()> {
                super::$name(Topology::Embedded).await
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn codec() -> Result<()> {
                super::$name(Topology::Codec).await
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn three_tiers() -> Result<()> {
                super::$name(Topology::ThreeTiers).await
            }
        }
    )*};
}

in_all! {
    an_archive
    stored_messages
}
