//! All fuzz targets under libFuzzer. The environment variable `SESTINA_FUZZ_TARGET` names the target;
//! arguments are those of libFuzzer. `cargo xtask fuzz` builds it with coverage and runs it.
#![no_main]
#![allow(
    clippy::disallowed_methods,
    reason = "main is libFuzzer's: there is nothing to return to"
)]

use std::process::exit;
use std::sync::LazyLock;

use sestina_fuzz::TARGETS;

static RUN: LazyLock<fn(&[u8])> = LazyLock::new(|| {
    let name = std::env::var("SESTINA_FUZZ_TARGET").unwrap_or_default();
    match TARGETS.iter().find(|target| target.name == name) {
        Some(target) => target.run,
        None => {
            let names: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
            eprintln!(
                "SESTINA_FUZZ_TARGET must be one of {}; it is {name:?}",
                names.join(", ")
            );
            exit(2);
        }
    }
});

libfuzzer_sys::fuzz_target!(|data: &[u8]| RUN(data));
