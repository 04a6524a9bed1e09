//! PUTs that too few hold: kept by the node that took them, and tried again (section 1, flag 0).

use std::time::Duration;

use dht::limits::{CLIENT_REQUESTS_MAX, PUT_RETRIES_IN_FLIGHT_MAX, PUT_RETRY_PAUSE_MAX};
use dht::node::params::{Params, Serving};
use dht::wire::api::Put;
use dht::wire::peer::{ErrorCode, Reply, Request};

use crate::harness::{Stage, block, confirmed, failure, id, key, larger, quiet, secs, stored, success, version_at};

fn small() -> Params {
    Params { replication_min: 1, ..Params::default() }
}

/// Lets `span` pass, second by second, while the peers refuse every copy; returns the seconds at
/// which copies came.
fn refuse_for(stage: &mut Stage, span: Duration) -> Vec<u64> {
    let mut attempts = Vec::new();
    for second in 0..span.as_secs() {
        let mut copies = stage.copies();
        if !copies.is_empty() {
            attempts.push(second);
        }
        while let Some((conn, rpc, _)) = copies.pop() {
            stage.reply(conn, rpc, Reply::Error(ErrorCode::FULL));
            copies.extend(stage.copies());
        }
        stage.pass(secs(1));
        stage.forget_but_copies();
    }
    attempts
}

/// A PUT of the key 1 that shall live for an hour, which nobody takes.
fn refused_put(params: Params) -> Stage {
    let mut stage = Stage::among(params, [1, 2]);
    stage.put(Put { ttl: 3_600, replication: 2, ..quiet(1, b"v") });
    stage
}

#[test]
fn a_put_that_nobody_takes_is_tried_again_ever_more_rarely_until_the_end_of_its_life() {
    let mut stage = refused_put(small());
    let attempts = refuse_for(&mut stage, secs(4_200));
    let pauses: Vec<u64> = attempts.windows(2).map(|two| two[1] - two[0]).collect();
    let longest = PUT_RETRY_PAUSE_MAX.as_secs();
    assert!(pauses.starts_with(&[1, 2, 4]), "{pauses:?}");
    assert!(pauses.is_sorted(), "{pauses:?}");
    assert_eq!(pauses.last(), Some(&longest), "{pauses:?}");
    assert!(attempts.last().is_some_and(|last| (3_600 - longest..=3_600).contains(last)), "{attempts:?}");
}

#[test]
fn a_put_that_was_failed_at_its_deadline_is_held_when_somebody_takes_it_at_last() {
    let mut stage = Stage::among(small(), [1, 2]);
    let client = stage.put(Put { ttl: 3_600, replication: 2, ..confirmed(1, b"v") });
    refuse_for(&mut stage, secs(60));
    assert_eq!(stage.answer(client), None, "it was answered, and forgotten, long ago");
    let reader = stage.get(key(1));
    assert_eq!(stage.answer(reader), success(1, b"v"), "it is read here as long as it is kept");
    for _ in 0..300 {
        stage.pass(secs(1));
        for (conn, rpc, copy) in stage.copies() {
            stage.reply(conn, rpc, stored(&copy));
        }
    }
    assert_eq!(stage.node.counters().puts_held, 1);
    stage.pass(secs(1_000));
    let again = stage.copies().into_iter().filter(|(_, _, copy)| copy.key == key(1)).count();
    assert_eq!(again, 0, "it is over");
}

#[test]
fn a_kept_put_is_over_when_somebody_holds_a_larger_record() {
    let mut stage = refused_put(small());
    refuse_for(&mut stage, secs(60));
    let copies = loop {
        stage.pass(secs(1));
        let copies = stage.copies();
        if !copies.is_empty() {
            break copies;
        }
    };
    for (conn, rpc, _) in copies {
        stage.reply(conn, rpc, larger(1, version_at(50_000)));
    }
    assert_eq!(refuse_for(&mut stage, secs(1_000)), []);
}

#[test]
fn kept_puts_are_no_requests_of_clients() {
    let mut stage = Stage::among(Params { replication_min: 1, ..Params::default() }, [1]);
    for n in 0..CLIENT_REQUESTS_MAX {
        let mut key = [1; 32];
        key[30..].copy_from_slice(&u16::try_from(n).expect("a small bound").to_be_bytes());
        stage.put(Put { key: dht::id::Key::new(key), replication: 1, ttl: 3_600, ..quiet(1, b"v") });
    }
    assert!(!stage.node.wants_requests());
    for _ in 0..20 {
        for (conn, rpc, _) in stage.copies() {
            stage.reply(conn, rpc, Reply::Error(ErrorCode::FULL));
        }
        stage.pass(secs(1));
    }
    assert!(stage.node.wants_requests(), "they are kept, and wait elsewhere");
    assert_eq!(stage.node.storage().len(), CLIENT_REQUESTS_MAX);
    stage.forget_deeds();
    stage.pass(secs(1));
    assert!(stage.copies().len() <= PUT_RETRIES_IN_FLIGHT_MAX, "a few at a time");
}

#[test]
fn what_is_put_again_takes_the_place_of_what_was_kept() {
    let mut stage = refused_put(small());
    refuse_for(&mut stage, secs(60));
    stage.put(Put { replication: 2, ..quiet(1, b"next") });
    for _ in 0..600 {
        for (conn, rpc, copy) in stage.copies() {
            assert_eq!(copy.value(), b"next");
            stage.reply(conn, rpc, stored(&copy));
        }
        stage.pass(secs(1));
    }
}

/// Section 1, rule 6: the earlier one is kept no more once a later one was taken, or it would be
/// read again while it is tried again.
#[test]
fn a_put_that_was_put_again_meanwhile_is_not_kept() {
    let mut stage = refused_put(Params { serving: Serving::No, ..small() });
    refuse_for(&mut stage, secs(9));
    stage.put(Put { ttl: 3_600, replication: 2, ..quiet(1, b"next") });
    refuse_for(&mut stage, secs(8));
    for second in 17..25 {
        let reader = stage.get(key(1));
        assert_eq!(stage.answer(reader), success(1, b"next"), "after {second} s");
        stage.pass(secs(1));
    }
}

/// It would be woken turn after turn, and find no room each time.
#[test]
fn a_kept_put_that_is_due_waits_while_clients_take_all_the_room() {
    let mut stage = refused_put(small());
    refuse_for(&mut stage, secs(13));
    for n in 0..CLIENT_REQUESTS_MAX {
        let mut key = [2; 32];
        key[30..].copy_from_slice(&u16::try_from(n).expect("a small bound").to_be_bytes());
        stage.put(Put { key: dht::id::Key::new(key), replication: 2, ttl: 3_600, ..quiet(2, b"v") });
        stage.pass(Duration::from_millis(1));
    }
    let of_key_1 = |stage: &mut Stage| stage.copies().iter().any(|(_, _, copy)| copy.key == key(1));
    for _ in 0..5 {
        stage.pass(secs(1));
        assert!(!stage.node.wants_requests() && !of_key_1(&mut stage));
    }
    let mut tried = false;
    for _ in 0..60 {
        stage.pass(secs(1));
        tried |= of_key_1(&mut stage);
    }
    assert!(tried, "there is room again");
}

/// A client holds nothing for others, but what it was told to put it does not lose.
#[test]
fn a_client_keeps_what_nobody_took_and_stores_for_nobody() {
    let mut stage = refused_put(Params { serving: Serving::No, ..small() });
    refuse_for(&mut stage, secs(30));
    assert_eq!(stage.node.storage().len(), 1);
    let asker = stage.accept_client(9);
    assert_eq!(stage.ask(asker, Request::Store(block(2, b"v"))), Reply::Error(ErrorCode::OUT_OF_SCOPE));
    assert!(!refuse_for(&mut stage, secs(300)).is_empty());
}

#[test]
fn a_put_that_has_no_room_to_be_kept_is_failed_and_gone() {
    let mut stage = Stage::among(Params { storage_bytes_max: 0, ..small() }, [1, 2]);
    let client = stage.put(Put { replication: 2, ..confirmed(1, b"v") });
    for _ in 0..10 {
        for (conn, rpc, _) in stage.copies() {
            stage.reply(conn, rpc, Reply::Error(ErrorCode::FULL));
        }
        stage.pass(secs(1));
    }
    assert_eq!(stage.answer(client), failure(1));
    assert_eq!(refuse_for(&mut stage, secs(600)), []);
    assert!(stage.node.table().contains(&id(1)));
}
