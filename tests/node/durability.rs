//! `durability = always`: a node acknowledges a record only once it is on disk (sections 1 and 2).

use dht::node::Node;
use dht::node::params::{Durability, Params};
use dht::node::persisted::{PersistedKey, PersistedRecord, Saved, SavedAt};
use dht::record::{Age, Source, Tombstone};
use dht::time::{BootTime, WallTime};
use dht::wire::api::{ApiReply, Put};
use dht::wire::peer::{ErrorCode, PeerMessage, Reply, Request};

use crate::harness::{
    Disk, Harness, block, confirmed, failure, key, larger, millis, quiet, secs, signed, stored, success, version_at,
};

/// A founder whose disk behaves as `disk` says.
fn founder(disk: Disk) -> Harness {
    let mut harness = Harness::new(always());
    harness.disk = disk;
    harness
}

fn always() -> Params {
    Params { durability: Durability::Always, replication_min: 1, ..Params::default() }
}

/// The disk reports the result of its batch.
pub(crate) fn say(harness: &mut Harness, saved: Saved) {
    harness.act(|node: &mut Node, now, out| node.on_saved(now, saved, out));
    harness.pass(millis(0));
}

/// The replies that the node sends over a connection to a STORE of `block`.
pub(crate) fn store(
    harness: &mut Harness,
    conn: dht::node::action::ConnId,
    block: dht::wire::peer::RecordBlock<'_>,
) -> Vec<Reply<'static>> {
    harness.send(conn, &PeerMessage::Request(dht::id::RpcId::new([0xbb; 32]), Request::Store(block)));
    replies(harness, conn)
}

pub(crate) fn replies(harness: &mut Harness, conn: dht::node::action::ConnId) -> Vec<Reply<'static>> {
    let said = harness.sent(conn).into_iter();
    said.filter_map(|message| match message {
        PeerMessage::Reply(_, reply) => Some(reply),
        _ => None,
    })
    .collect()
}

#[test]
fn a_store_is_answered_only_once_the_record_is_on_disk() {
    let mut harness = founder(Disk::Waits);
    let conn = harness.accept_client(9);
    assert_eq!(store(&mut harness, conn, block(5, b"v")), []);
    harness.pass(millis(0));
    assert_eq!(replies(&mut harness, conn), []);
    say(&mut harness, Saved::Durable);
    assert_eq!(replies(&mut harness, conn), [stored(&block(5, b"v"))]);
}

#[test]
fn a_failed_batch_refuses_its_stores_and_later_ones_until_the_disk_works_again() {
    let mut harness = founder(Disk::Waits);
    let conn = harness.accept_client(9);
    store(&mut harness, conn, block(5, b"v"));
    harness.pass(millis(0));
    say(&mut harness, Saved::Failed);
    assert_eq!(replies(&mut harness, conn), [Reply::Error(ErrorCode::FULL)]);
    assert_eq!(store(&mut harness, conn, block(6, b"w")), [Reply::Error(ErrorCode::FULL)]);
    harness.disk = Disk::Works;
    harness.pass(secs(2));
    assert_eq!(store(&mut harness, conn, block(6, b"w")), [stored(&block(6, b"w"))]);
}

/// There is nothing to write: the record is on disk.
#[test]
fn a_record_that_is_on_disk_already_is_acknowledged_at_once() {
    let mut harness = founder(Disk::Works);
    let conn = harness.accept_client(9);
    assert_eq!(store(&mut harness, conn, block(5, b"v")), [stored(&block(5, b"v"))]);
    harness.disk = Disk::Waits;
    assert_eq!(store(&mut harness, conn, block(5, b"v")), [stored(&block(5, b"v"))]);
}

#[test]
fn a_record_that_comes_twice_while_it_is_being_written_is_acknowledged_twice_and_written_once() {
    let mut harness = founder(Disk::Waits);
    let conn = harness.accept_client(9);
    store(&mut harness, conn, block(5, b"v"));
    harness.pass(millis(0));
    assert_eq!(store(&mut harness, conn, block(5, b"v")), []);
    say(&mut harness, Saved::Durable);
    assert_eq!(replies(&mut harness, conn), [stored(&block(5, b"v")); 2]);
}

#[test]
fn a_reply_that_names_a_larger_record_does_not_wait_for_the_disk() {
    let mut harness = founder(Disk::Works);
    let conn = harness.accept_client(9);
    let newer = dht::wire::peer::RecordBlock { version: version_at(9), ..block(5, b"new") };
    store(&mut harness, conn, newer);
    harness.pass(millis(0));
    replies(&mut harness, conn);
    harness.disk = Disk::Waits;
    assert_eq!(store(&mut harness, conn, block(5, b"old")), [larger(5, version_at(9))]);
}

#[test]
fn a_put_is_confirmed_only_once_the_local_copy_is_on_disk_too() {
    let mut harness = Harness::with_contacts(always(), [1]);
    harness.disk = Disk::Waits;
    let client = harness.put(confirmed(1, b"v"));
    for (conn, rpc, copy) in harness.copies() {
        harness.reply(conn, rpc, stored(&copy));
    }
    harness.pass(millis(0));
    assert_eq!(harness.answer(client), None, "one of two copies is held");
    say(&mut harness, Saved::Durable);
    assert_eq!(harness.answer(client), success(1, b""));
}

#[test]
fn the_put_of_a_lone_founder_waits_for_its_disk() {
    let mut harness = founder(Disk::Waits);
    let client = harness.put(confirmed(1, b"v"));
    harness.pass(millis(0));
    assert_eq!(harness.answer(client), None);
    let reader = harness.get(key(1));
    assert_eq!(harness.answer(reader), success(1, b"v"), "reading waits for nothing");
    say(&mut harness, Saved::Durable);
    assert_eq!(harness.answer(client), success(1, b""));
}

#[test]
fn a_put_fails_at_its_deadline_while_the_disk_fails() {
    let mut harness = founder(Disk::Fails);
    let client = harness.put(confirmed(1, b"v"));
    harness.pass(millis(9_999));
    assert_eq!(harness.answer(client), None);
    harness.pass(millis(1));
    assert_eq!(harness.answer(client), failure(1));
}

/// While the disk fails, a record that waits for it may be lost more than a second from now.
#[test]
fn while_the_disk_fails_no_local_copy_counts_as_held() {
    let mut harness = Harness::new(Params { durability: Durability::Interval(secs(1)), ..Params::default() });
    harness.disk = Disk::Fails;
    harness.put(quiet(1, b"v"));
    harness.pass(secs(3));
    let client = harness.put(confirmed(2, b"w"));
    harness.pass(secs(3));
    assert_eq!(harness.answer(client), None);
    harness.disk = Disk::Works;
    harness.pass(secs(6));
    assert_eq!(harness.answer(client), success(2, b""));
}

/// With this setting only contacts are written to disk.
#[test]
fn with_durability_none_a_failing_disk_refuses_no_store() {
    let mut harness = Harness::with_contacts(Params { durability: Durability::None, ..Params::default() }, [1]);
    harness.disk = Disk::Fails;
    harness.pass(secs(70));
    let conn = harness.accept_client(9);
    assert_eq!(store(&mut harness, conn, block(5, b"v")), [stored(&block(5, b"v"))]);
}

#[test]
fn records_beyond_one_batch_follow_at_once_in_the_next() {
    let mut harness = Harness::new(Params { durability: Durability::Interval(secs(1)), ..Params::default() });
    harness.disk = Disk::Waits;
    let large = vec![7; dht::limits::VALUE_SIZE_MAX];
    let count = u8::try_from(2 * dht::limits::SAVE_BYTES_MAX / large.len()).expect("few");
    for n in 0..count {
        harness.put(quiet(n, &large));
    }
    harness.pass(secs(1));
    let mut saved = harness.batches();
    assert!(saved.iter().all(|batch| batch.keys.len() < count.into()), "it does not fit one");
    while saved.iter().map(|batch| batch.keys.len()).sum::<usize>() < count.into() {
        say(&mut harness, Saved::Durable);
        let next = harness.batches();
        assert!(!next.is_empty(), "the rest waits for nothing");
        saved.extend(next);
    }
}

/// A start that wrote a large store again would delay clients.
#[test]
fn restored_records_are_not_written_again() {
    for boot in [None, Some(BootTime { boot: 7, millis: 0 })] {
        let persisted = |n| PersistedKey {
            key: key(n),
            record: block(n, b"v").to_record().map(|record| PersistedRecord {
                record,
                age: Age(1_000),
                saved: SavedAt { wall: WallTime::from_millis(version_at(0).time().as_millis()), boot },
                source: Source::Client,
            }),
            tombstone: None,
        };
        let mut harness = founder(Disk::Waits);
        let plain = Some(version_at(0));
        let over = PersistedKey { record: None, tombstone: Some(Tombstone { signed: None, plain }), ..persisted(3) };
        let ended = PersistedKey {
            record: persisted(4).record.map(|persisted| PersistedRecord { age: Age(60_000), ..persisted }),
            ..persisted(4)
        };
        harness.act(|node, now, _| {
            if let Some(boot) = boot {
                node.booted(boot);
            }
            for persisted in [persisted(1), persisted(2), over, ended] {
                node.restore(now, persisted);
            }
            node.restored(now);
            let held = |n| node.storage().find(now.mono, &key(n)).expect("it is alive");
            assert!([1, 2].map(held).iter().all(|held| held.due() < held.expires), "they will be offered");
        });
        harness.pass(secs(2));
        let saved: Vec<_> = harness.batches().iter().flat_map(|batch| batch.keys.clone()).collect();
        let [ended] = &saved[..] else { panic!("{saved:?}") };
        assert_eq!((ended.key, &ended.record, ended.tombstone.is_some()), (key(4), &None, true), "its life has ended");
    }
}

#[test]
fn with_durability_none_nothing_waits_for_the_disk() {
    let mut harness = Harness::new(Params { durability: Durability::None, ..Params::default() });
    harness.disk = Disk::Waits;
    let conn = harness.accept_client(9);
    assert_eq!(store(&mut harness, conn, block(5, b"v")), [stored(&block(5, b"v"))]);
    let client = harness.put(confirmed(1, b"v"));
    assert_eq!(harness.answer(client), success(1, b""));
}

/// A record of the key 5 whose life ends after a second.
fn ends_in_a_second() -> dht::wire::peer::RecordBlock<'static> {
    dht::wire::peer::RecordBlock { age: Age(59_000), ..block(5, b"old") }
}

#[test]
fn a_store_whose_record_ends_while_it_is_being_written_is_refused() {
    let mut harness = founder(Disk::Waits);
    let conn = harness.accept_client(9);
    assert_eq!(store(&mut harness, conn, ends_in_a_second()), []);
    harness.pass(millis(0));
    assert_eq!(harness.batches().len(), 1, "the disk writes it");
    harness.pass(secs(1));
    say(&mut harness, Saved::Durable);
    assert_eq!(replies(&mut harness, conn), [Reply::Error(ErrorCode::GONE)]);
}

/// A later record of the key proves nothing about one that ended before the batch was made.
#[test]
fn a_store_whose_record_ends_before_its_batch_is_refused_though_its_key_is_stored_again() {
    let mut harness = founder(Disk::Waits);
    harness.put(quiet(1, b"v"));
    harness.pass(millis(0));
    let conn = harness.accept_client(9);
    assert_eq!(store(&mut harness, conn, ends_in_a_second()), [], "it waits for the next batch");
    harness.pass(secs(1));
    say(&mut harness, Saved::Durable);
    harness.put(quiet(5, b"new"));
    say(&mut harness, Saved::Durable);
    assert_eq!(replies(&mut harness, conn), [Reply::Error(ErrorCode::GONE)]);
}

/// The owner has replaced the record by one that finds no room, so the batch writes neither of them.
#[test]
fn a_put_whose_own_copy_is_removed_before_its_batch_is_not_confirmed() {
    let mut harness = Harness::new(Params { storage_bytes_max: 1_500, ..always() });
    harness.disk = Disk::Waits;
    harness.put(quiet(1, b"v"));
    harness.pass(millis(0));
    let (mine, newer) = (signed(5, 0, b"mine"), signed(5, 1, vec![7; 1_400].leak()));
    let put = Put { class: mine.class, key: mine.key, value: mine.value().to_vec().leak(), ..confirmed(5, b"") };
    let client = harness.put(put);
    let conn = harness.accept_client(9);
    assert_eq!(store(&mut harness, conn, newer), [Reply::Error(ErrorCode::FULL)]);
    for _ in 0..2 {
        say(&mut harness, Saved::Durable);
        assert_eq!(harness.answer(client), None);
    }
    harness.pass(secs(10));
    assert_eq!(harness.answer(client), Some(ApiReply::Failure { key: mine.key }));
}

/// The store was deleted. A confirmation means more than the record itself: nothing confirmed before may be missing
/// after a crash.
#[test]
fn when_nothing_is_on_disk_any_more_all_is_written_again_before_the_next_confirmation() {
    let mut harness = founder(Disk::Works);
    let conn = harness.accept_client(9);
    for number in 10..90 {
        harness.put(quiet(number, &vec![number; 60_000]));
        harness.pass(millis(0));
    }
    store(&mut harness, conn, ends_in_a_second());
    harness.pass(secs(1));
    harness.disk = Disk::Waits;
    harness.batches();
    let client = harness.put(confirmed(1, &vec![100; 60_000]));
    harness.pass(millis(0));
    assert_eq!(harness.batches().len(), 1);
    say(&mut harness, Saved::Lost);
    let mut written = Vec::new();
    while written.len() < 82 {
        let batches = harness.batches();
        let batch = batches.first().expect("not all is on disk again");
        assert_eq!(harness.answer(client), None, "{} keys are on disk again", written.len());
        written.extend(batch.keys.clone());
        // A change meanwhile does not delay it.
        harness.put(quiet(0, &[u8::try_from(written.len()).expect("few"); 100]));
        say(&mut harness, Saved::Durable);
    }
    assert_eq!(harness.answer(client), success(1, b""));
    let of = |number| written.iter().filter(|persisted| persisted.key == key(number)).collect::<Vec<_>>();
    assert!((10..90).all(|number| of(number).len() == 1 && of(number)[0].record.is_some()), "each once");
    assert!(of(5).len() == 1 && of(5)[0].tombstone.is_some(), "a tombstone too");
}

/// The keys of a batch that fails meanwhile are missing on disk, as those that had no batch yet.
#[test]
fn a_failure_while_all_is_written_again_confirms_nothing_early() {
    let mut harness = founder(Disk::Works);
    for number in 10..90 {
        harness.put(quiet(number, &vec![number; 60_000]));
        harness.pass(millis(0));
    }
    harness.pass(secs(1));
    harness.disk = Disk::Waits;
    harness.batches();
    harness.put(quiet(1, b"v"));
    harness.pass(millis(0));
    say(&mut harness, Saved::Lost);
    // The second batch has all that the first one had no room for.
    for saved in [Saved::Durable, Saved::Failed] {
        harness.batches();
        say(&mut harness, saved);
    }
    harness.pass(secs(1));
    let client = harness.put(confirmed(2, b"w"));
    let mut batches = 0;
    while harness.answer(client).is_none() {
        let keys: Vec<_> = harness.batches().iter().flat_map(|batch| batch.keys.clone()).collect();
        assert!(!keys.is_empty(), "not all is on disk again");
        batches += 1;
        say(&mut harness, Saved::Durable);
    }
    assert!(batches >= 2 && harness.node.unsaved() == 0, "{batches}");
}

#[test]
fn with_durability_none_no_record_is_written_again() {
    let mut harness = Harness::new(Params { durability: Durability::None, ..always() });
    harness.disk = Disk::Waits;
    harness.add_contact(2);
    harness.put(quiet(1, b"v"));
    harness.pass(secs(1));
    assert_eq!(harness.batches().len(), 1, "the contacts");
    say(&mut harness, Saved::Lost);
    let batches = harness.batches();
    assert!(batches.len() == 1 && batches[0].keys.is_empty() && batches[0].contacts.is_some(), "{batches:?}");
}

/// A founder with a STORE from another node that has waited for the disk for `rpc_timeout`.
fn with_hung_disk() -> (Harness, dht::node::action::ConnId) {
    let mut harness = founder(Disk::Waits);
    let conn = harness.accept_client(9);
    store(&mut harness, conn, block(5, b"v"));
    harness.pass(millis(0));
    assert_eq!(replies(&mut harness, conn), []);
    harness.pass(millis(1_999));
    assert_eq!(replies(&mut harness, conn), []);
    harness.pass(millis(1));
    (harness, conn)
}

#[test]
fn a_store_that_has_waited_for_the_disk_for_rpc_timeout_is_refused_and_its_record_kept() {
    let (mut harness, conn) = with_hung_disk();
    assert_eq!(replies(&mut harness, conn), [Reply::Error(ErrorCode::FULL)]);
    assert_eq!(store(&mut harness, conn, block(6, b"w")), [Reply::Error(ErrorCode::FULL)], "and later ones at once");
    for (number, value) in [(5, b"v"), (6, b"w")] {
        let reader = harness.get(key(number));
        assert_eq!(harness.answer(reader), success(number, value));
    }
}

#[test]
fn when_a_hung_disk_works_again_copies_are_acknowledged_again() {
    let (mut harness, conn) = with_hung_disk();
    replies(&mut harness, conn);
    say(&mut harness, Saved::Durable);
    assert_eq!(replies(&mut harness, conn), [], "it was answered");
    let again = dht::wire::peer::RecordBlock { age: Age(2_000), ..block(5, b"v") };
    assert_eq!(store(&mut harness, conn, again), [stored(&again)]);
    assert_eq!(store(&mut harness, conn, block(6, b"w")), [], "others wait as before");
    harness.pass(millis(0));
    say(&mut harness, Saved::Durable);
    assert_eq!(replies(&mut harness, conn), [stored(&block(6, b"w"))]);
}

/// The disk works, but is slow: each batch takes almost `rpc_timeout`.
#[test]
fn a_disk_that_answers_some_who_wait_does_not_hang() {
    let mut harness = founder(Disk::Waits);
    let conn = harness.accept_client(9);
    for number in 0..4 {
        store(&mut harness, conn, block(2 * number, b"v"));
        harness.pass(millis(0));
        store(&mut harness, conn, block(2 * number + 1, b"v"));
        harness.pass(millis(1_900));
        say(&mut harness, Saved::Durable);
        assert!(replies(&mut harness, conn).iter().all(|reply| matches!(reply, Reply::Stored { .. })));
    }
}

/// A store that was lost takes long to be written again: what waits for all of it waits no longer than for one batch.
#[test]
fn while_all_is_written_again_a_store_is_refused_after_rpc_timeout_too() {
    let mut harness = founder(Disk::Waits);
    let conn = harness.accept_client(9);
    store(&mut harness, conn, block(5, b"v"));
    for _ in 0..4 {
        harness.pass(millis(500));
        say(&mut harness, Saved::Lost);
    }
    assert_eq!(replies(&mut harness, conn), [Reply::Error(ErrorCode::FULL)]);
}

#[test]
fn a_put_goes_on_without_the_own_copy_if_the_disk_hangs() {
    let params = Params { replication_min: 1, durability: Durability::Always, ..Params::default() };
    let mut harness = Harness::with_contacts(params, 1..=4);
    harness.disk = Disk::Waits;
    let client = harness.put(Put { replication: 2, ..confirmed(129, b"v") });
    let copies = harness.copies();
    assert_eq!(copies.len(), 1, "the other copy is the own one");
    harness.reply(copies[0].0, copies[0].1, stored(&copies[0].2));
    harness.pass(secs(2));
    let next = harness.copies();
    assert_eq!(next.len(), 1);
    harness.reply(next[0].0, next[0].1, stored(&next[0].2));
    assert_eq!(harness.answer(client), success(129, b""));
}
