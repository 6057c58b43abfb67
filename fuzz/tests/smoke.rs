//! The corpus and some mutants of it go through each target in every test run.
#![allow(clippy::unwrap_used)]

use sestina_fuzz::mutate::{Rng, mutate};
use sestina_fuzz::{TARGETS, corpus};

#[test]
fn corpus_and_first_mutants_pass() {
    for target in TARGETS {
        let corpus = corpus::load(target.name).unwrap();
        assert!(!corpus.is_empty(), "{} has a corpus", target.name);
        corpus.iter().for_each(|input| (target.run)(input));
        let mut rng = Rng::new(0);
        for _ in 0..500 {
            (target.run)(&mutate(&mut rng, &corpus, target.dictionary));
        }
    }
}
