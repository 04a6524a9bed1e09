//! The clocks that peers have told are asked again, because hosts start with wrong clocks and set them soon after
//! (section 3, Clocks).

use dht::node::Status;
use dht::node::action::ConnId;
use dht::node::params::Params;
use dht::time::WallTime;
use dht::wire::api::{ApiReply, Put};
use dht::wire::codec::List;
use dht::wire::peer::{
    Entry, ErrorCode, FLAG_SERVING, FLAG_TELLS_TIME, Hello, PeerMessage, RecordBlock, Reply, Request,
};

use crate::clock::HOUR_MILLIS;
use crate::harness::{
    Harness, block, confirmed, failure, given, greeting, key, millis, nodes, secs, stored, success, version_at,
};
use crate::missed::{asker, is_tentative};

const FLAGS: u16 = FLAG_SERVING | FLAG_TELLS_TIME;

/// The wall clock that shows so many milliseconds after the start of the test.
fn wall(ahead: u64) -> WallTime {
    WallTime::from_millis(version_at(ahead).time().as_millis())
}

/// A node whose clock is an hour fast, and its contacts `peers`, whose clocks were fast by `ahead` milliseconds.
fn fast_with(peers: &[u8], ahead: u64) -> Harness {
    let mut harness = Harness::new(Params::default());
    harness.wall_ahead = HOUR_MILLIS;
    for &peer in peers {
        let at = std::net::SocketAddr::from(([198, 51, peer, 1], 7402));
        harness.add_contact_saying(peer, at, Hello { flags: FLAGS, wall: wall(ahead), ..greeting() });
    }
    harness
}

/// A node whose clock is an hour ahead of those of its three contacts.
fn with_slow_peers() -> Harness {
    fast_with(&[1, 2, 3], 0)
}

/// Whether a PUT sends copies. This node refuses PUTs while most peers call its clock fast.
fn takes_puts(harness: &mut Harness) -> bool {
    harness.put(confirmed(9, b"v"));
    !harness.copies().is_empty()
}

/// The peers that are asked for the time, and the requests.
fn asked_for_time(harness: &mut Harness) -> Vec<(ConnId, dht::id::RpcId, ())> {
    harness.all_requests(|request| matches!(request, Request::Time).then_some(()))
}

#[test]
fn peers_whose_clocks_differ_are_asked_again_after_some_seconds() {
    let mut harness = with_slow_peers();
    assert!(!takes_puts(&mut harness));
    harness.pass(secs(6));
    let asked = asked_for_time(&mut harness);
    assert_eq!(asked.len(), 3);
    for (conn, rpc, ()) in asked {
        harness.reply(conn, rpc, Reply::Time(wall(HOUR_MILLIS + 6_000)));
    }
    assert!(takes_puts(&mut harness));
    harness.pass(secs(60));
    assert!(asked_for_time(&mut harness).is_empty(), "their clocks agree now");
}

/// A peer that restarts dials this node, so this node does not dial it.
#[test]
fn the_clock_of_a_peer_that_this_node_had_dialled_counts_when_that_peer_dials() {
    let mut harness = with_slow_peers();
    for peer in [1, 2] {
        let conn = harness.accept(peer);
        harness.send(conn, &PeerMessage::Hello(Hello { flags: FLAGS, wall: wall(HOUR_MILLIS), ..greeting() }));
    }
    assert!(takes_puts(&mut harness));
}

fn older() -> RecordBlock<'static> {
    RecordBlock { replication: 4, ..block(1, b"older") }
}

fn newer() -> RecordBlock<'static> {
    RecordBlock { replication: 4, version: version_at(HOUR_MILLIS), ..block(1, b"newer") }
}

fn refuse_copy(harness: &mut Harness, asker: ConnId) {
    assert_eq!(harness.ask(asker, Request::Store(newer())), Reply::Error(ErrorCode::TOO_EARLY));
}

fn refuse_offer(harness: &mut Harness, asker: ConnId) {
    let offered = [Entry { key: key(1), rank: newer().rank(), crc: newer().crc }];
    assert_eq!(harness.ask(asker, Request::Offer(List::lend(&offered))), Reply::Error(ErrorCode::TOO_EARLY));
}

/// The peers may be wrong: then others store the newer record.
#[test]
fn a_record_whose_successor_is_refused_because_peers_call_the_clock_fast_is_tentative_and_not_returned_alone() {
    for refuse in [refuse_copy, refuse_offer] {
        let mut harness = with_slow_peers();
        harness.pass(secs(2));
        assert_eq!(harness.node.status(), Status::Settled);
        let asker = asker(&mut harness);
        assert_eq!(harness.ask(asker, Request::Store(older())), stored(&older()));
        let reader = harness.get(key(1));
        assert_eq!(harness.answer(reader), success(1, b"older"));
        refuse(&mut harness, asker);
        assert!(is_tentative(&mut harness, asker));
        (1..=3).for_each(|peer| harness.make_scripted(peer));
        let reader = harness.get(key(1));
        assert_eq!(harness.answer(reader), None);
        harness.answer_find_value(|peer, want| Some(if peer < 3 { given(newer(), want) } else { nodes(&[]) }));
        assert_eq!(harness.answer(reader), success(1, b"newer"));
    }
}

/// A node whose clock was set asks for the time.
#[test]
fn a_peer_that_asks_for_the_time_is_asked_back_unless_it_has_told_it_just_now() {
    let mut harness = Harness::new(Params::default());
    let at = std::net::SocketAddr::from(([198, 51, 1, 1], 7402));
    let conn = harness.add_contact_saying(1, at, Hello { flags: FLAGS, ..greeting() });
    for (passed, is_asked) in [(400, false), (200, true)] {
        harness.pass(millis(passed));
        assert!(matches!(harness.ask(conn, Request::Time), Reply::Time(_)));
        harness.wake();
        assert_eq!(!asked_for_time(&mut harness).is_empty(), is_asked, "{passed}");
    }
}

/// One of three peers stores the copies of the PUT; the others refuse them because of its version.
fn contradict(harness: &mut Harness) {
    loop {
        let copies = harness.copies();
        if copies.is_empty() {
            return;
        }
        for (conn, rpc, copy) in copies {
            let is_refused = harness.peer_at(conn) > 1;
            let answer = if is_refused { Reply::Error(ErrorCode::TOO_EARLY) } else { stored(&copy) };
            harness.reply(conn, rpc, answer);
        }
    }
}

/// The clocks of this node and of three peers were an hour fast together. A minute later two peers contradict a PUT, so
/// all three are asked again, and say that their clocks are `ahead` milliseconds fast. Returns the answer of the PUT.
fn answer_of_contradicted_put(ahead: u64) -> Option<ApiReply<'static>> {
    let mut harness = fast_with(&[1, 2, 3], HOUR_MILLIS);
    harness.pass(secs(60));
    let client = harness.put(Put { replication: 3, ..confirmed(1, b"v") });
    contradict(&mut harness);
    assert_eq!(harness.answer(client), None);
    harness.wake();
    let asked = asked_for_time(&mut harness);
    assert_eq!(asked.len(), 3);
    for (conn, rpc, ()) in asked {
        harness.reply(conn, rpc, Reply::Time(wall(ahead + 60_000)));
    }
    harness.pass(secs(1));
    contradict(&mut harness);
    harness.answer(client)
}

#[test]
fn what_peers_said_long_ago_does_not_confirm_a_put_that_others_contradict() {
    assert_eq!(answer_of_contradicted_put(0), failure(1));
}

#[test]
fn what_peers_say_now_confirms_a_put_that_others_contradict() {
    assert_eq!(answer_of_contradicted_put(HOUR_MILLIS), success(1, b""));
}

/// Two peers do not show whose clock is wrong. If the older value came back here, this node and the peer would differ.
#[test]
fn a_put_that_a_peer_stores_and_another_refuses_fails_and_is_read_where_it_is_stored() {
    let mut harness = fast_with(&[1, 2], HOUR_MILLIS);
    let client = harness.put(confirmed(1, b"old"));
    for (conn, rpc, copy) in harness.copies() {
        harness.reply(conn, rpc, stored(&copy));
    }
    assert_eq!(harness.answer(client), success(1, b""));
    harness.pass(secs(1));
    let client = harness.put(confirmed(1, b"new"));
    contradict(&mut harness);
    assert_eq!(harness.answer(client), failure(1));
    let found = harness.node.storage().find(harness.now, &key(1)).map(|held| held.record.value.to_vec());
    assert_eq!(found.as_deref(), Some(&b"new"[..]));
}
