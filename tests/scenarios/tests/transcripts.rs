//! Every transcript, in every topology.

use std::time::Instant;

use anyhow::{Result, bail};
use sestina_scenarios::transcript::{Transcript, run};
use sestina_scenarios::{Sandbox, Topology, report};

macro_rules! transcripts {
    ($($name:literal)*) => {
        const ALL: &[Transcript] = &[$(Transcript {
            name: $name,
            text: include_str!(concat!("../transcripts/", $name, ".scs")),
        },)*];
    };
}

transcripts! {
    "anonymous"
    "carbons"
    "chat-bare-jid"
    "chat-full-jid"
    "conflict"
    "disco"
    "errors"
    "iq"
    "login"
    "mam"
    "names"
    "never-taken"
    "offline"
    "ping"
    "presence"
    "priorities"
    "resume"
    "resume-refused"
    "room"
    "room-errors"
    "room-forged"
    "room-history"
    "room-owner"
    "room-self-ping"
    "room-sessions"
    "roster"
    "stream-errors"
}

/// `SESTINA_TRANSCRIPT=name` runs only those whose name begins so.
fn chosen() -> Vec<&'static Transcript> {
    let only = std::env::var("SESTINA_TRANSCRIPT").unwrap_or_default();
    ALL.iter().filter(|t| t.name.starts_with(&only)).collect()
}

#[allow(clippy::print_stdout)]
async fn run_all(topology: Topology) -> Result<()> {
    let sandbox = Sandbox::start(topology).await?;
    let mut failures = Vec::new();
    let chosen = chosen();
    for transcript in &chosen {
        let began = Instant::now();
        let done = run(&sandbox, transcript).await;
        println!("{topology} {} {:?}", transcript.name, began.elapsed());
        if let Err(error) = done {
            failures.push(format!("{error:#}"));
        }
    }
    sandbox.stop().await?;
    report(topology, chosen.len() - failures.len());
    if !failures.is_empty() {
        let (failed, texts) = (failures.len(), failures.join("\n\n==========\n"));
        bail!(
            "{failed} of {} failed in {topology}:\n{texts}",
            chosen.len()
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn embedded() -> Result<()> {
    run_all(Topology::Embedded).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn codec() -> Result<()> {
    run_all(Topology::Codec).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_tiers() -> Result<()> {
    run_all(Topology::ThreeTiers).await
}

/// A transcript that no test knows is a transcript that nobody runs.
#[test]
fn all_transcripts_are_listed() -> Result<()> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/transcripts");
    let mut files: Vec<String> = std::fs::read_dir(folder)?
        .map(|file| Ok(file?.file_name().to_string_lossy().into_owned()))
        .collect::<Result<_>>()?;
    files.sort();
    let mut listed: Vec<String> = ALL.iter().map(|t| format!("{}.scs", t.name)).collect();
    listed.sort();
    assert_eq!(files, listed);
    Ok(())
}
