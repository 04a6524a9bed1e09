//! Keys, node ids and the distance between them.
//!
//! Records and nodes live in one space of 256 bits (Kademlia, section 2; seed of the course:
//! SHA-256 everywhere). The only metric is XOR, and the only way to a [`Distance`] is
//! [`Key::distance`]: two distances are compared with `<`, never by hand.
//!
//! [`KeyMap`] is the one hash map of the core. Its hasher is keyed with the node's own seed,
//! because keys come from strangers; it is never iterated to decide anything, because a seed
//! must replay a run exactly.

use std::fmt;
use std::hash::{BuildHasher, Hash, Hasher};
use std::ops::RangeInclusive;

use ahash::{AHasher, RandomState};

/// Bytes of a key and of a node id.
pub const KEY_SIZE: usize = 32;

/// Bits of a key: the number of buckets that a table could have.
pub const KEY_BITS: usize = KEY_SIZE * 8;

/// A point of the key space: where a record belongs, or what a lookup searches.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key([u8; KEY_SIZE]);

impl Key {
    /// The key whose bytes, most significant first, are `bytes`.
    pub const fn new(bytes: [u8; KEY_SIZE]) -> Self {
        Self(bytes)
    }

    /// The bytes, most significant first, as every message carries them.
    pub const fn as_bytes(&self) -> &[u8; KEY_SIZE] {
        &self.0
    }

    /// The XOR distance to `other` (Kademlia, section 2.1).
    pub fn distance(&self, other: &Key) -> Distance {
        let (a_high, a_low) = self.halves();
        let (b_high, b_low) = other.halves();
        Distance { high: a_high ^ b_high, low: a_low ^ b_low }
    }

    /// The key that shares exactly the first `shared` bits with this one and takes the rest
    /// from `tail`: a random point of bucket `shared`, when `tail` is random.
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

    /// The first and the last of the keys that share at least the first `shared` bits with this
    /// one: a part of the space in which all distances to this key are less than outside.
    ///
    /// # Panics
    ///
    /// If `shared` is more than [`KEY_BITS`].
    pub fn around(&self, shared: usize) -> RangeInclusive<Key> {
        assert!(shared <= KEY_BITS, "a key has 256 bits");
        let (mut first, mut last) = (self.0, self.0);
        for (at, (first, last)) in first.iter_mut().zip(&mut last).enumerate() {
            let kept = shared.saturating_sub(at * 8).min(8);
            let free = u8::try_from(0xff_u16 >> kept).expect("eight bits at most are left");
            *first &= !free;
            *last |= free;
        }
        Key(first)..=Key(last)
    }

    /// The key that follows this one in their order; `None` for the last.
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

    /// Reads 64 hex digits, of either case; `None` for anything else.
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
    /// Its bytes alone: the length that a derived hash puts before them says nothing, for all keys
    /// have one, and would double the work of every look-up.
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write(&self.0);
    }
}

/// 64 hex digits; with a precision, the first so many: `{key:.8}`.
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

/// Who a node is: SHA-256 of its public key, proven by TLS on every connection.
///
/// No message claims an id (`PROTOCOL.md` 2); whoever holds one got it from a handshake, or
/// from a contact that somebody else named and that is not yet proven.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(Key);

impl NodeId {
    /// The id at `key`.
    pub const fn new(key: Key) -> Self {
        Self(key)
    }

    /// The point of the key space where the node sits.
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

/// What names a request between peers and comes back in its reply: 256 random bits, which a
/// stranger cannot guess.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct RpcId([u8; KEY_SIZE]);

impl RpcId {
    /// The id with these bytes: drawn, or read from a message.
    pub const fn new(bytes: [u8; KEY_SIZE]) -> Self {
        Self(bytes)
    }

    /// The bytes, as every message carries them.
    pub const fn as_bytes(&self) -> &[u8; KEY_SIZE] {
        &self.0
    }
}

impl Hash for RpcId {
    /// As that of a [`Key`].
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write(&self.0);
    }
}

impl fmt::Debug for RpcId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RpcId({:.8})", Key(self.0))
    }
}

/// How far two keys are apart; `<` is nearer. Only [`Key::distance`] makes one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Distance {
    high: u128,
    low: u128,
}

impl Distance {
    /// The number of leading bits that the two keys share: the index of the bucket that one
    /// keeps the other in. `None` if they are equal, which no bucket holds.
    pub fn shared_bits(&self) -> Option<usize> {
        let zeros = match (self.high, self.low) {
            (0, 0) => return None,
            (0, low) => 128 + low.leading_zeros(),
            (high, _) => high.leading_zeros(),
        };
        Some(zeros as usize)
    }

    /// Whether bit `at`, counted from the most significant, differs between the two keys.
    pub fn bit(&self, at: usize) -> bool {
        assert!(at < KEY_BITS, "a distance has 256 bits");
        let half = if at < 128 { self.high } else { self.low };
        half >> (127 - at % 128) & 1 == 1
    }
}

/// A hash map from keys, ids or RPC ids, safe against keys that strangers choose.
#[expect(clippy::disallowed_types, reason = "the one place where the core names a hash map")]
pub type KeyMap<K, V> = std::collections::HashMap<K, V, KeySeed>;

/// What keys the hasher of a [`KeyMap`]: drawn from the node's own generator.
#[derive(Clone, Debug)]
pub struct KeySeed(RandomState);

impl KeySeed {
    /// A seed of 256 bits.
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
        /// Kademlia, section 2.1: XOR is symmetric, and unidirectional: for a point and a
        /// distance there is exactly one other point.
        #[test]
        fn s2_1_distance_is_a_symmetric_metric(a in key(), b in key(), c in key()) {
            prop_assert_eq!(a.distance(&b), b.distance(&a));
            prop_assert_eq!(a.distance(&a).shared_bits(), None);
            prop_assert_eq!(a.distance(&b) == a.distance(&c), b == c);
        }

        #[test]
        fn a_key_diverges_exactly_where_it_is_told(a in key(), tail in key(), at in 0..KEY_BITS) {
            let b = a.diverging_at(at, &tail);
            prop_assert_eq!(a.distance(&b).shared_bits(), Some(at));
            prop_assert!(a.distance(&b).bit(at));
        }

        #[test]
        fn around_a_key_are_those_that_share_so_many_bits_with_it(a in key(), tail in key(), at in 0..KEY_BITS) {
            let b = a.diverging_at(at, &tail);
            prop_assert!(a.around(at).contains(&b));
            prop_assert!(!a.around(at + 1).contains(&b));
            prop_assert!(a.around(at + 1).contains(&a));
        }

        #[test]
        fn nothing_lies_between_a_key_and_its_successor(a in key()) {
            if let Some(next) = a.successor() {
                prop_assert!(next > a);
                prop_assert_eq!(a.distance(&next).shared_bits(), Some(KEY_BITS - 1 - trailing_ones(&a)));
            }
        }

        #[test]
        fn hex_reads_back_what_it_prints(a in key()) {
            prop_assert_eq!(Key::from_hex(&a.to_string()), Some(a));
            prop_assert_eq!(Key::from_hex(&a.to_string().to_uppercase()), Some(a));
        }
    }

    /// How many bits at the end of `key` a carry runs through.
    fn trailing_ones(key: &Key) -> usize {
        (0..KEY_BITS).rev().take_while(|at| key.distance(&Key::new([0; KEY_SIZE])).bit(*at)).count()
    }

    #[test]
    fn the_last_key_has_no_successor() {
        assert_eq!(Key::new([0xff; KEY_SIZE]).successor(), None);
        let mut carried = [0; KEY_SIZE];
        carried[KEY_SIZE - 2] = 1;
        let mut full = [0; KEY_SIZE];
        full[KEY_SIZE - 1] = 0xff;
        assert_eq!(Key::new(full).successor(), Some(Key::new(carried)));
    }

    #[test]
    fn hex_refuses_what_is_not_64_digits() {
        let good = "0".repeat(64);
        assert!(Key::from_hex(&good).is_some());
        for bad in [&good[1..], &format!("{good}0"), &format!("{}g", &good[1..]), &format!("{}+1", &good[2..])] {
            assert_eq!(Key::from_hex(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_precision_shortens_the_text() {
        let key = Key::new([0xab; KEY_SIZE]);
        assert_eq!(format!("{key:.8}"), "abababab");
        assert_eq!(format!("{key:.3}"), "aba");
        assert_eq!(format!("{key}").len(), 64);
    }
}
