//! Keys, node ids, ids of requests, and the distance between keys.
//!
//! Records and nodes share one space of 256 bits (Kademlia, section 2). Keys and node ids are SHA-256
//! digests. The only metric is XOR, and only [`Key::distance`] makes a [`Distance`]: code compares two
//! distances with `<`, and never the bytes of keys.
//!
//! [`KeyMap`] is the only hash map of the core. Peers choose keys, so its hasher is keyed with the node's
//! own seed. No decision depends on the order of its entries: a seed must replay a run exactly.

use std::fmt;
use std::hash::{BuildHasher, Hash, Hasher};
use std::ops::RangeInclusive;

use ahash::{AHasher, RandomState};

/// Size of a key and of a node id, in bytes.
pub const KEY_SIZE: usize = 32;

/// Bits of a key; a routing table has at most this many buckets.
pub const KEY_BITS: usize = KEY_SIZE * 8;

/// A point of the key space: the key of a record, the position of a node, or the target of a lookup.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key([u8; KEY_SIZE]);

impl Key {
    /// The key with these bytes, the most significant first.
    pub const fn new(bytes: [u8; KEY_SIZE]) -> Self {
        Self(bytes)
    }

    /// The bytes, the most significant first, as every message carries them.
    pub const fn as_bytes(&self) -> &[u8; KEY_SIZE] {
        &self.0
    }

    /// The XOR distance to `other` (Kademlia, section 2.1).
    pub fn distance(&self, other: &Key) -> Distance {
        let (a_high, a_low) = self.halves();
        let (b_high, b_low) = other.halves();
        Distance { high: a_high ^ b_high, low: a_low ^ b_low }
    }

    /// The key that shares exactly the first `shared` bits with this one. Its further bits are those of
    /// `tail`, so with a random `tail` it is a random key of bucket `shared`.
    ///
    /// # Panics
    ///
    /// If `shared` is not below [`KEY_BITS`]: no other key shares all bits.
    #[must_use]
    pub fn diverging_at(&self, shared: usize, tail: &Key) -> Key {
        assert!(shared < KEY_BITS, "a key cannot diverge after its last bit");
        let mut bytes = tail.0;
        let whole = shared / 8;
        bytes[..whole].copy_from_slice(&self.0[..whole]);
        let bit = 0x80_u8 >> (shared % 8);
        let before = !(bit | (bit - 1)); // the bits of this byte that precede `bit`
        let after = bit - 1;
        bytes[whole] = (self.0[whole] & before) | (!self.0[whole] & bit) | (tail.0[whole] & after);
        Key(bytes)
    }

    /// The first and the last key that share at least the first `shared` bits with this one. Every key of
    /// this range is closer to this key than every key outside.
    ///
    /// # Panics
    ///
    /// If `shared` is more than [`KEY_BITS`].
    pub fn around(&self, shared: usize) -> RangeInclusive<Key> {
        assert!(shared <= KEY_BITS, "a key has 256 bits");
        let (mut first, mut last) = (self.0, self.0);
        for (at, (first, last)) in first.iter_mut().zip(&mut last).enumerate() {
            let fixed = shared.saturating_sub(at * 8).min(8);
            let free = u8::try_from(0xff_u16 >> fixed).expect("eight bits at most are left");
            *first &= !free;
            *last |= free;
        }
        Key(first)..=Key(last)
    }

    /// The next larger key; `None` for the largest one.
    pub fn successor(&self) -> Option<Key> {
        let mut bytes = self.0;
        for byte in bytes.iter_mut().rev() {
            *byte = byte.wrapping_add(1);
            if *byte != 0 {
                return Some(Key(bytes));
            }
        }
        None
    }

    /// Reads 64 hex digits in upper or lower case; `None` for any other text.
    pub fn from_hex(text: &str) -> Option<Key> {
        let digits = text.as_bytes();
        if digits.len() != 2 * KEY_SIZE {
            return None;
        }
        let mut bytes = [0; KEY_SIZE];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            let high = char::from(pair[0]).to_digit(16)?;
            let low = char::from(pair[1]).to_digit(16)?;
            *byte = u8::try_from(high * 16 + low).ok()?;
        }
        Some(Key(bytes))
    }

    fn halves(&self) -> (u128, u128) {
        let (high, low) = self.0.split_first_chunk::<16>().expect("32 bytes hold two halves of 16");
        let low = low.first_chunk::<16>().expect("16 of 32 bytes are left");
        (u128::from_be_bytes(*high), u128::from_be_bytes(*low))
    }
}

impl Hash for Key {
    /// Hashes the bytes alone. A derived `Hash` would also hash the length of the array, which is the same
    /// for all keys, and each look-up would cost twice as much.
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write(&self.0);
    }
}

/// Writes 64 hex digits, or with a precision only the first ones: `{key:.8}` writes 8.
impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = f.precision().unwrap_or(2 * KEY_SIZE);
        for at in 0..digits.min(2 * KEY_SIZE) {
            let byte = self.0[at / 2];
            let digit = if at % 2 == 0 { byte >> 4 } else { byte & 0x0f };
            write!(f, "{digit:x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({self:.8})")
    }
}

/// The identity of a node: SHA-256 of its public key, proven by TLS on every connection.
///
/// No message states the sender's id (`PROTOCOL.md` 2). An id comes from a TLS handshake, or from a contact
/// that another node named; the latter is not proven yet.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(Key);

impl NodeId {
    /// The id with this key.
    pub const fn new(key: Key) -> Self {
        Self(key)
    }

    /// The position of the node in the key space.
    pub const fn key(&self) -> &Key {
        &self.0
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeId({:.8})", self.0)
    }
}

/// The id of a request between peers, repeated in its reply: 256 random bits, which a third node cannot
/// guess.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct RpcId([u8; KEY_SIZE]);

impl RpcId {
    /// The id with these bytes: 32 random bytes, or the field of a message.
    pub const fn new(bytes: [u8; KEY_SIZE]) -> Self {
        Self(bytes)
    }

    /// The bytes, as every message carries them.
    pub const fn as_bytes(&self) -> &[u8; KEY_SIZE] {
        &self.0
    }
}

impl Hash for RpcId {
    /// Hashes the bytes alone, as [`Key`] does.
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write(&self.0);
    }
}

impl fmt::Debug for RpcId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RpcId({:.8})", Key(self.0))
    }
}

/// The XOR distance of two keys; the smaller one is closer. Only [`Key::distance`] makes one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Distance {
    high: u128,
    low: u128,
}

impl Distance {
    /// The number of leading bits that the two keys share: if one key is a node's own, the index of the
    /// bucket that the other one belongs to. `None` if the keys are equal; no bucket holds the own key.
    pub fn shared_bits(&self) -> Option<usize> {
        let zeros = match (self.high, self.low) {
            (0, 0) => return None,
            (0, low) => 128 + low.leading_zeros(),
            (high, _) => high.leading_zeros(),
        };
        Some(zeros as usize)
    }

    /// Whether the two keys differ in bit `at`, where bit 0 is the most significant one.
    ///
    /// # Panics
    ///
    /// If `at` is not below [`KEY_BITS`].
    pub fn bit(&self, at: usize) -> bool {
        assert!(at < KEY_BITS, "a distance has 256 bits");
        let half = if at < 128 { self.high } else { self.low };
        half >> (127 - at % 128) & 1 == 1
    }
}

/// A hash map whose keys are [`Key`]s, node ids or RPC ids. A peer that chooses keys cannot make them
/// collide, because it does not know the [`KeySeed`].
#[expect(clippy::disallowed_types, reason = "the only item of the core that names a hash map")]
pub type KeyMap<K, V> = std::collections::HashMap<K, V, KeySeed>;

/// Keys the hasher of a [`KeyMap`]; drawn from the node's own random number generator.
#[derive(Clone, Debug)]
pub struct KeySeed(RandomState);

impl KeySeed {
    /// Makes a seed of 256 bits.
    pub fn new([a, b, c, d]: [u64; 4]) -> Self {
        Self(RandomState::with_seeds(a, b, c, d))
    }
}

impl BuildHasher for KeySeed {
    type Hasher = AHasher;

    fn build_hasher(&self) -> AHasher {
        self.0.build_hasher()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key() -> impl Strategy<Value = Key> {
        any::<[u8; KEY_SIZE]>().prop_map(Key::new)
    }

    proptest! {
        /// Kademlia, section 2.1: XOR is symmetric, and it is unidirectional: for one point and one
        /// distance there is exactly one other point.
        #[test]
        fn s2_1_distance_is_a_symmetric_metric(a in key(), b in key(), c in key()) {
            prop_assert_eq!(a.distance(&b), b.distance(&a));
            prop_assert_eq!(a.distance(&a).shared_bits(), None);
            prop_assert_eq!(a.distance(&b) == a.distance(&c), b == c);
        }

        #[test]
        fn a_key_diverges_at_exactly_the_bit_that_was_given(a in key(), tail in key(), at in 0..KEY_BITS) {
            let b = a.diverging_at(at, &tail);
            prop_assert_eq!(a.distance(&b).shared_bits(), Some(at));
            prop_assert!(a.distance(&b).bit(at));
        }

        #[test]
        fn the_range_around_a_key_has_the_keys_that_share_its_prefix(a in key(), tail in key(), at in 0..KEY_BITS) {
            let b = a.diverging_at(at, &tail);
            prop_assert!(a.around(at).contains(&b));
            prop_assert!(!a.around(at + 1).contains(&b));
            prop_assert!(a.around(at + 1).contains(&a));
        }

        #[test]
        fn no_key_lies_between_a_key_and_its_successor(a in key()) {
            if let Some(next) = a.successor() {
                prop_assert!(next > a);
                prop_assert_eq!(a.distance(&next).shared_bits(), Some(KEY_BITS - 1 - trailing_ones(&a)));
            }
        }

        #[test]
        fn the_hex_form_of_a_key_reads_back_as_the_same_key(a in key()) {
            prop_assert_eq!(Key::from_hex(&a.to_string()), Some(a));
            prop_assert_eq!(Key::from_hex(&a.to_string().to_uppercase()), Some(a));
        }
    }

    /// How many bits at the end of `key` are 1: adding one changes them all.
    fn trailing_ones(key: &Key) -> usize {
        (0..KEY_BITS).rev().take_while(|at| key.distance(&Key::new([0; KEY_SIZE])).bit(*at)).count()
    }

    #[test]
    fn the_largest_key_has_no_successor() {
        assert_eq!(Key::new([0xff; KEY_SIZE]).successor(), None);
        let mut carried = [0; KEY_SIZE];
        carried[KEY_SIZE - 2] = 1;
        let mut full = [0; KEY_SIZE];
        full[KEY_SIZE - 1] = 0xff;
        assert_eq!(Key::new(full).successor(), Some(Key::new(carried)));
    }

    #[test]
    fn text_other_than_64_hex_digits_is_no_key() {
        let good = "0".repeat(64);
        assert!(Key::from_hex(&good).is_some());
        for bad in [&good[1..], &format!("{good}0"), &format!("{}g", &good[1..]), &format!("{}+1", &good[2..])] {
            assert_eq!(Key::from_hex(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_precision_shortens_the_hex_form_of_a_key() {
        let key = Key::new([0xab; KEY_SIZE]);
        assert_eq!(format!("{key:.8}"), "abababab");
        assert_eq!(format!("{key:.3}"), "aba");
        assert_eq!(format!("{key}").len(), 64);
    }
}
