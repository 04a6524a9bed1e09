//! Requests of peers for records: STORE and FIND VALUE (section 2), and the order of records (section 3).

use dht::limits::VALUE_SIZE_MAX;
use dht::node::action::ConnId;
use dht::node::params::{Params, Serving};
use dht::record::{Age, Class, Version, crc_of};
use dht::wire::codec::List;
use dht::wire::peer::{Content, ErrorCode, RecordBlock, Reply, Request, Want};

use crate::harness::{Harness, block, contact, key, larger, millis, nodes, stored, value_of, version_at};

/// A founder, and a connection of a peer that sends requests to it.
fn founder_with_caller() -> (Harness, ConnId) {
    caller_of(Params::default())
}

fn caller_of(params: Params) -> (Harness, ConnId) {
    let mut harness = Harness::new(params);
    let conn = harness.accept_client(9);
    (harness, conn)
}

fn refused(code: ErrorCode) -> Reply<'static> {
    Reply::Error(code)
}

fn find(n: u8, want: Want) -> Request<'static> {
    Request::FindValue { key: key(n), want }
}

const VALUE_ALONE: Want = Want { contacts: false, head_only: false, catching_up: false };

#[test]
fn a_found_record_has_aged_by_the_time_it_was_held() {
    let (mut harness, conn) = founder_with_caller();
    let sent = RecordBlock { age: Age(5_000), ..block(5, b"value") };
    assert_eq!(harness.ask(conn, Request::Store(sent)), stored(&sent));
    harness.pass(millis(10_001));
    let found = RecordBlock { age: Age(15_001), ..sent };
    assert_eq!(harness.ask(conn, find(5, VALUE_ALONE)), value_of(found));
}

#[test]
fn a_stored_record_is_found_until_its_lifetime_ends() {
    let (mut harness, conn) = founder_with_caller();
    harness.ask(conn, Request::Store(RecordBlock { age: Age(59_000), ..block(5, b"value") }));
    harness.pass(millis(999));
    assert!(matches!(harness.ask(conn, find(5, VALUE_ALONE)), Reply::Value { .. }));
    harness.pass(millis(1));
    assert!(
        !matches!(harness.ask(conn, find(5, VALUE_ALONE)), Reply::Value { record, .. } if !record.value().is_empty())
    );
    assert!(harness.node.storage().is_empty(), "the node was woken to sweep it");
}

#[test]
fn find_value_returns_the_requested_parts() {
    let (mut harness, conn) = founder_with_caller();
    harness.add_contact(1);
    let record = block(5, b"value");
    harness.ask(conn, Request::Store(record));
    let head = RecordBlock { content: Content::Head, ..record };
    for (head_only, record) in [(false, record), (true, head)] {
        let alone = Reply::Value { contacts: List::lend(&[]), is_tentative: false, record };
        assert_eq!(harness.ask(conn, find(5, Want { contacts: false, head_only, ..Want::default() })), alone);
        let known = [contact(1)];
        let with_contacts = Reply::Value { contacts: List::lend(&known), is_tentative: false, record };
        assert_eq!(harness.ask(conn, find(5, Want { contacts: true, head_only, ..Want::default() })), with_contacts);
    }
    assert_eq!(harness.ask(conn, find(6, VALUE_ALONE)), nodes(&[contact(1)]), "it is not held");
}

#[test]
fn a_caller_is_not_among_the_contacts_that_it_gets() {
    let mut harness = Harness::with_contacts(Params::default(), [1]);
    let asker = harness.add_contact(2);
    assert_eq!(harness.ask(asker, Request::FindNode { target: key(2) }), nodes(&[contact(1)]));
    assert_eq!(harness.ask(asker, find(2, VALUE_ALONE)), nodes(&[contact(1)]));
}

#[test]
fn at_most_k_contacts_are_returned_nearest_first() {
    let params = Params { k: 3, replication_default: 3, ..Params::default() };
    let mut harness = Harness::with_contacts(params, [1, 2, 4, 200]);
    let asker = harness.accept_client(9);
    let named = [contact(4), contact(1), contact(2)];
    assert_eq!(harness.ask(asker, Request::FindNode { target: key(4) }), nodes(&named));
}

#[test]
fn the_largest_value_is_stored_and_found_whole() {
    let (mut harness, conn) = founder_with_caller();
    let value: &'static [u8] = vec![0xcd; VALUE_SIZE_MAX].leak();
    let record = block(5, value);
    assert_eq!(harness.ask(conn, Request::Store(record)), stored(&record));
    assert_eq!(harness.ask(conn, find(5, VALUE_ALONE)), value_of(record));
}

#[test]
fn signed_and_hashed_records_that_do_not_verify_are_refused() {
    for class in [Class::Signed, Class::Hashed] {
        let (mut harness, conn) = founder_with_caller();
        let record = RecordBlock { class, ..block(5, b"value") };
        assert_eq!(harness.ask(conn, Request::Store(record)), refused(ErrorCode::NOT_VERIFIED));
    }
}

/// A node accepts a record if it knows fewer than 2k live contacts closer to the key.
#[test]
fn a_record_is_out_of_scope_when_2k_live_contacts_are_closer_to_it() {
    let params = Params { k: 1, alpha: 1, replication_min: 1, replication_default: 1, ..Params::default() };
    let mut harness = Harness::with_contacts(params, [1]);
    let asker = harness.accept_client(9);
    assert_eq!(harness.ask(asker, Request::Store(block(0, b"v"))), stored(&block(0, b"v")), "one is closer");
    let leaver = harness.add_contact(129);
    assert_eq!(harness.ask(asker, Request::Store(block(1, b"v"))), refused(ErrorCode::OUT_OF_SCOPE), "two are");
    assert_eq!(harness.ask(asker, Request::Store(block(128, b"v"))), stored(&block(128, b"v")));
    harness.send(leaver, &dht::wire::peer::PeerMessage::Goodbye);
    assert_eq!(harness.ask(asker, Request::Store(block(1, b"v"))), stored(&block(1, b"v")), "one is left");
}

#[test]
fn a_non_serving_node_stores_no_records() {
    let (mut harness, conn) = caller_of(Params { serving: Serving::No, ..Params::default() });
    assert_eq!(harness.ask(conn, Request::Store(block(5, b"v"))), refused(ErrorCode::OUT_OF_SCOPE));
    assert!(harness.node.storage().is_empty());
}

/// Section 3: the remaining lifetime is TTL − age, and ends at the bound that the version sets.
#[test]
fn an_expired_record_is_refused_as_gone() {
    let (mut harness, conn) = founder_with_caller();
    for age in [60_000, u32::MAX] {
        let record = RecordBlock { age: Age(age), ..block(5, b"v") };
        assert_eq!(harness.ask(conn, Request::Store(record)), refused(ErrorCode::GONE), "age {age}");
    }
    harness.wall_ahead = 66_135_000;
    assert_eq!(harness.ask(conn, Request::Store(block(5, b"v"))), refused(ErrorCode::GONE), "its version is too old");
    harness.wall_ahead -= 1;
    assert_eq!(harness.ask(conn, Request::Store(block(5, b"v"))), stored(&block(5, b"v")));
    harness.pass(millis(1));
    harness.wake();
    assert!(harness.node.storage().find(harness.now, &key(5)).is_none());
}

#[test]
fn a_version_more_than_ten_minutes_ahead_is_refused() {
    let (mut harness, conn) = founder_with_caller();
    let ahead = |millis| RecordBlock { version: version_at(millis), ..block(5, b"v") };
    assert_eq!(harness.ask(conn, Request::Store(ahead(600_001))), refused(ErrorCode::TOO_EARLY));
    let farthest = RecordBlock { version: Version::from_bits(u64::MAX), ..block(5, b"v") };
    assert_eq!(harness.ask(conn, Request::Store(farthest)), refused(ErrorCode::TOO_EARLY));
    assert_eq!(harness.ask(conn, Request::Store(ahead(600_000))), stored(&ahead(600_000)));
}

#[test]
fn a_full_storage_refuses_a_store_and_its_records_stay() {
    let (mut harness, conn) = caller_of(Params { storage_bytes_max: 1_000, ..Params::default() });
    assert_eq!(harness.ask(conn, Request::Store(block(5, b"v"))), stored(&block(5, b"v")));
    let large = block(6, vec![1; 1_000].leak());
    assert_eq!(harness.ask(conn, Request::Store(large)), refused(ErrorCode::FULL));
    assert_eq!(harness.ask(conn, find(5, VALUE_ALONE)), value_of(block(5, b"v")));
}

#[test]
fn of_two_records_the_larger_is_held_and_named_in_the_reply() {
    let (mut harness, conn) = founder_with_caller();
    let newer = RecordBlock { version: version_at(1), ..block(5, b"a") };
    assert_eq!(harness.ask(conn, Request::Store(newer)), stored(&newer));
    assert_eq!(harness.ask(conn, Request::Store(block(5, b"z"))), larger(5, version_at(1)));
    let larger_bytes = RecordBlock { crc: crc_of(b"b"), content: Content::Value(b"b"), ..newer };
    assert_eq!(harness.ask(conn, Request::Store(larger_bytes)), stored(&larger_bytes), "version equal, value larger");
    assert_eq!(harness.ask(conn, Request::Store(newer)), larger(5, version_at(1)));
    assert_eq!(harness.ask(conn, find(5, VALUE_ALONE)), value_of(larger_bytes));
}

/// Section 3: of equal records the later end of lifetime counts.
#[test]
fn an_equal_record_can_only_extend_the_lifetime() {
    let (mut harness, conn) = founder_with_caller();
    let aged = |age| RecordBlock { age: Age(age), ..block(5, b"v") };
    for age in [40_000, 20_000, 50_000] {
        assert_eq!(harness.ask(conn, Request::Store(aged(age))), stored(&block(5, b"v")));
    }
    assert_eq!(harness.ask(conn, find(5, VALUE_ALONE)), value_of(aged(20_000)));
}

#[test]
fn a_leaving_node_refuses_requests() {
    let mut harness = Harness::with_contacts(Params::default(), [1]);
    let asker = harness.accept_client(9);
    harness.get(key(7));
    harness.act(dht::node::Node::leave);
    for request in [Request::Ping, Request::Store(block(5, b"v")), find(5, VALUE_ALONE)] {
        assert_eq!(harness.ask(asker, request), refused(ErrorCode::LEAVING));
    }
    assert_eq!(harness.node.storage().len(), 0);
}
