//! Retries: the node that took a PUT repeats it until enough replicas hold the record (section 1, flag
//! 0).

use std::time::Duration;

use dht::id::RpcId;
use dht::limits::{CLIENT_REQUESTS_MAX, PUT_RETRIES_IN_FLIGHT_MAX, PUT_RETRY_PAUSE_MAX};
use dht::node::action::ConnId;
use dht::node::params::{Params, Serving};
use dht::record::Version;
use dht::wire::api::Put;
use dht::wire::codec::List;
use dht::wire::peer::{ErrorCode, PeerMessage, RecordBlock, Reply, Request};

use crate::harness::{
    Harness, block, confirmed, failure, id, key, larger, millis, quiet, secs, stored, success, version_at,
};

fn small() -> Params {
    Params { replication_min: 1, ..Params::default() }
}

/// Moves the clock by `span` in steps of a second, while the peers refuse every copy; returns the seconds
/// at which copies were sent.
fn refuse_for(harness: &mut Harness, span: Duration) -> Vec<u64> {
    let mut attempts = Vec::new();
    for second in 0..span.as_secs() {
        let mut copies = harness.copies();
        if !copies.is_empty() {
            attempts.push(second);
        }
        while let Some((conn, rpc, _)) = copies.pop() {
            harness.reply(conn, rpc, Reply::Error(ErrorCode::FULL));
            copies.extend(harness.copies());
        }
        harness.pass(secs(1));
        for (conn, rpc, _) in harness.offers() {
            harness.reply(conn, rpc, Reply::Wanted(List::lend(&[])));
        }
        harness.forget_all_but_copies();
    }
    attempts
}

/// A PUT of the key 1 with a TTL of an hour, which every peer refuses.
fn refused_put(params: Params) -> Harness {
    let mut harness = Harness::with_contacts(params, [1, 2]);
    harness.put(Put { ttl: 3_600, replication: 2, ..quiet(1, b"v") });
    harness
}

#[test]
fn a_put_that_no_peer_stores_is_retried_with_growing_pauses_until_its_ttl_ends() {
    let mut harness = refused_put(small());
    let attempts = refuse_for(&mut harness, secs(4_200));
    let pauses: Vec<u64> = attempts.windows(2).map(|two| two[1] - two[0]).collect();
    let longest = PUT_RETRY_PAUSE_MAX.as_secs();
    assert!(pauses.starts_with(&[1, 2, 4]), "{pauses:?}");
    assert!(pauses.is_sorted(), "{pauses:?}");
    assert_eq!(pauses.last(), Some(&longest), "{pauses:?}");
    assert!(attempts.last().is_some_and(|last| (3_600 - longest..=3_600).contains(last)), "{attempts:?}");
}

#[test]
fn a_put_that_failed_at_its_deadline_is_retried_until_replicas_store_it() {
    let mut harness = Harness::with_contacts(small(), [1, 2]);
    let client = harness.put(Put { ttl: 3_600, replication: 2, ..confirmed(1, b"v") });
    refuse_for(&mut harness, secs(60));
    assert_eq!(harness.answer(client), None, "it was answered, and forgotten, long ago");
    let reader = harness.get(key(1));
    assert_eq!(harness.answer(reader), success(1, b"v"), "it is read here as long as it is kept");
    for _ in 0..300 {
        harness.pass(secs(1));
        for (conn, rpc, copy) in harness.copies() {
            harness.reply(conn, rpc, stored(&copy));
        }
    }
    assert_eq!(harness.node.counters().puts_held, 1);
    harness.pass(secs(1_000));
    let again = harness.copies().into_iter().filter(|(_, _, copy)| copy.key == key(1)).count();
    assert_eq!(again, 0, "it is over");
}

#[test]
fn a_retry_ends_once_a_peer_holds_a_larger_record() {
    let mut harness = refused_put(small());
    refuse_for(&mut harness, secs(60));
    let copies = next_copies(&mut harness);
    for (conn, rpc, _) in copies {
        harness.reply(conn, rpc, larger(1, version_at(50_000)));
    }
    assert_eq!(refuse_for(&mut harness, secs(1_000)), []);
}

/// Moves the clock until copies are sent.
fn next_copies(harness: &mut Harness) -> Vec<(ConnId, RpcId, RecordBlock<'static>)> {
    loop {
        harness.pass(secs(1));
        let copies = harness.copies();
        if !copies.is_empty() {
            return copies;
        }
    }
}

/// The peers answer `copies` by a record of a later PUT, whose version is ahead of this node's clock.
fn name_a_later_put(harness: &mut Harness, copies: Vec<(ConnId, RpcId, RecordBlock<'static>)>) {
    let ahead = harness.now().wall.as_millis() + 2_000;
    for (conn, rpc, _) in copies {
        harness.reply(conn, rpc, larger(1, Version::from_bits(ahead << 16)));
    }
}

/// The client was answered by FAILURE, and another PUT was made and confirmed since. So the retry must not replace it,
/// although its version shows that the clock of this node runs behind.
#[test]
fn the_version_of_a_retry_is_not_raised_above_a_later_put() {
    let mut harness = Harness::with_contacts(small(), [1, 2]);
    harness.put(Put { ttl: 3_600, replication: 2, ..confirmed(1, b"v") });
    refuse_for(&mut harness, secs(60));
    let copies = next_copies(&mut harness);
    name_a_later_put(&mut harness, copies);
    assert_eq!(refuse_for(&mut harness, secs(1_000)), []);
}

/// The same, while the attempt goes on that was in flight when the client got its answer.
#[test]
fn the_version_of_a_put_that_has_failed_for_its_client_is_not_raised() {
    let params = Params { rpc_timeout: millis(1_500), request_timeout: secs(2), ..small() };
    let mut harness = Harness::with_contacts(params, [1, 2]);
    let client = harness.put(Put { ttl: 3_600, replication: 2, ..confirmed(1, b"v") });
    for (conn, rpc, _) in harness.copies() {
        harness.reply(conn, rpc, Reply::Error(ErrorCode::FULL));
    }
    harness.pass(secs(1));
    let copies = harness.copies();
    assert!(!copies.is_empty(), "the second attempt");
    harness.pass(secs(1));
    assert_eq!(harness.answer(client), failure(1));
    harness.forget_actions(); // a copy for another peer, in place of the slow one
    name_a_later_put(&mut harness, copies);
    assert_eq!(refuse_for(&mut harness, secs(1_000)), []);
}

#[test]
fn put_retries_do_not_count_as_client_requests() {
    let mut harness = Harness::with_contacts(Params { replication_min: 1, ..Params::default() }, [1]);
    for n in 0..CLIENT_REQUESTS_MAX {
        let mut key = [1; 32];
        key[30..].copy_from_slice(&u16::try_from(n).expect("a small bound").to_be_bytes());
        harness.put(Put { key: dht::id::Key::new(key), replication: 1, ttl: 3_600, ..quiet(1, b"v") });
    }
    assert!(!harness.node.wants_requests());
    for _ in 0..20 {
        for (conn, rpc, _) in harness.copies() {
            harness.reply(conn, rpc, Reply::Error(ErrorCode::FULL));
        }
        harness.pass(secs(1));
    }
    assert!(harness.node.wants_requests(), "they are kept, and wait elsewhere");
    assert_eq!(harness.node.storage().len(), CLIENT_REQUESTS_MAX);
    harness.forget_actions();
    harness.pass(secs(1));
    assert!(harness.copies().len() <= PUT_RETRIES_IN_FLIGHT_MAX, "a few at a time");
}

#[test]
fn a_new_put_of_the_key_replaces_its_retry() {
    let mut harness = refused_put(small());
    refuse_for(&mut harness, secs(60));
    harness.put(Put { replication: 2, ..quiet(1, b"next") });
    for _ in 0..600 {
        for (conn, rpc, copy) in harness.copies() {
            assert_eq!(copy.value(), b"next");
            harness.reply(conn, rpc, stored(&copy));
        }
        harness.pass(secs(1));
    }
}

/// Section 1, rule 6: a GET reads a PUT that is being retried. So the retry of the earlier PUT must end
/// once a later one was taken.
#[test]
fn an_earlier_put_is_not_retried_after_a_later_put_of_the_key() {
    let mut harness = refused_put(Params { serving: Serving::No, ..small() });
    refuse_for(&mut harness, secs(9));
    harness.put(Put { ttl: 3_600, replication: 2, ..quiet(1, b"next") });
    refuse_for(&mut harness, secs(8));
    for second in 17..25 {
        let reader = harness.get(key(1));
        assert_eq!(harness.answer(reader), success(1, b"next"), "after {second} s");
        harness.pass(secs(1));
    }
}

/// Otherwise the node would wake turn after turn, and find no room each time.
#[test]
fn a_due_retry_waits_while_client_requests_take_all_room() {
    let mut harness = refused_put(small());
    refuse_for(&mut harness, secs(13));
    for n in 0..CLIENT_REQUESTS_MAX {
        let mut key = [2; 32];
        key[30..].copy_from_slice(&u16::try_from(n).expect("a small bound").to_be_bytes());
        harness.put(Put { key: dht::id::Key::new(key), replication: 2, ttl: 3_600, ..quiet(2, b"v") });
        harness.pass(Duration::from_millis(1));
    }
    let of_key_1 = |harness: &mut Harness| harness.copies().iter().any(|(_, _, copy)| copy.key == key(1));
    for _ in 0..5 {
        harness.pass(secs(1));
        assert!(!harness.node.wants_requests() && !of_key_1(&mut harness));
    }
    // Peers that answer PING only are unresponsive again and again, and thousands of other PUTs are retried too.
    let mut tried = false;
    for _ in 0..1_000 {
        harness.pass(secs(1));
        tried |= of_key_1(&mut harness);
    }
    assert!(tried, "there is room again");
}

/// A node that does not serve stores nothing for others, but does not lose its own PUTs.
#[test]
fn a_non_serving_node_retries_its_puts_and_stores_for_no_peer() {
    let mut harness = refused_put(Params { serving: Serving::No, ..small() });
    refuse_for(&mut harness, secs(30));
    assert_eq!(harness.node.storage().len(), 1);
    let asker = harness.accept_client(9);
    assert_eq!(harness.ask(asker, Request::Store(block(2, b"v"))), Reply::Error(ErrorCode::OUT_OF_SCOPE));
    assert!(!refuse_for(&mut harness, secs(300)).is_empty());
}

#[test]
fn a_put_without_room_for_a_retry_fails_and_is_dropped() {
    let mut harness = Harness::with_contacts(Params { storage_bytes_max: 0, ..small() }, [1, 2]);
    let client = harness.put(Put { replication: 2, ..confirmed(1, b"v") });
    for _ in 0..10 {
        for (conn, rpc, _) in harness.copies() {
            harness.reply(conn, rpc, Reply::Error(ErrorCode::FULL));
        }
        harness.pass(secs(1));
    }
    assert_eq!(harness.answer(client), failure(1));
    assert_eq!(refuse_for(&mut harness, secs(600)), []);
    assert!(harness.node.table().contains(&id(1)));
}

#[test]
fn a_put_that_waited_for_the_node_to_join_is_retried_with_pauses() {
    let mut harness = Harness::newcomer();
    harness.wake();
    harness.put(Put { ttl: 3_600, replication: 2, ..quiet(1, b"v") });
    let dial = harness.dial_of(1);
    harness.make_automatic(1);
    harness.complete_dial(dial, 1);
    let mut copies = 0;
    for _ in 0..60 {
        harness.pass(secs(1));
        while let Some((conn, rpc, _)) = harness.copies().pop() {
            copies += 1;
            assert!(copies < 10, "{copies} copies within a minute");
            harness.reply(conn, rpc, Reply::Error(ErrorCode::FULL));
            harness.pass(secs(0));
        }
    }
    assert!(copies > 2, "{copies} copies in a minute");
}

#[test]
fn a_put_whose_life_ends_before_its_request_timeout_is_answered() {
    let mut harness = Harness::with_contacts(small(), [1]);
    let client = harness.put(Put { ttl: 2, replication: 2, ..confirmed(1, b"v") });
    harness.pass(secs(10));
    assert_eq!(harness.answer(client), failure(1));
}

#[test]
fn a_put_whose_retry_and_request_timeout_are_due_in_one_late_turn_is_answered() {
    let mut harness = Harness::with_contacts(Params { serving: Serving::No, ..small() }, [1]);
    let client = harness.put(Put { ttl: 3_600, replication: 2, ..confirmed(1, b"v") });
    for (conn, rpc, _) in harness.copies() {
        harness.reply(conn, rpc, Reply::Error(ErrorCode::FULL));
        harness.send(conn, &PeerMessage::Goodbye);
    }
    harness.now = harness.now + secs(12);
    harness.wake();
    harness.pass(secs(1));
    assert_eq!(harness.answer(client), failure(1));
}
