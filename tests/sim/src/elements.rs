//! The elements of a client's stream, already parsed: what an edge writes to a client, and what a
//! client writes to an edge.

use sestina_proto as proto;

/// What an edge writes to a client. Nearly all are stanzas: boxes would save nothing.
#[allow(clippy::large_enum_variant)]
#[derive(Clone, Debug)]
pub(super) enum FromServer {
    Bound,
    /// Stream management is on. Session 0: it cannot be resumed.
    Enabled {
        session: u128,
    },
    Resumed {
        h: u64,
    },
    /// The bind or the resumption failed with this condition.
    Refused(String),
    Stanza(proto::Stanza),
    Request,
    Ack(u64),
    /// A stream error with this condition.
    Error(String),
}

/// What a client writes to an edge. Nearly all are stanzas.
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
