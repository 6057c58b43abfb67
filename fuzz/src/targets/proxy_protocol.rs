//! Headers of the PROXY protocol: a reader that takes as many bytes as the parser allows takes no
//! byte of the client's, and a longer input gives the same result.

use sestina_edge::listen::proxy_protocol::{Step, parse};

/// See the module.
pub fn run(data: &[u8]) {
    let mut read = 0;
    // Each step allows at least one more byte, so the loop ends.
    let outcome = loop {
        match parse(&data[..read]) {
            Ok(Step::Read(more)) => {
                assert!(more > 0, "a header that goes on wants bytes");
                if read + more > data.len() {
                    return;
                }
                read += more;
            }
            done => break done,
        }
    };
    if let Ok(Step::Done(origin)) = outcome {
        assert_eq!(parse(&data[..read]), Ok(Step::Done(origin)));
        for shorter in 0..read {
            assert!(
                !matches!(parse(&data[..shorter]), Ok(Step::Done(_))),
                "the header ended before the last byte that was read"
            );
        }
    }
}
