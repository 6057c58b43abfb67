//! Connections of a simulated cluster: lanes are opened, clients connect, sockets end.

use std::sync::Arc;

use sestina_api::key::split;
use sestina_edge::attachment::hands::{Hands as _, Socket as _};
use sestina_edge::attachment::pending::Ask;
use sestina_proto as proto;
use sestina_proto::to_edge::Body as Down;

use super::client::{FromServer, Mode, ToServer};
use super::edge::{self};
use super::host::Keeper;
use super::net::{End, Ends};
use super::socket::{End as SockEnd, Pipe, Sock};
use super::steps::process_frame;
use super::trace;
use super::world::*;
use sestina_router::simulation::Input;
use sestina_router::simulation::{LaneRef, PeerRef};

/// Elements that are in the network of a socket at once.
const WINDOW: usize = 64;

impl World {
    pub(super) fn open_peer(&mut self, host: usize, to: u64) {
        let from = self.hosts[host].incarnation();
        let conn = self.net.lock().open(Ends::Peer { from, to });
        if let Some(conn) = self.net.lock().conns.get_mut(&conn) {
            // Whoever accepts a lane of a router hears of its end by the next one.
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

    pub(super) fn open_lane(&mut self, edge: usize, lane: (u64, u32)) {
        let Some(host) = self.host_index(lane.0) else {
            return;
        };
        let incarnation = self.edges[edge].incarnation();
        let conn = self.net.lock().open(edge::lane_ends(incarnation, lane));
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
        self.last_instance = conn;
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
            lanes: edge::LANES,
            sink: sink.clone(),
        });
    }

    // ---- sockets

    pub(super) fn connect(&mut self, client: usize) {
        let alive: Vec<usize> = self
            .edges
            .iter()
            .enumerate()
            .filter(|(_, e)| e.alive)
            .map(|(i, _)| i)
            .collect();
        let Some(edge) = self.rng.pick(&alive).copied() else {
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

    /// Whether the edge reads that socket: not while a bind or a resumption waits, nor while too
    /// much is unsettled.
    pub(super) fn reads(&self, sock: &Sock) -> bool {
        match &*sock.pipe.end.borrow() {
            SockEnd::New => true,
            SockEnd::Asking(..) => !sock.pipe.is_open(),
            SockEnd::Session(session) => session.has_room(self.edges[sock.edge].at(self.now)),
        }
    }

    /// An edge reads one thing that a client wrote.
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
                // The end of what was read at once.
                if last || self.rng.one_in(2) {
                    session.finish_reading(ground);
                }
            }
        }
    }

    /// The first thing on a socket.
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

    /// An edge hears that a socket ended.
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
        // A resumption that a dead edge had asked for may be answered after a later one.
        let late = self.late_resumes.contains(&client.session)
            && matches!(&said, FromServer::Error(condition) if condition == "conflict");
        if late {
            // What waited for that session ends with it.
            let others = self.clients.iter_mut().flat_map(|c| c.asking.values_mut());
            others.for_each(|sure| *sure = false);
        }
        let client = &mut self.clients[index];
        let wrong = client.take(&mut self.socks, said, answer, self.steps);
        let (told, session) = (client.told_h, client.session_no);
        for sent in self
            .sent
            .values_mut()
            .filter(|s| s.from == index && s.session == session)
        {
            sent.accepted |= sent.count <= told;
        }
        // Some clients stay away for longer than the server waits.
        self.trouble
            .extend(wrong.filter(|_| !super::talk::FLAKY.contains(&index) && !late));
    }

    pub(super) fn sock_gone(&mut self, id: u64) {
        let Some(sock) = self.socks.get(&id) else {
            return;
        };
        let client = &mut self.clients[sock.client];
        if client.sock == Some(id) {
            client.sock = None;
            let pause = self.rng.below(120);
            client.mode = if client.resumable {
                Mode::Broken {
                    until: self.now + pause,
                }
            } else {
                Mode::Offline
            };
        }
        if let Some(sock) = self.socks.get_mut(&id) {
            sock.client_told = true;
        }
        self.forget_socks();
    }

    pub(super) fn forget_socks(&mut self) {
        self.socks.retain(|_, s| !(s.client_told && s.edge_told));
    }

    /// The client's network is gone.
    pub(super) fn cut_client(&mut self, client: usize, pause: u64) {
        let Some(id) = self.clients[client].sock.take() else {
            return;
        };
        if let Some(sock) = self.socks.get_mut(&id) {
            sock.pipe.cut();
            let up = self.rng.below(sock.up.len() as u64 + 1) as usize;
            sock.up.truncate(up);
            sock.pipe.down.borrow_mut().clear();
        }
        let client = &mut self.clients[client];
        client.mode = if client.resumable {
            Mode::Broken {
                until: self.now + pause,
            }
        } else {
            Mode::Offline
        };
        let index = client.index;
        self.note(|| format!("!! c{index} loses its socket"));
    }

    pub(super) fn next_number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }
}
