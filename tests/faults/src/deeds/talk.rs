//! Chat, carbons, offline messages, the archive.

use anyhow::{Context, Result, ensure};
use sestina_xmpp::xml::Element;

use super::{Gate, Scene, Talked, expect, named, plain_ids};
use crate::client::{Client, Heard};
use crate::wait::until;
use crate::world::{LIMIT, Part, Who, World};

const MESSAGES: usize = 3;
const CARBONS: &str = "urn:xmpp:carbons:2";
const FORWARD: &str = "urn:xmpp:forward:0";
const MAM: &str = "urn:xmpp:mam:2";
const SID: &str = "urn:xmpp:sid:0";

fn ids(tag: &str, from: &Client) -> Vec<String> {
    (1..=MESSAGES)
        .map(|n| format!("{tag}-{}-{n}", from.user()))
        .collect()
}

fn say(from: &Client, to: &str, id: &str) -> Result<()> {
    from.send(format!(
        "<message type='chat' to='{to}' id='{id}'><body>{id}</body></message>"
    ))
}

fn chat_ids(log: &[Heard], tag: &str, from: &Client) -> Vec<String> {
    plain_ids(log, &format!("{tag}-{}-", from.user()), "chat")
}

pub(super) async fn chat(world: &World, scene: &Scene, gate: &Gate<'_>) -> Result<Vec<Talked>> {
    chat_between(world, scene, gate, Part::One).await
}

pub(super) async fn chat_between(
    world: &World,
    scene: &Scene,
    gate: &Gate<'_>,
    part: Part,
) -> Result<Vec<Talked>> {
    let tag = format!("{}-chat", scene.tag);
    let (me, you) = (
        Who {
            group: scene.me,
            part,
        },
        Who {
            group: scene.you,
            part,
        },
    );
    let (a, b) = (world.client(me), world.client(you));
    let (from_a, from_b) = (a.heard(), b.heard());
    gate.open().await?;
    for (of_a, of_b) in ids(&tag, a).iter().zip(&ids(&tag, b)) {
        say(a, &b.jid(), of_a)?;
        say(b, &a.jid(), of_b)?;
    }
    expect(b, "chat", from_b, &ids(&tag, a), |log| {
        chat_ids(log, &tag, a)
    })
    .await?;
    expect(a, "chat", from_a, &ids(&tag, b), |log| {
        chat_ids(log, &tag, b)
    })
    .await?;
    a.acknowledged(LIMIT).await?;
    b.acknowledged(LIMIT).await?;
    Ok(vec![(me, you, tag)])
}

/// The ids of copies of messages of that user.
fn copies(log: &[Heard], direction: &str, tag: &str, from: &Client) -> Vec<String> {
    let prefix = format!("{tag}-{}-", from.user());
    named(log, "message")
        .filter_map(|heard| heard.element.child(direction, CARBONS))
        .filter_map(|copy| {
            copy.child("forwarded", FORWARD)?
                .child("message", "jabber:client")
        })
        .filter_map(|message| message.attr("id"))
        .filter(|id| id.starts_with(&prefix))
        .map(str::to_owned)
        .collect()
}

pub(super) async fn carbon(world: &World, scene: &Scene, gate: &Gate<'_>) -> Result<Vec<Talked>> {
    let tag = format!("{}-carbon", scene.tag);
    let part = |group, part| world.client(Who { group, part });
    let mut before = Vec::new();
    for (group, _) in scene.both() {
        before.push((
            part(group, Part::One).heard(),
            part(group, Part::Two).heard(),
        ));
    }
    gate.open().await?;
    for n in 0..MESSAGES {
        for (group, other) in scene.both() {
            let (a, b) = (part(group, Part::One), part(other, Part::One));
            say(a, &b.jid(), &ids(&tag, a)[n])?;
        }
    }
    for ((group, other), (one_from, two_from)) in scene.both().into_iter().zip(before) {
        let (one, two, peer) = (
            part(group, Part::One),
            part(group, Part::Two),
            part(other, Part::One),
        );
        expect(one, "chat", one_from, &ids(&tag, peer), |log| {
            chat_ids(log, &tag, peer)
        })
        .await?;
        for (direction, from) in [("received", peer), ("sent", one)] {
            let what = format!("copies of {direction} messages");
            expect(two, &what, two_from, &ids(&tag, from), |log| {
                copies(log, direction, &tag, from)
            })
            .await?;
        }
        one.acknowledged(LIMIT).await?;
    }
    let one = |group| Who {
        group,
        part: Part::One,
    };
    Ok(vec![(one(scene.me), one(scene.you), tag)])
}

pub(super) async fn offline(world: &World, scene: &Scene, gate: &Gate<'_>) -> Result<Vec<Talked>> {
    let tag = format!("{}-offline", scene.tag);
    gate.open().await?;
    // The senders are of the other group, so their slots have another owner than the addressee's.
    for (group, other) in scene.both() {
        let from = world.client(Who {
            group: other,
            part: Part::One,
        });
        let to = format!("{}@{}", world.offline(group), crate::settings::HOST);
        for id in ids(&tag, from) {
            say(from, &to, &id)?;
        }
    }
    for (group, other) in scene.both() {
        let from = world.client(Who {
            group: other,
            part: Part::One,
        });
        // Acknowledged does not mean stored: stanzas that are under way are delivered live.
        from.acknowledged(LIMIT).await?;
        let user = world.offline(group);
        let edge = world.home(Who {
            group,
            part: Part::One,
        });
        let came = Client::login(&user, &scene.tag, edge, world.ports()).await?;
        came.send("<presence/>")?;
        expect(&came, "offline messages", 0, &ids(&tag, from), |log| {
            chat_ids(log, &tag, from)
        })
        .await?;
        ping(&came).await?;
        came.close().await?;
    }
    Ok(Vec::new())
}

/// A page at the end of an archive: id and stanza of each row.
async fn page(client: &Client, with: &str, max: usize) -> Result<Vec<(String, Element)>> {
    use std::sync::atomic::{AtomicU64, Ordering};
    static QUERIES: AtomicU64 = AtomicU64::new(0);
    let id = format!("mam-{}", QUERIES.fetch_add(1, Ordering::Relaxed));
    let from = client.heard();
    client.send(format!(
        "<iq type='set' id='{id}'><query xmlns='{MAM}' queryid='{id}'>\
         <x xmlns='jabber:x:data' type='submit'>\
         <field var='FORM_TYPE' type='hidden'><value>{MAM}</value></field>\
         <field var='with'><value>{with}</value></field></x>\
         <set xmlns='http://jabber.org/protocol/rsm'><max>{max}</max><before/></set>\
         </query></iq>"
    ))?;
    let answer = answer(client, from, &id).await?;
    ensure!(
        answer.attr("type") == Some("result") && answer.child("fin", MAM).is_some(),
        "{}: reading the archive: {answer:?}",
        client.name
    );
    let rows = named(&client.log(from), "message")
        .filter_map(|heard| heard.element.child("result", MAM))
        .filter(|result| result.attr("queryid") == Some(&id))
        .filter_map(|result| {
            let message = result
                .child("forwarded", FORWARD)?
                .child("message", "jabber:client")?;
            Some((result.attr("id")?.to_owned(), message.clone()))
        })
        .collect();
    Ok(rows)
}

/// The answer to an IQ.
pub(super) async fn answer(client: &Client, from: usize, id: &str) -> Result<Element> {
    client
        .hears(&format!("the answer to {id}"), from, LIMIT, |log| {
            let found = named(log, "iq").find(|heard| {
                heard.element.attr("id") == Some(id)
                    && matches!(heard.element.attr("type"), Some("result" | "error"))
            });
            found.map(|heard| heard.element.clone())
        })
        .await
}

/// A round trip through the session's queue: stanzas sent before it have come.
pub async fn ping(client: &Client) -> Result<()> {
    use std::sync::atomic::{AtomicU64, Ordering};
    static PINGS: AtomicU64 = AtomicU64::new(0);
    let id = format!("ping-{}", PINGS.fetch_add(1, Ordering::Relaxed));
    let from = client.heard();
    client.send(format!(
        "<iq type='get' id='{id}'><ping xmlns='urn:xmpp:ping'/></iq>"
    ))?;
    let answer = answer(client, from, &id).await?;
    ensure!(
        answer.attr("type") == Some("result"),
        "{}: a ping: {answer:?}",
        client.name
    );
    client.acknowledged(LIMIT).await
}

pub(super) async fn archive(world: &World, scene: &Scene, gate: &Gate<'_>) -> Result<Vec<Talked>> {
    let tag = format!("{}-archive", scene.tag);
    let one = |group| Who {
        group,
        part: Part::One,
    };
    let quiet = Gate {
        world,
        arms: Vec::new(),
    };
    let before = Scene {
        tag: tag.clone(),
        ..scene.clone()
    };
    let talked = chat(world, &before, &quiet).await?;
    for (a, b, tag) in &talked {
        archives_agree(world, *a, *b, tag).await?;
    }
    gate.open().await?;
    let (a, b) = (world.client(one(scene.me)), world.client(one(scene.you)));
    let (with_a, with_b) = (a.bare(), b.bare());
    let (of_a, of_b) = tokio::join!(page(a, &with_b, 6), page(b, &with_a, 6));
    for rows in [of_a?, of_b?] {
        let found = rows
            .iter()
            .filter(|(_, m)| m.attr("id").is_some_and(|i| i.starts_with(&tag)));
        let found = found.count();
        ensure!(
            found == 2 * MESSAGES,
            "{found} of {} messages are in a page",
            2 * MESSAGES
        );
    }
    Ok(talked)
}

/// The archives of both users contain all messages with that tag, once, in the order of delivery,
/// under the delivered ids.
pub async fn archives_agree(world: &World, a: Who, b: Who, tag: &str) -> Result<()> {
    for (own, peer) in [(a, b), (b, a)] {
        let (own, peer) = (world.client(own), world.client(peer));
        let came: Vec<(String, String)> = named(&own.log(0), "message")
            .filter(|heard| heard.element.child("body", "jabber:client").is_some())
            .filter_map(|heard| {
                let id = heard.element.attr("id").filter(|id| id.starts_with(tag))?;
                let stamp = heard.element.children().find(|c| {
                    c.is("stanza-id", SID) && c.attr("by") == Some(own.bare().as_str())
                })?;
                Some((id.to_owned(), stamp.attr("id")?.to_owned()))
            })
            .collect();
        ensure!(
            came.len() == MESSAGES,
            "{}: {} of {MESSAGES} messages came with a stanza-id",
            own.name,
            came.len()
        );
        let expected_sent = ids(tag, own);
        until(&format!("the archive of {}", own.name), LIMIT, async || {
            let rows = page(own, &peer.bare(), 50)
                .await
                .map_err(|error| format!("{error:#}"))?;
            let rows = rows.iter().filter_map(|(row, message)| {
                let id = message.attr("id").filter(|id| id.starts_with(tag))?;
                Some((id.to_owned(), row.clone()))
            });
            let rows: Vec<(String, String)> = rows.collect();
            let (received, sent): (Vec<_>, Vec<_>) = rows
                .iter()
                .cloned()
                .partition(|(id, _)| !expected_sent.contains(id));
            let sent: Vec<String> = sent.into_iter().map(|(id, _)| id).collect();
            if received == came && sent == expected_sent {
                Ok(())
            } else {
                Err(format!(
                    "rows {rows:?}, delivered {came:?}, sent {expected_sent:?}"
                ))
            }
        })
        .await
        .context("the archive does not agree with the deliveries")?;
    }
    Ok(())
}
