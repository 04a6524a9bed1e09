//! Meeting peers: HELLO, who is turned away, and who enters the table (section 2).

use dht::id::RpcId;
use dht::limits::{HELLO_TIMEOUT, PEER_IDLE_TIMEOUT, PROBES_MAX};
use dht::node::Status;
use dht::node::action::{ConnId, DialError};
use dht::node::params::{Families, Params, Serving};
use dht::wire::peer::{ErrorCode, FLAG_SERVING, Hello, PROTOCOL, PeerMessage, Reply, Request};

use crate::harness::{
    Message, PORT, Stage, address, block, bootstrap, contact, greeting, hello, id, key, millis, nodes, quiet, secs,
};

const RPC: RpcId = RpcId::new([9; 32]);
const PING: Message = PeerMessage::Request(RPC, Request::Ping);
const MALFORMED: Message = PeerMessage::Reply(RPC, Reply::Error(ErrorCode::MALFORMED));

/// A STORE with its type and size right, whose check does not fit its value.
fn store_with_a_wrong_check() -> Vec<u8> {
    let mut bytes = Vec::new();
    let wrong = dht::wire::peer::RecordBlock { crc: 1, ..block(5, b"value") };
    PeerMessage::Request(RPC, Request::Store(wrong)).encode(&mut bytes);
    bytes
}

fn first_said(stage: &mut Stage, conn: ConnId) -> Hello<'static> {
    match stage.said(conn).first() {
        Some(PeerMessage::Hello(hello)) => *hello,
        other => panic!("{other:?} came first"),
    }
}

#[test]
fn hello_is_the_first_message_of_both_sides_whoever_dialled() {
    let mut stage = Stage::newcomer();
    stage.wake();
    let dial = stage.dial_of(1);
    let dialled = stage.secure(id(1), address(1), dht::node::action::Origin::Dialled(dial));
    let accepted = stage.accept(2);
    for conn in [dialled, accepted] {
        let hello = first_said(&mut stage, conn);
        assert_eq!((hello.protocol, hello.flags, hello.port), (PROTOCOL, FLAG_SERVING, PORT));
        assert_eq!(hello.network, [0; 32]);
        assert_eq!(hello.wall, stage.now().wall);
    }
}

#[test]
fn a_client_says_that_it_does_not_serve() {
    let mut stage = Stage::new(Params { serving: Serving::No, ..Params::default() });
    let conn = stage.accept(2);
    let hello = first_said(&mut stage, conn);
    assert_eq!((hello.flags, hello.port), (0, 0));
}

#[test]
fn another_network_or_protocol_is_turned_away_and_never_dialled_back() {
    for stranger in [Hello { network: [1; 32], ..greeting() }, Hello { protocol: 2, ..greeting() }] {
        let mut stage = Stage::founder();
        let conn = stage.accept(2);
        stage.tell(conn, &PeerMessage::Hello(stranger));
        assert!(stage.has_closed(conn), "{stranger:?}");
        assert_eq!(stage.dials(), []);
        assert!(stage.node.table().is_empty());
        assert_eq!(stage.node.counters().faults, 1);
    }
}

#[test]
fn another_network_that_was_dialled_does_not_enter_the_table_either() {
    let mut stage = Stage::newcomer();
    stage.wake();
    let dial = stage.dial_of(1);
    let conn = stage.secure(id(1), address(1), dht::node::action::Origin::Dialled(dial));
    stage.tell(conn, &PeerMessage::Hello(Hello { network: [1; 32], ..greeting() }));
    assert!(stage.has_closed(conn));
    assert!(stage.node.table().is_empty());
    assert_eq!(stage.node.status(), Status::Joining);
}

#[test]
fn unknown_flag_bits_of_a_hello_are_ignored() {
    let mut stage = Stage::founder();
    let conn = stage.accept(2);
    stage.tell(conn, &PeerMessage::Hello(Hello { flags: 0xfffe, ..greeting() }));
    assert_eq!(stage.dials(), [], "bit 0 alone says that it serves");
    let conn = stage.accept(3);
    stage.tell(conn, &PeerMessage::Hello(Hello { flags: 0xffff, ..greeting() }));
    let dial = stage.dial_of(3);
    stage.meet(dial, 3);
    assert!(stage.knows(3));
}

#[test]
fn a_second_hello_closes_the_connection() {
    let mut stage = Stage::founder();
    let conn = stage.accept_client(2);
    stage.tell(conn, &hello());
    assert!(stage.has_closed(conn));
    assert_eq!(stage.said(conn), [], "a HELLO has no rpc id to answer to");
}

#[test]
fn a_message_before_hello_closes_the_connection_and_is_not_served() {
    let mut stage = Stage::founder();
    let conn = stage.accept(2);
    stage.said(conn);
    stage.tell(conn, &PING);
    assert_eq!(stage.said(conn), [MALFORMED]);
    assert!(stage.has_closed(conn));

    let conn = stage.accept(3);
    stage.said(conn);
    stage.tell(conn, &PeerMessage::Goodbye);
    assert_eq!(stage.said(conn), []);
    assert!(stage.has_closed(conn));
}

#[test]
fn a_malformed_request_is_answered_400_under_its_id_before_the_connection_closes() {
    let mut stage = Stage::founder();
    let conn = stage.accept_client(2);
    stage.tell_bytes(conn, &store_with_a_wrong_check());
    assert_eq!(stage.said(conn), [MALFORMED]);
    assert!(stage.has_closed(conn));
    assert!(stage.node.storage().is_empty());
    assert_eq!(stage.node.connections(), 0);
}

#[test]
fn nothing_that_comes_over_a_closed_connection_is_heard() {
    let mut stage = Stage::founder();
    let conn = stage.accept_client(2);
    stage.tell(conn, &hello());
    stage.forget_deeds();
    stage.tell(conn, &PING);
    stage.tell(conn, &PeerMessage::Goodbye);
    stage.close(conn);
    assert_eq!(stage.said(conn), []);
}

#[test]
fn a_peer_without_a_hello_is_turned_away_when_its_time_is_up() {
    let mut stage = Stage::founder();
    let conn = stage.accept(2);
    stage.pass(HELLO_TIMEOUT.saturating_sub(millis(1)));
    assert!(!stage.has_closed(conn));
    stage.pass(millis(1));
    assert!(stage.has_closed(conn));
    assert_eq!(stage.node.connections(), 0);
}

/// The dialler may send requests together with its HELLO.
#[test]
fn requests_sent_together_with_a_hello_are_served_after_it_is_judged() {
    let mut stage = Stage::founder();
    let good = stage.accept(2);
    stage.tell(good, &hello());
    stage.tell(good, &PING);
    assert_eq!(stage.said(good).last(), Some(&PeerMessage::Reply(RPC, Reply::Pong)));

    let bad = stage.accept(3);
    stage.tell(bad, &PeerMessage::Hello(Hello { network: [1; 32], ..greeting() }));
    stage.said(bad);
    stage.tell(bad, &PING);
    assert_eq!(stage.said(bad), []);
}

#[test]
fn a_client_is_answered_and_neither_dialled_back_nor_kept_nor_named() {
    let mut stage = Stage::founder();
    let client = stage.accept_client(2);
    assert_eq!(stage.ask(client, Request::Ping), Reply::Pong);
    assert_eq!(stage.dials(), []);
    assert!(stage.node.table().is_empty());
    let other = stage.accept_client(3);
    assert_eq!(stage.ask(other, Request::FindNode { target: key(2) }), nodes(&[]));
}

#[test]
fn a_contact_that_serves_no_more_leaves_the_table() {
    let mut stage = Stage::among(Params::default(), [1, 2]);
    stage.accept_client(2);
    assert!(!stage.knows(2));
    assert!(stage.knows(1));
    assert_eq!(stage.dials(), []);
}

/// A serving node enters a table, and is named to others, only once this node itself dialled
/// that address and met that id there.
#[test]
fn a_peer_that_dialled_us_enters_only_after_it_was_dialled_back() {
    let mut stage = Stage::founder();
    let first = stage.accept(2);
    stage.tell(first, &hello());
    let asker = stage.accept_client(3);
    assert_eq!(stage.ask(asker, Request::FindNode { target: key(2) }), nodes(&[]));

    let dials = stage.dials();
    let [(dial, to, expect)] = &dials[..] else { panic!("{dials:?}") };
    assert_eq!((to, *expect), (&dht::node::params::Endpoint::Address(address(2)), Some(id(2))));
    let back = stage.secure(id(2), address(2), dht::node::action::Origin::Dialled(*dial));
    assert!(stage.node.table().is_empty(), "a TLS client believes too early that it is connected");
    stage.tell(back, &hello());
    assert!(stage.knows(2));
    assert_eq!(stage.ask(asker, Request::FindNode { target: key(2) }), nodes(&[contact(2)]));
}

#[test]
fn a_peer_that_is_not_met_at_its_address_does_not_enter() {
    for error in [DialError::NotAuthentic, DialError::Unreachable] {
        let mut stage = Stage::founder();
        let first = stage.accept(2);
        stage.tell(first, &hello());
        let dial = stage.dial_of(2);
        stage.fail(dial, error);
        assert!(stage.node.table().is_empty(), "{error:?}");
        assert_eq!(stage.ask(first, Request::Ping), Reply::Pong, "it is served all the same");
    }
}

#[test]
fn nobody_is_dialled_back_at_port_0_or_in_a_family_that_cannot_be_dialled() {
    let mut stage = Stage::new(Params { families: Families::V6, ..Params::default() });
    let v4 = stage.accept(2);
    stage.tell(v4, &hello());
    let portless = stage.accept(3);
    stage.tell(portless, &PeerMessage::Hello(Hello { port: 0, ..greeting() }));
    assert_eq!(stage.dials(), []);
}

#[test]
fn a_peer_that_was_met_is_not_dialled_back_again() {
    let mut stage = Stage::among(Params::default(), [2]);
    let second = stage.accept(2);
    stage.tell(second, &hello());
    assert_eq!(stage.dials(), []);
}

#[test]
fn this_node_itself_is_hung_up_on() {
    let mut stage = Stage::founder();
    let conn = stage.secure(crate::harness::ME, address(9), dht::node::action::Origin::Accepted);
    assert!(stage.has_closed(conn));
    assert_eq!(stage.node.connections(), 0);
}

/// Kademlia, section 2.2: a full bucket keeps its oldest contact if that one answers a PING.
#[test]
fn a_newcomer_to_a_full_bucket_has_the_oldest_contact_asked() {
    let params = Params { k: 2, alpha: 1, replication_min: 1, replication_default: 2, ..Params::default() };
    for answers in [true, false] {
        let mut stage = Stage::among(params.clone(), [1]);
        stage.befriend(2);
        stage.script(1);
        stage.pass(millis(1));
        let newcomer = dial_out(&mut stage, 3);
        assert!(!stage.knows(3), "the bucket is full");
        let pings = stage.all_asked(|request| (*request == Request::Ping).then_some(()));
        let &[(oldest, rpc, ())] = &pings[..] else { panic!("{pings:?}") };
        assert_eq!(stage.at(oldest), id(1));
        if answers {
            stage.reply(oldest, rpc, Reply::Pong);
            stage.pass(secs(3));
        } else {
            stage.pass(secs(3));
            assert!(stage.knows(3));
        }
        assert_eq!(stage.knows(1), answers);
        assert_eq!(stage.ask(newcomer, Request::Ping), Reply::Pong);
    }
}

/// Has the node dial `peer`, which the peer 2 names in answer to a GET.
fn dial_out(stage: &mut Stage, peer: u8) -> ConnId {
    stage.get(key(peer));
    let found = stage.all_asked(|request| matches!(request, Request::FindValue { .. }).then_some(()));
    let (conn, rpc, ()) = found[0];
    let contacts = [contact(peer)];
    stage.reply(conn, rpc, nodes(&contacts));
    let dial = stage.dial_of(peer);
    let conn = stage.meet(dial, peer);
    stage.make_polite(peer);
    conn
}

#[test]
fn a_goodbye_takes_the_contact_out_of_the_table_and_nothing_is_asked_of_it_any_more() {
    let mut stage = Stage::among(Params::default(), [1]);
    let leaver = stage.befriend(2);
    stage.tell(leaver, &PeerMessage::Goodbye);
    assert!(!stage.knows(2));
    stage.put(quiet(2, b"v"));
    assert_eq!(stage.said(leaver), []);
    assert_eq!(stage.dials(), []);
    stage.pass(secs(10));
    assert!(stage.has_closed(leaver), "the leaver's side has not closed it");
}

#[test]
fn a_goodbye_leaves_a_connection_alone_that_waits_for_its_hello() {
    let mut stage = Stage::founder();
    let old = stage.befriend(2);
    let new = stage.accept(2);
    stage.tell(old, &PeerMessage::Goodbye);
    stage.tell(new, &hello());
    assert!(!stage.has_closed(new), "its HELLO is the first one there");
    assert_eq!(stage.node.counters().faults, 0);
}

/// A close by itself never counts against a contact.
#[test]
fn a_connection_that_a_contact_opens_and_closes_does_not_count_against_it() {
    let mut stage = Stage::among(Params::default(), [2]);
    let brief = stage.accept(2);
    stage.close(brief);
    assert!(stage.knows(2));
    let greeted = stage.accept(2);
    stage.tell(greeted, &hello());
    stage.close(greeted);
    assert!(stage.knows(2));
}

#[test]
fn a_pinned_bootstrap_is_dialled_for_its_id_and_for_no_other() {
    let mut stage = Stage::new(Params { bootstraps: vec![bootstrap(1, Some(id(1)))], ..Params::default() });
    stage.wake();
    let dials = stage.dials();
    let [(_, _, expect)] = &dials[..] else { panic!("{dials:?}") };
    assert_eq!(*expect, Some(id(1)));
}

/// A crowd that joins at once never takes the dials that searches need.
#[test]
fn dial_backs_are_bounded() {
    let mut stage = Stage::founder();
    for peer in 1..=u8::try_from(2 * PROBES_MAX).expect("a small bound") {
        let conn = stage.accept(peer);
        stage.tell(conn, &hello());
    }
    let dials = stage.dials();
    assert_eq!(dials.len(), PROBES_MAX);
    for (dial, ..) in dials {
        stage.fail(dial, DialError::Unreachable);
    }
    let next = stage.accept(100);
    stage.tell(next, &hello());
    stage.dial_of(100);
}

/// A peer connection is reused; idle ones are closed, least recently used first.
#[test]
fn an_idle_connection_is_closed_and_its_contact_stays() {
    let mut stage = Stage::founder();
    let (idle, busy) = (stage.accept_client(2), stage.accept_client(3));
    stage.pass(PEER_IDLE_TIMEOUT / 2);
    stage.ask(busy, Request::Ping);
    stage.pass(PEER_IDLE_TIMEOUT / 2);
    assert!(stage.has_closed(idle));
    assert!(!stage.has_closed(busy));
    stage.pass(PEER_IDLE_TIMEOUT / 2);
    assert!(stage.has_closed(busy));
}

#[test]
fn of_too_many_connections_the_least_recently_used_is_closed() {
    let mut stage = Stage::new(Params { peer_connections_max: 2, ..Params::default() });
    let (old, older) = (stage.accept_client(2), stage.accept_client(3));
    stage.pass(millis(1));
    stage.ask(old, Request::Ping);
    let new = stage.accept_client(4);
    assert!(stage.has_closed(older));
    assert!(!stage.has_closed(old) && !stage.has_closed(new));
}
