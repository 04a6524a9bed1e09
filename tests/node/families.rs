//! Address families: replies that the asker can use, bridges, RELAY and BRIDGES (section 2, Address families).

use std::net::SocketAddr;

use dht::contact::{Contact, Family};
use dht::id::RpcId;
use dht::node::action::{ConnId, DialError, Origin};
use dht::node::params::{Families, Params};
use dht::wire::codec::List;
use dht::wire::peer::{
    Bridges, ErrorCode, FLAG_BRIDGE, FLAG_IPV4, FLAG_IPV6, FLAG_KNOWS_TENTATIVE, FLAG_SERVING, FLAG_TELLS_TIME, Hello,
    PeerMessage, Reply, Request, StoreOutcome,
};

use crate::harness::{
    Harness, Message, PORT, address, block, confirmed, contact, failure, greeting, id, key, millis, secs, stored,
    success,
};

const V4_ONLY: u16 = FLAG_SERVING | FLAG_TELLS_TIME | FLAG_KNOWS_TENTATIVE | FLAG_IPV4;
const V6_ONLY: u16 = FLAG_SERVING | FLAG_TELLS_TIME | FLAG_KNOWS_TENTATIVE | FLAG_IPV6;
const DUAL: u16 = FLAG_SERVING | FLAG_TELLS_TIME | FLAG_KNOWS_TENTATIVE | FLAG_IPV4 | FLAG_IPV6;
const BRIDGE: u16 = DUAL | FLAG_BRIDGE;

fn v6(n: u8) -> SocketAddr {
    SocketAddr::new(format!("fd00::{n:x}").parse().expect("an address"), PORT)
}

fn with_flags(flags: u16) -> Message {
    PeerMessage::Hello(Hello { flags, ..greeting() })
}

/// `peer` connects from `at`, announces `flags`, and is dialled back. It answers lookups automatically from then on.
fn meet(harness: &mut Harness, peer: u8, at: SocketAddr, flags: u16) -> ConnId {
    let first = harness.secure(id(peer), at, Origin::Accepted);
    harness.send(first, &with_flags(flags));
    let (dial, ..) = harness.dials()[0];
    harness.close(first);
    let conn = harness.secure(id(peer), at, Origin::Dialled(dial));
    harness.send(conn, &with_flags(flags));
    harness.sent(first);
    harness.sent(conn);
    harness.make_automatic(peer);
    conn
}

/// A dual-stack node with the IPv4-only peers 1 to 4 and the IPv6-only peers 5 to 8.
fn bridge() -> Harness {
    let mut harness = Harness::founder();
    for peer in 1..=8 {
        let (at, flags) = if peer <= 4 { (address(peer), V4_ONLY) } else { (v6(peer), V6_ONLY) };
        meet(&mut harness, peer, at, flags);
    }
    harness
}

/// An IPv4-only node that knows IPv4-only peers, and these bridges.
fn single(peers: impl IntoIterator<Item = u8>, bridges: impl IntoIterator<Item = u8>) -> Harness {
    let mut harness = Harness::new(Params { families: Families::V4, ..Params::default() });
    for peer in peers {
        meet(&mut harness, peer, address(peer), V4_ONLY);
    }
    for peer in bridges {
        meet(&mut harness, peer, address(peer), BRIDGE);
    }
    harness
}

/// The RELAYs sent: peer, connection, RPC id and family.
fn relays(harness: &mut Harness) -> Vec<(u8, ConnId, RpcId, Family)> {
    let relays = harness.all_requests(|request| match request {
        Request::Relay { family, .. } => Some(*family),
        _ => None,
    });
    relays.into_iter().map(|(conn, rpc, family)| (harness.peer_at(conn), conn, rpc, family)).collect()
}

/// Confirms all copies that were sent; returns the peers that got one.
fn store_all(harness: &mut Harness) -> Vec<u8> {
    let copies = harness.copies();
    for (conn, rpc, block) in &copies {
        harness.reply(*conn, *rpc, stored(block));
    }
    copies.iter().map(|(conn, ..)| harness.peer_at(*conn)).collect()
}

/// The reply of a bridge that has stored the record of the PUT of `key(n)`.
fn relayed(harness: &mut Harness, n: u8, relay: (u8, ConnId, RpcId, Family)) {
    let held = block(n, b"any").rank();
    harness.reply(relay.1, relay.2, Reply::Stored { key: key(n), outcome: StoreOutcome::Held, held });
}

fn named(reply: &Reply<'_>) -> Vec<u8> {
    let Reply::Nodes(contacts) = reply else { panic!("{reply:?} names no contacts") };
    contacts.iter().map(|contact| contact.id.key().as_bytes()[0]).collect()
}

#[test]
fn a_peer_is_told_only_of_contacts_that_it_can_dial() {
    let mut harness = bridge();
    for (peer, flags, expected) in [
        (20, V4_ONLY, vec![1, 3, 2, 4]),
        (21, V6_ONLY, vec![5, 7, 6, 8]),
        (22, DUAL, vec![1, 3, 2, 5, 4, 7, 6, 8]),
        (23, FLAG_SERVING, vec![1, 3, 2, 5, 4, 7, 6, 8]), // an older version
    ] {
        let conn = harness.accept(peer);
        harness.send(conn, &with_flags(flags & !FLAG_SERVING));
        let mut told = named(&harness.ask(conn, Request::FindNode { target: key(1) }));
        told.sort_unstable();
        let mut expected = expected;
        expected.sort_unstable();
        assert_eq!(told, expected, "flags {flags}");
    }
}

// ── the node of one family ───────────────────────────────────────────────────────────────────

#[test]
fn a_put_is_confirmed_only_when_a_bridge_has_stored_its_record_in_the_other_family() {
    let mut harness = single([1, 2], [3]);
    let client = harness.put(confirmed(1, b"value"));
    store_all(&mut harness);
    assert_eq!(harness.answer(client), None, "the other family lacks it");
    let relays = relays(&mut harness);
    assert_eq!(relays.iter().map(|(peer, .., family)| (*peer, *family)).collect::<Vec<_>>(), [(3, Family::V6)]);
    relayed(&mut harness, 1, relays[0]);
    assert_eq!(harness.answer(client), success(1, b""));
}

#[test]
fn a_bridge_that_answers_by_an_error_is_followed_by_the_next_one() {
    let mut harness = single([1, 2], [3, 4]);
    let client = harness.put(confirmed(1, b"value"));
    store_all(&mut harness);
    let first = relays(&mut harness);
    assert_eq!(first[0].0, 3, "it is closer to the key");
    harness.reply(first[0].1, first[0].2, Reply::Error(ErrorCode::SERVER_ERROR));
    let second = relays(&mut harness);
    assert_eq!(second[0].0, 4);
    relayed(&mut harness, 1, second[0]);
    assert_eq!(harness.answer(client), success(1, b""));
}

#[test]
fn the_late_answer_of_a_bridge_counts() {
    let mut harness = single([1, 2], [3]);
    let client = harness.put(confirmed(1, b"value"));
    store_all(&mut harness);
    let relay = relays(&mut harness)[0];
    harness.pass(secs(3));
    assert_eq!(harness.answer(client), None);
    assert_eq!(relays(&mut harness), [], "no other bridge is known");
    relayed(&mut harness, 1, relay);
    assert_eq!(harness.answer(client), success(1, b""));
}

#[test]
fn a_put_is_not_confirmed_while_all_bridges_fail_to_pass_it_on() {
    let mut harness = single([1, 2], [3]);
    let client = harness.put(confirmed(1, b"value"));
    for _ in 0..2 {
        store_all(&mut harness);
        let relay = relays(&mut harness)[0];
        harness.reply(relay.1, relay.2, Reply::Error(ErrorCode::SERVER_ERROR));
        harness.pass(secs(2));
        assert_eq!(harness.answer(client), None);
    }
    harness.pass(secs(10));
    assert_eq!(harness.answer(client), failure(1), "unknown, not done");
}

#[test]
fn a_node_that_has_lost_its_last_bridge_asks_its_peers_and_confirms_nothing_until_it_has_looked_for_another() {
    let mut harness = single([1, 2], [3]);
    harness.pass(secs(2)); // it has told its peers
    for peer in 1..=2 {
        harness.make_automatic(peer);
    }
    let conns: Vec<ConnId> = (1..=2).map(|peer| meet_again(&mut harness, peer)).collect();
    let bridge = meet_again(&mut harness, 3);
    harness.send(bridge, &PeerMessage::Goodbye);
    for conn in &conns {
        let asked = harness
            .sent(*conn)
            .into_iter()
            .any(|message| matches!(message, PeerMessage::Bridges(Bridges { known, .. }) if known.is_empty()));
        assert!(asked, "{conn:?} is asked");
    }
    let client = harness.put(confirmed(1, b"value"));
    store_all(&mut harness);
    assert_eq!(harness.answer(client), None, "another bridge may live");
    harness.pass(secs(4));
    store_all(&mut harness);
    assert_eq!(harness.answer(client), success(1, b""), "none is found: this family is the network");
}

/// A new connection to a peer that the node has dialled before.
fn meet_again(harness: &mut Harness, peer: u8) -> ConnId {
    let conn = harness.secure(id(peer), address(peer), Origin::Accepted);
    harness.send(conn, &with_flags(if peer == 3 { BRIDGE } else { V4_ONLY }));
    harness.sent(conn);
    conn
}

/// Three PUTs that run at the same time; none of their RELAYs is answered, but the bridge answers PING.
#[test]
fn requests_that_are_late_together_do_not_make_a_node_take_its_family_for_the_whole_network() {
    let mut harness = single([1, 2], [3]);
    let clients: Vec<_> = (1..=3).map(|n| harness.put(confirmed(n, b"value"))).collect();
    for _ in 0..4 {
        store_all(&mut harness);
        harness.pass(secs(2));
    }
    assert!(clients.iter().all(|client| harness.answer(*client).is_none()));
    relays(&mut harness);
    let later = harness.put(confirmed(4, b"value"));
    store_all(&mut harness);
    let relay = relays(&mut harness);
    assert_eq!(relay.iter().map(|(peer, ..)| *peer).collect::<Vec<_>>(), [3], "it is still asked");
    assert_eq!(harness.answer(later), None, "the other family exists");
    relayed(&mut harness, 4, relay[0]);
    assert_eq!(harness.answer(later), success(4, b""));
}

#[test]
fn a_bridge_that_is_late_is_pinged_and_keeps_its_connection_if_it_answers() {
    let mut harness = single([1, 2], [3]);
    let client = harness.put(confirmed(1, b"value"));
    store_all(&mut harness);
    let relay = relays(&mut harness)[0];
    harness.make_scripted(3);
    harness.pass(millis(2_100));
    let (ping, request) = harness.only_request(relay.1);
    assert_eq!(request, Request::Ping);
    harness.reply(relay.1, ping, Reply::Pong);
    harness.pass(secs(3));
    assert!(!harness.has_closed(relay.1));
    relayed(&mut harness, 1, relay);
    assert_eq!(harness.answer(client), success(1, b""));
}

#[test]
fn a_node_that_knows_another_bridge_prefers_it_to_one_that_was_late() {
    let mut harness = single([1, 2], [3, 4]);
    let client = harness.put(confirmed(1, b"value"));
    store_all(&mut harness);
    assert_eq!(relays(&mut harness)[0].0, 3, "it is closer to the key");
    harness.pass(millis(2_100));
    let second = relays(&mut harness)[0];
    relayed(&mut harness, 1, second);
    assert_eq!(harness.answer(client), success(1, b""));
    harness.put(confirmed(1, b"later"));
    store_all(&mut harness);
    assert_eq!(relays(&mut harness)[0].0, 4);
}

/// It answers nothing any more, and dials of it time out.
#[test]
fn no_put_is_confirmed_while_the_only_bridge_is_silent_until_it_is_given_up() {
    let mut harness = single([1, 2], [3]);
    harness.make_scripted(3);
    let answer_after = |harness: &mut Harness, n: u8, time: u64| {
        let client = harness.put(confirmed(n, b"value"));
        for _ in 0..time {
            store_all(harness);
            harness.pass(secs(1));
            for (dial, ..) in harness.dials() {
                harness.fail(dial, DialError::Unreachable);
            }
        }
        harness.answer(client)
    };
    assert_eq!(answer_after(&mut harness, 1, 11), failure(1), "unknown, not done");
    for n in 2..=4 {
        assert_eq!(answer_after(&mut harness, n, 11), failure(n), "it may run");
    }
    harness.pass(secs(30));
    assert_eq!(answer_after(&mut harness, 5, 3), success(5, b""), "this family is the network");
}

#[test]
fn no_put_is_confirmed_while_a_bridge_that_has_restarted_is_none_yet() {
    let mut harness = single([1, 2], []);
    let first = meet(&mut harness, 3, address(3), BRIDGE);
    harness.make_scripted(3);
    harness.close(first);
    for (dial, ..) in harness.dials() {
        harness.fail(dial, DialError::Refused);
    }
    let conn = harness.secure(id(3), address(3), Origin::Accepted);
    harness.send(conn, &with_flags(DUAL));
    harness.make_automatic(3);
    let client = harness.put(confirmed(1, b"value"));
    store_all(&mut harness);
    harness.pass(secs(5));
    store_all(&mut harness);
    assert_eq!((harness.answer(client), relays(&mut harness)), (None, vec![]));
    harness.send(conn, &PeerMessage::Bridges(Bridges { flags: BRIDGE, known: List::lend(&[]) }));
    store_all(&mut harness);
    harness.wake();
    let relay = relays(&mut harness)[0];
    relayed(&mut harness, 1, relay);
    assert_eq!(harness.answer(client), success(1, b""));
}

#[test]
fn a_put_that_misses_a_bridge_asks_the_next_one_that_is_found() {
    let mut harness = single([1, 2], [3]);
    let client = harness.put(confirmed(1, b"value"));
    store_all(&mut harness);
    relays(&mut harness);
    harness.pass(millis(2_100));
    assert_eq!(relays(&mut harness), [], "no other bridge is known");
    let accepted = harness.secure(id(4), address(4), Origin::Accepted);
    harness.send(accepted, &with_flags(BRIDGE));
    let dial = harness.dial_of(4);
    let bridge = harness.secure(id(4), address(4), Origin::Dialled(dial));
    harness.send(bridge, &with_flags(BRIDGE));
    let relay = relays(&mut harness)[0];
    assert_eq!(relay.0, 4);
    relayed(&mut harness, 1, relay);
    assert_eq!(harness.answer(client), success(1, b""));
}

#[test]
fn no_put_is_confirmed_while_a_node_dials_the_first_bridge_that_it_is_told() {
    let mut harness = single([1, 2], []);
    let conn = meet_again(&mut harness, 1);
    let known = [contact(9)];
    harness.send(conn, &PeerMessage::Bridges(Bridges { flags: V4_ONLY, known: List::lend(&known) }));
    let client = harness.put(confirmed(1, b"value"));
    store_all(&mut harness);
    assert_eq!(harness.answer(client), None, "it may be one");
    let dial = harness.dial_of(9);
    let bridge = harness.secure(id(9), address(9), Origin::Dialled(dial));
    harness.send(bridge, &with_flags(BRIDGE));
    harness.make_automatic(9);
    harness.pass(millis(1_500));
    store_all(&mut harness);
    let relay = relays(&mut harness)[0];
    relayed(&mut harness, 1, relay);
    assert_eq!(harness.answer(client), success(1, b""));
}

#[test]
fn a_wrong_address_of_a_bridge_that_refuses_says_nothing_about_it() {
    let small = Params {
        families: Families::V4,
        k: 1,
        alpha: 1,
        replication_default: 1,
        replication_min: 1,
        ..Params::default()
    };
    let mut harness = Harness::with_contacts(small, []);
    meet(&mut harness, 1, address(1), V4_ONLY);
    meet(&mut harness, 3, address(3), BRIDGE);
    assert!(!harness.knows(3), "the table has no room for it");
    let wrong = [Contact::new(id(3), address(77))];
    let conn = meet_again(&mut harness, 1);
    harness.send(conn, &PeerMessage::Bridges(Bridges { flags: V4_ONLY, known: List::lend(&wrong) }));
    for (dial, ..) in harness.dials() {
        harness.fail(dial, DialError::Refused);
    }
    harness.put(confirmed(1, b"value"));
    store_all(&mut harness);
    assert_eq!(relays(&mut harness).iter().map(|(peer, ..)| *peer).collect::<Vec<_>>(), [3]);
}

#[test]
fn a_node_dials_the_bridges_that_it_is_told_and_tells_them_to_others() {
    let mut harness = single([1, 2], []);
    let conn = meet_again(&mut harness, 1);
    let known = [contact(9), Contact::new(id(10), v6(10))];
    harness.send(conn, &PeerMessage::Bridges(Bridges { flags: V4_ONLY, known: List::lend(&known) }));
    let dial = harness.dial_of(9); // the only one: it cannot dial the other
    let bridge = harness.secure(id(9), address(9), Origin::Dialled(dial));
    harness.send(bridge, &with_flags(BRIDGE));
    harness.pass(secs(2));
    let told = harness.sent(conn).into_iter().find_map(|message| match message {
        PeerMessage::Bridges(bridges) => Some(bridges.known.iter().collect::<Vec<_>>()),
        _ => None,
    });
    assert_eq!(told, Some(vec![contact(9)]));
    let client = harness.accept(30);
    harness.send(client, &with_flags(FLAG_IPV4));
    let told = harness.sent(client).into_iter().any(|message| matches!(message, PeerMessage::Bridges(_)));
    assert!(told, "a newcomer is told at once");
    let older = harness.accept(31);
    harness.send(older, &with_flags(0));
    let told = harness.sent(older).into_iter().any(|message| matches!(message, PeerMessage::Bridges(_)));
    assert!(!told, "an older version does not know the message");
}

// ── the bridge ───────────────────────────────────────────────────────────────────────────────

#[test]
fn a_bridge_stores_a_relayed_record_in_the_other_family_and_answers_when_that_is_done() {
    let mut harness = bridge();
    let conn = harness.secure(id(1), address(1), Origin::Accepted);
    harness.send(conn, &with_flags(V4_ONLY));
    harness.sent(conn);
    let record = block(1, b"value");
    harness.send(conn, &PeerMessage::Request(RpcId::new([9; 32]), Request::Relay { family: Family::V6, record }));
    let replies = |harness: &mut Harness| {
        let sent = harness.sent(conn).into_iter();
        sent.filter_map(|message| match message {
            PeerMessage::Reply(_, reply) => Some(reply),
            _ => None,
        })
        .collect::<Vec<_>>()
    };
    assert_eq!(replies(&mut harness), [], "not yet");
    let mut peers = store_all(&mut harness);
    peers.sort_unstable();
    assert_eq!(peers, [5, 6, 7], "replication 3, in IPv6 only");
    assert_eq!(replies(&mut harness), [stored(&record)]);
    assert_eq!(relays(&mut harness), [], "it is sent on by STORE alone");
}

/// A bucket that is full of contacts of one family has no room for the other.
#[test]
fn a_bridge_reaches_a_family_for_which_its_table_has_no_room() {
    let small = Params { k: 2, alpha: 2, replication_default: 2, replication_min: 1, ..Params::default() };
    let mut harness = Harness::with_contacts(small, []);
    for peer in 1..=2 {
        meet(&mut harness, peer, address(peer), V4_ONLY);
    }
    for peer in 5..=6 {
        meet(&mut harness, peer, v6(peer), V6_ONLY);
        assert!(!harness.knows(peer), "the bucket is full");
    }
    let conn = harness.secure(id(1), address(1), Origin::Accepted);
    harness.send(conn, &with_flags(V4_ONLY));
    let request = Request::Relay { family: Family::V6, record: block(1, b"value") };
    harness.send(conn, &PeerMessage::Request(RpcId::new([9; 32]), request));
    let mut peers = store_all(&mut harness);
    peers.sort_unstable();
    assert_eq!(peers, [5, 6]);
    assert_eq!(named(&harness.ask(conn, Request::FindNode { target: key(5) })), [2], "those are not for this one");
}

/// Two nodes of IPv6 are closer to the key 1 than this node, which with k = 1 makes it out of scope; of IPv4
/// there is none.
#[test]
fn a_bridge_accepts_a_record_of_which_it_is_a_replica_in_one_family() {
    let small = Params { k: 1, alpha: 1, replication_default: 1, replication_min: 1, ..Params::default() };
    let mut harness = Harness::with_contacts(small, []);
    for peer in [1, 129] {
        meet(&mut harness, peer, v6(peer), V6_ONLY);
    }
    let conn = harness.accept_client(9);
    assert_eq!(harness.ask(conn, Request::Store(block(1, b"v"))), Reply::Error(ErrorCode::OUT_OF_SCOPE));
    meet(&mut harness, 160, address(160), V4_ONLY);
    assert_eq!(harness.ask(conn, Request::Store(block(1, b"v"))), stored(&block(1, b"v")));
}

/// A leaving node hands its records over, and a replica offers them, to the closest nodes of each family.
#[test]
fn a_bridge_that_leaves_offers_its_records_in_both_families() {
    let mut harness = bridge();
    let conn = harness.accept_client(30);
    assert_eq!(harness.ask(conn, Request::Store(block(1, b"v"))), stored(&block(1, b"v")));
    harness.act(dht::node::Node::leave);
    harness.pass(millis(100));
    let mut offered: Vec<u8> = harness.offers().iter().map(|(conn, ..)| harness.peer_at(*conn)).collect();
    offered.sort_unstable();
    assert_eq!(offered, [1, 2, 3, 5, 6, 7], "replication 3");
}

#[test]
fn a_bridge_stores_the_puts_of_its_clients_in_both_families() {
    let mut harness = bridge();
    let client = harness.put(dht::wire::api::Put { replication: 3, ..confirmed(1, b"value") });
    let copies = harness.copies();
    let mut peers: Vec<u8> = copies.iter().map(|(conn, ..)| harness.peer_at(*conn)).collect();
    peers.sort_unstable();
    assert_eq!(peers, [1, 2, 3, 5, 6, 7]);
    for (conn, rpc, block) in copies {
        assert_eq!(harness.answer(client), None);
        harness.reply(conn, rpc, stored(&block));
    }
    assert_eq!(harness.answer(client), success(1, b""));
}

#[test]
fn a_bridge_that_reaches_no_node_of_the_other_family_says_so() {
    let mut harness = bridge();
    let conn = harness.secure(id(1), address(1), Origin::Accepted);
    harness.send(conn, &with_flags(V4_ONLY));
    harness.sent(conn);
    let request = Request::Relay { family: Family::V6, record: block(1, b"value") };
    harness.send(conn, &PeerMessage::Request(RpcId::new([9; 32]), request));
    for (to, rpc, _) in harness.copies() {
        harness.reply(to, rpc, Reply::Error(ErrorCode::FULL));
    }
    for (to, rpc, _) in harness.copies() {
        harness.reply(to, rpc, Reply::Error(ErrorCode::FULL));
    }
    let reply = PeerMessage::Reply(RpcId::new([9; 32]), Reply::Error(ErrorCode::SERVER_ERROR));
    assert!(harness.sent(conn).contains(&reply));
}

#[test]
fn a_node_whose_contacts_share_a_family_is_no_bridge() {
    let mut harness = Harness::founder();
    for (peer, flags) in [(1, V4_ONLY), (2, DUAL), (3, V4_ONLY)] {
        meet(&mut harness, peer, address(peer), flags);
    }
    meet(&mut harness, 4, v6(4), DUAL);
    let conn = harness.accept(30);
    harness.send(conn, &with_flags(FLAG_IPV4));
    let request = Request::Relay { family: Family::V6, record: block(1, b"value") };
    assert_eq!(harness.ask(conn, request), Reply::Error(ErrorCode::OUT_OF_SCOPE));
    harness.pass(secs(5));
    assert!(harness.sent(conn).iter().all(|message| !matches!(message, PeerMessage::Bridges(_))));
}

#[test]
fn a_node_becomes_a_bridge_by_its_own_dials_and_tells_its_peers() {
    let mut harness = Harness::founder();
    meet(&mut harness, 1, address(1), V4_ONLY);
    let told = |harness: &mut Harness, conn| {
        harness.sent(conn).into_iter().find_map(|message| match message {
            PeerMessage::Bridges(bridges) => Some(bridges.flags),
            _ => None,
        })
    };
    let conn = harness.secure(id(1), address(1), Origin::Accepted);
    harness.send(conn, &with_flags(V4_ONLY));
    harness.sent(conn);
    let other = harness.secure(id(5), v6(5), Origin::Accepted);
    harness.send(other, &with_flags(V6_ONLY));
    harness.pass(secs(2));
    assert_eq!(told(&mut harness, conn), None, "it has not dialled an IPv6-only node");
    let (dial, ..) = harness.dials()[0];
    let dialled = harness.secure(id(5), v6(5), Origin::Dialled(dial));
    harness.send(dialled, &with_flags(V6_ONLY));
    harness.pass(secs(2));
    assert_eq!(told(&mut harness, conn), Some(BRIDGE));
    harness.send(dialled, &PeerMessage::Goodbye);
    harness.pass(secs(12));
    assert_eq!(told(&mut harness, conn), Some(DUAL), "the only IPv6-only node has left");
}

// ── a family that does not work ──────────────────────────────────────────────────────────────

#[test]
fn a_family_in_which_only_dials_failed_is_announced_no_more_and_not_dialled_by_lookups() {
    let mut harness = Harness::with_contacts(Params::default(), [1]);
    let flags = |harness: &mut Harness, peer| {
        let conn = harness.accept(peer);
        let hello = harness.sent(conn).into_iter().find_map(|message| match message {
            PeerMessage::Hello(hello) => Some(hello.flags),
            _ => None,
        });
        hello.expect("a HELLO")
    };
    for peer in 40..44 {
        assert_eq!(flags(&mut harness, peer + 20), DUAL, "before the dial of {peer}");
        let conn = harness.secure(id(peer), v6(peer), Origin::Accepted);
        harness.send(conn, &with_flags(DUAL));
        let (dial, ..) = harness.dials()[0];
        harness.fail(dial, DialError::Unreachable);
    }
    assert_eq!(flags(&mut harness, 70), V4_ONLY);
    harness.make_scripted(1);
    harness.get(key(90));
    harness.answer_find_value(|_, _| Some(Reply::Nodes(List::lend(unreachable()))));
    assert_eq!(harness.dials(), []);
}

/// A contact at an IPv6 address.
fn unreachable() -> &'static [Contact] {
    Box::leak(Box::new([Contact::new(id(90), v6(90))]))
}
