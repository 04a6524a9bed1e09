//! The tombstones of a storage.
//!
//! A tombstone is *young* for about an hour: its key is known, so it can be listed. Then it turns *old*: a fingerprint
//! stands for the key ([`crate::record::fingerprint`]), and it is found only by someone who names the key. Both
//! are kept in `sorted`.
//!
//! Memory: a young tombstone takes [`TOMBSTONE_BYTES`], an old one [`OLD_TOMBSTONE_BYTES`].

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use crate::id::Key;
use crate::record::fingerprint::{Epoch, Fingerprint, FingerprintKey, OldTombstone};
use crate::record::{Tombstone, TombstoneClass};
use crate::storage::sorted::{Added, Entry, Name, Period, Sorted, bytes_per_tombstone};
use crate::storage::{StorageFault, check_number};
use crate::time::{Now, Time};

/// Bytes of memory that a young tombstone of one class takes.
pub const TOMBSTONE_BYTES: usize = bytes_per_tombstone::<Key>();

/// Bytes of memory that an old tombstone takes.
pub const OLD_TOMBSTONE_BYTES: usize = bytes_per_tombstone::<Fingerprint>();

/// Tombstones that turn old in one step, at most: as much work as a sweep may have.
const TURNED_MAX: usize = 256;

/// Lists that one step looks at: some 200 kB, in 50 µs.
const LISTS_PER_STEP: usize = 48;

/// Young and old tombstones.
#[derive(Debug, Default)]
pub(super) struct Tombstones {
    young: Sorted<Key>,
    old: Sorted<Fingerprint>,
    fingerprint_key: FingerprintKey,
    /// The number of old tombstones in each epoch that has any.
    epochs: BTreeMap<Epoch, usize>,
    /// Where the next step looks for young tombstones that turn old; `None` if a round begins with it.
    next: Option<Key>,
}

/// A tombstone that was removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Removed {
    Young(Key),
    Old,
}

/// What one step of turning tombstones old has done.
#[derive(Debug, Default)]
pub struct TurnedOld {
    /// The tombstones that are old now.
    pub tombstones: Vec<OldTombstone>,
    /// Whether all young tombstones were looked at since the round began.
    pub is_round_done: bool,
}

fn old_of(entry: &Entry<Fingerprint>) -> OldTombstone {
    OldTombstone { fingerprint: entry.key, class: entry.class(), version: entry.version() }
}

impl Tombstones {
    /// What keys the fingerprints.
    pub(super) fn fingerprint_key(&self) -> FingerprintKey {
        self.fingerprint_key
    }

    /// Sets what keys the fingerprints, before there is any.
    pub(super) fn set_fingerprint_key(&mut self, key: FingerprintKey) {
        assert!(self.old.is_empty(), "all fingerprints are of one key");
        self.fingerprint_key = key;
    }

    /// The tombstone of `key`, unless it has lapsed at `now`.
    #[inline]
    pub(super) fn find(&self, now: Time, key: &Key) -> Option<Tombstone> {
        let both = [self.find_young(now, key), self.find_old(now, key)];
        both.into_iter().flatten().reduce(Tombstone::and)
    }

    /// The same, if it is young.
    #[inline]
    pub(super) fn find_young(&self, now: Time, key: &Key) -> Option<Tombstone> {
        if self.young.is_empty() { None } else { self.find_young_among_others(now, key) }
    }

    #[inline(never)]
    fn find_young_among_others(&self, now: Time, key: &Key) -> Option<Tombstone> {
        self.young.find(now, key)
    }

    /// The same, if it is old. It may be that of another key with the same fingerprint.
    #[inline]
    pub(super) fn find_old(&self, now: Time, key: &Key) -> Option<Tombstone> {
        if self.old.is_empty() { None } else { self.find_old_among_others(now, key) }
    }

    #[inline(never)]
    fn find_old_among_others(&self, now: Time, key: &Key) -> Option<Tombstone> {
        self.old.find(now, &Fingerprint::of(self.fingerprint_key, key))
    }

    /// Adds the versions in `tombstone` to those of `key` that are over, as far as they are newer and needed. Returns
    /// whether there were any.
    pub(super) fn add(&mut self, now: Now, key: Key, tombstone: Tombstone) -> bool {
        let old = self.find_old(now.mono, &key).unwrap_or_default();
        let plain = tombstone.plain.filter(|version| old.plain < Some(*version));
        let signed = tombstone.signed.filter(|version| old.signed < Some(*version));
        let plain = plain.map(|version| (TombstoneClass::Plain, version));
        let signed = signed.map(|version| (TombstoneClass::Signed, version));
        let mut is_changed = false;
        for (class, version) in [plain, signed].into_iter().flatten() {
            let lapses = now.mono + Tombstone::of_class(class, version).lapses().since(now.wall);
            if lapses > now.mono {
                let entry = Entry::new(key, class, version, Period::of(now.mono), Period::of(lapses));
                is_changed |= matches!(self.young.set(now.mono, entry), Added::InPlaceOf(_));
            }
        }
        is_changed
    }

    /// Adds an old tombstone, unless it is not needed.
    pub(super) fn add_old(&mut self, now: Now, old: OldTombstone) {
        let OldTombstone { fingerprint, class, version } = old;
        let lapses = now.mono + old.tombstone().lapses().since(now.wall);
        if lapses > now.mono {
            self.set_old(now.mono, Entry::new(fingerprint, class, version, Period::of(now.mono), Period::of(lapses)));
        }
    }

    fn set_old(&mut self, now: Time, entry: Entry<Fingerprint>) {
        if let Added::InPlaceOf(before) = self.old.set(now, entry) {
            *self.epochs.entry(Epoch::of(entry.version())).or_default() += 1;
            if let Some(before) = before {
                self.uncount(Epoch::of(before.version()));
            }
        }
    }

    fn uncount(&mut self, epoch: Epoch) {
        let count = self.epochs.get_mut(&epoch).expect("the epoch of each old tombstone is counted");
        *count -= 1;
        if *count == 0 {
            self.epochs.remove(&epoch);
        }
    }

    /// Turns the next young tombstones old that are due, in a step of bounded work. Adds their keys to `keys`.
    pub(super) fn turn_old(&mut self, now: Time, keys: &mut Vec<Key>) -> TurnedOld {
        let from = self.next.unwrap_or(Key::FIRST);
        let (aged, next) = self.young.aged(Period::of(now), from, LISTS_PER_STEP, TURNED_MAX);
        self.next = next;
        let mut turned = TurnedOld { tombstones: Vec::with_capacity(aged.len()), is_round_done: next.is_none() };
        for entry in aged.into_iter().filter(|entry| now < entry.period().end()) {
            let old = entry.renamed(Fingerprint::of(self.fingerprint_key, &entry.key));
            self.young.take(&entry);
            self.set_old(now, old);
            keys.push(entry.key);
            turned.tombstones.push(old_of(&old));
        }
        turned
    }

    /// Whether there is a young tombstone.
    pub(super) fn has_young(&self) -> bool {
        !self.young.is_empty()
    }

    /// Removes the tombstone that lapses first, now or later: one of those that lapse in the earliest period.
    pub(super) fn take_oldest(&mut self) -> Option<Removed> {
        let is_old_first = match (self.old.next_lapse(), self.young.next_lapse()) {
            (Some(old), Some(young)) => old <= young,
            (old, _) => old.is_some(),
        };
        if is_old_first {
            let entry = self.old.take_oldest()?;
            self.uncount(Epoch::of(entry.version()));
            return Some(Removed::Old);
        }
        self.young.take_oldest().map(|entry| Removed::Young(entry.key))
    }

    /// Removes a tombstone that has lapsed at `now`.
    pub(super) fn take_lapsed(&mut self, now: Time) -> Option<Removed> {
        self.next_lapse().filter(|lapse| *lapse <= now).and_then(|_| self.take_oldest())
    }

    pub(super) fn next_lapse(&self) -> Option<Time> {
        Time::first_of([self.young.next_lapse(), self.old.next_lapse()])
    }

    /// Removes the young tombstones that `which` selects.
    pub(super) fn take_out(&mut self, which: impl Fn(Tombstone) -> bool) -> Vec<(Key, Tombstone)> {
        self.young.take_out(which)
    }

    /// Removes the old tombstones that `which` selects.
    pub(super) fn take_out_old(&mut self, which: impl Fn(Tombstone) -> bool) -> Vec<OldTombstone> {
        let mut taken = Vec::new();
        for (fingerprint, both) in self.old.take_out(which) {
            let versions = [(TombstoneClass::Plain, both.plain), (TombstoneClass::Signed, both.signed)];
            for (class, version) in versions.into_iter().filter_map(|(class, version)| Some((class, version?))) {
                self.uncount(Epoch::of(version));
                taken.push(OldTombstone { fingerprint, class, version });
            }
        }
        taken
    }

    /// The young tombstones of a range of keys, in their order.
    pub(super) fn range(&self, keys: RangeInclusive<Key>) -> impl Iterator<Item = (&Key, Tombstone)> {
        self.young.range(keys)
    }

    /// The first `max` old tombstones behind one of them, or from the first one on, in the order of (fingerprint, class).
    pub(super) fn old_behind(&self, after: Option<OldTombstone>, max: usize) -> Vec<OldTombstone> {
        let after = after.map(|old| (old.fingerprint, old.class));
        self.old.behind(after, max).iter().map(old_of).collect()
    }

    /// The epochs that have old tombstones.
    pub(super) fn epochs(&self) -> impl Iterator<Item = Epoch> {
        self.epochs.keys().copied()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.young.is_empty() && self.old.is_empty()
    }

    pub(super) fn bytes(&self) -> usize {
        self.young.bytes() + self.old.bytes()
    }

    pub(super) fn check_invariants(&self) -> Result<(), StorageFault> {
        self.young.check_invariants()?;
        self.old.check_invariants()?;
        let mut epochs = BTreeMap::new();
        for entry in self.old.behind(None, usize::MAX) {
            *epochs.entry(Epoch::of(entry.version())).or_default() += 1;
        }
        check_number("epochs with a wrong number of old tombstones", usize::from(self.epochs != epochs), 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::KEY_SIZE;
    use crate::record::Version;
    use crate::time::WallTime;
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};
    use std::time::Duration;

    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
    enum Age {
        Old,
        Young,
    }

    /// A place, and the version, the period, and the moment at which the tombstone was added.
    type Model = BTreeMap<(Key, TombstoneClass, Age), (Version, Period, Time)>;

    const CLASSES: [TombstoneClass; 2] = [TombstoneClass::Plain, TombstoneClass::Signed];

    fn at(secs: u64) -> Now {
        Now { mono: Time::ZERO + Duration::from_secs(secs), wall: WallTime::from_millis(secs * 1_000) }
    }

    /// Keys of which most begin in the same way, as those that a node stores do.
    fn key(number: u16) -> Key {
        let mut bytes = [7; KEY_SIZE];
        bytes[20..22].copy_from_slice(&number.to_be_bytes());
        Key::new(bytes)
    }

    /// The newest version of a key and a class that has not lapsed.
    fn known(model: &Model, now: Time, key: Key, class: TombstoneClass) -> Option<Version> {
        let both = [Age::Old, Age::Young].into_iter().filter_map(|age| model.get(&(key, class, age)));
        both.filter(|(_, period, _)| now < period.end()).map(|(version, ..)| *version).max()
    }

    fn add(tombstones: &mut Tombstones, model: &mut Model, now: Now, place: (Key, TombstoneClass), version: Version) {
        let tombstone = Tombstone::of_class(place.1, version);
        let is_newer = tombstone.lapses() > now.wall && known(model, now.mono, place.0, place.1) < Some(version);
        assert_eq!(tombstones.add(now, place.0, tombstone), is_newer);
        if is_newer {
            let period = Period::of(now.mono + tombstone.lapses().since(now.wall));
            model.insert((place.0, place.1, Age::Young), (version, period, now.mono));
        }
    }

    /// Turns tombstones old until a round is done. Each tombstone is young for 49 to 51 minutes, and does not grow older
    /// than this round.
    fn turn_old(tombstones: &mut Tombstones, model: &mut Model, now: Time) {
        let mut steps = 0;
        loop {
            let mut keys = Vec::new();
            let turned = tombstones.turn_old(now, &mut keys);
            steps += 1;
            assert!(turned.tombstones.len() <= TURNED_MAX && keys.len() == turned.tombstones.len() && steps < 1_000);
            for (key, old) in keys.into_iter().zip(turned.tombstones) {
                let OldTombstone { fingerprint, class, version } = old;
                assert_eq!(fingerprint, Fingerprint::of(tombstones.fingerprint_key, &key));
                let young = model.remove(&(key, class, Age::Young)).expect("it was young");
                assert!(young.0 == version && now.since(young.2) >= Duration::from_mins(49));
                let before = model.get(&(key, class, Age::Old));
                if before.is_none_or(|(before, period, _)| *before < version || period.end() <= now) {
                    model.insert((key, class, Age::Old), young);
                }
            }
            if turned.is_round_done {
                break;
            }
        }
        let young = model.iter().filter(|((.., age), (_, period, _))| *age == Age::Young && now < period.end());
        assert!(young.into_iter().all(|(_, (.., added))| now.since(*added) <= Duration::from_mins(52)));
    }

    fn assert_same(tombstones: &Tombstones, model: &Model, range: RangeInclusive<Key>) {
        assert_eq!(tombstones.check_invariants(), Ok(()));
        let old = model.keys().filter(|(.., age)| *age == Age::Old).count();
        let bytes = (model.len() - old) * TOMBSTONE_BYTES + old * OLD_TOMBSTONE_BYTES;
        assert_eq!((tombstones.old_behind(None, usize::MAX).len(), tombstones.bytes()), (old, bytes));
        assert_eq!(tombstones.next_lapse(), model.values().map(|(_, period, _)| period.end()).min());
        let mut expected = BTreeMap::<Key, Tombstone>::new();
        let young = model.iter().filter(|((key, _, age), _)| *age == Age::Young && range.contains(key));
        for ((key, class, _), (version, ..)) in young {
            let both = expected.entry(*key).or_default();
            *both = both.and(Tombstone::of_class(*class, *version));
        }
        let found: Vec<(Key, Tombstone)> = tombstones.range(range).map(|(key, both)| (*key, both)).collect();
        assert_eq!(found, expected.into_iter().collect::<Vec<_>>());
    }

    /// Removes what the storage of tombstones has removed: one of those that lapse first, old ones before young ones.
    fn remove(tombstones: &Tombstones, model: &mut Model, removed: Removed) {
        let first = model.iter().map(|((.., age), (_, period, _))| (*period, *age)).min().expect("there was one");
        let candidates = model.iter().filter(|((.., age), (_, period, _))| (*period, *age) == first);
        let is_it = |(key, class, age): &(Key, TombstoneClass, Age)| match removed {
            Removed::Young(removed) => *age == Age::Young && *key == removed,
            Removed::Old => {
                let name = Fingerprint::of(tombstones.fingerprint_key, key);
                let left = tombstones.old.find(Time::ZERO, &name).unwrap_or_default();
                let left = if *class == TombstoneClass::Plain { left.plain } else { left.signed };
                *age == Age::Old && left.is_none()
            }
        };
        let place = *candidates.map(|(place, _)| place).find(|place| is_it(place)).expect("it was one of the oldest");
        model.remove(&place);
    }

    #[test]
    fn many_tombstones_turn_old_and_are_found_listed_and_removed_as_in_a_sorted_map() {
        let (mut tombstones, mut model) = (Tombstones::default(), Model::new());
        tombstones.set_fingerprint_key(FingerprintKey::new([9; 16]));
        let mut rng = StdRng::seed_from_u64(1);
        let mut old_max = 0;
        for step in 0..30_000_u32 {
            let now = at(60_000 + u64::from(step));
            let number = rng.random_range(0..6_000);
            // In turn, more are added and more are removed.
            if rng.random_range(0..10) < 2 + 6 * (step / 10_000 % 2) {
                let earliest = model.values().map(|(_, period, _)| *period).min();
                let removed = if step % 2 == 0 { tombstones.take_oldest() } else { tombstones.take_lapsed(now.mono) };
                let has_lapsed = earliest.is_some_and(|period| period.end() <= now.mono);
                assert_eq!(removed.is_some(), has_lapsed || step % 2 == 0 && earliest.is_some());
                if let Some(removed) = removed {
                    remove(&tombstones, &mut model, removed);
                }
            } else {
                let class = CLASSES[usize::from(number % 3 == 0 || rng.random_bool(0.1))];
                let version = Version::from_bits(rng.random_range(0..u64::from(step + 1_000) * 1_000) << 16);
                add(&mut tombstones, &mut model, now, (key(number), class), version);
            }
            let both = CLASSES.map(|class| {
                let newest = known(&model, now.mono, key(number), class);
                newest.map_or(Tombstone::default(), |version| Tombstone::of_class(class, version))
            });
            let both = Some(both[0].and(both[1])).filter(|both| !both.is_empty());
            assert_eq!(tombstones.find(now.mono, &key(number)), both);
            if step % 60 == 0 {
                turn_old(&mut tombstones, &mut model, now.mono);
            }
            if step % 100 == 0 {
                let ends = [rng.random_range(0..6_000), rng.random_range(0..6_000)];
                assert_same(&tombstones, &model, key(ends[0])..=key(ends[1]));
                old_max = old_max.max(tombstones.old_behind(None, usize::MAX).len());
            }
        }
        assert!(old_max > 1_000 && tombstones.has_young(), "{old_max} old ones");
        let lost = |tombstone: Tombstone| tombstone.signed.is_some();
        let taken = tombstones.take_out(lost);
        assert!(taken.len() > 20 && taken.iter().all(|(_, both)| lost(*both)));
        model.retain(|(key, _, age), _| *age == Age::Old || taken.iter().all(|(taken, _)| taken != key));
        assert_same(&tombstones, &model, Key::FIRST..=Key::LAST);
        let taken = tombstones.take_out_old(lost);
        assert!(taken.len() > 20 && taken.iter().any(|old| old.class == TombstoneClass::Signed));
        let name = |key: &Key| Fingerprint::of(tombstones.fingerprint_key, key);
        model.retain(|(key, _, age), _| *age == Age::Young || taken.iter().all(|old| old.fingerprint != name(key)));
        assert_same(&tombstones, &model, Key::FIRST..=Key::LAST);
        while tombstones.take_oldest().is_some() {}
        assert!(tombstones.is_empty() && tombstones.epochs().next().is_none());
    }

    #[test]
    fn old_tombstones_are_listed_in_pieces_each_once() {
        let mut tombstones = Tombstones::default();
        for number in 0..1_000 {
            let [signed, plain] = [1, 2].map(|bits| Some(Version::from_bits(60_000_000 << 16 | bits)));
            tombstones.add(at(60_000), key(number), Tombstone { signed, plain });
        }
        while !tombstones.turn_old(at(63_600).mono, &mut Vec::new()).is_round_done {}
        let (mut listed, mut after) = (Vec::new(), None);
        loop {
            let piece = tombstones.old_behind(after, 7);
            after = piece.last().copied();
            listed.extend(piece);
            if listed.len() % 7 != 0 {
                break;
            }
        }
        assert!(listed.len() == 2_000 && listed == tombstones.old_behind(None, usize::MAX));
        assert!(listed.is_sorted_by_key(|old| (old.fingerprint, old.class)));
    }
}
