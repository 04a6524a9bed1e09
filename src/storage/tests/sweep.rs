//! When the sweep looks at records: at the end of the quarter of a second in which they are due.

use super::*;

/// Both clocks `tenths` tenths of a second after their common start.
fn at(tenths: u64) -> Now {
    Now { mono: mono(tenths), wall: WallTime::from_millis(tenths * 100) }
}

fn mono(tenths: u64) -> Time {
    Time::ZERO + Duration::from_millis(tenths * 100)
}

/// A storage with the record 1, whose life ends at `end` tenths of a second. It is due then.
fn holding(mut storage: Storage, end: u64) -> Storage {
    assert_eq!(storage.store(at(0), record(1, 1, b"v"), mono(end), mono(end), Source::Peer, |_| true), Stored::Held);
    storage
}

#[test]
fn a_record_that_has_ended_is_not_found_and_has_its_tombstone_before_the_sweep_looks_at_it() {
    let mut storage = holding(unbounded(), 101);
    assert_eq!(found(&storage, at(100), 1), Some(&b"v"[..]));
    assert_eq!((found(&storage, at(101), 1), plain_tombstone(&storage, at(101), 1)), (None, Some(1)));
    assert_eq!(storage.next_due(), Some(Time::ZERO + Duration::from_millis(10_250)));
    storage.sweep(at(102), 9);
    assert_eq!(storage.len(), 1, "its quarter of a second has not ended");
    storage.sweep(at(103), 9);
    assert_eq!((storage.len(), plain_tombstone(&storage, at(103), 1)), (0, Some(1)));
}

#[test]
fn a_record_that_has_ended_gives_way_before_the_sweep_looks_at_it() {
    let mut storage = holding(room_for(1), 101);
    let mut store = |now| storage.store(now, record(2, 1, b"w"), mono(600), mono(600), Source::Peer, |_| true);
    assert_eq!(store(at(100)), Stored::Full);
    assert_eq!(store(at(101)), Stored::Held);
}

#[test]
fn a_due_time_is_rounded_up_and_one_of_the_same_quarter_of_a_second_is_not_earlier() {
    let mut storage = holding(unbounded(), 101);
    let state = |storage: &Storage| {
        let held = storage.find(mono(0), &key(1)).expect("it lives");
        (held.due(), held.heard_from())
    };
    assert_eq!(state(&storage), (mono(101), 0), "no later than its end");
    storage.schedule(&key(1), mono(52));
    let rounded = Time::ZERO + Duration::from_millis(5_250);
    storage.heard(&key(1), &NodeId::new(key(3)));
    assert_eq!(state(&storage), (rounded, 1));
    storage.hasten(&key(1), mono(51));
    assert_eq!(state(&storage), (rounded, 1), "nothing has changed");
    storage.hasten(&key(1), mono(50));
    assert_eq!(state(&storage), (mono(50), 0));
}

/// Of the records that are due in the same quarter of a second, the one that came to it last.
#[test]
fn the_sweep_names_records_in_a_fixed_order() {
    let mut storage = unbounded();
    for (number, due) in [(1, 99), (2, 100), (3, 51), (4, 98)] {
        storage.store(at(0), record(number, 1, b"v"), mono(600), mono(due), Source::Peer, |_| true);
    }
    storage.schedule(&key(3), mono(50));
    assert_eq!(storage.sweep(at(100), 9), [3, 4, 2, 1].map(key));
}

/// A record is scheduled, or is replaced by one with another due time; or time passes. In tenths of a second.
#[derive(Clone, Debug)]
enum Change {
    Schedule { number: u8, wait: u64 },
    Replace { number: u8, wait: u64 },
    Wait { tenths: u64 },
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        (0..9_u8, 0..40_u64).prop_map(|(number, wait)| Change::Schedule { number, wait }),
        (0..9_u8, 0..40_u64).prop_map(|(number, wait)| Change::Replace { number, wait }),
        (0..20_u64).prop_map(|tenths| Change::Wait { tenths }),
    ]
}

proptest! {
    /// Sweeps that look at few records find, one after the other, all records whose ticks have ended in which they are
    /// due, and no others.
    #[test]
    fn each_record_is_named_at_the_end_of_the_quarter_of_a_second_in_which_it_is_due_and_never_before(
        changes in proptest::collection::vec(change(), 1..200),
        max in 1..4_usize,
    ) {
        let mut storage = unbounded();
        let mut due = std::collections::BTreeMap::new();
        let mut now = 0;
        for (version, next) in (1..).zip(changes) {
            match next {
                Change::Schedule { number, wait } => {
                    storage.schedule(&key(number), mono(now + wait));
                    due.entry(number).and_modify(|due| *due = now + wait);
                }
                Change::Replace { number, wait } => {
                    let larger = record(number, version, b"v");
                    storage.store(at(now), larger, mono(99_999), mono(now + wait), Source::Peer, |_| true);
                    due.insert(number, now + wait);
                }
                Change::Wait { tenths } => now += tenths,
            }
            let mut named = Vec::new();
            for _ in 0..due.len() {
                named.extend(storage.sweep(at(now), max));
            }
            named.sort();
            let has_ended = |due: u64| (due * 2).div_ceil(5) * 5 <= now * 2;
            let expected: Vec<u8> = due.iter().filter(|(_, due)| has_ended(**due)).map(|(number, _)| *number).collect();
            prop_assert_eq!(named, expected.iter().copied().map(key).collect::<Vec<_>>());
            for number in expected {
                due.insert(number, 99_999);
            }
            prop_assert!(storage.next_due().is_none_or(|next| mono(now) < next));
            prop_assert_eq!(storage.check_invariants(), Ok(()));
        }
    }
}
