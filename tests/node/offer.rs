//! Offering records to those who shall hold them (section 2: OFFER, WANT), and copying them.

use std::time::Duration;

use dht::id::RpcId;
use dht::limits::{
    ASKED_FOR_MAX, CHANGES_REST, COPIES_IN_FLIGHT_MAX, COPIES_TO_ONE_MAX, ENTRIES_MAX, SCAN_PAUSE,
    SCANNED_PER_TURN_MAX, STRAY_PAUSE,
};
use dht::node::action::ConnId;
use dht::node::params::Params;
use dht::record::{Age, Class, Life, Rank, Version, crc_of};
use dht::wire::codec::List;
use dht::wire::peer::{Content, Entry, ErrorCode, PeerMessage, RecordBlock, Reply, Request};

use crate::harness::{Stage, block, id, key, larger, millis, quiet, secs, stored, version_at};

/// A founder that holds a record of the key `n`, sent with an age of five seconds.
fn holding(n: u8) -> Stage {
    let mut stage = Stage::founder();
    let asker = stage.accept_client(99);
    stage.ask(asker, Request::Store(RecordBlock { age: Age(5_000), ..block(n, b"value") }));
    stage
}

/// A plain record of the key `n`, as OFFER and SYNC name it.
fn entry(n: u8, version: Version, value: &[u8]) -> Entry {
    let rank = Rank { class: Class::Plain, life: Life::Alive, version };
    Entry { key: key(n), rank, crc: crc_of(value) }
}

/// A peer that could hold records connects.
fn serving(stage: &mut Stage, peer: u8) -> ConnId {
    let conn = stage.accept(peer);
    stage.tell(conn, &crate::harness::hello());
    conn
}

/// The OFFERs of the first moment, within `span`, at which there are any.
fn first_offers(stage: &mut Stage, span: Duration) -> Vec<(ConnId, RpcId, Vec<Entry>)> {
    let steps = span.as_millis() / 500;
    let mut moments = (0..steps).map(|_| {
        stage.pass(millis(500));
        stage.offers()
    });
    moments.find(|offers| !offers.is_empty()).unwrap_or_default()
}

/// What the node wants of `entries`.
fn wanted(stage: &mut Stage, conn: ConnId, entries: &[Entry]) -> Vec<dht::id::Key> {
    match stage.ask(conn, Request::Offer(List::lend(entries))) {
        Reply::Wanted(keys) => keys.iter().collect(),
        reply => panic!("{reply:?}"),
    }
}

#[test]
fn a_newly_met_node_is_offered_the_record_and_given_it_with_its_age_if_it_wants_it() {
    let mut stage = holding(1);
    stage.pass(secs(2));
    let conn = stage.befriend(2);
    stage.pass(millis(0));
    let offers = stage.offers();
    assert_eq!(offers.len(), 1);
    assert_eq!((offers[0].0, &offers[0].2[..]), (conn, &[entry(1, version_at(0), b"value")][..]));
    assert_eq!(stage.copies(), [], "it may hold it");
    stage.reply(conn, offers[0].1, Reply::Wanted(List::lend(&[key(1)])));
    stage.pass(millis(0));
    let copies = stage.copies();
    let [(to, rpc, copy)] = copies[..] else { panic!("{copies:?}") };
    assert_eq!((to, copy), (conn, RecordBlock { age: Age(7_000), ..block(1, b"value") }));
    stage.reply(to, rpc, stored(&copy));
    stage.pass(secs(10));
    assert_eq!((stage.offers(), stage.copies()), (vec![], vec![]), "once");
    assert_eq!(stage.node.storage().len(), 1, "a copy, not the record itself");
}

#[test]
fn what_is_not_wanted_is_not_sent_nor_what_was_not_offered() {
    let mut stage = holding(1);
    let asker = stage.accept_client(98);
    stage.ask(asker, Request::Store(RecordBlock { replication: 1, ..block(128, b"own") }));
    let conn = stage.befriend(2);
    stage.pass(millis(0));
    let offers = stage.offers();
    assert_eq!(offers[0].2.len(), 1, "one is for this node alone");
    stage.reply(conn, offers[0].1, Reply::Wanted(List::lend(&[key(128), key(77)])));
    stage.pass(millis(0));
    assert_eq!(stage.copies(), []);
}

#[test]
fn a_node_is_offered_only_what_it_shall_hold() {
    let mut stage = holding(1);
    for nearest in [1, 3, 2] {
        stage.befriend(nearest);
        stage.pass(millis(0));
        let copies = stage.copies_wanted();
        assert_eq!(copies.len(), 1, "{nearest} is among the three nearest");
        stage.reply(copies[0].0, copies[0].1, stored(&copies[0].2));
    }
    stage.befriend(5);
    stage.pass(secs(10));
    assert_eq!(stage.offers(), [], "three are nearer than it");
}

#[test]
fn a_node_that_refuses_a_record_keeps_its_place_and_is_not_sent_it_again() {
    let mut stage = holding(1);
    stage.befriend(2);
    stage.pass(millis(0));
    let (conn, rpc, _) = stage.copies_wanted()[0];
    stage.reply(conn, rpc, Reply::Error(ErrorCode::FULL));
    stage.pass(secs(10));
    assert_eq!((stage.offers(), stage.copies()), (vec![], vec![]));
    assert!(stage.knows(2));
}

/// Copies never fill an outbox, and never stop before all are sent.
#[test]
fn many_records_are_offered_together_and_copied_a_few_at_a_time() {
    let mut stage = Stage::founder();
    let many = 5 * u8::try_from(COPIES_IN_FLIGHT_MAX).expect("a small bound") / 2;
    for n in 3..3 + many {
        stage.put(quiet(n, b"value"));
    }
    stage.befriend(2);
    stage.pass(millis(0));
    let mut handed = Vec::new();
    for round in 0..many {
        let copies = if round == 0 { stage.copies_wanted() } else { stage.copies() };
        assert!(copies.len() <= COPIES_TO_ONE_MAX);
        for (conn, rpc, copy) in copies {
            handed.push(copy.key);
            stage.reply(conn, rpc, stored(&copy));
        }
        stage.pass(millis(10));
    }
    handed.sort_unstable();
    assert_eq!(handed, (3..3 + many).map(key).collect::<Vec<_>>());
    assert_eq!(stage.node.counters().offers, 1);
}

#[test]
fn nothing_more_is_copied_to_a_node_that_is_gone() {
    let mut stage = Stage::founder();
    for n in 3..100 {
        stage.put(quiet(n, b"value"));
    }
    let conn = stage.befriend(2);
    stage.pass(millis(0));
    assert_eq!(stage.copies_wanted().len(), COPIES_TO_ONE_MAX);
    stage.script(2);
    stage.tell(conn, &PeerMessage::Goodbye);
    stage.pass(secs(60));
    assert_eq!((stage.offers(), stage.copies()), (vec![], vec![]));
    assert_eq!(stage.dials(), []);
    assert!(!stage.node.table().contains(&id(2)));
}

/// Whoever comes back may have lost what it held.
#[test]
fn a_contact_that_wakes_up_is_offered_what_belongs_to_it() {
    let mut stage = Stage::among(Params::default(), [3]);
    let asker = stage.accept_client(99);
    stage.ask(asker, Request::Store(block(1, b"value")));
    let conn = stage.befriend(2);
    stage.pass(millis(0));
    for (conn, rpc, copy) in stage.copies_wanted() {
        stage.reply(conn, rpc, stored(&copy));
    }
    stage.script(2);
    stage.close(conn);
    let dial = stage.dial_of(2);
    stage.fail(dial, dht::node::action::DialError::Unreachable);
    assert!(!stage.knows(2), "it was asked at once whether it is there");
    stage.pass(millis(0));
    stage.offers();

    let again = stage.accept(2);
    stage.tell(again, &crate::harness::hello());
    stage.tell(again, &PeerMessage::Request(RpcId::new([1; 32]), Request::Ping));
    let dial = stage.dial_of(2);
    stage.make_polite(2);
    stage.meet(dial, 2);
    stage.pass(millis(0));
    let offered: Vec<_> = stage.offers().into_iter().map(|(to, ..)| stage.at(to)).collect();
    assert_eq!(offered, [id(2)]);
}

#[test]
fn an_offer_is_wanted_where_it_is_larger_than_what_is_held_and_belongs_here() {
    let mut stage = holding(5);
    let offerer = stage.accept_client(9);
    let old = Version::from_bits(version_at(0).bits() - 1);
    let entries = [
        entry(4, version_at(0), b"new here"),
        entry(5, version_at(0), b"value"),
        entry(6, version_at(600_001), b"too early"),
        entry(5, old, b"older"),
    ];
    assert_eq!(wanted(&mut stage, offerer, &entries), [key(4)]);
    assert_eq!(wanted(&mut stage, offerer, &[entry(5, version_at(1), b"newer")]), [key(5)]);
    let over = Rank { class: Class::Plain, life: Life::Over, version: version_at(2) };
    assert_eq!(wanted(&mut stage, offerer, &[Entry { rank: over, ..entry(5, version_at(2), b"") }]), []);
}

#[test]
fn what_is_over_is_not_wanted_again() {
    let mut stage = holding(5);
    stage.pass(secs(60));
    assert!(stage.node.storage().is_empty());
    let offerer = stage.accept_client(9);
    assert_eq!(wanted(&mut stage, offerer, &[entry(5, version_at(0), b"value")]), []);
    assert_eq!(wanted(&mut stage, offerer, &[entry(5, version_at(1), b"newer")]), [key(5)]);
}

/// Two that offer a record at once do not both send it.
#[test]
fn a_record_is_wanted_of_one_at_a_time() {
    let mut stage = Stage::founder();
    let (one, other) = (stage.accept_client(8), stage.accept_client(9));
    let offered = [entry(5, version_at(0), b"value")];
    assert_eq!(wanted(&mut stage, one, &offered), [key(5)]);
    assert_eq!(wanted(&mut stage, other, &offered), []);
    assert_eq!(wanted(&mut stage, other, &[entry(5, version_at(1), b"newer")]), [key(5)]);
    stage.pass(secs(2));
    assert_eq!(wanted(&mut stage, other, &offered), [key(5)], "the others were asked in vain");
}

/// A receiver that holds a larger one STOREs it back; so that one disagreement ends all, it offers
/// it to the others who shall hold it too.
#[test]
fn whoever_offers_an_old_version_is_sent_the_newer_one_and_the_others_are_offered_it() {
    let mut stage = holding(5);
    let (behind, other) = (stage.befriend(1), stage.befriend(2));
    stage.pass(millis(0));
    stage.copies_wanted();
    let old = Version::from_bits(version_at(0).bits() - 1);
    assert_eq!(wanted(&mut stage, behind, &[entry(5, old, b"older")]), []);
    stage.pass(millis(0));
    let copies: Vec<_> = stage.copies().iter().map(|(to, _, copy)| (*to, copy.key)).collect();
    assert_eq!(copies, [(behind, key(5))]);
    let offers: Vec<_> = stage.offers().iter().map(|(to, ..)| *to).collect();
    assert_eq!(offers, [other]);
    wanted(&mut stage, behind, &[entry(5, old, b"older")]);
    stage.pass(millis(0));
    assert_eq!(stage.offers(), [], "not again and again, however often it is asked for");
}

/// Of two values of one version the larger bytes win: they have to meet.
#[test]
fn values_that_share_a_version_are_exchanged_both_ways() {
    let mut stage = holding(5);
    let conn = stage.befriend(1);
    stage.pass(millis(0));
    stage.copies_wanted();
    assert_eq!(wanted(&mut stage, conn, &[entry(5, version_at(0), b"other")]), [key(5)]);
    stage.pass(millis(0));
    assert_eq!(stage.copies().len(), 1);
}

/// Who stores for nobody holds nothing.
#[test]
fn what_a_client_claims_to_hold_does_not_count() {
    let mut stage = Stage::among(Params::default(), [1, 2, 3]);
    for peer in [96, 97, 98] {
        let client = stage.accept_client(peer);
        stage.ask(client, Request::Store(block(1, b"value")));
    }
    assert_eq!(first_offers(&mut stage, secs(37)).len(), 1);
}

/// In its round a record is offered to one of those who shall hold it; if that one lacks it, to all.
#[test]
fn a_record_is_offered_at_half_of_its_life_to_one_and_to_all_if_that_one_lacks_it() {
    let mut stage = Stage::among(Params::default(), [1, 2, 3]);
    let asker = stage.accept_client(99);
    stage.ask(asker, Request::Store(RecordBlock { replication: 4, ..block(1, b"value") }));
    assert_eq!(first_offers(&mut stage, secs(23)), [], "half of 60 s, 20 % less, is 24 s");
    let offers = first_offers(&mut stage, secs(14));
    let [(to, rpc, _)] = &offers[..] else { panic!("{offers:?}") };
    assert_eq!(stage.at(*to), id(1), "the farthest offers it to the nearest");
    stage.reply(*to, *rpc, Reply::Wanted(List::lend(&[key(1)])));
    stage.pass(millis(0));
    let all: Vec<_> = stage.offers().iter().map(|(to, ..)| stage.at(*to)).collect();
    assert_eq!(all, [id(2), id(3)]);
    assert_eq!(stage.copies().len(), 1);
}

#[test]
fn a_record_that_enough_others_have_offered_is_not_offered_in_that_round() {
    let mut stage = Stage::among(Params::default(), [1, 2, 3]);
    let asker = stage.accept_client(99);
    stage.ask(asker, Request::Store(RecordBlock { replication: 4, ..block(1, b"value") }));
    for peer in [95, 96, 97, 98] {
        let offerer = serving(&mut stage, peer);
        wanted(&mut stage, offerer, &[entry(1, version_at(0), b"value")]);
    }
    assert_eq!(first_offers(&mut stage, secs(37)), []);
}

#[test]
fn one_peer_cannot_silence_a_holder() {
    let mut stage = Stage::among(Params::default(), [1, 2, 3]);
    let liar = serving(&mut stage, 99);
    stage.ask(liar, Request::Store(block(1, b"value")));
    for second in 0..37 {
        if !first_offers(&mut stage, secs(1)).is_empty() {
            return;
        }
        let fresher = RecordBlock { age: Age(second * 900), ..block(1, b"value") };
        assert_eq!(stage.ask(liar, Request::Store(fresher)), stored(&fresher));
        wanted(&mut stage, liar, &[entry(1, version_at(0), b"value")]);
    }
    panic!("half of its life is over, and nobody was offered it");
}

#[test]
fn a_reply_that_names_a_larger_record_ends_the_copy() {
    let mut stage = holding(1);
    stage.befriend(2);
    stage.pass(millis(0));
    let (conn, rpc, _) = stage.copies_wanted()[0];
    stage.reply(conn, rpc, larger(1, version_at(9)));
    stage.pass(secs(1));
    assert_eq!(stage.copies(), []);
    let newer =
        RecordBlock { version: version_at(9), crc: crc_of(b"new"), content: Content::Value(b"new"), ..block(1, b"") };
    assert_eq!(stage.ask(conn, Request::Store(newer)), stored(&newer));
}

#[test]
fn a_near_contact_that_falls_silent_is_asked_within_a_minute_or_so() {
    let mut stage = Stage::among(Params::default(), [1]);
    let silent = stage.befriend(2);
    stage.pass(secs(300));
    stage.script(2);
    stage.forget_deeds();
    stage.pass(secs(75));
    assert!(!stage.knows(2), "a PING, and two seconds of patience");
    assert!(stage.has_closed(silent));
    assert!(stage.knows(1));
}

/// It may have too many connections, and would close the next one too.
#[test]
fn a_near_contact_that_closes_time_and_again_is_not_dialled_each_time() {
    let mut stage = Stage::founder();
    let mut conn = stage.befriend(2);
    stage.script(2);
    stage.close(conn);
    for second in 0..7 {
        if second == 0 {
            let dial = stage.dial_of(2);
            conn = stage.meet(dial, 2);
        } else {
            conn = stage.accept(2);
            stage.tell(conn, &crate::harness::hello());
        }
        for (rpc, _) in stage.asked(conn) {
            stage.reply(conn, rpc, Reply::Pong);
        }
        stage.close(conn);
        stage.pass(millis(900));
        assert_eq!(stage.dials(), [], "second {second}");
    }
    assert!(stage.knows(2));
}

/// Whoever promises a record and does not send it delays it by one `rpc_timeout`, once.
#[test]
fn one_that_offers_what_it_never_sends_keeps_nobody_from_sending_it() {
    let mut stage = Stage::founder();
    let (liar, other) = (stage.accept_client(8), stage.accept_client(9));
    assert_eq!(wanted(&mut stage, liar, &[entry(5, version_at(1), b"never sent")]), [key(5)]);
    assert_eq!(wanted(&mut stage, other, &[entry(5, version_at(0), b"value")]), []);
    stage.pass(secs(2));
    assert_eq!(wanted(&mut stage, liar, &[entry(5, version_at(2), b"never sent")]), [key(5)]);
    assert_eq!(wanted(&mut stage, other, &[entry(5, version_at(0), b"value")]), [key(5)]);
}

#[test]
fn one_that_offers_much_and_sends_nothing_leaves_room_for_what_others_offer() {
    let mut stage = Stage::founder();
    let (liar, other) = (stage.accept_client(8), stage.accept_client(9));
    let many: Vec<Entry> = (0..=ASKED_FOR_MAX)
        .map(|nth| {
            let mut bytes = [1; 32];
            bytes[1..9].copy_from_slice(&nth.to_be_bytes());
            Entry { key: dht::id::Key::new(bytes), ..entry(1, version_at(0), b"never sent") }
        })
        .collect();
    let promised: usize = many.chunks(ENTRIES_MAX).map(|some| wanted(&mut stage, liar, some).len()).sum();
    assert_eq!(promised, dht::limits::ASKED_OF_ONE_MAX);
    assert_eq!(wanted(&mut stage, other, &[entry(5, version_at(0), b"value")]), [key(5)]);
}

#[test]
fn one_that_takes_its_time_over_copies_does_not_hold_up_those_for_others() {
    let mut stage = Stage::founder();
    for n in 3..100 {
        stage.put(quiet(n, b"value"));
    }
    stage.befriend(1);
    stage.pass(millis(0));
    assert_eq!(stage.copies_wanted().len(), COPIES_TO_ONE_MAX);
    let other = stage.befriend(2);
    stage.pass(millis(0));
    let copies = stage.copies_wanted();
    assert_eq!(copies.iter().filter(|(to, ..)| *to == other).count(), COPIES_IN_FLIGHT_MAX - COPIES_TO_ONE_MAX);
}

/// Only the newer one: who holds the older would otherwise keep it, and give it to whoever asks.
#[test]
fn who_holds_a_record_that_belongs_to_others_takes_a_newer_one_and_nothing_else() {
    let mut stage = Stage::new(Params { k: 3, replication_default: 3, ..Params::default() });
    let asker = stage.accept_client(99);
    stage.ask(asker, Request::Store(block(127, b"value")));
    for twice_k_nearer_to_it in [1, 2, 3, 193, 194, 195] {
        stage.befriend(twice_k_nearer_to_it);
    }
    assert_eq!(wanted(&mut stage, asker, &[entry(126, version_at(0), b"value")]), []);
    assert_eq!(stage.ask(asker, Request::Store(block(126, b"value"))), Reply::Error(ErrorCode::OUT_OF_SCOPE));
    assert_eq!(wanted(&mut stage, asker, &[entry(127, version_at(1), b"new")]), [key(127)]);
    let newer = RecordBlock { version: version_at(1), crc: crc_of(b"new"), ..block(127, b"new") };
    assert_eq!(stage.ask(asker, Request::Store(newer)), stored(&newer));
}

/// Whoever brought it did not know those who are responsible.
#[test]
fn a_record_that_belongs_to_others_is_offered_to_the_nearest_of_them_soon() {
    let mut stage = Stage::among(Params::default(), [1, 2, 3]);
    let asker = stage.accept_client(99);
    let ttl = dht::record::Ttl::from_secs(36_000).expect("not zero");
    stage.ask(asker, Request::Store(RecordBlock { ttl, ..block(1, b"value") }));
    assert_eq!(first_offers(&mut stage, STRAY_PAUSE.mul_f64(0.79)), []);
    let offers = first_offers(&mut stage, STRAY_PAUSE.mul_f64(0.42));
    assert_eq!(offers.iter().map(|(to, ..)| stage.at(*to)).collect::<Vec<_>>(), [id(1)]);
    let mut stage = Stage::among(Params::default(), [1, 2]);
    let asker = stage.accept_client(99);
    stage.ask(asker, Request::Store(RecordBlock { ttl, ..block(1, b"value") }));
    assert_eq!(first_offers(&mut stage, 10 * STRAY_PAUSE), [], "it is one of the three itself");
}

/// However often somebody comes and goes.
#[test]
fn who_holds_much_rests_between_two_walks_for_contacts_that_came() {
    let mut stage = Stage::founder();
    let asker = stage.accept_client(99);
    for nth in 0..=SCANNED_PER_TURN_MAX {
        let mut bytes = [1; 32];
        bytes[1..9].copy_from_slice(&nth.to_be_bytes());
        stage.ask(asker, Request::Store(RecordBlock { key: dht::id::Key::new(bytes), ..block(1, b"value") }));
    }
    stage.befriend(2);
    stage.pass(SCAN_PAUSE);
    assert!(!stage.offers().is_empty(), "the first comes in two turns");
    let other = stage.befriend(3);
    stage.pass((SCAN_PAUSE * CHANGES_REST).saturating_sub(millis(1)));
    assert_eq!(stage.offers().iter().filter(|(to, ..)| *to == other).count(), 0);
    stage.pass(millis(1) + SCAN_PAUSE);
    assert_eq!(stage.offers().iter().filter(|(to, ..)| *to == other).count(), 1);
}
