//! The whole server in a test process, clients for it, and scenarios that read like a conversation.
//!
//! - [`sandbox`]: starts all tiers, in any of three topologies, and breaks them
//! - [`client`]: an XMPP client that sends exactly what a test tells it to
//! - [`transcript`]: the text form of scenarios (`transcripts/*.scs`), and its interpreter
//! - [`traffic`]: clients that talk while a test does other work, and the checks afterwards

pub mod client;
pub mod sandbox;
pub mod traffic;
pub mod transcript;
mod wait;

pub use client::Client;
pub use sandbox::{Sandbox, Topology};
pub use wait::{until, until_some};

/// Writes logs of the server to the test's output, with the filter of `RUST_LOG` (none if it is not
/// set).
pub fn logs() {
    let Ok(filter) = std::env::var("RUST_LOG") else {
        return;
    };
    // Another test of this process may have set it up already.
    drop(
        tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_test_writer()
            .try_init(),
    );
}

/// Reports how many scenarios a test ran in which topology, in the form that `cargo xtask test`
/// adds up.
#[allow(clippy::print_stdout)]
pub fn report(topology: Topology, scenarios: usize) {
    println!("topology={topology} scenarios={scenarios}");
    let Ok(folder) = std::env::var("SESTINA_SCENARIO_COUNTS") else {
        return;
    };
    let path = std::path::Path::new(&folder).join(format!("{topology}.count"));
    let written = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(&path)
        .and_then(|mut file| {
            std::io::Write::write_all(&mut file, format!("{scenarios}\n").as_bytes())
        });
    assert!(
        written.is_ok(),
        "cannot write {}: {written:?}",
        path.display()
    );
}
