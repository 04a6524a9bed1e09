//! Answers to one client that the host sends together.
//!
//! A small value is copied behind its head. A large value is shared with the storage, so only the host
//! copies it, when it sends it. The buffer is reused after [`Answers::clear`], unless it has grown beyond
//! [`BUFFER_KEPT_MAX`].

use std::sync::Arc;

use crate::limits::{BUFFER_KEPT_MAX, VALUES_SHARED_MAX};
use crate::wire::api::ApiReply;

/// A value up to this size, in bytes, is copied behind the head of its answer. For a larger one the copy
/// costs more than a further part of a write.
const VALUE_COPIED_MAX: usize = 8 << 10;

/// Complete messages to one client, in order.
#[derive(Debug, Default)]
pub struct Answers {
    bytes: Vec<u8>,
    /// Values that are not in `bytes`, each with the offset in `bytes` at which it belongs.
    values: Vec<(usize, Arc<[u8]>)>,
    len: usize,
}

impl Answers {
    /// Appends `reply`, whose value, if it has one, is `value`.
    pub(crate) fn push(&mut self, reply: &ApiReply<'_>, value: Option<&Arc<[u8]>>) {
        let before = self.bytes.len();
        reply.encode_head(&mut self.bytes);
        if let Some(value) = value {
            if value.len() <= VALUE_COPIED_MAX || self.values.len() == VALUES_SHARED_MAX {
                self.bytes.extend_from_slice(value);
            } else {
                self.values.push((self.bytes.len(), value.clone()));
                self.len += value.len();
            }
        }
        self.len += self.bytes.len() - before;
    }

    /// The number of bytes of all messages.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// All bytes in order, if they are contiguous, which is the common case.
    pub fn in_one(&self) -> Option<&[u8]> {
        self.values.is_empty().then_some(&self.bytes)
    }

    /// All bytes in order, in at most 2 × [`VALUES_SHARED_MAX`] + 1 parts.
    pub fn parts(&self) -> impl Iterator<Item = &[u8]> {
        let starts = [0].into_iter().chain(self.values.iter().map(|(at, _)| *at));
        let ends = self.values.iter().map(|(at, value)| (*at, &**value)).chain([(self.bytes.len(), &[][..])]);
        let parts = starts.zip(ends).flat_map(|(start, (end, value))| [&self.bytes[start..end], value]);
        parts.filter(|part| !part.is_empty())
    }

    /// Removes all messages.
    pub fn clear(&mut self) {
        self.values.clear();
        self.len = 0;
        self.bytes.clear();
        if self.bytes.capacity() > BUFFER_KEPT_MAX {
            self.bytes = Vec::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::id::Key;

    proptest! {
        #[test]
        fn parts_are_the_answers_in_order_for_any_sizes_of_values(
            sizes in proptest::collection::vec(prop_oneof![Just(0), 1..200_usize, 10_000..65_496_usize], 0..30),
        ) {
            let mut answers = Answers::default();
            for _ in 0..2 {
                let mut expected = Vec::new();
                for (at, size) in sizes.iter().enumerate() {
                    let key = Key::new([u8::try_from(at).expect("thirty at most"); 32]);
                    let value: Arc<[u8]> = vec![expected.len().to_le_bytes()[0]; *size].into();
                    let reply = if *size == 0 { ApiReply::Failure { key } } else { ApiReply::Success { key, value: &value } };
                    answers.push(&reply, (*size > 0).then_some(&value));
                    reply.encode(&mut expected);
                    prop_assert_eq!(answers.len(), expected.len());
                }
                let parts: Vec<&[u8]> = answers.parts().collect();
                prop_assert!(parts.len() <= 2 * VALUES_SHARED_MAX + 1);
                if let Some(bytes) = answers.in_one() {
                    prop_assert_eq!(bytes, &expected);
                }
                prop_assert_eq!(parts.concat(), expected);
                answers.clear();
                prop_assert!(answers.is_empty() && answers.parts().next().is_none());
            }
        }
    }
}
