//! The rules of a storage, one by one. `model` compares a whole storage with two plain lists.

use super::room::{CROWDED_PERCENT, QUOTAS};
use super::*;
use crate::contact::Group;
use crate::limits::{CLOCK_SKEW_MAX, TTL_LONGEST, VALUE_SIZE_MAX};
use crate::record::{Age, Version, crc_of};
use proptest::prelude::*;
use std::time::Duration;

use crate::time::WallTime;

mod clocks;
mod loading;
mod model;
mod old;
mod sweep;
mod unverified;

fn seed() -> KeySeed {
    KeySeed::new([1, 2, 3, 4])
}

/// Both clocks `secs` seconds after their common start.
fn at(secs: u64) -> Now {
    Now { mono: mono(secs), wall: WallTime::from_millis(secs * 1_000) }
}

fn mono(secs: u64) -> Time {
    Time::ZERO + Duration::from_secs(secs)
}

fn key(key: u8) -> Key {
    Key::new([key; 32])
}

fn me() -> NodeId {
    NodeId::new(key(0))
}

/// A peer with a quota, and the group of its address.
fn stranger(peer: u8, group: u8) -> Source {
    Source::Stranger(NodeId::new(key(peer)), Group::V4([192, 0, group]))
}

fn record_of(class: Class, at: u8, version: u64, value: &[u8]) -> Record {
    Record {
        key: key(at),
        class,
        version: Version::from_bits(version),
        ttl: Ttl::from_secs(60).expect("not zero"),
        replication: 8,
        crc: crc_of(value),
        value: value.into(),
    }
}

fn record(at: u8, version: u64, value: &[u8]) -> Record {
    record_of(Class::Plain, at, version, value)
}

fn signed(at: u8, version: u64) -> Record {
    record_of(Class::Signed, at, version, b"s")
}

fn unbounded() -> Storage {
    Storage::new(me(), usize::MAX, seed())
}

/// Room for `records` records of one byte.
fn room_for(records: usize) -> Storage {
    Storage::new(me(), records * (RECORD_OVERHEAD + 1), seed())
}

/// A peer stores a record whose life ends `end` seconds after the start; every record is in scope.
fn store(storage: &mut Storage, now: Now, record: Record, end: u64) -> Stored {
    store_from(storage, now, record, end, Source::Peer, |_| true)
}

/// `source` stores a record whose life ends `end` seconds after the start; it is due at its end.
fn store_from(
    storage: &mut Storage,
    now: Now,
    record: Record,
    end: u64,
    source: Source,
    in_scope: impl Fn(&Record) -> bool,
) -> Stored {
    storage.set_wall(now.wall);
    storage.store(now, record, mono(end), mono(end), source, in_scope)
}

fn found(storage: &Storage, now: Now, at: u8) -> Option<&[u8]> {
    storage.find(now.mono, &key(at)).map(|held| &held.record.value[..])
}

fn plain_tombstone(storage: &Storage, now: Now, at: u8) -> Option<u64> {
    storage.tombstone(now, &key(at)).and_then(|tombstone| tombstone.plain).map(Version::bits)
}

// ── one key ──────────────────────────────────────────────────────────────────────────────────

#[test]
fn a_record_is_not_found_from_the_exact_end_of_its_life_without_a_sweep() {
    let mut storage = unbounded();
    assert_eq!(store(&mut storage, at(5), record(1, 1, b"a"), 6), Stored::Held);
    assert!(storage.find(Time::from_nanos(5_999_999_999), &key(1)).is_some());
    assert_eq!(found(&storage, at(6), 1), None);
    assert_eq!(storage.len(), 1, "it is still there, unread");
}

#[test]
fn the_larger_record_is_stored_in_either_order_of_arrival() {
    for versions in [[1, 2], [2, 1]] {
        let mut storage = unbounded();
        for version in versions {
            store(&mut storage, at(0), record(1, version, b"v"), 60);
        }
        let held = storage.find(mono(1), &key(1)).expect("it is held");
        assert_eq!(held.record.version, Version::from_bits(2));
    }
}

#[test]
fn storing_a_smaller_record_returns_the_rank_of_the_larger() {
    let mut storage = unbounded();
    let larger = record(1, 2, b"new");
    let rank = larger.rank();
    store(&mut storage, at(0), larger, 60);
    assert_eq!(store(&mut storage, at(1), record(1, 1, b"old"), 600), Stored::Larger(rank));
    assert_eq!(storage.next_due(), Some(mono(60)), "a smaller record prolongs nothing");
}

#[test]
fn of_equal_records_the_later_end_and_the_larger_replication_remain() {
    for ends in [[20, 30], [30, 20]] {
        let mut storage = unbounded();
        for end in ends {
            let replication = u8::try_from(end).expect("less than 256");
            let sent = Record { replication, ..record(1, 1, b"v") };
            assert_eq!(store(&mut storage, at(0), sent, end), Stored::Held);
        }
        let held = storage.find(mono(0), &key(1)).expect("it is held");
        assert_eq!((held.expires, held.due(), held.record.replication), (mono(30), mono(30), 30));
        assert_eq!(storage.len(), 1);
    }
}

fn changed(storage: &mut Storage) -> Vec<Key> {
    let mut keys = Vec::new();
    storage.take_changed(&mut keys);
    keys
}

#[test]
fn storing_a_record_again_changes_neither_its_due_time_nor_its_known_replicas() {
    let mut storage = unbounded();
    store(&mut storage, at(0), record(1, 1, b"v"), 20);
    storage.schedule(&key(1), mono(10));
    storage.heard(&key(1), &NodeId::new(key(3)));
    store(&mut storage, at(1), record(1, 1, b"v"), 30);
    let held = storage.find(mono(1), &key(1)).expect("it is held");
    assert_eq!((held.due(), held.heard_from(), held.expires), (mono(10), 1, mono(30)));
    changed(&mut storage);
    store(&mut storage, at(2), record(1, 1, b"v"), 30);
    assert_eq!(changed(&mut storage), [], "nothing new, nothing to save");
}

#[test]
fn storing_a_record_again_does_not_delay_its_due_time_but_a_larger_record_sets_its_own() {
    let mut storage = unbounded();
    let mut due_after = |version: u64, end: u64, due: u64| {
        storage.store(at(0), record(1, version, b"v"), mono(end), mono(due), Source::Peer, |_| true);
        storage.find(mono(0), &key(1)).map(Held::due)
    };
    assert_eq!(due_after(1, 60, 20), Some(mono(20)));
    assert_eq!(due_after(1, 70, 30), Some(mono(20)));
    assert_eq!(due_after(2, 60, 40), Some(mono(40)));
    assert_eq!(due_after(3, 60, 90), Some(mono(60)), "no later than its end");
    assert_eq!(due_after(3, 60, 50), Some(mono(60)));
    assert_eq!(due_after(3, 80, 50), Some(mono(50)), "its end is put off, so it may be worth an offer");
}

#[test]
fn storing_a_record_whose_life_has_ended_changes_nothing() {
    let mut storage = unbounded();
    store(&mut storage, at(0), record(1, 1, b"v"), 60);
    assert_eq!(store(&mut storage, at(5), record(1, 2, b"w"), 5), Stored::Over);
    assert_eq!(found(&storage, at(5), 1), Some(&b"v"[..]));
}

// ── tombstones ───────────────────────────────────────────────────────────────────────────────

#[test]
fn an_ended_version_blocks_itself_and_older_ones_before_and_after_the_sweep() {
    for sweeps in [0, 1] {
        let mut storage = unbounded();
        store(&mut storage, at(0), record(1, 2, b"new"), 10);
        storage.sweep(at(10), sweeps);
        for version in [1, 2] {
            assert_eq!(store(&mut storage, at(10), record(1, version, b"z"), 60), Stored::Over);
        }
        assert_eq!(store(&mut storage, at(10), record(1, 3, b"next"), 60), Stored::Held);
        assert_eq!(found(&storage, at(10), 1), Some(&b"next"[..]));
        assert_eq!(storage.check_invariants(), Ok(()));
    }
}

#[test]
fn an_ended_signed_version_blocks_every_plain_one() {
    let mut storage = unbounded();
    store(&mut storage, at(0), signed(1, 1), 10);
    assert_eq!(store(&mut storage, at(10), record(1, 9, b"p"), 60), Stored::Over);
    assert_eq!(store(&mut storage, at(10), signed(1, 2), 60), Stored::Held);
}

#[test]
fn a_hashed_record_may_be_stored_again_after_its_end() {
    let mut storage = unbounded();
    let hashed = record_of(Class::Hashed, 1, 0, b"h");
    store(&mut storage, at(0), hashed.clone(), 10);
    storage.sweep(at(10), 1);
    assert_eq!(storage.tombstone(at(10), &key(1)), None);
    assert_eq!(store(&mut storage, at(10), hashed, 60), Stored::Held);
}

#[test]
fn a_plain_version_beside_a_certified_record_leaves_a_tombstone_in_either_order() {
    for certified in [signed(1, 1), record_of(Class::Hashed, 1, 0, b"h")] {
        for order in [[0, 1], [1, 0]] {
            let mut storage = unbounded();
            for which in order {
                store(&mut storage, at(0), [certified.clone(), record(1, 5, b"p")][which].clone(), 10);
            }
            assert_eq!(found(&storage, at(0), 1), Some(&certified.value[..]));
            assert_eq!(plain_tombstone(&storage, at(0), 1), Some(5));
        }
    }
}

#[test]
fn after_the_end_of_a_certified_record_only_newer_plain_versions_are_stored() {
    let mut storage = unbounded();
    store(&mut storage, at(0), record(1, 5, b"p"), 60);
    store(&mut storage, at(0), record_of(Class::Hashed, 1, 0, b"h"), 10);
    assert_eq!(store(&mut storage, at(10), record(1, 5, b"p"), 60), Stored::Over);
    assert_eq!(store(&mut storage, at(10), record(1, 6, b"q"), 60), Stored::Held);
}

/// The moment at which the tombstone of a version has lapsed whose time is `secs` seconds after the start.
fn after_tombstones(secs: u64) -> Now {
    at(secs + (TTL_LONGEST + CLOCK_SKEW_MAX * 2).as_secs())
}

#[test]
fn a_tombstone_lapses_when_no_older_version_can_be_alive() {
    let mut storage = unbounded();
    store(&mut storage, at(7), record(1, 7_000 << 16, b"v"), 10);
    storage.sweep(at(10), 1);
    let (needed, lapse) = (after_tombstones(7), at(66_752));
    let before = Now { mono: Time::from_nanos(lapse.mono.as_nanos() - 1), ..lapse };
    assert!(before.mono > needed.mono && lapse.mono - needed.mono < Duration::from_secs(64));
    assert_eq!(storage.next_due(), Some(lapse.mono));
    assert!(storage.tombstone(before, &key(1)).is_some());
    assert_eq!(storage.tombstone(lapse, &key(1)), None, "whether it was swept or not");
    changed(&mut storage);
    storage.sweep(lapse, 1);
    assert_eq!((storage.bytes(), storage.next_due()), (0, None));
    assert_eq!(changed(&mut storage), [key(1)], "it is to be forgotten elsewhere, too");
}

#[test]
fn adding_a_tombstone_removes_the_live_record_that_it_beats() {
    let mut storage = unbounded();
    store(&mut storage, at(0), record(1, 3, b"v"), 60);
    storage.bury(at(1), key(1), Tombstone { signed: None, plain: Some(Version::from_bits(2)) });
    assert_eq!(found(&storage, at(1), 1), Some(&b"v"[..]), "it is newer");
    storage.bury(at(1), key(1), Tombstone { signed: None, plain: Some(Version::from_bits(3)) });
    assert_eq!(found(&storage, at(1), 1), None, "a tombstone beats the live record of its own version");
    store(&mut storage, at(1), record(2, 9, b"p"), 60);
    storage.bury(at(1), key(2), Tombstone { signed: Some(Version::from_bits(1)), plain: None });
    assert_eq!(found(&storage, at(1), 2), None);
    assert_eq!(plain_tombstone(&storage, at(1), 2), Some(9), "the plain version has been seen");
}

#[test]
fn a_restored_record_keeps_its_age_and_an_ended_one_leaves_a_tombstone() {
    let on = Now { mono: Time::ZERO, wall: WallTime::from_millis(130_000) };
    let mut storage = unbounded();
    storage.restore(on, record(1, 100_000 << 16, b"v"), Age(40_000), None, Source::Client);
    let held = storage.find(on.mono, &key(1)).expect("60 s, 40 s old");
    assert_eq!((held.expires, held.source()), (mono(20), Source::Client));
    storage.forget_changed();
    let is_alone = storage.restore(on, record(2, 100_000 << 16, b"v"), Age(60_000), None, Source::Peer);
    assert!(!is_alone, "it is not stored");
    assert_eq!(found(&storage, on, 2), None);
    assert_eq!(plain_tombstone(&storage, on, 2), Some(100_000 << 16));
}

/// Otherwise it would stay on disk for ever, because nothing else changes its state.
#[test]
fn an_ended_record_that_leaves_no_tombstone_is_removed_from_disk() {
    let on = Now { mono: Time::ZERO, wall: WallTime::from_millis(130_000) };
    let lapsed = record(2, 0, b"v");
    for ended in [record_of(Class::Hashed, 1, 0, b"v"), lapsed] {
        let (mut storage, mut changed) = (unbounded(), Vec::new());
        let key = ended.key;
        storage.restore(on, ended, Age(60_000), None, Source::Client);
        storage.take_changed(&mut changed);
        changed.dedup();
        assert_eq!((changed, storage.len()), (vec![key], 0));
    }
}

// ── what needs no signature check ────────────────────────────────────────────────────────────

#[test]
fn a_replay_of_a_known_record_needs_no_signature_check() {
    let mut storage = unbounded();
    let held = signed(1, 5);
    store(&mut storage, at(0), held.clone(), 60);
    let judge = |storage: &Storage, now: Now, record: &Record| {
        storage.judge(now, &record.key, record.rank(), record.ttl, &record.value)
    };
    assert_eq!(judge(&storage, at(1), &signed(1, 4)), Judgement::Settled(Stored::Larger(held.rank())));
    assert_eq!(judge(&storage, at(1), &held), Judgement::Proven, "the very same was verified before");
    assert_eq!(judge(&storage, at(1), &signed(1, 6)), Judgement::Unproven);
    let forged = [
        Record { value: b"t"[..].into(), ..held.clone() },
        Record { ttl: Ttl::from_secs(61).expect("not zero"), ..held.clone() },
        record_of(Class::Hashed, 1, 5, b"s"),
    ];
    for forged in &forged {
        assert_eq!(judge(&storage, at(1), forged), Judgement::Unproven);
    }
    assert_eq!(judge(&storage, at(60), &held), Judgement::Settled(Stored::Over), "swept or not");
    assert_eq!(judge(&storage, at(60), &record(1, 1, b"p")), Judgement::Proven, "a plain record claims nothing");
    assert_eq!(storage.len(), 1, "judging changes nothing");
}

// ── bounds ───────────────────────────────────────────────────────────────────────────────────

#[test]
fn a_full_storage_refuses_a_new_key_and_replaces_a_record_by_one_of_its_size() {
    let mut storage = room_for(2);
    store(&mut storage, at(0), record(1, 1, b"a"), 60);
    store(&mut storage, at(0), record(2, 1, b"b"), 60);
    assert_eq!(storage.bytes(), storage.bytes_max());
    assert_eq!(store(&mut storage, at(1), record(3, 1, b"c"), 60), Stored::Full);
    assert_eq!(store(&mut storage, at(1), record(1, 2, b"d"), 60), Stored::Held);
    assert_eq!(store(&mut storage, at(1), record(1, 3, b"ef"), 60), Stored::Full);
    assert_eq!(found(&storage, at(1), 1), Some(&b"d"[..]), "a record that does not fit replaces no other");
    assert_eq!(storage.check_invariants(), Ok(()));
}

#[test]
fn ended_records_and_their_tombstones_make_room_without_a_sweep() {
    let mut storage = room_for(2_000);
    for n in 0..2_000_u16 {
        let mut bytes = [0; 32];
        bytes[..2].copy_from_slice(&n.to_be_bytes());
        let small = Record { key: Key::new(bytes), ..record(0, 1, b"s") };
        assert_eq!(store(&mut storage, at(0), small, 10), Stored::Held);
    }
    let largest = record(9, 1, &vec![7; VALUE_SIZE_MAX]);
    assert_eq!(store(&mut storage, at(9), largest.clone(), 60), Stored::Full);
    assert_eq!(store(&mut storage, at(10), largest, 60), Stored::Held);
    assert!(storage.len() > 1_000, "no more were swept than were in the way");
    assert_eq!(storage.check_invariants(), Ok(()));
}

#[test]
fn the_oldest_tombstones_are_removed_first() {
    let mut storage = Storage::new(me(), 4 * (RECORD_OVERHEAD + 1) + 2 * TOMBSTONE_BYTES, seed());
    for (number, version) in [(1, 20_u64), (2, 10), (3, 30)] {
        let over = Version::from_bits(version << 32);
        storage.bury(at(0), key(number), Tombstone { signed: None, plain: Some(over) });
    }
    assert_eq!(storage.bytes(), 3 * TOMBSTONE_BYTES);
    for number in 10..14 {
        store(&mut storage, at(0), record(number, 1, b"v"), 60);
    }
    let left = |storage: &Storage| -> Vec<Key> { storage.tombstones(key(0)..=key(9)).map(|(key, _)| *key).collect() };
    assert_eq!(left(&storage), [key(1), key(3)]);
    storage.bury(at(0), key(4), Tombstone { signed: None, plain: Some(Version::from_bits(25 << 32)) });
    assert_eq!(left(&storage), [key(3), key(4)]);
    storage.bury(at(0), key(5), Tombstone { signed: None, plain: Some(Version::from_bits(5 << 32)) });
    assert_eq!(left(&storage), [key(3), key(4)], "the oldest may be the one that is laid");
    assert_eq!(storage.tombstones_dropped(), 3);
    assert_eq!(storage.check_invariants(), Ok(()));
}

#[test]
fn tombstones_take_a_quarter_of_the_bound_at_most() {
    let mut storage = Storage::new(me(), 400 * TOMBSTONE_BYTES, seed());
    for number in 1..=120_u8 {
        let over = Version::from_bits(u64::from(number) << 40);
        storage.bury(at(0), key(number), Tombstone { signed: None, plain: Some(over) });
        assert!(storage.bytes() <= 100 * TOMBSTONE_BYTES && storage.check_invariants() == Ok(()), "{number}");
    }
    let left: Vec<Key> = storage.tombstones(key(0)..=key(255)).map(|(key, _)| *key).collect();
    assert_eq!(left, (21..=120).map(key).collect::<Vec<_>>(), "the oldest give way");
    assert_eq!(storage.tombstones_dropped(), 20);
    changed(&mut storage);
    storage.bury(at(0), key(200), Tombstone { signed: None, plain: Some(Version::from_bits(200 << 40)) });
    assert_eq!(changed(&mut storage), [key(200), key(21)], "what gives way is to be forgotten elsewhere, too");
}

/// A storage full of records with the keys 1 to 4. The records 3 and 4, the farthest, are out of scope.
fn full(sources: [Source; 4]) -> Storage {
    let mut storage = room_for(4);
    for (number, source) in (1..).zip(sources) {
        let stored = store_from(&mut storage, at(0), record(number, 7, b"v"), 60, source, is_near);
        assert_eq!(stored, Stored::Held);
    }
    storage
}

fn is_near(record: &Record) -> bool {
    record.key < key(3)
}

fn keys(storage: &Storage) -> Vec<Key> {
    storage.walk(None).map(|held| held.record.key).collect()
}

#[test]
fn only_records_of_peers_out_of_scope_are_evicted_the_farthest_first() {
    let mut storage = full([Source::Peer; 4]);
    assert_eq!(store_from(&mut storage, at(1), record(0, 1, b"x"), 60, Source::Peer, is_near), Stored::Held);
    assert_eq!(keys(&storage), [0, 1, 2, 3].map(key));
    assert_eq!(store_from(&mut storage, at(1), record(9, 1, b"x"), 60, Source::Client, is_near), Stored::Held);
    assert_eq!(keys(&storage), [0, 1, 2, 9].map(key), "a PUT of a client evicts closer records too");
    for number in [3, 5] {
        assert_eq!(store_from(&mut storage, at(1), record(number, 9, b"x"), 60, Source::Peer, is_near), Stored::Full);
    }
    assert_eq!(storage.check_invariants(), Ok(()));
}

#[test]
fn a_record_out_of_scope_evicts_only_farther_ones() {
    let mut storage = full([Source::Peer; 4]);
    assert_eq!(store_from(&mut storage, at(1), record(5, 1, b"x"), 60, Source::Peer, is_near), Stored::Full);
    let mut storage = full([Source::Peer, Source::Peer, Source::Peer, Source::Client]);
    assert_eq!(store_from(&mut storage, at(1), record(6, 1, b"x"), 60, Source::Peer, is_near), Stored::Full);
    assert_eq!(store_from(&mut storage, at(1), record(0, 1, b"x"), 60, Source::Peer, is_near), Stored::Held);
    assert_eq!(keys(&storage), [0, 1, 2, 4].map(key), "what a client PUT stays, however far");
}

#[test]
fn an_evicted_record_may_be_stored_again_but_no_older_one() {
    let mut storage = full([Source::Peer; 4]);
    store_from(&mut storage, at(1), record(0, 1, b"x"), 5, Source::Peer, is_near);
    assert_eq!(found(&storage, at(1), 4), None, "it gave way");
    storage.sweep(at(5), 9);
    storage.bury(at(5), key(4), Tombstone::of_older(record(4, 7, b"v").rank()));
    assert_eq!(store_from(&mut storage, at(5), record(4, 6, b"v"), 60, Source::Peer, is_near), Stored::Over);
    assert_eq!(store_from(&mut storage, at(5), record(4, 7, b"v"), 60, Source::Peer, is_near), Stored::Held);

    let mut storage = Storage::new(me(), 2 * (RECORD_OVERHEAD + 200), seed());
    for number in [3, 4] {
        store_from(&mut storage, at(0), record(number, 7, &[0; 200]), 60, Source::Peer, is_near);
    }
    store_from(&mut storage, at(1), record(1, 1, b"x"), 60, Source::Peer, is_near);
    assert_eq!(plain_tombstone(&storage, at(1), 4), Some(6), "there is room for its tombstone");
}

#[test]
fn in_a_crowded_storage_no_peer_and_no_group_exceeds_its_quota() {
    let mut storage = room_for(160);
    let quota = storage.bytes_max() / QUOTAS;
    let mut count = 0;
    while store_from(&mut storage, at(0), numbered(count), 60, stranger(1, 1), |_| true) == Stored::Held {
        count += 1;
    }
    assert!(storage.bytes() > quota * 14, "while there is room it takes what it wants");
    assert!(storage.bytes() <= storage.bytes_max() / 100 * CROWDED_PERCENT);
    let from = |storage: &mut Storage, count: &mut u16, source: Source| {
        let first = *count;
        while store_from(storage, at(0), numbered(*count), 60, source, |_| true) == Stored::Held {
            *count += 1;
        }
        *count - first
    };
    assert_eq!(from(&mut storage, &mut count, stranger(2, 1)), 0, "a peer of its group shares its quota");
    let others = from(&mut storage, &mut count, stranger(3, 2));
    assert!((8..=10).contains(&others), "a quota of 160 records, found {others}");
    assert_eq!(from(&mut storage, &mut count, stranger(3, 3)), 0, "a peer that moves keeps its group");
    assert!(from(&mut storage, &mut count, Source::Client) > 0, "a client has no quota");
    assert_eq!(storage.check_invariants(), Ok(()));
}

/// A record of one byte, under a key of that number.
fn numbered(number: u16) -> Record {
    let mut bytes = [0; 32];
    bytes[30..].copy_from_slice(&number.to_be_bytes());
    Record { key: Key::new(bytes), ..record(0, 1, b"s") }
}

#[test]
fn no_peer_can_use_up_the_quota_of_another_or_block_a_record_with_its_own() {
    let mut storage = room_for(160);
    let count = (0..160).take_while(|number| {
        store_from(&mut storage, at(0), numbered(*number), 60, stranger(1, 1), |_| true) == Stored::Held
    });
    let count = u16::try_from(count.count()).expect("at most 160");
    let honest = numbered(1_000);
    assert_eq!(store_from(&mut storage, at(1), honest.clone(), 60, stranger(1, 1), |_| true), Stored::Full);
    assert_eq!(store_from(&mut storage, at(1), honest.clone(), 60, stranger(2, 2), |_| true), Stored::Held);
    let before = storage.bytes();
    assert_eq!(store_from(&mut storage, at(1), honest.clone(), 70, stranger(1, 1), |_| true), Stored::Held);
    assert_eq!(storage.bytes(), before, "it is charged to the first peer that stored it");
    for number in 0..count {
        store_from(&mut storage, at(1), numbered(number), 80, stranger(2, 2), |_| true);
    }
    assert_eq!(store_from(&mut storage, at(1), numbered(1_001), 60, stranger(2, 2), |_| true), Stored::Held);
    store_from(&mut storage, at(1), honest.clone(), 60, Source::Client, |_| true);
    assert_eq!(storage.find(mono(1), &honest.key).map(Held::source), Some(Source::Client), "a client takes it over");
    assert_eq!(storage.check_invariants(), Ok(()));
}

// ── what upkeep asks ─────────────────────────────────────────────────────────────────────────

#[test]
fn a_sweep_removes_the_records_that_ended_first_up_to_its_bound() {
    let mut storage = unbounded();
    for number in 1..=5 {
        store(&mut storage, at(0), record(number, 1, b"v"), number.into());
    }
    assert!(storage.sweep(at(3), 2).is_empty(), "what ended is not due to be offered");
    assert_eq!(storage.next_due(), Some(mono(3)));
    storage.sweep(at(3), 2);
    assert_eq!((storage.len(), storage.next_due()), (2, Some(mono(4))));
}

#[test]
fn a_record_counts_as_shown_until_it_is_doubted_or_replaced() {
    let mut storage = unbounded();
    let is_shown = |storage: &Storage| storage.find(mono(0), &key(1)).expect("it lives").is_shown();
    store(&mut storage, at(0), record(1, 1, b"v"), 60);
    assert!(!is_shown(&storage), "it was not read yet");
    storage.find(mono(0), &key(1)).expect("it lives").show();
    storage.heard(&key(1), &NodeId::new(key(31)));
    assert!(is_shown(&storage));
    assert_eq!(storage.find(mono(0), &key(1)).map(Held::heard_from), Some(1), "which is no peer");
    storage.doubt(&key(1));
    assert!(!is_shown(&storage));
    storage.find(mono(0), &key(1)).expect("it lives").show();
    store(&mut storage, at(0), record(1, 2, b"w"), 60);
    assert!(!is_shown(&storage), "this is another record");
}

#[test]
fn a_due_record_is_named_once_and_its_known_replicas_are_counted() {
    let mut storage = unbounded();
    for number in 1..=3 {
        store(&mut storage, at(0), record(number, 1, b"v"), 60);
        storage.schedule(&key(number), mono(10 * u64::from(number)));
    }
    for peer in [7, 8, 8 + 28] {
        storage.heard(&key(2), &NodeId::new(key(peer)));
    }
    storage.hasten(&key(3), mono(15));
    storage.hasten(&key(1), mono(50));
    assert_eq!(storage.next_due(), Some(mono(10)));
    assert_eq!(storage.sweep(at(20), 9), [key(1), key(3), key(2)]);
    let held = storage.find(mono(20), &key(2)).expect("it lives");
    assert_eq!((held.heard_from(), held.due()), (2, mono(60)), "a lower bound: two peers may share a bit");
    assert!(storage.sweep(at(20), 9).is_empty());
    storage.schedule(&key(2), mono(30));
    let held = storage.find(mono(20), &key(2)).expect("it lives");
    assert_eq!((held.heard_from(), held.due()), (0, mono(30)));
    assert_eq!(storage.check_invariants(), Ok(()));
}

#[test]
fn a_record_whose_due_time_moved_is_looked_at_once_and_not_named() {
    let mut storage = unbounded();
    for number in 1..=3 {
        store(&mut storage, at(0), record(number, 1, b"v"), 60);
        storage.schedule(&key(number), mono(10));
        storage.schedule(&key(number), mono(30));
    }
    assert_eq!(storage.next_due(), Some(mono(10)), "no sweep has looked at them yet");
    assert!(storage.sweep(at(10), 2).is_empty());
    assert_eq!(storage.next_due(), Some(mono(10)), "a sweep looks at no more than `max` records");
    assert!(storage.sweep(at(10), 2).is_empty());
    assert_eq!(storage.next_due(), Some(mono(30)));
    assert_eq!(storage.sweep(at(30), 3).len(), 3);
}

#[test]
fn a_range_has_the_live_records_from_its_first_to_its_last_key() {
    let mut storage = unbounded();
    for number in 1..=5 {
        store(&mut storage, at(0), record(number, 1, b"v"), if number == 3 { 5 } else { 60 });
    }
    let within = |from, to| storage.range(mono(5), key(from)..=key(to)).map(|held| held.record.key).collect::<Vec<_>>();
    assert_eq!(within(2, 4), [key(2), key(4)]);
    assert_eq!(within(4, 2), [], "an empty one is no error");
    assert_eq!(within(0, 255).len(), 4);
}

proptest! {
    #[test]
    fn a_scan_in_parts_meets_the_same_records_as_a_scan_in_one(count in 0..20_u8, part in 1..5_usize) {
        let mut storage = unbounded();
        for number in 0..count {
            store(&mut storage, at(0), record(number, 1, b"v"), 9);
        }
        let mut met = Vec::new();
        while met.len() < count.into() {
            let from = met.len();
            let cursor = met.last().copied();
            met.extend(storage.walk(cursor.as_ref()).take(part).map(|held| held.record.key));
            prop_assert!(met.len() > from, "a scan goes on until its end");
        }
        prop_assert_eq!(met, keys(&storage));
    }

    /// Some of the keys have long common prefixes, as a peer may choose them.
    #[test]
    fn the_farthest_records_come_first(
        numbers in proptest::collection::btree_set((0..4_u8, any::<u8>(), 0..32_usize), 0..30),
        me in any::<[u8; 32]>(),
    ) {
        let mut storage = Storage::new(NodeId::new(Key::new(me)), usize::MAX, seed());
        for (first, byte, slot) in numbers {
            let mut bytes = [first; 32];
            bytes[slot] = byte;
            store(&mut storage, at(0), Record { key: Key::new(bytes), ..record(0, 1, b"v") }, 9);
        }
        let mut expected = keys(&storage);
        expected.sort_by_key(|key| std::cmp::Reverse(key.distance(&storage.me)));
        let found: Vec<Key> = storage.records.farthest(storage.me).map(|(_, held)| held.record.key).collect();
        prop_assert_eq!(found, expected);
    }
}
