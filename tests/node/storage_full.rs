//! Records when storage is nearly full (section 3, and `storage_bytes_max`).

use std::net::SocketAddr;

use dht::identity::PublicKey;
use dht::node::action::{ConnId, Origin};
use dht::node::params::{AddressGroups, Params};
use dht::record::envelope::{owned_key, seal};
use dht::record::{Class, crc_of};
use dht::storage::RECORD_OVERHEAD;
use dht::wire::api::Put;
use dht::wire::peer::{Content, ErrorCode, Hello, PeerMessage, RecordBlock, Reply, Request};
use ed25519_dalek::SigningKey;

use crate::harness::{Harness, block, confirmed, greeting, id, key, millis, secs, stored, success, version_at};

/// Room for a small record, and for no value of [`LARGE`] bytes.
fn tight() -> Params {
    Params { replication_min: 1, storage_bytes_max: 1_500, ..Params::default() }
}

const LARGE: usize = 1_400;

/// A node with peers that holds an older record of the key 128 and is one of its nearest nodes. A PUT of
/// that key finds no room in its storage.
fn put_without_room() -> (Harness, dht::node::action::ClientId) {
    let mut harness = Harness::with_contacts(tight(), 1..=8);
    let asker = harness.accept_client(9);
    assert_eq!(harness.ask(asker, Request::Store(block(128, b"old"))), stored(&block(128, b"old")));
    harness.pass(millis(1));
    let client = harness.put(Put { replication: 3, ..confirmed(128, vec![7; LARGE].leak()) });
    (harness, client)
}

#[test]
fn a_put_that_finds_no_room_locally_removes_the_older_local_record() {
    let (mut harness, _) = put_without_room();
    let reader = harness.get(key(128));
    assert_eq!(harness.answer(reader), success(128, vec![7; LARGE].leak()), "it is being written");
    for (conn, rpc, copy) in harness.copies() {
        harness.reply(conn, rpc, stored(&copy));
    }
    assert!(harness.node.storage().is_empty());
}

#[test]
fn a_put_that_no_peer_stores_leaves_the_older_local_record_in_place() {
    let (mut harness, _) = put_without_room();
    let copies = harness.copies();
    assert!(!copies.is_empty());
    for (conn, rpc, _) in copies {
        harness.reply(conn, rpc, Reply::Error(ErrorCode::FULL));
    }
    assert_eq!(harness.node.storage().len(), 1);
}

/// A signed record with that sequence and a payload of that size.
fn signed(millis: u64, size: usize) -> RecordBlock<'static> {
    let owner = SigningKey::from_bytes(&[5; 32]);
    let small = block(1, b"");
    let value: &[u8] = seal(&owner, version_at(millis), small.ttl, b"", &vec![7; size]).leak();
    RecordBlock {
        class: Class::Signed,
        key: owned_key(&PublicKey::new(owner.verifying_key().to_bytes()), b""),
        version: version_at(millis),
        crc: crc_of(value),
        content: Content::Value(value),
        ..small
    }
}

#[test]
fn a_signed_record_without_room_removes_the_older_version_and_a_plain_record_does_not() {
    let mut harness = Harness::new(tight());
    let conn = harness.accept_client(9);
    assert_eq!(harness.ask(conn, Request::Store(signed(0, 1))), stored(&signed(0, 1)));
    assert_eq!(harness.ask(conn, Request::Store(signed(1, LARGE))), Reply::Error(ErrorCode::FULL));
    assert!(harness.node.storage().is_empty(), "its owner has replaced it");
    assert_eq!(harness.ask(conn, Request::Store(signed(0, 1))), Reply::Error(ErrorCode::GONE));
    assert_eq!(harness.ask(conn, Request::Store(signed(1, 2))), stored(&signed(1, 2)));

    let mut harness = Harness::new(tight());
    let conn = harness.accept_client(9);
    harness.ask(conn, Request::Store(block(5, b"old")));
    let newer = RecordBlock { version: version_at(1), ..block(5, vec![7; LARGE].leak()) };
    assert_eq!(harness.ask(conn, Request::Store(newer)), Reply::Error(ErrorCode::FULL));
    assert_eq!(harness.node.storage().len(), 1, "any peer can send a plain record");
}

/// A peer that does not serve dials the node from `address`.
fn accept_at(harness: &mut Harness, peer: u8, address: [u8; 4]) -> ConnId {
    let conn = harness.secure(id(peer), SocketAddr::from((address, 9)), Origin::Accepted);
    harness.send(conn, &PeerMessage::Hello(Hello { flags: 0, port: 0, ..greeting() }));
    harness.sent(conn);
    conn
}

/// The number of further records that the peer at the other end of `conn` can store.
fn stores(harness: &mut Harness, conn: ConnId, keys: &mut std::ops::RangeFrom<u8>) -> usize {
    keys.take_while(|number| harness.ask(conn, Request::Store(block(*number, b"v"))) == stored(&block(*number, b"v")))
        .count()
}

#[test]
fn a_full_storage_applies_a_quota_to_public_address_groups_and_to_private_ones_only_if_strict() {
    for groups in [AddressGroups::Public, AddressGroups::Strict] {
        let mut harness =
            Harness::new(Params { storage_bytes_max: 20_000, address_groups: groups, ..Params::default() });
        let mut keys = 0..;
        let first = accept_at(&mut harness, 1, [198, 51, 100, 1]);
        let neighbour = accept_at(&mut harness, 2, [198, 51, 100, 2]);
        let other = accept_at(&mut harness, 3, [203, 0, 113, 1]);
        let private = accept_at(&mut harness, 4, [10, 0, 0, 1]);
        assert!(stores(&mut harness, first, &mut keys) > 80, "while there is room");
        assert_eq!(stores(&mut harness, neighbour, &mut keys), 0, "it shares a group");
        assert_eq!(stores(&mut harness, other, &mut keys), 20_000 / 16 / (RECORD_OVERHEAD + 1));
        let by_private = stores(&mut harness, private, &mut keys);
        match groups {
            AddressGroups::Public => assert!(harness.node.storage().bytes() > 19_800, "until it is full"),
            AddressGroups::Strict => assert!(by_private <= 20_000 / 16 / (RECORD_OVERHEAD + 1)),
        }
    }
}

/// Tombstones take a quarter of the storage: six here, one of them less than there are keys.
#[test]
fn tombstones_without_room_are_counted() {
    let mut harness = Harness::new(tight());
    for n in 1..=7 {
        assert_eq!(harness.node.counters().tombstones_dropped, 0);
        harness.put(Put { ttl: 1, replication: 1, ..confirmed(n, b"v") });
        harness.pass(secs(400)); // all of it in less than an hour: an old one takes less
    }
    assert_eq!(harness.node.counters().tombstones_dropped, 1);
    let now = harness.now();
    let known: Vec<bool> = (1..=7).map(|n| harness.node.storage().tombstone(now, &key(n)).is_some()).collect();
    assert_eq!(known, [false, true, true, true, true, true, true]);
}
