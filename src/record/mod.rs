//! Records, and which of two wins.
//!
//! A record is a value under a key with a class, a version and a life. Records of one key are
//! ordered by (class, version, value); the larger wins, everywhere and always, so that any
//! order of arrival ends in the same state (`PROTOCOL.md` 3). Nothing here keeps records:
//! that is `storage`.
//!
//! A life is carried as TTL and *age*, never as a date: age only grows, so no hop, rounding or
//! skewed clock prolongs it. A holder turns both into the [`Time`] at which it ends.
//!
//! A record that ends leaves a [`Tombstone`]: which versions of its key are over, until no older
//! one can be alive anywhere. What a record of class signed or hashed proves is verified in one
//! place, [`envelope`].

pub mod envelope;

use std::cmp::Ordering;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

use crate::contact::Group;
use crate::id::{Key, NodeId};
use crate::limits::{CLOCK_SKEW_MAX, TTL_LONGEST};
use crate::time::{Now, Time, WallTime};

/// What a record proves about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Nothing: anybody may write a newer one.
    Plain,
    /// Its value is an envelope that only the owner of the key can sign (`PROTOCOL.md` 4).
    Signed,
    /// Its key is the SHA-256 of its value.
    Hashed,
}

impl Class {
    /// Whether strangers cannot replace such a record.
    pub fn certifies_itself(self) -> bool {
        match self {
            Class::Plain => false,
            Class::Signed | Class::Hashed => true,
        }
    }
}

/// Whether a record can still be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// It can.
    Alive,
    /// It has ended, and only its class and version are remembered: a tombstone.
    Over,
}

/// What a record is compared by when its value is elsewhere: in entries and in replies to STORE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rank {
    /// What it proves about itself.
    pub class: Class,
    /// Whether it can still be read.
    pub life: Life,
    /// Which of several values it is.
    pub version: Version,
}

/// The version of a record: a hybrid clock, milliseconds since 1970 above 16 further bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(u64);

impl Version {
    /// The version with these 64 bits, as the wire carries them.
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// The 64 bits.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// Draws the version of a PUT: now by the wall clock with `tail` (16 bits drawn at start,
    /// so that two nodes rarely agree), and above `highest`, the largest version seen of this
    /// key.
    #[must_use]
    pub fn draw(wall: WallTime, tail: u16, highest: Option<Version>) -> Version {
        let by_clock = (wall.as_millis() << 16) | u64::from(tail);
        let by_history = highest.map_or(0, |seen| seen.0.saturating_add(1));
        Version(by_clock.max(by_history))
    }

    /// The moment that the version speaks of.
    pub const fn time(self) -> WallTime {
        WallTime::from_millis(self.0 >> 16)
    }

    /// Whether it lies so far ahead of `wall` that whoever meets it must ignore it.
    pub fn is_too_early(self, wall: WallTime) -> bool {
        let skew = u64::try_from(CLOCK_SKEW_MAX.as_millis()).expect("ten minutes fit");
        self.time().as_millis() > wall.as_millis().saturating_add(skew)
    }
}

/// How long a record lives in all: whole seconds, at least one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ttl(NonZeroU16);

impl Ttl {
    /// `None` for zero, which is no life.
    pub const fn from_secs(secs: u16) -> Option<Ttl> {
        match NonZeroU16::new(secs) {
            Some(secs) => Some(Ttl(secs)),
            None => None,
        }
    }

    /// The seconds.
    pub const fn as_secs(self) -> u16 {
        self.0.get()
    }

    const fn millis(self) -> u64 {
        self.0.get() as u64 * 1000
    }
}

/// How much of a life has passed, in milliseconds, as the wire carries it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Age(pub u32);

impl Age {
    /// The age after another `span`.
    #[must_use]
    pub fn after(self, span: Duration) -> Age {
        Age(self.0.saturating_add(u32::try_from(span.as_millis()).unwrap_or(u32::MAX)))
    }
}

/// A value under a key, without the moment its life ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Where it belongs.
    pub key: Key,
    /// What it proves about itself.
    pub class: Class,
    /// Which of several values this is.
    pub version: Version,
    /// How long it lives in all.
    pub ttl: Ttl,
    /// How many nodes shall hold it: 1..=[`crate::limits::K_MAX`].
    pub replication: u8,
    /// CRC-32 of the value.
    pub crc: u32,
    /// 1..=[`crate::limits::VALUE_SIZE_MAX`] bytes, shared by all who send it.
    pub value: Arc<[u8]>,
}

impl Record {
    /// The record without its value, while it is alive.
    pub fn rank(&self) -> Rank {
        Rank { class: self.class, life: Life::Alive, version: self.version }
    }

    /// Compares two records of one key: `Greater` if this one wins.
    ///
    /// # Panics
    ///
    /// If the keys differ: records of different keys do not compete.
    pub fn compare(&self, other: &Record) -> Ordering {
        assert_eq!(self.key, other.key, "records of different keys do not compete");
        self.rank().compare(&self.value, other)
    }
}

impl Rank {
    /// What a record of this rank is compared by first.
    pub fn precedence(self) -> Precedence {
        Precedence { certifies_itself: self.class.certifies_itself(), version: self.version }
    }

    /// Compares a record of this rank with this value, whose key is that of `other`, to `other`.
    pub fn compare(&self, value: &[u8], other: &Record) -> Ordering {
        (self.precedence(), value).cmp(&(other.rank().precedence(), &other.value))
    }
}

/// What two records of one key are compared by first (`PROTOCOL.md` 3): whether the class certifies
/// itself, then the version. Values decide between records of equal precedence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Precedence {
    certifies_itself: bool,
    version: Version,
}

impl Precedence {
    /// The version, if the record is plain.
    pub fn plain(self) -> Option<Version> {
        (!self.certifies_itself).then_some(self.version)
    }
}

/// When a life of `ttl` of which `age` has passed ends: after what is left of it, and never
/// later than a life that began at `version` could last. `None` if it is over.
///
/// The version of a hashed record is 0 and speaks of no time.
pub fn end_of_life(now: Now, ttl: Ttl, age: Age, class: Class, version: Version) -> Option<Time> {
    let left = Duration::from_millis(ttl.millis().saturating_sub(u64::from(age.0)));
    let left = match class {
        Class::Hashed => left,
        Class::Plain | Class::Signed => left.min(left_by_version(now.wall, version)),
    };
    (!left.is_zero()).then(|| now.mono + left)
}

/// The age, at `now`, of a record of `ttl` whose life ends at `end`: rounded up, so that
/// sending it on never prolongs it.
pub fn age_at(now: Time, ttl: Ttl, end: Time) -> Age {
    let left = u64::try_from(end.since(now).as_millis()).unwrap_or(u64::MAX);
    let age = ttl.millis().saturating_sub(left);
    Age(u32::try_from(age).expect("a TTL of 16 bits is less than 2^32 milliseconds"))
}

fn left_by_version(wall: WallTime, version: Version) -> Duration {
    let longest = u64::try_from((TTL_LONGEST + CLOCK_SKEW_MAX).as_millis()).expect("a day fits");
    let end = version.time().as_millis().saturating_add(longest);
    Duration::from_millis(end.saturating_sub(wall.as_millis()))
}

/// Who brought a record to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A client of the node itself: it is never given up before its end.
    Client,
    /// A peer whose share nobody counts: it is of a private network, or an earlier run met it.
    Peer,
    /// Any other peer, and the group of its address: neither may fill the storage alone.
    Stranger(NodeId, Group),
}

/// Which versions of a key are over: no record that is not newer comes back (`PROTOCOL.md` 3).
///
/// It may stand beneath a live record that certifies itself: then it is the floor above which the
/// next plain version has to be.
///
/// A tombstone is the memory of one node. Readers believe a plain one of others, too, as they would
/// believe a newer plain record; nobody can prove a signed one. So there is one way for a signed
/// version to come back: its owner replaced it by one with a shorter TTL, which is over, and a
/// reader meets only nodes that never saw the newer one, or have forgotten its tombstone. An owner
/// who wants the older version gone gives the newer one the longer life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tombstone {
    /// The largest signed version that is over.
    pub signed: Option<Version>,
    /// The largest plain version that is over, or was seen beneath a record that certifies itself.
    pub plain: Option<Version>,
}

impl Tombstone {
    /// What is left of `rank`: nothing of a hashed record, whose bytes may come back.
    pub fn of(rank: Rank) -> Self {
        match rank.class {
            Class::Plain => Self { signed: None, plain: Some(rank.version) },
            Class::Signed => Self { signed: Some(rank.version), plain: None },
            Class::Hashed => Self::default(),
        }
    }

    /// What is remembered of `lower` beneath `upper`: the floor, if the one is plain and the other
    /// certifies itself.
    pub fn beneath(lower: Rank, upper: Rank) -> Self {
        let is_floor = upper.class.certifies_itself() && !lower.class.certifies_itself();
        if is_floor { Self::of(lower) } else { Self::default() }
    }

    /// What a record of `rank` that had to go before its end leaves behind: all that is older is
    /// over, and itself may come back.
    pub fn below(rank: Rank) -> Self {
        let older = |version: Version| version.0.checked_sub(1).map(Version);
        let whole = Self::of(rank);
        Self { signed: whole.signed.and_then(older), plain: whole.plain.and_then(older) }
    }

    /// Both in one.
    #[must_use]
    pub fn and(self, other: Tombstone) -> Self {
        Self { signed: self.signed.max(other.signed), plain: self.plain.max(other.plain) }
    }

    /// Whether nothing is over.
    pub fn is_empty(self) -> bool {
        self == Self::default()
    }

    /// What beats a record of this precedence: the larger of both versions that does, if one does. A
    /// tombstone beats the live record of its own version, and a signed one every plain record.
    pub fn beats(self, record: Precedence) -> Option<Rank> {
        let over = |class, version| Rank { class, life: Life::Over, version };
        let signed = self.signed.map(|signed| over(Class::Signed, signed));
        let plain = self.plain.map(|plain| over(Class::Plain, plain));
        if record.certifies_itself {
            signed.filter(|signed| signed.version >= record.version)
        } else {
            signed.or(plain.filter(|plain| plain.version >= record.version))
        }
    }

    /// From when on no older version can be alive anywhere: the longest life, and the skew of the
    /// clock that drew the version and of the one that judges it.
    pub fn lapses(self) -> WallTime {
        let longest = u64::try_from((TTL_LONGEST + CLOCK_SKEW_MAX * 2).as_millis()).expect("a day fits");
        let newest = self.signed.max(self.plain).map_or(0, |version| version.time().as_millis());
        WallTime::from_millis(newest.saturating_add(longest))
    }
}

/// CRC-32 of `value`, the check that a record carries.
pub fn crc_of(value: &[u8]) -> u32 {
    crc32fast::hash(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn record(class: Class, version: u64, value: &[u8]) -> Record {
        Record {
            key: Key::new([7; 32]),
            class,
            version: Version::from_bits(version),
            ttl: Ttl::from_secs(60).expect("not zero"),
            replication: 8,
            crc: crc_of(value),
            value: value.into(),
        }
    }

    fn any_record() -> impl Strategy<Value = Record> {
        let class = prop_oneof![Just(Class::Plain), Just(Class::Signed)];
        (class, 0..4_u64, proptest::collection::vec(0..3_u8, 1..3))
            .prop_map(|(class, version, value)| record(class, version, &value))
    }

    fn now(wall_millis: u64) -> Now {
        Now { mono: Time::ZERO + Duration::from_secs(100_000), wall: WallTime::from_millis(wall_millis) }
    }

    fn larger<'a>(a: &'a Record, b: &'a Record) -> &'a Record {
        if a.compare(b).is_ge() { a } else { b }
    }

    proptest! {
        /// `PROTOCOL.md` 3: the rule is commutative, associative and idempotent.
        #[test]
        fn merging_is_commutative_associative_and_idempotent(a in any_record(), b in any_record(), c in any_record()) {
            prop_assert_eq!(larger(&a, &b), larger(&b, &a));
            prop_assert_eq!(larger(larger(&a, &b), &c), larger(&a, larger(&b, &c)));
            prop_assert_eq!(larger(&a, &a), &a);
        }

        /// Sending a record on, however often and at whatever fractions of a millisecond, never
        /// moves its end to a later moment.
        #[test]
        fn no_number_of_hops_prolongs_a_life(
            secs in 1..=u16::MAX,
            hops in proptest::collection::vec(0..5_000_000_u64, 1..40),
        ) {
            let ttl = Ttl::from_secs(secs).expect("not zero");
            let version = Version::draw(WallTime::from_millis(1_000_000), 3, None);
            let mut at = now(1_000_000);
            let first = end_of_life(at, ttl, Age(0), Class::Plain, version).expect("a fresh life");
            let mut end = first;
            for nanos in hops {
                at.mono = at.mono + Duration::from_nanos(nanos);
                let age = age_at(at.mono, ttl, end);
                let Some(next) = end_of_life(at, ttl, age, Class::Plain, version) else { break };
                prop_assert!(next <= end);
                end = next;
            }
        }
    }

    #[test]
    fn a_class_that_certifies_itself_wins_over_any_plain_version() {
        let plain = record(Class::Plain, u64::MAX, b"z");
        for class in [Class::Signed, Class::Hashed] {
            assert_eq!(record(class, 0, b"a").compare(&plain), Ordering::Greater);
        }
    }

    #[test]
    fn a_version_is_drawn_above_all_that_were_seen() {
        let wall = WallTime::from_millis(1_700_000_000_000);
        let first = Version::draw(wall, 9, None);
        assert_eq!(first.time(), wall);
        assert_eq!(Version::draw(wall, 9, Some(first)).bits(), first.bits() + 1);
        let ahead = Version::from_bits(first.bits() + (5 << 16));
        assert_eq!(Version::draw(wall, 9, Some(ahead)).bits(), ahead.bits() + 1);
        assert_eq!(Version::draw(wall, 9, Some(Version::from_bits(3))), first);
    }

    #[test]
    fn a_version_is_too_early_only_beyond_the_skew() {
        let wall = WallTime::from_millis(5_000_000);
        let at = |millis: u64| Version::from_bits(millis << 16);
        assert!(!at(5_600_000).is_too_early(wall));
        assert!(at(5_600_001).is_too_early(wall));
        assert!(Version::from_bits(u64::MAX).is_too_early(wall));
    }

    #[test]
    fn a_life_ends_with_its_ttl_or_with_its_version() {
        let ttl = Ttl::from_secs(10).expect("not zero");
        let fresh = Version::from_bits(5_000_000 << 16);
        let at = now(5_000_000);
        assert_eq!(end_of_life(at, ttl, Age(4_000), Class::Plain, fresh), Some(at.mono + Duration::from_secs(6)));
        assert_eq!(end_of_life(at, ttl, Age(10_000), Class::Plain, fresh), None);
        assert_eq!(end_of_life(at, ttl, Age(u32::MAX), Class::Plain, fresh), None);
        // 65 535 s + 600 s after the version's own time nothing of it is left, whatever its age says.
        let late = now(5_000_000 + 66_135_000 - 1);
        assert_eq!(end_of_life(late, ttl, Age(0), Class::Plain, fresh), Some(late.mono + Duration::from_millis(1)));
        assert_eq!(end_of_life(now(5_000_000 + 66_135_000), ttl, Age(0), Class::Plain, fresh), None);
        let zero = Version::from_bits(0);
        assert!(end_of_life(at, ttl, Age(0), Class::Hashed, zero).is_some(), "it speaks of no time");
        assert_eq!(end_of_life(now(1_700_000_000_000), ttl, Age(0), Class::Plain, zero), None, "it speaks of 1970");
    }
}
