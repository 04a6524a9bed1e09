//! The keys of a run and their values.
//!
//! A generated key depends on the seed and on its index, and a value depends on its key. So the
//! generator need not remember what it has stored, and two runs with the same seed use the same keys.

use std::fmt;

use dht::id::{KEY_SIZE, Key};

/// Largest number of keys. All are generated before the measurement, 32 bytes each.
pub(crate) const KEYS_MAX: usize = 10_000_000;

/// Number of versions of a value: enough that a PUT seldom repeats the stored value.
const VERSIONS: u64 = 256;

/// An odd number near 2⁶⁴ divided by the golden ratio: its multiples spread over all 64 bits.
const STRIDE: u64 = 0x9e37_79b9_7f4a_7c15;

/// A sequence of pseudo-random numbers (SplitMix64): about two nanoseconds per number.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Draw(u64);

impl Draw {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(STRIDE);
        mixed(self.0)
    }

    /// A number below `bound`, which must not be 0 (Lemire: the high half of a product).
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        let product = u128::from(self.next()) * bound as u128;
        usize::try_from(product >> 64).expect("it is less than bound")
    }
}

/// A hash of `word`: each bit of the result depends on each bit of `word`.
fn mixed(word: u64) -> u64 {
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

/// The bytes that a key may consist of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Alphabet {
    /// All bytes: the keys are spread over the whole key space.
    Bytes,
    /// The 16 hex digits, for text protocols.
    Digits,
}

/// The keys of a run, 1 to [`KEYS_MAX`] of them.
#[derive(Clone, Debug)]
pub(crate) struct Keys {
    list: Vec<Key>,
}

impl Keys {
    /// `count` keys that depend on `seed`.
    ///
    /// # Panics
    ///
    /// If `count` is not within 1..=[`KEYS_MAX`].
    pub(crate) fn made(count: usize, seed: u64, alphabet: Alphabet) -> Self {
        assert!((1..=KEYS_MAX).contains(&count), "{count} keys");
        let mut draw = Draw::new(mixed(seed));
        Self { list: (0..count).map(|_| made_key(&mut draw, alphabet)).collect() }
    }

    /// The keys in `text`, 64 hex digits per line; empty lines are ignored.
    ///
    /// # Errors
    ///
    /// [`KeysError`] for the first line that is not a key, and for no keys or too many.
    pub(crate) fn from_text(text: &str) -> Result<Self, KeysError> {
        let lines = text.lines().map(str::trim).zip(1_usize..).filter(|(line, _)| !line.is_empty());
        let read = |(found, line): (&str, usize)| {
            Key::from_hex(found).ok_or_else(|| KeysError::NoKey { line, found: found.to_owned() })
        };
        let list: Vec<Key> = lines.map(read).collect::<Result<_, _>>()?;
        match list.len() {
            1..=KEYS_MAX => Ok(Self { list }),
            found => Err(KeysError::Count { found }),
        }
    }

    /// The number of keys.
    pub(crate) fn count(&self) -> usize {
        self.list.len()
    }

    /// The key with the index `at`.
    pub(crate) fn at(&self, at: usize) -> &Key {
        &self.list[at]
    }
}

fn made_key(draw: &mut Draw, alphabet: Alphabet) -> Key {
    let mut bytes = [0; KEY_SIZE];
    match alphabet {
        Alphabet::Bytes => {
            for word in bytes.chunks_exact_mut(8) {
                word.copy_from_slice(&draw.next().to_be_bytes());
            }
        }
        Alphabet::Digits => {
            for word in bytes.chunks_exact_mut(16) {
                word.copy_from_slice(format!("{:016x}", draw.next()).as_bytes());
            }
        }
    }
    Key::new(bytes)
}

/// What is wrong with a file of keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum KeysError {
    /// A line is not a key.
    NoKey {
        /// Counted from 1.
        line: usize,
        /// The line.
        found: String,
    },
    /// There are no keys, or more than [`KEYS_MAX`].
    Count {
        /// Their number.
        found: usize,
    },
}

impl fmt::Display for KeysError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoKey { line, found } => write!(f, "line {line}: found `{found}`, expected 64 hex digits"),
            Self::Count { found } => write!(f, "{found} keys, expected 1 to {KEYS_MAX}"),
        }
    }
}

/// The values of a run, all of one size.
///
/// A value is a sequence of little-endian words, the last one truncated, in which each word is the
/// previous one plus [`STRIDE`]. The first word is a hash of the key, except that its lowest byte is
/// the version. So the key and the first byte of a value determine all of its bytes. A value of one
/// byte proves nothing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Values {
    size: usize,
}

impl Values {
    pub(crate) fn new(size: usize) -> Self {
        Self { size }
    }

    /// Replaces the contents of `out` with the value of `key` in this `version`.
    pub(crate) fn write(self, key: &Key, version: u64, out: &mut Vec<u8>) {
        let mut word = first_word(key) | (version % VERSIONS);
        out.resize(self.size, 0);
        let (words, rest) = out.as_chunks_mut::<8>();
        for bytes in words {
            *bytes = word.to_le_bytes();
            word = word.wrapping_add(STRIDE);
        }
        rest.copy_from_slice(&word.to_le_bytes()[..rest.len()]);
    }

    /// Whether [`Self::write`] writes `value` for `key` in any version.
    pub(crate) fn is_right(self, key: &Key, value: &[u8]) -> bool {
        let Some(&version) = value.first() else {
            return false;
        };
        let mut word = first_word(key) | u64::from(version);
        let (words, rest) = value.as_chunks::<8>();
        let mut difference = 0; // no early exit, so that the compiler vectorises the loop
        for bytes in words {
            difference |= u64::from_le_bytes(*bytes) ^ word;
            word = word.wrapping_add(STRIDE);
        }
        value.len() == self.size && difference == 0 && *rest == word.to_le_bytes()[..rest.len()]
    }
}

/// A hash of all bytes of `key`, with 0 in the lowest byte.
fn first_word(key: &Key) -> u64 {
    let (words, _) = key.as_bytes().as_chunks::<8>();
    let mix = words.iter().fold(0, |mix, word| mixed(mix ^ u64::from_be_bytes(*word)));
    mix / VERSIONS * VERSIONS
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn value_of(key: &Key, version: u64, size: usize) -> Vec<u8> {
        let mut value = vec![0xee; 5]; // the previous value
        Values::new(size).write(key, version, &mut value);
        value
    }

    #[test]
    fn keys_depend_on_the_seed_and_the_index() {
        let keys = |seed| Keys::made(1000, seed, Alphabet::Bytes).list;
        assert_eq!(keys(1), keys(1));
        let mut all = [keys(1), keys(2)].concat();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 2000);
        assert_eq!(Keys::made(10, 1, Alphabet::Bytes).list, keys(1)[..10], "a shorter list is a prefix");
    }

    #[test]
    fn keys_for_text_protocols_are_text() {
        let keys = Keys::made(100, 7, Alphabet::Digits);
        assert!(keys.list.iter().all(|key| key.as_bytes().iter().all(u8::is_ascii_hexdigit)));
    }

    #[test]
    fn a_file_of_keys_is_read_or_its_first_wrong_line_is_named() {
        let (a, b) = ("0a".repeat(32), "0B".repeat(32));
        let keys = Keys::from_text(&format!("{a}\n\n  {b}\r\n")).expect("two keys");
        assert_eq!(keys.list, [Key::new([0x0a; 32]), Key::new([0x0b; 32])]);
        let wrong = Keys::from_text(&format!("{a}\nfoo\n")).expect_err("the second line is not a key");
        assert_eq!(wrong.to_string(), "line 2: found `foo`, expected 64 hex digits");
        assert_eq!(Keys::from_text("\n").expect_err("there are none"), KeysError::Count { found: 0 });
    }

    #[test]
    fn numbers_are_drawn_from_the_whole_range_and_not_beyond() {
        let mut draw = Draw::new(3);
        let mut seen = [0_u32; 5];
        for _ in 0..1000 {
            seen[draw.below(5)] += 1;
        }
        assert!(seen.iter().all(|times| *times > 100), "{seen:?}");
        assert_eq!(draw.below(1), 0);
    }

    proptest! {
        #[test]
        fn only_the_complete_value_of_the_key_is_right(seed: u64, version: u64, size in 2_usize..100, at: usize, flip in 1..=255_u8) {
            let keys = Keys::made(2, seed, Alphabet::Bytes);
            let (values, key) = (Values::new(size), keys.at(0));
            let mut value = value_of(key, version, size);
            prop_assert!(values.is_right(key, &value));
            prop_assert!(size < 4 || !values.is_right(keys.at(1), &value), "another key's");
            prop_assert!(!values.is_right(key, &value[..size - 1]), "cut off");
            prop_assert!(!values.is_right(key, &[&value[..], b"x"].concat()), "too long");
            value[1 + at % (size - 1)] ^= flip;
            prop_assert!(!values.is_right(key, &value), "one byte after the version changed");
        }
    }

    #[test]
    fn versions_of_a_value_differ_and_are_all_right() {
        let key = Key::new([9; KEY_SIZE]);
        assert_ne!(value_of(&key, 1, 20), value_of(&key, 2, 20));
        assert!(Values::new(20).is_right(&key, &value_of(&key, 2, 20)));
        assert!(!Values::new(20).is_right(&key, b""));
        assert!(Values::new(1).is_right(&key, &value_of(&key, 2, 1)), "a value of one byte proves nothing");
    }
}
