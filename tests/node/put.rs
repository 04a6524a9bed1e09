//! PUT: where copies go, when a PUT is confirmed, and which record wins (sections 1 and 3).

use std::cell::{Cell, RefCell};

use dht::id::RpcId;
use dht::node::action::{ClientId, ConnId, DialError};
use dht::node::params::{Params, Serving};
use dht::record::{Age, Class, Life, Rank, Version};
use dht::wire::api::{ApiReply, Confirm, Put};
use dht::wire::peer::{ErrorCode, RecordBlock, Reply, Request, StoreOutcome};

use crate::harness::{
    Harness, block, confirmed, failure, given, key, larger, millis, quiet, secs, signed, stored, success, version_at,
};

pub(crate) type Copy = (ConnId, RpcId, RecordBlock<'static>);

fn small() -> Params {
    Params { replication_min: 1, ..Params::default() }
}

/// Those of a node that stores nothing itself.
fn client_only() -> Params {
    Params { serving: Serving::No, ..small() }
}

/// A confirmed PUT of the key `n` that three nodes shall hold.
fn put_to_three(n: u8) -> Put<'static> {
    Put { replication: 3, ..confirmed(n, b"value") }
}

fn peers_of(harness: &Harness, copies: &[Copy]) -> Vec<u8> {
    copies.iter().map(|(conn, ..)| harness.id_at(*conn).key().as_bytes()[0]).collect()
}

/// All peers store their copies.
pub(crate) fn store_all(harness: &mut Harness, copies: &[Copy]) {
    for (conn, rpc, block) in copies {
        harness.reply(*conn, *rpc, stored(block));
    }
}

#[test]
fn copies_go_to_the_requested_number_of_nearest_nodes() {
    let mut harness = Harness::with_contacts(small(), 1..=8);
    harness.put(put_to_three(1));
    let copies = harness.copies();
    assert_eq!(peers_of(&harness, &copies), [1, 3, 2]);
    for (_, _, copy) in &copies {
        assert_eq!((copy.key, copy.value(), copy.replication, copy.age), (key(1), &b"value"[..], 3, Age(0)));
    }
    assert!(harness.node.storage().is_empty(), "this node is not among them");
}

/// The lookup knows more nodes than it asked: the next nearest replaces one that fails.
#[test]
fn a_refused_copy_goes_to_the_next_target() {
    let mut harness = Harness::with_contacts(small(), 1..=8);
    let client = harness.put(put_to_three(1));
    let copies = harness.copies();
    harness.reply(copies[0].0, copies[0].1, Reply::Error(ErrorCode::OUT_OF_SCOPE));
    store_all(&mut harness, &copies[1..]);
    let next = harness.copies();
    assert_eq!(peers_of(&harness, &next), [5]);
    store_all(&mut harness, &next);
    assert_eq!(harness.answer(client), success(1, b""));
}

#[test]
fn this_node_stores_a_copy_itself_if_it_is_among_the_nearest() {
    let mut harness = Harness::with_contacts(small(), 1..=8);
    harness.put(put_to_three(128));
    assert_eq!(harness.copies().len(), 2);
    assert_eq!(harness.node.storage().len(), 1);
}

#[test]
fn a_non_serving_node_stores_no_copy_of_its_puts() {
    let mut harness = Harness::with_contacts(client_only(), 1..=8);
    let client = harness.put(put_to_three(128));
    let copies = harness.copies();
    assert_eq!(copies.len(), 3);
    assert!(harness.node.storage().is_empty());
    store_all(&mut harness, &copies);
    assert_eq!(harness.answer(client), success(128, b""));
}

/// Section 1, flag 0: SUCCESS with an empty value once min(replication, reachable nodes) nodes hold it.
#[test]
fn a_put_is_confirmed_only_once_all_its_copies_are_held() {
    let mut harness = Harness::with_contacts(small(), 1..=8);
    let client = harness.put(put_to_three(1));
    let copies = harness.copies();
    store_all(&mut harness, &copies[..2]);
    assert_eq!(harness.answer(client), None);
    store_all(&mut harness, &copies[2..]);
    assert_eq!(harness.answer(client), Some(ApiReply::Success { key: key(1), value: b"" }));
    assert_eq!(harness.node.counters().puts_held, 1);
}

#[test]
fn fewer_replicas_suffice_if_fewer_nodes_are_reachable() {
    let mut harness = Harness::with_contacts(Params::default(), [1]);
    let client = harness.put(confirmed(1, b"value"));
    let copies = harness.copies();
    assert_eq!((copies.len(), harness.node.storage().len()), (1, 1));
    assert_eq!(harness.answer(client), None);
    store_all(&mut harness, &copies);
    assert_eq!(harness.answer(client), success(1, b""));
}

#[test]
fn the_local_copy_of_a_lone_founder_confirms_a_put() {
    let mut harness = Harness::founder();
    let client = harness.put(confirmed(1, b"value"));
    assert_eq!(harness.answer(client), success(1, b""));
}

/// After ERROR 406, 503 or 507 the copy goes to the next nearest node. The contact has not failed.
#[test]
fn after_an_error_reply_the_copy_goes_to_the_next_target_and_the_contact_stays() {
    for code in [ErrorCode::OUT_OF_SCOPE, ErrorCode::NOT_VERIFIED, ErrorCode::FULL] {
        let mut harness = Harness::with_contacts(small(), 1..=8);
        let client = harness.put(put_to_three(1));
        let copies = harness.copies();
        harness.reply(copies[1].0, copies[1].1, Reply::Error(code));
        let next = harness.copies();
        assert_eq!(peers_of(&harness, &next), [5], "{code:?}");
        store_all(&mut harness, &[copies[0], copies[2]]);
        assert_eq!(harness.answer(client), None, "{code:?}");
        store_all(&mut harness, &next);
        assert_eq!(harness.answer(client), success(1, b""));
        assert!(harness.knows(3));
    }
}

/// It is sent again to the busy node all the same: that one may store an older record.
#[test]
fn a_node_that_is_too_busy_for_a_copy_is_replaced_by_the_next_target_after_rpc_timeout() {
    let mut harness = Harness::with_contacts(small(), 1..=8);
    let client = harness.put(put_to_three(1));
    let copies = harness.copies();
    let busy = copies[2].0;
    store_all(&mut harness, &copies[..2]);
    harness.reply(busy, copies[2].1, Reply::Error(ErrorCode::TOO_MANY));
    let (mut tried, mut replaced) = (0, false);
    for _ in 0..60 {
        harness.pass(millis(100));
        for (conn, rpc, block) in harness.copies() {
            if conn == busy {
                tried += 1;
                harness.reply(conn, rpc, Reply::Error(ErrorCode::TOO_MANY));
            } else {
                replaced = true;
                store_all(&mut harness, &[(conn, rpc, block)]);
            }
        }
    }
    assert!(replaced && tried > 5, "{tried} times");
    assert_eq!(harness.answer(client), success(1, b""));
}

/// Section 1: nodes without room do not count as reachable, while more than half have room.
#[test]
fn a_put_is_confirmed_without_the_minority_that_has_no_room() {
    for (without_room, answer) in [(3, success(1, b"")), (4, None)] {
        let mut harness = Harness::with_contacts(client_only(), 1..=7);
        let client = harness.put(Put { replication: 9, ..confirmed(1, b"value") });
        let copies = harness.copies();
        assert_eq!(copies.len(), 7);
        for (conn, rpc, _) in &copies[..without_room] {
            harness.reply(*conn, *rpc, Reply::Error(ErrorCode::FULL));
        }
        store_all(&mut harness, &copies[without_room..6]);
        assert_eq!(harness.answer(client), None);
        store_all(&mut harness, &copies[6..]);
        assert_eq!(harness.answer(client), answer, "{without_room} without room");
    }
}

/// Section 1: nor does a node that answers lookups and stores nothing, whatever it says, or if it says nothing.
#[test]
fn a_put_is_confirmed_without_a_node_that_does_not_store_it() {
    for kind in 0..4 {
        let mut harness = Harness::with_contacts(client_only(), 1..=3);
        harness.pass(secs(1));
        let client = harness.put(put_to_three(1));
        let copies = harness.copies();
        store_all(&mut harness, &copies[..2]);
        let (conn, rpc, copy) = copies[2];
        let lower = Rank { version: version_at(0), ..copy.rank() };
        match kind {
            0 => harness.reply(conn, rpc, Reply::Error(ErrorCode::LEAVING)),
            1 => harness.reply(conn, rpc, Reply::Stored { key: key(1), outcome: StoreOutcome::Larger, held: lower }),
            2 => harness.reply(conn, rpc, Reply::Pong),
            _ => {
                assert_eq!(harness.answer(client), None);
                harness.ask(conn, Request::Ping);
                harness.pass(secs(2));
            }
        }
        assert_eq!(harness.answer(client), success(1, b""), "{kind}");
    }
}

#[test]
fn a_put_is_confirmed_without_a_node_that_is_too_busy_for_its_lookup_for_rpc_timeout() {
    let mut harness = Harness::with_contacts(client_only(), 1..=3);
    harness.make_scripted(3);
    let client = harness.put(put_to_three(1));
    for (tenths, answer) in [(15, None), (15, success(1, b""))] {
        for _ in 0..tenths {
            harness.pass(millis(100));
            harness.answer_find_value(|_, _| Some(Reply::Error(ErrorCode::TOO_MANY)));
            let copies = harness.copies();
            store_all(&mut harness, &copies);
        }
        assert_eq!(harness.answer(client), answer);
    }
}

#[test]
fn a_node_that_was_too_busy_for_a_lookup_is_asked_again_while_the_put_runs() {
    let mut harness = Harness::with_contacts(client_only(), 1..=3);
    harness.make_scripted(3);
    harness.put(put_to_three(1));
    for _ in 0..30 {
        harness.pass(millis(100));
        harness.answer_find_value(|_, _| Some(Reply::Error(ErrorCode::TOO_MANY)));
    }
    assert_eq!(harness.copies().len(), 2, "the PUT has gone on without it");
    let asked_again = Cell::new(false);
    for _ in 0..15 {
        harness.pass(millis(100));
        harness.answer_find_value(|peer, want| {
            asked_again.set(peer == 3);
            Some(given(block(1, b"older"), want))
        });
    }
    assert!(asked_again.get());
}

#[test]
fn a_put_is_confirmed_without_a_node_that_is_too_busy_for_rpc_timeout() {
    let mut harness = Harness::with_contacts(client_only(), 1..=3);
    let client = harness.put(put_to_three(1));
    let copies = harness.copies();
    store_all(&mut harness, &copies[..2]);
    harness.reply(copies[2].0, copies[2].1, Reply::Error(ErrorCode::TOO_MANY));
    for (tenths, answer) in [(15, None), (15, success(1, b""))] {
        for _ in 0..tenths {
            harness.pass(millis(100));
            for (conn, rpc, _) in harness.copies() {
                harness.reply(conn, rpc, Reply::Error(ErrorCode::TOO_MANY));
            }
        }
        assert_eq!(harness.answer(client), answer);
    }
}

#[test]
fn a_silent_node_is_replaced_by_the_next_target() {
    let mut harness = Harness::with_contacts(small(), 1..=8);
    let client = harness.put(put_to_three(1));
    let copies = harness.copies();
    store_all(&mut harness, &copies[..2]);
    harness.pass(millis(200));
    let next = harness.copies();
    assert_eq!(peers_of(&harness, &next), [5]);
    store_all(&mut harness, &next);
    assert_eq!(harness.answer(client), success(1, b""));
}

#[test]
fn a_node_that_cannot_be_dialled_is_replaced_by_the_next_target() {
    let mut harness = Harness::with_contacts(small(), 2..=8);
    let gone = harness.add_contact(1);
    harness.put(put_to_three(1));
    let copies = harness.copies();
    assert_eq!(copies[0].0, gone);
    harness.make_scripted(1);
    harness.close(gone);
    let dial = harness.dial_of(1);
    harness.fail(dial, DialError::Unreachable);
    let next = harness.copies();
    assert_eq!(peers_of(&harness, &next), [5]);
}

/// The age is set when the message is encoded.
#[test]
fn the_age_of_a_copy_includes_its_wait_for_a_connection() {
    let mut harness = Harness::founder();
    let conn = harness.add_contact(1);
    harness.put(quiet(1, b"value"));
    harness.close(conn);
    let first = harness.copies();
    harness.make_scripted(1);
    assert_eq!(first.len(), 2, "sent, cut off and sent once more");

    let mut harness = Harness::founder();
    let conn = harness.add_contact(1);
    harness.put(quiet(1, b"value"));
    harness.make_scripted(1);
    harness.close(conn);
    let dial = harness.dial_of(1);
    harness.forget_actions();
    harness.pass(millis(1_500));
    harness.complete_dial(dial, 1);
    assert_eq!(harness.copies()[0].2.age, Age(1_500));
}

/// FAILURE at the deadline means *unknown*: the PUT goes on.
#[test]
fn a_put_without_enough_replicas_fails_at_its_deadline_and_goes_on() {
    let mut harness = Harness::founder();
    let slow = harness.add_contact(1);
    let client = harness.put(confirmed(1, b"value"));
    for second in 1..=9 {
        harness.pass(secs(1));
        assert_eq!(harness.answer(client), None, "after {second} s");
        harness.ask(slow, Request::Ping);
    }
    harness.forget_actions();
    harness.pass(millis(999));
    let last = harness.copies();
    harness.pass(millis(1));
    assert_eq!(harness.answer(client), failure(1));
    store_all(&mut harness, &last);
    harness.pass(secs(30));
    assert_eq!(harness.answer(client), None, "it is answered once");
    assert_eq!(harness.node.lookups().filter(|lookup| *lookup.target() == key(1)).count(), 0);
}

#[test]
fn a_put_with_too_few_replicas_is_retried_before_its_deadline() {
    let mut harness = Harness::with_contacts(small(), [1, 2]);
    let client = harness.put(put_to_three(1));
    for (conn, rpc, _) in harness.copies() {
        harness.reply(conn, rpc, Reply::Error(ErrorCode::FULL));
    }
    assert_eq!(harness.copies(), []);
    harness.pass(secs(1));
    let again = harness.copies();
    assert_eq!(peers_of(&harness, &again), [1, 2]);
    store_all(&mut harness, &again);
    assert_eq!(harness.answer(client), success(1, b""));
}

/// Section 3: a STORE REPLY that names a larger record ends the PUT.
#[test]
fn a_superseded_put_ends() {
    let mut harness = Harness::with_contacts(small(), 1..=8);
    let client = harness.put(put_to_three(1));
    let copies = harness.copies();
    let newer = Version::from_bits(copies[0].2.version.bits() + 1);
    harness.reply(copies[0].0, copies[0].1, larger(1, newer));
    assert_eq!((harness.answer(client), harness.copies()), (None, vec![]), "other copies are in flight");
    store_all(&mut harness, &copies[1..]);
    assert_eq!(harness.answer(client), failure(1));
    harness.pass(secs(30));
    assert_eq!((harness.answer(client), harness.copies()), (None, vec![]));
}

/// Section 3: if the time in that version is ahead of this node's own wall clock, the PUT repeats its attempt, once. Its
/// version stays if the lookup does not find that record.
#[test]
fn an_attempt_that_meets_a_version_ahead_of_the_local_clock_is_repeated_once() {
    let mut harness = Harness::with_contacts(small(), 1..=8);
    let client = harness.put(put_to_three(1));
    let first = harness.copies();
    harness.reply(first[0].0, first[0].1, larger(1, version_at(300_000)));
    let again = harness.copies();
    assert_eq!(peers_of(&harness, &again), [1, 3, 2]);
    assert!(again.iter().all(|(_, _, copy)| copy.version == first[0].2.version));
    store_all(&mut harness, &first[1..]);
    assert_eq!(harness.answer(client), None, "replies to the first spreading do not count");
    harness.reply(again[0].0, again[0].1, larger(1, version_at(400_000)));
    store_all(&mut harness, &again[1..]);
    assert_eq!((harness.answer(client), harness.copies()), (failure(1), vec![]));
}

/// While a PUT runs, this node stores an older record that another node has sent. When a peer stores the one of the PUT,
/// this node does too. It leaves no tombstone, which would hide the older record from readers that find only that.
#[test]
fn a_put_replaces_an_older_record_that_came_meanwhile() {
    let mut harness = Harness::with_contacts(small(), 1..=8);
    harness.pass(secs(1));
    harness.put(put_to_three(1));
    let copies = harness.copies();
    let asker = harness.accept_client(9);
    let older = block(1, b"older");
    assert_eq!(harness.ask(asker, Request::Store(older)), stored(&older));
    store_all(&mut harness, &copies[..1]);
    let held = harness.node.storage().find(harness.now, &key(1));
    assert_eq!(held.map(|held| &held.record.value[..]), Some(&b"value"[..]));
    assert_eq!(harness.node.storage().tombstone(harness.now(), &key(1)), None);
}

/// A PUT of three copies; returns one more copy, which replaces the one to a silent node, and is in flight after enough
/// nodes have stored the record.
fn stored_with_a_copy_in_flight(confirm: Confirm) -> (Harness, ClientId, Copy) {
    let mut harness = Harness::with_contacts(small(), 1..=8);
    let client = harness.put(Put { confirm, ..put_to_three(1) });
    let copies = harness.copies();
    store_all(&mut harness, &copies[..2]);
    harness.pass(millis(200));
    let replacement = harness.copies();
    assert_eq!(peers_of(&harness, &replacement), [5]);
    store_all(&mut harness, &copies[2..]);
    (harness, client, replacement[0])
}

/// The larger record that the last node reports may be of a later PUT that was confirmed since.
#[test]
fn a_put_that_enough_nodes_store_overtakes_nothing() {
    for confirm in [Confirm::Yes, Confirm::No] {
        let (mut harness, client, (conn, rpc, _)) = stored_with_a_copy_in_flight(confirm);
        assert_eq!(harness.answer(client), if confirm == Confirm::Yes { success(1, b"") } else { None });
        (1..=8).for_each(|peer| harness.make_scripted(peer));
        harness.reply(conn, rpc, larger(1, version_at(300_000)));
        assert_eq!((harness.answer(client), harness.copies()), (None, vec![]));
        let other = RecordBlock { version: version_at(300_000), age: Age(300), ..block(1, b"other") };
        harness.answer_find_value(|_, want| Some(given(other, want)));
        harness.pass(secs(60));
        assert_eq!(harness.answer(client), None);
        let copies = harness.copies();
        assert!(copies.iter().all(|(_, _, copy)| copy.version == other.version), "{copies:?}");
        assert_eq!(harness.node.counters().puts_held, 1);
    }
}

/// A client may have read a later record elsewhere, although a copy of this PUT is still in flight.
#[test]
fn the_record_of_a_put_that_enough_nodes_store_is_read_from_them() {
    for confirm in [Confirm::Yes, Confirm::No] {
        let (mut harness, ..) = stored_with_a_copy_in_flight(confirm);
        (1..=8).for_each(|peer| harness.make_scripted(peer));
        let reader = harness.get(key(1));
        assert_eq!(harness.answer(reader), None);
        let later = RecordBlock { version: version_at(1_000), ..block(1, b"later") };
        harness.answer_find_value(|_, want| Some(given(later, want)));
        assert_eq!(harness.answer(reader), success(1, b"later"));
    }
}

#[test]
fn a_put_that_overtook_a_version_is_confirmed_once_its_copies_are_held() {
    let mut harness = Harness::with_contacts(small(), 1..=8);
    let client = harness.put(put_to_three(1));
    let first = harness.copies();
    harness.reply(first[0].0, first[0].1, larger(1, version_at(300_000)));
    let again = harness.copies();
    store_all(&mut harness, &again);
    assert_eq!(harness.answer(client), success(1, b""));
}

/// Section 3: the record that the first lookup meets may have been confirmed before this PUT began, by a node whose
/// clock is a little ahead. When the answer arrives, this node's clock has reached that version.
#[test]
fn a_put_draws_its_version_above_those_that_its_first_lookup_meets() {
    let mut harness = Harness::with_contacts(Params::default(), [1, 2]);
    harness.make_scripted(1);
    harness.make_scripted(2);
    let client = harness.put(confirmed(1, b"later"));
    harness.pass(millis(100));
    let earlier = RecordBlock { version: version_at(50), age: Age(100), ..block(1, b"earlier") };
    harness.answer_find_value(|_, want| Some(given(earlier, want)));
    let copies = harness.copies();
    assert!(!copies.is_empty() && copies.iter().all(|(_, _, copy)| copy.version > version_at(50)), "{copies:?}");
    for (conn, rpc, copy) in copies {
        harness.reply(conn, rpc, stored(&copy));
    }
    assert_eq!(harness.answer(client), success(1, b""));
}

/// Section 3: an answer that comes late leaves open whether the PUT of the record in it began before this one. So the
/// lookup is repeated, and its answers decide.
#[test]
fn a_put_is_raised_above_a_record_only_if_that_surely_began_before() {
    for (first_age, second_age, raised) in [(60, 250, true), (50, 50, false)] {
        let mut harness = Harness::with_contacts(Params::default(), [1, 2]);
        harness.make_scripted(1);
        harness.make_scripted(2);
        harness.put(confirmed(1, b"this"));
        harness.pass(millis(200));
        let asked = RefCell::new(Vec::new());
        harness.answer_find_value(|peer, want| {
            let is_first = !asked.borrow().contains(&peer);
            asked.borrow_mut().push(peer);
            let age = Age(if is_first { first_age } else { second_age });
            Some(given(RecordBlock { version: version_at(500), age, ..block(1, b"other") }, want))
        });
        assert_eq!(asked.borrow().len(), 4, "each peer is asked twice");
        let copies = harness.copies();
        assert!(!copies.is_empty());
        assert!(copies.iter().all(|(_, _, copy)| (copy.version > version_at(500)) == raised), "{copies:?}");
    }
}

/// Of two writes through this node the second one wins, whatever clock drew the version before them.
#[test]
fn a_put_does_not_overtake_a_later_put_at_the_same_node() {
    let mut harness = Harness::with_contacts(small(), 1..=8);
    let asker = harness.accept_client(9);
    harness.ask(asker, Request::Store(RecordBlock { version: version_at(300_000), ..block(1, b"fast") }));
    let first = harness.put(put_to_three(1));
    let earlier = harness.copies();
    let second = harness.put(Put { value: b"later", ..put_to_three(1) });
    harness.reply(earlier[0].0, earlier[0].1, larger(1, Version::from_bits(earlier[0].2.version.bits() + 1)));
    store_all(&mut harness, &earlier[1..]);
    let later = harness.copies();
    assert!(!later.is_empty() && later.iter().all(|(_, _, copy)| copy.value() == b"later"), "{later:?}");
    store_all(&mut harness, &later);
    assert_eq!([first, second].map(|client| harness.answer(client)), [success(1, b""), success(1, b"")]);
}

/// The claim of one replica proves nothing: otherwise a single liar could end every PUT of a key.
#[test]
fn one_claim_of_a_larger_record_does_not_end_a_signed_put() {
    let mut harness = Harness::with_contacts(small(), 1..=8);
    let record = signed(1, 0, b"v");
    let put = Put { key: record.key, class: record.class, value: record.value(), ttl: 0, ..put_to_three(1) };
    let client = harness.put(put);
    let copies = harness.copies();
    let lie = |copy: &RecordBlock<'static>| {
        let held = Rank { class: Class::Signed, life: Life::Alive, version: version_at(9) };
        Reply::Stored { key: copy.key, outcome: StoreOutcome::Larger, held }
    };
    harness.reply(copies[0].0, copies[0].1, lie(&copies[0].2));
    store_all(&mut harness, &copies[1..]);
    let next = harness.copies();
    assert_eq!(next.len(), 1, "the next closest takes the copy when all others have answered");
    store_all(&mut harness, &next);
    assert_eq!(harness.answer(client), Some(ApiReply::Success { key: record.key, value: b"" }));

    let client = harness.put(Put { value: signed(1, 5, b"w").value(), ..put });
    for (conn, rpc, copy) in harness.copies() {
        harness.reply(conn, rpc, lie(&copy));
    }
    assert_eq!(harness.answer(client), Some(ApiReply::Failure { key: record.key }), "all know better");
    assert_eq!(harness.copies(), []);
}

/// Section 3: every node ignores a version that is more than ten minutes ahead. And a claim of a larger
/// record must name a larger one.
#[test]
fn an_impossible_claim_does_not_end_a_put() {
    for unbelievable in [version_at(700_000), Version::from_bits(u64::MAX), Version::from_bits(1)] {
        let mut harness = Harness::with_contacts(small(), 1..=8);
        let client = harness.put(put_to_three(1));
        let copies = harness.copies();
        harness.reply(copies[0].0, copies[0].1, larger(1, unbelievable));
        assert_eq!(harness.answer(client), None, "{unbelievable:?}");
        let next = harness.copies();
        assert_eq!(peers_of(&harness, &next), [5], "the next closest takes the copy");
        store_all(&mut harness, &[copies[1], copies[2], next[0]]);
        assert_eq!(harness.answer(client), success(1, b""));
    }
}

/// Section 1, rule 1: a PUT is answered only if it asks for confirmation.
#[test]
fn a_put_without_the_confirm_flag_is_never_answered() {
    let mut held = Harness::with_contacts(small(), 1..=8);
    let client = held.put(Put { replication: 3, ..quiet(1, b"value") });
    let copies = held.copies();
    store_all(&mut held, &copies);
    held.pass(secs(30));
    assert_eq!(held.answer(client), None);

    let mut unheld = Harness::with_contacts(small(), [1]);
    let client = unheld.put(quiet(1, b"value"));
    unheld.pass(secs(30));
    assert_eq!(unheld.answer(client), None);

    let mut refused = Harness::new(Params { storage_bytes_max: 0, ..Params::default() });
    let client = refused.put(quiet(1, b"value"));
    assert_eq!((refused.answer(client), refused.node.counters().puts_refused), (None, 1));
}

#[test]
fn a_refused_put_with_the_confirm_flag_is_answered_with_failure() {
    let mut harness = Harness::new(Params { storage_bytes_max: 0, ..Params::default() });
    let client = harness.put(confirmed(1, b"value"));
    assert_eq!(harness.answer(client), failure(1));
}

/// Section 1, rules 7 and 8.
#[test]
fn ttl_and_replication_are_clamped_and_0_means_the_default() {
    let ttl = |secs| dht::record::Ttl::from_secs(secs).expect("not zero");
    let params = Params { ttl_min: ttl(10), ttl_max: ttl(7200), ..Params::default() };
    for (asked, taken) in [((0, 0), (3600, 8)), ((1, 1), (10, 3)), ((60, 5), (60, 5)), ((65_535, 255), (7200, 20))] {
        let mut harness = Harness::with_contacts(params.clone(), [1]);
        harness.put(Put { ttl: asked.0, replication: asked.1, ..quiet(1, b"value") });
        let (_, _, copy) = harness.copies()[0];
        assert_eq!((copy.ttl.as_secs(), copy.replication), taken, "asked for {asked:?}");
    }
}

/// Section 1, rule 9.
#[test]
fn a_later_put_of_a_key_has_a_larger_version_even_at_the_same_instant() {
    let mut harness = Harness::with_contacts(small(), [1]);
    let versions: Vec<Version> = (0..5)
        .map(|_| {
            harness.put(quiet(1, b"value"));
            let copies = harness.copies();
            store_all(&mut harness, &copies);
            copies[0].2.version
        })
        .collect();
    assert!(versions.is_sorted_by(|a, b| a < b), "{versions:?}");
}

#[test]
fn a_new_version_is_above_the_version_held_locally() {
    let mut harness = Harness::founder();
    let asker = harness.accept_client(9);
    let ahead = RecordBlock { version: version_at(300_000), ..block(1, b"old") };
    harness.ask(asker, Request::Store(ahead));
    let client = harness.put(confirmed(1, b"new"));
    assert_eq!(harness.answer(client), success(1, b""));
    let client = harness.get(key(1));
    assert_eq!(harness.answer(client), success(1, b"new"));
}
