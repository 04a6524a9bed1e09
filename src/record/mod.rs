//! Records, and the rule that decides which of two records wins.
//!
//! A record is a value under a key, with a class, a version and a life. The records of one key are ordered
//! by (class, version, value). The larger record wins on every node, so every order of arrival ends in the
//! same state (`PROTOCOL.md` 3). A record of class signed or hashed is *certified*: it proves where it
//! belongs, and it is above every plain record. [`envelope`] is the only place that verifies the proof.
//!
//! Messages carry a life as TTL and *age*, never as a date. The age only grows, so no hop, no rounding and
//! no wrong clock prolongs a life. A replica computes from both the [`Time`] at which the life ends.
//!
//! A record whose life has ended leaves a [`Tombstone`]. It says which versions of the key are over, until
//! no older version can be alive on any node.
//!
//! This module stores no records; `storage` does.

pub mod envelope;
pub mod fingerprint;

use std::cmp::Ordering;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

use crate::contact::Group;
use crate::id::{Key, NodeId};
use crate::limits::{CLOCK_SKEW_MAX, TTL_LONGEST};
use crate::time::{Now, Time, WallTime};

/// What a record proves about its origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Nothing: every node may write a newer record under its key.
    Plain,
    /// The owner of the key has signed it: the value is an envelope (`PROTOCOL.md` 4).
    Signed,
    /// The key belongs to this value alone: it is SHA-256 of the value.
    Hashed,
}

impl Class {
    /// Whether the record is certified: signed or hashed. No plain record replaces a certified one.
    pub fn certifies_itself(self) -> bool {
        match self {
            Class::Plain => false,
            Class::Signed | Class::Hashed => true,
        }
    }
}

/// Whether a version can still be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// Its life has not ended.
    Alive,
    /// Its life has ended: only class and version are remembered, in a tombstone.
    Over,
}

/// What orders a record if its value is not at hand: in entries, and in replies to STORE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rank {
    /// The class of the record.
    pub class: Class,
    /// Whether this is a live record or a tombstone.
    pub life: Life,
    /// The version of the record.
    pub version: Version,
}

/// The version of a record: a hybrid logical clock, with milliseconds since 1970 in the upper 48 bits
/// (`PROTOCOL.md` 3, Version).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(u64);

impl Version {
    /// The version with these 64 bits, as messages carry them.
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// The 64 bits, as messages carry them.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// Draws the version of a PUT: the larger of the time `wall`, with `tail` in the lower 16 bits, and the
    /// version after `highest`, which is the largest version of this key that the node has seen. A node
    /// draws `tail` once at its start, so that two nodes rarely draw the same version.
    #[must_use]
    pub fn draw(wall: WallTime, tail: u16, highest: Option<Version>) -> Version {
        let by_clock = (wall.as_millis() << 16) | u64::from(tail);
        let by_history = highest.map_or(0, |highest| highest.0.saturating_add(1));
        Version(by_clock.max(by_history))
    }

    /// The calendar time in the version.
    pub const fn time(self) -> WallTime {
        WallTime::from_millis(self.0 >> 16)
    }

    /// Whether the time in the version is more than [`CLOCK_SKEW_MAX`] ahead of `wall`. Nodes ignore such a
    /// version.
    pub fn is_too_early(self, wall: WallTime) -> bool {
        let skew = u64::try_from(CLOCK_SKEW_MAX.as_millis()).expect("ten minutes fit");
        self.time().as_millis() > wall.as_millis().saturating_add(skew)
    }

    /// The oldest version of which a plain or signed record can be alive if `wall` is right: since the time in an older
    /// one the longest TTL has passed, allowing for clock skew (`PROTOCOL.md` 3, Life).
    pub fn oldest(wall: WallTime) -> Version {
        let longest = u64::try_from((TTL_LONGEST + CLOCK_SKEW_MAX).as_millis()).expect("a day fits");
        Version((wall.as_millis() + 1).saturating_sub(longest) << 16)
    }

    /// Whether it is older than [`Version::oldest`].
    pub fn is_too_old(self, wall: WallTime) -> bool {
        self < Self::oldest(wall)
    }

    /// Whether a record of this version can be alive if `wall` is right.
    pub fn is_plausible(self, wall: WallTime) -> bool {
        !self.is_too_early(wall) && !self.is_too_old(wall)
    }
}

/// The life of a record from its PUT to its end: whole seconds, at least 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ttl(NonZeroU16);

impl Ttl {
    /// A TTL of `secs` seconds; `None` for 0.
    pub const fn from_secs(secs: u16) -> Option<Ttl> {
        match NonZeroU16::new(secs) {
            Some(secs) => Some(Ttl(secs)),
            None => None,
        }
    }

    /// The TTL in seconds.
    pub const fn as_secs(self) -> u16 {
        self.0.get()
    }

    const fn millis(self) -> u64 {
        self.0.get() as u64 * 1000
    }

    /// What is left of such a life at that age.
    pub fn left_at(self, age: Age) -> Duration {
        Duration::from_millis(self.millis().saturating_sub(u64::from(age.0)))
    }
}

/// How much of its life a record has behind it, in milliseconds, as messages carry it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Age(pub u32);

impl Age {
    /// The age when another `span` has passed.
    #[must_use]
    pub fn after(self, span: Duration) -> Age {
        Age(self.0.saturating_add(u32::try_from(span.as_millis()).unwrap_or(u32::MAX)))
    }

    /// The time that has passed.
    pub fn span(self) -> Duration {
        Duration::from_millis(self.0.into())
    }

    /// The age if it was too large by `span`.
    #[must_use]
    pub fn less(self, span: Duration) -> Age {
        Age(self.0.saturating_sub(u32::try_from(span.as_millis()).unwrap_or(u32::MAX)))
    }
}

/// A value under a key, without the end of its life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The key of the record.
    pub key: Key,
    /// What the record proves about its origin.
    pub class: Class,
    /// The version of the record.
    pub version: Version,
    /// Its life from the PUT to its end.
    pub ttl: Ttl,
    /// How many nodes shall store it: 1..=[`crate::limits::K_MAX`].
    pub replication: u8,
    /// CRC-32 (IEEE 802.3) of the value.
    pub crc: u32,
    /// 1..=[`crate::limits::VALUE_SIZE_MAX`] bytes. Storage and messages share them.
    pub value: Arc<[u8]>,
}

impl Record {
    /// What orders the record, without its value.
    pub fn rank(&self) -> Rank {
        Rank { class: self.class, life: Life::Alive, version: self.version }
    }

    /// Whether the record can be alive if `wall` is right: the time in its version is neither too far ahead, nor
    /// longer ago than the longest life (`PROTOCOL.md` 3). The version of a hashed record has no time.
    pub fn is_plausible(&self, wall: WallTime) -> bool {
        self.class == Class::Hashed || self.version.is_plausible(wall)
    }

    /// Compares two records of one key; `Greater` means that this record wins.
    ///
    /// # Panics
    ///
    /// If the keys differ.
    pub fn compare(&self, other: &Record) -> Ordering {
        assert_eq!(self.key, other.key, "records of different keys do not compete");
        self.rank().compare(&self.value, other)
    }
}

impl Rank {
    /// What orders the record first, before its value.
    pub fn precedence(self) -> Precedence {
        Precedence { certifies_itself: self.class.certifies_itself(), version: self.version }
    }

    /// Compares the record of this rank and `value` with `other`, which must have the same key.
    pub fn compare(&self, value: &[u8], other: &Record) -> Ordering {
        (self.precedence(), value).cmp(&(other.rank().precedence(), &other.value))
    }
}

/// What orders two records of one key first (`PROTOCOL.md` 3, Order): certified or plain, then the version.
/// The values decide only between records of equal precedence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Precedence {
    certifies_itself: bool,
    version: Version,
}

impl Precedence {
    /// No record is smaller.
    pub const LOWEST: Self = Self { certifies_itself: false, version: Version(0) };

    /// The version.
    pub fn version(self) -> Version {
        self.version
    }

    /// The version, if the record is plain.
    pub fn plain(self) -> Option<Version> {
        (!self.certifies_itself).then_some(self.version)
    }
}

/// The moment at which a life ends, if `age` of its `ttl` has passed at `now`; `None` if it has ended
/// already, or if no record of its version can be alive ([`Version::is_too_old`]). The second does not apply to hashed
/// records: their version is 0 and has no time.
pub fn end_of_life(now: Now, ttl: Ttl, age: Age, class: Class, version: Version) -> Option<Time> {
    let left = ttl.left_at(age);
    let is_too_old = class != Class::Hashed && version.is_too_old(now.wall);
    (!left.is_zero() && !is_too_old).then(|| now.mono + left)
}

/// The age at `now` of a record whose life of `ttl` ends at `end`. It is rounded up, so that a copy never
/// lives longer than the original.
pub fn age_at(now: Time, ttl: Ttl, end: Time) -> Age {
    let left = u64::try_from(end.since(now).as_millis()).unwrap_or(u64::MAX);
    let age = ttl.millis().saturating_sub(left);
    Age(u32::try_from(age).expect("a TTL of 16 bits is less than 2^32 milliseconds"))
}

/// Where a node got a record from. It decides which quota counts the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A client of this node: no quota, and never evicted.
    Client,
    /// A peer without a quota: it is in a private network, or the record is from an earlier run.
    Peer,
    /// Any other peer, with the group of its address. Both have a quota.
    Stranger(NodeId, Group),
}

/// Which versions of a key are over. No record that is not newer is accepted (`PROTOCOL.md` 3, Tombstones).
///
/// A key can have a tombstone and a live certified record at the same time. Then the tombstone remembers
/// the largest plain version of the key that the node has seen: a later plain record has to be newer.
///
/// A tombstone is the memory of one node. Readers believe the tombstones of plain versions that other nodes
/// report, as they would believe a newer plain record. They do not believe tombstones of signed versions,
/// because nothing proves those. One gap follows: a signed version can come back if its owner replaced it
/// by a version with a shorter life that has ended, and a reader meets only nodes that never had the newer
/// one or have forgotten its tombstone. An owner who wants an older version to disappear gives the newer
/// one the longer life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tombstone {
    /// The largest signed version that is over.
    pub signed: Option<Version>,
    /// The largest plain version that is over, or that the node has seen beside a certified record.
    pub plain: Option<Version>,
}

/// The class of versions that are over: a hashed record leaves no tombstone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TombstoneClass {
    /// Of plain records.
    Plain,
    /// Of signed records.
    Signed,
}

impl Tombstone {
    /// The tombstone of the versions of one class up to `version`.
    pub fn of_class(class: TombstoneClass, version: Version) -> Self {
        match class {
            TombstoneClass::Plain => Self { signed: None, plain: Some(version) },
            TombstoneClass::Signed => Self { signed: Some(version), plain: None },
        }
    }

    /// The tombstone of a record that has ended. Empty for a hashed record: its value may come back.
    pub fn of(rank: Rank) -> Self {
        match rank.class {
            Class::Plain => Self { signed: None, plain: Some(rank.version) },
            Class::Signed => Self { signed: Some(rank.version), plain: None },
            Class::Hashed => Self::default(),
        }
    }

    /// The tombstone of `record`, whose life has ended, at a node whose wall clock shows `wall`.
    ///
    /// Empty in two cases in which a clock is or was wrong, so that the record may be alive elsewhere. Its version is
    /// too old for that clock: then it is refused without a tombstone. Or less time than its TTL has passed since the
    /// time in its version, allowing for clock skew: then its age was wrong.
    pub fn of_ended(record: &Record, wall: WallTime) -> Self {
        let end = record.version.time().as_millis().saturating_add(record.ttl.millis());
        let has_ended = WallTime::from_millis(end).before(CLOCK_SKEW_MAX) <= wall;
        if has_ended && !record.version.is_too_old(wall) { Self::of(record.rank()) } else { Self::default() }
    }

    /// What is remembered of `lower` when `upper` wins: its version, if `lower` is plain and `upper` is
    /// certified. A plain record that arrives after the end of `upper` has to be newer than that version.
    pub fn of_hidden(lower: Rank, upper: Rank) -> Self {
        let is_hidden = upper.class.certifies_itself() && !lower.class.certifies_itself();
        if is_hidden { Self::of(lower) } else { Self::default() }
    }

    /// The tombstone of a record that was evicted before its end: all older versions are over, and the same
    /// version may come back.
    pub fn of_older(rank: Rank) -> Self {
        let older = |version: Version| version.0.checked_sub(1).map(Version);
        let whole = Self::of(rank);
        Self { signed: whole.signed.and_then(older), plain: whole.plain.and_then(older) }
    }

    /// The tombstone with the larger versions of both.
    #[must_use]
    pub fn and(self, other: Tombstone) -> Self {
        Self { signed: self.signed.max(other.signed), plain: self.plain.max(other.plain) }
    }

    /// Whether none of its versions is too far ahead of `wall`.
    pub fn is_plausible(self, wall: WallTime) -> bool {
        self.signed.max(self.plain).is_none_or(|version| !version.is_too_early(wall))
    }

    /// Whether no version is over.
    pub fn is_empty(self) -> bool {
        self == Self::default()
    }

    /// The tombstone that beats a record of this precedence, as a rank; `None` if none does. A tombstone
    /// beats its own version and all older ones of its class. A signed one also beats every plain version.
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

    /// The moment from which the tombstone is not needed, because no older version can be alive: the
    /// longest TTL after the time in the version, plus the skew of the clock that drew it and of the one
    /// that judges it.
    pub fn lapses(self) -> WallTime {
        let longest = u64::try_from((TTL_LONGEST + CLOCK_SKEW_MAX * 2).as_millis()).expect("a day fits");
        let newest = self.signed.max(self.plain).map_or(0, |version| version.time().as_millis());
        WallTime::from_millis(newest.saturating_add(longest))
    }
}

/// CRC-32 (IEEE 802.3) of `value`.
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

        /// No number of hops, at whatever fractions of a millisecond, moves the end of a life to a later
        /// moment.
        #[test]
        fn passing_a_record_on_never_prolongs_its_life(
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
    fn a_certified_record_wins_over_every_plain_version() {
        let plain = record(Class::Plain, u64::MAX, b"z");
        for class in [Class::Signed, Class::Hashed] {
            assert_eq!(record(class, 0, b"a").compare(&plain), Ordering::Greater);
        }
    }

    #[test]
    fn a_new_version_is_larger_than_the_clock_and_every_known_version() {
        let wall = WallTime::from_millis(1_700_000_000_000);
        let first = Version::draw(wall, 9, None);
        assert_eq!(first.time(), wall);
        assert_eq!(Version::draw(wall, 9, Some(first)).bits(), first.bits() + 1);
        let ahead = Version::from_bits(first.bits() + (5 << 16));
        assert_eq!(Version::draw(wall, 9, Some(ahead)).bits(), ahead.bits() + 1);
        assert_eq!(Version::draw(wall, 9, Some(Version::from_bits(3))), first);
    }

    #[test]
    fn a_version_is_too_early_only_if_it_is_beyond_the_clock_skew() {
        let wall = WallTime::from_millis(5_000_000);
        let at = |millis: u64| Version::from_bits(millis << 16);
        assert!(!at(5_600_000).is_too_early(wall));
        assert!(at(5_600_001).is_too_early(wall));
        assert!(Version::from_bits(u64::MAX).is_too_early(wall));
    }

    #[test]
    fn a_life_ends_with_its_ttl_or_by_the_time_in_its_version() {
        let ttl = Ttl::from_secs(10).expect("not zero");
        let fresh = Version::from_bits(5_000_000 << 16);
        let at = now(5_000_000);
        assert_eq!(end_of_life(at, ttl, Age(4_000), Class::Plain, fresh), Some(at.mono + Duration::from_secs(6)));
        assert_eq!(end_of_life(at, ttl, Age(10_000), Class::Plain, fresh), None);
        assert_eq!(end_of_life(at, ttl, Age(u32::MAX), Class::Plain, fresh), None);
        // 65 535 s + 600 s after the time in the version nothing is left, whatever the age says.
        let late = now(5_000_000 + 66_135_000 - 1);
        assert_eq!(end_of_life(late, ttl, Age(0), Class::Plain, fresh), Some(late.mono + Duration::from_secs(10)));
        assert_eq!(end_of_life(now(5_000_000 + 66_135_000), ttl, Age(0), Class::Plain, fresh), None);
        let zero = Version::from_bits(0);
        assert!(end_of_life(at, ttl, Age(0), Class::Hashed, zero).is_some(), "it speaks of no time");
        assert_eq!(end_of_life(now(1_700_000_000_000), ttl, Age(0), Class::Plain, zero), None, "it speaks of 1970");
    }
}
