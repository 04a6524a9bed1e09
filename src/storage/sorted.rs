//! Tombstones by what names their keys: the keys, or fingerprints of them. A tombstone *lapses* when no older version
//! can be alive on any node; here that is at most [`PERIOD`] later.
//!
//! Memory: the plain and the signed versions of a key that are over have an entry each, of the key and 12 bytes, in the
//! order of keys, in lists of [`LIST_MIN`] to [`LIST_MAX`] entries that have little more room than they need. There is
//! no index by time: all that lapses in one period lapses at once, and each list knows a period before which none of
//! its tombstones lapses. So a search for a tombstone of a period reads few lists, and passes over the others.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use crate::id::{KEY_SIZE, Key};
use crate::record::fingerprint::Fingerprint;
use crate::record::{Tombstone, TombstoneClass as Class, Version};
use crate::storage::{StorageFault, check_number};
use crate::time::Time;

/// Bytes of memory that a tombstone of one class takes if a `K` names its key: its entry, and its part of the room and
/// the head of a list.
pub(super) const fn bytes_per_tombstone<K>() -> usize {
    size_of::<Entry<K>>() * 5 / 4
}

/// Tombstones lapse at the end of such a period. Of those that lapse in one period, none counts as the oldest.
const PERIOD: Duration = Duration::from_secs(64);

/// The most entries of a list: an insertion moves half of them, some 3 kB.
const LIST_MAX: usize = 128;

/// A list with fewer entries is joined with the next one.
const LIST_MIN: usize = 32;

/// A tombstone is aged after 47 periods: 50 minutes.
const AGED: u32 = 47;

/// The period in which a tombstone was added is known modulo this number: it is the number of values of 7 bits. A
/// tombstone that is not looked at for 128 periods, 2.3 hours, counts as new again.
const BIRTHS: u32 = 1 << 7;

/// What names the key of a tombstone.
pub(super) trait Name: Copy + Ord {
    /// No other one is less.
    const FIRST: Self;
    /// No other one is larger.
    const LAST: Self;
}

impl Name for Key {
    const FIRST: Self = Key::new([0; KEY_SIZE]);
    const LAST: Self = Key::new([u8::MAX; KEY_SIZE]);
}

impl Name for Fingerprint {
    const FIRST: Self = Fingerprint::new([0; 8]);
    const LAST: Self = Fingerprint::new([u8::MAX; 8]);
}

/// Tombstones by what names their keys.
#[derive(Debug)]
pub(super) struct Sorted<K> {
    /// Each list has the keys from the one by which it is found to the one before that of the next list. The first list
    /// is found by [`Name::FIRST`].
    lists: BTreeMap<K, List<K>>,
    /// How many tombstones lapse in each period.
    periods: BTreeMap<Period, usize>,
    /// The key of the tombstone that was removed last. The next one is searched from there.
    last_removed: K,
    len: usize,
}

/// Tombstones in the order of (key, class).
#[derive(Debug)]
struct List<K> {
    entries: Vec<Entry<K>>,
    /// None of them lapses in an earlier period.
    earliest: Period,
}

/// The newest version of one class that is over.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry<K> {
    pub(super) key: K,
    /// The upper and the lower half of the version: so the entry needs no padding.
    version: [u32; 2],
    /// The class in the lowest bit, the period in which it was added modulo [`BIRTHS`] in the next ones, and the period
    /// in which it lapses in the others.
    class_birth_period: u32,
}

/// What became of an entry.
#[derive(Clone, Copy, Debug)]
pub(super) enum Added<K> {
    /// A newer version is known.
    Unneeded,
    /// It is there, perhaps in place of an older one.
    InPlaceOf(Option<Entry<K>>),
}

/// The number of a [`PERIOD`] since the host started, in 24 bits. They last for 34 years.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Period(u32);

impl Period {
    const LAST: Self = Self(u32::MAX >> 8);

    /// The period in which `moment` is.
    pub(super) fn of(moment: Time) -> Self {
        let number = moment.since(Time::ZERO).as_nanos().div_ceil(PERIOD.as_nanos());
        u32::try_from(number).map_or(Self::LAST, |number| Self(number).min(Self::LAST))
    }

    /// When what lapses in the period has lapsed.
    pub(super) fn end(self) -> Time {
        Time::ZERO + PERIOD * self.0
    }
}

impl<K> Entry<K> {
    /// A tombstone that is added in the period `born` and lapses in `period`.
    pub(super) fn new(key: K, class: Class, version: Version, born: Period, period: Period) -> Self {
        let [high, low] = [version.bits() >> 32, version.bits() & u64::from(u32::MAX)];
        let version = [high, low].map(|half| u32::try_from(half).expect("32 bits"));
        let class = u32::from(class == Class::Signed);
        Self { key, version, class_birth_period: period.0 << 8 | (born.0 % BIRTHS) << 1 | class }
    }

    /// The same tombstone with another name of its key.
    pub(super) fn renamed<L>(self, key: L) -> Entry<L> {
        Entry { key, version: self.version, class_birth_period: self.class_birth_period }
    }

    pub(super) fn class(&self) -> Class {
        if self.class_birth_period & 1 == 0 { Class::Plain } else { Class::Signed }
    }

    pub(super) fn period(&self) -> Period {
        Period(self.class_birth_period >> 8)
    }

    /// Whether it was added [`AGED`] periods ago or earlier.
    fn is_aged(&self, now: Period) -> bool {
        now.0.wrapping_sub(self.class_birth_period >> 1) % BIRTHS >= AGED
    }

    pub(super) fn version(&self) -> Version {
        let [high, low] = self.version.map(u64::from);
        Version::from_bits(high << 32 | low)
    }

    pub(super) fn tombstone(&self) -> Tombstone {
        Tombstone::of_class(self.class(), self.version())
    }
}

impl<K: Name> List<K> {
    /// The position of the first entry of `key`, or where it would be.
    fn position(&self, key: &K) -> usize {
        self.entries.partition_point(|entry| entry.key < *key)
    }

    /// Inserts an entry. A list that is full has room for a few entries more, not for as many again.
    fn insert(&mut self, at: usize, entry: Entry<K>) {
        if self.entries.len() == self.entries.capacity() {
            self.entries.reserve_exact(room_for(self.entries.len()));
        }
        self.entries.insert(at, entry);
        self.earliest = self.earliest.min(entry.period());
    }

    /// Returns memory beyond that.
    fn shrink(&mut self) {
        let len = self.entries.len();
        if self.entries.capacity() > len + 2 * room_for(len) {
            self.entries.shrink_to(len + room_for(len));
        }
    }
}

impl<K: Name> Default for Sorted<K> {
    fn default() -> Self {
        Self { lists: BTreeMap::new(), periods: BTreeMap::new(), last_removed: K::FIRST, len: 0 }
    }
}

impl<K: Name> Sorted<K> {
    /// The tombstone of `key`, unless it has lapsed at `now`.
    pub(super) fn find(&self, now: Time, key: &K) -> Option<Tombstone> {
        let (_, list) = self.lists.range(..=key).next_back()?;
        let same = list.entries[list.position(key)..].iter().take_while(|entry| entry.key == *key);
        let both = same.filter(|entry| now < entry.period().end()).map(Entry::tombstone);
        both.reduce(Tombstone::and)
    }

    /// Removes the tombstone that lapses first, now or later: one of those that lapse in the earliest period.
    pub(super) fn take_oldest(&mut self) -> Option<Entry<K>> {
        let (&period, _) = self.periods.first_key_value()?;
        let found = self.first_of(period, self.last_removed).or_else(|| self.first_of(period, K::FIRST));
        let (list, at) = found.expect("a period that is counted has a tombstone");
        let entry = self.remove(list, at);
        self.last_removed = entry.key;
        Some(entry)
    }

    /// Removes the tombstones that `which` selects.
    pub(super) fn take_out(&mut self, which: impl Fn(Tombstone) -> bool) -> Vec<(K, Tombstone)> {
        let all = self.range(K::FIRST..=K::LAST);
        let chosen: Vec<_> = all.filter(|(_, tombstone)| which(*tombstone)).map(|(key, both)| (*key, both)).collect();
        for (key, _) in &chosen {
            while let Some((list, at)) = self.place(key) {
                self.remove(list, at);
            }
        }
        chosen
    }

    /// Removes the tombstone of the key and the class of `entry`, if there is one.
    pub(super) fn take(&mut self, entry: &Entry<K>) {
        let Some((bound, list)) = self.lists.range(..=entry.key).next_back() else { return };
        let place = list.entries.binary_search_by_key(&(entry.key, entry.class()), |other| (other.key, other.class()));
        if let Ok(at) = place {
            let bound = *bound;
            self.remove(bound, at);
        }
    }

    /// The aged tombstones of the next `lists` lists from the key `from` on, and no more than `max`; and the key from
    /// which on the next ones are found, if there are any.
    pub(super) fn aged(&self, now: Period, from: K, lists: usize, max: usize) -> (Vec<Entry<K>>, Option<K>) {
        let first = self.lists.range(..=from).next_back().map_or(K::FIRST, |(bound, _)| *bound);
        let mut found = Vec::new();
        for (nth, (bound, list)) in self.lists.range(first..).enumerate() {
            if nth == lists {
                return (found, Some(*bound));
            }
            for entry in list.entries.iter().filter(|entry| entry.key >= from && entry.is_aged(now)) {
                if found.len() == max {
                    return (found, Some(entry.key));
                }
                found.push(*entry);
            }
        }
        (found, None)
    }

    /// The first `max` entries behind a key and a class, or from the first one on.
    pub(super) fn behind(&self, after: Option<(K, Class)>, max: usize) -> Vec<Entry<K>> {
        let from = after.map_or(K::FIRST, |(key, _)| key);
        let first = self.lists.range(..=from).next_back().map_or(K::FIRST, |(bound, _)| *bound);
        let entries = self.lists.range(first..).flat_map(|(_, list)| &list.entries);
        entries.filter(|entry| after < Some((entry.key, entry.class()))).take(max).copied().collect()
    }

    pub(super) fn next_lapse(&self) -> Option<Time> {
        self.periods.first_key_value().map(|(period, _)| period.end())
    }

    pub(super) fn range(&self, keys: RangeInclusive<K>) -> impl Iterator<Item = (&K, Tombstone)> {
        let (first, last) = keys.into_inner();
        let bound = self.lists.range(..=first).next_back().map(|(bound, _)| *bound).filter(|_| first <= last);
        let lists = bound.into_iter().flat_map(move |bound| self.lists.range(bound..=last));
        let entries = lists.flat_map(|(_, list)| &list.entries).skip_while(move |entry| entry.key < first);
        let mut entries = entries.take_while(move |entry| entry.key <= last).peekable();
        std::iter::from_fn(move || {
            let entry = entries.next()?;
            let other = entries.next_if(|other| other.key == entry.key).map(Entry::tombstone);
            Some((&entry.key, entry.tombstone().and(other.unwrap_or_default())))
        })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The bytes of memory that all tombstones take.
    pub(super) fn bytes(&self) -> usize {
        self.len * bytes_per_tombstone::<K>()
    }

    pub(super) fn check_invariants(&self) -> Result<(), StorageFault> {
        let (mut len, mut last, mut periods) = (0, None, BTreeMap::new());
        for (nth, (bound, list)) in self.lists.iter().enumerate() {
            for entry in &list.entries {
                let place = Some((entry.key, entry.class()));
                let is_placed = *bound <= entry.key && list.earliest <= entry.period() && last < place;
                check_number("misplaced tombstones", usize::from(!is_placed), 0)?;
                last = place;
                len += 1;
                *periods.entry(entry.period()).or_default() += 1;
            }
            // Two neighbours that are joined have enough.
            let is_alone = self.lists.len() == 1 && !list.entries.is_empty();
            let is_sized = is_alone || (LIST_MIN..=LIST_MAX).contains(&list.entries.len());
            check_number("lists of tombstones of a wrong size", usize::from(!is_sized), 0)?;
            check_number("first lists that are found by another key", usize::from(nth == 0 && *bound != K::FIRST), 0)?;
        }
        check_number("tombstones", self.len, len)?;
        check_number("periods with a wrong number of tombstones", usize::from(self.periods != periods), 0)
    }

    /// Sets the newest version of a key and a class that is over, unless a newer one is known.
    pub(super) fn set(&mut self, now: Time, entry: Entry<K>) -> Added<K> {
        let found = self.lists.range_mut(..=entry.key).next_back();
        let (bound, list) = match found {
            Some((bound, list)) => (*bound, list),
            None => {
                (K::FIRST, self.lists.entry(K::FIRST).or_insert(List { entries: Vec::new(), earliest: Period::LAST }))
            }
        };
        let place = list.entries.binary_search_by_key(&(entry.key, entry.class()), |other| (other.key, other.class()));
        let mut replaced = None;
        match place {
            Ok(at) => {
                let before = list.entries[at];
                if now < before.period().end() && before.version() >= entry.version() {
                    return Added::Unneeded;
                }
                list.entries[at] = entry;
                list.earliest = list.earliest.min(entry.period());
                self.uncount(before.period());
                replaced = Some(before);
            }
            Err(at) => {
                list.insert(at, entry);
                self.len += 1;
                if list.entries.len() > LIST_MAX {
                    self.split(bound);
                }
            }
        }
        *self.periods.entry(entry.period()).or_default() += 1;
        Added::InPlaceOf(replaced)
    }

    /// The first tombstone that lapses in `period`, the earliest one, and whose key is not less than `from`: its list
    /// and its position there.
    fn first_of(&mut self, period: Period, from: K) -> Option<(K, usize)> {
        let first = self.lists.range(..=from).next_back().map_or(K::FIRST, |(bound, _)| *bound);
        for (bound, list) in self.lists.range_mut(first..) {
            if list.earliest > period {
                continue;
            }
            let is_it = |entry: &Entry<K>| entry.period() == period && entry.key >= from;
            if let Some(at) = list.entries.iter().position(is_it) {
                return Some((*bound, at));
            }
            list.earliest = list.entries.iter().map(Entry::period).min().unwrap_or(Period::LAST);
        }
        None
    }

    /// The list with a tombstone of `key`, and its position there.
    fn place(&self, key: &K) -> Option<(K, usize)> {
        let (bound, list) = self.lists.range(..=key).next_back()?;
        let at = list.position(key);
        list.entries.get(at).filter(|entry| entry.key == *key).map(|_| (*bound, at))
    }

    fn remove(&mut self, bound: K, at: usize) -> Entry<K> {
        let list = self.lists.get_mut(&bound).expect("the caller has found it there");
        let entry = list.entries.remove(at);
        if list.entries.len() < LIST_MIN {
            self.join(bound);
        } else {
            list.shrink();
        }
        self.len -= 1;
        self.uncount(entry.period());
        entry
    }

    fn uncount(&mut self, period: Period) {
        let count = self.periods.get_mut(&period).expect("the period of each tombstone is counted");
        *count -= 1;
        if *count == 0 {
            self.periods.remove(&period);
        }
    }

    /// Makes two lists of one that is too long.
    fn split(&mut self, bound: K) {
        let list = self.lists.get_mut(&bound).expect("the caller has found it");
        let half = list.entries.len() / 2;
        let is_same_key = list.entries[half - 1].key == list.entries[half].key;
        let upper = list.entries.split_off(half + usize::from(is_same_key));
        list.entries.shrink_to(list.entries.len() + room_for(list.entries.len()));
        let (bound, earliest) = (upper[0].key, list.earliest);
        self.lists.insert(bound, List { entries: upper, earliest });
    }

    /// Joins a list that has become too short with the one before it; the first one with the one behind it.
    fn join(&mut self, bound: K) {
        let before = self.lists.range(..bound).next_back().map(|(before, _)| *before);
        let pair = match before {
            Some(before) => Some((before, bound)),
            None => self.lists.keys().nth(1).map(|behind| (bound, *behind)),
        };
        if let Some((lower, upper)) = pair {
            let upper = self.lists.remove(&upper).expect("it was found");
            let list = self.lists.get_mut(&lower).expect("it was found");
            list.entries.reserve_exact(upper.entries.len());
            list.entries.extend(upper.entries);
            list.earliest = list.earliest.min(upper.earliest);
            if list.entries.len() > LIST_MAX {
                self.split(lower);
            }
        } else if self.lists[&bound].entries.is_empty() {
            self.lists.remove(&bound);
        }
    }
}

/// Entries for which a list of `len` entries gets room when it is full.
fn room_for(len: usize) -> usize {
    2 + len / 32
}
