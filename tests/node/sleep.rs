//! Sleep: a node whose process did not run for a while synchronizes before it answers from its storage.

use dht::node::Status;
use dht::node::params::Params;
use dht::wire::codec::List;
use dht::wire::peer::{Entry, ErrorCode, RecordBlock, Reply, Request, Want};

use crate::harness::{Harness, block, key, millis, nodes, secs, success, synced, value_of, version_at};

fn find(catching_up: bool) -> Request<'static> {
    Request::FindValue { key: key(1), want: Want { catching_up, ..Want::default() } }
}

/// A settled node that stores a record of the key 1, and its neighbour 2.
fn node() -> (Harness, dht::node::action::ConnId) {
    let mut harness = Harness::new(Params { replication_min: 1, read_quorum: 1, ..Params::default() });
    let conn = harness.add_contact(2);
    harness.pass(secs(1));
    let old = block(1, b"old");
    assert!(matches!(harness.ask(conn, Request::Store(old)), Reply::Stored { .. }));
    harness.forget_actions();
    (harness, conn)
}

/// The process does not run for `millis`.
fn sleep(harness: &mut Harness, span: u64) {
    harness.now = harness.now + millis(span);
}

#[test]
fn after_a_sleep_a_node_answers_from_its_storage_only_once_it_has_synchronized() {
    let (mut harness, conn) = node();
    let asker = harness.accept_client(9);
    harness.make_scripted(2);
    sleep(&mut harness, 10_100);
    let reader = harness.get(key(1));
    assert_eq!(harness.answer(reader), None, "the record may be old");
    assert_eq!(harness.node.status(), Status::Settling);
    let busy = Reply::Error(ErrorCode::TOO_MANY);
    assert_eq!(harness.ask(asker, find(false)), busy, "its answer must not count");
    assert!(matches!(harness.ask(asker, find(true)), Reply::Value { .. }), "others may catch up too");
    let newer = RecordBlock { version: version_at(5_000), ..block(1, b"newer") };
    let entry = Entry::of(&newer.to_record().expect("it has a value"));
    for _ in 0..20 {
        for (rpc, request) in harness.requests(conn) {
            match request {
                Request::Sync { .. } => harness.reply(conn, rpc, synced(&[entry])),
                Request::FindValue { .. } => harness.reply(conn, rpc, value_of(newer)),
                Request::Offer(_) => harness.reply(conn, rpc, Reply::Wanted(List::lend(&[]))),
                _ => harness.reply(conn, rpc, nodes(&[])),
            }
        }
        harness.pass(millis(10));
    }
    assert_eq!(harness.node.status(), Status::Settled);
    assert_eq!(harness.answer(reader), success(1, b"newer"));
    let reader = harness.get(key(1));
    assert_eq!(harness.answer(reader), success(1, b"newer"), "at once");
}

#[test]
fn a_sleep_of_six_seconds_is_noticed_whenever_it_begins() {
    for tenths in 0..50 {
        let (mut harness, conn) = node();
        let asker = harness.accept_client(9);
        for _ in 0..tenths {
            harness.pass(millis(100));
        }
        sleep(&mut harness, 6_100);
        let busy = Reply::Error(ErrorCode::TOO_MANY);
        assert_eq!(harness.ask(asker, find(false)), busy, "it began after {tenths} tenths of a second");
        assert!(matches!(harness.ask(conn, find(true)), Reply::Value { .. }));
    }
}

#[test]
fn a_stall_below_five_seconds_has_no_effect() {
    let (mut harness, _) = node();
    for _ in 0..5 {
        harness.pass(millis(700));
        sleep(&mut harness, 4_900);
        let reader = harness.get(key(1));
        assert_eq!(harness.answer(reader), success(1, b"old"));
        harness.wake();
        for (conn, rpc, ()) in harness.all_requests(|_| Some(())) {
            harness.reply(conn, rpc, Reply::Wanted(List::lend(&[])));
        }
        assert_eq!(harness.node.status(), Status::Settled);
    }
}

#[test]
fn a_node_alone_misses_nothing_while_it_sleeps() {
    let mut harness = Harness::founder();
    harness.put(crate::harness::quiet(1, b"v"));
    sleep(&mut harness, 60_000);
    let reader = harness.get(key(1));
    assert_eq!(harness.answer(reader), success(1, b"v"));
}
