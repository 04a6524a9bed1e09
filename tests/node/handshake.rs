//! The first messages of a connection: HELLO, which peers are rejected, and which enter the table
//! (section 2).

use dht::id::RpcId;
use dht::limits::{HELLO_TIMEOUT, PEER_IDLE_TIMEOUT, PROBES_MAX};
use dht::node::Status;
use dht::node::action::{ConnId, DialError};
use dht::node::params::{Families, Params, Serving};
use dht::wire::peer::{
    ErrorCode, FLAG_IPV4, FLAG_IPV6, FLAG_KNOWS_TENTATIVE, FLAG_SERVING, FLAG_TELLS_TIME, FLAG_UNSETTLED, Hello,
    PROTOCOL, PeerMessage, Reply, Request,
};

use crate::harness::{
    Harness, Message, PORT, address, block, bootstrap, contact, greeting, hello, id, key, millis, nodes, quiet, secs,
};

const RPC: RpcId = RpcId::new([9; 32]);
const PING: Message = PeerMessage::Request(RPC, Request::Ping);
const MALFORMED: Message = PeerMessage::Reply(RPC, Reply::Error(ErrorCode::MALFORMED));

/// A STORE with the right type and size, whose CRC does not match its value.
fn store_with_a_wrong_check() -> Vec<u8> {
    let mut bytes = Vec::new();
    let wrong = dht::wire::peer::RecordBlock { crc: 1, ..block(5, b"value") };
    PeerMessage::Request(RPC, Request::Store(wrong)).encode(&mut bytes);
    bytes
}

fn first_said(harness: &mut Harness, conn: ConnId) -> Hello<'static> {
    match harness.sent(conn).first() {
        Some(PeerMessage::Hello(hello)) => *hello,
        other => panic!("{other:?} came first"),
    }
}

#[test]
fn hello_is_the_first_message_on_dialled_and_accepted_connections() {
    let mut harness = Harness::newcomer();
    harness.wake();
    let dial = harness.dial_of(1);
    let dialled = harness.secure(id(1), address(1), dht::node::action::Origin::Dialled(dial));
    let accepted = harness.accept(2);
    for conn in [dialled, accepted] {
        let hello = first_said(&mut harness, conn);
        let flags = FLAG_SERVING | FLAG_IPV4 | FLAG_IPV6 | FLAG_TELLS_TIME | FLAG_KNOWS_TENTATIVE | FLAG_UNSETTLED;
        assert_eq!((hello.protocol, hello.flags, hello.port), (PROTOCOL, flags, PORT));
        assert_eq!(hello.network, [0; 32]);
        assert_eq!(hello.wall, harness.now().wall);
    }
}

#[test]
fn the_hello_of_a_non_serving_node_says_so() {
    let mut harness = Harness::new(Params { serving: Serving::No, families: Families::V6, ..Params::default() });
    let conn = harness.accept(2);
    let hello = first_said(&mut harness, conn);
    assert_eq!((hello.flags, hello.port), (FLAG_IPV6 | FLAG_TELLS_TIME | FLAG_KNOWS_TENTATIVE, 0));
}

#[test]
fn a_peer_of_another_network_or_protocol_is_rejected_and_never_dialled_back() {
    for stranger in [Hello { network: [1; 32], ..greeting() }, Hello { protocol: 2, ..greeting() }] {
        let mut harness = Harness::founder();
        let conn = harness.accept(2);
        harness.send(conn, &PeerMessage::Hello(stranger));
        assert!(harness.has_closed(conn), "{stranger:?}");
        assert_eq!(harness.dials(), []);
        assert!(harness.node.table().is_empty());
        assert_eq!(harness.node.counters().faults, 1);
    }
}

#[test]
fn a_dialled_peer_of_another_network_does_not_enter_the_table() {
    let mut harness = Harness::newcomer();
    harness.wake();
    let dial = harness.dial_of(1);
    let conn = harness.secure(id(1), address(1), dht::node::action::Origin::Dialled(dial));
    harness.send(conn, &PeerMessage::Hello(Hello { network: [1; 32], ..greeting() }));
    assert!(harness.has_closed(conn));
    assert!(harness.node.table().is_empty());
    assert_eq!(harness.node.status(), Status::Joining);
}

#[test]
fn unknown_flag_bits_of_a_hello_are_ignored() {
    let mut harness = Harness::founder();
    let conn = harness.accept(2);
    harness.send(conn, &PeerMessage::Hello(Hello { flags: 0xfffe, ..greeting() }));
    assert_eq!(harness.dials(), [], "bit 0 alone says that it serves");
    let conn = harness.accept(3);
    harness.send(conn, &PeerMessage::Hello(Hello { flags: 0xffff, ..greeting() }));
    let dial = harness.dial_of(3);
    harness.complete_dial(dial, 3);
    assert!(harness.knows(3));
}

#[test]
fn a_second_hello_closes_the_connection() {
    let mut harness = Harness::founder();
    let conn = harness.accept_client(2);
    harness.send(conn, &hello());
    assert!(harness.has_closed(conn));
    assert_eq!(harness.sent(conn), [], "a HELLO has no rpc id to answer to");
}

#[test]
fn a_message_before_hello_closes_the_connection_and_is_not_served() {
    let mut harness = Harness::founder();
    let conn = harness.accept(2);
    harness.sent(conn);
    harness.send(conn, &PING);
    assert_eq!(harness.sent(conn), [MALFORMED]);
    assert!(harness.has_closed(conn));

    let conn = harness.accept(3);
    harness.sent(conn);
    harness.send(conn, &PeerMessage::Goodbye);
    assert_eq!(harness.sent(conn), []);
    assert!(harness.has_closed(conn));
}

#[test]
fn a_malformed_request_is_answered_with_error_400_before_the_connection_closes() {
    let mut harness = Harness::founder();
    let conn = harness.accept_client(2);
    harness.send_bytes(conn, &store_with_a_wrong_check());
    assert_eq!(harness.sent(conn), [MALFORMED]);
    assert!(harness.has_closed(conn));
    assert!(harness.node.storage().is_empty());
    assert_eq!(harness.node.connections(), 0);
}

#[test]
fn messages_over_a_closed_connection_are_ignored() {
    let mut harness = Harness::founder();
    let conn = harness.accept_client(2);
    harness.send(conn, &hello());
    harness.forget_actions();
    harness.send(conn, &PING);
    harness.send(conn, &PeerMessage::Goodbye);
    harness.close(conn);
    assert_eq!(harness.sent(conn), []);
}

#[test]
fn a_connection_without_a_hello_is_closed_at_hello_timeout() {
    let mut harness = Harness::founder();
    let conn = harness.accept(2);
    harness.pass(HELLO_TIMEOUT.saturating_sub(millis(1)));
    assert!(!harness.has_closed(conn));
    harness.pass(millis(1));
    assert!(harness.has_closed(conn));
    assert_eq!(harness.node.connections(), 0);
}

/// The side that dialled may send requests together with its HELLO.
#[test]
fn requests_sent_together_with_a_hello_are_served_only_if_it_is_accepted() {
    let mut harness = Harness::founder();
    let good = harness.accept(2);
    harness.send(good, &hello());
    harness.send(good, &PING);
    assert_eq!(harness.sent(good).last(), Some(&PeerMessage::Reply(RPC, Reply::Pong)));

    let bad = harness.accept(3);
    harness.send(bad, &PeerMessage::Hello(Hello { network: [1; 32], ..greeting() }));
    harness.sent(bad);
    harness.send(bad, &PING);
    assert_eq!(harness.sent(bad), []);
}

#[test]
fn a_non_serving_peer_is_answered_but_neither_dialled_back_nor_added_to_the_table() {
    let mut harness = Harness::founder();
    let client = harness.accept_client(2);
    assert_eq!(harness.ask(client, Request::Ping), Reply::Pong);
    assert_eq!(harness.dials(), []);
    assert!(harness.node.table().is_empty());
    let other = harness.accept_client(3);
    assert_eq!(harness.ask(other, Request::FindNode { target: key(2) }), nodes(&[]));
}

#[test]
fn a_contact_that_stops_serving_leaves_the_table() {
    let mut harness = Harness::with_contacts(Params::default(), [1, 2]);
    harness.accept_client(2);
    assert!(!harness.knows(2));
    assert!(harness.knows(1));
    assert_eq!(harness.dials(), []);
}

/// A serving peer enters the table, and is named to others, only after this node has dialled its address
/// and found that id there.
#[test]
fn a_peer_enters_the_table_only_after_it_was_dialled_back() {
    let mut harness = Harness::founder();
    let first = harness.accept(2);
    harness.send(first, &hello());
    let asker = harness.accept_client(3);
    assert_eq!(harness.ask(asker, Request::FindNode { target: key(2) }), nodes(&[]));

    let dials = harness.dials();
    let [(dial, to, expect)] = &dials[..] else { panic!("{dials:?}") };
    assert_eq!((to, *expect), (&dht::node::params::Endpoint::Address(address(2)), Some(id(2))));
    let back = harness.secure(id(2), address(2), dht::node::action::Origin::Dialled(*dial));
    assert!(harness.node.table().is_empty(), "a TLS client believes too early that it is connected");
    harness.send(back, &hello());
    assert!(harness.knows(2));
    assert_eq!(harness.ask(asker, Request::FindNode { target: key(2) }), nodes(&[contact(2)]));
}

#[test]
fn a_peer_that_cannot_be_dialled_back_does_not_enter_the_table() {
    for error in [DialError::NotAuthentic, DialError::Unreachable] {
        let mut harness = Harness::founder();
        let first = harness.accept(2);
        harness.send(first, &hello());
        let dial = harness.dial_of(2);
        harness.fail(dial, error);
        assert!(harness.node.table().is_empty(), "{error:?}");
        assert_eq!(harness.ask(first, Request::Ping), Reply::Pong, "it is served all the same");
    }
}

#[test]
fn no_peer_is_dialled_back_at_port_0_or_in_an_unreachable_address_family() {
    let mut harness = Harness::new(Params { families: Families::V6, ..Params::default() });
    let v4 = harness.accept(2);
    harness.send(v4, &hello());
    let portless = harness.accept(3);
    harness.send(portless, &PeerMessage::Hello(Hello { port: 0, ..greeting() }));
    assert_eq!(harness.dials(), []);
}

#[test]
fn a_contact_is_not_dialled_back_again() {
    let mut harness = Harness::with_contacts(Params::default(), [2]);
    let second = harness.accept(2);
    harness.send(second, &hello());
    assert_eq!(harness.dials(), []);
}

#[test]
fn a_connection_from_this_node_itself_is_closed() {
    let mut harness = Harness::founder();
    let conn = harness.secure(crate::harness::ME, address(9), dht::node::action::Origin::Accepted);
    assert!(harness.has_closed(conn));
    assert_eq!(harness.node.connections(), 0);
}

/// Kademlia, section 2.2: a full bucket keeps its oldest contact if that contact answers a PING.
#[test]
fn a_new_peer_for_a_full_bucket_triggers_a_ping_of_the_oldest_contact() {
    let params = Params { k: 2, alpha: 1, replication_min: 1, replication_default: 2, ..Params::default() };
    for answers in [true, false] {
        let mut harness = Harness::with_contacts(params.clone(), [1]);
        harness.add_contact(2);
        harness.make_scripted(1);
        harness.pass(millis(1));
        let newcomer = dial_out(&mut harness, 3);
        assert!(!harness.knows(3), "the bucket is full");
        let pings = harness.all_requests(|request| (*request == Request::Ping).then_some(()));
        let &[(oldest, rpc, ())] = &pings[..] else { panic!("{pings:?}") };
        assert_eq!(harness.id_at(oldest), id(1));
        if answers {
            harness.reply(oldest, rpc, Reply::Pong);
            harness.pass(secs(1));
            harness.answer_find_value(|_, _| Some(nodes(&[])));
            harness.pass(secs(2));
        } else {
            harness.pass(secs(3));
            assert!(harness.knows(3));
        }
        assert_eq!(harness.knows(1), answers);
        assert_eq!(harness.ask(newcomer, Request::Ping), Reply::Pong);
    }
}

/// Makes the node dial `peer`: the peer 2 names it in its reply to a GET.
fn dial_out(harness: &mut Harness, peer: u8) -> ConnId {
    harness.get(key(peer));
    let found = harness.all_requests(|request| matches!(request, Request::FindValue { .. }).then_some(()));
    let (conn, rpc, ()) = found[0];
    let contacts = [contact(peer)];
    harness.reply(conn, rpc, nodes(&contacts));
    let dial = harness.dial_of(peer);
    let conn = harness.complete_dial(dial, peer);
    harness.make_automatic(peer);
    conn
}

#[test]
fn after_its_goodbye_a_contact_leaves_the_table_and_gets_no_more_requests() {
    let mut harness = Harness::with_contacts(Params::default(), [1]);
    let leaver = harness.add_contact(2);
    harness.send(leaver, &PeerMessage::Goodbye);
    assert!(!harness.knows(2));
    harness.put(quiet(2, b"v"));
    assert_eq!(harness.sent(leaver), []);
    assert_eq!(harness.dials(), []);
    harness.pass(secs(10));
    assert!(harness.has_closed(leaver), "the leaver's side has not closed it");
}

#[test]
fn a_goodbye_does_not_close_a_connection_that_waits_for_its_hello() {
    let mut harness = Harness::founder();
    let old = harness.add_contact(2);
    let new = harness.accept(2);
    harness.send(old, &PeerMessage::Goodbye);
    harness.send(new, &hello());
    assert!(!harness.has_closed(new), "its HELLO is the first one there");
    assert_eq!(harness.node.counters().faults, 0);
}

/// A close alone never counts as a failure of a contact.
#[test]
fn a_contact_that_opens_and_closes_a_connection_stays_in_the_table() {
    let mut harness = Harness::with_contacts(Params::default(), [2]);
    let brief = harness.accept(2);
    harness.close(brief);
    assert!(harness.knows(2));
    let greeted = harness.accept(2);
    harness.send(greeted, &hello());
    harness.close(greeted);
    assert!(harness.knows(2));
}

#[test]
fn a_pinned_bootstrap_is_dialled_with_its_expected_id() {
    let mut harness = Harness::new(Params { bootstraps: vec![bootstrap(1, Some(id(1)))], ..Params::default() });
    harness.wake();
    let dials = harness.dials();
    let [(_, _, expect)] = &dials[..] else { panic!("{dials:?}") };
    assert_eq!(*expect, Some(id(1)));
}

/// Many peers that join at once never use up the dials that lookups need.
#[test]
fn dial_backs_are_bounded() {
    let mut harness = Harness::founder();
    for peer in 1..=u8::try_from(2 * PROBES_MAX).expect("a small bound") {
        let conn = harness.accept(peer);
        harness.send(conn, &hello());
    }
    let dials = harness.dials();
    assert_eq!(dials.len(), PROBES_MAX);
    for (dial, ..) in dials {
        harness.fail(dial, DialError::Unreachable);
    }
    let next = harness.accept(100);
    harness.send(next, &hello());
    harness.dial_of(100);
}

/// A node reuses a connection to a peer; it closes idle ones, least recently used first.
#[test]
fn an_idle_connection_is_closed_at_peer_idle_timeout() {
    let mut harness = Harness::founder();
    let (idle, busy) = (harness.accept_client(2), harness.accept_client(3));
    harness.pass(PEER_IDLE_TIMEOUT / 2);
    harness.ask(busy, Request::Ping);
    harness.pass(PEER_IDLE_TIMEOUT / 2);
    assert!(harness.has_closed(idle));
    assert!(!harness.has_closed(busy));
    harness.pass(PEER_IDLE_TIMEOUT / 2);
    assert!(harness.has_closed(busy));
}

#[test]
fn of_too_many_connections_the_least_recently_used_is_closed() {
    let mut harness = Harness::new(Params { peer_connections_max: 2, ..Params::default() });
    let (old, older) = (harness.accept_client(2), harness.accept_client(3));
    harness.pass(millis(1));
    harness.ask(old, Request::Ping);
    let new = harness.accept_client(4);
    assert!(harness.has_closed(older));
    assert!(!harness.has_closed(old) && !harness.has_closed(new));
}
