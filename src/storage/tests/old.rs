//! Tombstones that only a fingerprint of the key names.

use super::*;
use crate::record::TombstoneClass;
use crate::record::fingerprint::Fingerprint;
use sha2::{Digest, Sha256};

const YOUNG: u64 = 3_600;

fn bury(storage: &mut Storage, now: Now, number: u64) {
    let bytes = Sha256::digest(number.to_be_bytes()).into();
    let plain = Some(Version::from_bits((now.wall.as_millis() - 1_000) << 16));
    storage.bury(now, Key::new(bytes), Tombstone { signed: None, plain });
}

/// All tombstones that are old enough turn old.
fn turn_old(storage: &mut Storage, now: Now) -> usize {
    let mut turned = 0;
    loop {
        let step = storage.turn_old(now);
        turned += step.tombstones.len();
        if step.is_round_done {
            return turned;
        }
    }
}

#[test]
fn young_and_old_tombstones_together_take_a_quarter_of_the_bound_at_most() {
    let mut storage = Storage::new(me(), 4_000 * TOMBSTONE_BYTES, seed());
    let quarter = 1_000 * TOMBSTONE_BYTES;
    for number in 0..1_000 {
        bury(&mut storage, at(70_000), number);
    }
    assert_eq!((storage.bytes(), storage.tombstones_dropped()), (quarter, 0));
    assert_eq!(turn_old(&mut storage, at(70_000 + YOUNG)), 1_000);
    assert_eq!((storage.bytes(), storage.has_young_tombstones()), (1_000 * OLD_TOMBSTONE_BYTES, false));
    let room = (quarter - 1_000 * OLD_TOMBSTONE_BYTES) / TOMBSTONE_BYTES;
    for number in 1_000..2_000 {
        assert_eq!(storage.tombstones_dropped() > 0, number > 1_000 + room as u64);
        bury(&mut storage, at(70_000 + YOUNG), number);
        assert!(storage.bytes() <= quarter);
    }
    assert_eq!(storage.check_invariants(), Ok(()));
    assert_eq!((storage.bytes(), storage.old_epochs().count()), (quarter, 0), "old ones lapse first");
    assert_eq!(storage.tombstones_dropped(), 1_000);
}

#[test]
fn a_key_that_turns_old_has_changed_and_keeps_its_other_state_on_disk() {
    let mut storage = Storage::new(me(), usize::MAX, seed());
    let now = at(70_000);
    let version = |secs: u64| Version::from_bits((secs * 1_000) << 16);
    let plain = Tombstone { signed: None, plain: Some(version(69_999)) };
    storage.bury(now, key(1), plain);
    let lasting = Record { ttl: Ttl::from_secs(u16::MAX).expect("not zero"), ..signed(1, version(69_000).bits()) };
    let expires = mono(120_000);
    assert_eq!(storage.store(now, lasting, expires, expires, Source::Peer, |_| true), Stored::Held);
    changed(&mut storage);
    let later = at(70_000 + YOUNG);
    assert_eq!(storage.state_on_disk(later, &key(1)).1, Some(plain));
    assert_eq!((turn_old(&mut storage, later), changed(&mut storage)), (1, vec![key(1)]));
    let (held, on_disk) = storage.state_on_disk(later, &key(1));
    assert_eq!((held.is_some(), on_disk), (true, None), "a pack has the tombstone");
    assert_eq!(storage.known(later, &key(1)).1, Some(plain));
    storage.bury(later, key(1), plain);
    assert!(!storage.has_young_tombstones() && changed(&mut storage).is_empty(), "it is known");
}

/// Two keys with one fingerprint cannot be found, so the fingerprint of the key 1 stands for another key here.
#[test]
fn an_old_tombstone_of_another_key_hides_no_record_and_refuses_only_older_ones() {
    let mut storage = Storage::new(me(), usize::MAX, seed());
    storage.set_fingerprint_key(FingerprintKey::new([9; 16]));
    let now = at(80_000);
    let version = |secs: u64| (secs * 1_000) << 16;
    store(&mut storage, now, record(1, version(79_000), b"stored"), 90_000);
    let other = OldTombstone {
        fingerprint: Fingerprint::of(storage.fingerprint_key(), &key(1)),
        class: TombstoneClass::Plain,
        version: Version::from_bits(version(79_500)),
    };
    storage.add_old_tombstone(now, other);
    let (held, over) = storage.known(now, &key(1));
    assert_eq!((held.map(|held| held.record.version.bits()), over), (Some(version(79_000)), None));
    assert_eq!(store(&mut storage, now, record(1, version(79_100), b"newer"), 90_000), Stored::Held);
    storage.forget(&key(1), Version::from_bits(version(79_100)));
    assert_eq!(store(&mut storage, now, record(1, version(79_200), b"older"), 90_000), Stored::Over);
    assert_eq!(store(&mut storage, now, record(1, version(80_000), b"new"), 90_000), Stored::Held);
}
