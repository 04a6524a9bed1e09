//! Records and wall clocks that are wrong.

use super::*;

/// The moment `secs` seconds after the start, by a wall clock that is 18 hours fast.
fn fast(secs: u64) -> Now {
    Now { mono: mono(secs), wall: WallTime::from_millis((secs + 18 * 3_600) * 1_000) }
}

/// The first moment, in seconds, at which a version of the start is too old for the fast clock.
const TOO_OLD: u64 = 66_135 - 18 * 3_600;

#[test]
fn a_record_whose_version_is_too_old_is_hidden_until_the_clock_is_put_right_or_its_life_ends() {
    let mut storage = unbounded();
    assert_eq!(store(&mut storage, fast(0), record(1, 1, b"v"), 10_000), Stored::Held);
    assert_eq!(store(&mut storage, fast(0), record_of(Class::Hashed, 2, 0, b"h"), 10_000), Stored::Held);
    storage.set_wall(fast(TOO_OLD - 1).wall);
    assert_eq!(found(&storage, fast(TOO_OLD - 1), 1), Some(&b"v"[..]));
    storage.set_wall(fast(TOO_OLD).wall);
    let now = fast(TOO_OLD);
    assert_eq!((found(&storage, now, 1), storage.tombstone(now, &key(1))), (None, None));
    assert_eq!(found(&storage, now, 2), Some(&b"h"[..]), "the version of a hashed record has no time");
    assert_eq!(storage.range(now.mono, key(1)..=key(1)).count(), 0);
    assert!(storage.find_hidden(now.mono, &key(1)).is_some(), "it stays on disk");
    assert_eq!(store(&mut storage, now, record(1, 1, b"v"), 10_000), Stored::Over);
    storage.sweep(now, 9);
    storage.set_wall(at(TOO_OLD).wall);
    assert_eq!(found(&storage, at(TOO_OLD), 1), Some(&b"v"[..]));
    storage.sweep(at(10_000), 9);
    assert_eq!(plain_tombstone(&storage, at(10_000), 1), Some(1));
}

#[test]
fn a_record_that_ends_while_it_is_hidden_leaves_no_tombstone() {
    let mut storage = unbounded();
    store(&mut storage, fast(0), record(1, 1, b"v"), 10_000);
    assert_eq!(storage.tombstone(fast(10_000), &key(1)), None, "not swept");
    storage.sweep(fast(10_000), 9);
    assert_eq!((storage.len(), storage.tombstone(fast(10_000), &key(1))), (0, None));
}

#[test]
fn a_record_that_ends_long_before_its_ttl_has_passed_since_its_version_leaves_no_tombstone() {
    // 60 s of life, and 10 minutes of skew.
    for (ahead, is_left) in [(540, true), (541, false)] {
        let mut storage = unbounded();
        store(&mut storage, at(0), record(1, ((100 + ahead) * 1_000) << 16, b"v"), 100);
        assert_eq!(storage.tombstone(at(100), &key(1)).is_some(), is_left, "{ahead} s, not swept");
        storage.sweep(at(100), 9);
        assert_eq!((storage.len(), storage.tombstone(at(100), &key(1)).is_some()), (0, is_left), "{ahead} s");
    }
}

#[test]
fn a_hidden_record_is_replaced_by_any_other_one_and_gives_way_first() {
    let mut storage = room_for(2);
    store_from(&mut storage, fast(0), signed(1, 1), 10_000, Source::Client, |_| true);
    store_from(&mut storage, fast(0), record(2, 1, b"v"), 10_000, Source::Client, |_| true);
    let now = fast(TOO_OLD);
    let fresh = |at| record(at, now.wall.as_millis() << 16, b"w");
    assert_eq!(store(&mut storage, now, fresh(1), 10_000), Stored::Held);
    assert_eq!(store(&mut storage, now, fresh(3), 10_000), Stored::Held);
    assert_eq!(store(&mut storage, now, fresh(4), 10_000), Stored::Full);
    assert_eq!((found(&storage, now, 1), found(&storage, now, 3)), (Some(&b"w"[..]), Some(&b"w"[..])));
}

#[test]
fn a_record_of_an_uncertain_age_leaves_no_tombstone() {
    let leaves = |then: &dyn Fn(&mut Storage)| {
        let mut storage = unbounded();
        store(&mut storage, at(0), record(1, 1, b"v"), 10);
        storage.doubt_age(&key(1));
        storage.schedule(&key(1), mono(5));
        storage.forget_replicas();
        assert_eq!(storage.find(mono(0), &key(1)).map(Held::heard_from), Some(0), "no peer");
        then(&mut storage);
        let unswept = storage.tombstone(at(20), &key(1));
        storage.sweep(at(20), 9);
        assert_eq!(storage.tombstone(at(20), &key(1)), unswept);
        unswept.is_some()
    };
    let leaves_after = |version: u64, end: u64| {
        leaves(&|storage| assert_eq!(store(storage, at(0), record(1, version, b"v"), end), Stored::Held))
    };
    assert!(!leaves(&|_| ()));
    assert!(leaves(&|storage| storage.trust_age(&key(1))));
    assert!(!leaves_after(1, 9), "an older copy");
    assert!(leaves_after(1, 11), "a younger one");
    assert!(leaves_after(2, 10), "another record");
}
