//! Connections are made and used: lanes are opened, clients connect, edges and clients read from sockets,
//! and sockets are closed.

use std::sync::Arc;

use sestina_api::key::split;
use sestina_edge::attachment::hands::{Hands as _, Socket as _};
use sestina_edge::attachment::pending::Ask;
use sestina_proto as proto;
use sestina_proto::to_edge::Body as Down;

use super::client::When;
use super::edge::{LANES, LaneKey, lane_ends};
use super::elements::{FromServer, ToServer};
use super::frames::process_frame;
use super::host::Keeper;
use super::net::{End, Ends};
use super::socket::{End as SockEnd, Pipe, Sock};
use super::trace;
use super::world::{RESUMABLE, World};
use sestina_router::simulation::{Input, LaneRef, PeerRef};

/// How many elements may be in the network of a socket at once.
const WINDOW: usize = 64;

impl World {
    /// A router opens a lane to another router.
    pub(super) fn open_peer(&mut self, host: usize, to: u64) {
        let from = self.hosts[host].incarnation();
        let conn = self.net.lock().open(Ends::Peer { from, to });
        if let Some(conn) = self.net.lock().conns.get_mut(&conn) {
            // The router that accepts a lane learns of its end only when the next one is opened.
            conn.acceptor_told = true;
        }
        self.note(|| format!("r{from}->r{to} opens {conn}"));
        let Some(other) = self.host_index(to) else {
            return;
        };
        let node = self.hosts[other].node.clone();
        self.hosts[other].push_all(|| Input::PeerReturned {
            peer: PeerRef(from),
        });
        let sink = Arc::new(End {
            conn,
            net: self.net.clone(),
        });
        self.hosts[host].push_all(|| Input::PeerLane {
            node: node.clone(),
            sink: sink.clone(),
        });
        self.hosts[host].keepers.insert(
            to,
            Keeper {
                conn: Some(conn),
                retry_at: 0,
            },
        );
    }

    /// An edge opens a lane to a router.
    pub(super) fn open_lane(&mut self, edge: usize, lane: LaneKey) {
        let Some(host) = self.host_index(lane.0) else {
            return;
        };
        let incarnation = self.edges[edge].incarnation();
        let conn = self.net.lock().open(lane_ends(incarnation, lane));
        self.note(|| format!("e{incarnation}->r{} opens {conn}", lane.0));
        self.edges[edge].opened(lane, conn);
        let map = self.hosts[host].table.as_proto().clone();
        let frames = vec![
            process_frame(Down::Welcome(Default::default())),
            process_frame(Down::SlotMap(map)),
        ];
        if let Some(conn) = self.net.lock().conns.get_mut(&conn) {
            conn.down.push_back(proto::ToEdgeBatch {
                worker: self.workers,
                seq: 0,
                frames,
            });
        }
        self.accept_lane(host, incarnation, lane, conn);
    }

    /// An opening of a lane that the edge has given up reaches the router, after the opening that the edge
    /// uses. The router learns later that its connection is over.
    pub(super) fn accept_late(&mut self, edge: usize, lane: LaneKey) {
        let Some(host) = self.host_index(lane.0) else {
            return;
        };
        let incarnation = self.edges[edge].incarnation();
        let conn = self.net.lock().open_late(lane_ends(incarnation, lane));
        self.note(|| format!("e{incarnation}->r{} opened {conn} and gave it up", lane.0));
        self.accept_lane(host, incarnation, lane, conn);
    }

    /// The workers of a router get an opening of a lane.
    fn accept_lane(&mut self, host: usize, incarnation: u64, lane: LaneKey, conn: u64) {
        let sink = Arc::new(End {
            conn,
            net: self.net.clone(),
        });
        let lane = LaneRef {
            edge: incarnation,
            lane: lane.1,
        };
        self.hosts[host].push_all(|| Input::EdgeLane {
            lane,
            instance: conn,
            lanes: LANES,
            sink: sink.clone(),
        });
    }

    // ---- sockets

    /// A client connects to an edge, chosen by the seed.
    pub(super) fn connect(&mut self, client: usize) {
        let Some(edge) = self.any_edge() else {
            return;
        };
        self.last_sock += 1;
        let id = self.last_sock;
        let now = self.edges[edge].at(self.now).now();
        let mut sock = Sock {
            client,
            edge,
            pipe: Pipe::new(now, WINDOW),
            up: Default::default(),
            edge_told: false,
            client_told: false,
        };
        sock.pipe.set_queue_limit(self.output_queue);
        let this = &mut self.clients[client];
        this.sock = Some(id);
        sock.up.push_back(this.hello());
        let (mode, full, to) = (
            this.mode,
            this.resource.clone(),
            self.edges[edge].incarnation(),
        );
        self.socks.insert(id, sock);
        self.note(|| format!("c{client}/{full} connects to e{to}: {mode:?}"));
    }

    /// Whether the edge reads from a socket: not while a bind or a resumption waits for its answer, nor while
    /// too many bytes of the session are not settled.
    pub(super) fn reads(&self, sock: &Sock) -> bool {
        match &*sock.pipe.end.borrow() {
            SockEnd::New => true,
            SockEnd::Asking(..) => !sock.pipe.is_open(),
            SockEnd::Session(session) => session.has_room(self.edges[sock.edge].at(self.now)),
        }
    }

    /// An edge reads an element that a client wrote.
    pub(super) fn sock_up(&mut self, id: u64) {
        let Some(sock) = self.socks.get_mut(&id) else {
            return;
        };
        let Some(said) = sock.up.pop_front() else {
            return;
        };
        let (client, edge, last) = (sock.client, sock.edge, sock.up.is_empty());
        let pipe = sock.pipe.clone();
        self.note(|| format!("c{client}->e-{edge} {}", trace::said(&said)));
        let end = pipe.end.borrow().clone();
        match end {
            SockEnd::New => self.log_in(client, edge, &pipe, &said),
            SockEnd::Asking(..) => {}
            SockEnd::Session(session) => {
                let ground = self.edges[edge].at(self.now);
                pipe.hear(ground.now());
                match said {
                    ToServer::Bind | ToServer::Resume { .. } => {}
                    ToServer::Enable => {
                        session.enable(ground, true, 0);
                    }
                    ToServer::Stanza(stanza) => {
                        let now = ground.now();
                        session.take_stanza(ground, stanza.into(), "", now);
                    }
                    ToServer::Request => {
                        session.asked(ground);
                    }
                    ToServer::Ack(h) => {
                        session.acknowledged(ground, h as u32);
                    }
                    ToServer::Close => session.closed_by_client(ground),
                }
                // A read from the socket may end behind any element.
                if last || self.rng.one_in(2) {
                    session.finish_reading(ground);
                }
            }
        }
    }

    /// The edge takes the first element on a socket.
    fn log_in(&mut self, client: usize, edge: usize, pipe: &Arc<Pipe>, said: &ToServer) {
        let c = &self.clients[client];
        let (bare, resource) = (c.bare.clone(), c.resource.clone());
        let edge = &mut self.edges[edge];
        match said {
            ToServer::Bind => edge.ask(self.now, c.slot, pipe, |handle| Ask::Bind {
                frame: proto::Bind {
                    handle,
                    bare,
                    resource,
                    ..Default::default()
                },
                iq_id: "b".to_owned(),
            }),
            ToServer::Resume { session, h } => {
                let (session_hi, session_lo) = split(*session);
                edge.ask(self.now, c.slot, pipe, |handle| Ask::Resume {
                    frame: proto::Resume {
                        handle,
                        session_hi,
                        session_lo,
                        bare,
                        h: *h as u32,
                        ..Default::default()
                    },
                    previd: String::new(),
                });
            }
            _ => {}
        }
    }

    /// An edge learns that a socket is closed.
    pub(super) fn sock_told(&mut self, id: u64) {
        let Some(sock) = self.socks.get_mut(&id) else {
            return;
        };
        sock.edge_told = true;
        let edge = &self.edges[sock.edge];
        let end = sock.pipe.end.borrow().clone();
        match end {
            SockEnd::New => {}
            SockEnd::Asking(slot, handle) => edge.forget(self.now, slot, handle),
            SockEnd::Session(session) => session.lose(edge.at(self.now)),
        }
        self.forget_socks();
    }

    /// A client reads an element from its socket.
    pub(super) fn sock_down(&mut self, id: u64) {
        let Some(sock) = self.socks.get_mut(&id) else {
            return;
        };
        let Some(said) = sock.pipe.read() else {
            return;
        };
        let index = sock.client;
        self.note(|| format!("c{index} gets {}", trace::heard(&said)));
        if self.clients[index].sock != Some(id) {
            return;
        }
        let answer = !self.talking || self.rng.one_in(2);
        let client = &mut self.clients[index];
        // The resumption that a dead edge has asked for may take effect after a later one, and end that.
        let late = self.late_resumes.contains(&client.session)
            && matches!(&said, FromServer::Error(condition) if condition == "conflict");
        if late {
            // Requests that other clients have sent to that session are not answered then.
            let others = self
                .clients
                .iter_mut()
                .flat_map(|c| c.login.asking.values_mut());
            others.for_each(|sure| *sure = false);
        }
        let client = &mut self.clients[index];
        let when = When {
            step: self.steps,
            epoch: self.storage.epoch_of(&client.bare),
        };
        // The network may have kept it away for longer than the server waits.
        let since = client.away_since.unwrap_or(self.now);
        let expired = matches!(said, FromServer::Refused(_)) && self.now >= since + RESUMABLE;
        let mut wrong = client.take(&mut self.socks, said, answer, when);
        let (told, session) = (client.login.told_h, client.session_no);
        for sent in self
            .sent
            .values_mut()
            .filter(|s| s.from == index && s.session == session)
        {
            sent.accepted |= sent.count <= told;
        }
        if expired {
            wrong = None;
            self.session_expired((index, session));
        }
        // Flaky clients may stay unavailable for longer than the server waits for a resumption.
        self.trouble
            .extend(wrong.filter(|_| !super::talk::FLAKY.contains(&index) && !late));
    }

    /// A session is over that was to stay: what is sent to it goes to others of its user. IQs that it had in its queue
    /// are not answered.
    fn session_expired(&mut self, who: (usize, u32)) {
        for sent in self.sent.values_mut().filter(|s| s.cover.contains(&who)) {
            sent.carbons.clear();
        }
        for client in &mut self.clients {
            let login = &mut client.login;
            for (number, sure) in &mut login.asking {
                *sure &= login.asked.get(number) != Some(&who);
            }
        }
    }

    /// A client learns that its socket is closed.
    pub(super) fn sock_gone(&mut self, id: u64) {
        let Some(sock) = self.socks.get(&id) else {
            return;
        };
        let client = &mut self.clients[sock.client];
        if client.sock == Some(id) {
            client.lose_socket(self.now, self.rng.below(120));
        }
        if let Some(sock) = self.socks.get_mut(&id) {
            sock.client_told = true;
        }
        self.forget_socks();
    }

    /// Removes sockets that are closed for both ends.
    pub(super) fn forget_socks(&mut self) {
        self.socks.retain(|_, s| !(s.client_told && s.edge_told));
    }

    /// A client loses its connection; it tries to resume its session after a pause.
    pub(super) fn cut_client(&mut self, client: usize, pause: u64) {
        let Some(id) = self.clients[client].sock else {
            return;
        };
        if let Some(sock) = self.socks.get_mut(&id) {
            sock.pipe.cut();
            let up = self.rng.below(sock.up.len() as u64 + 1) as usize;
            sock.up.truncate(up);
            sock.pipe.down.borrow_mut().clear();
        }
        self.clients[client].lose_socket(self.now, pause);
        self.note(|| format!("!! c{client} loses its socket"));
    }

    /// The number of the next message or question.
    pub(super) fn next_number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }
}
