//! The counts of XEP-0198 on the client's side.

use std::collections::VecDeque;

/// Counters of one session; they wrap at 2³².
#[derive(Debug, Default)]
pub struct Counters {
    /// Stanzas received.
    pub received: u32,
    /// Stanzas sent.
    pub sent: u32,
    /// Stanzas sent that the server acknowledged.
    pub acked: u32,
    queue: Option<VecDeque<Unacked>>,
}

/// A stanza kept until it is acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unacked {
    /// As it was sent.
    pub stanza: Vec<u8>,
    /// The caller's number for it.
    pub tag: Option<u32>,
}

impl Counters {
    /// Counters that keep unacknowledged stanzas, for a resumption.
    #[must_use]
    pub fn keeping() -> Self {
        Self {
            queue: Some(VecDeque::new()),
            ..Self::default()
        }
    }

    /// Notes a stanza sent.
    pub fn sent(&mut self, stanza: &[u8], tag: Option<u32>) {
        self.sent = self.sent.wrapping_add(1);
        if let Some(queue) = &mut self.queue {
            queue.push_back(Unacked {
                stanza: stanza.to_vec(),
                tag,
            });
        }
    }

    /// Notes an acknowledgement of the first `h` stanzas and returns the tags of those newly
    /// acknowledged; `None` when the server acknowledges more than was sent.
    pub fn ack(&mut self, h: u32) -> Option<Vec<u32>> {
        let newly = h.wrapping_sub(self.acked);
        let open = self.sent.wrapping_sub(self.acked);
        if newly > open {
            // An older count is harmless, a higher one than possible is not.
            return (self.acked.wrapping_sub(h) < u32::MAX / 2).then(Vec::new);
        }
        self.acked = h;
        let Some(queue) = &mut self.queue else {
            return Some(Vec::new());
        };
        let n = (newly as usize).min(queue.len());
        Some(queue.drain(..n).filter_map(|unacked| unacked.tag).collect())
    }

    /// Stanzas sent and not yet acknowledged.
    #[must_use]
    pub fn open(&self) -> u32 {
        self.sent.wrapping_sub(self.acked)
    }

    /// The stanzas to send again after a resumption, oldest first.
    pub fn unacked(&self) -> impl Iterator<Item = &Unacked> {
        self.queue.iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn acknowledgements_release_in_order_across_the_wrap() {
        let mut counters = Counters::keeping();
        counters.sent = u32::MAX - 1;
        counters.acked = u32::MAX - 1;
        for tag in 0..4 {
            counters.sent(b"<m/>", Some(tag));
        }
        assert_eq!(counters.open(), 4);
        assert_eq!(counters.ack(u32::MAX).unwrap(), [0]);
        assert_eq!(counters.ack(1).unwrap(), [1, 2]);
        assert_eq!(
            counters.ack(0).unwrap(),
            Vec::<u32>::new(),
            "an older count changes nothing"
        );
        assert_eq!(
            counters.unacked().map(|u| u.tag).collect::<Vec<_>>(),
            [Some(3)]
        );
        assert_eq!(counters.ack(3), None, "more than was sent");
        assert_eq!(counters.open(), 1);
    }
}
