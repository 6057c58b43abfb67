//! Log lines that are written once for each cause, however often the cause occurs.

use std::collections::BTreeSet;

use parking_lot::Mutex;

/// The most causes that are remembered. Further ones are not logged, so a peer that uses a new name
/// each time fills neither the memory nor the log.
const MOST: usize = 256;

/// The causes that were logged.
#[derive(Debug, Default)]
pub struct Logged(Mutex<BTreeSet<String>>);

impl Logged {
    /// A set without causes.
    pub const fn new() -> Logged {
        Logged(Mutex::new(BTreeSet::new()))
    }

    /// Whether this cause is to be logged now: true at its first call.
    pub fn is_first(&self, cause: String) -> bool {
        let mut logged = self.0.lock();
        logged.len() < MOST && logged.insert(cause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cause_is_logged_once_and_a_bounded_number_of_them() {
        let logged = Logged::new();
        assert!(logged.is_first("router-1".to_owned()));
        assert!(!logged.is_first("router-1".to_owned()));
        let new = |number: usize| logged.is_first(format!("edge-{number}"));
        let count = (0..2 * MOST).filter(|number| new(*number)).count();
        assert_eq!(count, MOST - 1);
    }
}
