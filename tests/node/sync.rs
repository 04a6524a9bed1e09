//! SYNC: a settling node learns from its neighbours what it missed (section 2: SYNC, Settled).

use std::time::Duration;

use dht::id::{Key, RpcId};
use dht::limits::{ROUND_AFTER_CUT_OFF, SETTLE_MAX, SETTLE_PAUSE, SETTLE_TIMEOUT, STRAY_PAUSE};
use dht::node::Status;
use dht::node::action::ConnId;
use dht::record::{Age, Class, Life, Rank, Ttl, Version, crc_of};
use dht::wire::codec::List;
use dht::wire::peer::{Content, Entry, ErrorCode, PeerMessage, RecordBlock, Reply, Request, Want};

use crate::harness::{
    Harness, block, hello, id, key, millis, nodes, secs, stored, success, synced, value_of, version_at,
};

fn entry(n: u8, millis: u64, value: &[u8], life: Life) -> Entry {
    let rank = Rank { class: Class::Plain, life, version: version_at(millis) };
    Entry { key: key(n), rank, crc: crc_of(value) }
}

/// A newcomer that holds a record of the key 5. Its only contact is the peer 1, to which it has just sent
/// a SYNC.
fn settling() -> (Harness, ConnId) {
    let mut harness = Harness::newcomer();
    harness.wake();
    let asker = harness.accept_client(9);
    harness.ask(asker, Request::Store(block(5, b"old")));
    let dial = harness.dial_of(1);
    let conn = harness.complete_dial(dial, 1);
    let (rpc, _) = harness.only_request(conn);
    harness.reply(conn, rpc, nodes(&[]));
    harness.pass(millis(0));
    (harness, conn)
}

#[test]
fn a_newcomer_syncs_with_its_neighbour_and_settles_after_the_last_page() {
    let (mut harness, conn) = settling();
    let (rpc, request) = harness.only_request(conn);
    assert_eq!(request, Request::Sync { from: key(0), to: key(255) }, "with fewer than k contacts, all of it");
    assert_eq!(harness.node.status(), Status::Settling);
    harness.reply(conn, rpc, synced(&[]));
    harness.pass(millis(0));
    assert_eq!(harness.node.status(), Status::Settled);
}

#[test]
fn larger_records_of_a_neighbour_are_fetched_before_the_node_settles() {
    let (mut harness, conn) = settling();
    let (rpc, _) = harness.only_request(conn);
    harness.reply(conn, rpc, synced(&[entry(5, 1, b"new", Life::Alive), entry(6, 0, b"other", Life::Alive)]));
    harness.pass(millis(0));
    let asked = harness.requests(conn);
    let fetch = |n| Request::FindValue { key: key(n), want: Want { catching_up: true, ..Want::default() } };
    assert_eq!(asked.iter().map(|(_, request)| *request).collect::<Vec<_>>(), [fetch(5), fetch(6)]);
    let newer = RecordBlock { version: version_at(1), ..block(5, b"new") };
    harness.reply(conn, asked[0].0, value_of(newer));
    harness.pass(millis(0));
    assert_eq!(harness.node.status(), Status::Settling);
    harness.reply(conn, asked[1].0, nodes(&[]));
    harness.pass(millis(0));
    assert_eq!(harness.node.status(), Status::Settled);
    let reader = harness.get(key(5));
    assert_eq!(harness.answer(reader), success(5, b"new"));
}

#[test]
fn records_that_a_neighbour_holds_too_are_not_fetched() {
    let (mut harness, conn) = settling();
    let (rpc, _) = harness.only_request(conn);
    harness.reply(conn, rpc, synced(&[entry(5, 0, b"old", Life::Alive)]));
    harness.pass(millis(0));
    assert_eq!(harness.node.status(), Status::Settled);
    assert_eq!(harness.requests(conn), []);
}

#[test]
fn records_that_no_neighbour_holds_are_offered_once_the_node_has_settled() {
    let (mut harness, conn) = settling();
    let (rpc, _) = harness.only_request(conn);
    harness.reply(conn, rpc, synced(&[]));
    harness.pass(millis(0));
    let offers = harness.offers();
    assert_eq!((offers.len(), &offers[0].2[..]), (1, &[entry(5, 0, b"old", Life::Alive)][..]));
}

/// The neighbour may know that it is over, and not its key.
#[test]
fn a_record_that_a_page_does_not_list_is_offered_to_the_neighbour_at_once_if_its_version_is_old() {
    for (minutes, listed, is_offered) in [(20, 9, true), (20, 5, false), (20, 3, false), (10, 9, false)] {
        let (mut harness, conn) = settling();
        let asker = harness.accept_client(9);
        let version = Version::from_bits(version_at(0).bits() - ((minutes * 60_000) << 16));
        let minutes = u32::try_from(minutes).expect("a small number");
        let ttl = Ttl::from_secs(u16::MAX).expect("not zero");
        for n in [2, 4] {
            let lasting = RecordBlock { version, ttl, age: Age(minutes * 60_000), ..block(n, b"v") };
            assert_eq!(harness.ask(asker, Request::Store(lasting)), stored(&lasting));
        }
        let (rpc, _) = harness.only_request(conn);
        let known = |n| Entry {
            rank: Rank { class: Class::Plain, life: Life::Alive, version },
            ..entry(n, 0, b"v", Life::Alive)
        };
        let page: Vec<Entry> = [2, 4].into_iter().filter(|n| *n != 4 || listed == 5).map(known).collect();
        let page = [page, vec![entry(listed, 0, b"", Life::Over)]].concat();
        harness.reply(conn, rpc, Reply::Synced { more: true, entries: List::lend(&page) });
        harness.pass(millis(0));
        assert_eq!(harness.node.status(), Status::Settling);
        let offers = harness.offers();
        let offered: Vec<_> = offers.iter().map(|(to, _, entries)| (*to, entries.clone())).collect();
        assert_eq!(offered, if is_offered { vec![(conn, vec![known(4)])] } else { vec![] }, "{minutes} {listed}");
    }
}

#[test]
fn a_tombstone_of_a_neighbour_removes_the_plain_record_unless_it_is_from_the_far_future() {
    for (over, left) in [(0, 0), (1, 0), (600_001, 1)] {
        let (mut harness, conn) = settling();
        let (rpc, _) = harness.only_request(conn);
        harness.reply(conn, rpc, synced(&[entry(5, over, b"", Life::Over)]));
        harness.pass(millis(0));
        assert_eq!(harness.node.storage().len(), left, "{over} ms ahead");
    }
}

#[test]
fn a_fetched_record_that_does_not_verify_is_discarded() {
    let (mut harness, conn) = settling();
    let (rpc, _) = harness.only_request(conn);
    let rank = Rank { class: Class::Hashed, life: Life::Alive, version: dht::record::Version::from_bits(0) };
    harness.reply(conn, rpc, synced(&[Entry { rank, ..entry(5, 0, b"forged", Life::Alive) }]));
    harness.pass(millis(0));
    let (rpc, _) = harness.only_request(conn);
    let forged = RecordBlock { class: Class::Hashed, version: rank.version, ..block(5, b"forged") };
    harness.reply(conn, rpc, value_of(forged));
    harness.pass(millis(0));
    assert_eq!(harness.node.status(), Status::Settled);
    let reader = harness.get(key(5));
    assert_eq!(harness.answer(reader), success(5, b"old"));
}

#[test]
fn the_next_page_is_requested_until_the_last() {
    let (mut harness, conn) = settling();
    let (rpc, _) = harness.only_request(conn);
    let page = [entry(5, 0, b"old", Life::Alive)];
    harness.reply(conn, rpc, Reply::Synced { more: true, entries: List::lend(&page) });
    harness.pass(millis(0));
    let (rpc, request) = harness.only_request(conn);
    let from = key(5).successor().expect("not the last");
    assert_eq!(request, Request::Sync { from, to: key(255) });
    harness.reply(conn, rpc, Reply::Synced { more: true, entries: List::lend(&page) });
    harness.pass(millis(0));
    assert_eq!(harness.node.status(), Status::Settled, "a page that repeats entries ends the SYNC");
}

#[test]
fn a_neighbour_whose_pages_never_end_delays_settling_by_settle_timeout_at_most() {
    let (mut harness, conn) = settling();
    for n in 10..10 + u8::try_from(SETTLE_TIMEOUT.as_secs()).expect("a short while") {
        assert_eq!(harness.node.status(), Status::Settling);
        for (rpc, request) in harness.requests(conn) {
            let page = [entry(n, 0, b"", Life::Over)];
            let reply = match request {
                Request::Sync { .. } => Reply::Synced { more: true, entries: List::lend(&page) },
                _ => nodes(&[]),
            };
            harness.reply(conn, rpc, reply);
        }
        harness.pass(secs(1));
    }
    assert_eq!(harness.node.status(), Status::Settled);
}

fn numbered(n: u16) -> Key {
    Key::new([n.to_be_bytes(); 16].concat().try_into().expect("32 bytes"))
}

/// The neighbour sends a page with one key each second, and the missing record of every 20th key, up to `last` seconds.
#[test]
fn a_node_settles_30_s_after_the_last_record_that_it_has_fetched_and_after_10_minutes_at_most() {
    for last in [10, 30, 50, 1_000] {
        let (mut harness, conn) = settling();
        let begin = harness.now;
        let mut fetched = begin;
        for second in 0.. {
            let end = (fetched + SETTLE_TIMEOUT).min(begin + SETTLE_MAX);
            if harness.now >= end {
                break;
            }
            assert_eq!(harness.node.status(), Status::Settling, "{last}: after {second} s");
            let life = if second % 20 == 0 && 0 < second && second <= last { Life::Alive } else { Life::Over };
            let page = [Entry { key: numbered(second), ..entry(1, 1, b"new", life) }];
            for (rpc, request) in harness.requests(conn) {
                let reply = match request {
                    Request::Sync { .. } => Reply::Synced { more: true, entries: List::lend(&page) },
                    Request::FindValue { key, .. } => {
                        fetched = harness.now;
                        value_of(RecordBlock { key, version: version_at(1), ..block(1, b"new") })
                    }
                    _ => nodes(&[]),
                };
                harness.reply(conn, rpc, reply);
            }
            harness.pass(secs(1));
        }
        assert_eq!(harness.node.status(), Status::Settled, "{last}");
    }
}

/// Section 2, Settled.
#[test]
fn a_node_that_settles_early_does_not_return_alone_what_it_knows_to_be_replaced() {
    let (mut harness, conn) = settling();
    let newer = [entry(5, 1, b"new", Life::Alive)];
    for _ in 0..SETTLE_TIMEOUT.as_secs() {
        assert_eq!(harness.node.status(), Status::Settling);
        for (rpc, request) in harness.requests(conn) {
            match request {
                Request::Sync { .. } => harness.reply(conn, rpc, synced(&newer)),
                Request::Ping => harness.reply(conn, rpc, Reply::Pong),
                _ => {} // the record does not come
            }
        }
        assert_eq!(harness.ask(conn, Request::Ping), Reply::Pong, "the peer lives");
        harness.pass(secs(1));
    }
    assert_eq!(harness.node.status(), Status::Settled);
    let client = harness.get(key(5));
    assert_eq!(harness.answer(client), None, "it asks others");
}

#[test]
fn a_record_that_comes_late_is_asked_for_again_while_the_node_settles() {
    let (mut harness, conn) = settling();
    let (rpc, _) = harness.only_request(conn);
    harness.reply(conn, rpc, synced(&[entry(6, 0, b"other", Life::Alive)]));
    let mut fetches = Vec::new();
    for _ in 0..110 {
        harness.pass(millis(100));
        assert_eq!(harness.node.status(), Status::Settling, "the record is missing still");
        for (rpc, request) in harness.requests(conn) {
            match request {
                Request::Ping => harness.reply(conn, rpc, Reply::Pong),
                Request::FindValue { .. } => fetches.push(rpc),
                _ => {}
            }
        }
        assert_eq!(harness.ask(conn, Request::Ping), Reply::Pong, "the peer lives");
    }
    assert_eq!(fetches.len(), 2);
    for rpc in fetches {
        harness.reply(conn, rpc, value_of(block(6, b"other")));
    }
    harness.pass(millis(0));
    assert_eq!(harness.node.status(), Status::Settled);
}

#[test]
fn a_neighbour_that_does_not_know_sync_does_not_delay_settling() {
    let (mut harness, conn) = settling();
    let (rpc, _) = harness.only_request(conn);
    harness.reply(conn, rpc, Reply::Error(ErrorCode::SERVER_ERROR));
    harness.pass(millis(0));
    assert_eq!(harness.node.status(), Status::Settled, "there is no other neighbour");
}

/// The local record may be stale, so the node asks its peers first.
#[test]
fn a_settling_node_asks_its_peers_before_it_serves_a_local_record() {
    let (mut harness, conn) = settling();
    harness.requests(conn);
    let reader = harness.get(key(5));
    assert_eq!(harness.answer(reader), None);
    let (rpc, request) = harness.only_request(conn);
    assert!(matches!(request, Request::FindValue { .. }));
    let newer = RecordBlock { version: version_at(1), ..block(5, b"new") };
    harness.reply(conn, rpc, value_of(newer));
    assert_eq!(harness.answer(reader), success(5, b"new"));
}

#[test]
fn a_node_goes_on_settling_while_all_neighbours_are_slow() {
    let (mut harness, conn) = settling();
    let conns: Vec<ConnId> = [conn].into_iter().chain((2..=4).map(|peer| harness.add_contact(peer))).collect();
    (2..=4).for_each(|peer| harness.make_scripted(peer));
    for _ in 0..90 {
        for conn in &conns {
            for (rpc, request) in harness.requests(*conn) {
                if request == Request::Ping {
                    harness.reply(*conn, rpc, Reply::Pong);
                }
            }
            assert_eq!(harness.ask(*conn, Request::Ping), Reply::Pong, "the peer lives");
        }
        harness.pass(millis(100));
        assert_eq!(harness.node.status(), Status::Settling);
    }
}

#[test]
fn a_node_settles_later_because_of_records_that_neighbours_send_by_themselves() {
    let (mut harness, conn) = settling();
    for second in 0..60 {
        assert_eq!(harness.node.status(), Status::Settling, "after {second} s");
        let key = numbered(second);
        let offered = [Entry { key, ..entry(1, 1, b"new", Life::Alive) }];
        let over = [Entry { key, ..entry(1, 1, b"", Life::Over) }];
        for (rpc, request) in harness.requests(conn) {
            let is_sync = matches!(request, Request::Sync { .. });
            let page = Reply::Synced { more: true, entries: List::lend(&over) };
            harness.reply(conn, rpc, if is_sync { page } else { nodes(&[]) });
        }
        if second == 25 {
            let wanted = harness.ask(conn, Request::Offer(List::lend(&offered)));
            assert_eq!(wanted, Reply::Wanted(List::lend(&[key])));
            let record = RecordBlock { key, version: version_at(1), ..block(1, b"new") };
            harness.send(conn, &PeerMessage::Request(RpcId::new([7; 32]), Request::Store(record)));
        }
        harness.pass(secs(1));
        if second == 54 {
            return assert_eq!(harness.node.status(), Status::Settled, "30 s after the last");
        }
    }
}

#[test]
fn a_page_lists_records_and_tombstones_in_the_order_of_keys() {
    let mut harness = Harness::founder();
    let asker = harness.accept_client(9);
    for n in [7, 3, 5] {
        let age = dht::record::Age(if n == 5 { 59_000 } else { 0 });
        harness.ask(asker, Request::Store(RecordBlock { age, ..block(n, b"value") }));
    }
    harness.pass(secs(1));
    let all = [
        entry(3, 0, b"value", Life::Alive),
        Entry { crc: 0, ..entry(5, 0, b"", Life::Over) },
        entry(7, 0, b"value", Life::Alive),
    ];
    assert_eq!(harness.ask(asker, Request::Sync { from: key(0), to: key(255) }), synced(&all));
    assert_eq!(harness.ask(asker, Request::Sync { from: key(4), to: key(7) }), synced(&all[1..]));
    assert_eq!(harness.ask(asker, Request::Sync { from: key(8), to: key(2) }), synced(&[]));
    for (only, told) in [(3, &all[..1]), (4, &[]), (5, &all[1..2])] {
        assert_eq!(harness.ask(asker, Request::Sync { from: key(only), to: key(only) }), synced(told), "key {only}");
    }
}

#[test]
fn a_full_page_says_that_more_follow() {
    let mut harness = Harness::founder();
    let asker = harness.accept_client(9);
    let many: Vec<_> = (0..=255).chain(0..=255).map(key).collect();
    let keys = many.iter().enumerate().map(|(nth, at)| {
        let mut bytes = *at.as_bytes();
        bytes[31] = u8::try_from(nth / 256).expect("two rounds");
        dht::id::Key::new(bytes)
    });
    for at in keys {
        harness.ask(
            asker,
            Request::Store(RecordBlock { key: at, content: Content::Value(b"v"), crc: crc_of(b"v"), ..block(0, b"") }),
        );
    }
    let Reply::Synced { more, entries } = harness.ask(asker, Request::Sync { from: key(0), to: key(255) }) else {
        panic!()
    };
    assert_eq!((more, entries.len()), (true, dht::limits::ENTRIES_MAX));
    let last = entries.iter().last().expect("many").key;
    let rest = Request::Sync { from: last.successor().expect("more follow"), to: dht::id::Key::new([255; 32]) };
    let Reply::Synced { more, entries } = harness.ask(asker, rest) else { panic!() };
    assert_eq!((more, entries.len()), (false, 12));
}

#[test]
fn a_founder_is_settled_at_once() {
    let mut harness = Harness::founder();
    assert_eq!(harness.node.status(), Status::Settled);
    harness.add_contact(1);
    assert!(harness.node.table().contains(&id(1)));
    assert_eq!(harness.node.status(), Status::Settled);
}

#[test]
fn a_page_whose_entries_are_out_of_order_is_ignored() {
    let (mut harness, conn) = settling();
    let (rpc, _) = harness.only_request(conn);
    let page = [entry(9, 0, b"", Life::Over), entry(5, 1, b"", Life::Over), entry(6, 0, b"v", Life::Alive)];
    harness.reply(conn, rpc, synced(&page));
    harness.pass(millis(0));
    assert_eq!(harness.node.status(), Status::Settled, "nothing is fetched");
    assert_eq!(harness.node.storage().len(), 1, "nothing is buried");
}

#[test]
fn a_settling_node_whose_only_contact_leaves_is_joining_again() {
    let (mut harness, conn) = settling();
    assert_eq!(harness.node.status(), Status::Settling);
    harness.send(conn, &PeerMessage::Goodbye);
    assert_eq!(harness.node.status(), Status::Joining);
    harness.pass(2 * SETTLE_TIMEOUT);
    assert_eq!(harness.node.status(), Status::Joining, "no time that it had to settle ends that");
}

#[test]
fn a_settling_node_that_leaves_stays_left() {
    let (mut harness, conn) = settling();
    let (rpc, _) = harness.only_request(conn);
    harness.act(dht::node::Node::leave);
    assert_eq!(harness.node.status(), Status::Leaving, "no other node is known to hold its record");
    harness.reply(conn, rpc, synced(&[entry(6, 0, b"other", Life::Alive)]));
    harness.pass(2 * SETTLE_TIMEOUT);
    assert_eq!(harness.node.status(), Status::Left);
    assert_eq!(harness.node.next_deadline(), None);
}

/// A settled node with `contacts` that answer automatically; it holds a record of the key 1.
fn settled_with(contacts: std::ops::RangeInclusive<u8>) -> (Harness, Vec<ConnId>) {
    let mut harness = Harness::founder();
    let conns = contacts.map(|peer| harness.add_contact(peer)).collect();
    let asker = harness.accept_client(99);
    let ttl = dht::record::Ttl::from_secs(36_000).expect("not zero");
    harness.ask(asker, Request::Store(RecordBlock { ttl, ..block(1, b"value") }));
    pass(&mut harness, 2 * STRAY_PAUSE);
    (harness, conns)
}

/// Moves the clock by `span` while the peers answer offers. Returns the peers that were offered the
/// record.
fn pass(harness: &mut Harness, span: Duration) -> Vec<u8> {
    let offered = (0..span.as_secs()).flat_map(|_| {
        harness.pass(secs(1));
        answer_offers(harness)
    });
    offered.collect()
}

/// All peers answer that they want nothing. Returns the peers that were offered the record of the key 1.
fn answer_offers(harness: &mut Harness) -> Vec<u8> {
    let mut offered = Vec::new();
    for (conn, rpc, entries) in harness.offers() {
        assert_eq!(entries, [entry(1, 0, b"value", Life::Alive)]);
        harness.reply(conn, rpc, Reply::Wanted(List::lend(&[])));
        offered.push(harness.peer_at(conn));
    }
    offered
}

fn say_goodbye(harness: &mut Harness, conns: &[ConnId]) {
    for conn in conns {
        harness.send(*conn, &PeerMessage::Goodbye);
    }
}

/// `peer` connects, and answers automatically.
fn connect(harness: &mut Harness, peer: u8) -> ConnId {
    harness.make_automatic(peer);
    let conn = harness.accept(peer);
    harness.send(conn, &hello());
    conn
}

#[test]
fn a_node_that_lost_more_than_a_quarter_of_its_contacts_settles_again_once_a_quarter_is_new() {
    let (mut harness, conns) = settled_with(1..=8);
    say_goodbye(&mut harness, &conns[..2]);
    connect(&mut harness, 11);
    connect(&mut harness, 12);
    assert_eq!(harness.node.status(), Status::Settled, "a quarter is not more than a quarter");

    say_goodbye(&mut harness, &conns[2..5]);
    connect(&mut harness, 13);
    assert_eq!(harness.node.status(), Status::Settled, "six is not a quarter more than five");
    connect(&mut harness, 14);
    assert_eq!(harness.node.status(), Status::Settling);
    harness.pass(millis(0));
    assert_eq!(harness.node.status(), Status::Settled, "its neighbours have sent all pages");
    assert_eq!(harness.node.counters().syncs, 3);
}

#[test]
fn the_loss_of_one_contact_never_makes_a_node_settle_again() {
    let (mut harness, conns) = settled_with(1..=2);
    say_goodbye(&mut harness, &conns[..1]);
    for peer in 11..20 {
        connect(&mut harness, peer);
        assert_eq!(harness.node.status(), Status::Settled);
    }
}

/// All its records may be stale, and the other side may hold newer ones.
#[test]
fn a_node_that_was_cut_off_offers_all_records_at_once_and_again_one_round_later() {
    let (mut harness, conns) = settled_with(1..=8);
    say_goodbye(&mut harness, &conns[5..]);
    pass(&mut harness, secs(1));
    harness.ask(conns[1], Request::Offer(List::lend(&[entry(1, 0, b"value", Life::Alive)])));
    connect(&mut harness, 101);
    connect(&mut harness, 102);
    harness.pass(millis(0));
    assert_eq!(answer_offers(&mut harness), [1], "though it was heard that another one holds it");
    assert_eq!(pass(&mut harness, ROUND_AFTER_CUT_OFF.mul_f64(0.79)), [] as [u8; 0]);
    assert_eq!(pass(&mut harness, ROUND_AFTER_CUT_OFF.mul_f64(0.42)), [1]);
}

#[test]
fn frequent_contact_changes_make_a_node_settle_again_only_once_per_settle_pause() {
    let (mut harness, conns) = settled_with(1..=8);
    let mut some = conns[5..].to_vec();
    for _ in 0..10 {
        say_goodbye(&mut harness, &some);
        some = [101, 102, 103].map(|peer| connect(&mut harness, peer)).to_vec();
        pass(&mut harness, secs(5)); // until what they have left is closed
    }
    assert_eq!(harness.node.counters().syncs, 3, "of three neighbours, once");
    pass(&mut harness, SETTLE_PAUSE + secs(75));
    assert_eq!(harness.node.counters().syncs, 6, "once more, when some time has passed");
}

#[test]
fn tombstones_are_listed_page_by_page() {
    let mut harness = Harness::founder();
    let asker = harness.accept_client(98);
    let owned = |n: u16| {
        let mut bytes = [40; 32];
        bytes[..2].copy_from_slice(&n.to_be_bytes());
        dht::id::Key::new(bytes)
    };
    for n in 0..600 {
        let brief = dht::record::Ttl::from_secs(1).expect("not zero");
        harness.ask(asker, Request::Store(RecordBlock { key: owned(n), ttl: brief, ..block(0, b"v") }));
    }
    harness.pass(secs(2));
    let mut told = 0;
    let mut from = key(0);
    loop {
        let Reply::Synced { more, entries } = harness.ask(asker, Request::Sync { from, to: key(255) }) else {
            panic!()
        };
        told += entries.len();
        if !more {
            break;
        }
        from = entries.iter().last().expect("a page that is not the last has some").key.successor().expect("not it");
    }
    assert_eq!(told, 600);
}
