//! IQs between clients and to the server.

use anyhow::{Result, ensure};

use super::talk::answer;
use super::{Gate, Scene, Talked, named};
use crate::client::{Client, Heard};
use crate::world::{LIMIT, Part, Who, World};

/// The namespace of the requests between clients.
const QUESTION: &str = "urn:example:question";

/// The vCards that a client publishes one after the other.
const CARDS: [&str; 2] = ["card-1", "card-2"];
/// Requests that a client makes until they are stored.
const TRIES: usize = 12;

/// The step at which the point is armed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Strike {
    Question,
    Answer,
}

pub(super) async fn ask(
    world: &World,
    scene: &Scene,
    gate: &Gate<'_>,
    strike: Strike,
) -> Result<Vec<Talked>> {
    exchange(world, scene, gate, strike, Part::One).await
}

pub(super) async fn between(
    world: &World,
    scene: &Scene,
    gate: &Gate<'_>,
    part: Part,
) -> Result<()> {
    exchange(world, scene, gate, Strike::Question, part)
        .await
        .map(drop)
}

async fn exchange(
    world: &World,
    scene: &Scene,
    gate: &Gate<'_>,
    strike: Strike,
    part: Part,
) -> Result<Vec<Talked>> {
    let one = |group| world.client(Who { group, part });
    let (a, b) = (one(scene.me), one(scene.you));
    let (from_a, from_b) = (a.heard(), b.heard());
    let id = |from: &Client| format!("{}-iq-{}", scene.tag, from.user());
    if strike == Strike::Question {
        gate.open().await?;
    }
    for (from, to) in [(a, b), (b, a)] {
        let (id, to) = (id(from), to.jid());
        from.send(format!(
            "<iq type='set' id='{id}' to='{to}'><ask xmlns='{QUESTION}'>{id}</ask></iq>"
        ))?;
        if strike == Strike::Question {
            from.send(format!(
                "<iq type='set' id='{id}-off'><disable xmlns='urn:xmpp:carbons:2'/></iq>"
            ))?;
            from.send(format!(
                "<iq type='set' id='{id}-on'><enable xmlns='urn:xmpp:carbons:2'/></iq>"
            ))?;
        }
    }
    for (own, from, peer) in [(a, from_a, b), (b, from_b, a)] {
        let id = id(peer);
        own.hears("a question", from, LIMIT, |log| asked(log, &id))
            .await?;
    }
    if strike == Strike::Answer {
        gate.open().await?;
    }
    for (own, peer) in [(a, b), (b, a)] {
        let (id, to) = (id(peer), peer.jid());
        own.send(format!(
            "<iq type='result' id='{id}' to='{to}'><told xmlns='{QUESTION}'/></iq>"
        ))?;
    }
    for (own, from) in [(a, from_a), (b, from_b)] {
        let told = answer(own, from, &id(own)).await?;
        ensure!(
            told.child("told", QUESTION).is_some(),
            "{}: instead of an answer: {told:?}",
            own.name
        );
        if strike == Strike::Question {
            for what in ["off", "on"] {
                let done = answer(own, from, &format!("{}-{what}", id(own))).await?;
                ensure!(
                    done.attr("type") == Some("result"),
                    "{}: {what}: {done:?}",
                    own.name
                );
            }
            cards(own, from, &id(own)).await?;
        }
        own.acknowledged(LIMIT).await?;
    }
    Ok(Vec::new())
}

/// Publishes vCards, and again what the server could not store. Each request is answered once, and the last one is what
/// is stored in the end: a write that came later than its answer would have taken its place.
async fn cards(own: &Client, from: usize, id: &str) -> Result<()> {
    let mut sent = Vec::new();
    for card in CARDS {
        loop {
            let request = format!("{id}-{card}-{}", sent.len());
            own.send(format!(
                "<iq type='set' id='{request}'><vCard xmlns='vcard-temp'><FN>{id}-{card}</FN></vCard></iq>"
            ))?;
            let told = answer(own, from, &request).await?;
            sent.push(request);
            if told.attr("type") == Some("result") {
                break;
            }
            let error = told.child("error", "jabber:client");
            ensure!(
                error.is_some_and(|error| error.attr("type") == Some("wait")) && sent.len() < TRIES,
                "{}: a vCard: {told:?}",
                own.name
            );
        }
    }
    let [_, last] = CARDS.map(|card| format!("{id}-{card}"));
    let read = format!("{id}-read");
    own.send(format!(
        "<iq type='get' id='{read}'><vCard xmlns='vcard-temp'/></iq>"
    ))?;
    let told = answer(own, from, &read).await?;
    let card = told.child("vCard", "vcard-temp");
    let name = card.and_then(|card| card.child("FN", "vcard-temp"));
    ensure!(
        name.is_some_and(|name| name.text() == last),
        "{}: wrote {last}, and reads {told:?}",
        own.name
    );
    let log = own.log(from);
    for request in sent {
        let answers = named(&log, "iq").filter(|h| h.element.attr("id") == Some(&request));
        let count = answers.count();
        ensure!(count == 1, "{}: {count} answers to {request}", own.name);
    }
    Ok(())
}

fn asked(log: &[Heard], id: &str) -> Option<()> {
    let found = named(log, "iq")
        .any(|h| h.element.attr("id") == Some(id) && h.element.attr("type") == Some("set"));
    found.then_some(())
}
