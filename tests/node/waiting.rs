//! Requests that wait until there is room for them or for their answers (section 2, Requests and replies).

use dht::contact::Contact;
use dht::id::{Key, NodeId, RpcId};
use dht::limits::{
    CLIENT_REQUESTS_MAX, DIALS_MAX, HEAD_REPLY_SIZE_MAX, LISTINGS_OWED_MAX, PEER_MESSAGE_SIZE_MAX, PEER_OUTBOX_MAX,
    PROBES_MAX, VALUES_OWED_MAX,
};
use dht::node::action::{ClientId, ConnId};
use dht::node::params::Params;
use dht::time::Time;
use dht::wire::api::{ApiReply, Put};
use dht::wire::peer::{PeerMessage, RecordBlock, Reply, Request, Want};

use crate::harness::{
    Harness, address, block, confirmed, contact, head, hello, id, key, millis, nodes, quiet, secs, stored, success,
    value_of,
};

/// Values of the largest size that one peer may owe.
const VALUES: usize = VALUES_OWED_MAX / PEER_MESSAGE_SIZE_MAX;

/// The key number `n`, nearest to the peer 7.
pub(crate) fn nth_key(n: usize) -> Key {
    let mut key = [7; 32];
    key[30..].copy_from_slice(&u16::try_from(n).expect("a small number").to_be_bytes());
    Key::new(key)
}

fn record(n: usize) -> RecordBlock<'static> {
    RecordBlock { key: nth_key(n), ..block(7, b"v") }
}

/// A node with the scripted peer 1 as its only contact, and `count` GETs of different keys.
fn gets(count: usize) -> (Harness, ConnId, Vec<ClientId>) {
    let mut harness = Harness::founder();
    let conn = harness.add_contact(1);
    harness.make_scripted(1);
    let clients = (0..count).map(|n| harness.get(nth_key(n))).collect();
    (harness, conn, clients)
}

/// The keys of the FIND VALUE requests over `conn` since the last call.
fn asked(harness: &mut Harness, conn: ConnId) -> Vec<(RpcId, Key, Want)> {
    let requests = harness.requests(conn).into_iter();
    requests
        .filter_map(|(rpc, request)| match request {
            Request::FindValue { key, want } => Some((rpc, key, want)),
            _ => None,
        })
        .collect()
}

#[test]
fn a_peer_owes_a_bounded_number_of_values_and_the_next_request_leaves_when_one_comes() {
    let (mut harness, conn, clients) = gets(100);
    let mut owed = asked(&mut harness, conn);
    assert_eq!(owed.len(), VALUES);
    for n in 0..100 {
        assert!(harness.node.owed_by(&id(1)) <= PEER_OUTBOX_MAX / 4);
        let (rpc, of, _) = owed.remove(0);
        assert_eq!(of, nth_key(n), "in the order of the GETs");
        harness.reply(conn, rpc, value_of(record(n)));
        owed.extend(asked(&mut harness, conn));
        assert_eq!(owed.len(), VALUES.min(99 - n));
    }
    for (n, client) in clients.into_iter().enumerate() {
        assert_eq!(harness.answer(client), Some(ApiReply::Success { key: nth_key(n), value: b"v" }));
    }
    assert_eq!((harness.node.owed_by(&id(1)), harness.node.waiting()), (0, 0));
}

/// A node that has sent as many lookups for PUTs to the scripted peer 1 as this may owe answers, with 100 more
/// that wait; and the requests that were sent.
fn puts() -> (Harness, ConnId, Vec<(RpcId, Key, Want)>) {
    let (mut harness, conn, _) = gets(0);
    let sent = LISTINGS_OWED_MAX / HEAD_REPLY_SIZE_MAX;
    for n in 0..sent + 100 {
        harness.put(Put { key: nth_key(n), replication: 3, ..quiet(7, b"v") });
    }
    let owed = asked(&mut harness, conn);
    assert_eq!(owed.len(), sent);
    (harness, conn, owed)
}

#[test]
fn a_copy_waits_neither_for_values_nor_for_lookups() {
    let (mut harness, conn, _) = gets(100);
    harness.forget_actions();
    harness.put(Put { replication: 3, ..quiet(9, b"v") });
    let (rpc, _) = harness.only_request(conn);
    harness.reply(conn, rpc, nodes(&[]));
    assert_eq!(harness.copies().len(), 1);

    let (mut harness, conn, owed) = puts();
    harness.reply(conn, owed[0].0, nodes(&[]));
    assert_eq!(harness.copies().len(), 1);
}

#[test]
fn a_new_request_does_not_overtake_those_that_wait() {
    let (mut harness, conn, mut owed) = puts();
    let sent = owed.len();
    let (rpc, ..) = owed.remove(0);
    harness.reply(conn, rpc, nodes(&[]));
    harness.put(Put { key: nth_key(5_000), replication: 3, ..quiet(7, b"v") });
    let mut order = Vec::new();
    while !owed.is_empty() {
        let new = asked(&mut harness, conn);
        order.extend(new.iter().map(|(_, of, _)| *of));
        owed.extend(new);
        let (rpc, ..) = owed.remove(0);
        harness.reply(conn, rpc, nodes(&[]));
    }
    let expected: Vec<Key> = (sent..sent + 100).chain([5_000]).map(nth_key).collect();
    assert_eq!(order, expected);
}

/// New requests to the peer would wait behind the old ones for ever.
#[test]
fn requests_that_wait_leave_although_those_in_flight_have_failed() {
    let (mut harness, conn, _) = gets(100);
    harness.requests(conn);
    harness.send(conn, &hello());
    assert!(harness.has_closed(conn), "a second HELLO");
    let dial = harness.dial_of(1);
    let conn = harness.complete_dial(dial, 1);
    assert_eq!(asked(&mut harness, conn).len(), VALUES);
}

/// Waiting says nothing about the peer, and does not use up `rpc_timeout`.
#[test]
fn a_request_that_waits_longer_than_rpc_timeout_is_sent_and_answered() {
    let (mut harness, conn, clients) = gets(60);
    let mut owed = asked(&mut harness, conn);
    for n in 0..60 {
        harness.pass(millis(100));
        let (rpc, ..) = owed.remove(0);
        harness.reply(conn, rpc, value_of(record(n)));
        for (rpc, request) in harness.requests(conn) {
            let Request::FindValue { key, want } = request else { panic!("{request:?} although the peer answers") };
            owed.push((rpc, key, want));
        }
    }
    let found = clients.into_iter().filter(|client| matches!(harness.answer(*client), Some(ApiReply::Success { .. })));
    assert_eq!(found.count(), 60);
    assert_eq!(harness.node.counters().rpcs_silent, 0);
}

/// The peer answers each PING.
fn pass_with_pings(harness: &mut Harness, tenths: u32) {
    for _ in 0..tenths {
        harness.pass(millis(100));
        for (conn, rpc, ()) in harness.all_requests(|request| matches!(request, Request::Ping).then_some(())) {
            harness.reply(conn, rpc, Reply::Pong);
        }
    }
}

#[test]
fn a_put_does_not_wait_for_room_at_a_peer_whose_answers_are_overdue() {
    let mut harness = Harness::with_contacts(Params::default(), [1]);
    let conn = harness.add_contact(7);
    harness.make_scripted(7);
    for n in 0..LISTINGS_OWED_MAX / HEAD_REPLY_SIZE_MAX {
        harness.put(Put { key: nth_key(n), replication: 3, ..quiet(7, b"v") });
    }
    pass_with_pings(&mut harness, 25);
    harness.forget_actions();
    let client = harness.put(confirmed(7, b"v"));
    assert_eq!(asked(&mut harness, conn), [], "there is no room for the lookup");
    for (tenths, answer) in [(15, None), (15, success(7, b""))] {
        for _ in 0..tenths {
            pass_with_pings(&mut harness, 1);
            for (conn, rpc, copy) in harness.copies() {
                harness.reply(conn, rpc, stored(&copy));
            }
        }
        assert_eq!(harness.answer(client), answer);
    }
}

#[test]
fn a_get_whose_request_waits_takes_the_value_from_another_replica() {
    let mut harness = Harness::with_contacts(Params::default(), [7, 1]);
    harness.make_scripted(7);
    harness.make_scripted(1);
    let clients: Vec<_> = (0..=VALUES).map(|n| harness.get(nth_key(n))).collect();
    let requests = harness.all_requests(|request| match request {
        Request::FindValue { key, want } => Some((*key, *want)),
        _ => None,
    });
    let heads: Vec<_> = requests.iter().filter(|(conn, ..)| harness.peer_at(*conn) == 1).collect();
    assert_eq!(heads.len(), VALUES + 1);
    let &&(conn, rpc, (of, want)) = heads.last().expect("some");
    assert!(of == nth_key(VALUES) && want.head_only, "its request for the value waits for the peer 7");
    harness.reply(conn, rpc, value_of(head(record(VALUES))));
    assert_eq!(asked(&mut harness, conn), []);
    harness.pass(secs(1));
    let fetches = asked(&mut harness, conn);
    let [(rpc, of, want)] = fetches.iter().filter(|(_, of, _)| *of == nth_key(VALUES)).collect::<Vec<_>>()[..] else {
        panic!("{fetches:?}")
    };
    assert!(*of == nth_key(VALUES) && !want.head_only);
    harness.reply(conn, *rpc, value_of(record(VALUES)));
    let waits = harness.answer(clients[VALUES]).is_none();
    assert!(waits, "the quorum is two, and the peer 7 may have a newer one");
    harness.pass(secs(9));
    let answer = harness.answer(clients[VALUES]);
    assert_eq!(answer, Some(ApiReply::Success { key: nth_key(VALUES), value: b"v" }));
}

#[test]
fn requests_that_wait_for_a_peer_fail_when_it_leaves() {
    let (mut harness, conn, clients) = gets(100);
    harness.send(conn, &PeerMessage::Goodbye);
    assert!(clients.into_iter().all(|client| harness.answer(client).is_some()), "no other node is known");
    assert_eq!(harness.node.waiting(), 0);
}

#[test]
fn requests_that_wait_for_a_peer_leave_on_its_next_connection() {
    let (mut harness, conn, clients) = gets(100);
    harness.requests(conn);
    harness.close(conn);
    let dial = harness.dial_of(1);
    let conn = harness.complete_dial(dial, 1);
    let mut count = 0;
    while let Some((rpc, request)) = harness.requests(conn).pop() {
        count += 1;
        match request {
            Request::FindValue { .. } => harness.reply(conn, rpc, nodes(&[])),
            _ => harness.reply(conn, rpc, Reply::Pong),
        }
        assert!(harness.node.owed_by(&id(1)) <= PEER_OUTBOX_MAX / 4);
    }
    assert!(count > 0 && clients.len() == 100);
}

/// A bound of this node is no answer of a peer.
#[test]
fn no_get_fails_and_no_put_is_confirmed_because_too_many_requests_are_in_flight() {
    let peers = 1..=20;
    let mut harness = Harness::with_contacts(Params { alpha: 20, ..Params::default() }, peers.clone());
    peers.for_each(|peer| harness.make_scripted(peer));
    let gets: Vec<_> = (0..CLIENT_REQUESTS_MAX - 1).map(|n| harness.get(nth_key(n))).collect();
    let put = harness.put(confirmed(100, b"v"));
    harness.pass(millis(1));
    assert_eq!(harness.answers(), []);
    // Every peer answers everything that it is asked, until nothing is left.
    let mut lookups = 0;
    for _ in 0..10_000 {
        let requests = harness.all_requests(|request| Some(*request));
        if requests.is_empty() {
            match harness.node.waiting() {
                0 => break,
                _ => harness.pass(millis(50)),
            }
        }
        for (conn, rpc, request) in requests {
            let reply = match request {
                Request::FindValue { .. } => {
                    lookups += 1;
                    nodes(&[])
                }
                Request::Store(block) => crate::harness::stored(&block),
                Request::Sync { .. } => crate::harness::synced(&[]),
                _ => Reply::Pong,
            };
            harness.reply(conn, rpc, reply);
        }
        assert!(harness.now.since(Time::ZERO) < secs(9), "before the deadline");
    }
    let answers = harness.answers();
    assert_eq!(answers.len(), CLIENT_REQUESTS_MAX);
    assert!(lookups >= 20 * gets.len(), "{lookups} requests: each GET has asked all 20 nodes");
    assert!(gets.iter().all(|get| answers.iter().any(|(client, _)| client == get)));
    assert!(answers.contains(&(put, ApiReply::Success { key: key(100), value: b"" })));
    assert!(harness.node.storage().len() <= 1);
}

/// The nodes that a lookup has no room to dial may store the value.
#[test]
fn a_lookup_waits_for_room_to_dial() {
    let mut harness = Harness::founder();
    let conn = harness.add_contact(1);
    harness.make_scripted(1);
    let others: Vec<_> = (0..DIALS_MAX - PROBES_MAX).map(|n| harness.get(nth_key(n))).collect();
    let mut dials = 0;
    while dials < others.len() {
        for (rpc, ..) in asked(&mut harness, conn) {
            let unreached = Contact::new(NodeId::new(nth_key(1_000 + dials)), address(9));
            harness.reply(conn, rpc, nodes(&[unreached]));
            assert_eq!(harness.dials().len(), 1);
            dials += 1;
        }
    }
    let client = harness.get(key(7));
    for _ in 0..20 {
        for (rpc, ..) in asked(&mut harness, conn) {
            harness.reply(conn, rpc, nodes(&[contact(7)]));
        }
        assert_eq!(harness.answer(client), None, "the nearest node was not asked");
        harness.pass(millis(10));
    }
}
