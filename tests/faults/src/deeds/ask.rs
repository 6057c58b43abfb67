//! IQs between clients and to the server.

use anyhow::{Result, ensure};

use super::talk::answer;
use super::{Gate, Scene, Talked, named};
use crate::client::{Client, Heard};
use crate::world::{LIMIT, Part, Who, World};

/// Of what kind the questions are that clients ask each other.
const QUESTION: &str = "urn:example:question";

/// When the point is armed.
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
                    "{}: carbons: {done:?}",
                    own.name
                );
            }
        }
        own.acknowledged(LIMIT).await?;
    }
    Ok(Vec::new())
}

fn asked(log: &[Heard], id: &str) -> Option<()> {
    let found = named(log, "iq")
        .any(|h| h.element.attr("id") == Some(id) && h.element.attr("type") == Some("set"));
    found.then_some(())
}
