//! GET: what a node serves from its own storage, what it relays, and which replies it accepts (sections 1
//! and 2).

use dht::node::action::{ClientId, ConnId, DialError};
use dht::node::params::Params;
use dht::record::{Age, Class, crc_of};
use dht::wire::api::Put;
use dht::wire::codec::List;
use dht::wire::peer::{Content, FLAG_KNOWS_TENTATIVE, Hello, PeerMessage, RecordBlock, Reply, Request, Want};

use crate::harness::{
    Harness, block, confirmed, contact, failure, greeting, key, millis, nodes, quiet, secs, stored, success, value_of,
    version_at,
};

fn small() -> Params {
    Params { replication_min: 1, ..Params::default() }
}

/// A GET of the key `n` at a node that knows only the peer 1; returns the connection to that peer, too.
fn relayed(n: u8) -> (Harness, ClientId, ConnId) {
    let mut harness = Harness::founder();
    let conn = harness.add_contact(1);
    let client = harness.get(key(n));
    (harness, client, conn)
}

/// Sends `reply` to all requests over `conn` so far.
fn answer_all(harness: &mut Harness, conn: ConnId, reply: Reply<'_>) {
    for (rpc, _) in harness.requests(conn) {
        harness.reply(conn, rpc, reply);
    }
}

/// Section 1, rule 6.
#[test]
fn a_get_sees_a_value_put_at_this_node_while_its_copies_are_in_flight() {
    let mut harness = Harness::with_contacts(small(), 1..=8);
    for value in [&b"first"[..], b"second"] {
        harness.put(Put { replication: 3, ..quiet(1, value) });
        let client = harness.get(key(1));
        assert_eq!(harness.answer(client), Some(dht::wire::api::ApiReply::Success { key: key(1), value }));
    }
    assert!(harness.node.storage().is_empty());
}

/// Section 3: one node never serves an older value after a newer one.
#[test]
fn an_older_local_copy_is_not_served_after_a_put_that_other_nodes_hold() {
    let mut harness = Harness::with_contacts(small(), 1..=8);
    let asker = harness.accept_client(99);
    harness.ask(asker, Request::Store(RecordBlock { replication: 20, ..block(1, b"old") }));
    let client = harness.get(key(1));
    assert_eq!(harness.answer(client), success(1, b"old"), "in scope: fewer than 20 are closer");
    let writer = harness.put(Put { replication: 3, ..confirmed(1, b"new") });
    for (conn, rpc, copy) in harness.copies() {
        harness.reply(conn, rpc, stored(&copy));
    }
    assert_eq!(harness.answer(writer), success(1, b""));
    let client = harness.get(key(1));
    assert_ne!(harness.answer(client), success(1, b"old"));
}

#[test]
fn a_local_record_in_scope_is_served_without_asking_a_peer() {
    let mut harness = Harness::with_contacts(Params::default(), 1..=3);
    let asker = harness.accept_client(9);
    harness.ask(asker, Request::Store(RecordBlock { replication: 4, ..block(1, b"here") }));
    let client = harness.get(key(1));
    assert_eq!(harness.answer(client), success(1, b"here"));
    assert_eq!(harness.node.counters().gets_local, 1);
}

/// Section 2, Scope: this node knows three nodes that are closer to the key. If it knows k in all, there may be more in
/// the half of the key space that has the key.
#[test]
fn a_local_record_in_scope_is_not_served_alone_where_this_node_may_know_few_nodes() {
    for (near, is_alone) in [(129..=144, true), (129..=145, false)] {
        let mut harness = Harness::with_contacts(Params::default(), (1..=3).chain(near));
        let asker = harness.accept(9);
        let hello = Hello { flags: FLAG_KNOWS_TENTATIVE, port: 0, ..greeting() };
        harness.send(asker, &PeerMessage::Hello(hello));
        harness.ask(asker, Request::Store(RecordBlock { replication: 5, ..block(1, b"here") }));
        let client = harness.get(key(1));
        assert_eq!(harness.answer(client), is_alone.then(|| success(1, b"here")).flatten());
        let found = harness.ask(asker, Request::FindValue { key: key(1), want: Want::default() });
        let Reply::Value { contacts, is_tentative, .. } = found else { panic!("{found:?}") };
        assert_eq!((is_tentative, !contacts.is_empty()), (!is_alone, !is_alone));
    }
}

/// Section 2, Scope: fewer known live contacts than the record's replication are closer.
#[test]
fn a_get_of_a_local_record_out_of_scope_asks_peers_first_and_falls_back_to_it() {
    let mut harness = Harness::with_contacts(Params::default(), 1..=3);
    let asker = harness.accept_client(9);
    harness.ask(asker, Request::Store(RecordBlock { replication: 3, ..block(1, b"here") }));
    let client = harness.get(key(1));
    assert_eq!(harness.answer(client), None, "three are closer");
    let requests = harness.all_requests(|request| matches!(request, Request::FindValue { .. }).then_some(()));
    assert_eq!(requests.len(), 3);
    for (nth, (conn, rpc, ())) in requests.into_iter().enumerate() {
        assert_eq!(harness.answer(client), None, "after {nth} answers");
        harness.reply(conn, rpc, nodes(&[]));
    }
    assert_eq!(harness.answer(client), success(1, b"here"));
}

#[test]
fn a_value_held_by_a_peer_is_relayed_to_the_client() {
    let (mut harness, client, conn) = relayed(7);
    assert_eq!(harness.answer(client), None);
    answer_all(&mut harness, conn, value_of(block(7, b"there")));
    assert_eq!(harness.answer(client), success(7, b"there"));
    assert_eq!((harness.node.counters().gets_found, harness.node.counters().gets_hops), (1, 1));
    assert_eq!(harness.node.storage().len(), 1, "this node is one of the three nearest, and had none");
}

#[test]
fn a_value_is_found_at_a_node_that_a_peer_named() {
    let (mut harness, client, conn) = relayed(7);
    answer_all(&mut harness, conn, nodes(&[contact(6)]));
    let dial = harness.dial_of(6);
    let far = harness.complete_dial(dial, 6);
    answer_all(&mut harness, far, value_of(block(7, b"there")));
    assert_eq!(harness.answer(client), success(7, b"there"));
    assert_eq!(harness.node.counters().gets_hops, 2);
}

/// Section 1, rule 2: a node answers FAILURE only after a lookup has ended.
#[test]
fn failure_is_answered_only_once_the_last_of_the_nearest_nodes_has_answered() {
    let (mut harness, client, conn) = relayed(7);
    answer_all(&mut harness, conn, nodes(&[contact(6), contact(5)]));
    for peer in [6, 5] {
        assert_eq!(harness.answer(client), None);
        let dial = harness.dial_of(peer);
        let conn = harness.complete_dial(dial, peer);
        answer_all(&mut harness, conn, nodes(&[]));
    }
    assert_eq!(harness.answer(client), failure(7));
}

#[test]
fn a_founder_without_contacts_answers_failure_at_once() {
    let mut harness = Harness::founder();
    let client = harness.get(key(7));
    assert_eq!(harness.answer(client), failure(7));
}

/// Section 1, rule 2: within `request_timeout` of the moment when the request was decoded.
#[test]
fn a_get_is_answered_at_request_timeout_while_its_lookup_still_runs() {
    let mut harness = Harness::with_contacts(Params { alpha: 1, ..Params::default() }, 1..=20);
    let client = harness.get(key(7));
    (1..=20).for_each(|peer| harness.make_scripted(peer));
    harness.pass(millis(9_999));
    assert_eq!(harness.answer(client), None, "there are some left to ask");
    harness.pass(millis(1));
    assert_eq!(harness.answer(client), failure(7));
    harness.pass(secs(60));
    assert_eq!(harness.answer(client), None, "it is answered once");
}

#[test]
fn a_get_at_its_deadline_is_answered_with_a_local_record_out_of_scope() {
    let mut harness = Harness::with_contacts(Params::default(), 1..=3);
    let asker = harness.accept_client(9);
    harness.ask(asker, Request::Store(block(1, b"here")));
    let client = harness.get(key(1));
    for _ in 0..10 {
        for (conn, ..) in harness.all_requests(|request| matches!(request, Request::FindValue { .. }).then_some(())) {
            harness.ask(conn, Request::Ping);
        }
        harness.pass(secs(1));
    }
    assert_eq!(harness.answer(client), success(1, b"here"));
}

/// A GET accepts no record that a STORE would refuse.
#[test]
fn an_invalid_record_is_ignored_and_the_contacts_beside_it_are_used() {
    let value = block(7, b"lie");
    let lies = [
        RecordBlock { key: key(8), ..value },
        RecordBlock { class: Class::Signed, ..value },
        RecordBlock { class: Class::Hashed, ..value },
        RecordBlock { version: version_at(600_001), ..value },
        RecordBlock { age: Age(60_000), ..value },
        RecordBlock { content: Content::Head, version: version_at(600_001), ..value },
        RecordBlock { content: Content::Tombstone, version: version_at(600_001), ..value },
    ];
    for lie in lies {
        let (mut harness, client, conn) = relayed(7);
        let honest = [contact(6)];
        answer_all(
            &mut harness,
            conn,
            Reply::Value { contacts: List::lend(&honest), is_tentative: false, record: lie },
        );
        assert_eq!(harness.answer(client), None, "{lie:?}");
        let dial = harness.dial_of(6);
        let far = harness.complete_dial(dial, 6);
        answer_all(&mut harness, far, value_of(block(7, b"truth")));
        assert_eq!(harness.answer(client), success(7, b"truth"));
    }
}

#[test]
fn a_value_with_a_wrong_crc_closes_the_connection() {
    let (mut harness, client, conn) = relayed(7);
    let (rpc, _) = harness.only_request(conn);
    harness.make_scripted(1);
    harness.reply(conn, rpc, value_of(RecordBlock { crc: crc_of(b"other"), ..block(7, b"lie") }));
    assert!(harness.has_closed(conn));
    let dial = harness.dial_of(1);
    harness.fail(dial, DialError::Unreachable);
    assert_eq!(harness.answer(client), None, "no other node is known, but one may run");
    harness.pass(secs(10));
    assert_eq!(harness.answer(client), failure(7));
}

/// Section 1, rule 7: TTL 1 is a whole second from receipt. A read never extends it.
#[test]
fn a_record_with_a_ttl_of_one_second_expires_after_exactly_one_second_despite_reads() {
    let mut harness = Harness::founder();
    harness.pass(millis(333));
    harness.put(Put { ttl: 1, ..quiet(1, b"brief") });
    for _ in 0..3 {
        let client = harness.get(key(1));
        assert_eq!(harness.answer(client), success(1, b"brief"));
        harness.pass(millis(333));
    }
    let client = harness.get(key(1));
    assert_eq!(harness.answer(client), success(1, b"brief"));
    harness.pass(millis(1));
    let client = harness.get(key(1));
    assert_eq!(harness.answer(client), failure(1));
}

#[test]
fn a_value_is_not_read_past_its_ttl_while_its_put_is_in_flight() {
    let mut harness = Harness::with_contacts(small(), 1..=4);
    harness.put(Put { ttl: 1, replication: 3, ..quiet(1, b"brief") });
    harness.pass(secs(1));
    let client = harness.get(key(1));
    assert_eq!(harness.answer(client), None, "others are asked");
}

#[test]
fn a_lookup_with_a_silent_peer_is_repeated_once() {
    let mut harness = Harness::founder();
    let (silent, replica) = (harness.add_contact(1), harness.add_contact(2));
    harness.pass(millis(1));
    let client = harness.get(key(7));
    answer_all(&mut harness, replica, nodes(&[]));
    harness.make_scripted(1);
    harness.pass(secs(2));
    assert!(harness.has_closed(silent));
    answer_all(&mut harness, replica, value_of(block(7, b"by now")));
    assert_eq!(harness.answer(client), success(7, b"by now"));
}
