//! Buffers borrowed from the thread, so that an idle connection holds none.

use std::cell::RefCell;

/// Bytes read from a socket by one system call: a full TLS record and its framing fit.
pub(super) const READ_BYTES: usize = 18 << 10;

/// Buffers kept for re-use by each thread.
const KEPT: usize = 32;

/// A buffer that grew beyond this is given back to the allocator instead.
const KEPT_CAPACITY: usize = 32 << 10;

thread_local! {
    static FREE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// An empty buffer, with capacity when the thread has a used one at hand.
pub(super) fn take() -> Vec<u8> {
    FREE.with_borrow_mut(Vec::pop).unwrap_or_default()
}

/// Hands a buffer back and leaves an unallocated one in its place.
pub(super) fn give(buffer: &mut Vec<u8>) {
    let mut used = std::mem::take(buffer);
    if used.capacity() == 0 || used.capacity() > KEPT_CAPACITY {
        return;
    }
    used.clear();
    FREE.with_borrow_mut(|free| {
        if free.len() < KEPT {
            free.push(used);
        }
    });
}

/// Runs `f` with the thread's read buffer of [`READ_BYTES`].
pub(super) fn with_scratch<R>(f: impl FnOnce(&mut [u8]) -> R) -> R {
    SCRATCH.with_borrow_mut(|scratch| {
        scratch.resize(READ_BYTES, 0);
        f(scratch)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_returned_buffer_is_used_again_and_empty() {
        let mut buffer = Vec::with_capacity(5000);
        buffer.extend_from_slice(b"secret of another connection");
        let address = buffer.as_ptr();
        give(&mut buffer);
        assert_eq!(buffer.capacity(), 0);
        let again = take();
        assert_eq!(again.as_ptr(), address);
        assert!(again.is_empty());
    }

    #[test]
    fn a_large_buffer_is_not_kept() {
        while take().capacity() > 0 {}
        give(&mut Vec::with_capacity(KEPT_CAPACITY + 1));
        assert_eq!(take().capacity(), 0);
    }
}
