//! GETs of one key share lookups: which GET may join which, and what each of them gets (section 3, GET).

use std::cell::RefCell;
use std::collections::BTreeSet;

use dht::id::RpcId;
use dht::limits::CLIENT_REQUESTS_MAX;
use dht::node::action::{ClientId, ConnId, Taken};
use dht::node::params::{Params, Reads};
use dht::time::Time;
use dht::wire::api::{ApiRequest, Put};
use dht::wire::peer::{ErrorCode, RecordBlock, Reply, Request};

use crate::harness::{
    Harness, block, confirmed, failure, given, key, millis, nodes, secs, stored, success, value_of, version_at,
};

/// A node whose only contact is the scripted peer 1, and the connection to it.
fn with_one_peer(params: Params) -> (Harness, ConnId) {
    let mut harness = Harness::new(params);
    let conn = harness.add_contact(1);
    harness.make_scripted(1);
    (harness, conn)
}

/// A node with two scripted contacts, a GET of the key 7, and the request of its lookup that is in flight; the other one
/// was answered by no contacts.
fn with_half_a_lookup() -> (Harness, ClientId, (ConnId, RpcId)) {
    let mut harness = Harness::with_contacts(Params::default(), [6, 1]);
    harness.make_scripted(6);
    harness.make_scripted(1);
    let client = harness.get(key(7));
    let asked = lookups(&mut harness);
    let [one, other] = asked[..] else { panic!("{asked:?}") };
    harness.reply(one.0, one.1, nodes(&[]));
    harness.pass(millis(1));
    (harness, client, other)
}

/// The FIND VALUE requests since the last call: connection and RPC id.
fn lookups(harness: &mut Harness) -> Vec<(ConnId, RpcId)> {
    let asked = harness.all_requests(|request| matches!(request, Request::FindValue { .. }).then_some(()));
    asked.into_iter().map(|(conn, rpc, ())| (conn, rpc)).collect()
}

#[test]
fn gets_of_one_key_that_come_at_once_share_a_lookup() {
    for reads in [Reads::Quorum, Reads::Secure] {
        let (mut harness, conn) = with_one_peer(Params { reads, ..Params::default() });
        let first = harness.get(key(7));
        let (rpc, _) = harness.only_request(conn);
        let others = [harness.get(key(7)), harness.get(key(7))];
        assert_eq!(harness.requests(conn), [], "{reads:?}");
        harness.reply(conn, rpc, value_of(block(7, b"shared")));
        for client in [first, others[0], others[1]] {
            assert_eq!(harness.answer(client), success(7, b"shared"), "{reads:?}");
        }
        assert_eq!(harness.node.counters().gets_found, 3);
    }
}

/// The peer has answered the request of the first GET, and has stored a newer record before the second GET came. The
/// answer arrives after that.
#[test]
fn a_get_that_comes_later_does_not_see_an_answer_to_an_earlier_request() {
    let (mut harness, conn) = with_one_peer(Params::default());
    let first = harness.get(key(7));
    let (rpc, _) = harness.only_request(conn);
    harness.pass(millis(1));
    let second = harness.get(key(7));
    assert_eq!(harness.requests(conn), []);
    harness.reply(conn, rpc, value_of(block(7, b"old")));
    assert_eq!((harness.answer(first), harness.answer(second)), (success(7, b"old"), None));
    let newer = RecordBlock { version: version_at(1), ..block(7, b"new") };
    harness.answer_find_value(|_, want| Some(given(newer, want)));
    assert_eq!(harness.answer(second), success(7, b"new"));
}

#[test]
fn gets_that_come_while_a_lookup_runs_share_the_following_one() {
    let (mut harness, first, other) = with_half_a_lookup();
    let late = [harness.get(key(7)), harness.get(key(7)), harness.get(key(7))];
    assert_eq!(lookups(&mut harness), [], "the first lookup is still running");
    harness.reply(other.0, other.1, value_of(block(7, b"old")));
    assert_eq!(harness.answer(first), success(7, b"old"));
    let newer = RecordBlock { version: version_at(1), ..block(7, b"new") };
    let asked = lookups(&mut harness);
    assert_eq!(asked.len(), 1, "one lookup for all three, and this node stores the value now: {asked:?}");
    harness.reply(asked[0].0, asked[0].1, value_of(newer));
    assert!(late.iter().all(|client| harness.answer(*client).is_none()));
    harness.answer_find_value(|_, want| Some(given(newer, want)));
    for client in late {
        assert_eq!(harness.answer(client), success(7, b"new"));
    }
    assert_eq!(lookups(&mut harness), []);
}

/// Lets the peer on `conn` refuse all requests for `millis`, so that no answer comes.
fn refuse_for(harness: &mut Harness, conn: ConnId, millis_left: u64) {
    for _ in 0..millis_left / 100 {
        for (rpc, _) in harness.requests(conn) {
            harness.reply(conn, rpc, Reply::Error(ErrorCode::TOO_MANY));
        }
        harness.pass(millis(100));
    }
}

#[test]
fn each_get_has_its_own_deadline_and_the_others_go_on_waiting() {
    let (mut harness, conn) = with_one_peer(Params::default());
    let first = harness.get(key(7));
    refuse_for(&mut harness, conn, 5_000);
    let second = harness.get(key(7));
    refuse_for(&mut harness, conn, 5_000);
    assert_eq!((harness.answer(first), harness.answer(second)), (failure(7), None));
    while harness.now.since(Time::ZERO) < secs(14) {
        harness.pass(millis(100));
        for (conn, rpc) in lookups(&mut harness) {
            harness.reply(conn, rpc, value_of(block(7, b"at last")));
        }
    }
    assert_eq!(harness.answer(second), success(7, b"at last"));
}

/// Otherwise a lookup that takes long would use up the time of the GETs behind it.
#[test]
fn the_following_lookup_begins_after_rpc_timeout_although_the_first_one_runs() {
    let (mut harness, first, full) = with_half_a_lookup();
    let second = harness.get(key(7));
    harness.reply(full.0, full.1, Reply::Error(ErrorCode::TOO_MANY));
    let mut of_the_next = 0;
    for _ in 0..25 {
        harness.pass(millis(100));
        for (conn, rpc) in lookups(&mut harness) {
            if conn == full.0 {
                harness.reply(conn, rpc, Reply::Error(ErrorCode::TOO_MANY));
            } else {
                assert!(harness.now.since(Time::ZERO) >= secs(2));
                of_the_next += 1;
                harness.reply(conn, rpc, value_of(block(7, b"v")));
            }
        }
    }
    assert_eq!(of_the_next, 1, "the peer that is not full was asked for the second GET");
    assert_eq!((harness.answer(first), harness.answer(second)), (None, None), "the quorum is two");
    for _ in 0..20 {
        harness.pass(millis(100));
        for (conn, rpc) in lookups(&mut harness) {
            harness.reply(conn, rpc, value_of(block(7, b"v")));
        }
    }
    assert_eq!((harness.answer(first), harness.answer(second)), (success(7, b"v"), success(7, b"v")));
}

/// Section 1, rule 6, for a GET that came before the PUT, too: another one after it must not go back.
#[test]
fn a_lookup_that_a_put_of_this_node_has_overtaken_is_repeated() {
    let params = Params { replication_min: 1, ..Params::default() };
    let mut harness = Harness::with_contacts(params, 1..=8);
    let reader = harness.get(key(7));
    let asked = lookups(&mut harness);
    harness.pass(millis(1));
    let writer = harness.put(Put { replication: 3, ..confirmed(7, b"new") });
    let mut copy = None;
    for (conn, rpc, block) in harness.copies() {
        harness.reply(conn, rpc, stored(&block));
        copy = Some(block);
    }
    assert_eq!(harness.answer(writer), success(7, b""));
    let newer = copy.expect("a copy");
    let older = block(7, b"old");
    (1..=8).for_each(|peer| harness.make_scripted(peer));
    for (conn, rpc) in asked {
        harness.reply(conn, rpc, value_of(older));
    }
    let has_answered = RefCell::new(BTreeSet::new());
    harness.answer_find_value(|peer, want| {
        let record = if has_answered.borrow_mut().insert(peer) { older } else { newer };
        Some(given(record, want))
    });
    assert_eq!(harness.answer(reader), success(7, b"new"));
    let again = harness.get(key(7));
    harness.answer_find_value(|_, want| Some(given(newer, want)));
    assert_eq!(harness.answer(again), success(7, b"new"));
}

#[test]
fn gets_that_share_a_lookup_count_against_their_connection() {
    let (mut harness, conn) = with_one_peer(Params::default());
    let share = CLIENT_REQUESTS_MAX as u64 / 16;
    let mut get = |request| {
        let client = ClientId { connection: 1_000, request };
        harness.try_request(client, ApiRequest::Get { key: key(7) })
    };
    assert!((0..share).all(|request| get(request) == Taken::InFlight));
    assert_eq!(get(share), Taken::NoRoom);
    let (rpc, _) = harness.only_request(conn);
    harness.reply(conn, rpc, value_of(block(7, b"v")));
    assert_eq!(harness.answers().len() as u64, share);
    assert!(harness.node.wants_requests_of(1_000));
}

/// Section 2, Requests and replies: enough nodes have to say that there is no value.
#[test]
fn a_lookup_with_as_many_silent_nodes_as_a_record_has_replicas_is_repeated_until_the_deadline() {
    for silent in [2, 3] {
        let mut harness = Harness::with_contacts(Params::default(), 1..=8);
        harness.pass(millis(1));
        let client = harness.get(key(7));
        let mut at = None;
        for _ in 0..110 {
            for (conn, rpc, request) in harness.all_requests(|request| Some(*request)) {
                // The silent ones are alive: they answer PING.
                match request {
                    Request::Ping => harness.reply(conn, rpc, Reply::Pong),
                    Request::FindValue { .. } if harness.peer_at(conn) <= silent => {
                        harness.make_scripted(harness.peer_at(conn));
                        assert_eq!(harness.ask(conn, Request::Ping), Reply::Pong);
                    }
                    _ => harness.reply(conn, rpc, nodes(&[])),
                }
            }
            harness.pass(millis(100));
            if at.is_none() && harness.answer(client).is_some() {
                at = Some(harness.now.since(Time::ZERO));
            }
        }
        let at = at.expect("an answer");
        assert_eq!(at >= secs(10), silent == 3, "{silent} silent: {at:?}");
    }
}
