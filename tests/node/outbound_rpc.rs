//! Requests to peers: which replies count, which nodes are not asked, and what a missing reply does
//! (section 2).

use std::net::SocketAddr;

use dht::contact::Contact;
use dht::id::RpcId;
use dht::limits::{CALLS_WAITING_MAX, CLIENT_REQUESTS_MAX, PENDING_MAX};
use dht::node::action::{ClientId, ConnId, DialError, Taken};
use dht::node::params::{Families, Params};
use dht::wire::api::{ApiRequest, Put};
use dht::wire::codec::List;
use dht::wire::peer::{Bridges, ErrorCode, FLAG_SERVING, PeerMessage, Reply, Request};

use crate::harness::{
    Harness, ME, PORT, address, block, contact, failure, hello, id, key, millis, nodes, quiet, secs, success, value_of,
};
use crate::waiting::nth_key;

/// A GET of the key 7 that has sent a request to the scripted peer 1: its connection and its RPC id.
fn get_in_flight() -> (Harness, dht::node::action::ClientId, ConnId, RpcId) {
    let mut harness = Harness::founder();
    let conn = harness.add_contact(1);
    harness.make_scripted(1);
    let client = harness.get(key(7));
    let (rpc, _) = harness.only_request(conn);
    (harness, client, conn, rpc)
}

fn dropped(harness: &Harness) -> u64 {
    harness.node.counters().replies_dropped
}

#[test]
fn a_reply_without_a_request_is_dropped_and_counted() {
    let (mut harness, client, conn, _) = get_in_flight();
    harness.reply(conn, RpcId::new([1; 32]), value_of(block(7, b"forged")));
    assert_eq!((harness.answer(client), dropped(&harness)), (None, 1));
}

#[test]
fn a_reply_from_another_node_is_dropped_and_the_reply_of_the_asked_node_counts() {
    let (mut harness, client, conn, rpc) = get_in_flight();
    let stranger = harness.accept_client(2);
    harness.reply(stranger, rpc, value_of(block(7, b"forged")));
    assert_eq!((harness.answer(client), dropped(&harness)), (None, 1));
    harness.reply(conn, rpc, value_of(block(7, b"right")));
    assert_eq!((harness.answer(client), dropped(&harness)), (success(7, b"right"), 1));
}

#[test]
fn a_reply_may_come_over_another_connection_of_the_asked_node() {
    let (mut harness, client, _, rpc) = get_in_flight();
    let other = harness.accept_client(1);
    harness.reply(other, rpc, value_of(block(7, b"right")));
    assert_eq!(harness.answer(client), success(7, b"right"));
}

#[test]
fn a_reply_of_another_type_is_dropped_and_ends_the_request() {
    for wrong in [Reply::Pong, crate::harness::stored(&block(7, b"v"))] {
        let (mut harness, client, conn, rpc) = get_in_flight();
        harness.reply(conn, rpc, wrong);
        assert_eq!(dropped(&harness), 1, "{wrong:?}");
        let (second, _) = harness.only_request(conn);
        harness.reply(conn, second, wrong);
        assert_eq!((harness.answer(client), dropped(&harness)), (None, 2), "asked twice, answered by neither");
        assert!(harness.knows(1));
        harness.pass(secs(10));
        assert_eq!(harness.answer(client), failure(7));
    }
}

#[test]
fn a_reply_that_comes_twice_counts_once() {
    let (mut harness, client, conn, rpc) = get_in_flight();
    harness.reply(conn, rpc, value_of(block(7, b"v")));
    harness.reply(conn, rpc, value_of(block(7, b"w")));
    assert_eq!((harness.answer(client), dropped(&harness)), (success(7, b"v"), 1));
}

#[test]
fn a_silent_contact_becomes_unresponsive_and_the_lookup_goes_on_without_it() {
    let mut harness = Harness::with_contacts(Params::default(), [1]);
    let silent = harness.add_contact(2);
    let helpful = harness.accept_client(3);
    harness.make_scripted(2);
    harness.pass(millis(1));
    let client = harness.put(crate::harness::confirmed(2, b"v"));
    harness.pass(secs(2));
    let copies = harness.copies();
    assert_eq!(copies.len(), 1, "the lookup ended without the silent peer");
    assert_eq!(harness.id_at(copies[0].0), id(1));
    assert!(harness.has_closed(silent), "a silent connection is closed");
    assert!(!harness.knows(2));
    harness.reply(copies[0].0, copies[0].1, crate::harness::stored(&copies[0].2));
    assert_eq!(harness.answer(client), success(2, b""));
    assert_eq!(harness.ask(helpful, Request::FindNode { target: key(2) }), nodes(&[contact(1)]), "nor is it named");
}

/// A late reply counts while its lookup runs.
#[test]
fn a_late_reply_of_a_slow_peer_still_answers_the_get() {
    let (mut harness, client, conn, rpc) = get_in_flight();
    harness.pass(secs(1));
    assert_eq!(harness.ask(conn, Request::Ping), Reply::Pong, "it is there");
    harness.pass(secs(2));
    assert!(!harness.has_closed(conn));
    assert_eq!(harness.answer(client), None);
    harness.reply(conn, rpc, value_of(block(7, b"late")));
    assert_eq!((harness.answer(client), dropped(&harness)), (success(7, b"late"), 0));
}

#[test]
fn an_error_reply_ends_the_request_and_the_contact_stays() {
    for code in [ErrorCode::OUT_OF_SCOPE, ErrorCode::FULL, ErrorCode(999)] {
        let (mut harness, client, conn, rpc) = get_in_flight();
        harness.reply(conn, rpc, Reply::Error(code));
        while let Some((rpc, _)) = harness.requests(conn).pop() {
            harness.reply(conn, rpc, Reply::Error(code));
        }
        assert_eq!((harness.answer(client), dropped(&harness)), (None, 0), "{code:?}");
        assert!(harness.knows(1));
        harness.pass(secs(10));
        assert_eq!(harness.answer(client), failure(7));
    }
}

#[test]
fn a_peer_that_says_it_is_leaving_is_a_contact_no_more() {
    let (mut harness, client, conn, rpc) = get_in_flight();
    harness.reply(conn, rpc, Reply::Error(ErrorCode::LEAVING));
    assert_eq!(harness.answer(client), failure(7));
    assert!(!harness.knows(1));
}

/// ERROR 429 says nothing about what the peer stores: the request is sent again after growing pauses.
#[test]
fn a_request_that_a_peer_has_no_room_for_is_sent_again() {
    let (mut harness, client, conn, mut rpc) = get_in_flight();
    let mut pauses = Vec::new();
    for _ in 0..4 {
        harness.reply(conn, rpc, Reply::Error(ErrorCode::TOO_MANY));
        assert_eq!(harness.answer(client), None, "nobody has said that there is no value");
        let refused = harness.now;
        rpc = loop {
            let next = harness.node.next_deadline().expect("a pause").since(harness.now);
            harness.pass(next);
            if let [(again, _)] = harness.requests(conn)[..] {
                break again;
            }
        };
        pauses.push(harness.now.since(refused));
    }
    assert!(pauses.is_sorted() && pauses[0] >= millis(40), "{pauses:?}");
    harness.reply(conn, rpc, value_of(block(7, b"at last")));
    assert_eq!(harness.answer(client), success(7, b"at last"));
}

#[test]
fn a_get_fails_at_its_timeout_if_the_peer_never_has_room() {
    let (mut harness, client, conn, rpc) = get_in_flight();
    harness.reply(conn, rpc, Reply::Error(ErrorCode::TOO_MANY));
    let mut requests = 0;
    for _ in 0..100 {
        harness.pass(millis(100));
        for (rpc, _) in harness.requests(conn) {
            requests += 1;
            harness.reply(conn, rpc, Reply::Error(ErrorCode::TOO_MANY));
        }
    }
    assert_eq!(harness.answer(client), failure(7));
    assert!((5..30).contains(&requests), "{requests} requests in 10 s");
    assert!(harness.knows(1), "a busy contact has not failed");
}

#[test]
fn a_request_that_has_no_room_in_the_outbox_is_sent_again() {
    let (mut harness, client, conn, rpc) = get_in_flight();
    harness.act(|node, now, out| node.on_unsent(now, conn, rpc, out));
    harness.pass(millis(100));
    let (rpc, _) = harness.only_request(conn);
    harness.reply(conn, rpc, value_of(block(7, b"at last")));
    assert_eq!(harness.answer(client), success(7, b"at last"));
}

/// A node uses at most k contacts of a reply. It drops duplicates, itself, port 0, unroutable addresses
/// and address families that it cannot dial.
#[test]
fn contacts_with_unusable_addresses_are_not_asked() {
    let mut harness = Harness::new(Params { families: Families::V4, alpha: 20, ..Params::default() });
    let conn = harness.add_contact(1);
    harness.get(key(7));
    let (rpc, _) = harness.only_request(conn);
    let at = |n: u8, place: &str| Contact::new(id(n), place.parse().expect("a literal"));
    let named = [
        at(2, "127.0.0.1:7402"),
        at(3, "192.0.2.3:0"),
        at(4, "0.0.0.0:7402"),
        at(5, "224.0.0.1:7402"),
        at(6, "255.255.255.255:7402"),
        at(8, "[2001:db8::8]:7402"),
        Contact::new(ME, address(9)),
        contact(1),
        contact(10),
        contact(10),
    ];
    harness.reply(conn, rpc, nodes(&named));
    harness.dial_of(10);
    assert_eq!(harness.dials(), []);
    assert_eq!(harness.requests(conn), []);
}

#[test]
fn at_most_k_contacts_of_a_reply_are_used() {
    let mut harness = Harness::new(Params { k: 3, replication_default: 3, ..Params::default() });
    let conn = harness.add_contact(1);
    harness.get(key(7));
    let (rpc, _) = harness.only_request(conn);
    let named: Vec<Contact> = (20..30).chain([7]).map(contact).collect();
    harness.reply(conn, rpc, nodes(&named));
    let mut dials = harness.dials();
    for _ in 0..20 {
        for (dial, ..) in std::mem::take(&mut dials) {
            harness.fail(dial, DialError::Unreachable);
        }
        assert!(!harness.dials().iter().any(|(_, _, expect)| *expect == Some(id(7))), "the eleventh");
    }
}

/// A claim about a contact neither moves it nor removes it.
#[test]
fn a_contact_stays_when_a_peer_names_it_at_a_wrong_address() {
    for error in [DialError::NotAuthentic, DialError::Unreachable] {
        let params = Params { k: 2, alpha: 1, replication_min: 1, replication_default: 2, ..Params::default() };
        let mut harness = Harness::new(params);
        let (liar, busy, victim) = (harness.add_contact(1), harness.add_contact(3), harness.add_contact(200));
        harness.close(victim);
        harness.make_scripted(200);
        harness.get(key(1));
        let (rpc, _) = harness.only_request(liar);
        let elsewhere = SocketAddr::from(([192, 0, 2, 66], PORT));
        harness.reply(liar, rpc, nodes(&[Contact::new(id(200), elsewhere)]));
        let (rpc, _) = harness.only_request(busy);
        harness.reply(busy, rpc, Reply::Error(ErrorCode::LEAVING));
        for (dial, ..) in harness.dials() {
            harness.fail(dial, error);
        }
        assert!(harness.knows(200), "{error:?}");
    }
}

#[test]
fn a_contact_that_is_gone_from_its_address_leaves_the_table() {
    let mut harness = Harness::with_contacts(Params::default(), [1]);
    let gone = harness.add_contact(2);
    harness.make_scripted(2);
    harness.close(gone);
    let dial = harness.dial_of(2);
    harness.fail(dial, DialError::NotAuthentic);
    assert!(!harness.knows(2));
    assert_eq!(harness.node.table().len(), 1);
}

/// Many requests without replies reach a bound, and each client is answered all the same.
#[test]
fn requests_without_a_reply_are_bounded() {
    let peers = 1..=20;
    let mut harness = Harness::with_contacts(Params { alpha: 20, ..Params::default() }, peers.clone());
    let clients: Vec<_> = (0..CLIENT_REQUESTS_MAX).map(|n| harness.get(nth_key(n))).collect();
    assert!(harness.node.requests(harness.now).0 <= PENDING_MAX);
    assert!(harness.node.waiting() <= CALLS_WAITING_MAX + PENDING_MAX);
    for peer in peers {
        harness.make_scripted(peer);
    }
    harness.pass(secs(10));
    assert_eq!(clients.into_iter().filter(|client| harness.answer(*client).is_some()).count(), CLIENT_REQUESTS_MAX);
    assert!(harness.node.wants_requests());
}

#[test]
fn one_connection_takes_only_its_share_of_the_room() {
    let mut harness = Harness::with_contacts(Params::default(), [1, 2, 3]);
    let mut taken = |connection, request, what| harness.try_request(ClientId { connection, request }, what);
    let share = CLIENT_REQUESTS_MAX as u64 / 16;
    for request in 0..share {
        let put = Put { key: nth_key(usize::try_from(request).expect("small")), ..quiet(1, b"v") };
        assert_eq!(taken(1, request, ApiRequest::Put(put)), Taken::InFlight);
    }
    assert_eq!(taken(1, share, ApiRequest::Put(quiet(1, b"v"))), Taken::NoRoom);
    assert_eq!(taken(1, share, ApiRequest::Get { key: key(100) }), Taken::NoRoom);
    assert_eq!(taken(1, share, ApiRequest::Get { key: nth_key(1) }), Taken::Done, "the record of a running PUT");
    assert_eq!(taken(2, 1, ApiRequest::Get { key: key(100) }), Taken::InFlight);
    assert!(harness.node.wants_requests() && !harness.node.wants_requests_of(1));
}

/// After a quarter of `rpc_timeout` a request is late: the lookup asks one more node meanwhile, and the
/// late reply still counts.
#[test]
fn a_late_request_is_hedged_and_its_late_reply_still_counts() {
    let mut harness = Harness::with_contacts(Params { alpha: 1, ..Params::default() }, [6, 1]);
    harness.make_scripted(6);
    harness.make_scripted(1);
    let client = harness.get(key(7));
    let find = |request: &Request<'static>| matches!(request, Request::FindValue { .. }).then_some(());
    let first = harness.all_requests(find);
    let [(nearest, rpc, ())] = first[..] else { panic!("{first:?}") };
    assert_eq!(harness.id_at(nearest), id(6));
    harness.pass(millis(499));
    assert_eq!(harness.all_requests(find), []);
    harness.pass(millis(1));
    let second = harness.all_requests(find);
    let [(farther, other, ())] = second[..] else { panic!("{second:?}") };
    assert_eq!(harness.id_at(farther), id(1));
    harness.reply(farther, other, nodes(&[]));
    assert_eq!(harness.answer(client), None, "the nearest one may answer yet");
    harness.reply(nearest, rpc, value_of(block(7, b"late")));
    assert_eq!(harness.answer(client), success(7, b"late"));
}

/// `peer` opens another connection and sends its HELLO.
fn connect(harness: &mut Harness, peer: u8) -> ConnId {
    let conn = harness.accept(peer);
    harness.send(conn, &hello());
    conn
}

fn is_live(harness: &Harness, peer: u8) -> bool {
    harness.node.table().contains(&id(peer)) && !harness.node.table().is_unresponsive(&id(peer))
}

/// The contacts 1 and 2, of which 2 does not answer the request of a GET.
fn with_silent_contact() -> (Harness, ConnId) {
    let mut harness = Harness::with_contacts(Params::default(), [1]);
    let conn = harness.add_contact(2);
    harness.make_scripted(2);
    harness.get(key(2));
    (harness, conn)
}

/// Otherwise each lookup would wait for it, as long as it sends requests or connects again.
#[test]
fn an_unresponsive_contact_is_live_again_only_when_it_has_answered() {
    let (mut harness, mut conn) = with_silent_contact();
    harness.pass(secs(4)); // the lookup, and a PING
    for n in 0..600 {
        assert!(!is_live(&harness, 2));
        if n % 10 == 0 {
            conn = connect(&mut harness, 2);
        }
        assert_eq!(harness.ask(conn, Request::Ping), Reply::Pong);
        harness.reply(conn, RpcId::new([0xcc; 32]), Reply::Pong); // it answers nothing that this node has asked
        harness.pass(secs(1));
    }
    harness.make_automatic(2);
    harness.come_back(conn);
    assert!(is_live(&harness, 2));
}

#[test]
fn an_unresponsive_contact_that_this_node_has_dialled_is_live_again_only_when_it_has_answered() {
    let (mut harness, conn) = with_silent_contact();
    harness.pass(secs(4)); // the lookup, and a PING
    harness.close(conn);
    connect(&mut harness, 2);
    let dial = harness.dial_of(2);
    let conn = harness.complete_dial(dial, 2);
    assert!(!is_live(&harness, 2));
    harness.come_back(conn);
    assert!(is_live(&harness, 2));
}

/// Passes `seconds`, in which the peer sends messages that are neither requests nor replies, so that its connection is not
/// dead.
fn stay_connected(harness: &mut Harness, conn: ConnId, seconds: usize) {
    for _ in 0..seconds {
        harness.send(conn, &PeerMessage::Bridges(Bridges { flags: FLAG_SERVING, known: List::lend(&[]) }));
        harness.pass(secs(1));
    }
}

/// If it were forgotten, it would be a new contact, which is live, at its next message.
#[test]
fn a_contact_that_is_connected_and_does_not_answer_is_not_forgotten() {
    let (mut harness, conn) = with_silent_contact();
    stay_connected(&mut harness, conn, 600);
    assert_eq!(harness.ask(conn, Request::Ping), Reply::Pong);
    assert!(!is_live(&harness, 2));
}

#[test]
fn a_contact_that_was_replaced_and_sends_on_the_connection_that_this_node_dialled_is_a_contact_again() {
    let mut harness =
        Harness::new(Params { k: 1, alpha: 1, replication_default: 1, replication_min: 1, ..Params::default() });
    let conn = harness.add_contact(2);
    harness.make_scripted(2);
    harness.get(key(2));
    stay_connected(&mut harness, conn, 5);
    let other = harness.add_contact(1);
    assert!(!harness.node.table().contains(&id(2)), "the other one has taken its place");
    harness.send(other, &PeerMessage::Goodbye);
    assert!(!harness.has_closed(conn));
    assert_eq!(harness.ask(conn, Request::Ping), Reply::Pong);
    assert!(is_live(&harness, 2));
}

/// A PING may have been lost with its connection, but not each.
#[test]
fn a_contact_that_connects_again_and_again_and_answers_nothing_becomes_unresponsive() {
    let mut harness = Harness::with_contacts(Params::default(), [1]);
    harness.add_contact(2);
    harness.make_scripted(2);
    harness.put(crate::harness::quiet(2, b"v"));
    for _ in 0..7 {
        harness.pass(millis(500));
        connect(&mut harness, 2);
        harness.pass(millis(500));
    }
    assert!(!is_live(&harness, 2));
}

#[test]
fn a_request_that_waits_for_a_dial_is_sent_when_the_peer_connects() {
    let mut harness = Harness::with_contacts(Params::default(), [1]);
    let first = harness.add_contact(2);
    harness.make_scripted(2);
    harness.close(first);
    harness.pass(millis(1));
    let dial = harness.dial_of(2);
    let conn = connect(&mut harness, 2);
    let (rpc, request) = harness.only_request(conn);
    assert_eq!(request, Request::Ping);
    harness.fail(dial, DialError::Unreachable);
    harness.pass(secs(1));
    harness.reply(conn, rpc, Reply::Pong);
    harness.pass(secs(2));
    assert!(is_live(&harness, 2));
}

#[test]
fn a_silent_connection_does_not_count_against_a_peer_that_sends_on_another_one() {
    let mut harness = Harness::with_contacts(Params::default(), [1]);
    let first = harness.add_contact(2);
    harness.make_scripted(2);
    harness.pass(millis(1));
    harness.get(key(2));
    harness.pass(secs(1));
    connect(&mut harness, 2);
    harness.pass(secs(1));
    assert!(harness.has_closed(first), "it is silent");
    assert!(is_live(&harness, 2));
}

#[test]
fn a_dial_that_fails_does_not_count_against_a_peer_that_has_connected_since() {
    let mut harness = Harness::with_contacts(Params::default(), [1]);
    let first = harness.add_contact(2);
    harness.make_scripted(2);
    harness.close(first);
    let dial = harness.dial_of(2);
    connect(&mut harness, 2);
    harness.fail(dial, DialError::Unreachable);
    assert!(is_live(&harness, 2));
}

#[test]
fn a_peer_that_connects_while_a_dial_of_it_fails_is_dialled_once_more() {
    let mut harness = Harness::founder();
    let first = connect(&mut harness, 2);
    let dial = harness.dial_of(2);
    harness.close(first);
    connect(&mut harness, 2);
    assert_eq!(harness.dials(), [], "one dial at a time");
    harness.fail(dial, DialError::Unreachable);
    let dial = harness.dial_of(2);
    harness.complete_dial(dial, 2);
    assert!(is_live(&harness, 2));
}
