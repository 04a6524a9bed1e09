//! The tombstones of a storage. A tombstone *lapses* when no older version can be alive on any node; here that is at
//! most [`PERIOD`] later.
//!
//! Memory: the plain and the signed versions of a key that are over take 44 bytes each, in the order of keys, in lists
//! of [`LIST_MIN`] to [`LIST_MAX`] entries that have little more room than they need. There is no index by time: all
//! that lapses in one period lapses at once, and each list knows a period before which none of its tombstones lapses.
//! So a search for a tombstone of a period reads few lists, and passes over the others.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use crate::id::{KEY_SIZE, Key};
use crate::record::{Tombstone, TombstoneClass as Class, Version};
use crate::storage::{StorageFault, check_number};
use crate::time::{Now, Time};

/// Bytes of memory that a tombstone of one class takes: its entry, and its part of the room and the head of a list.
pub const TOMBSTONE_BYTES: usize = size_of::<Entry>() * 5 / 4;

/// Tombstones lapse at the end of such a period. Of those that lapse in one period, none counts as the oldest.
const PERIOD: Duration = Duration::from_secs(64);

/// The most entries of a list: an insertion moves half of them, some 3 kB.
const LIST_MAX: usize = 128;

/// A list with fewer entries is joined with the next one.
const LIST_MIN: usize = 32;

/// No key is less.
const FIRST_KEY: Key = Key::new([0; KEY_SIZE]);

/// Tombstones by key.
#[derive(Debug)]
pub(super) struct Tombstones {
    /// Each list has the keys from the one by which it is found to the one before that of the next list. The first list
    /// is found by [`FIRST_KEY`].
    lists: BTreeMap<Key, List>,
    /// How many tombstones lapse in each period.
    periods: BTreeMap<Period, usize>,
    /// The key of the tombstone that was removed last. The next one is searched from there.
    last_removed: Key,
    len: usize,
}

/// Tombstones in the order of (key, class).
#[derive(Debug)]
struct List {
    entries: Vec<Entry>,
    /// None of them lapses in an earlier period.
    earliest: Period,
}

/// The newest version of one class that is over.
#[derive(Clone, Copy, Debug)]
struct Entry {
    key: Key,
    /// The upper and the lower half of the version: so the entry needs no padding.
    version: [u32; 2],
    /// The class in the lowest bit, and the period in the others.
    class_and_period: u32,
}

/// The number of a [`PERIOD`] since the host started, in 31 bits. They last for 4 000 years.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Period(u32);

impl Period {
    const LAST: Self = Self(u32::MAX >> 1);

    /// The period in which `moment` is.
    fn of(moment: Time) -> Self {
        let number = moment.since(Time::ZERO).as_nanos().div_ceil(PERIOD.as_nanos());
        u32::try_from(number).map_or(Self::LAST, |number| Self(number).min(Self::LAST))
    }

    /// When what lapses in the period has lapsed.
    fn end(self) -> Time {
        Time::ZERO + PERIOD * self.0
    }
}

impl Entry {
    fn new(key: Key, class: Class, version: Version, period: Period) -> Self {
        let [high, low] = [version.bits() >> 32, version.bits() & u64::from(u32::MAX)];
        let version = [high, low].map(|half| u32::try_from(half).expect("32 bits"));
        let class = u32::from(class == Class::Signed);
        Self { key, version, class_and_period: period.0 << 1 | class }
    }

    fn class(&self) -> Class {
        if self.class_and_period & 1 == 0 { Class::Plain } else { Class::Signed }
    }

    fn period(&self) -> Period {
        Period(self.class_and_period >> 1)
    }

    fn version(&self) -> Version {
        let [high, low] = self.version.map(u64::from);
        Version::from_bits(high << 32 | low)
    }

    fn tombstone(&self) -> Tombstone {
        Tombstone::of_class(self.class(), self.version())
    }
}

impl List {
    /// The position of the first entry of `key`, or where it would be.
    fn position(&self, key: &Key) -> usize {
        self.entries.partition_point(|entry| entry.key < *key)
    }

    /// Inserts an entry. A list that is full has room for a few entries more, not for as many again.
    fn insert(&mut self, at: usize, entry: Entry) {
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

impl Default for Tombstones {
    fn default() -> Self {
        Self { lists: BTreeMap::new(), periods: BTreeMap::new(), last_removed: FIRST_KEY, len: 0 }
    }
}

impl Tombstones {
    /// The tombstone of `key`, unless it has lapsed at `now`.
    #[inline]
    pub(super) fn find(&self, now: Time, key: &Key) -> Option<Tombstone> {
        if self.is_empty() { None } else { self.find_among_others(now, key) }
    }

    #[inline(never)]
    fn find_among_others(&self, now: Time, key: &Key) -> Option<Tombstone> {
        let (_, list) = self.lists.range(..=key).next_back()?;
        let same = list.entries[list.position(key)..].iter().take_while(|entry| entry.key == *key);
        let both = same.filter(|entry| now < entry.period().end()).map(Entry::tombstone);
        both.reduce(Tombstone::and)
    }

    /// Adds the versions in `tombstone` to those of `key` that are over, as far as they are newer and needed. Returns
    /// whether there were any.
    pub(super) fn add(&mut self, now: Now, key: Key, tombstone: Tombstone) -> bool {
        let plain = tombstone.plain.map(|version| (Class::Plain, version));
        let signed = tombstone.signed.map(|version| (Class::Signed, version));
        let mut is_changed = false;
        for (class, version) in [plain, signed].into_iter().flatten() {
            let lapses = now.mono + Tombstone::of_class(class, version).lapses().since(now.wall);
            if lapses > now.mono {
                is_changed |= self.set(now.mono, Entry::new(key, class, version, Period::of(lapses)));
            }
        }
        is_changed
    }

    /// Removes the tombstone that lapses first, now or later: one of those that lapse in the earliest period.
    pub(super) fn take_oldest(&mut self) -> Option<Key> {
        let (&period, _) = self.periods.first_key_value()?;
        let found = self.first_of(period, self.last_removed).or_else(|| self.first_of(period, FIRST_KEY));
        let (list, at) = found.expect("a period that is counted has a tombstone");
        self.last_removed = self.remove(list, at).key;
        Some(self.last_removed)
    }

    /// Removes the tombstones that `which` selects.
    pub(super) fn take_out(&mut self, which: impl Fn(Tombstone) -> bool) -> Vec<(Key, Tombstone)> {
        let all = self.range(FIRST_KEY..=Key::new([u8::MAX; KEY_SIZE]));
        let chosen: Vec<_> = all.filter(|(_, tombstone)| which(*tombstone)).map(|(key, both)| (*key, both)).collect();
        for (key, _) in &chosen {
            while let Some((list, at)) = self.place(key) {
                self.remove(list, at);
            }
        }
        chosen
    }

    /// Removes a tombstone that has lapsed at `now`.
    pub(super) fn take_lapsed(&mut self, now: Time) -> Option<Key> {
        self.next_lapse().filter(|lapse| *lapse <= now).and_then(|_| self.take_oldest())
    }

    pub(super) fn next_lapse(&self) -> Option<Time> {
        self.periods.first_key_value().map(|(period, _)| period.end())
    }

    pub(super) fn range(&self, keys: RangeInclusive<Key>) -> impl Iterator<Item = (&Key, Tombstone)> {
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

    pub(super) fn bytes(&self) -> usize {
        self.len * TOMBSTONE_BYTES
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
            check_number("first lists that are found by another key", usize::from(nth == 0 && *bound != FIRST_KEY), 0)?;
        }
        check_number("tombstones", self.len, len)?;
        check_number("periods with a wrong number of tombstones", usize::from(self.periods != periods), 0)
    }

    /// Sets the newest version of a key and a class that is over, unless a newer one is known, and returns whether it
    /// did.
    fn set(&mut self, now: Time, entry: Entry) -> bool {
        let found = self.lists.range_mut(..=entry.key).next_back();
        let (bound, list) = match found {
            Some((bound, list)) => (*bound, list),
            None => {
                (FIRST_KEY, self.lists.entry(FIRST_KEY).or_insert(List { entries: Vec::new(), earliest: Period::LAST }))
            }
        };
        match list.entries.binary_search_by_key(&(entry.key, entry.class()), |other| (other.key, other.class())) {
            Ok(at) => {
                let before = list.entries[at];
                if now < before.period().end() && before.version() >= entry.version() {
                    return false;
                }
                list.entries[at] = entry;
                list.earliest = list.earliest.min(entry.period());
                self.uncount(before.period());
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
        true
    }

    /// The first tombstone that lapses in `period`, the earliest one, and whose key is not less than `from`: its list
    /// and its position there.
    fn first_of(&mut self, period: Period, from: Key) -> Option<(Key, usize)> {
        let first = self.lists.range(..=from).next_back().map_or(FIRST_KEY, |(bound, _)| *bound);
        for (bound, list) in self.lists.range_mut(first..) {
            if list.earliest > period {
                continue;
            }
            let is_it = |entry: &Entry| entry.period() == period && entry.key >= from;
            if let Some(at) = list.entries.iter().position(is_it) {
                return Some((*bound, at));
            }
            list.earliest = list.entries.iter().map(Entry::period).min().unwrap_or(Period::LAST);
        }
        None
    }

    /// The list with a tombstone of `key`, and its position there.
    fn place(&self, key: &Key) -> Option<(Key, usize)> {
        let (bound, list) = self.lists.range(..=key).next_back()?;
        let at = list.position(key);
        list.entries.get(at).filter(|entry| entry.key == *key).map(|_| (*bound, at))
    }

    fn remove(&mut self, bound: Key, at: usize) -> Entry {
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
    fn split(&mut self, bound: Key) {
        let list = self.lists.get_mut(&bound).expect("the caller has found it");
        let half = list.entries.len() / 2;
        let is_same_key = list.entries[half - 1].key == list.entries[half].key;
        let upper = list.entries.split_off(half + usize::from(is_same_key));
        list.entries.shrink_to(list.entries.len() + room_for(list.entries.len()));
        let (bound, earliest) = (upper[0].key, list.earliest);
        self.lists.insert(bound, List { entries: upper, earliest });
    }

    /// Joins a list that has become too short with the one before it; the first one with the one behind it.
    fn join(&mut self, bound: Key) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::WallTime;
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    type Model = BTreeMap<(Key, Class), (Version, Period)>;

    fn at(secs: u64) -> Now {
        Now { mono: Time::ZERO + Duration::from_secs(secs), wall: WallTime::from_millis(secs * 1_000) }
    }

    /// Keys of which most begin in the same way, as those that a node stores do.
    fn key(number: u16) -> Key {
        let mut bytes = [7; KEY_SIZE];
        bytes[20..22].copy_from_slice(&number.to_be_bytes());
        Key::new(bytes)
    }

    fn add(tombstones: &mut Tombstones, model: &mut Model, now: Now, place: (Key, Class), version: Version) {
        let tombstone = Tombstone::of_class(place.1, version);
        let before = model.get(&place).filter(|(_, period)| now.mono < period.end()).map(|(version, _)| *version);
        let is_newer = tombstone.lapses() > now.wall && before < Some(version);
        assert_eq!(tombstones.add(now, place.0, tombstone), is_newer);
        if is_newer {
            model.insert(place, (version, Period::of(now.mono + tombstone.lapses().since(now.wall))));
        }
    }

    fn assert_same(tombstones: &Tombstones, model: &Model, range: RangeInclusive<Key>) {
        assert_eq!(tombstones.check_invariants(), Ok(()));
        assert_eq!((tombstones.len, tombstones.bytes()), (model.len(), model.len() * TOMBSTONE_BYTES));
        assert_eq!(tombstones.next_lapse(), model.values().map(|(_, period)| period.end()).min());
        let mut expected = BTreeMap::<Key, Tombstone>::new();
        for ((key, class), (version, _)) in model.iter().filter(|((key, _), _)| range.contains(key)) {
            let both = expected.entry(*key).or_default();
            *both = both.and(Tombstone::of_class(*class, *version));
        }
        let found: Vec<(Key, Tombstone)> = tombstones.range(range).map(|(key, both)| (*key, both)).collect();
        assert_eq!(found, expected.into_iter().collect::<Vec<_>>());
    }

    #[test]
    fn many_tombstones_are_found_listed_and_removed_as_in_a_sorted_map() {
        let (mut tombstones, mut model) = (Tombstones::default(), Model::new());
        let mut rng = StdRng::seed_from_u64(1);
        for step in 0..30_000_u32 {
            let now = at(60_000 + u64::from(step));
            let number = rng.random_range(0..6_000);
            // In turn, more are added and more are removed.
            if rng.random_range(0..10) < 2 + 6 * (step / 10_000 % 2) {
                let earliest = model.values().map(|(_, period)| *period).min();
                let removed = if step % 2 == 0 { tombstones.take_oldest() } else { tombstones.take_lapsed(now.mono) };
                let has_lapsed = earliest.is_some_and(|period| period.end() <= now.mono);
                assert_eq!(removed.is_some(), has_lapsed || step % 2 == 0 && earliest.is_some());
                if let Some(key) = removed {
                    let classes = [Class::Plain, Class::Signed].map(|class| (key, class));
                    let place = classes.iter().find(|place| model.get(place).map(|(_, period)| *period) == earliest);
                    model.remove(place.expect("it was one of the oldest"));
                }
            } else {
                let class = if number % 3 == 0 { Class::Signed } else { Class::Plain };
                let class = if rng.random_bool(0.1) { Class::Signed } else { class };
                let version = Version::from_bits(rng.random_range(0..u64::from(step + 1_000) * 1_000) << 16);
                add(&mut tombstones, &mut model, now, (key(number), class), version);
            }
            let both = [Class::Plain, Class::Signed].map(|class| {
                let of_class = model.get(&(key(number), class)).filter(|(_, period)| now.mono < period.end());
                of_class.map_or(Tombstone::default(), |(version, _)| Tombstone::of_class(class, *version))
            });
            let both = Some(both[0].and(both[1])).filter(|both| !both.is_empty());
            assert_eq!(tombstones.find(now.mono, &key(number)), both);
            if step % 100 == 0 {
                let ends = [rng.random_range(0..6_000), rng.random_range(0..6_000)];
                assert_same(&tombstones, &model, key(ends[0])..=key(ends[1]));
            }
        }
        assert!(tombstones.lists.len() > 5, "{}", tombstones.lists.len());
        let lost = |tombstone: Tombstone| tombstone.signed.is_some();
        let taken = tombstones.take_out(lost);
        assert!(taken.len() > 100 && taken.iter().all(|(_, both)| lost(*both)));
        model.retain(|(key, _), _| taken.iter().all(|(taken, _)| taken != key));
        assert_same(&tombstones, &model, FIRST_KEY..=key(u16::MAX));
        while tombstones.take_oldest().is_some() {}
        assert!(tombstones.lists.is_empty() && tombstones.periods.is_empty());
    }
}
