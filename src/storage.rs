//! The records that this node holds: bounded in bytes, read until the exact end of their life.
//!
//! Of the records of a key the largest is held ([`Record::compare`]), so that any order of
//! arrival ends in the same state. A record is not found any more from the moment its life ends,
//! however late the sweep ([`Storage::expire`]) comes to it, and one that the sweep has not met
//! yet never takes the place of a live one. The bound counts what records take in memory, not
//! their values alone.
//!
//! Each record is allocated once and shared by two orders: a hash set by key, which serves every
//! GET, and an ordered set by the end of life, which serves the sweep and every walk. Only the
//! second is ever iterated, so a seed replays a run exactly.
//!
//! What is not decided here: whether a record belongs here (scope), whether its version lies too
//! far ahead, and who else shall have it.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::Bound;
use std::sync::Arc;

use crate::id::{Key, KeySeed, KeySet};
use crate::record::{Rank, Record};
use crate::time::Time;

/// Bytes that a record takes besides its value.
///
/// It is allocated once and its value once more, each with two reference counts and with what
/// the allocator adds (a header, and rounding up). The hash set, with a control byte for each
/// place, and the nodes of the ordered set may both be half empty.
pub const RECORD_OVERHEAD: usize = {
    const REFERENCE_COUNTS: usize = 2 * size_of::<usize>();
    const ALLOCATOR: usize = 16;
    size_of::<Held>() + 2 * (REFERENCE_COUNTS + ALLOCATOR) + 2 * (size_of::<ByKey>() + 1) + 2 * size_of::<ByExpiry>()
};

const _: () = assert!(100 + RECORD_OVERHEAD <= 300, "a million records of 100 bytes shall fit 300 MB");

/// A bounded set of records, one for a key.
#[derive(Debug)]
pub struct Storage {
    by_key: KeySet<ByKey>,
    by_expiry: BTreeSet<ByExpiry>,
    bytes: usize,
    bytes_max: usize,
}

/// A record with the moment its life ends.
#[derive(Debug)]
pub struct Held {
    /// The record.
    pub record: Record,
    /// The first moment at which it is not found any more.
    pub expires: Time,
}

/// What became of a record that was to be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// Exactly this record is held now, whether it was new or not.
    Held,
    /// Nothing changed: a larger one is held, of this rank.
    Larger(Rank),
    /// Nothing changed: its life is over.
    Over,
    /// Nothing changed: the live records leave no room for it.
    Full,
}

/// Where a walk has come to: behind a record, which need not be held any more.
///
/// It shares that record, so a walk that is given up should be dropped with its cursor.
#[derive(Clone, Debug)]
pub struct Cursor(ByExpiry);

impl Storage {
    /// An empty storage for records of `bytes_max` bytes in all, [`RECORD_OVERHEAD`] of each
    /// included. `seed` keys the hash set.
    pub fn new(bytes_max: usize, seed: KeySeed) -> Self {
        Self { by_key: KeySet::with_hasher(seed), by_expiry: BTreeSet::new(), bytes: 0, bytes_max }
    }

    /// The record of `key`, if its life is not over at `now`.
    pub fn find(&self, now: Time, key: &Key) -> Option<&Held> {
        self.held(key).filter(|held| now < held.expires)
    }

    /// Holds `record` until `expires`, unless a larger one is held. Of equal records the one
    /// whose life ends later is kept (`PROTOCOL.md` 3).
    ///
    /// Where room is short, expired records make it, as many as are needed.
    pub fn store(&mut self, now: Time, record: Record, expires: Time) -> Stored {
        if expires <= now {
            return Stored::Over;
        }
        if let Some(held) = self.find(now, &record.key) {
            match record.compare(&held.record) {
                Ordering::Less => return Stored::Larger(held.record.rank()),
                Ordering::Equal if expires <= held.expires => return Stored::Held,
                Ordering::Equal | Ordering::Greater => {}
            }
        }
        let held = Held { record, expires };
        // Each that expires frees at least its overhead: a few hundred make room for any value.
        while !self.has_room_for(&held) {
            if self.expire(now, 1) == 0 {
                return Stored::Full;
            }
        }
        self.remove(&held.record.key);
        self.insert(held);
        Stored::Held
    }

    /// Removes records whose life is over at `now`, at most `max`, those first that ended first;
    /// says how many.
    pub fn expire(&mut self, now: Time, max: usize) -> usize {
        for removed in 0..max {
            let Some(first) = self.by_expiry.first().filter(|first| first.expires <= now) else {
                return removed;
            };
            let key = first.held.record.key;
            self.remove(&key);
        }
        max
    }

    /// When the next record expires; past, if the sweep is behind.
    pub fn next_expiry(&self) -> Option<Time> {
        self.by_expiry.first().map(|first| first.expires)
    }

    /// Records in the order in which they expire, each with the cursor that goes on behind it;
    /// from the first, or from behind `after`.
    ///
    /// Records may come and go between two parts of a walk. One that is held all the while and
    /// keeps its end of life is met exactly once. Expired ones are met until they are swept.
    pub fn walk<'a>(&'a self, after: Option<&Cursor>) -> impl Iterator<Item = (Cursor, &'a Held)> + use<'a> {
        let start = after.map_or(Bound::Unbounded, |Cursor(place)| Bound::Excluded(place));
        self.by_expiry.range((start, Bound::Unbounded)).map(|place| (Cursor(place.clone()), &*place.held))
    }

    /// Records held, those included that expired but were not swept yet.
    pub fn len(&self) -> usize {
        self.by_expiry.len()
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.by_expiry.is_empty()
    }

    /// Bytes that the records take in memory.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The most that [`Storage::bytes`] can become.
    pub fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    /// Checks that both orders hold the same records and that the bytes are what they take,
    /// within the bound. Looks at each record: for the simulator and for tests.
    pub fn check(&self) -> Result<(), StorageFault> {
        let mut found = 0;
        for ByExpiry { expires, held } in &self.by_expiry {
            let key = held.record.key;
            let same = self.by_key.get(&key).is_some_and(|ByKey(other)| Arc::ptr_eq(held, other));
            if !same || *expires != held.expires {
                return Err(StorageFault::Lost { key });
            }
            found += held.bytes();
        }
        if self.by_key.len() != self.by_expiry.len() {
            return Err(StorageFault::Orders { by_key: self.by_key.len(), by_expiry: self.by_expiry.len() });
        }
        if found != self.bytes || found > self.bytes_max {
            return Err(StorageFault::Bytes { found, counted: self.bytes, max: self.bytes_max });
        }
        Ok(())
    }

    fn held(&self, key: &Key) -> Option<&Held> {
        self.by_key.get(key).map(|ByKey(held)| &**held)
    }

    /// Whether `held` fits, in the place of the record of its key if there is one.
    fn has_room_for(&self, held: &Held) -> bool {
        let freed = self.held(&held.record.key).map_or(0, Held::bytes);
        self.bytes - freed + held.bytes() <= self.bytes_max
    }

    fn insert(&mut self, held: Held) {
        self.bytes += held.bytes();
        let held = Arc::new(held);
        self.by_expiry.insert(ByExpiry { expires: held.expires, held: Arc::clone(&held) });
        self.by_key.insert(ByKey(held));
    }

    fn remove(&mut self, key: &Key) {
        if let Some(ByKey(held)) = self.by_key.take(key) {
            self.bytes -= held.bytes();
            self.by_expiry.remove(&ByExpiry { expires: held.expires, held });
        }
    }
}

impl Held {
    fn bytes(&self) -> usize {
        RECORD_OVERHEAD + self.record.value.len()
    }
}

/// What [`Storage::check`] found broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StorageFault {
    /// A record that will expire is not the one that is found under its key.
    Lost {
        /// Its key.
        key: Key,
    },
    /// The two orders hold different numbers of records.
    Orders {
        /// Records by key.
        by_key: usize,
        /// Records by the end of their life.
        by_expiry: usize,
    },
    /// The bytes counted are not those of the records, or they exceed the bound.
    Bytes {
        /// What the records take.
        found: usize,
        /// What was counted.
        counted: usize,
        /// The bound.
        max: usize,
    },
}

impl fmt::Display for StorageFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lost { key } => write!(f, "record {key:.8} expires but is not found under its key"),
            Self::Orders { by_key, by_expiry } => write!(f, "{by_key} records by key, {by_expiry} by expiry"),
            Self::Bytes { found, counted, max } => {
                write!(f, "records take {found} bytes, counted {counted}, expected at most {max}")
            }
        }
    }
}

impl std::error::Error for StorageFault {}

/// A record as the hash set sees it: its key.
#[derive(Debug)]
struct ByKey(Arc<Held>);

impl Borrow<Key> for ByKey {
    fn borrow(&self) -> &Key {
        &self.0.record.key
    }
}

impl Hash for ByKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.record.key.hash(state);
    }
}

impl PartialEq for ByKey {
    fn eq(&self, other: &Self) -> bool {
        self.0.record.key == other.0.record.key
    }
}

impl Eq for ByKey {}

/// A record as the ordered set sees it: the end of its life, and among equal ends its key. The
/// end stands here once more so that few comparisons have to look into the record.
#[derive(Clone, Debug)]
struct ByExpiry {
    expires: Time,
    held: Arc<Held>,
}

impl Ord for ByExpiry {
    fn cmp(&self, other: &Self) -> Ordering {
        let by_key = || self.held.record.key.cmp(&other.held.record.key);
        self.expires.cmp(&other.expires).then_with(by_key)
    }
}

impl PartialOrd for ByExpiry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for ByExpiry {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for ByExpiry {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::VALUE_SIZE_MAX;
    use crate::record::{Class, Ttl, Version, check_of};
    use proptest::prelude::*;
    use std::time::Duration;

    const SEED: KeySeed = KeySeed::new(1, 2);

    fn at(secs: u64) -> Time {
        Time::ZERO + Duration::from_secs(secs)
    }

    fn record(key: u8, version: u64, value: &[u8]) -> Record {
        Record {
            key: Key::new([key; 32]),
            class: Class::Plain,
            version: Version::from_bits(version),
            ttl: Ttl::from_secs(60).expect("not zero"),
            replication: 8,
            check: check_of(value),
            value: value.into(),
        }
    }

    fn roomy() -> Storage {
        Storage::new(usize::MAX, SEED)
    }

    /// Room for `records` records of one byte.
    fn room_for(records: usize) -> Storage {
        Storage::new(records * (RECORD_OVERHEAD + 1), SEED)
    }

    fn found(storage: &Storage, now: Time, key: u8) -> Option<&[u8]> {
        storage.find(now, &Key::new([key; 32])).map(|held| &held.record.value[..])
    }

    #[test]
    fn a_record_is_gone_at_the_exact_end_of_its_life_though_nobody_swept() {
        let mut storage = roomy();
        assert_eq!(storage.store(at(5), record(1, 1, b"a"), at(6)), Stored::Held);
        assert_eq!(found(&storage, Time::from_nanos(5_999_999_999), 1), Some(&b"a"[..]));
        assert_eq!(found(&storage, at(6), 1), None);
        assert_eq!(storage.len(), 1, "it is still there, unread");
    }

    #[test]
    fn the_larger_record_is_held_whichever_comes_first() {
        for versions in [[1, 2], [2, 1]] {
            let mut storage = roomy();
            for version in versions {
                storage.store(at(0), record(1, version, b"v"), at(60));
            }
            let held = storage.find(at(1), &Key::new([1; 32])).expect("it is held");
            assert_eq!(held.record.version, Version::from_bits(2));
        }
    }

    #[test]
    fn whoever_offers_a_smaller_record_learns_the_rank_of_the_larger() {
        let mut storage = roomy();
        let larger = record(1, 2, b"new");
        let rank = larger.rank();
        storage.store(at(0), larger, at(60));
        assert_eq!(storage.store(at(1), record(1, 1, b"old"), at(600)), Stored::Larger(rank));
        assert_eq!(storage.next_expiry(), Some(at(60)), "a smaller record prolongs nothing");
    }

    #[test]
    fn a_larger_record_that_has_expired_stops_nobody() {
        let mut storage = roomy();
        storage.store(at(0), record(1, 2, b"new"), at(10));
        assert_eq!(storage.store(at(10), record(1, 1, b"old"), at(60)), Stored::Held);
        assert_eq!(found(&storage, at(10), 1), Some(&b"old"[..]));
        assert_eq!(storage.check(), Ok(()));
    }

    #[test]
    fn of_equal_records_the_later_end_of_life_is_kept() {
        for ends in [[20, 30], [30, 20]] {
            let mut storage = roomy();
            for end in ends {
                assert_eq!(storage.store(at(0), record(1, 1, b"v"), at(end)), Stored::Held);
            }
            assert_eq!(storage.next_expiry(), Some(at(30)));
            assert_eq!(storage.len(), 1);
        }
    }

    #[test]
    fn a_record_whose_life_is_over_changes_nothing() {
        let mut storage = roomy();
        storage.store(at(0), record(1, 1, b"v"), at(60));
        assert_eq!(storage.store(at(5), record(1, 2, b"w"), at(5)), Stored::Over);
        assert_eq!(found(&storage, at(5), 1), Some(&b"v"[..]));
    }

    #[test]
    fn a_full_storage_takes_no_new_key_but_replaces_a_record_by_one_of_its_size() {
        let mut storage = room_for(2);
        storage.store(at(0), record(1, 1, b"a"), at(60));
        storage.store(at(0), record(2, 1, b"b"), at(60));
        assert_eq!(storage.bytes(), storage.bytes_max());
        assert_eq!(storage.store(at(1), record(3, 1, b"c"), at(60)), Stored::Full);
        assert_eq!(storage.store(at(1), record(1, 2, b"d"), at(60)), Stored::Held);
        assert_eq!(storage.store(at(1), record(1, 3, b"ef"), at(60)), Stored::Full);
        assert_eq!(found(&storage, at(1), 1), Some(&b"d"[..]), "what does not fit displaces nothing");
        assert_eq!(storage.check(), Ok(()));
    }

    #[test]
    fn expired_records_make_room_without_a_sweep() {
        let mut storage = room_for(2_000);
        for n in 0..2_000_u16 {
            let [high, low] = n.to_be_bytes();
            let mut small = record(0, 1, b"s");
            let mut key = [0; 32];
            (key[0], key[1]) = (high, low);
            small.key = Key::new(key);
            assert_eq!(storage.store(at(0), small, at(10)), Stored::Held);
        }
        let largest = record(9, 1, &vec![7; VALUE_SIZE_MAX]);
        assert_eq!(storage.store(at(9), largest.clone(), at(60)), Stored::Full);
        assert_eq!(storage.store(at(10), largest, at(60)), Stored::Held);
        assert!(storage.len() > 1_000, "no more were swept than were in the way");
        assert_eq!(storage.check(), Ok(()));
    }

    #[test]
    fn a_sweep_takes_the_first_that_ended_and_no_more_than_it_may() {
        let mut storage = roomy();
        for key in 1..=5 {
            storage.store(at(0), record(key, 1, b"v"), at(u64::from(key)));
        }
        assert_eq!(storage.expire(at(3), 2), 2);
        assert_eq!(storage.next_expiry(), Some(at(3)));
        assert_eq!(storage.expire(at(3), 2), 1);
        assert_eq!(storage.expire(at(3), 2), 0);
        assert_eq!(storage.len(), 2);
        assert_eq!(storage.expire(at(9), 9), 2);
        assert!(storage.is_empty());
        assert_eq!((storage.bytes(), storage.next_expiry()), (0, None));
    }

    #[test]
    fn a_walk_goes_on_behind_a_record_that_is_gone() {
        let mut storage = roomy();
        for key in 1..=4 {
            storage.store(at(0), record(key, 1, b"v"), at(10));
        }
        let (cursor, second) = storage.walk(None).nth(1).expect("four are held");
        assert_eq!(second.record.key, Key::new([2; 32]));
        storage.store(at(1), record(2, 2, b"w"), at(20));
        storage.store(at(1), record(3, 2, b"w"), at(5));
        let rest: Vec<Key> = storage.walk(Some(&cursor)).map(|(_, held)| held.record.key).collect();
        assert_eq!(rest, [Key::new([4; 32]), Key::new([2; 32])]);
    }

    /// What storage promises, in the plainest words: a list of live records.
    struct Model {
        held: Vec<(Record, Time)>,
        bytes_max: usize,
    }

    impl Model {
        fn store(&mut self, now: Time, record: Record, expires: Time) -> Stored {
            self.held.retain(|(_, end)| *end > now);
            if expires <= now {
                return Stored::Over;
            }
            let same = self.held.iter().position(|(held, _)| held.key == record.key);
            if let Some(at) = same {
                let (held, end) = &self.held[at];
                match record.compare(held) {
                    Ordering::Less => return Stored::Larger(held.rank()),
                    Ordering::Equal if expires <= *end => return Stored::Held,
                    _ => {}
                }
            }
            let others = self.held.iter().filter(|(held, _)| held.key != record.key);
            let bytes: usize = others.map(|(held, _)| RECORD_OVERHEAD + held.value.len()).sum();
            if bytes + RECORD_OVERHEAD + record.value.len() > self.bytes_max {
                return Stored::Full;
            }
            self.held.retain(|(held, _)| held.key != record.key);
            self.held.push((record, expires));
            Stored::Held
        }

        /// Live records in the order in which they expire.
        fn walk(&self, now: Time) -> Vec<(Time, Record)> {
            let live = self.held.iter().filter(|(_, end)| *end > now);
            let mut live: Vec<_> = live.map(|(record, end)| (*end, record.clone())).collect();
            live.sort_by_key(|(end, record)| (*end, record.key));
            live
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Store { key: u8, version: u64, value: Vec<u8>, life: u64 },
        Wait { secs: u64 },
        Expire { max: usize },
    }

    fn step() -> impl Strategy<Value = Step> {
        let value = proptest::collection::vec(0..2_u8, 1..4);
        prop_oneof![
            6 => (0..6_u8, 0..3_u64, value, 0..6_u64)
                .prop_map(|(key, version, value, life)| Step::Store { key, version, value, life }),
            2 => (0..3_u64).prop_map(|secs| Step::Wait { secs }),
            1 => (0..3_usize).prop_map(|max| Step::Expire { max }),
        ]
    }

    proptest! {
        #[test]
        fn storage_does_what_a_list_of_live_records_would(
            steps in proptest::collection::vec(step(), 1..80),
            room in 0..5 * (RECORD_OVERHEAD + 2),
        ) {
            let mut storage = Storage::new(room, SEED);
            let mut model = Model { held: Vec::new(), bytes_max: room };
            let mut now = at(0);
            for step in steps {
                match step {
                    Step::Store { key, version, value, life } => {
                        let record = record(key, version, &value);
                        let expires = now + Duration::from_secs(life);
                        let stored = storage.store(now, record.clone(), expires);
                        prop_assert_eq!(stored, model.store(now, record, expires));
                    }
                    Step::Wait { secs } => now = now + Duration::from_secs(secs),
                    Step::Expire { max } => {
                        let over = storage.walk(None).filter(|(_, held)| held.expires <= now).count();
                        prop_assert_eq!(storage.expire(now, max), over.min(max));
                    }
                }
                prop_assert_eq!(storage.check(), Ok(()));
                prop_assert_eq!(storage.next_expiry(), storage.walk(None).map(|(_, held)| held.expires).next());
                let live = storage.walk(None).filter(|(_, held)| now < held.expires);
                let live: Vec<_> = live.map(|(_, held)| (held.expires, held.record.clone())).collect();
                prop_assert_eq!(&live, &model.walk(now));
                for key in (0..6).map(|key| Key::new([key; 32])) {
                    let expected = live.iter().find(|(_, record)| record.key == key);
                    let found = storage.find(now, &key).map(|held| (held.expires, held.record.clone()));
                    prop_assert_eq!(found.as_ref(), expected);
                }
            }
        }

        #[test]
        fn a_walk_in_parts_meets_what_a_walk_in_one_meets(ends in proptest::collection::vec(1..5_u64, 0..20), part in 1..5_usize) {
            let mut storage = roomy();
            for (key, end) in (0..).zip(ends) {
                storage.store(at(0), record(key, 1, b"v"), at(end));
            }
            let whole: Vec<Key> = storage.walk(None).map(|(_, held)| held.record.key).collect();
            let mut met = Vec::new();
            let mut cursor = None;
            while met.len() < whole.len() {
                let from = met.len();
                for (behind, held) in storage.walk(cursor.as_ref()).take(part).collect::<Vec<_>>() {
                    met.push(held.record.key);
                    cursor = Some(behind);
                }
                prop_assert!(met.len() > from, "a walk goes on until its end");
            }
            prop_assert_eq!(met, whole);
        }
    }
}
