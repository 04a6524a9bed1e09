//! Records of an earlier run: verified before they are used, and dropped if they prove nothing.

use super::*;
use crate::identity::PublicKey;
use crate::record::envelope::{hashed_key, owned_key, seal};
use ed25519_dalek::SigningKey;

/// A record that `owner` has signed.
fn owned(owner: u8, version: u64, payload: &[u8]) -> Record {
    let owner = SigningKey::from_bytes(&[owner; 32]);
    let (version, ttl) = (Version::from_bits(version), Ttl::from_secs(60).expect("not zero"));
    let value = seal(&owner, version, ttl, b"", payload);
    let key = owned_key(&PublicKey::of(&owner), b"");
    Record { key, version, ..record_of(Class::Signed, 0, 0, &value) }
}

fn hashed(value: &[u8]) -> Record {
    Record { key: hashed_key(value), ..record_of(Class::Hashed, 0, 0, value) }
}

/// The same record with another value, which its key or its signature does not fit.
fn damaged(record: &Record) -> Record {
    let mut value = record.value.to_vec();
    *value.last_mut().expect("it is not empty") ^= 1;
    Record { crc: crc_of(&value), value: value.into(), ..record.clone() }
}

fn restore(storage: &mut Storage, now: Now, record: Record, age_secs: u32) {
    storage.set_wall(now.wall);
    storage.restore(now, record, Age(age_secs * 1_000), None, Source::Peer);
}

/// A storage that has restored `record`, and nothing has asked for it.
fn with(record: &Record) -> Storage {
    let mut storage = unbounded();
    restore(&mut storage, at(0), record.clone(), 0);
    storage.forget_changed();
    assert_eq!(storage.unverified(), 1);
    storage
}

fn changed(storage: &mut Storage) -> Vec<Key> {
    let mut changed = Vec::new();
    storage.take_changed(&mut changed);
    changed
}

fn refuted(storage: &mut Storage) -> Option<(u64, Key)> {
    storage.take_refuted().map(|refuted| (refuted.records, refuted.key))
}

/// Every way to read a record by its key.
const READS: [fn(&Storage, &Key) -> bool; 7] = [
    |storage, key| storage.find(mono(1), key).is_some(),
    |storage, key| storage.find_hidden(mono(1), key).is_some(),
    |storage, key| storage.known(at(1), key).0.is_some(),
    |storage, key| storage.state(at(1), key).0.is_some(),
    |storage, key| storage.range(mono(1), *key..=*key).next().is_some(),
    |storage, key| storage.page(mono(1), *key..=*key, 9, 1).0.len() == 1,
    |storage, key| storage.verify_within(key, &mut 1) && storage.unverified() == 0,
];

#[test]
fn a_restored_record_is_verified_by_whatever_reads_it_first() {
    for record in [owned(1, 1, b"v"), hashed(b"v")] {
        for (which, read) in READS.iter().enumerate() {
            let storage = with(&record);
            assert!(read(&storage, &record.key), "{which}");
            assert_eq!(storage.unverified(), 0, "{which}");
            assert_eq!(storage.check_invariants(), Ok(()));
            assert!(read(&storage, &record.key), "{which}");
        }
    }
}

#[test]
fn a_restored_record_that_proves_nothing_is_not_read_and_is_refuted_once() {
    for record in [damaged(&owned(1, 1, b"v")), damaged(&hashed(b"v"))] {
        for (which, read) in READS.iter().enumerate() {
            let mut storage = with(&record);
            assert!(!read(&storage, &record.key), "{which}");
            assert!(!read(&storage, &record.key), "{which}");
            assert_eq!(refuted(&mut storage), Some((1, record.key)), "{which}");
            assert_eq!(storage.tombstone(at(1), &record.key), None, "{which}");
            assert!(storage.find_unverified(mono(1), &record.key).is_none(), "{which}");
            assert!(storage.state_on_disk(at(1), &record.key).0.is_none(), "{which}");
            assert_eq!(storage.check_invariants(), Ok(()));
            storage.verify_some(1);
            assert_eq!((storage.len(), storage.unverified()), (0, 0), "{which}");
            assert_eq!(changed(&mut storage), [record.key], "{which}: its state on disk is removed");
            assert_eq!(storage.tombstone(at(1), &record.key), None, "{which}");
            assert_eq!(storage.check_invariants(), Ok(()));
        }
    }
}

#[test]
fn a_plain_record_and_one_that_is_not_restored_need_no_verification() {
    let mut storage = unbounded();
    restore(&mut storage, at(0), record(1, 1, b"v"), 0);
    store(&mut storage, at(0), owned(1, 1, b"v"), 60);
    assert_eq!(storage.unverified(), 0);
}

#[test]
fn planning_the_disk_and_prefetching_verify_nothing() {
    let record = owned(1, 1, b"v");
    let storage = with(&record);
    storage.prefetch([record.key].iter());
    assert!(storage.find_unverified(mono(1), &record.key).is_some());
    assert!(storage.state_on_disk(at(1), &record.key).0.is_some());
    assert_eq!(storage.walk(None).count(), 1);
    assert_eq!(storage.unverified(), 1);
}

#[test]
fn a_record_stays_unverified_whatever_is_noted_about_other_nodes() {
    let record = owned(1, 1, b"v");
    let mut storage = with(&record);
    storage.heard(&record.key, &NodeId::new(key(5)));
    storage.doubt(&record.key);
    storage.schedule(&record.key, mono(5));
    storage.forget_replicas();
    storage.make_older(mono(0), Duration::from_secs(1));
    assert_eq!(storage.unverified(), 1);
    assert_eq!(storage.check_invariants(), Ok(()));
}

#[test]
fn a_damaged_record_gives_way_to_every_other_one_and_hides_nothing() {
    let held = damaged(&owned(1, 7, b"v"));
    let plain = Record { key: held.key, ..record(0, 1, b"plain") };
    for newcomer in [owned(1, 3, b"older"), plain] {
        let mut storage = with(&held);
        assert_eq!(store(&mut storage, at(1), newcomer.clone(), 60), Stored::Held);
        let held = storage.find(mono(1), &newcomer.key).expect("it is stored");
        assert_eq!(held.record, newcomer);
        assert_eq!(storage.tombstone(at(1), &newcomer.key), None);
        assert_eq!(storage.unverified(), 0);
        assert_eq!(storage.check_invariants(), Ok(()));
    }
}

#[test]
fn a_damaged_record_settles_no_comparison_before_a_signature_check() {
    let held = damaged(&owned(1, 7, b"v"));
    for newcomer in [&owned(1, 3, b"older"), &held] {
        let storage = with(&held);
        let judged = storage.judge(at(1), &newcomer.key, newcomer.rank(), newcomer.ttl, &newcomer.value);
        assert_eq!(judged, Judgement::Unproven);
    }
    let held = owned(1, 7, b"v");
    let storage = with(&held);
    let judged = storage.judge(at(1), &held.key, held.rank(), held.ttl, &held.value);
    assert_eq!((judged, storage.unverified()), (Judgement::Proven, 0), "the signature was verified here");
}

/// What is on disk of a key competes with what came before it: while loading, with its own tombstone, and later with
/// what peers have sent.
#[test]
fn a_damaged_record_does_not_replace_what_is_known_of_its_key() {
    let known = owned(1, 3, b"v");
    let larger = damaged(&owned(1, 7, b"v"));
    for age_secs in [0, 60] {
        let mut storage = unbounded();
        store(&mut storage, at(100), known.clone(), 160);
        storage.forget_changed();
        restore(&mut storage, at(100), larger.clone(), age_secs);
        assert!(storage.find(mono(100), &known.key).is_some_and(|held| held.record == known), "{age_secs}");
        assert_eq!(storage.tombstone(at(100), &known.key), None, "{age_secs}");
        assert_eq!(refuted(&mut storage), Some((1, known.key)), "{age_secs}");
        assert_eq!(changed(&mut storage), [known.key], "{age_secs}");
    }
    let over = Tombstone { signed: Some(Version::from_bits(3)), plain: None };
    let mut storage = unbounded();
    storage.bury(at(0), known.key, over);
    restore(&mut storage, at(0), larger, 0);
    assert_eq!((storage.len(), storage.unverified()), (0, 0));
    restore(&mut storage, at(0), owned(1, 7, b"v"), 0);
    assert_eq!((storage.len(), storage.unverified()), (1, 0), "a sound one is newer than the tombstone");
}

#[test]
fn a_record_that_a_peer_has_sent_meanwhile_is_not_verified_again() {
    let record = owned(1, 3, b"v");
    let mut storage = unbounded();
    store(&mut storage, at(0), record.clone(), 60);
    assert_eq!(storage.prove_if_contested(at(0), &record), Proof::Given);
    assert_eq!(storage.prove_if_contested(at(0), &damaged(&record)), Proof::Refuted);
    // What is stored counts as verified, whatever it is.
    store(&mut storage, at(0), signed(5, 1), 60);
    assert_eq!(storage.prove_if_contested(at(0), &signed(5, 1)), Proof::Given);
    assert_eq!(storage.prove_if_contested(at(0), &owned(2, 3, b"v")), Proof::Due);
}

// ── the end of a life ────────────────────────────────────────────────────────────────────────

/// Two records of versions of the 40th second, one sound and one damaged; both have lived for 60 s at the 100th.
fn ended() -> [(Record, Option<Version>); 2] {
    let record = owned(1, 40_000 << 16, b"v");
    let version = Some(record.version);
    [(damaged(&record), None), (record, version)]
}

#[test]
fn an_unverified_record_whose_life_ends_leaves_a_tombstone_only_if_it_is_sound() {
    for (record, version) in ended() {
        for (loaded, age_secs) in [(40, 0), (100, 60), (110, 70)] {
            for is_read in [false, true] {
                let mut storage = unbounded();
                storage.begin_loading(1);
                restore(&mut storage, at(loaded), record.clone(), age_secs);
                storage.finish_loading();
                assert_eq!(storage.unverified(), 1, "it is not verified while the store is loaded");
                let now = at(loaded.max(100));
                assert!(storage.find_unverified(now.mono, &record.key).is_none(), "its life has ended");
                let tombstone = || version.map(|version| Tombstone { signed: Some(version), plain: None });
                if is_read {
                    assert_eq!(storage.tombstone(now, &record.key), tombstone());
                }
                assert_eq!(storage.next_due(), Some(mono(100.max(loaded))));
                assert!(storage.sweep(now, 99).is_empty());
                assert_eq!((storage.len(), storage.unverified()), (0, 0));
                assert_eq!(storage.tombstone(now, &record.key), tombstone());
                assert!(changed(&mut storage).contains(&record.key));
                assert_eq!(storage.check_invariants(), Ok(()));
            }
        }
    }
}

#[test]
fn a_record_that_has_ended_on_disk_stays_there_until_it_is_swept() {
    let [_, (record, _)] = ended();
    let mut storage = unbounded();
    restore(&mut storage, at(100), record.clone(), 60);
    assert_eq!(changed(&mut storage), []);
    let (kept, tombstone) = storage.state_on_disk(at(100), &record.key);
    assert_eq!((kept.map(|held| &held.record), tombstone), (Some(&record), None));
}

#[test]
fn a_store_of_an_older_record_meets_the_tombstone_of_one_that_has_ended_unverified() {
    for (record, version) in ended() {
        let mut storage = unbounded();
        restore(&mut storage, at(100), record, 60);
        let older = owned(1, 30_000 << 16, b"old");
        let expected = if version.is_some() { Stored::Over } else { Stored::Held };
        assert_eq!(store(&mut storage, at(100), older, 160), expected);
    }
}

#[test]
fn a_record_that_has_ended_and_finds_no_room_is_verified_at_once() {
    for (record, version) in ended() {
        let mut storage = room_for(1);
        store(&mut storage, at(100), super::record(1, 1, b"v"), 160);
        restore(&mut storage, at(100), record.clone(), 60);
        assert_eq!((storage.len(), storage.unverified()), (1, 0), "no live record gives way");
        assert_eq!(storage.take_refuted().is_some(), version.is_none());
    }
}

#[test]
fn a_record_that_has_ended_needlessly_is_not_stored() {
    let [_, (record, _)] = ended();
    let mut storage = unbounded();
    let too_old = at(100 + 86_400);
    restore(&mut storage, too_old, record, 60);
    restore(&mut storage, at(100), hashed(b"v"), 60);
    assert_eq!((storage.len(), storage.unverified()), (0, 0));
}

#[test]
fn an_unverified_record_that_is_evicted_leaves_no_tombstone() {
    for is_verified in [false, true] {
        let evicted = owned(1, 5 << 16, b"");
        let mut storage = Storage::new(me(), bytes_of(&evicted) + TOMBSTONE_BYTES, seed());
        restore(&mut storage, at(0), evicted.clone(), 0);
        if is_verified {
            storage.verify_some(1);
        }
        let newcomer = record(1, 1, &[0; 40]);
        assert_eq!(store_from(&mut storage, at(0), newcomer, 60, Source::Client, |_| false), Stored::Held);
        assert_eq!(storage.unverified(), 0);
        assert_eq!(storage.tombstone(at(0), &evicted.key).is_some(), is_verified);
        assert_eq!(storage.check_invariants(), Ok(()));
    }
}

#[test]
fn an_unverified_record_that_has_ended_gives_way_without_a_tombstone() {
    for is_verified in [false, true] {
        let [_, (record, _)] = ended();
        let mut storage = Storage::new(me(), bytes_of(&record) + TOMBSTONE_BYTES, seed());
        restore(&mut storage, at(40), record.clone(), 0);
        if is_verified {
            storage.verify_some(1);
        }
        assert_eq!(store(&mut storage, at(100), super::record(1, 1, &[0; 40]), 160), Stored::Held);
        assert_eq!(storage.unverified(), 0);
        assert_eq!(storage.tombstone(at(100), &record.key).is_some(), is_verified);
        assert_eq!(storage.check_invariants(), Ok(()));
    }
}

// ── bounds ───────────────────────────────────────────────────────────────────────────────────

/// A storage with 20 restored records, of which every fourth is damaged.
fn twenty() -> Storage {
    let mut storage = unbounded();
    for owner in 1..=20 {
        let record = owned(owner, 1, b"v");
        restore(&mut storage, at(0), if owner % 4 == 0 { damaged(&record) } else { record }, 0);
    }
    storage.forget_changed();
    storage
}

#[test]
fn the_background_verifies_a_bounded_number_at_a_time_and_each_record_once() {
    let mut storage = twenty();
    for (left, stored) in [(12, 18), (4, 16), (0, 15), (0, 15)] {
        storage.verify_some(8);
        assert_eq!((storage.unverified(), storage.len()), (left, stored));
        assert_eq!(storage.check_invariants(), Ok(()));
    }
    assert_eq!(refuted(&mut storage), Some((5, owned(4, 1, b"v").key)));
    assert_eq!(storage.take_refuted(), None);
    assert_eq!(changed(&mut storage).len(), 5);
}

#[test]
fn the_background_finds_records_that_came_behind_it() {
    let mut storage = twenty();
    storage.verify_some(8);
    let first = owned(1, 1, b"v");
    storage.forget(&first.key, first.version);
    let late = owned(30, 1, b"v");
    restore(&mut storage, at(0), late.clone(), 0);
    assert_eq!(storage.records.slot(&late.key), Some(Slot::new(0)), "in the slot that has become free");
    for _ in 0..3 {
        storage.verify_some(8);
    }
    assert_eq!(storage.unverified(), 0);
}

#[test]
fn the_background_looks_at_a_bounded_number_of_verified_records() {
    let mut storage = unbounded();
    for number in 0..3_000_u16 {
        let mut bytes = [0; KEY_SIZE];
        bytes[..2].copy_from_slice(&number.to_be_bytes());
        store(&mut storage, at(0), Record { key: Key::new(bytes), ..record(0, 1, b"v") }, 60);
    }
    restore(&mut storage, at(0), owned(1, 1, b"v"), 0);
    for left in [1, 1, 0] {
        storage.verify_some(8);
        assert_eq!(storage.unverified(), left);
    }
}

#[test]
fn a_sweep_verifies_a_bounded_number_of_records_that_are_due() {
    let mut storage = twenty();
    let keys: Vec<Key> = storage.walk(None).map(|held| held.record.key).collect();
    for key in keys {
        storage.schedule(&key, mono(1));
    }
    let due = storage.sweep(at(1), 8 * LOOKS_PER_PROOF);
    assert_eq!(storage.unverified(), 12);
    let (due_later, rest) = (storage.sweep(at(1), 8 * LOOKS_PER_PROOF), storage.sweep(at(1), 8 * LOOKS_PER_PROOF));
    assert_eq!((due.len() + due_later.len() + rest.len(), storage.len()), (15, 15), "none that is damaged is due");
    assert_eq!(storage.check_invariants(), Ok(()));
}

#[test]
fn a_page_ends_where_too_many_records_would_have_to_be_verified() {
    let storage = twenty();
    let (first, last) = (Key::new([0; KEY_SIZE]), Key::new([0xff; KEY_SIZE]));
    let keys: Vec<Key> = storage.walk(None).map(|held| held.record.key).collect();
    let (page, cut) = storage.page(mono(0), first..=last, 99, 8);
    assert_eq!(cut, Some(keys[8]));
    assert!(page.iter().all(|held| held.record.key < keys[8]));
    assert_eq!(storage.unverified() - (8 - page.len()), 12, "those that were refuted are not removed yet");
    let (again, cut) = storage.page(mono(0), first..=last, 2, 0);
    assert_eq!((again.len(), cut), (2, None), "a full page is not cut");
    let (whole, cut) = storage.page(mono(0), first..=last, 99, 12);
    assert_eq!((whole.len(), cut), (15, None));
}

#[test]
fn a_bound_on_verification_counts_unverified_records_only() {
    let storage = twenty();
    let keys: Vec<Key> = storage.walk(None).map(|held| held.record.key).collect();
    let mut proofs = 2;
    let decided = |proofs: &mut usize| keys.iter().filter(|key| storage.verify_within(key, proofs)).count();
    assert_eq!((decided(&mut proofs), proofs), (2, 0));
    assert_eq!((decided(&mut 0), storage.verify_within(&key(9), &mut 0)), (2, true));
}
