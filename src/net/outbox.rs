//! A queue of bytes to send.

use crate::limits::BUFFER_KEPT_MAX;

/// The unsent bytes of one connection, first in, first out.
#[derive(Debug)]
pub(super) struct Outbox {
    bytes: Vec<u8>,
    sent: usize,
    /// The largest memory that is kept while there are no bytes.
    kept_max: usize,
}

impl Outbox {
    /// An empty outbox. It keeps a buffer of at most `kept_max` bytes while it is empty.
    pub(super) fn new(kept_max: usize) -> Self {
        Self { bytes: Vec::new(), sent: 0, kept_max }
    }

    /// The number of bytes in its buffer, those included that are sent.
    pub(super) fn buffered(&self) -> usize {
        self.bytes.len()
    }

    /// The number of unsent bytes.
    pub(super) fn len(&self) -> usize {
        self.bytes.len() - self.sent
    }

    /// The size of its buffer.
    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    /// Whether all bytes are sent.
    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Appends a message: its head and its value.
    pub(super) fn push(&mut self, head: &[u8], value: &[u8]) {
        self.bytes.extend_from_slice(head);
        self.bytes.extend_from_slice(value);
    }

    /// All unsent bytes.
    pub(super) fn unsent(&self) -> &[u8] {
        &self.bytes[self.sent..]
    }

    /// Removes the first `len` bytes after they were sent.
    ///
    /// # Panics
    ///
    /// If there are fewer unsent bytes.
    pub(super) fn advance(&mut self, len: usize) {
        assert!(len <= self.len(), "{len} bytes sent of {}", self.len());
        self.sent += len;
        if self.is_empty() {
            self.clear();
        } else if self.sent > BUFFER_KEPT_MAX.max(self.len()) {
            // The bytes that are moved are fewer than the bytes that were sent since the last move.
            self.bytes.drain(..self.sent);
            self.sent = 0;
            self.bytes.shrink_to(self.kept_max);
        }
    }

    /// Removes all bytes.
    pub(super) fn clear(&mut self) {
        self.sent = 0;
        empty(&mut self.bytes, self.kept_max);
    }
}

/// Empties `buffer`. Its memory is freed if the capacity exceeds `kept_max`.
pub(super) fn empty(buffer: &mut Vec<u8>, kept_max: usize) {
    buffer.clear();
    if buffer.capacity() > kept_max {
        *buffer = Vec::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn bytes_are_sent_in_the_order_in_which_they_were_pushed(
            steps in prop::collection::vec((0_usize..100_000, 0_usize..200_000), 1..20),
        ) {
            let mut outbox = Outbox::new(BUFFER_KEPT_MAX);
            let (mut pushed, mut left) = (0_usize, 0_usize);
            for (push, take) in steps {
                let bytes: Vec<u8> = (pushed..pushed + push).map(|at| at.to_le_bytes()[0]).collect();
                outbox.push(&bytes[..push / 3], &bytes[push / 3..]);
                pushed += push;
                let take = take.min(outbox.len());
                let expected: Vec<u8> = (left..left + take).map(|at| at.to_le_bytes()[0]).collect();
                prop_assert_eq!(&outbox.unsent()[..take], &expected[..]);
                outbox.advance(take);
                left += take;
                prop_assert_eq!(outbox.len(), pushed - left);
            }
        }
    }

    #[test]
    fn a_buffer_whose_bytes_are_mostly_sent_is_freed() {
        let mut outbox = Outbox::new(100);
        outbox.push(&vec![1; 16 * BUFFER_KEPT_MAX], &[]);
        outbox.advance(15 * BUFFER_KEPT_MAX);
        assert!(outbox.bytes.capacity() <= 2 * BUFFER_KEPT_MAX, "{}", outbox.bytes.capacity());
        assert_eq!(outbox.unsent(), vec![1; BUFFER_KEPT_MAX]);
    }

    #[test]
    fn an_empty_outbox_frees_a_large_buffer() {
        let mut outbox = Outbox::new(BUFFER_KEPT_MAX);
        outbox.push(&[1; 1000], &vec![2; 4 * BUFFER_KEPT_MAX]);
        outbox.advance(outbox.len());
        assert!(outbox.is_empty());
        assert!(outbox.bytes.capacity() <= BUFFER_KEPT_MAX);
    }
}
