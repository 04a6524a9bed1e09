//! Asking peers: which replies count, who is not asked, what silence does (section 2).

use std::net::SocketAddr;

use dht::contact::Contact;
use dht::id::RpcId;
use dht::limits::PENDING_MAX;
use dht::node::action::{ConnId, DialError};
use dht::node::params::{Families, Params};
use dht::wire::peer::{ErrorCode, Reply, Request};

use crate::harness::{
    ME, PORT, Stage, address, block, contact, failure, id, key, millis, nodes, secs, success, value_of,
};

/// A GET of the key 7 that has asked the scripted peer 1 over that connection, under that id.
fn asking() -> (Stage, dht::node::action::ClientId, ConnId, RpcId) {
    let mut stage = Stage::founder();
    let conn = stage.befriend(1);
    stage.script(1);
    let client = stage.get(key(7));
    let (rpc, _) = stage.asked_once(conn);
    (stage, client, conn, rpc)
}

fn dropped(stage: &Stage) -> u64 {
    stage.node.counters().replies_dropped
}

#[test]
fn a_reply_to_nothing_that_was_asked_is_dropped_and_counted() {
    let (mut stage, client, conn, _) = asking();
    stage.reply(conn, RpcId::new([1; 32]), value_of(block(7, b"forged")));
    assert_eq!((stage.answer(client), dropped(&stage)), (None, 1));
}

#[test]
fn a_reply_from_another_node_is_dropped_and_the_right_one_still_counts() {
    let (mut stage, client, conn, rpc) = asking();
    let stranger = stage.accept_client(2);
    stage.reply(stranger, rpc, value_of(block(7, b"forged")));
    assert_eq!((stage.answer(client), dropped(&stage)), (None, 1));
    stage.reply(conn, rpc, value_of(block(7, b"right")));
    assert_eq!((stage.answer(client), dropped(&stage)), (success(7, b"right"), 1));
}

#[test]
fn a_reply_may_come_over_another_connection_of_the_node_that_was_asked() {
    let (mut stage, client, _, rpc) = asking();
    let other = stage.accept_client(1);
    stage.reply(other, rpc, value_of(block(7, b"right")));
    assert_eq!(stage.answer(client), success(7, b"right"));
}

#[test]
fn a_reply_of_another_type_is_dropped_and_ends_the_request() {
    for wrong in [Reply::Pong, crate::harness::stored(&block(7, b"v"))] {
        let (mut stage, client, conn, rpc) = asking();
        stage.reply(conn, rpc, wrong);
        assert_eq!(dropped(&stage), 1, "{wrong:?}");
        let (second, _) = stage.asked_once(conn);
        stage.reply(conn, second, wrong);
        assert_eq!((stage.answer(client), dropped(&stage)), (failure(7), 2), "asked twice, answered by neither");
        assert!(stage.knows(1));
    }
}

#[test]
fn a_reply_that_comes_twice_counts_once() {
    let (mut stage, client, conn, rpc) = asking();
    stage.reply(conn, rpc, value_of(block(7, b"v")));
    stage.reply(conn, rpc, value_of(block(7, b"w")));
    assert_eq!((stage.answer(client), dropped(&stage)), (success(7, b"v"), 1));
}

#[test]
fn a_contact_that_says_nothing_at_all_falls_asleep_and_the_search_goes_on_without_it() {
    let mut stage = Stage::among(Params::default(), [1]);
    let mute = stage.befriend(2);
    let helpful = stage.accept_client(3);
    stage.script(2);
    stage.pass(millis(1));
    let client = stage.put(crate::harness::confirmed(2, b"v"));
    stage.pass(secs(2));
    let copies = stage.copies();
    assert_eq!(copies.len(), 1, "the search ended without the mute one");
    assert_eq!(stage.at(copies[0].0), id(1));
    assert!(stage.has_closed(mute), "a connection that died without a word");
    assert!(!stage.knows(2));
    stage.reply(copies[0].0, copies[0].1, crate::harness::stored(&copies[0].2));
    assert_eq!(stage.answer(client), success(2, b""));
    assert_eq!(stage.ask(helpful, Request::FindNode { target: key(2) }), nodes(&[contact(1)]), "nor is it named");
}

/// Late but right still helps, as long as the search runs.
#[test]
fn a_late_answer_of_a_slow_peer_still_answers_the_get() {
    let (mut stage, client, conn, rpc) = asking();
    stage.pass(secs(1));
    assert_eq!(stage.ask(conn, Request::Ping), Reply::Pong, "it is there");
    stage.pass(secs(2));
    assert!(!stage.has_closed(conn));
    assert_eq!(stage.answer(client), None);
    stage.reply(conn, rpc, value_of(block(7, b"late")));
    assert_eq!((stage.answer(client), dropped(&stage)), (success(7, b"late"), 0));
}

#[test]
fn an_error_ends_the_request_and_is_no_failure_of_the_contact() {
    for code in [ErrorCode::OUT_OF_SCOPE, ErrorCode::TOO_MANY, ErrorCode::LEAVING, ErrorCode(999)] {
        let (mut stage, client, conn, rpc) = asking();
        stage.reply(conn, rpc, Reply::Error(code));
        while let Some((rpc, _)) = stage.asked(conn).pop() {
            stage.reply(conn, rpc, Reply::Error(code));
        }
        assert_eq!((stage.answer(client), dropped(&stage)), (failure(7), 0), "{code:?}");
        assert!(stage.knows(1));
    }
}

/// At most k contacts of a reply are used; duplicates, oneself, port 0, unroutable addresses and
/// families that cannot be dialled are dropped.
#[test]
fn contacts_that_cannot_be_meant_in_earnest_are_not_asked() {
    let mut stage = Stage::new(Params { families: Families::V4, alpha: 20, ..Params::default() });
    let conn = stage.befriend(1);
    stage.get(key(7));
    let (rpc, _) = stage.asked_once(conn);
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
    stage.reply(conn, rpc, nodes(&named));
    stage.dial_of(10);
    assert_eq!(stage.dials(), []);
    assert_eq!(stage.asked(conn), []);
}

#[test]
fn at_most_k_contacts_of_a_reply_are_used() {
    let mut stage = Stage::new(Params { k: 3, replication_default: 3, ..Params::default() });
    let conn = stage.befriend(1);
    stage.get(key(7));
    let (rpc, _) = stage.asked_once(conn);
    let named: Vec<Contact> = (20..30).chain([7]).map(contact).collect();
    stage.reply(conn, rpc, nodes(&named));
    let mut dials = stage.dials();
    for _ in 0..20 {
        for (dial, ..) in std::mem::take(&mut dials) {
            stage.fail(dial, DialError::Unreachable);
        }
        assert!(!stage.dials().iter().any(|(_, _, expect)| *expect == Some(id(7))), "the eleventh");
    }
}

/// What somebody says of a contact does not move it, and cannot cost it its place.
#[test]
fn a_contact_is_not_lost_because_somebody_named_it_at_a_wrong_address() {
    for error in [DialError::NotAuthentic, DialError::Unreachable] {
        let params = Params { k: 2, alpha: 1, replication_min: 1, replication_default: 2, ..Params::default() };
        let mut stage = Stage::new(params);
        let (liar, busy, victim) = (stage.befriend(1), stage.befriend(3), stage.befriend(200));
        stage.close(victim);
        stage.script(200);
        stage.get(key(1));
        let (rpc, _) = stage.asked_once(liar);
        let elsewhere = SocketAddr::from(([192, 0, 2, 66], PORT));
        stage.reply(liar, rpc, nodes(&[Contact::new(id(200), elsewhere)]));
        let (rpc, _) = stage.asked_once(busy);
        stage.reply(busy, rpc, Reply::Error(ErrorCode::LEAVING));
        for (dial, ..) in stage.dials() {
            stage.fail(dial, error);
        }
        assert!(stage.knows(200), "{error:?}");
    }
}

#[test]
fn whoever_is_really_gone_from_its_address_leaves_the_table() {
    let mut stage = Stage::among(Params::default(), [1]);
    let gone = stage.befriend(2);
    stage.script(2);
    stage.close(gone);
    let dial = stage.dial_of(2);
    stage.fail(dial, DialError::NotAuthentic);
    assert!(!stage.knows(2));
    assert_eq!(stage.node.table().len(), 1);
}

/// A flood of requests that nobody answers meets a bound, and each is answered all the same.
#[test]
fn requests_without_an_answer_are_bounded() {
    let mut stage = Stage::among(Params::default(), [1, 2, 3]);
    let clients: Vec<_> = (0..PENDING_MAX / 3 + 500).map(|_| stage.get(key(7))).collect();
    assert!(!stage.node.wants_requests(), "the host was told to stop long ago");
    assert_eq!(stage.node.requests(stage.now).0, PENDING_MAX);
    assert!(stage.node.counters().requests_dropped > 0);
    for peer in [1, 2, 3] {
        stage.script(peer);
    }
    stage.pass(secs(10));
    assert_eq!(clients.into_iter().filter(|client| stage.answer(*client).is_some()).count(), PENDING_MAX / 3 + 500);
    assert!(stage.node.wants_requests());
}

/// A quarter of `rpc_timeout` is longer than most take: another is asked meanwhile, and the late
/// answer still counts.
#[test]
fn while_an_answer_is_late_another_is_asked_and_the_late_one_counts() {
    let mut stage = Stage::among(Params { alpha: 1, ..Params::default() }, [6, 1]);
    stage.script(6);
    stage.script(1);
    let client = stage.get(key(7));
    let find = |request: &Request<'static>| matches!(request, Request::FindValue { .. }).then_some(());
    let first = stage.all_asked(find);
    let [(nearest, rpc, ())] = first[..] else { panic!("{first:?}") };
    assert_eq!(stage.at(nearest), id(6));
    stage.pass(millis(499));
    assert_eq!(stage.all_asked(find), []);
    stage.pass(millis(1));
    let second = stage.all_asked(find);
    let [(farther, other, ())] = second[..] else { panic!("{second:?}") };
    assert_eq!(stage.at(farther), id(1));
    stage.reply(farther, other, nodes(&[]));
    assert_eq!(stage.answer(client), None, "the nearest one may answer yet");
    stage.reply(nearest, rpc, value_of(block(7, b"late")));
    assert_eq!(stage.answer(client), success(7, b"late"));
}
