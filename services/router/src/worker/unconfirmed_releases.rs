//! Slots that were given away, until their new owners have told this process of their epochs. A
//! process that leaves before that is waited for until its lease has ended, and the slots are
//! silent meanwhile.

use std::collections::HashMap;

use parking_lot::Mutex;
use tokio::sync::Notify;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct UnconfirmedReleases {
    /// The last epoch under which the slot was owned here.
    slots: Mutex<HashMap<u16, u64>>,
    none: Notify,
}

impl UnconfirmedReleases {
    /// The slot, owned here under `epoch`, is about to be given away.
    pub(crate) fn gives(&self, slot: u16, epoch: u64) {
        self.slots.lock().insert(slot, epoch);
    }

    /// It stays here.
    pub(crate) fn keeps(&self, slot: u16) {
        self.remove(slot, u64::MAX);
    }

    /// An owner of that epoch has told this process.
    pub(crate) fn installed(&self, slot: u16, epoch: u64) {
        self.remove(slot, epoch);
    }

    fn remove(&self, slot: u16, epoch: u64) {
        let mut slots = self.slots.lock();
        if slots.get(&slot).is_some_and(|given| *given < epoch) {
            slots.remove(&slot);
            if slots.is_empty() {
                self.none.notify_waiters();
            }
        }
    }

    /// Waits until no release is unconfirmed any more.
    pub(crate) async fn all_installed(&self) {
        loop {
            let none = self.none.notified();
            if self.slots.lock().is_empty() {
                return;
            }
            none.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn waits_for_the_owners_of_what_was_given_away() {
        let given = UnconfirmedReleases::default();
        given.all_installed().await;
        given.gives(1, 5);
        given.gives(2, 5);
        given.gives(3, 5);
        // The claim of an older owner, told late.
        given.installed(1, 5);
        given.installed(2, 6);
        given.keeps(3);
        let wait = tokio::time::timeout(Duration::from_secs(1), given.all_installed());
        assert!(wait.await.is_err());
        let (done, ()) = tokio::join!(
            tokio::time::timeout(Duration::from_secs(1), given.all_installed()),
            async { given.installed(1, 7) }
        );
        assert_eq!(done, Ok(()));
    }
}
