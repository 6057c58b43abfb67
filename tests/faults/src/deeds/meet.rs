//! Presence and rooms.

use anyhow::{Context, Result, ensure};
use sestina_xmpp::xml::Element;

use super::{Gate, Scene, Talked, expect, named, plain_ids};
use crate::client::{Client, Heard};
use crate::world::{LIMIT, Part, Who, World};

const TIMES: usize = 3;

/// The status texts with that tag in presences from that address, in order.
fn statuses(log: &[Heard], from: &str, tag: &str) -> Vec<String> {
    named(log, "presence")
        .filter(|heard| heard.element.attr("from") == Some(from))
        .filter_map(|heard| heard.element.child("status", "jabber:client"))
        .map(|status| status.text())
        .filter(|text| text.starts_with(tag))
        .collect()
}

pub(super) async fn presence(world: &World, scene: &Scene, gate: &Gate<'_>) -> Result<Vec<Talked>> {
    let tag = format!("{}-presence", scene.tag);
    let client = |group, part| world.client(Who { group, part });
    let texts = |kind: &str| {
        (1..=TIMES)
            .map(|n| format!("{tag}-{kind}-{n}"))
            .collect::<Vec<_>>()
    };
    let mut before = Vec::new();
    for (group, other) in scene.both() {
        before.push((
            client(group, Part::Two).heard(),
            client(other, Part::One).heard(),
        ));
    }
    gate.open().await?;
    for n in 0..TIMES {
        for (group, other) in scene.both() {
            let (own, peer) = (client(group, Part::One), client(other, Part::One).jid());
            let (all, one) = (&texts("all")[n], &texts("one")[n]);
            own.send(format!("<presence><status>{all}</status></presence>"))?;
            own.send(format!(
                "<presence to='{peer}'><status>{one}</status></presence>"
            ))?;
        }
    }
    for ((group, other), (of_two, of_peer)) in scene.both().into_iter().zip(before) {
        let own = client(group, Part::One);
        let jid = own.jid();
        expect(
            client(group, Part::Two),
            "presence",
            of_two,
            &texts("all"),
            |log| statuses(log, &jid, &format!("{tag}-all")),
        )
        .await?;
        expect(
            client(other, Part::One),
            "presence",
            of_peer,
            &texts("one"),
            |log| statuses(log, &jid, &format!("{tag}-one")),
        )
        .await?;
        own.acknowledged(LIMIT).await?;
    }
    Ok(Vec::new())
}

/// Whether a message is from the history that a room sends to newcomers (XEP-0045 §7.2.14). If a
/// resumed session gets a message late, the server marks it as delayed, and not the room.
pub(crate) fn is_history(element: &Element) -> bool {
    let from = element.attr("from").unwrap_or_default();
    let room = from.split('/').next().unwrap_or_default();
    element
        .child("delay", "urn:xmpp:delay")
        .is_some_and(|delay| delay.attr("from") == Some(room))
}

fn said(log: &[Heard], room: &str, tag: &str) -> Vec<String> {
    let of_room: Vec<Heard> = log
        .iter()
        .filter(|heard| heard.sender() == room && !is_history(&heard.element))
        .cloned()
        .collect();
    plain_ids(&of_room, tag, "groupchat")
}

pub(super) async fn room_message(
    world: &World,
    scene: &Scene,
    gate: &Gate<'_>,
) -> Result<Vec<Talked>> {
    let tag = format!("{}-room", scene.tag);
    let members = world.members();
    let before: Vec<usize> = members
        .iter()
        .map(|who| world.client(*who).heard())
        .collect();
    let rooms = [world.room(scene.me), world.room(scene.you)];
    let speakers = [scene.me, scene.you].map(|group| {
        world.client(Who {
            group,
            part: Part::One,
        })
    });
    gate.open().await?;
    for n in 1..=TIMES {
        for speaker in speakers {
            for room in &rooms {
                let id = format!("{tag}-{}-{n}", speaker.user());
                speaker.send(format!(
                    "<message type='groupchat' to='{room}' id='{id}'><body>{id}</body></message>"
                ))?;
            }
        }
    }
    for room in &rooms {
        let mut order: Option<Vec<String>> = None;
        for (who, from) in members.iter().zip(&before) {
            let client = world.client(*who);
            let all = speakers.len() * TIMES;
            let what = format!("messages in {room} with tag {tag}");
            let waited = client.hears(&what, *from, LIMIT, |log| {
                let said = said(log, room, &tag);
                (said.len() >= all).then_some(said)
            });
            let heard = waited.await.with_context(|| {
                let came = said(&client.log(*from), room, &tag);
                format!("{what}: {all} were sent, {} received {came:?}", client.name)
            })?;
            for speaker in speakers {
                let prefix = format!("{tag}-{}-", speaker.user());
                let own: Vec<&String> = heard.iter().filter(|id| id.starts_with(&prefix)).collect();
                let expected: Vec<String> = (1..=TIMES).map(|n| format!("{prefix}{n}")).collect();
                ensure!(
                    own.iter().copied().eq(&expected),
                    "{}: of {} in {room}: expected {expected:?}, heard {own:?}",
                    client.name,
                    speaker.name
                );
            }
            let order = order.get_or_insert_with(|| heard.clone());
            ensure!(
                *order == heard,
                "{} heard {heard:?} in {room}, others {order:?}",
                client.name
            );
        }
    }
    for speaker in speakers {
        speaker.acknowledged(LIMIT).await?;
    }
    Ok(Vec::new())
}

pub(super) async fn join(world: &World, scene: &Scene, gate: &Gate<'_>) -> Result<Vec<Talked>> {
    let tag = format!("{}-join", scene.tag);
    let members = world.members();
    let before: Vec<usize> = members
        .iter()
        .map(|who| world.client(*who).heard())
        .collect();
    // Each guest joins the room of the other group: room and guest have different owners.
    let comers: Vec<(&Client, String, usize)> = scene
        .both()
        .into_iter()
        .map(|(group, other)| {
            let guest = world.client(Who {
                group,
                part: Part::Guest,
            });
            (guest, world.room(other), guest.heard())
        })
        .collect();
    let own = |guest: &Client, room: &str| format!("{room}/{}", guest.user());
    gate.open().await?;
    for (guest, room, _) in &comers {
        let nick = guest.user();
        guest.send(format!(
            "<presence to='{room}/{nick}'><x xmlns='http://jabber.org/protocol/muc'/>\
             <status>{tag}</status></presence>"
        ))?;
    }
    for (guest, room, from) in &comers {
        let own = own(guest, room);
        guest
            .hears("its own presence in a room", *from, LIMIT, |log| {
                (!statuses(log, &own, &tag).is_empty()).then_some(())
            })
            .await?;
        let log = guest.log(*from);
        for who in &members {
            let nick = format!("{room}/{}", world.client(*who).user());
            let count = named(&log, "presence")
                .filter(|heard| heard.element.attr("from") == Some(&nick))
                .count();
            ensure!(
                count == 1,
                "{} came to {room} and heard {count} times of {nick}",
                guest.name
            );
        }
        for (who, from) in members.iter().zip(&before) {
            let expected = [tag.clone()];
            expect(world.client(*who), "joins", *from, &expected, |log| {
                statuses(log, &own, &tag)
            })
            .await?;
        }
    }
    // Every session that has joined is in the room: all of them get its messages, itself included.
    for (guest, room, _) in &comers {
        let id = format!("{tag}-{}", guest.user());
        guest.send(format!(
            "<message type='groupchat' to='{room}' id='{id}'><body>{id}</body></message>"
        ))?;
        guest.send(format!(
            "<presence type='unavailable' to='{}'><status>{tag}-bye</status></presence>",
            own(guest, room)
        ))?;
    }
    for (guest, room, from) in &comers {
        let (id, own) = (format!("{tag}-{}", guest.user()), own(guest, room));
        let (words, byes) = ([id.clone()], [tag.clone(), format!("{tag}-bye")]);
        for (client, from) in members
            .iter()
            .zip(&before)
            .map(|(who, from)| (world.client(*who), *from))
            .chain([(*guest, *from)])
        {
            expect(client, "messages of the guest", from, &words, |log| {
                said(log, room, &id)
            })
            .await?;
            expect(client, "a leave", from, &byes, |log| {
                statuses(log, &own, &tag)
            })
            .await?;
        }
        guest.acknowledged(LIMIT).await?;
    }
    Ok(Vec::new())
}
