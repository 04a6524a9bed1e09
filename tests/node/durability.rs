//! `durability = always`: what is said to be held is on disk (sections 1 and 2).

use dht::node::Node;
use dht::node::params::{Durability, Params};
use dht::node::persisted::{PersistedKey, PersistedRecord, Saved};
use dht::record::{Age, Source, Tombstone};
use dht::time::WallTime;
use dht::wire::peer::{ErrorCode, PeerMessage, Reply, Request};

use crate::harness::{
    Disk, Stage, block, confirmed, failure, key, larger, millis, quiet, secs, stored, success, version_at,
};

/// A founder whose disk does what the test says.
fn founder(disk: Disk) -> Stage {
    let mut stage = Stage::new(always());
    stage.disk = disk;
    stage
}

fn always() -> Params {
    Params { durability: Durability::Always, replication_min: 1, ..Params::default() }
}

/// The disk says what became of its batch.
fn say(stage: &mut Stage, saved: Saved) {
    stage.act(|node: &mut Node, now, out| node.on_saved(now, saved, out));
    stage.pass(millis(0));
}

/// What the node says over a connection when it is sent a STORE of `block`.
fn store(
    stage: &mut Stage,
    conn: dht::node::action::ConnId,
    block: dht::wire::peer::RecordBlock<'_>,
) -> Vec<Reply<'static>> {
    stage.tell(conn, &PeerMessage::Request(dht::id::RpcId::new([0xbb; 32]), Request::Store(block)));
    replies(stage, conn)
}

fn replies(stage: &mut Stage, conn: dht::node::action::ConnId) -> Vec<Reply<'static>> {
    let said = stage.said(conn).into_iter();
    said.filter_map(|message| match message {
        PeerMessage::Reply(_, reply) => Some(reply),
        _ => None,
    })
    .collect()
}

#[test]
fn a_store_is_answered_when_the_record_is_on_disk_and_no_sooner() {
    let mut stage = founder(Disk::Waits);
    let conn = stage.accept_client(9);
    assert_eq!(store(&mut stage, conn, block(5, b"v")), []);
    stage.pass(millis(0));
    assert_eq!(replies(&mut stage, conn), []);
    say(&mut stage, Saved::Durable);
    assert_eq!(replies(&mut stage, conn), [stored(&block(5, b"v"))]);
}

#[test]
fn a_store_whose_batch_fails_is_refused_and_so_are_others_until_the_disk_works_again() {
    let mut stage = founder(Disk::Waits);
    let conn = stage.accept_client(9);
    store(&mut stage, conn, block(5, b"v"));
    stage.pass(millis(0));
    say(&mut stage, Saved::Failed);
    assert_eq!(replies(&mut stage, conn), [Reply::Error(ErrorCode::FULL)]);
    assert_eq!(store(&mut stage, conn, block(6, b"w")), [Reply::Error(ErrorCode::FULL)]);
    stage.disk = Disk::Works;
    stage.pass(secs(2));
    assert_eq!(store(&mut stage, conn, block(6, b"w")), []);
    stage.pass(millis(0));
    assert_eq!(replies(&mut stage, conn), [stored(&block(6, b"w"))]);
}

/// Nothing of it is to be written: it is there.
#[test]
fn a_record_that_is_on_disk_already_is_acknowledged_at_once() {
    let mut stage = founder(Disk::Works);
    let conn = stage.accept_client(9);
    store(&mut stage, conn, block(5, b"v"));
    stage.pass(millis(0));
    assert_eq!(replies(&mut stage, conn), [stored(&block(5, b"v"))]);
    stage.disk = Disk::Waits;
    assert_eq!(store(&mut stage, conn, block(5, b"v")), [stored(&block(5, b"v"))]);
}

#[test]
fn a_record_that_comes_twice_while_it_is_being_written_is_acknowledged_twice_and_written_once() {
    let mut stage = founder(Disk::Waits);
    let conn = stage.accept_client(9);
    store(&mut stage, conn, block(5, b"v"));
    stage.pass(millis(0));
    assert_eq!(store(&mut stage, conn, block(5, b"v")), []);
    say(&mut stage, Saved::Durable);
    assert_eq!(replies(&mut stage, conn), [stored(&block(5, b"v")); 2]);
}

#[test]
fn what_is_larger_or_refused_is_said_without_the_disk() {
    let mut stage = founder(Disk::Works);
    let conn = stage.accept_client(9);
    let newer = dht::wire::peer::RecordBlock { version: version_at(9), ..block(5, b"new") };
    store(&mut stage, conn, newer);
    stage.pass(millis(0));
    replies(&mut stage, conn);
    stage.disk = Disk::Waits;
    assert_eq!(store(&mut stage, conn, block(5, b"old")), [larger(5, version_at(9))]);
}

#[test]
fn a_put_is_confirmed_when_its_own_copy_is_on_disk_too() {
    let mut stage = Stage::among(always(), [1]);
    stage.disk = Disk::Waits;
    let client = stage.put(confirmed(1, b"v"));
    for (conn, rpc, copy) in stage.copies() {
        stage.reply(conn, rpc, stored(&copy));
    }
    stage.pass(millis(0));
    assert_eq!(stage.answer(client), None, "one of two copies is held");
    say(&mut stage, Saved::Durable);
    assert_eq!(stage.answer(client), success(1, b""));
}

#[test]
fn the_put_of_a_lone_founder_waits_for_its_disk() {
    let mut stage = founder(Disk::Waits);
    let client = stage.put(confirmed(1, b"v"));
    stage.pass(millis(0));
    assert_eq!(stage.answer(client), None);
    let reader = stage.get(key(1));
    assert_eq!(stage.answer(reader), success(1, b"v"), "reading waits for nothing");
    say(&mut stage, Saved::Durable);
    assert_eq!(stage.answer(client), success(1, b""));
}

#[test]
fn a_put_that_no_disk_takes_is_failed_in_time_and_confirmed_by_nobody() {
    let mut stage = founder(Disk::Fails);
    let client = stage.put(confirmed(1, b"v"));
    stage.pass(millis(9_999));
    assert_eq!(stage.answer(client), None);
    stage.pass(millis(1));
    assert_eq!(stage.answer(client), failure(1));
}

/// What waits for a disk that fails may be lost later than a second from now.
#[test]
fn while_the_disk_fails_nothing_counts_as_held_here() {
    let mut stage = Stage::new(Params { durability: Durability::Interval(secs(1)), ..Params::default() });
    stage.disk = Disk::Fails;
    stage.put(quiet(1, b"v"));
    stage.pass(secs(3));
    let client = stage.put(confirmed(2, b"w"));
    stage.pass(secs(3));
    assert_eq!(stage.answer(client), None);
    stage.disk = Disk::Works;
    stage.pass(secs(6));
    assert_eq!(stage.answer(client), success(2, b""));
}

/// The contacts alone are on disk then.
#[test]
fn without_durability_a_disk_that_fails_refuses_nothing() {
    let mut stage = Stage::among(Params { durability: Durability::None, ..Params::default() }, [1]);
    stage.disk = Disk::Fails;
    stage.pass(secs(70));
    let conn = stage.accept_client(9);
    assert_eq!(store(&mut stage, conn, block(5, b"v")), [stored(&block(5, b"v"))]);
}

#[test]
fn what_has_no_room_in_a_batch_goes_with_the_next_at_once() {
    let mut stage = Stage::new(Params { durability: Durability::Interval(secs(1)), ..Params::default() });
    stage.disk = Disk::Waits;
    let large = vec![7; dht::limits::VALUE_SIZE_MAX];
    let count = u8::try_from(2 * dht::limits::SAVE_BYTES_MAX / large.len()).expect("few");
    for n in 0..count {
        stage.put(quiet(n, &large));
    }
    stage.pass(secs(1));
    let mut saved = stage.batches();
    assert!(saved.iter().all(|batch| batch.keys.len() < count.into()), "it does not fit one");
    while saved.iter().map(|batch| batch.keys.len()).sum::<usize>() < count.into() {
        say(&mut stage, Saved::Durable);
        let next = stage.batches();
        assert!(!next.is_empty(), "the rest waits for nothing");
        saved.extend(next);
    }
}

/// A start writes nothing that is there: a large store would hold up clients for long.
#[test]
fn what_was_taken_back_is_on_disk() {
    let persisted = |n| PersistedKey {
        key: key(n),
        record: block(n, b"v").to_record().map(|record| PersistedRecord {
            record,
            age: Age(1_000),
            saved: WallTime::from_millis(version_at(0).time().as_millis()),
            source: Source::Client,
        }),
        tombstone: None,
    };
    let mut stage = founder(Disk::Waits);
    let plain = Some(version_at(0));
    let over = PersistedKey { record: None, tombstone: Some(Tombstone { signed: None, plain }), ..persisted(3) };
    let ended = PersistedKey {
        record: persisted(4).record.map(|persisted| PersistedRecord { age: Age(60_000), ..persisted }),
        ..persisted(4)
    };
    for persisted in [persisted(1), persisted(2), over, ended] {
        stage.act(|node, now, _| node.restore(now, persisted.clone()).expect("it claims nothing"));
    }
    stage.pass(secs(2));
    let saved: Vec<_> = stage.batches().iter().flat_map(|batch| batch.keys.clone()).collect();
    let [ended] = &saved[..] else { panic!("{saved:?}") };
    assert_eq!((ended.key, &ended.record, ended.tombstone.is_some()), (key(4), &None, true), "its life has ended");
}

/// Everybody else is told at once.
#[test]
fn without_always_nobody_waits_for_the_disk() {
    for durability in [Durability::None, Durability::Interval(secs(1))] {
        let mut stage = Stage::new(Params { durability, ..Params::default() });
        stage.disk = Disk::Waits;
        let conn = stage.accept_client(9);
        assert_eq!(store(&mut stage, conn, block(5, b"v")), [stored(&block(5, b"v"))]);
        let client = stage.put(confirmed(1, b"v"));
        assert_eq!(stage.answer(client), success(1, b""));
    }
}
