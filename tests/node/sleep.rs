//! Sleep: a node whose process did not run for a while synchronizes before it answers from its storage.

use dht::id::RpcId;
use dht::node::Status;
use dht::node::action::{ConnId, DialError};
use dht::node::params::Params;
use dht::wire::codec::List;
use dht::wire::peer::{Entry, ErrorCode, RecordBlock, Reply, Request, Want};

use crate::harness::{
    Harness, block, confirmed, hello, key, millis, nodes, secs, stored, success, synced, value_of, version_at,
};

fn find(catching_up: bool) -> Request<'static> {
    Request::FindValue { key: key(1), want: Want { catching_up, ..Want::default() } }
}

/// A settled node that stores a record of the key 1, and its neighbour 2.
fn node() -> (Harness, ConnId) {
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

/// A newer record of the key `n`.
fn newer(n: u8) -> RecordBlock<'static> {
    RecordBlock { version: version_at(5_000), ..block(n, b"newer") }
}

/// The requests for values since the last call.
fn lookups(harness: &mut Harness) -> Vec<(ConnId, RpcId)> {
    let asked = harness.all_requests(|request| match request {
        Request::FindValue { want, .. } if !want.catching_up => Some(()),
        _ => None,
    });
    asked.into_iter().map(|(conn, rpc, ())| (conn, rpc)).collect()
}

/// The SYNCs since the last call.
fn syncs(harness: &mut Harness) -> Vec<RpcId> {
    let asked = harness.all_requests(|request| matches!(request, Request::Sync { .. }).then_some(()));
    asked.into_iter().map(|(_, rpc, ())| rpc).collect()
}

/// The scripted peers answer each FIND NODE.
fn answer_find_node(harness: &mut Harness) {
    for (conn, rpc, ()) in harness.all_requests(|request| matches!(request, Request::FindNode { .. }).then_some(())) {
        harness.reply(conn, rpc, nodes(&[]));
    }
    harness.pass(millis(0));
}

/// The peer 2 opens a connection, and sends a request.
fn reconnect(harness: &mut Harness) -> ConnId {
    let conn = harness.accept(2);
    harness.send(conn, &hello());
    harness.come_back(conn);
    conn
}

/// The answers of peers may have waited in the sockets since before the sleep.
#[test]
fn after_a_sleep_a_get_joins_no_lookup_that_began_before() {
    let (mut harness, _) = node();
    harness.make_scripted(2);
    let before = harness.get(key(7));
    let [(conn, rpc)] = lookups(&mut harness)[..] else { panic!("one lookup") };
    sleep(&mut harness, 8_000);
    let after = harness.get(key(7));
    harness.reply(conn, rpc, value_of(block(7, b"old")));
    assert_eq!(harness.answer(before), success(7, b"old"), "it was asked before");
    assert_eq!(harness.answer(after), None);
    let [(conn, rpc)] = lookups(&mut harness)[..] else { panic!("the next lookup") };
    harness.reply(conn, rpc, value_of(newer(7)));
    assert_eq!(harness.answer(after), success(7, b"newer"));
}

/// The PUT may have been stored by other nodes and overwritten meanwhile.
#[test]
fn after_a_sleep_the_record_of_a_put_in_flight_is_not_returned_unasked() {
    let (mut harness, _) = node();
    harness.make_scripted(2);
    harness.put(confirmed(7, b"own"));
    let reader = harness.get(key(7));
    assert_eq!(harness.answer(reader), success(7, b"own"));
    sleep(&mut harness, 8_000);
    let reader = harness.get(key(7));
    assert_eq!(harness.answer(reader), None);
}

/// Section 1, rule 6: nobody has overwritten what was written after the sleep, unless later.
#[test]
fn a_client_reads_what_it_has_written_since_the_node_woke() {
    for with_old_record in [false, true] {
        let (mut harness, _) = node();
        harness.make_scripted(2);
        sleep(&mut harness, 8_000);
        let n = if with_old_record { 1 } else { 7 };
        let writer = harness.put(confirmed(n, b"own"));
        let reader = harness.get(key(n));
        assert_eq!((harness.answer(writer), harness.answer(reader)), (None, success(n, b"own")));
        assert_eq!(harness.node.status(), Status::Settling);
    }
}

/// The same once other nodes store it: replicas that do not store it yet are no evidence.
#[test]
fn a_woken_node_returns_no_record_that_is_older_than_one_written_since() {
    let (mut harness, conn) = node();
    harness.add_contact(3);
    harness.make_scripted(2);
    harness.make_scripted(3);
    sleep(&mut harness, 8_000);
    let writer = harness.put(confirmed(1, b"own"));
    for (conn, rpc) in lookups(&mut harness) {
        harness.reply(conn, rpc, nodes(&[]));
    }
    for (conn, rpc, copy) in harness.copies() {
        harness.reply(conn, rpc, stored(&copy));
    }
    for (rpc, request) in harness.requests(conn) {
        if matches!(request, Request::Sync { .. }) {
            harness.reply(conn, rpc, synced(&[]));
        }
    }
    assert_eq!(harness.answer(writer), success(1, b""));
    assert_eq!(harness.node.status(), Status::Settling);
    let reader = harness.get(key(1));
    for (conn, rpc) in lookups(&mut harness) {
        harness.reply(conn, rpc, value_of(block(1, b"old")));
    }
    assert_eq!(harness.answer(reader), None);
}

#[test]
fn after_a_sleep_the_own_record_does_not_count_while_as_many_nodes_are_silent_as_it_has_replicas() {
    let (mut harness, _) = node();
    let other = harness.add_contact(3);
    harness.pass(secs(1));
    for (conn, rpc, _) in harness.offers() {
        harness.reply(conn, rpc, Reply::Wanted(List::lend(&[])));
    }
    harness.make_scripted(2);
    harness.make_scripted(3);
    sleep(&mut harness, 7_000);
    let reader = harness.get(key(1));
    for (conn, rpc) in lookups(&mut harness).into_iter().filter(|(conn, _)| *conn == other) {
        harness.reply(conn, rpc, nodes(&[]));
    }
    harness.pass(secs(1));
    answer_find_node(&mut harness);
    harness.pass(secs(1));
    assert_eq!(harness.node.status(), Status::Settling);
    assert_eq!(harness.answer(reader), None, "the peer 2 may store a newer one");
    for _ in 0..2 {
        for (conn, rpc) in lookups(&mut harness) {
            harness.reply(conn, rpc, if conn == other { nodes(&[]) } else { value_of(newer(1)) });
        }
    }
    assert_eq!(harness.answer(reader), success(1, b"newer"));
}

#[test]
fn after_a_sleep_the_own_record_does_not_count_if_the_connections_to_as_many_nodes_have_ended() {
    let (mut harness, conn) = node();
    harness.make_scripted(2);
    sleep(&mut harness, 8_000);
    let reader = harness.get(key(1));
    harness.close(conn);
    for _ in 0..2 {
        let dial = harness.dial_of(2);
        harness.fail(dial, DialError::Unreachable);
    }
    assert_eq!(harness.answer(reader), None, "no other node has replied");
    reconnect(&mut harness);
    answer_find_node(&mut harness);
    harness.pass(secs(1));
    for (conn, rpc) in lookups(&mut harness) {
        harness.reply(conn, rpc, value_of(newer(1)));
    }
    assert_eq!(harness.answer(reader), success(1, b"newer"));
}

#[test]
fn a_reply_to_a_sync_from_before_another_sleep_does_not_end_the_new_synchronization() {
    let (mut harness, _) = node();
    harness.make_scripted(2);
    sleep(&mut harness, 8_000);
    harness.wake();
    answer_find_node(&mut harness);
    let [earlier] = syncs(&mut harness)[..] else { panic!("one neighbour") };
    sleep(&mut harness, 8_000);
    let conn = reconnect(&mut harness);
    answer_find_node(&mut harness);
    let [later] = syncs(&mut harness)[..] else { panic!("one neighbour") };
    harness.reply(conn, earlier, synced(&[]));
    harness.pass(millis(0));
    assert_eq!(harness.node.status(), Status::Settling);
    harness.reply(conn, later, synced(&[]));
    harness.pass(millis(0));
    assert_eq!(harness.node.status(), Status::Settled);
}

/// A PUT that was running when the node woke may have looked up its replicas before.
#[test]
fn a_node_synchronizes_again_seven_seconds_after_waking() {
    let (mut harness, conn) = node();
    sleep(&mut harness, 8_000);
    harness.wake();
    harness.pass(millis(0));
    assert_eq!(harness.node.status(), Status::Settled);
    harness.make_scripted(2);
    let entry = Entry::of(&newer(1).to_record().expect("it has a value"));
    for _ in 0..80 {
        for (rpc, request) in harness.requests(conn) {
            match request {
                Request::Sync { .. } => harness.reply(conn, rpc, synced(&[entry])),
                Request::FindValue { .. } => harness.reply(conn, rpc, value_of(newer(1))),
                Request::Offer(_) => harness.reply(conn, rpc, Reply::Wanted(List::lend(&[]))),
                _ => harness.reply(conn, rpc, nodes(&[])),
            }
        }
        harness.pass(millis(100));
    }
    let reader = harness.get(key(1));
    assert_eq!(harness.answer(reader), success(1, b"newer"), "confirmed after the first time");
}

#[test]
fn a_woken_node_without_contacts_waits_before_it_answers_from_its_storage() {
    let (mut harness, _) = node();
    harness.make_scripted(2);
    sleep(&mut harness, 8_000);
    harness.wake();
    harness.pass(secs(3));
    assert_eq!(harness.node.status(), Status::Joining, "the peer 2 does not answer");
    let reader = harness.get(key(1));
    assert_eq!(harness.answer(reader), None);
    reconnect(&mut harness);
    answer_find_node(&mut harness);
    for (conn, rpc) in lookups(&mut harness) {
        harness.reply(conn, rpc, value_of(newer(1)));
    }
    assert_eq!(harness.answer(reader), success(1, b"newer"));
}
