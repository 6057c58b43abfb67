//! Clients that do as XEP-0198 says, and remember all they sent and got.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use sestina_proto as proto;
use sestina_xmpp::ext::delay::Delay;
use sestina_xmpp::ns;
use sestina_xmpp::stanza::{Kind, Stanza};
use sestina_xmpp::xml::Element;

use super::heard::{Heard, says};
use super::socket::Sock;

/// What an edge writes to a socket. Nearly all are stanzas: boxes would save nothing.
#[allow(clippy::large_enum_variant)]
#[derive(Clone, Debug)]
pub(super) enum FromServer {
    Bound,
    /// 0: it cannot be resumed.
    Enabled {
        session: u128,
    },
    Resumed {
        h: u64,
    },
    Refused(String),
    Stanza(proto::Stanza),
    Request,
    Ack(u64),
    Error(String),
}

/// What a client writes; nearly all are stanzas.
#[allow(clippy::large_enum_variant)]
#[derive(Clone, Debug)]
pub(super) enum ToServer {
    Bind,
    Resume { session: u128, h: u64 },
    Enable,
    Stanza(proto::Stanza),
    Request,
    Ack(u64),
    Close,
}

pub(super) type Socks = BTreeMap<u64, Sock>;

/// Where a client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Offline,
    Binding,
    Resuming,
    Online,
    /// Its socket is gone; it resumes at that time.
    Broken {
        until: u64,
    },
}

/// What was received, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Received {
    /// When (steps of the world).
    pub(super) at: u64,
    pub(super) session: u32,
    pub(super) what: What,
    pub(super) number: u64,
    pub(super) came: Came,
    pub(super) stanza_id: String,
    pub(super) from: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum What {
    Message,
    Groupchat,
    CarbonSent,
    CarbonReceived,
    Reply,
    Error,
}

/// How a message came: what is late says why (XEP-0203).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Came {
    Live,
    /// After a resumption: the server had it before.
    Late,
    /// From the offline store.
    Stored,
    /// A room told it to a newcomer.
    History,
}

impl Came {
    fn of(stanza: &Stanza) -> Came {
        let Some(delay) = stanza.child(ns::DELAY, "delay") else {
            return Came::Live;
        };
        let delay = Element::parse(delay.xml).ok();
        let delay = delay.as_ref().and_then(Delay::parse);
        let by_room = |delay: &Delay| delay.from.as_ref().is_some_and(|from| from.contains('@'));
        match delay {
            Some(delay) if by_room(&delay) => Came::History,
            Some(delay) if delay.reason.is_some() => Came::Stored,
            _ => Came::Late,
        }
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) index: usize,
    pub(super) bare: String,
    pub(super) full: String,
    pub(super) resource: String,
    pub(super) slot: u16,
    pub(super) mode: Mode,
    pub(super) sock: Option<u64>,
    /// It should be logged in.
    pub(super) wanted: bool,
    /// Counts its logins.
    pub(super) session_no: u32,
    pub(super) session: u128,
    pub(super) resumable: bool,
    pub(super) h: u64,
    counting: bool,
    pub(super) sent_count: u64,
    pub(super) sent: VecDeque<(u64, proto::Stanza)>,
    pub(super) told_h: u64,
    pub(super) asked_at: u64,
    /// Since when its presence has been acknowledged: number of its stanza.
    presence_at: u64,
    pub(super) available: bool,
    /// The cluster was whole since then.
    pub(super) settled_in: bool,
    pub(super) carbons: bool,
    pub(super) carbons_settled: bool,
    /// Rooms, and whether it is in.
    pub(super) rooms: BTreeMap<String, bool>,
    /// Under which of its nicks.
    pub(super) nicks: BTreeMap<String, u64>,
    pub(super) rooms_settled: BTreeSet<String>,
    pub(super) log: Vec<Received>,
    /// It reads what comes, not only what it needs for its login.
    pub(super) reads: bool,
    /// Numbers of what it got.
    pub(super) got: BTreeSet<u64>,
    pub(super) heard: Heard,
    /// What its presence says: its own, and those in rooms by address.
    pub(super) shows: BTreeMap<String, String>,
    /// IQs of this session without an answer.
    pub(super) asking: BTreeMap<u64, bool>,
    /// Pages of its archive: results that came, by query, and those that were answered.
    results: BTreeMap<String, Vec<String>>,
    pub(super) pages: Vec<ArchivePage>,
}

/// A page of an archive: ids of its messages as they came, and what the answer says.
#[derive(Debug)]
pub(super) struct ArchivePage {
    ids: Vec<String>,
    first: Option<String>,
    last: Option<String>,
}

impl ArchivePage {
    pub(super) fn wrong(&self) -> Option<String> {
        let once: BTreeSet<&String> = self.ids.iter().collect();
        if once.len() < self.ids.len() {
            return Some(format!("has something twice: {self:?}"));
        }
        let ends = self.first.iter().chain(&self.last);
        let lost = ends.clone().any(|id| !self.ids.contains(id));
        lost.then(|| format!("lacks what it names: {self:?}"))
    }
}

impl Client {
    /// Its address in a room.
    pub(super) fn address_in(&self, room: &str) -> String {
        let (nick, _) = self.bare.split_once('@').unwrap_or((&self.bare, ""));
        match self.nicks.get(room) {
            Some(other) if *other > 0 => format!("{room}/{nick}-{other}"),
            _ => format!("{room}/{nick}"),
        }
    }

    pub(super) fn new(index: usize, bare: String, resource: &str, slot: u16) -> Client {
        Client {
            index,
            full: format!("{bare}/{resource}"),
            bare,
            resource: resource.to_owned(),
            slot,
            mode: Mode::Offline,
            sock: None,
            wanted: true,
            session_no: 0,
            session: 0,
            resumable: false,
            h: 0,
            counting: false,
            sent_count: 0,
            sent: VecDeque::new(),
            told_h: 0,
            asked_at: 0,
            presence_at: 0,
            available: false,
            settled_in: false,
            carbons: false,
            carbons_settled: false,
            rooms: BTreeMap::new(),
            nicks: BTreeMap::new(),
            rooms_settled: BTreeSet::new(),
            log: Vec::new(),
            reads: true,
            got: BTreeSet::new(),
            heard: Heard::default(),
            shows: BTreeMap::new(),
            asking: BTreeMap::new(),
            results: BTreeMap::new(),
            pages: Vec::new(),
        }
    }

    /// The first thing to say on a new socket.
    pub(super) fn hello(&mut self) -> ToServer {
        if self.resumable {
            self.mode = Mode::Resuming;
            ToServer::Resume {
                session: self.session,
                h: self.h,
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
        self.resumable = false;
        self.h = 0;
        self.counting = false;
        self.sent_count = 0;
        self.sent.clear();
        self.told_h = 0;
        self.asked_at = 0;
        self.presence_at = 0;
        self.available = false;
        self.settled_in = false;
        self.carbons = false;
        self.carbons_settled = false;
        self.rooms.clear();
        self.nicks.clear();
        self.rooms_settled.clear();
        self.asking.clear();
        self.results.clear();
        self.heard.forget();
        self.shows.clear();
    }

    pub(super) fn is_online(&self) -> bool {
        self.mode == Mode::Online && self.resumable
    }

    /// Sends a stanza.
    pub(super) fn send(&mut self, socks: &mut Socks, stanza: Stanza) {
        if stanza.kind == Kind::Presence && stanza.type_.is_empty() {
            let room = stanza.to.split('/').next().unwrap_or_default();
            self.shows.insert(room.to_owned(), says(&stanza));
        }
        let stanza = proto::Stanza::from(stanza);
        self.sent_count += 1;
        self.sent.push_back((self.sent_count, stanza.clone()));
        self.write(socks, ToServer::Stanza(stanza));
    }

    pub(super) fn write(&self, socks: &mut Socks, what: ToServer) {
        let sock = self.sock.and_then(|s| socks.get_mut(&s));
        if let Some(sock) = sock.filter(|s| s.pipe.is_open()) {
            sock.up.push_back(what);
        }
    }

    fn acked(&mut self, h: u64) -> Option<String> {
        if h > self.sent_count || h < self.told_h {
            return Some(format!(
                "{} was told h={h}, sent {}, told before {}",
                self.full, self.sent_count, self.told_h
            ));
        }
        self.told_h = h;
        while self.sent.front().is_some_and(|s| s.0 <= h) {
            self.sent.pop_front();
        }
        self.available |= self.presence_at > 0 && h >= self.presence_at;
        None
    }

    /// Something came. Returns what is wrong about it.
    pub(super) fn take(
        &mut self,
        socks: &mut Socks,
        what: FromServer,
        answer: bool,
        at: u64,
    ) -> Option<String> {
        match what {
            FromServer::Bound => {
                self.mode = Mode::Online;
                self.write(socks, ToServer::Enable);
            }
            FromServer::Enabled { session } => {
                self.session = session;
                self.resumable = true;
                self.counting = true;
                let mut presence = Stanza::new(Kind::Presence);
                presence.id = "p".to_owned();
                self.send(socks, presence);
                self.presence_at = self.sent_count;
            }
            FromServer::Resumed { h } => {
                self.mode = Mode::Online;
                let wrong = self.acked(h);
                for (_, stanza) in &self.sent {
                    self.write(socks, ToServer::Stanza(stanza.clone()));
                }
                return wrong;
            }
            FromServer::Refused(condition) => {
                let lost = self.mode == Mode::Resuming;
                self.resumable = false;
                return lost.then(|| format!("{} could not resume: {condition}", self.full));
            }
            FromServer::Error(condition) => {
                self.resumable = false;
                return Some(format!("{} was closed: {condition}", self.full));
            }
            FromServer::Request => {
                if answer {
                    self.write(socks, ToServer::Ack(self.h));
                }
            }
            FromServer::Ack(h) => return self.acked(h),
            FromServer::Stanza(stanza) => {
                if self.counting {
                    self.h += 1;
                }
                self.read(socks, &Stanza::from(stanza), at);
            }
        }
        None
    }

    fn read(&mut self, socks: &mut Socks, stanza: &Stanza, at: u64) {
        let payload = String::from_utf8_lossy(&stanza.payload).into_owned();
        let session = self.session_no;
        let mut received = |what, number| {
            self.got.insert(number);
            self.log.push(Received {
                at,
                session,
                what,
                number,
                came: Came::of(stanza),
                stanza_id: between(&payload, "id='", "'").unwrap_or_default(),
                from: stanza.from.clone(),
            });
        };
        match stanza.kind {
            Kind::Message if payload.contains("<result") => {
                let query = part(&payload, "queryid='", "'").unwrap_or_default();
                let result = payload.split("<result").nth(1).unwrap_or_default();
                let id = part(result, " id='", "'").unwrap_or_default();
                self.results.entry(query).or_default().push(id);
            }
            Kind::Message => {
                // An error need not bring back what it is about.
                let named = || stanza.id.strip_prefix('m')?.parse().ok();
                let of_error = || stanza.is_error().then(named).flatten();
                let Some(number) = body_number(&payload).or_else(of_error) else {
                    return;
                };
                let what = if stanza.is_error() {
                    What::Error
                } else if stanza.type_ == "groupchat" {
                    What::Groupchat
                } else if payload.contains(ns::MAM) {
                    return;
                } else if payload.contains(ns::CARBONS) {
                    if payload.contains("<sent") {
                        What::CarbonSent
                    } else {
                        What::CarbonReceived
                    }
                } else {
                    What::Message
                };
                received(what, number);
                if what == What::Groupchat {
                    self.heard.said(&stanza.from, number, Came::of(stanza));
                }
            }
            Kind::Presence => {
                let status = |code: &str| {
                    [format!("code='{code}'"), format!("code=\"{code}\"")]
                        .iter()
                        .any(|status| payload.contains(status))
                };
                let (own, renamed) = (status("110"), status("303"));
                self.heard.presence(stanza, own, renamed);
                // With 303 it goes on under another nick.
                if own
                    && !renamed
                    && let Some((room, _)) = stanza.from.split_once('/')
                {
                    let inside = stanza.type_.is_empty();
                    // What the room says last counts: it may have said this before it got what was
                    // sent to it since.
                    if inside {
                        self.rooms.insert(room.to_owned(), true);
                    } else if self.rooms.get(room) == Some(&true) {
                        self.rooms.remove(room);
                        self.rooms_settled.remove(room);
                    }
                }
            }
            Kind::Iq if matches!(stanza.type_.as_str(), "get" | "set") => {
                let reply = stanza.result_reply(None);
                self.send(socks, reply);
            }
            Kind::Iq => {
                if let Some(number) = stanza.id.strip_prefix('i').and_then(|n| n.parse().ok()) {
                    received(What::Reply, number);
                    self.asking.remove(&number);
                    let ids = self.results.remove(&number.to_string());
                    if payload.contains("<fin") {
                        let first = payload.split("<first").nth(1);
                        self.pages.push(ArchivePage {
                            ids: ids.unwrap_or_default(),
                            first: first.and_then(|text| part(text, ">", "<")),
                            last: part(&payload, "<last>", "<"),
                        });
                    }
                }
            }
        }
    }
}

fn part(text: &str, from: &str, to: &str) -> Option<String> {
    let (_, rest) = text.split_once(from)?;
    Some(rest.split_once(to)?.0.to_owned())
}

fn between(text: &str, from: &str, to: &str) -> Option<String> {
    // The stanza-id is the last element that has an id here.
    let at = text.find("urn:xmpp:sid:0")?;
    let start = text[..at].rfind('<')?;
    let tag = &text[start..];
    let id = tag
        .find(from)
        .map(|i| i + from.len())
        .or_else(|| tag.find(" id=\"").map(|i| i + 5))?;
    let rest = &tag[id..];
    let end = rest.find(to).or_else(|| rest.find('"'))?;
    Some(rest[..end].to_owned())
}

fn body_number(payload: &str) -> Option<u64> {
    let at = payload.find("<body>m")? + 7;
    let rest = &payload[at..];
    rest[..rest.find('<')?].parse().ok()
}

/// One message in so many is a third of what a session is given at a time.
const LARGE: u64 = 5;

/// A message with a number in it.
pub(super) fn message(to: &str, type_: &str, number: u64) -> Stanza {
    let mut stanza = Stanza::new(Kind::Message);
    stanza.to = to.to_owned();
    stanza.type_ = type_.to_owned();
    stanza.id = format!("m{number}");
    let body = format!("<body>m{number}</body>");
    stanza.push_raw(body.as_bytes(), "body", ns::CLIENT);
    if number.is_multiple_of(LARGE) {
        let pad = format!("<pad xmlns='urn:example:pad'>{:600}</pad>", "");
        stanza.push_raw(pad.as_bytes(), "pad", "urn:example:pad");
    }
    stanza
}

/// A presence to an occupant's address.
pub(super) fn room_presence(to: &str, type_: &str) -> Stanza {
    let mut stanza = Stanza::new(Kind::Presence);
    stanza.to = to.to_owned();
    stanza.type_ = type_.to_owned();
    if type_.is_empty() {
        stanza.push_element(&Element::new("x", ns::MUC));
    }
    stanza
}

/// A question.
pub(super) fn iq(to: &str, type_: &str, number: u64, child: &Element) -> Stanza {
    let mut stanza = Stanza::new(Kind::Iq);
    stanza.to = to.to_owned();
    stanza.type_ = type_.to_owned();
    stanza.id = format!("i{number}");
    stanza.push_element(child);
    stanza
}

/// What an archived or stored stanza says.
pub(super) fn number_in(stanza: Option<&proto::Stanza>) -> Option<u64> {
    let payload: &Bytes = &stanza?.payload;
    body_number(&String::from_utf8_lossy(payload))
}
