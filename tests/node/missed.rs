//! A node that refuses a newer record than the one it stores, because its disk fails: others store the newer one.

use dht::id::RpcId;
use dht::node::Status;
use dht::node::action::ConnId;
use dht::node::params::{Durability, Params};
use dht::record::{Class, Life, Rank, Version};
use dht::wire::codec::List;
use dht::wire::peer::{Entry, ErrorCode, FLAG_KNOWS_TENTATIVE, Hello, PeerMessage, RecordBlock, Reply, Request, Want};

use crate::harness::{Disk, Harness, block, given, greeting, key, nodes, quiet, secs, stored, success, version_at};

/// A founder with the contacts 1 to 3 that stores the record [`old`] and whose disk fails; and the connection of a peer.
fn with_failing_disk() -> (Harness, ConnId) {
    let mut harness = Harness::with_contacts(Params { durability: Durability::Always, ..Params::default() }, 1..=3);
    let asker = asker(&mut harness);
    assert_eq!(harness.ask(asker, Request::Store(old())), stored(&old()));
    harness.disk = Disk::Fails;
    harness.send(asker, &PeerMessage::Request(RpcId::new([7; 32]), Request::Store(block(2, b"lost"))));
    harness.pass(secs(1));
    (1..=3).for_each(|peer| harness.make_scripted(peer));
    harness.forget_actions();
    (harness, asker)
}

fn old() -> RecordBlock<'static> {
    RecordBlock { replication: 4, version: version_at(5), ..block(1, b"old") }
}

fn new() -> RecordBlock<'static> {
    RecordBlock { version: version_at(6), ..RecordBlock { replication: 4, ..block(1, b"new") } }
}

/// The peer 9, which only asks, and knows tentative records.
pub(crate) fn asker(harness: &mut Harness) -> ConnId {
    let asker = harness.accept(9);
    harness.send(asker, &PeerMessage::Hello(Hello { flags: FLAG_KNOWS_TENTATIVE, port: 0, ..greeting() }));
    asker
}

/// Whether `asker` is told that the record of the key 1 is tentative.
pub(crate) fn is_tentative(harness: &mut Harness, asker: ConnId) -> bool {
    let found = harness.ask(asker, Request::FindValue { key: key(1), want: Want::default() });
    let Reply::Value { is_tentative, .. } = found else { panic!("{found:?}") };
    is_tentative
}

fn refuse_copy(harness: &mut Harness, asker: ConnId) {
    assert_eq!(harness.ask(asker, Request::Store(new())), Reply::Error(ErrorCode::FULL));
}

fn refuse_offer(harness: &mut Harness, asker: ConnId) {
    let rank = Rank { class: Class::Plain, life: Life::Alive, version: version_at(6) };
    let offered = [Entry { key: key(1), rank, crc: new().crc }];
    assert_eq!(harness.ask(asker, Request::Offer(List::lend(&offered))), Reply::Error(ErrorCode::FULL));
}

#[test]
fn after_a_refusal_the_older_record_is_tentative_and_not_returned_alone() {
    for refuse in [refuse_copy, refuse_offer] {
        let (mut harness, asker) = with_failing_disk();
        assert!(!is_tentative(&mut harness, asker));
        let reader = harness.get(key(1));
        assert_eq!(harness.answer(reader), success(1, b"old"));
        refuse(&mut harness, asker);
        assert!(is_tentative(&mut harness, asker));
        let reader = harness.get(key(1));
        assert_eq!(harness.answer(reader), None);
        harness.answer_find_value(|peer, want| Some(if peer < 3 { given(new(), want) } else { nodes(&[]) }));
        assert_eq!(harness.answer(reader), success(1, b"new"));
    }
}

#[test]
fn a_node_that_accepts_records_again_asks_its_neighbours_for_what_it_has_refused() {
    let (mut harness, asker) = with_failing_disk();
    refuse_copy(&mut harness, asker);
    (1..=3).for_each(|peer| harness.make_automatic(peer));
    harness.pass(secs(30));
    assert_eq!(harness.node.counters().syncs, 0, "it could not store what it would get");
    harness.pass(secs(60)); // the contacts have answered nothing for a moment, so this node settles
    let before = harness.node.counters().syncs;
    harness.disk = Disk::Works;
    harness.pass(secs(10));
    assert!(harness.node.counters().syncs > before);
}

#[test]
fn a_node_that_gets_what_it_has_refused_returns_it_alone() {
    let (mut harness, asker) = with_failing_disk();
    refuse_copy(&mut harness, asker);
    harness.disk = Disk::Works;
    harness.pass(secs(2));
    assert_eq!(harness.ask(asker, Request::Store(new())), stored(&new()));
    assert!(!is_tentative(&mut harness, asker));
    (1..=3).for_each(|peer| harness.make_automatic(peer));
    harness.pass(secs(30));
    assert_eq!(harness.node.status(), Status::Settled, "nothing is missed");
}

/// Another node has written a newer record meanwhile.
#[test]
fn the_record_of_an_own_put_that_too_few_nodes_store_is_not_returned_alone_either() {
    let (mut harness, asker) = with_failing_disk();
    let writer = harness.put(quiet(1, b"own"));
    for (conn, rpc, _) in harness.copies() {
        harness.reply(conn, rpc, Reply::Error(ErrorCode::FULL));
    }
    assert_eq!(harness.answer(writer), None);
    let reader = harness.get(key(1));
    assert_eq!(harness.answer(reader), success(1, b"own"), "too few nodes store it");
    let later = Version::from_bits((harness.now().wall.as_millis() + 1_000) << 16);
    let newer = RecordBlock { version: later, ..new() };
    assert_eq!(harness.ask(asker, Request::Store(newer)), Reply::Error(ErrorCode::FULL));
    let reader = harness.get(key(1));
    assert_eq!(harness.answer(reader), None);
}
