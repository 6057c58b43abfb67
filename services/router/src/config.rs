//! The configuration of a router; the binary maps the configuration file onto it.

use std::collections::BTreeMap;

pub use sestina_config::modules::ModulesAt;
use sestina_xmpp::jid::Jid;

use crate::services::Services;

/// How often storage is asked for the keys of a user with a session, in milliseconds.
pub(crate) const KEYS_EVERY_MS: u64 = 1_800_000;

/// Settings of a router process. Sizes are bytes, times are milliseconds unless named otherwise.
#[derive(Clone, Debug)]
pub struct RouterConfig {
    /// The domains of the cluster, and from their addresses to slots.
    pub services: Services,
    /// How many workers share the slots; at least 1.
    pub workers: u16,
    /// There is a state store that outlives this process (false: everything live ends with it).
    pub state_store: bool,
    /// `<a/>` waits until a stanza is settled, because no other process holds a copy.
    pub ack_settled: bool,
    /// XEP-0198: longest time a session waits for a resume, in seconds; 0 switches it off.
    pub sm_resume_max_s: u32,
    /// Key that authenticates XEP-0198 ids.
    pub sm_key: Vec<u8>,
    /// Key that makes up credentials of unknown users.
    pub secret: Vec<u8>,
    /// PBKDF2 rounds of made-up credentials; those of new accounts.
    pub scram_iterations: u32,
    /// Offline messages kept for each user.
    pub offline_limit: u32,
    /// The modules of each domain. Empty: all domains have all modules, with the defaults of their settings.
    pub modules: BTreeMap<String, ModulesAt>,
    /// A room sends its watermark to the slots of its sessions at once when more events than these have been acknowledged
    /// by all receivers since it was last sent; otherwise the next tick sends it.
    pub room_watermark_batch: u64,
    /// Hash of hosts, services of rooms and modules.
    pub config_hash: u64,
    /// Its bounds.
    pub limits: RouterLimits,
    /// Its intervals.
    pub times: RouterTimes,
}

/// Bounds of a router process: bytes, unless a number of things is named.
#[derive(Clone, Debug)]
pub struct RouterLimits {
    /// Messages of a room that newcomers see.
    pub room_history: usize,
    /// Occupants of one room.
    pub max_room_occupants: usize,
    /// Rooms in one slot.
    pub max_rooms_per_slot: usize,
    /// Sessions of one user.
    pub max_sessions_per_user: usize,
    /// Rooms that a session may be in.
    pub max_rooms_per_session: usize,
    /// Addresses that a session may send directed presence to.
    pub max_directed_presences: usize,
    /// Unacknowledged stanzas of a session; past it the session ends.
    pub session_queue_bytes: usize,
    /// Unacknowledged stanzas of all sessions of a user; past it the one with most ends.
    pub user_queue_bytes: usize,
    /// Unacknowledged stanzas of all sessions of a slot; past it the one with most ends, of the user
    /// with most.
    pub slot_queue_bytes: usize,
    /// Of a session's, given to the edge and not written to the socket.
    pub session_credit_bytes: usize,
    /// Rows waiting for storage; past it senders are told to wait.
    pub max_storage_backlog_bytes: usize,
    /// Frames waiting for a worker.
    pub worker_queue_bytes: usize,
    /// Bytes that a worker has on their way to an edge on one lane, not taken by the edge; more waits in the
    /// sessions' queues.
    pub lane_bytes: usize,
    /// Bytes of one commit to the state store; what is larger goes in parts.
    pub replica_commit_bytes: usize,
}

impl Default for RouterLimits {
    fn default() -> RouterLimits {
        RouterLimits {
            room_history: 20,
            max_room_occupants: 10_000,
            max_rooms_per_slot: 10_000,
            max_sessions_per_user: 5_000,
            max_rooms_per_session: 1_000,
            max_directed_presences: 1_000,
            session_queue_bytes: 4 << 20,
            user_queue_bytes: 16 << 20,
            slot_queue_bytes: 64 << 20,
            session_credit_bytes: 512 << 10,
            max_storage_backlog_bytes: 64 << 20,
            worker_queue_bytes: 256 << 20,
            lane_bytes: 8 << 20,
            replica_commit_bytes: 256 << 10,
        }
    }
}

/// Intervals of a router process, in milliseconds.
#[derive(Clone, Debug)]
pub struct RouterTimes {
    /// How often timers are looked at.
    pub tick_ms: u64,
    /// How often it is asked about marks that may have been lost.
    pub sweep_ms: u64,
    /// Wait after a failed commit to the state store.
    pub state_store_retry_ms: u64,
    /// How often the state store is asked whether it still has everything.
    pub state_store_check_ms: u64,
    /// A hand-over that did not settle by then resumes.
    pub handover_limit_ms: u64,
    /// Streams of slot messages are forgotten after this idle time (they begin anew then).
    pub stream_idle_ms: u64,
}

impl Default for RouterTimes {
    fn default() -> RouterTimes {
        RouterTimes {
            tick_ms: 100,
            sweep_ms: 5_000,
            state_store_retry_ms: 250,
            state_store_check_ms: 10_000,
            handover_limit_ms: 5_000,
            stream_idle_ms: 60_000,
        }
    }
}

impl Default for RouterConfig {
    fn default() -> RouterConfig {
        RouterConfig {
            services: Services::default(),
            workers: 1,
            state_store: true,
            ack_settled: false,
            sm_resume_max_s: 300,
            sm_key: Vec::new(),
            secret: Vec::new(),
            scram_iterations: 10_000,
            offline_limit: 100,
            modules: BTreeMap::new(),
            room_watermark_batch: 32,
            config_hash: 0,
            limits: RouterLimits::default(),
            times: RouterTimes::default(),
        }
    }
}

impl RouterConfig {
    /// The slot of a user or room.
    pub fn slot_of(&self, jid: &Jid) -> u16 {
        self.services.hasher().slot_of_jid(jid)
    }

    /// What the edge may acknowledge to the client.
    pub(crate) fn reported(&self, accepted: u64, settled: u64) -> u64 {
        if self.ack_settled { settled } else { accepted }
    }
}
