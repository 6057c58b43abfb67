//! The users: for every router a group whose slots it owns, with sessions on all edges.

use std::time::Duration;

use anyhow::{Context, Result};
use sestina_cluster::rendezvous;
use sestina_cluster::slots::slot_of_bare;
use tokio::sync::Mutex;

use crate::client::Client;
use crate::cluster::{At, Cluster, Size, name};
use crate::process::Tier;
use crate::settings::{HOST, ROOMS};

/// How long any operation may take that must work in spite of a fault. It is far longer than the
/// budgets, which are measured elsewhere: the machines of tests are slow, and builds are not
/// optimised.
pub const LIMIT: Duration = Duration::from_secs(30);

/// The user of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// The first session of the group's user with two.
    One,
    /// The second, with carbons.
    Two,
    /// The session of another user.
    Other,
    /// The session of a user that joins rooms and leaves them.
    Guest,
}

/// One session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Who {
    /// The group of the user; its slots belong to the router of the same number while all routers
    /// run.
    pub group: usize,
    /// The session within the group.
    pub part: Part,
}

struct Group {
    sessions: Vec<(Part, Client)>,
    offline: String,
    room: String,
}

/// See the module.
pub struct World {
    /// The processes.
    pub cluster: Mutex<Cluster>,
    groups: Vec<Group>,
    ports: Vec<u16>,
    edges: usize,
}

const PARTS: [Part; 4] = [Part::One, Part::Two, Part::Other, Part::Guest];

/// Names in slots of that router, while all routers run.
pub fn names_owned_by<'a>(
    kind: &'a str,
    domain: &'a str,
    router: usize,
    routers: &'a [String],
) -> impl Iterator<Item = String> + 'a {
    let names: Vec<&str> = routers.iter().map(String::as_str).collect();
    let all = (0..).map(move |n| format!("{kind}{n}"));
    all.filter(move |local| {
        let slot = slot_of_bare(&format!("{local}@{domain}"));
        rendezvous::owner(slot, &names) == Some(router)
    })
}

fn name_owned_by(kind: &str, domain: &str, router: usize, routers: &[String]) -> String {
    let name = names_owned_by(kind, domain, router, routers).next();
    name.expect("the numbers do not end")
}

impl World {
    /// Starts a cluster and logs all sessions in; those of the parts `One` and `Other` join all
    /// rooms.
    pub async fn start(size: Size) -> Result<World> {
        let (routers, edges) = (size.routers, size.edges);
        let mut cluster = Cluster::start(size).await?;
        let names: Vec<String> = (0..routers).map(|n| name(Tier::Router, n)).collect();
        let users: Vec<[String; 4]> = (0..routers)
            .map(|router| {
                ["pair", "other", "guest", "offline"]
                    .map(|kind| name_owned_by(kind, HOST, router, &names))
            })
            .collect();
        cluster.add_users(&users.concat()).await?;
        let ports = cluster.ports.clone();
        let mut groups = Vec::new();
        for (group, [pair, other, guest, offline]) in users.into_iter().enumerate() {
            let mut sessions = Vec::new();
            for part in PARTS {
                let (user, resource) = match part {
                    Part::One => (&pair, "one"),
                    Part::Two => (&pair, "two"),
                    Part::Other => (&other, "one"),
                    Part::Guest => (&guest, "one"),
                };
                let home = home(Who { group, part }, edges);
                sessions.push((part, Client::login(user, resource, home, &ports).await?));
            }
            let room = name_owned_by("room", ROOMS, group, &names);
            groups.push(Group {
                sessions,
                offline,
                room: format!("{room}@{ROOMS}"),
            });
        }
        let world = World {
            cluster: Mutex::new(cluster),
            groups,
            ports,
            edges,
        };
        world.settle_in().await?;
        Ok(world)
    }

    async fn settle_in(&self) -> Result<()> {
        for client in self.clients() {
            client.send("<presence/>")?;
        }
        for group in 0..self.groups.len() {
            let two = self.client(Who {
                group,
                part: Part::Two,
            });
            two.send(
                "<iq type='set' id='carbons'><enable xmlns='urn:xmpp:carbons:2'/></iq>".to_owned(),
            )?;
        }
        for room in self.rooms() {
            for who in self.members() {
                let client = self.client(who);
                let nick = client.user();
                client.send(format!(
                    "<presence to='{room}/{nick}'><x xmlns='http://jabber.org/protocol/muc'/></presence>"
                ))?;
                // One after the other, so that a session in the room sees the later ones join.
                let own = format!("{room}/{nick}");
                client
                    .hears("its own presence in a room", 0, LIMIT, |log| {
                        log.iter()
                            .find(|h| h.element.attr("from") == Some(&own))
                            .map(drop)
                    })
                    .await?;
            }
        }
        for client in self.clients() {
            client.acknowledged(LIMIT).await?;
        }
        Ok(())
    }

    /// The number of groups, which is that of routers.
    pub fn groups(&self) -> usize {
        self.groups.len()
    }

    /// A session.
    pub fn client(&self, who: Who) -> &Client {
        let sessions = &self.groups[who.group].sessions;
        let found = sessions.iter().find(|(part, _)| *part == who.part);
        &found.expect("every group has all parts").1
    }

    /// All sessions of the groups.
    pub fn everybody(&self) -> Vec<Who> {
        (0..self.groups.len())
            .flat_map(|group| PARTS.map(|part| Who { group, part }))
            .collect()
    }

    /// The clients of all these sessions.
    pub fn clients(&self) -> impl Iterator<Item = &Client> {
        self.everybody().into_iter().map(|who| self.client(who))
    }

    /// The sessions that are in all rooms.
    pub fn members(&self) -> Vec<Who> {
        let mut all = self.everybody();
        all.retain(|who| matches!(who.part, Part::One | Part::Other));
        all
    }

    /// All rooms.
    pub fn rooms(&self) -> Vec<String> {
        self.groups.iter().map(|group| group.room.clone()).collect()
    }

    /// The room in a slot of that router.
    pub fn room(&self, group: usize) -> String {
        self.groups[group].room.clone()
    }

    /// The user of a group that is offline.
    pub fn offline(&self, group: usize) -> String {
        self.groups[group].offline.clone()
    }

    /// Ports for clients.
    pub fn ports(&self) -> &[u16] {
        &self.ports
    }

    /// The edge of a session while no process has failed.
    pub fn home(&self, who: Who) -> usize {
        home(who, self.edges)
    }

    /// Moves all sessions back to their first edges.
    pub async fn go_home(&self) -> Result<()> {
        for who in self.everybody() {
            let client = self.client(who);
            client.kept_its_session()?;
            if client.connected(LIMIT).await? != self.home(who) {
                client.go(self.home(who))?;
            }
        }
        for who in self.everybody() {
            self.client(who).arrived(self.home(who), LIMIT).await?;
        }
        Ok(())
    }

    /// Two groups: one whose slots or first session are on the victim, and one whose are not.
    pub fn scene(&self, victim: At) -> (usize, usize) {
        let me = victim.number % self.groups.len();
        (me, (me + 1) % self.groups.len())
    }

    /// Arms fail points, as `SESTINA_FAILPOINTS` names them.
    pub async fn arm(&self, at: At, points: &str) -> Result<()> {
        let mut cluster = self.cluster.lock().await;
        cluster
            .arm(at, points)
            .await
            .with_context(|| format!("arming {points}"))
    }
}

fn home(who: Who, edges: usize) -> usize {
    let away = match who.part {
        Part::One | Part::Guest => 0,
        Part::Two => 1,
        Part::Other => 2,
    };
    (who.group + away) % edges
}
