//! OFFER and WANT: a node offers records to the nodes that shall hold them, and copies those they want
//! (section 2).

use std::time::Duration;

use dht::id::RpcId;
use dht::limits::{
    ASKED_FOR_MAX, CHANGES_REST, COPIES_IN_FLIGHT_MAX, COPIES_TO_ONE_MAX, ENTRIES_MAX, SCAN_PAUSE,
    SCANNED_PER_TURN_MAX, STRAY_PAUSE,
};
use dht::node::action::ConnId;
use dht::node::params::Params;
use dht::record::{Age, Class, Life, Rank, Ttl, Version, crc_of};
use dht::wire::codec::List;
use dht::wire::peer::{Content, Entry, ErrorCode, PeerMessage, RecordBlock, Reply, Request};

use crate::harness::{Harness, block, id, key, larger, millis, quiet, secs, stored, version_at};

/// A founder that holds a record of the key `n`, sent with an age of five seconds.
fn holding(n: u8) -> Harness {
    let mut harness = Harness::founder();
    let asker = harness.accept_client(99);
    harness.ask(asker, Request::Store(RecordBlock { age: Age(5_000), ..block(n, b"value") }));
    harness
}

/// The entry of a plain record with the key `n`, as OFFER and SYNC carry it.
fn entry(n: u8, version: Version, value: &[u8]) -> Entry {
    let rank = Rank { class: Class::Plain, life: Life::Alive, version };
    Entry { key: key(n), rank, crc: crc_of(value) }
}

/// The entry of a tombstone of plain versions.
fn over(n: u8, version: Version) -> Entry {
    let rank = Rank { class: Class::Plain, life: Life::Over, version };
    Entry { key: key(n), rank, crc: 0 }
}

/// A peer that serves connects.
fn serving(harness: &mut Harness, peer: u8) -> ConnId {
    let conn = harness.accept(peer);
    harness.send(conn, &crate::harness::hello());
    conn
}

/// The OFFERs at the first moment within `span` that has any.
fn first_offers(harness: &mut Harness, span: Duration) -> Vec<(ConnId, RpcId, Vec<Entry>)> {
    let steps = span.as_millis() / 500;
    let mut moments = (0..steps).map(|_| {
        harness.pass(millis(500));
        harness.offers()
    });
    moments.find(|offers| !offers.is_empty()).unwrap_or_default()
}

/// The keys that the node wants of `entries`; none if it refuses the offer.
fn wanted(harness: &mut Harness, conn: ConnId, entries: &[Entry]) -> Vec<dht::id::Key> {
    match harness.ask(conn, Request::Offer(List::lend(entries))) {
        Reply::Wanted(keys) => keys.iter().collect(),
        Reply::Error(_) => Vec::new(),
        reply => panic!("{reply:?}"),
    }
}

/// Two PUTs of a key at different nodes: the copies of the smaller record may reach the fourth and the fifth node after
/// the PUT of the larger one has looked there.
#[test]
fn a_record_that_replaces_one_with_more_replicas_is_offered_to_all_of_them() {
    for (former, now, offered_to) in [(5, 3, vec![1, 2, 3, 4, 5]), (3, 5, vec![]), (3, 3, vec![])] {
        let mut harness = Harness::with_contacts(Params { replication_min: 1, ..Params::default() }, 1..=8);
        harness.pass(secs(1));
        harness.offers();
        let asker = harness.accept_client(99);
        let smaller = RecordBlock { replication: former, ..block(1, b"smaller") };
        assert_eq!(harness.ask(asker, Request::Store(smaller)), stored(&smaller));
        harness.pass(millis(0));
        assert_eq!(harness.offers(), []);
        let larger = RecordBlock { replication: now, version: version_at(1), ..block(1, b"larger") };
        assert_eq!(harness.ask(asker, Request::Store(larger)), stored(&larger));
        harness.pass(millis(0));
        let offers = harness.offers();
        assert!(offers.iter().all(|(.., entries)| entries[..] == [entry(1, larger.version, b"larger")]), "{offers:?}");
        let mut to: Vec<u8> = offers.iter().map(|(conn, ..)| harness.peer_at(*conn)).collect();
        to.sort_unstable();
        assert_eq!(to, offered_to, "{former} to {now}");
    }
}

#[test]
fn a_new_contact_is_offered_a_record_and_gets_it_with_its_age_if_it_wants_it() {
    let mut harness = holding(1);
    harness.pass(secs(2));
    let conn = harness.add_contact(2);
    harness.pass(millis(0));
    let offers = harness.offers();
    assert_eq!(offers.len(), 1);
    assert_eq!((offers[0].0, &offers[0].2[..]), (conn, &[entry(1, version_at(0), b"value")][..]));
    assert_eq!(harness.copies(), [], "it may hold it");
    harness.reply(conn, offers[0].1, Reply::Wanted(List::lend(&[key(1)])));
    harness.pass(millis(0));
    let copies = harness.copies();
    let [(to, rpc, copy)] = copies[..] else { panic!("{copies:?}") };
    assert_eq!((to, copy), (conn, RecordBlock { age: Age(7_000), ..block(1, b"value") }));
    harness.reply(to, rpc, stored(&copy));
    harness.pass(secs(10));
    assert_eq!((harness.offers(), harness.copies()), (vec![], vec![]), "once");
    assert_eq!(harness.node.storage().len(), 1, "a copy, not the record itself");
}

#[test]
fn only_records_that_are_both_offered_and_wanted_are_sent() {
    let mut harness = holding(1);
    let asker = harness.accept_client(98);
    harness.ask(asker, Request::Store(RecordBlock { replication: 1, ..block(128, b"own") }));
    let conn = harness.add_contact(2);
    harness.pass(millis(0));
    let offers = harness.offers();
    assert_eq!(offers[0].2.len(), 1, "one is for this node alone");
    harness.reply(conn, offers[0].1, Reply::Wanted(List::lend(&[key(128), key(77)])));
    harness.pass(millis(0));
    assert_eq!(harness.copies(), []);
}

#[test]
fn a_node_is_offered_only_records_that_it_shall_hold() {
    let mut harness = holding(1);
    for nearest in [1, 3, 2] {
        harness.add_contact(nearest);
        harness.pass(millis(0));
        let copies = harness.want_all_offers();
        assert_eq!(copies.len(), 1, "{nearest} is among the three nearest");
        harness.reply(copies[0].0, copies[0].1, stored(&copies[0].2));
    }
    harness.add_contact(5);
    harness.pass(secs(10));
    assert_eq!(harness.offers(), [], "three are nearer than it");
}

#[test]
fn a_node_that_refuses_a_record_stays_a_contact_and_does_not_get_it_again() {
    let mut harness = holding(1);
    harness.add_contact(2);
    harness.pass(millis(0));
    let (conn, rpc, _) = harness.want_all_offers()[0];
    harness.reply(conn, rpc, Reply::Error(ErrorCode::FULL));
    harness.pass(secs(10));
    assert_eq!((harness.offers(), harness.copies()), (vec![], vec![]));
    assert!(harness.knows(2));
}

/// Copies never fill an output buffer, and go on until all are sent.
#[test]
fn many_records_are_offered_together_and_copied_a_few_at_a_time() {
    let mut harness = Harness::founder();
    let many = 5 * u8::try_from(COPIES_IN_FLIGHT_MAX).expect("a small bound") / 2;
    for n in 3..3 + many {
        harness.put(quiet(n, b"value"));
    }
    harness.pass(secs(1)); // they are saved
    harness.add_contact(2);
    harness.pass(millis(0));
    let mut handed = Vec::new();
    for round in 0..many {
        let copies = if round == 0 { harness.want_all_offers() } else { harness.copies() };
        assert!(copies.len() <= COPIES_TO_ONE_MAX);
        for (conn, rpc, copy) in copies {
            handed.push(copy.key);
            harness.reply(conn, rpc, stored(&copy));
        }
        harness.pass(millis(10));
    }
    handed.sort_unstable();
    assert_eq!(handed, (3..3 + many).map(key).collect::<Vec<_>>());
    assert_eq!(harness.node.counters().offers, 1);
}

#[test]
fn no_more_records_are_copied_to_a_node_that_left() {
    let mut harness = Harness::founder();
    for n in 3..100 {
        harness.put(quiet(n, b"value"));
    }
    harness.pass(secs(1)); // they are saved
    let conn = harness.add_contact(2);
    harness.pass(millis(0));
    assert_eq!(harness.want_all_offers().len(), COPIES_TO_ONE_MAX);
    harness.make_scripted(2);
    harness.send(conn, &PeerMessage::Goodbye);
    harness.pass(secs(60));
    assert_eq!((harness.offers(), harness.copies()), (vec![], vec![]));
    assert_eq!(harness.dials(), []);
    assert!(!harness.node.table().contains(&id(2)));
}

/// A contact that responds again may have lost its records.
#[test]
fn a_contact_that_responds_again_is_offered_its_records() {
    let mut harness = Harness::with_contacts(Params::default(), [3]);
    let asker = harness.accept_client(99);
    harness.ask(asker, Request::Store(block(1, b"value")));
    let conn = harness.add_contact(2);
    harness.pass(millis(0));
    for (conn, rpc, copy) in harness.want_all_offers() {
        harness.reply(conn, rpc, stored(&copy));
    }
    harness.make_scripted(2);
    harness.close(conn);
    let dial = harness.dial_of(2);
    harness.fail(dial, dht::node::action::DialError::Unreachable);
    assert!(!harness.knows(2), "it was asked at once whether it is there");
    harness.pass(millis(0));
    harness.offers();

    let again = harness.accept(2);
    harness.send(again, &crate::harness::hello());
    harness.send(again, &PeerMessage::Request(RpcId::new([1; 32]), Request::Ping));
    let dial = harness.dial_of(2);
    harness.make_automatic(2);
    harness.complete_dial(dial, 2);
    harness.pass(millis(0));
    let offered: Vec<_> = harness.offers().into_iter().map(|(to, ..)| harness.id_at(to)).collect();
    assert_eq!(offered, [id(2)]);
}

#[test]
fn an_offered_record_is_wanted_if_it_is_larger_than_the_held_one_and_in_scope() {
    let mut harness = holding(5);
    let offerer = harness.accept_client(9);
    let old = Version::from_bits(version_at(0).bits() - 1);
    let entries = [
        entry(4, version_at(0), b"new here"),
        entry(5, version_at(0), b"value"),
        entry(6, version_at(600_001), b"too early"),
        entry(5, old, b"older"),
    ];
    assert_eq!(wanted(&mut harness, offerer, &entries), [key(4)]);
    assert_eq!(wanted(&mut harness, offerer, &[entry(5, version_at(1), b"newer")]), [key(5)]);
    assert_eq!(wanted(&mut harness, offerer, &[over(5, version_at(2))]), []);
}

#[test]
fn an_expired_version_is_not_wanted_again() {
    let mut harness = holding(5);
    harness.pass(secs(60));
    assert!(harness.node.storage().is_empty());
    let offerer = harness.accept_client(9);
    assert_eq!(wanted(&mut harness, offerer, &[entry(5, version_at(0), b"value")]), []);
    assert_eq!(wanted(&mut harness, offerer, &[entry(5, version_at(1), b"newer")]), [key(5)]);
}

/// What a node has missed while it was away it learns when it offers its records.
#[test]
fn a_peer_that_offers_a_record_that_is_over_is_told_so() {
    let mut harness = Harness::founder();
    let behind = harness.add_contact(1);
    let short = RecordBlock { ttl: Ttl::from_secs(6).expect("not zero"), age: Age(5_000), ..block(5, b"value") };
    harness.ask(behind, Request::Store(short));
    harness.pass(secs(1));
    assert!(harness.node.storage().is_empty());
    let old = Version::from_bits(version_at(0).bits() - 1);
    let client = harness.accept_client(9);
    for (conn, version, is_told) in [
        (behind, version_at(1), false),
        (client, old, false), // it does not serve, so it stores no records
        (behind, version_at(0), true),
        (behind, old, true),
    ] {
        harness.forget_actions();
        let offered = [entry(5, version, b"value")];
        harness.send(conn, &PeerMessage::Request(RpcId::new([0xaa; 32]), Request::Offer(List::lend(&offered))));
        harness.pass(millis(0));
        let offers: Vec<_> = harness.offers();
        let told: Vec<_> = offers.iter().map(|(to, _, entries)| (*to, entries.clone())).collect();
        assert_eq!(told, if is_told { vec![(behind, vec![over(5, version_at(0))])] } else { vec![] }, "{version:?}");
        for (to, rpc, _) in offers {
            harness.reply(to, rpc, Reply::Wanted(List::lend(&[key(5)])));
        }
        harness.pass(millis(0));
        assert_eq!(harness.copies(), [], "there is none");
    }
}

#[test]
fn a_plain_record_ends_when_a_peer_offers_its_tombstone_unless_that_is_from_the_far_future() {
    for (ahead, left) in [(0, 0), (1, 0), (600_001, 1)] {
        let mut harness = holding(5);
        let peer = harness.accept_client(9);
        let older = Version::from_bits(version_at(0).bits() - 1);
        assert_eq!(wanted(&mut harness, peer, &[over(5, older)]), []);
        assert_eq!(harness.node.storage().len(), 1, "it is newer");
        assert_eq!(wanted(&mut harness, peer, &[over(5, version_at(ahead))]), []);
        assert_eq!(harness.node.storage().len(), left, "{ahead} ms ahead");
    }
}

/// Two peers that offer a record at the same time do not both send it.
#[test]
fn a_record_is_wanted_from_one_peer_at_a_time() {
    let mut harness = Harness::founder();
    let (one, other) = (harness.accept_client(8), harness.accept_client(9));
    let offered = [entry(5, version_at(0), b"value")];
    assert_eq!(wanted(&mut harness, one, &offered), [key(5)]);
    assert_eq!(wanted(&mut harness, other, &offered), []);
    assert_eq!(wanted(&mut harness, other, &[entry(5, version_at(1), b"newer")]), [key(5)]);
    harness.pass(secs(2));
    assert_eq!(wanted(&mut harness, other, &offered), [key(5)], "the others were asked in vain");
}

/// A node that holds a newer version sends it back with STORE. It also offers it to the other nodes that
/// shall hold it, so that one disagreement repairs all.
#[test]
fn a_peer_that_offers_an_older_version_gets_the_newer_one_and_the_other_replicas_are_offered_it() {
    let mut harness = holding(5);
    let (behind, other) = (harness.add_contact(1), harness.add_contact(2));
    harness.pass(millis(0));
    harness.want_all_offers();
    let old = Version::from_bits(version_at(0).bits() - 1);
    assert_eq!(wanted(&mut harness, behind, &[entry(5, old, b"older")]), []);
    harness.pass(millis(0));
    let copies: Vec<_> = harness.copies().iter().map(|(to, _, copy)| (*to, copy.key)).collect();
    assert_eq!(copies, [(behind, key(5))]);
    let offers: Vec<_> = harness.offers().iter().map(|(to, ..)| *to).collect();
    assert_eq!(offers, [other]);
    wanted(&mut harness, behind, &[entry(5, old, b"older")]);
    harness.pass(millis(0));
    assert_eq!(harness.offers(), [], "not again and again, however often it is asked for");
}

/// Of two values with one version the larger bytes win, so each side must see both.
#[test]
fn values_with_one_version_are_exchanged_both_ways() {
    let mut harness = holding(5);
    let conn = harness.add_contact(1);
    harness.pass(millis(0));
    harness.want_all_offers();
    assert_eq!(wanted(&mut harness, conn, &[entry(5, version_at(0), b"other")]), [key(5)]);
    harness.pass(millis(0));
    assert_eq!(harness.copies().len(), 1);
}

/// A peer that does not serve stores no records.
#[test]
fn a_non_serving_peer_does_not_count_as_a_replica() {
    let mut harness = Harness::with_contacts(Params::default(), [1, 2, 3]);
    for peer in [96, 97, 98] {
        let client = harness.accept_client(peer);
        harness.ask(client, Request::Store(block(1, b"value")));
    }
    assert_eq!(first_offers(&mut harness, secs(37)).len(), 1);
}

/// In its round a node offers a record to one of the nodes that shall hold it; if that one lacks it, to
/// all.
#[test]
fn at_half_of_its_lifetime_a_record_is_offered_to_one_replica_and_to_all_if_that_one_lacks_it() {
    let mut harness = Harness::with_contacts(Params::default(), [1, 2, 3]);
    let asker = harness.accept_client(99);
    harness.ask(asker, Request::Store(RecordBlock { replication: 4, ..block(1, b"value") }));
    assert_eq!(first_offers(&mut harness, secs(23)), [], "half of 60 s, 20 % less, is 24 s");
    let offers = first_offers(&mut harness, secs(14));
    let [(to, rpc, _)] = &offers[..] else { panic!("{offers:?}") };
    assert_eq!(harness.id_at(*to), id(1), "the farthest offers it to the nearest");
    harness.reply(*to, *rpc, Reply::Wanted(List::lend(&[key(1)])));
    harness.pass(millis(0));
    let all: Vec<_> = harness.offers().iter().map(|(to, ..)| harness.id_at(*to)).collect();
    assert_eq!(all, [id(2), id(3)]);
    assert_eq!(harness.copies().len(), 1);
}

#[test]
fn a_record_that_enough_replicas_have_offered_is_not_offered_in_that_round() {
    let mut harness = Harness::with_contacts(Params::default(), [1, 2, 3]);
    let asker = harness.accept_client(99);
    harness.ask(asker, Request::Store(RecordBlock { replication: 4, ..block(1, b"value") }));
    for peer in [95, 96, 97, 98] {
        let offerer = serving(&mut harness, peer);
        wanted(&mut harness, offerer, &[entry(1, version_at(0), b"value")]);
    }
    assert_eq!(first_offers(&mut harness, secs(37)), []);
}

#[test]
fn one_peer_cannot_suppress_the_offers_of_a_replica() {
    let mut harness = Harness::with_contacts(Params::default(), [1, 2, 3]);
    let liar = serving(&mut harness, 99);
    harness.ask(liar, Request::Store(block(1, b"value")));
    for second in 0..37 {
        if !first_offers(&mut harness, secs(1)).is_empty() {
            return;
        }
        let fresher = RecordBlock { age: Age(second * 900), ..block(1, b"value") };
        assert_eq!(harness.ask(liar, Request::Store(fresher)), stored(&fresher));
        wanted(&mut harness, liar, &[entry(1, version_at(0), b"value")]);
    }
    panic!("half of its lifetime has passed without an offer");
}

#[test]
fn a_reply_that_names_a_larger_record_ends_the_copy() {
    let mut harness = holding(1);
    harness.add_contact(2);
    harness.pass(millis(0));
    let (conn, rpc, _) = harness.want_all_offers()[0];
    harness.reply(conn, rpc, larger(1, version_at(9)));
    harness.pass(secs(1));
    assert_eq!(harness.copies(), []);
    let newer =
        RecordBlock { version: version_at(9), crc: crc_of(b"new"), content: Content::Value(b"new"), ..block(1, b"") };
    assert_eq!(harness.ask(conn, Request::Store(newer)), stored(&newer));
}

#[test]
fn a_near_contact_that_falls_silent_is_detected_within_75_seconds() {
    let mut harness = Harness::with_contacts(Params::default(), [1]);
    let silent = harness.add_contact(2);
    harness.pass(secs(300));
    harness.make_scripted(2);
    harness.forget_actions();
    harness.pass(secs(75));
    assert!(!harness.knows(2), "a PING, and two seconds of patience");
    assert!(harness.has_closed(silent));
    assert!(harness.knows(1));
}

/// It may await the record from another node, which will not send it.
#[test]
fn an_offer_that_has_no_room_now_is_made_again() {
    let mut harness = holding(1);
    let conn = harness.add_contact(2);
    harness.pass(millis(0));
    for _ in 0..3 {
        let (at, rpc, _) = harness.offers().pop().expect("an offer");
        assert_eq!(at, conn);
        harness.reply(conn, rpc, Reply::Error(ErrorCode::TOO_MANY));
        harness.pass(secs(1));
    }
    assert_eq!(harness.want_all_offers().len(), 1);
}

#[test]
fn an_offer_that_is_not_answered_is_made_again_while_its_peer_is_a_live_contact() {
    let mut harness = holding(1);
    let conn = harness.add_contact(2);
    harness.pass(millis(0));
    for _ in 0..3 {
        assert_eq!(harness.offers().len(), 1);
        harness.ask(conn, Request::Ping);
        harness.pass(secs(1));
        harness.ask(conn, Request::Ping);
        harness.pass(secs(1));
    }
    assert!(harness.knows(2));
}

/// The peer may have too many connections, and would close the next one too.
#[test]
fn a_near_contact_that_closes_repeatedly_is_not_dialled_each_time() {
    let mut harness = Harness::founder();
    let mut conn = harness.add_contact(2);
    harness.make_scripted(2);
    harness.close(conn);
    for second in 0..7 {
        if second == 0 {
            let dial = harness.dial_of(2);
            conn = harness.complete_dial(dial, 2);
        } else {
            conn = harness.accept(2);
            harness.send(conn, &crate::harness::hello());
        }
        for (rpc, _) in harness.requests(conn) {
            harness.reply(conn, rpc, Reply::Pong);
        }
        harness.close(conn);
        harness.pass(millis(900));
        assert_eq!(harness.dials(), [], "second {second}");
    }
    assert!(harness.knows(2));
}

/// A peer that offers a record and does not send it delays it by one `rpc_timeout`, once.
#[test]
fn a_peer_that_offers_a_record_and_never_sends_it_does_not_block_other_senders() {
    let mut harness = Harness::founder();
    let (liar, other) = (harness.accept_client(8), harness.accept_client(9));
    assert_eq!(wanted(&mut harness, liar, &[entry(5, version_at(1), b"never sent")]), [key(5)]);
    assert_eq!(wanted(&mut harness, other, &[entry(5, version_at(0), b"value")]), []);
    harness.pass(secs(2));
    assert_eq!(wanted(&mut harness, liar, &[entry(5, version_at(2), b"never sent")]), [key(5)]);
    assert_eq!(wanted(&mut harness, other, &[entry(5, version_at(0), b"value")]), [key(5)]);
}

#[test]
fn a_peer_that_offers_much_and_sends_nothing_leaves_room_for_other_offers() {
    let mut harness = Harness::founder();
    let (liar, other) = (harness.accept_client(8), harness.accept_client(9));
    let many: Vec<Entry> = (0..=ASKED_FOR_MAX)
        .map(|nth| {
            let mut bytes = [1; 32];
            bytes[1..9].copy_from_slice(&nth.to_be_bytes());
            Entry { key: dht::id::Key::new(bytes), ..entry(1, version_at(0), b"never sent") }
        })
        .collect();
    let promised: usize = many.chunks(ENTRIES_MAX).map(|some| wanted(&mut harness, liar, some).len()).sum();
    assert_eq!(promised, dht::limits::ASKED_OF_ONE_MAX);
    assert_eq!(wanted(&mut harness, other, &[entry(5, version_at(0), b"value")]), [key(5)]);
}

#[test]
fn a_peer_that_stores_copies_slowly_does_not_block_copies_to_others() {
    let mut harness = Harness::founder();
    for n in 3..100 {
        harness.put(quiet(n, b"value"));
    }
    harness.pass(secs(1)); // they are saved
    harness.add_contact(1);
    harness.pass(millis(0));
    assert_eq!(harness.want_all_offers().len(), COPIES_TO_ONE_MAX);
    let other = harness.add_contact(2);
    harness.pass(millis(0));
    let copies = harness.want_all_offers();
    assert_eq!(copies.iter().filter(|(to, ..)| *to == other).count(), COPIES_IN_FLIGHT_MAX - COPIES_TO_ONE_MAX);
}

/// Otherwise the node would go on to hold and serve the older version.
#[test]
fn a_node_out_of_scope_accepts_only_newer_versions_of_records_that_it_holds() {
    let mut harness = Harness::new(Params { k: 3, replication_default: 3, ..Params::default() });
    let asker = harness.accept_client(99);
    harness.ask(asker, Request::Store(block(127, b"value")));
    for twice_k_nearer_to_it in [1, 2, 3, 193, 194, 195] {
        harness.add_contact(twice_k_nearer_to_it);
    }
    assert_eq!(wanted(&mut harness, asker, &[entry(126, version_at(0), b"value")]), []);
    assert_eq!(harness.ask(asker, Request::Store(block(126, b"value"))), Reply::Error(ErrorCode::OUT_OF_SCOPE));
    assert_eq!(wanted(&mut harness, asker, &[entry(127, version_at(1), b"new")]), [key(127)]);
    let newer = RecordBlock { version: version_at(1), crc: crc_of(b"new"), ..block(127, b"new") };
    assert_eq!(harness.ask(asker, Request::Store(newer)), stored(&newer));
}

/// The peer that sent the record did not know the nodes that shall hold it.
#[test]
fn a_record_out_of_scope_is_offered_to_the_nearest_node_after_stray_pause() {
    let mut harness = Harness::with_contacts(Params::default(), [1, 2, 3]);
    let asker = harness.accept_client(99);
    let ttl = dht::record::Ttl::from_secs(36_000).expect("not zero");
    harness.ask(asker, Request::Store(RecordBlock { ttl, ..block(1, b"value") }));
    assert_eq!(first_offers(&mut harness, STRAY_PAUSE.mul_f64(0.79)), []);
    let offers = first_offers(&mut harness, STRAY_PAUSE.mul_f64(0.42));
    assert_eq!(offers.iter().map(|(to, ..)| harness.id_at(*to)).collect::<Vec<_>>(), [id(1)]);
    let mut harness = Harness::with_contacts(Params::default(), [1, 2]);
    let asker = harness.accept_client(99);
    harness.ask(asker, Request::Store(RecordBlock { ttl, ..block(1, b"value") }));
    assert_eq!(first_offers(&mut harness, 10 * STRAY_PAUSE), [], "it is one of the three itself");
}

/// Also if contacts come and go frequently.
#[test]
fn a_node_with_many_records_pauses_between_scans_for_new_contacts() {
    let mut harness = Harness::founder();
    let asker = harness.accept_client(99);
    for nth in 0..=SCANNED_PER_TURN_MAX {
        let mut bytes = [1; 32];
        bytes[1..9].copy_from_slice(&nth.to_be_bytes());
        harness.ask(asker, Request::Store(RecordBlock { key: dht::id::Key::new(bytes), ..block(1, b"value") }));
    }
    harness.add_contact(2);
    harness.pass(SCAN_PAUSE);
    assert!(!harness.offers().is_empty(), "the first comes in two turns");
    let other = harness.add_contact(3);
    harness.pass((SCAN_PAUSE * CHANGES_REST).saturating_sub(millis(1)));
    assert_eq!(harness.offers().iter().filter(|(to, ..)| *to == other).count(), 0);
    harness.pass(millis(1) + SCAN_PAUSE);
    assert_eq!(harness.offers().iter().filter(|(to, ..)| *to == other).count(), 1);
}
