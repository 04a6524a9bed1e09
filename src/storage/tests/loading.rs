//! A storage whose indexes are built when its records are loaded, compared with one that keeps them all the time.

use super::*;

#[derive(Clone, Debug)]
enum Step {
    /// A record of this key, version and age in seconds is restored, and is due at this second.
    Restore(u8, u64, u8, Option<u64>),
    /// The record of this key is due at this second.
    Schedule(u8, u64),
    /// The plain version of this key is over.
    Bury(u8, u64),
}

/// Keys that differ in the first byte, in the last one, or in both.
fn spread(number: u8) -> Key {
    let mut bytes = [0; KEY_SIZE];
    (bytes[0], bytes[KEY_SIZE - 1]) = (number / 4 * 85, number % 4);
    Key::new(bytes)
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let (key, version) = (0..16_u8, 1..4_u64);
    let step = prop_oneof![
        4 => (key.clone(), version.clone(), 0..70_u8, proptest::option::of(0..70_u64))
            .prop_map(|(key, version, age, due)| Step::Restore(key, version, age, due)),
        2 => (key.clone(), 0..70_u64).prop_map(|(key, at)| Step::Schedule(key, at)),
        1 => (key, version).prop_map(|(key, version)| Step::Bury(key, version)),
    ];
    proptest::collection::vec(step, 0..60)
}

fn apply(storage: &mut Storage, step: &Step) {
    let now = at(0);
    match *step {
        Step::Restore(number, version, age, due) => {
            let record = Record { key: spread(number), ..record(0, version, b"v") };
            storage.restore(now, record, Age(u32::from(age) * 1_000), due.map(mono), Source::Peer);
        }
        Step::Schedule(number, secs) => storage.schedule(&spread(number), mono(secs)),
        Step::Bury(number, version) => {
            let plain = Some(Version::from_bits(version));
            storage.bury(now, spread(number), Tombstone { signed: None, plain });
        }
    }
}

/// Everything that shows in which order a storage has its records.
fn orders(storage: &mut Storage) -> (Vec<Key>, Vec<Key>, Vec<Vec<Key>>) {
    let walked = storage.walk(None).map(|held| held.record.key).collect();
    let point = spread(7);
    let farthest = storage.records.farthest(point).map(|(_, held)| held.record.key).collect();
    let swept = (0..=70).map(|secs| {
        assert_eq!(storage.next_due().filter(|due| *due < mono(secs)), None, "nothing is late");
        let mut due = storage.sweep(at(secs), usize::MAX >> 1);
        due.sort_unstable();
        due
    });
    (walked, farthest, swept.collect())
}

proptest! {
    #[test]
    fn a_storage_that_was_loaded_is_like_one_that_was_filled(
        loaded in steps(),
        later in steps(),
        room in 1..40_usize,
        expected in 0..2_000_usize,
    ) {
        let mut pair = [room_for(room), room_for(room)];
        pair[0].begin_loading(expected);
        let mut changed = [Vec::new(), Vec::new()];
        for (steps, is_loading) in [(loaded, true), (later, false)] {
            for storage in &mut pair {
                for step in &steps {
                    apply(storage, step);
                }
                storage.finish_loading();
                prop_assert_eq!(storage.check_invariants(), Ok(()), "{}", is_loading);
            }
        }
        for (storage, changed) in pair.iter_mut().zip(&mut changed) {
            storage.take_changed(changed);
        }
        prop_assert_eq!(&changed[0], &changed[1]);
        let [loaded, filled] = &mut pair;
        prop_assert_eq!(loaded.bytes(), filled.bytes());
        prop_assert_eq!(orders(loaded), orders(filled));
    }
}

#[test]
fn a_storage_with_records_is_not_loaded() {
    let mut storage = unbounded();
    store(&mut storage, at(0), record(1, 1, b"v"), 60);
    storage.begin_loading(3);
    assert_eq!(storage.walk(None).count(), 1);
}

#[test]
fn a_restored_record_that_changes_nothing_else_is_told_from_one_that_does() {
    let mut storage = room_for(2);
    let mut restore = |n| {
        let is_alone = storage.restore(at(0), record(n, 1, b"v"), Age(0), None, Source::Peer);
        let mut changed = Vec::new();
        storage.take_changed(&mut changed);
        if n == 1 {
            storage.bury(at(0), key(9), Tombstone { signed: None, plain: Some(Version::from_bits(1)) });
            storage.forget_changed();
        }
        (is_alone, changed)
    };
    assert_eq!(restore(1), (true, vec![key(1)]));
    assert_eq!(restore(2), (false, vec![key(2), key(9)]), "the tombstone gives way");
    assert_eq!(restore(2), (false, vec![]), "it is stored already");
    assert_eq!(restore(3), (false, vec![]), "there is no room");
    let without_room = WithoutRoom { records: 1, bytes: RECORD_OVERHEAD + 1 };
    assert_eq!(storage.without_room(), without_room, "what is stored already does not count");
}
