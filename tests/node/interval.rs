//! `durability = interval`: a node acknowledges a record when the system has it, and syncs the disk in time.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use dht::id::Key;
use dht::limits::SAVE_KEYS_MAX;
use dht::node::Node;
use dht::node::action::ClientId;
use dht::node::params::{Durability, Params};
use dht::node::persisted::{Batch, Saved};
use dht::wire::api::{ApiRequest, Put};
use dht::wire::peer::{ErrorCode, Reply, Request};

use crate::durability::{replies, say, store};
use crate::harness::{Disk, Harness, block, confirmed, key, millis, quiet, secs, stored, success};

fn founder() -> Harness {
    founder_with(secs(1))
}

/// A founder whose disk waits until the test reports a result.
fn founder_with(interval: Duration) -> Harness {
    let params = Params { durability: Durability::Interval(interval), replication_min: 1, ..Params::default() };
    let mut harness = Harness::new(params);
    harness.pass(secs(2)); // its first contacts are saved
    harness.disk = Disk::Waits;
    harness
}

/// The batch that the node has asked for, if it has asked for one.
fn batch(harness: &mut Harness) -> Option<Arc<Batch>> {
    let batches = harness.batches();
    assert!(batches.len() <= 1, "one at a time");
    batches.into_iter().next()
}

/// The node asks for a batch with the keys `numbers`.
fn expect_batch(harness: &mut Harness, numbers: &[u8], sync: bool) {
    let batch = batch(harness).expect("a batch");
    assert_eq!(
        batch.keys.iter().map(|persisted| persisted.key).collect::<Vec<_>>(),
        numbers.iter().map(|n| key(*n)).collect::<Vec<_>>()
    );
    assert_eq!(batch.sync, sync);
}

fn nth(number: usize) -> Key {
    Key::new(std::array::from_fn(|at| if at < 8 { number.to_be_bytes()[at] } else { 0 }))
}

#[test]
fn a_store_is_answered_when_the_system_has_the_record_and_synced_half_an_interval_later() {
    let mut harness = founder();
    let conn = harness.accept_client(9);
    assert_eq!(store(&mut harness, conn, block(5, b"v")), []);
    harness.pass(millis(0));
    assert_eq!(replies(&mut harness, conn), []);
    expect_batch(&mut harness, &[5], false);
    say(&mut harness, Saved::Written);
    assert_eq!(replies(&mut harness, conn), [stored(&block(5, b"v"))]);
    assert_eq!(store(&mut harness, conn, block(5, b"v")), [stored(&block(5, b"v"))], "it is not written again");
    harness.pass(millis(499));
    assert_eq!(batch(&mut harness), None);
    harness.pass(millis(1));
    expect_batch(&mut harness, &[], true);
    say(&mut harness, Saved::Durable);
    harness.pass(secs(5));
    assert_eq!(batch(&mut harness), None, "nothing has changed");
}

#[test]
fn the_host_looks_for_its_files_half_a_second_after_a_change_though_the_interval_is_longer() {
    let mut harness = founder_with(secs(3));
    let conn = harness.accept_client(9);
    store(&mut harness, conn, block(5, b"v"));
    harness.pass(millis(0));
    assert!(batch(&mut harness).is_some_and(|batch| !batch.look));
    say(&mut harness, Saved::Written);
    harness.pass(millis(400));
    store(&mut harness, conn, block(6, b"v"));
    harness.pass(millis(0));
    assert!(batch(&mut harness).is_some_and(|batch| !batch.look));
    say(&mut harness, Saved::Written);
    harness.pass(millis(99));
    assert_eq!(batch(&mut harness), None);
    harness.pass(millis(1));
    let looks = batch(&mut harness).expect("a batch");
    assert!(looks.look && !looks.sync && looks.keys.is_empty());
    say(&mut harness, Saved::Written);
    harness.pass(millis(1_000));
    while let Some(batch) = batch(&mut harness) {
        say(&mut harness, if batch.sync { Saved::Durable } else { Saved::Written });
        harness.pass(millis(500));
    }
    harness.pass(secs(5));
    assert_eq!(batch(&mut harness), None, "nothing has changed");
}

#[test]
fn a_put_is_confirmed_when_the_system_has_the_record() {
    let mut harness = founder();
    let client = harness.put(confirmed(1, b"v"));
    harness.pass(millis(0));
    assert_eq!(harness.answer(client), None);
    expect_batch(&mut harness, &[1], false);
    say(&mut harness, Saved::Written);
    assert_eq!(harness.answer(client), success(1, b""));
}

#[test]
fn what_nobody_waits_for_is_collected_and_on_disk_within_the_interval() {
    let mut harness = founder();
    harness.put(quiet(1, b"v"));
    harness.pass(millis(300));
    harness.put(quiet(2, b"w"));
    harness.put(quiet(1, b"x"));
    harness.pass(millis(199));
    assert_eq!(batch(&mut harness), None);
    harness.pass(millis(1));
    let saved = batch(&mut harness).expect("a batch");
    let values = saved.keys.iter().map(|state| state.record.as_ref().map(|kept| kept.record.value.to_vec()));
    assert_eq!(values.collect::<Vec<_>>(), [Some(b"x".to_vec()), Some(b"w".to_vec())], "the latest states");
    assert!(saved.sync);
    harness.put(quiet(3, b"y"));
    say(&mut harness, Saved::Durable);
    assert_eq!(batch(&mut harness), None);
    harness.pass(millis(500));
    expect_batch(&mut harness, &[3], true);
}

#[test]
fn a_full_batch_leaves_at_once() {
    let mut harness = founder();
    for number in 1..SAVE_KEYS_MAX {
        harness.put(dht::wire::api::Put { key: nth(number), ..quiet(1, b"v") });
    }
    harness.pass(millis(0));
    assert_eq!(batch(&mut harness), None);
    harness.put(dht::wire::api::Put { key: nth(0), ..quiet(1, b"v") });
    harness.pass(millis(0));
    let batch = batch(&mut harness).expect("a batch");
    assert_eq!((batch.keys.len(), batch.sync), (SAVE_KEYS_MAX, false));
}

/// What was written since the last sync may be lost too, so it is written again.
#[test]
fn after_a_failure_all_that_is_not_on_disk_is_saved_again() {
    for fails_alone in [false, true] {
        let mut harness = founder();
        let conn = harness.accept_client(9);
        store(&mut harness, conn, block(5, b"v"));
        harness.pass(millis(0));
        expect_batch(&mut harness, &[5], false);
        say(&mut harness, Saved::Written);
        assert_eq!(replies(&mut harness, conn), [stored(&block(5, b"v"))]);
        if fails_alone {
            harness.pass(millis(500));
            expect_batch(&mut harness, &[], true);
        } else {
            store(&mut harness, conn, block(6, b"w"));
            harness.pass(millis(0));
            expect_batch(&mut harness, &[6], false);
        }
        say(&mut harness, Saved::Failed);
        let refused = if fails_alone { vec![] } else { vec![Reply::Error(ErrorCode::FULL)] };
        assert_eq!(replies(&mut harness, conn), refused);
        assert_eq!(store(&mut harness, conn, block(7, b"x")), [Reply::Error(ErrorCode::FULL)]);
        harness.pass(secs(1));
        for number in if fails_alone { 5..=5 } else { 5..=6 } {
            // One key after the other, because a batch of one key has failed; the first one tries the disk.
            expect_batch(&mut harness, &[number], number == 5);
            say(&mut harness, if number == 5 { Saved::Durable } else { Saved::Written });
            harness.pass(millis(0));
        }
        store(&mut harness, conn, block(7, b"x"));
        harness.pass(millis(0));
        expect_batch(&mut harness, &[7], false);
    }
}

/// The disk has room for single keys.
#[test]
fn what_has_no_room_at_once_is_saved_in_parts() {
    let mut harness = founder();
    for number in 0..100 {
        harness.put(dht::wire::api::Put { key: nth(number), ..quiet(1, b"v") });
    }
    let (mut saved, mut attempts) = (BTreeSet::new(), Vec::new());
    while saved.len() < 100 {
        harness.pass(secs(1));
        let batch = batch(&mut harness).expect("an attempt");
        attempts.push(batch.keys.len());
        assert!(attempts.len() < 300, "{attempts:?}");
        if batch.keys.len() > 1 {
            say(&mut harness, Saved::Failed);
        } else {
            saved.extend(batch.keys.iter().map(|state| state.key));
            say(&mut harness, Saved::Durable);
        }
    }
    assert_eq!(attempts[..5], [100, 25, 6, 1, 2]);
}

#[test]
fn a_node_leaves_when_all_is_synced() {
    let mut harness = founder();
    let client = harness.put(confirmed(1, b"v"));
    harness.pass(millis(0));
    expect_batch(&mut harness, &[1], false);
    say(&mut harness, Saved::Written);
    assert_eq!(harness.answer(client), success(1, b""));
    harness.act(Node::leave);
    harness.pass(millis(0));
    assert!(!harness.node.has_left());
    expect_batch(&mut harness, &[], true);
    say(&mut harness, Saved::Durable);
    assert!(harness.node.has_left());
}

/// They would take much memory besides the storage, without making the disk faster.
#[test]
fn clients_wait_while_65_536_keys_are_not_written() {
    let mut harness = founder();
    let (mut taken, mut has_room) = (0_u64, true);
    while has_room {
        harness.act(|node, now, out| {
            let key = Key::new(std::array::from_fn(|at| taken.to_be_bytes().get(at).copied().unwrap_or(1)));
            let client = ClientId { connection: taken, request: 1 };
            node.on_request(now, client, ApiRequest::Put(Put { key, ..quiet(1, b"v") }), out);
            node.on_timeout(now, out);
            has_room = node.wants_requests();
        });
        taken += 1;
        assert!(taken <= 100_000, "no bound is reached");
    }
    assert_eq!(harness.node.unsaved(), 1 << 16);
    assert_eq!(taken - (1 << 16), SAVE_KEYS_MAX as u64, "one batch is in flight");
}

/// GETs need no room there, and PUTs can be stored at other nodes.
#[test]
fn when_too_much_waits_for_a_hung_disk_clients_do_not_wait_for_it_and_new_records_are_refused() {
    let mut harness = founder();
    let mut taken = 0_u64;
    let mut put_next = |harness: &mut Harness| {
        let key = Key::new(std::array::from_fn(|at| taken.to_be_bytes().get(at).copied().unwrap_or(1)));
        let client = ClientId { connection: taken, request: 1 };
        taken += 1;
        harness.act(|node, now, out| {
            node.on_request(now, client, ApiRequest::Put(Put { key, ..quiet(1, b"v") }), out);
            node.on_timeout(now, out);
        });
    };
    while harness.node.unsaved() < 1 << 16 {
        put_next(&mut harness);
    }
    assert!(!harness.node.wants_requests(), "it may be busy only");
    harness.pass(secs(2));
    assert!(harness.node.wants_requests(), "the disk hangs");
    let held = harness.node.storage().len();
    put_next(&mut harness);
    assert_eq!((harness.node.unsaved(), harness.node.storage().len()), (1 << 16, held), "there is no room");
    let conn = harness.accept_client(9);
    assert_eq!(harness.ask(conn, Request::Store(block(5, b"v"))), Reply::Error(ErrorCode::FULL));
    harness.act(|node, now, out| node.on_saved(now, Saved::Written, out));
    harness.pass(millis(0));
    put_next(&mut harness);
    assert_eq!(harness.node.storage().len(), held + 1, "it works again");
}
