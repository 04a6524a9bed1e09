//! Nodes that have not settled: others may have replaced what they store, and may store what they lack.

use dht::id::RpcId;
use dht::limits::{JOIN_PATIENCE, START_PATIENCE};
use dht::node::Status;
use dht::node::action::{ConnId, DialError, Origin};
use dht::node::params::Params;
use dht::wire::peer::{FLAG_KNOWS_TENTATIVE, FLAG_UNSETTLED, Hello, PeerMessage, RecordBlock, Reply, Request, Want};

use crate::harness::{
    Harness, address, block, bootstrap, failure, greeting, head, id, key, millis, nodes, secs, success, value_of,
    version_at,
};
use crate::join::remembering;

/// A newcomer with the bootstraps 1 and 2, both of which it has dialled. The dial of 2 is in flight. The peer 1, which
/// says whether it has settled, has answered.
fn newcomer_that_met_one(says: u16) -> (Harness, ConnId) {
    let bootstraps = vec![bootstrap(1, None), bootstrap(2, None)];
    let mut harness = Harness::new(Params { bootstraps, ..Params::default() });
    harness.wake();
    let conn = meet(&mut harness, 1, says);
    for (rpc, request) in harness.requests(conn) {
        assert!(matches!(request, Request::FindNode { .. }));
        harness.reply(conn, rpc, nodes(&[]));
    }
    (harness, conn)
}

/// The dial of `peer` succeeds, and the peer sends a HELLO with the flags `says` beside the usual ones.
fn meet(harness: &mut Harness, peer: u8, says: u16) -> ConnId {
    let dial = harness.dial_of(peer);
    let conn = harness.secure(id(peer), address(peer), Origin::Dialled(dial));
    harness.send(conn, &PeerMessage::Hello(Hello { flags: greeting().flags | says, ..greeting() }));
    conn
}

#[test]
fn a_node_joins_at_once_through_a_peer_that_has_settled() {
    let (harness, _) = newcomer_that_met_one(0);
    assert_eq!(harness.node.status(), Status::Settling);
}

/// Both may have restarted together, and the other one has settled.
#[test]
fn a_node_that_has_met_only_peers_that_have_not_settled_waits_for_the_other_dials() {
    let (mut harness, _) = newcomer_that_met_one(FLAG_UNSETTLED);
    let reader = harness.get(key(1));
    harness.pass(millis(100));
    assert_eq!((harness.node.status(), harness.answer(reader)), (Status::Joining, None));
    meet(&mut harness, 2, 0);
    assert_eq!(harness.node.status(), Status::Settling);

    let (mut harness, _) = newcomer_that_met_one(FLAG_UNSETTLED);
    meet(&mut harness, 2, FLAG_UNSETTLED);
    assert_eq!(harness.node.status(), Status::Settling, "no other may answer");

    let (mut harness, _) = newcomer_that_met_one(FLAG_UNSETTLED);
    let dial = harness.dial_of(2);
    harness.fail(dial, DialError::Refused);
    assert_eq!(harness.node.status(), Status::Settling, "no other may answer");
}

/// Nodes of one network may start some seconds after each other: a refusal proves nothing yet.
#[test]
fn a_node_that_has_met_only_peers_that_have_not_settled_waits_for_all_that_it_remembers() {
    let mut harness = remembering([1, 2], Params::default());
    harness.wake();
    let conn = meet(&mut harness, 1, FLAG_UNSETTLED);
    harness.make_automatic(1);
    let dial = harness.dial_of(2);
    harness.fail(dial, DialError::Refused);
    assert_eq!(harness.ask(conn, Request::Ping), Reply::Pong);
    harness.pass(secs(3));
    assert_eq!(harness.node.status(), Status::Joining);
    harness.pass(secs(2));
    assert!(harness.node.status().has_joined());
}

#[test]
fn a_node_that_has_met_only_peers_that_have_not_settled_does_not_wait_long() {
    let (mut harness, _) = newcomer_that_met_one(FLAG_UNSETTLED);
    harness.make_automatic(1);
    let asker = harness.accept_client(9);
    harness.ask(asker, Request::Store(old()));
    let early = harness.get(key(5));
    harness.pass(START_PATIENCE);
    let late = harness.get(key(5));
    harness.pass(JOIN_PATIENCE.saturating_sub(START_PATIENCE + millis(1)));
    assert_eq!(harness.node.status(), Status::Joining);
    assert_eq!((harness.answer(early), harness.answer(late)), (None, None), "the record may be old");
    harness.pass(millis(1));
    assert!(harness.node.status().has_joined());
}

/// Those nearer to this node may have restarted together with it. Each of these may be the only one that has a record.
#[test]
fn a_settling_node_asks_peers_that_have_settled_for_their_records_first() {
    let all: &[u8] = &[1, 129, 130, 131, 132, 133];
    let cases: [(&[u8], &[u8]); 3] = [(&[1, 132, 133], &[1, 132, 133]), (&[1, 133], all), (&[1], all)];
    for (settled, expected) in cases {
        let mut harness = Harness::newcomer();
        harness.wake();
        meet(&mut harness, 1, 0);
        for peer in 129..=133 {
            let says = if settled.contains(&peer) { 0 } else { FLAG_UNSETTLED };
            let hello = Hello { flags: greeting().flags | says, ..greeting() };
            harness.add_contact_saying(peer, address(peer), hello);
            harness.make_scripted(peer);
        }
        let lookups = |harness: &mut Harness| {
            harness.all_requests(|request| matches!(request, Request::FindNode { .. }).then_some(()))
        };
        while let asked @ [_, ..] = &lookups(&mut harness)[..] {
            for (conn, rpc, ()) in asked {
                harness.reply(*conn, *rpc, nodes(&[]));
            }
        }
        harness.pass(millis(0));
        let syncs = harness.all_requests(|request| matches!(request, Request::Sync { .. }).then_some(()));
        let mut asked: Vec<u8> = syncs.iter().map(|(conn, ..)| harness.peer_at(*conn)).collect();
        asked.sort_unstable();
        assert_eq!(asked, expected, "{settled:?} have settled");
    }
}

/// The record of the key 5 that a settling node stores.
fn old() -> RecordBlock<'static> {
    RecordBlock { version: version_at(5), ..block(5, b"old") }
}

/// A settling node that stores a record of the key 5, which may be old. The peers 1 to 4 are its contacts.
fn settling() -> (Harness, Vec<ConnId>) {
    let (mut harness, first) = newcomer_that_met_one(0);
    let asker = harness.accept_client(9);
    harness.ask(asker, Request::Store(old()));
    let mut conns = vec![first, meet(&mut harness, 2, 0)];
    for peer in 3..=4 {
        conns.push(harness.add_contact(peer));
        harness.make_scripted(peer);
    }
    (harness, conns)
}

#[test]
fn what_a_settling_node_stores_is_tentative() {
    let (mut harness, _) = settling();
    let asker = harness.accept(8);
    let hello = Hello { flags: FLAG_KNOWS_TENTATIVE, port: 0, ..greeting() };
    harness.send(asker, &PeerMessage::Hello(hello));
    for (status, is_expected) in [(Status::Settling, true), (Status::Settled, false)] {
        assert_eq!(harness.node.status(), status);
        let found = harness.ask(asker, Request::FindValue { key: key(5), want: Want::default() });
        let Reply::Value { is_tentative, .. } = found else { panic!("{found:?}") };
        assert_eq!(is_tentative, is_expected, "{status:?}");
        (1..=4).for_each(|peer| harness.make_automatic(peer));
        harness.pass(secs(60));
    }
}

/// The requests for the value of the key 5 that the node has sent.
fn asked(harness: &mut Harness) -> Vec<(ConnId, RpcId)> {
    let asked = harness.all_requests(|request| matches!(request, Request::FindValue { .. }).then_some(()));
    asked.into_iter().map(|(conn, rpc, ())| (conn, rpc)).collect()
}

#[test]
fn the_own_record_of_a_settling_node_does_not_count_among_those_that_agree() {
    let (mut harness, conns) = settling();
    let reader = harness.get(key(5));
    let (first, others): (Vec<_>, Vec<_>) = asked(&mut harness).into_iter().partition(|(conn, _)| *conn == conns[0]);
    assert_eq!((first.len(), others.is_empty()), (1, false));
    harness.reply(conns[0], first[0].1, value_of(old()));
    assert_eq!(harness.answer(reader), None, "another one may store a newer record");
    let newer = RecordBlock { version: version_at(6), ..block(5, b"new") };
    for (conn, rpc) in others {
        harness.reply(conn, rpc, value_of(newer));
    }
    assert_eq!(harness.answer(reader), success(5, b"new"));
}

#[test]
fn a_settling_node_does_not_return_its_own_record_alone_while_its_peers_are_late() {
    let (mut harness, conns) = settling();
    let reader = harness.get(key(5));
    let tenths = u32::try_from(Params::default().request_timeout.as_millis() / 100).expect("small");
    for _ in 0..tenths {
        assert_eq!(harness.answer(reader), None);
        for conn in &conns {
            harness.send(*conn, &PeerMessage::Request(RpcId::new([7; 32]), Request::Ping)); // the peer lives
            for (rpc, request) in harness.requests(*conn) {
                if request == Request::Ping {
                    harness.reply(*conn, rpc, Reply::Pong);
                }
            }
        }
        harness.pass(millis(100));
    }
    assert_eq!(harness.answer(reader), failure(5));
}

#[test]
fn a_settling_node_returns_its_own_record_if_that_is_newer_than_what_peers_store() {
    let (mut harness, _) = settling();
    let older = RecordBlock { version: version_at(4), ..block(5, b"older") };
    let reader = harness.get(key(5));
    for _ in 0..3 {
        for (conn, rpc) in asked(&mut harness) {
            harness.reply(conn, rpc, value_of(head(older)));
        }
    }
    assert_eq!(harness.answer(reader), success(5, b"old"));
}
