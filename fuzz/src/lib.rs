//! Fuzzing on the stable toolchain: targets, and a driver that mutates a committed corpus.
//!
//! A target is a function of bytes that panics when the code under test does, or when what it
//! says is not what another implementation or its own inverse says.

pub mod corpus;
pub mod mutate;
pub mod oracle;
pub mod targets;

/// A target: its name, its function, and tokens that its inputs are made of.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Name on the command line, and of the corpus folder.
    pub name: &'static str,
    /// Panics if something is wrong.
    pub run: fn(&[u8]),
    /// What mutations splice in.
    pub dictionary: &'static [&'static str],
}

/// All targets.
pub const TARGETS: &[Target] = &[
    Target {
        name: "stream",
        run: targets::stream::run,
        dictionary: mutate::XML,
    },
    Target {
        name: "websocket",
        run: targets::websocket::run,
        dictionary: mutate::XML,
    },
    Target {
        name: "element",
        run: targets::element::run,
        dictionary: mutate::XML,
    },
    Target {
        name: "jid",
        run: targets::jid::run,
        dictionary: mutate::JID,
    },
    Target {
        name: "sasl",
        run: targets::sasl::run,
        dictionary: mutate::SASL,
    },
    Target {
        name: "sm_id",
        run: targets::sm_id::run,
        dictionary: mutate::TOKEN,
    },
];
