//! The options, each with its documentation and default.

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::modules::{Modules, OwnModules};
use crate::section;
use crate::shape::choice;
use crate::values::{Net, Secret, Size, Time};

section! {
    /// The whole configuration.
    pub struct Config {
        /// This process.
        node: Node = Node::default();
        /// The domains that are served, one `[[host]]` block each. Without any, `localhost` is
        /// served.
        host: Vec<Host> = Vec::new();
        /// More services of rooms than the one of each host, one `[[rooms]]` block each.
        rooms: Vec<Rooms> = Vec::new();
        /// Listeners and limits of the edge.
        edge: Edge = Edge::default();
        /// Stream management (XEP-0198).
        sm: Sm = Sm::default();
        /// Sessions, messages and rooms.
        router: Router = Router::default();
        /// Modules: which of them are switched off, and their settings. `sestina pipeline` lists the
        /// modules of each domain.
        modules: Modules = Modules::default();
        /// The database; only the storage tier reads this section.
        storage: Storage = Storage::default();
        /// The store for live state that must survive its owner.
        redis: Redis = Redis::default();
        /// How the processes of one cluster find and trust each other.
        cluster: Cluster = Cluster::default();
        /// Logs, metrics and traces.
        telemetry: Telemetry = Telemetry::default();
        /// The administrator's access.
        admin: Admin = Admin::default();
    }

    /// This process.
    pub struct Node {
        /// Name of the process in its cluster: unique, and the same after a restart. Empty: the
        /// machine's host name.
        name: String = String::new();
        /// Directory for the files of this process: the SQLite database, a self-signed certificate,
        /// the administrator's socket.
        data_dir: PathBuf = PathBuf::from("sestina-data");
        /// After SIGTERM, the longest time to settle, hand over and close before the process ends.
        drain_timeout: Time = Time::s(60);
    }

    /// One domain.
    pub struct Host {
        /// The domain. Required.
        domain: String = String::new();
        /// Allow login without an account (SASL ANONYMOUS) instead of by password.
        anonymous: bool = false;
        /// SASL mechanisms offered to users with a password, best first. Those that end in `-PLUS`
        /// are offered with TLS 1.3. `PLAIN`, which shows the password to this server, is offered
        /// over TLS only; without `PLAIN`, clients that do not support SCRAM cannot log in.
        mechanisms: Vec<String> = default_mechanisms();
        /// Domain of the group chat service. Empty: `conference.` before the domain.
        muc: String = String::new();
        /// Certificate chain for this domain and its services (PEM). Unset: that of `edge.tls`.
        certificate: Option<PathBuf> = None;
        /// Private key of the certificate (PEM).
        key: Option<PathBuf> = None;
        /// Modules of this host and of its `muc`: what differs from the section `[modules]`. The
        /// settings of a module are written as there, in `[host.modules.blocking]` for example; an
        /// option that is not set has the value that it has there.
        modules: Option<OwnModules> = None;
    }

    /// One service of rooms.
    pub struct Rooms {
        /// The domain. Required. The `muc` of a host is allowed too, to set `slots_of` for it.
        domain: String = String::new();
        /// Hosts that list this service to their users (XEP-0030); a host always lists its `muc`.
        /// Empty: users must know the domain.
        listed_by: Vec<String> = Vec::new();
        /// Domain of another service of rooms, as for lobbies, breakout rooms and visitors of a
        /// conference. The router that owns a room there owns the room with the same name at this
        /// service too, because both have the same slot. All processes of the cluster need the same
        /// value; change it only while all of them are stopped. Unset: the rooms have slots of
        /// their own.
        slots_of: Option<String> = None;
        /// Modules of this service: what differs from the section `[modules]`, or from the modules of
        /// the host if this is the `muc` of one. The settings of a module are written as there.
        modules: Option<OwnModules> = None;
    }

    /// Listeners and limits of the edge.
    pub struct Edge {
        /// Listeners for clients that start TLS after connecting (STARTTLS). `[::]` includes IPv4.
        c2s: Vec<SocketAddr> = vec![any(5222)];
        /// Listeners for clients that connect by TLS (XEP-0368).
        c2s_tls: Vec<SocketAddr> = vec![any(5223)];
        /// Listeners for clients without TLS. Passwords and messages are readable on the network:
        /// for tests, or behind a proxy that terminates TLS on the same machine.
        c2s_plaintext: Vec<SocketAddr> = Vec::new();
        /// Listeners for HTTP without TLS (such as WebSocket), for a proxy in front.
        http: Vec<SocketAddr> = vec![local(5280)];
        /// Listeners for HTTPS.
        https: Vec<SocketAddr> = vec![any(5281)];
        /// Networks whose connections begin with a PROXY protocol header (version 1 or 2), which
        /// names the client's address. Connections from other networks must not begin with such a
        /// header.
        proxy_protocol: Vec<Net> = Vec::new();
        /// HTTP proxies whose `Forwarded` and `X-Forwarded-For` headers are trusted.
        trusted_proxies: Vec<Net> = Vec::new();
        /// Limits for clients before and after authentication.
        limits: Limits = Limits::default();
        /// Certificates.
        tls: Tls = Tls::default();
    }

    /// Limits for clients before and after authentication.
    pub struct Limits {
        /// Largest stanza before authentication.
        pre_auth_stanza: Size = Size(10_000);
        /// Largest stanza after authentication.
        stanza: Size = Size(262_144);
        /// Deepest nesting of elements in a stanza.
        depth: usize = 32;
        /// Most attributes on one element.
        attributes: usize = 64;
        /// Most connections from one address (one /64 network for IPv6); 0: no limit.
        connections_per_address: usize = 1000;
        /// New connections per second from one address (one /64 network for IPv6) in the long run;
        /// as many as `connections_per_address` may be opened at once. 0: no limit.
        connection_rate: usize = 100;
        /// Most connections that have not authenticated; 0: no limit. A new one replaces the oldest
        /// one of the address that has most, or the oldest one that sends nothing.
        unauthenticated: usize = 4096;
        /// Most connections from one address that have not authenticated; 0, or no limit for
        /// `connections_per_address`: no limit.
        unauthenticated_per_address: usize = 500;
        /// Time from connecting to the end of authentication.
        auth_timeout: Time = Time::s(30);
        /// Most failed authentications on one connection.
        auth_attempts: usize = 5;
        /// Bytes per second that a session may send in the long run; the socket of a faster session
        /// is not read for a while. 0: no limit.
        rate: Size = Size::kib(64);
        /// Bytes that a session may send at once, beyond the rate.
        burst: Size = Size::mib(1);
        /// Bytes that may wait for a slow reader's socket before it is detached (XEP-0198) or
        /// closed.
        output_queue: Size = Size::mib(2);
        /// Bytes that all sessions of this process may hold together: stanzas that clients have not
        /// acknowledged, and stanzas from clients that are not settled. Beyond it the sessions that
        /// hold most are detached (XEP-0198) or closed, and logins wait. 0: a quarter of the memory
        /// of the machine or of its cgroup, and 2 GiB at most.
        held: Size = Size(0);
    }

    /// Certificates.
    pub struct Tls {
        /// Certificate chain (PEM) for all domains without one of their own. Unset: a self-signed
        /// certificate is made in the data directory. Changed files are loaded without a restart.
        certificate: Option<PathBuf> = None;
        /// Private key of the certificate (PEM).
        key: Option<PathBuf> = None;
    }

    /// Stream management (XEP-0198).
    pub struct Sm {
        /// How long a session without a socket can be resumed.
        resume_timeout: Time = Time::s(300);
        /// Bytes of stanzas kept for a client that has not acknowledged them; a session that
        /// exceeds this is closed, and its messages are stored or returned.
        max_queue: Size = Size::mib(4);
    }

    /// Sessions, messages and rooms.
    pub struct Router {
        /// Worker threads that own the slots. 0: one for each core.
        workers: usize = 0;
        /// Keep an archive of messages (XEP-0313). `false`: the module `mam` is switched off at all
        /// domains.
        archive: bool = true;
        /// Bytes of archive rows that may wait while storage is unavailable; beyond it, senders get
        /// `resource-constraint`.
        archive_buffer: Size = Size::mib(64);
        /// Most offline messages kept for one user; 0: none are kept.
        offline_limit: usize = 100;
        /// Messages of a room's history that are sent to a session that joins.
        muc_history: usize = 20;
        /// Offer message carbons (XEP-0280). `false`: the module `carbons` is switched off at all
        /// domains.
        carbons: bool = true;
        /// Most rooms that one session may be in; one room more is refused with
        /// `resource-constraint`.
        session_rooms: usize = 1000;
        /// Bytes of stanzas kept for all clients of one user together (see `sm.max_queue`); beyond
        /// it, the session with most of them is closed, and its messages are stored or returned.
        user_queue: Size = Size::mib(16);
        /// The same for all users of one slot together; beyond it, a session of the user with most
        /// of them is closed. There are 4096 slots.
        slot_queue: Size = Size::mib(64);
        /// Bytes that one worker may have under way to one edge, on each connection between the
        /// two, until the edge has acknowledged them; further stanzas wait in the queues of the
        /// sessions.
        edge_buffer: Size = Size::mib(8);
    }

    /// The database; only the storage tier reads this section.
    pub struct Storage {
        /// `postgres://user@host/database` or `sqlite:path`. Unset: `sestina.db` in the data
        /// directory.
        url: Option<Secret> = None;
        /// File that holds the URL, in place of `url`.
        url_file: Option<PathBuf> = None;
        /// Connections for everything but archives.
        connections: u32 = 10;
        /// Connections for writing archives, so that they do not delay logins.
        archive_connections: u32 = 4;
        /// Connections for reading archives, so that a long query does not delay archiving.
        query_connections: u32 = 4;
        /// Longest wait for a free connection.
        acquire_timeout: Time = Time::s(2);
        /// Longest time for one statement.
        statement_timeout: Time = Time::s(10);
    }

    /// The store for live state that must survive its owner.
    pub struct Redis {
        /// `memory` keeps it in this process, which is right only for a server of a single process.
        mode: RedisMode = RedisMode::Memory;
        /// `redis://` addresses, or for TLS `rediss://` addresses: the server, the sentinels, or
        /// some nodes of the cluster. With TLS, the sentinels' master and all nodes of the cluster
        /// must use it too.
        urls: Vec<String> = Vec::new();
        /// Authority (PEM) that has signed Redis's certificates. Unset: the authorities of the
        /// system's trust store.
        tls_ca: Option<PathBuf> = None;
        /// Certificate of this process (PEM), for servers that ask clients for one.
        tls_certificate: Option<PathBuf> = None;
        /// Private key of this process (PEM).
        tls_key: Option<PathBuf> = None;
        /// Name of the master that the sentinels watch.
        master_name: Option<String> = None;
        /// User name, if Redis asks for one.
        username: Option<String> = None;
        /// Password.
        password: Option<Secret> = None;
        /// File that holds the password, in place of `password`.
        password_file: Option<PathBuf> = None;
        /// Longest time for connecting.
        connect_timeout: Time = Time::s(2);
        /// Longest time for an answer.
        response_timeout: Time = Time::s(1);
        /// Bytes of one write of live state, at least 16 KiB; a larger change is written in parts.
        /// Redis does nothing else while it executes a write.
        commit_bytes: Size = Size::kib(256);
    }

    /// How the processes of one cluster find and trust each other.
    pub struct Cluster {
        /// Name of the cluster, the same for all its processes; letters, digits, `.`, `_`, `-` and
        /// `/`. The first storage process writes it into the database; processes of another name
        /// are refused from then on. See `sestina cluster rename`.
        name: String = "sestina".to_owned();
        /// Address on which this process listens for the other tiers (gRPC).
        listen: SocketAddr = local(5290);
        /// `host:port` at which the other processes reach this one. Unset: the address that it
        /// listens on.
        advertise: Option<String> = None;
        /// `host:port` of routers to ask first; a name may stand for many addresses.
        routers: Vec<String> = Vec::new();
        /// `host:port` of the storage processes; a name may stand for many addresses.
        storages: Vec<String> = Vec::new();
        /// Connections between each pair of edge and router.
        lanes: usize = 4;
        /// Authority (PEM) that has signed the certificates of all processes.
        tls_ca: Option<PathBuf> = None;
        /// Certificate of this process (PEM).
        tls_certificate: Option<PathBuf> = None;
        /// Private key of this process (PEM).
        tls_key: Option<PathBuf> = None;
        /// Use no TLS between the tiers. Any process that reaches the ports then controls the
        /// cluster: for tests, and for networks that encrypt and authenticate themselves.
        plaintext: bool = false;
        /// Term of a process's lease. A process that died is replaced after this time.
        lease_ttl: Time = Time::s(4);
        /// How often a lease is renewed.
        lease_renew: Time = Time::s(1);
        /// An owner stops serving this long before its last lease ends.
        lease_margin: Time = Time::s(1);
    }

    /// Logs, metrics and traces.
    pub struct Telemetry {
        /// Which log lines are written: a level, or levels by target, as in
        /// `info,sestina_router=debug`. By default the TLS library does not log handshakes that
        /// fail; they are counted (metric `tls_handshakes`).
        log: String = "info,rustls=error".to_owned();
        /// Form of the log lines on standard error.
        log_format: LogFormat = LogFormat::Text;
        /// OpenTelemetry collector (gRPC) that gets traces, metrics and logs, as in
        /// `http://collector:4317`. Unset: none.
        otlp_endpoint: Option<String> = None;
        /// Authority (PEM) that has signed the collector's certificate, for an `https` endpoint.
        otlp_ca: Option<PathBuf> = None;
        /// How often metrics are pushed to the collector.
        otlp_interval: Time = Time::s(15);
        /// Share of stanzas that are traced, from 0 to 1, unless the sender of a trace has decided.
        trace_ratio: f64 = 0.01;
        /// Listeners for `/metrics`, `/health` and `/ready`. Empty: none.
        prometheus: Vec<SocketAddr> = vec![local(9090)];
    }

    /// The administrator's access.
    pub struct Admin {
        /// Unix socket for the administrator's commands. Unset: `admin.sock` in the data
        /// directory.
        socket: Option<PathBuf> = None;
    }
}

choice! {
    /// Where the state store keeps live state.
    pub enum RedisMode {
        /// In this process.
        Memory = "memory",
        /// One Redis server.
        Single = "single",
        /// A master found through Sentinel.
        Sentinel = "sentinel",
        /// A Redis Cluster.
        Cluster = "cluster",
    }

    /// Form of the log lines.
    pub enum LogFormat {
        /// Text for people.
        Text = "text",
        /// One JSON object per line.
        Json = "json",
    }
}

impl Host {
    /// The domain of the group chat service.
    pub fn muc_domain(&self) -> String {
        if self.muc.is_empty() {
            format!("conference.{}", self.domain)
        } else {
            self.muc.clone()
        }
    }
}

fn default_mechanisms() -> Vec<String> {
    [
        "SCRAM-SHA-256-PLUS",
        "SCRAM-SHA-1-PLUS",
        "SCRAM-SHA-256",
        "SCRAM-SHA-1",
        "PLAIN",
    ]
    .map(str::to_owned)
    .to_vec()
}

fn any(port: u16) -> SocketAddr {
    SocketAddr::from(([0u16; 8], port))
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}
