//! Every test run passes the committed corpus to each target.
#![allow(clippy::unwrap_used)]

use sestina_fuzz::{TARGETS, corpus};

#[test]
fn each_target_passes_its_corpus() {
    for target in TARGETS {
        let corpus = corpus::load(target.name).unwrap();
        assert!(!corpus.is_empty(), "{} has a corpus", target.name);
        corpus.iter().for_each(|input| (target.run)(input));
    }
}
