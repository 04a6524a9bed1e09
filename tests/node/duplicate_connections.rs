//! Two connections to one id (section 2): both HELLOs are exchanged, then the one that the
//! smaller id opened survives, of two by the same opener the newer.

use dht::node::params::Params;
use dht::node::{Node, Status};
use dht::wire::peer::{Reply, Request};

use crate::harness::{Stage, block, bootstrap, contact, hello, key, nodes, quiet, secs, success, value_of};
use crate::mini_network::Company;

/// The node `dialler` joins through the other of 1 and 2, which dials it back.
fn joined(dialler: u8) -> Company {
    let through = Params { bootstraps: vec![bootstrap(3 - dialler, None)], ..Params::default() };
    let mut company = Company::new([(dialler, through), (3 - dialler, Params::default())]);
    company.pass(secs(0));
    company
}

#[test]
fn the_connection_of_the_smaller_id_survives_on_both_sides_whoever_dialled_first() {
    for dialler in [1, 2] {
        let mut company = joined(dialler);
        assert_eq!(company.connections(1), [(2, true)], "{dialler} dialled first");
        assert_eq!(company.connections(2), [(1, false)]);
        company.pass(secs(30));
        assert_eq!(company.connections(1), [(2, true)], "and it goes on surviving");
        for node in company.nodes.values() {
            assert_eq!((node.connections(), node.table().live()), (1, 1));
            assert_eq!((node.status(), node.counters().faults), (Status::Settled, 0));
        }
    }
}

#[test]
fn two_nodes_that_have_each_other_as_bootstrap_end_with_one_connection() {
    let through = |other| Params { bootstraps: vec![bootstrap(other, None)], ..Params::default() };
    for first in [1, 2] {
        let mut company = Company::new([(1, through(2)), (2, through(1))]);
        company.act(first, Node::on_timeout);
        company.pass(secs(5));
        assert_eq!(company.connections(1), [(2, true)]);
        assert_eq!(company.connections(2), [(1, false)]);
        assert!(company.nodes.values().all(|node| node.table().live() == 1));
    }
}

#[test]
fn of_two_connections_by_one_opener_the_newer_survives() {
    let mut stage = Stage::founder();
    let old = stage.accept(200);
    stage.tell(old, &hello());
    let new = stage.accept(200);
    stage.tell(new, &hello());
    assert!(stage.has_closed(old), "this node is the smaller, and owes nothing");
    assert_eq!(stage.ask(new, Request::Ping), Reply::Pong);
}

#[test]
fn both_hellos_are_exchanged_before_one_connection_gives_way() {
    let mut stage = Stage::founder();
    let old = stage.befriend(200);
    let new = stage.accept(200);
    assert!(!stage.has_closed(old));
    stage.tell(new, &hello());
    assert!(!stage.has_closed(old), "this node is the smaller, and opened the old one");
    assert!(stage.has_closed(new));
}

/// What retires takes no new requests, and the smaller id closes it when it owes nothing.
#[test]
fn the_smaller_id_waits_for_what_is_owed_on_the_connection_that_gives_way() {
    let mut stage = Stage::founder();
    let teller = stage.befriend(1);
    let old = stage.accept(200);
    stage.tell(old, &hello());
    let back = stage.dial_of(200);
    let client = stage.get(key(200));
    let (rpc, _) = stage.asked_once(teller);
    stage.reply(teller, rpc, nodes(&[contact(200)]));
    let (rpc, _) = stage.asked_once(old);

    let new = stage.meet(back, 200);
    assert!(!stage.has_closed(old), "an answer is owed on it");
    stage.get(key(199));
    assert_eq!((stage.asked(old).len(), stage.asked(new).len()), (0, 1));
    stage.reply(old, rpc, value_of(block(200, b"owed")));
    assert_eq!(stage.answer(client), success(200, b"owed"));
    assert!(stage.has_closed(old));
}

#[test]
fn a_retiring_connection_is_closed_at_last_though_the_smaller_id_never_does() {
    let mut stage = Stage::founder();
    let old = stage.befriend(1);
    let new = stage.accept(1);
    stage.tell(new, &hello());
    assert!(!stage.has_closed(old), "that is the smaller id's business");
    stage.pass(secs(4));
    assert!(stage.has_closed(old));
    assert_eq!(stage.node.connections(), 1);
    assert!(stage.knows(1));
}

/// A request cut off by a close is sent once more.
#[test]
fn a_request_cut_off_by_the_close_is_sent_over_the_other_connection_and_answered() {
    let mut stage = Stage::founder();
    let old = stage.befriend(1);
    stage.script(1);
    let client = stage.get(key(7));
    let (_, cut) = stage.asked_once(old);
    let new = stage.accept(1);
    stage.tell(new, &hello());
    stage.close(old);
    stage.said(old);
    let (rpc, again) = stage.asked_once(new);
    assert_eq!(again, cut);
    stage.reply(new, rpc, value_of(block(7, b"found")));
    assert_eq!(stage.answer(client), success(7, b"found"));
    assert!(stage.knows(1));
}

#[test]
fn a_request_that_is_cut_off_twice_has_failed() {
    let mut stage = Stage::founder();
    let first = stage.befriend(1);
    stage.put(quiet(1, b"v"));
    stage.script(1);
    assert_eq!(stage.asked(first).len(), 1);
    stage.close(first);
    let dial = stage.dial_of(1);
    let second = stage.meet(dial, 1);
    let copies = stage.asked(second).into_iter().filter(|(_, request)| *request != Request::Ping);
    assert_eq!(copies.count(), 1);
    stage.close(second);
    let dial = stage.dial_of(1);
    let third = stage.meet(dial, 1);
    assert!(stage.asked(third).iter().all(|(_, request)| *request == Request::Ping), "no third time");
    assert!(stage.knows(1), "a close counts against nobody");
}
