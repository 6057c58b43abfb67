//! A client: it keeps its session as XEP-0198 says, and records what it sent and received.
//!
//! - [`reading`]: what it does with each stanza that it receives
//! - [`received`], [`archive`]: its records of them
//! - [`stanzas`]: what it sends

mod archive;
mod reading;
mod received;
mod stanzas;

pub(super) use received::{Came, Received, What, When};
pub(super) use stanzas::{invite, iq, message, number_in, room_presence};

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use sestina_proto as proto;
use sestina_xmpp::stanza::{Kind, Stanza};

use super::elements::{FromServer, ToServer};
use super::heard::{Heard, says};
use super::socket::Sock;
use archive::ArchivePage;

/// All sockets of clients, by number.
pub(super) type Socks = BTreeMap<u64, Sock>;

/// The state of a client's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Offline,
    Binding,
    Resuming,
    Online,
    /// Its socket is gone; it tries to resume its session at that time.
    Broken {
        until: u64,
    },
}

/// See the module.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) index: usize,
    pub(super) bare: String,
    pub(super) full: String,
    pub(super) resource: String,
    /// The slot of its user.
    pub(super) slot: u16,
    pub(super) mode: Mode,
    /// Since when it is without its session.
    pub(super) away_since: Option<u64>,
    pub(super) sock: Option<u64>,
    /// Whether it is to log in, and to stay so.
    pub(super) wanted: bool,
    /// How often it has logged in.
    pub(super) session_no: u32,
    /// The identity of its last session.
    pub(super) session: u128,
    /// What it knows of its present session.
    pub(super) login: Login,
    /// All numbered stanzas that it received, in any session.
    pub(super) log: Vec<Received>,
    /// The numbers of those.
    pub(super) got: BTreeSet<u64>,
    /// The numbers of its IQs that were answered by an error.
    pub(super) refused: BTreeSet<u64>,
    /// Those of them for sessions that have ended.
    pub(super) unavailable: BTreeSet<u64>,
    /// Whether it reads from its socket once it is logged in.
    pub(super) reads: bool,
    pub(super) heard: Heard,
    /// The pages of its archive that it received, in any session.
    pub(super) pages: Vec<ArchivePage>,
}

/// What a client knows of its present session; all of it is forgotten when the session is over.
#[derive(Debug, Default)]
pub(super) struct Login {
    pub(super) resumable: bool,
    /// How many stanzas it has received: `h` of its acknowledgements.
    pub(super) h: u64,
    /// Stream management is on, so that received stanzas are counted.
    counting: bool,
    /// How many stanzas it has sent.
    pub(super) sent_count: u64,
    /// The stanzas that the server has not acknowledged, with their counts.
    pub(super) sent: VecDeque<(u64, proto::Stanza)>,
    /// The last `h` that the server has told.
    pub(super) told_h: u64,
    /// The count of its first presence; 0: not sent yet.
    presence_at: u64,
    /// The server has accepted its first presence.
    pub(super) available: bool,
    /// The cluster was redundant and at rest while it was available: from then on it must receive
    /// everything that is sent to it.
    pub(super) settled_in: bool,
    /// It has asked for carbons (XEP-0280).
    pub(super) carbons: bool,
    /// It had asked for them when the cluster was at rest.
    pub(super) carbons_settled: bool,
    /// The rooms that it has entered or asked to enter, and whether it is in.
    pub(super) rooms: BTreeMap<String, bool>,
    /// Which of its nicks it has in a room; 0: the first one.
    pub(super) nicks: BTreeMap<String, u64>,
    /// The rooms that it was in when the cluster was at rest.
    pub(super) rooms_settled: BTreeSet<String>,
    /// The rooms that it has left, until they answer.
    pub(super) leaving: BTreeSet<String>,
    /// The last presence that it sent: by room, and to its contacts under an empty name.
    pub(super) shows: BTreeMap<String, String>,
    /// Its IQs without an answer, and whether an answer must come.
    pub(super) asking: BTreeMap<u64, bool>,
    /// The sessions (client, login) that some of its IQs are for.
    pub(super) asked: BTreeMap<u64, (usize, u32)>,
    /// The ids of results that came from its archive, by query, until the answer comes.
    results: BTreeMap<String, Vec<String>>,
}

impl Login {
    /// The rooms that it is in.
    pub(super) fn rooms_inside(&self) -> impl Iterator<Item = &String> {
        let inside = self.rooms.iter().filter(|(_, inside)| **inside);
        inside.map(|(room, _)| room)
    }
}

impl Client {
    pub(super) fn new(index: usize, bare: String, resource: &str, slot: u16) -> Client {
        Client {
            index,
            full: format!("{bare}/{resource}"),
            bare,
            resource: resource.to_owned(),
            slot,
            mode: Mode::Offline,
            away_since: None,
            sock: None,
            wanted: true,
            session_no: 0,
            session: 0,
            login: Login::default(),
            log: Vec::new(),
            got: BTreeSet::new(),
            refused: BTreeSet::new(),
            unavailable: BTreeSet::new(),
            reads: true,
            heard: Heard::default(),
            pages: Vec::new(),
        }
    }

    /// Its address in a room.
    pub(super) fn address_in(&self, room: &str) -> String {
        let (nick, _) = self.bare.split_once('@').unwrap_or((&self.bare, ""));
        match self.login.nicks.get(room) {
            Some(other) if *other > 0 => format!("{room}/{nick}-{other}"),
            _ => format!("{room}/{nick}"),
        }
    }

    pub(super) fn is_online(&self) -> bool {
        self.mode == Mode::Online && self.login.resumable
    }

    /// The first element that it writes to a new socket.
    pub(super) fn hello(&mut self) -> ToServer {
        if self.login.resumable {
            self.mode = Mode::Resuming;
            ToServer::Resume {
                session: self.session,
                h: self.login.h,
            }
        } else {
            self.forget();
            self.mode = Mode::Binding;
            ToServer::Bind
        }
    }

    /// The session is over.
    pub(super) fn forget(&mut self) {
        self.session_no += 1;
        self.login = Login::default();
        self.heard.forget();
    }

    /// Its socket is gone: it resumes its session after a pause, or logs in anew at once.
    pub(super) fn lose_socket(&mut self, now: u64, pause: u64) {
        self.sock = None;
        self.away_since.get_or_insert(now);
        self.mode = if self.login.resumable {
            Mode::Broken { until: now + pause }
        } else {
            Mode::Offline
        };
    }

    /// Sends a stanza.
    pub(super) fn send(&mut self, socks: &mut Socks, stanza: Stanza) {
        if stanza.kind == Kind::Presence && stanza.type_.is_empty() {
            let room = stanza.to.split('/').next().unwrap_or_default();
            self.login.shows.insert(room.to_owned(), says(&stanza));
        }
        let stanza = proto::Stanza::from(stanza);
        let login = &mut self.login;
        login.sent_count += 1;
        login.sent.push_back((login.sent_count, stanza.clone()));
        self.write(socks, ToServer::Stanza(stanza));
    }

    /// Writes an element to its socket, if that is open.
    pub(super) fn write(&self, socks: &mut Socks, what: ToServer) {
        let sock = self.sock.and_then(|s| socks.get_mut(&s));
        if let Some(sock) = sock.filter(|s| s.pipe.is_open()) {
            sock.up.push_back(what);
        }
    }

    /// Tells the server how many stanzas it has received, and asks the same.
    pub(super) fn acknowledge(&self, socks: &mut Socks) {
        self.write(socks, ToServer::Ack(self.login.h));
        self.write(socks, ToServer::Request);
    }

    /// Takes what the server says it has accepted. Returns what is wrong about it.
    fn acked(&mut self, h: u64) -> Option<String> {
        let login = &mut self.login;
        if h > login.sent_count || h < login.told_h {
            return Some(format!(
                "{} was told h={h}, sent {}, told before {}",
                self.full, login.sent_count, login.told_h
            ));
        }
        login.told_h = h;
        while login.sent.front().is_some_and(|s| s.0 <= h) {
            login.sent.pop_front();
        }
        login.available |= login.presence_at > 0 && h >= login.presence_at;
        None
    }

    /// Takes an element that the server has written, at a step of the simulation. Answers a request
    /// for an acknowledgement only if `answer` says so. Returns what is wrong about the element.
    pub(super) fn take(
        &mut self,
        socks: &mut Socks,
        what: FromServer,
        answer: bool,
        when: When,
    ) -> Option<String> {
        match what {
            FromServer::Bound => {
                self.mode = Mode::Online;
                self.away_since = None;
                self.write(socks, ToServer::Enable);
            }
            FromServer::Enabled { session } => {
                self.session = session;
                self.login.resumable = true;
                self.login.counting = true;
                let mut presence = Stanza::new(Kind::Presence);
                presence.id = "p".to_owned();
                self.send(socks, presence);
                self.login.presence_at = self.login.sent_count;
            }
            FromServer::Resumed { h } => {
                self.mode = Mode::Online;
                self.away_since = None;
                let wrong = self.acked(h);
                for (_, stanza) in &self.login.sent {
                    self.write(socks, ToServer::Stanza(stanza.clone()));
                }
                return wrong;
            }
            FromServer::Refused(condition) => {
                let lost = self.mode == Mode::Resuming;
                self.login.resumable = false;
                return lost.then(|| format!("{} could not resume: {condition}", self.full));
            }
            FromServer::Error(condition) => {
                self.login.resumable = false;
                return Some(format!("{} was closed: {condition}", self.full));
            }
            FromServer::Request => {
                if answer {
                    self.write(socks, ToServer::Ack(self.login.h));
                }
            }
            FromServer::Ack(h) => return self.acked(h),
            FromServer::Stanza(stanza) => {
                if self.login.counting {
                    self.login.h += 1;
                }
                self.read(socks, &Stanza::from(stanza), when);
            }
        }
        None
    }
}
