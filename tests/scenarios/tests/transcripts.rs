//! Every transcript, in every topology.

use std::time::Instant;

use anyhow::{Result, bail, ensure};
use sestina_scenarios::transcript::{Transcript, run};
use sestina_scenarios::{Sandbox, Topology, report};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/transcripts");

/// All transcripts, by name. `SESTINA_TRANSCRIPT=name` runs only those whose name begins with it.
fn chosen() -> Result<Vec<Transcript>> {
    let only = std::env::var("SESTINA_TRANSCRIPT").unwrap_or_default();
    let mut chosen = Vec::new();
    for file in std::fs::read_dir(FOLDER)? {
        let path = file?.path();
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        if path.extension().is_some_and(|e| e == "scs") && name.starts_with(&only) {
            chosen.push(Transcript {
                name: name.into_owned(),
                text: std::fs::read_to_string(&path)?,
            });
        }
    }
    ensure!(
        !chosen.is_empty(),
        "no transcript in {FOLDER} begins with {only:?}"
    );
    chosen.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(chosen)
}

#[allow(clippy::print_stdout)]
async fn run_all(topology: Topology) -> Result<()> {
    let sandbox = Sandbox::start(topology).await?;
    let mut failures = Vec::new();
    let chosen = chosen()?;
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
