//! Two connections to one id (section 2). Both sides exchange HELLO on each. Then the connection that the
//! smaller id opened survives; of two that one side opened, the newer survives.

use dht::node::action::ConnId;
use dht::node::params::Params;
use dht::node::{Node, Status};
use dht::wire::peer::{Reply, Request};

use crate::harness::{
    Harness, block, bootstrap, confirmed, contact, hello, key, millis, nodes, quiet, secs, stored, success, value_of,
};
use crate::mini_network::MiniNetwork;

/// The node `dialler` joins through the other one of 1 and 2, which dials it back.
fn joined(dialler: u8) -> MiniNetwork {
    let through = Params { bootstraps: vec![bootstrap(3 - dialler, None)], ..Params::default() };
    let mut network = MiniNetwork::new([(dialler, through), (3 - dialler, Params::default())]);
    network.pass(secs(0));
    network
}

#[test]
fn both_sides_use_the_connection_that_the_smaller_id_opened() {
    for dialler in [1, 2] {
        let mut network = joined(dialler);
        assert_eq!(network.connections(1), [(2, true)], "{dialler} dialled first");
        assert_eq!(network.connections(2), [(1, false)]);
        network.pass(secs(30));
        assert_eq!(network.connections(1), [(2, true)], "and it goes on surviving");
        for node in network.nodes.values() {
            assert_eq!((node.connections(), node.table().live()), (1, 1));
            assert_eq!((node.status(), node.counters().faults), (Status::Settled, 0));
        }
    }
}

#[test]
fn two_nodes_that_bootstrap_from_each_other_end_with_one_connection() {
    let through = |other| Params { bootstraps: vec![bootstrap(other, None)], ..Params::default() };
    for first in [1, 2] {
        let mut network = MiniNetwork::new([(1, through(2)), (2, through(1))]);
        network.act(first, Node::on_timeout);
        network.pass(secs(5));
        assert_eq!(network.connections(1), [(2, true)]);
        assert_eq!(network.connections(2), [(1, false)]);
        assert!(network.nodes.values().all(|node| node.table().live() == 1));
    }
}

#[test]
fn of_two_connections_opened_by_one_side_the_newer_survives() {
    let mut harness = Harness::founder();
    let old = harness.accept(200);
    harness.send(old, &hello());
    let new = harness.accept(200);
    harness.send(new, &hello());
    assert!(harness.has_closed(old), "this node is the smaller, and owes nothing");
    assert_eq!(harness.ask(new, Request::Ping), Reply::Pong);
}

#[test]
fn a_duplicate_connection_is_closed_only_after_both_hellos() {
    let mut harness = Harness::founder();
    let old = harness.add_contact(200);
    let new = harness.accept(200);
    assert!(!harness.has_closed(old));
    harness.send(new, &hello());
    assert!(!harness.has_closed(old), "this node is the smaller, and opened the old one");
    assert!(harness.has_closed(new));
}

/// The peer may have lost the old connection, and dials because it knows no other.
#[test]
fn a_newer_connection_stays_until_the_peer_has_answered_on_an_older_one_that_was_silent() {
    for answers in [true, false] {
        let mut harness = Harness::founder();
        let old = harness.add_contact(200);
        harness.make_scripted(200);
        harness.pass(secs(2));
        let new = harness.accept(200);
        harness.send(new, &hello());
        assert!(!harness.has_closed(new));
        assert_eq!(harness.ask(new, Request::Ping), Reply::Pong, "it serves the peer meanwhile");
        let (rpc, request) = harness.only_request(old);
        assert_eq!(request, Request::Ping);
        if answers {
            harness.reply(old, rpc, Reply::Pong);
        }
        harness.pass(secs(4));
        assert_eq!((harness.has_closed(old), harness.has_closed(new)), (!answers, answers));
        assert_eq!(harness.node.connections(), 1);
    }
}

/// A connection that will be closed takes no new requests. The smaller id closes it once no reply is
/// pending on it.
#[test]
fn the_smaller_id_closes_the_duplicate_only_after_its_pending_replies() {
    let mut harness = Harness::founder();
    let teller = harness.add_contact(1);
    let old = harness.accept(200);
    harness.send(old, &hello());
    let back = harness.dial_of(200);
    let client = harness.get(key(200));
    let (rpc, _) = harness.only_request(teller);
    harness.reply(teller, rpc, nodes(&[contact(200)]));
    let (rpc, _) = harness.only_request(old);

    let new = harness.complete_dial(back, 200);
    assert!(!harness.has_closed(old), "an answer is owed on it");
    harness.get(key(199));
    assert_eq!((harness.requests(old).len(), harness.requests(new).len()), (0, 1));
    harness.reply(old, rpc, value_of(block(200, b"owed")));
    assert_eq!(harness.answer(client), success(200, b"owed"));
    assert!(harness.has_closed(old));
}

#[test]
fn a_duplicate_is_closed_after_a_timeout_if_the_smaller_id_does_not_close_it() {
    let mut harness = Harness::founder();
    let old = harness.add_contact(1);
    let new = harness.accept(1);
    harness.send(new, &hello());
    assert!(!harness.has_closed(old), "that is the smaller id's business");
    harness.pass(secs(4));
    assert!(harness.has_closed(old));
    assert_eq!(harness.node.connections(), 1);
    assert!(harness.knows(1));
}

/// A node repeats a request once if the connection closes before the reply.
#[test]
fn a_request_lost_in_a_close_is_sent_again_over_the_other_connection() {
    let mut harness = Harness::founder();
    let old = harness.add_contact(1);
    harness.make_scripted(1);
    let client = harness.get(key(7));
    let (_, cut) = harness.only_request(old);
    let new = harness.accept(1);
    harness.send(new, &hello());
    harness.close(old);
    harness.sent(old);
    let (rpc, again) = harness.only_request(new);
    assert_eq!(again, cut);
    harness.reply(new, rpc, value_of(block(7, b"found")));
    assert_eq!(harness.answer(client), success(7, b"found"));
    assert!(harness.knows(1));
}

/// A node whose copy of a PUT was lost with its first connection, and is sent again on the returned one.
fn lost_once() -> (Harness, ConnId) {
    let mut harness = Harness::founder();
    let first = harness.add_contact(1);
    harness.put(quiet(1, b"v"));
    harness.make_scripted(1);
    assert_eq!(harness.requests(first).len(), 1);
    harness.close(first);
    let dial = harness.dial_of(1);
    let second = harness.complete_dial(dial, 1);
    assert_eq!(requests_on(&mut harness, second), 1);
    (harness, second)
}

/// The requests on `conn` since the last call, without PINGs.
fn requests_on(harness: &mut Harness, conn: ConnId) -> usize {
    harness.requests(conn).into_iter().filter(|(_, request)| *request != Request::Ping).count()
}

#[test]
fn a_request_that_is_lost_twice_fails() {
    let (mut harness, second) = lost_once();
    harness.close(second);
    let dial = harness.dial_of(1);
    let third = harness.complete_dial(dial, 1);
    assert_eq!(requests_on(&mut harness, third), 0, "no third time");
    assert!(harness.knows(1), "a close is no failure of the contact");
}

/// After both nodes have dialled each other, the peer closes the connection on which the request was sent again.
#[test]
fn a_request_that_is_lost_twice_is_sent_on_another_open_connection() {
    let (mut harness, second) = lost_once();
    let third = harness.accept(1);
    harness.send(third, &hello());
    harness.close(second);
    assert_eq!(requests_on(&mut harness, third), 1);
}

/// A peer that opens a new connection every second and answers nothing holds up a PUT for `rpc_timeout` in all.
#[test]
fn a_request_that_is_sent_again_keeps_its_deadline() {
    let mut harness = Harness::with_contacts(Params::default(), [1]);
    let first = harness.add_contact(2);
    harness.make_scripted(2);
    harness.pass(millis(1));
    let client = harness.put(confirmed(2, b"v"));
    assert_eq!(requests_on(&mut harness, first), 1, "the request of the lookup");
    harness.pass(secs(1));
    let second = harness.accept(2);
    harness.send(second, &hello());
    harness.close(first);
    assert_eq!(requests_on(&mut harness, second), 1, "it is sent again");
    harness.pass(secs(1));
    for (conn, rpc, copy) in harness.copies() {
        harness.reply(conn, rpc, stored(&copy));
    }
    assert_eq!(harness.answer(client), success(2, b""));
}
